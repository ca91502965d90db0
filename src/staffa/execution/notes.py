"""What the driver notes of a batch, as events of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from staffa.execution.board import Batch, Next
from staffa.execution.marks import Started
from staffa.execution.pool import Departure, Member
from staffa.storage.spans import spans
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
        "node": flight.member.node,
        "pool": flight.member.pool,
    }


def _measured(flight: Flight, receipt: Mapping[str, Any]) -> Event:
    """What a receipt tells of the time and the machine it took; memory only where it was measured."""
    seconds = receipt["seconds"]
    # A batch counts as started once its programs are there.
    queue = receipt["started"] - flight.issued - seconds.get("compile", 0.0)
    timings = {"queue": round(max(queue, 0.0), 6), **seconds}
    memory = {"memory": receipt["memory"]} if receipt.get("memory") else {}
    return {"timings": timings, "device": receipt["device"], **memory}


def _lanes(flight: Flight) -> Event:
    """The lanes that were asked for, unless it is all without data."""
    return {"lanes": spans(flight.lanes)} if flight.lanes is not None else {}


def issued(flight: Flight) -> Event:
    return _of(flight, "batch_issued") | _lanes(flight)


def yielded(flight: Flight, receipt: Mapping[str, Any]) -> Event:
    return _of(flight, "batch_yielded") | {
        **_measured(flight, receipt),
        "segment": receipt["yielded"],
        "computed": receipt["computed"],
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
    copied = ("outcomes", "bytes", "width", "programs", "computed", "compiles", "pid", "duplicate", "cpu")
    return _of(flight, "batch_settled") | {
        **_measured(flight, receipt),
        **_lanes(flight),
        "node": flight.member.node or receipt["node"],
        "failed": lanes,
        "lanes": None if flight.lanes is None else spans(flight.lanes),
        **{name: receipt[name] for name in copied},
    }


def retry_planned(flight: Flight, lanes: Sequence[int], due: float) -> Event:
    planned = {"lanes": list(lanes), "attempt": flight.attempt + 1, "due": due}
    event = _of(flight, "retry_planned") | planned
    return {name: value for name, value in event.items() if name not in ("worker", "node", "pool")}


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
