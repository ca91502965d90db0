"""Batches that take much longer than others of their group: slow ones, and those that seem stuck.

Only the batch at the head of a worker is judged, from the moment its turn came: those behind it wait,
which is not their fault. What is typical is learned from receipts; before a group has sent any,
nothing is said of it.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from staffa.execution.notes import Flight

SLOW, STUCK = 3.0, 10.0
"""So many times the typical seconds."""
SLOW_SECONDS, STUCK_SECONDS = 10.0, 60.0
"""Never before so long: batches of a few milliseconds differ by more than that for a hundred reasons."""
REMEMBERED = 32
"""Latest receipts of a group that its typical time is the median of."""
NAMED = 8
"""Batches that are named, the worst first; the others are counted."""
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Turn:
    """A batch whose turn it is on its worker, since a Unix time."""

    group: int
    batch: str
    worker: str
    node: str
    since: float


@dataclass(frozen=True)
class Usual:
    """What batches of a group take.

    Arguments:
    - `seconds`: the median, without compiling.
    - `compiling`: the longest any of them has compiled.
    - `limit`: `execution.timeout`; 0 without one.
    """

    seconds: float
    compiling: float = 0.0
    limit: float = 0.0

    @property
    def slow(self) -> float:
        """Seconds after which a batch is slow."""
        return max(SLOW * self.seconds, SLOW_SECONDS) + self.compiling

    @property
    def stuck(self) -> float:
        """Seconds after which it seems stuck: a trial that hangs would have been ended by then."""
        return max(STUCK * self.seconds, STUCK_SECONDS, self.seconds + self.limit) + self.compiling


@dataclass(frozen=True)
class Straggler:
    """A batch that takes long; `state` is `slow` or `stuck`, times are in seconds, `since` is Unix time."""

    batch: str
    worker: str
    node: str
    since: float
    seconds: float
    typical: float
    state: str


def stragglers(turns: Iterable[Turn], usual: Mapping[int, Usual], now: float) -> list[Straggler]:
    """Those of the batches whose turn it is that take too long, the one that exceeds its group's most first."""
    found = []
    for turn in turns:
        known, spent = usual.get(turn.group), now - turn.since
        if known is not None and spent > min(known.slow, known.stuck):
            state = "stuck" if spent > known.stuck else "slow"
            typical, rounded = round(known.seconds, 3), round(spent, 1)
            found.append(Straggler(turn.batch, turn.worker, turn.node, turn.since, rounded, typical, state))
    return sorted(found, key=lambda one: one.seconds / max(one.typical, 1e-3), reverse=True)


class Watch:
    """What is typical, as receipts tell it, and who takes longer now.

    Arguments:
    - `limit`: `execution.timeout`, in seconds.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit or 0.0
        self._seen: dict[int, deque[float]] = {}
        self._compiling: dict[int, float] = {}
        self._told: dict[str, float] = {}
        """When a worker's latest receipt came, by address."""
        self._facts: dict[str, Any] = {"slow": 0, "stuck": 0, "batches": []}
        self._looked = -math.inf

    def note(self, flight: Flight, receipt: Mapping[str, Any], now: float) -> None:
        """A receipt came: it is the next batch's turn on that worker."""
        self._told[flight.member.address] = now
        if receipt["yielded"] is None and flight.lanes is None and not receipt["duplicate"]:
            group, compiling = flight.batch[0], float(receipt["seconds"].get("compile", 0.0))
            # `started` is when its programs were there.
            self._seen.setdefault(group, deque(maxlen=REMEMBERED)).append(receipt["finished"] - receipt["started"])
            self._compiling[group] = max(compiling, self._compiling.get(group, 0.0))

    def facts(self, flights: Collection[Flight], now: float) -> dict[str, Any]:
        """`slow` and `stuck`: how many; `batches`: the worst of them. Looked at every other second."""
        if not flights or not 0 <= now - self._looked < LOOK_SECONDS:
            self._looked = now
            found = stragglers(self._turns(flights), self._usual(), now)
            stuck = sum(one.state == "stuck" for one in found)
            worst = [asdict(one) for one in found[:NAMED]]
            self._facts = {"slow": len(found) - stuck, "stuck": stuck, "batches": worst}
        return self._facts

    def _usual(self) -> dict[int, Usual]:
        return {
            group: Usual(statistics.median(seen), self._compiling[group], self._limit)
            for group, seen in self._seen.items()
        }

    def _turns(self, flights: Iterable[Flight]) -> Iterator[Turn]:
        first: dict[str, Flight] = {}
        for flight in flights:
            address = flight.member.address
            if not flight.is_seal and (address not in first or flight.issued < first[address].issued):
                first[address] = flight
        for address, flight in first.items():
            since = max(flight.issued, self._told.get(address, 0.0))
            group, number = flight.batch
            yield Turn(group, f"g{group}/{number}", address, flight.member.node, since)
