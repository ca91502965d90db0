"""What the driver notes of a batch, as events of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from staffa.execution.board import Batch, Next
from staffa.execution.marks import Started
from staffa.execution.pool import Departure, Member
from staffa.trial import Outcome

Event = dict[str, Any]


@dataclass(frozen=True)
class Flight:
    """A batch, or a seal, that was handed to a worker."""

    member: Member
    future: Any
    issued: float
    batch: Batch = (-1, -1)
    next: Next | None = None
    part: int = -1

    @property
    def is_seal(self) -> bool:
        return self.next is None

    @property
    def attempt(self) -> int:
        return self.next.attempt if self.next is not None else 0

    @property
    def lanes(self) -> tuple[int, ...] | None:
        return self.next.lanes if self.next is not None else None


def _of(flight: Flight, event: str) -> Event:
    return {
        "event": event,
        "batch": f"g{flight.batch[0]}/{flight.batch[1]}",
        "attempt": flight.attempt,
        "worker": flight.member.address,
    }


def issued(flight: Flight) -> Event:
    return _of(flight, "batch_issued")


def yielded(flight: Flight, receipt: Mapping[str, Any]) -> Event:
    return _of(flight, "batch_yielded") | {
        "node": flight.member.node,
        "segment": receipt["yielded"],
        "computed": receipt["computed"],
        "timings": receipt["seconds"],
    }


def settled(
    flight: Flight,
    receipt: Mapping[str, Any],
    failed: Mapping[int, Outcome],
    charged: Collection[int],
    digests: Sequence[str],
    messages: Mapping[int, str],
) -> Event:
    """A batch was committed.

    Arguments:
    - `failed`: its lanes without data; `charged`: those of them that this attempt answers for.
    """
    lanes = [
        {"lane": lane, "trial": digests[lane], "outcome": outcome.word, "message": messages.get(lane, "")}
        for lane, outcome in failed.items()
        if lane in charged
    ]
    copied = ("outcomes", "bytes", "width", "computed", "device", "compiles", "pid", "duplicate", "cpu")
    return _of(flight, "batch_settled") | {
        "node": flight.member.node or receipt["node"],
        "pool": flight.member.pool,
        "failed": lanes,
        "timings": {"queue": max(receipt["started"] - flight.issued, 0.0), **receipt["seconds"]},
        **{name: receipt[name] for name in copied},
    }


def retry_planned(flight: Flight, lanes: Sequence[int], due: float) -> Event:
    planned = {"lanes": list(lanes), "attempt": flight.attempt + 1, "due": due}
    event = _of(flight, "retry_planned") | planned
    del event["worker"]
    return event


def quarantined(flight: Flight, lane: int, trial: str, outcome: Outcome, message: str, attempts: int) -> Event:
    return {
        "event": "quarantined",
        "trial": trial,
        "batch": f"g{flight.batch[0]}/{flight.batch[1]}",
        "lane": lane,
        "outcome": outcome.word,
        "message": message,
        "attempts": attempts,
    }


def lost(flight: Flight, reason: str, charged: bool = False, started: Started | None = None) -> Event:
    """A batch did not come back; `started` is what its worker had on the device."""
    blamed = charged and started is not None and started.lanes
    lanes = [min(started.lanes), max(started.lanes) + 1] if blamed and started else None
    late = charged and started is not None and started.timed_out
    return _of(flight, "batch_lost") | {
        "node": flight.member.node,
        "reason": "ran past execution.timeout" if late else reason,
        "charged": charged,
        "lanes": lanes,
    }


def worker_left(member: Member, departure: Departure, since: float, lost_seconds: float) -> Event:
    return {
        "event": "worker_left",
        "at": since,
        **asdict(member),
        "reason": departure.reason,
        "expected": departure.expected,
        "certain": departure.certain,
        "lost": round(lost_seconds, 3),
    }
