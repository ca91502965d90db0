"""The trials of a search, as the facts about them left them: a fold of the journal's events.

Everything that happens is an event first, and `Register.note` is the one place that acts on it: whether it happens now
or is read again after a restart makes no difference. Nothing here looks at a clock, takes a lock or writes.

    opened      {objectives, space}             somebody began, or went on, with these words
    asked       {trials, params, worker, until} handed out; `params` is null for a trial that was handed out before
    told        {trial, attempt, values}        its result
    failed      {trial, attempt, why}           one try of it brought nothing
    expired     {trial, attempt, why}           nobody was heard of during a lease: that, too, is a failed try
    brought     {params, values}                a trial that was not asked for, with its result
    cancelled   {trials, again}                 nobody is to run it, or (`again`) somebody else
    objectives  {objectives}                    what is good was changed
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.errors import ConfigError
from staffa.search.answers import Values
from staffa.search.journal import Event
from staffa.search.strategies import Told
from staffa.trial import Scalar

PENDING = "pending"
"""Handed out, and under a lease."""
WAITING = "waiting"
"""To be handed out again."""
RECORDED = "recorded"
"""Its result stands."""
QUARANTINED = "quarantined"
"""Given up after its last retry; a result that comes late is taken even so."""
CANCELLED = "cancelled"
STATES = (PENDING, WAITING, RECORDED, QUARANTINED, CANCELLED)

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class Entry:
    """One trial.

    Arguments:
    - `attempt`: how often it was handed out; 0 for one that was brought.
    - `charged`: how many tries it cost.
    - `over`: attempts that brought nothing, with the reason.
    - `row`: its row in what strategies are told; -1 where there is none.
    - `until`: when its lease runs out; only of use while it is pending.
    """

    params: dict[str, Scalar]
    state: str = PENDING
    attempt: int = 0
    charged: int = 0
    worker: str = ""
    until: float = math.inf
    row: int = -1
    values: Values | None = None
    told_by: int = 0
    why: str = ""
    over: dict[int, str] | None = None


class Register:
    """All trials by number, those that wait, the leases, and the table strategies are told.

    Arguments:
    - `retries`: how many tries a trial may cost besides the first before it is quarantined.
    """

    def __init__(self, domain: Domain, objectives: Objectives, retries: int) -> None:
        self.domain, self.objectives, self.retries = domain, objectives, retries
        self.entries: list[Entry] = []
        self.suggested = 0
        """How many came from the strategy."""
        self.counts: Counter[str] = Counter()
        self.waiting: dict[int, None] = {}
        self.workers: dict[str, set[int]] = {}
        """The pending trials of each worker."""
        self.opened: Mapping[str, Any] = {}
        """The latest event of its name."""
        self._leases: list[tuple[float, int]] = []
        self._rows: list[int] = []
        self._late = 0
        """Rows of trials that have a later one."""
        self._values: list[Values | None] = []
        self._version = 0
        self._known = 0
        """Rows that have their place and score; the rest get theirs, all at once, when somebody asks."""
        self._points: Array = np.empty((0, domain.dimension))
        self._scores: Array = np.empty((0, len(objectives.groups)))

    # --- events ---

    def note(self, event: Event) -> None:
        """Act on an event; one of an unknown name, of a later version, is passed over."""
        act = _ACTS.get(event["event"])
        if act is not None:
            act(self, event)

    def _asked(self, event: Event) -> None:
        worker, until = event["worker"], event.get("until", math.inf)
        until = math.inf if until is None else float(until)
        for number, params in zip(event["trials"], event["params"], strict=True):
            if params is not None:
                self.entries.append(Entry(params))
                self.suggested += 1
                self.counts[PENDING] += 1
            else:
                self._move(number, PENDING)
            entry = self.entries[number]
            entry.attempt += 1
            entry.worker = worker
            self.workers.setdefault(worker, set()).add(number)
            self.lease(number, until)

    def _told(self, event: Event) -> None:
        entry = self.entries[event["trial"]]
        entry.told_by = event["attempt"]
        self._record(event["trial"], entry, event)

    def _brought(self, event: Event) -> None:
        self.entries.append(Entry(event["params"]))
        self.counts[PENDING] += 1
        self._record(len(self.entries) - 1, self.entries[-1], event)

    def _record(self, number: int, entry: Entry, event: Event) -> None:
        values = event["values"]
        if any(type(value) is str for value in values.values()):
            values = {name: float(value) if isinstance(value, str) else value for name, value in values.items()}
            event["values"] = values
        entry.values, entry.why = values, event.get("why", "")
        self._move(number, RECORDED)
        self._row(number, values)

    def _failed(self, event: Event) -> None:
        number, attempt = event["trial"], event["attempt"]
        entry = self.entries[number]
        entry.over = {**(entry.over or {}), attempt: event["why"]}
        entry.why = event["why"]
        entry.charged += 1
        if entry.charged <= self.retries:
            self._move(number, WAITING)
        else:
            self._move(number, QUARANTINED)
            self._row(number, None)

    def _cancelled(self, event: Event) -> None:
        for number in event["trials"]:
            self._move(number, WAITING if event["again"] else CANCELLED)

    def _changed(self, event: Event) -> None:
        self.objectives = Objectives.read(event["objectives"], "objectives")
        self._version += 1
        self._known = 0

    def _opened(self, event: Event) -> None:
        self.opened = event

    def _move(self, number: int, state: str) -> None:
        entry = self.entries[number]
        self.counts[entry.state] -= 1
        self.counts[state] += 1
        if entry.state == PENDING and state != PENDING:
            held = self.workers.get(entry.worker, set())
            held.discard(number)
            if not held:
                self.workers.pop(entry.worker, None)
        if state == WAITING:
            self.waiting[number] = None
        else:
            self.waiting.pop(number, None)
        entry.state = state

    def _row(self, number: int, values: Values | None) -> None:
        # A late result of a trial that was given up is a row of its own: rows that a strategy saw never change.
        self._late += self.entries[number].row >= 0
        self.entries[number].row = len(self._rows)
        self._rows.append(number)
        self._values.append(values)

    # --- leases ---

    def lease(self, number: int, until: float) -> None:
        """Give a pending trial until then."""
        self.entries[number].until = until
        if until < math.inf:
            heapq.heappush(self._leases, (until, number))

    def extend(self, number: int, until: float) -> None:
        """Give a pending trial longer. Cheap: its place in the queue of leases is mended when it comes up."""
        self.entries[number].until = max(until, self.entries[number].until)

    def renew(self, until: float) -> None:
        """Give all pending trials until then."""
        pending = [number for numbers in self.workers.values() for number in numbers]
        self._leases = []
        for number in sorted(pending):
            self.lease(number, until)

    def overdue(self, now: float) -> Iterator[int]:
        """Pending trials whose lease ran out. Each has to be dealt with before the next is asked for."""
        while self._leases and self._leases[0][0] <= now:
            _, number = heapq.heappop(self._leases)
            entry = self.entries[number]
            if entry.state != PENDING:
                continue
            if entry.until <= now:
                yield number
            elif entry.until < math.inf:
                heapq.heappush(self._leases, (entry.until, number))

    # --- what stands ---

    def told(self) -> Told:
        """Places and scores of all that ended, in the order they did."""
        self._catch_up()
        count = len(self._rows)
        points, scores = self._points[:count].view(), self._scores[:count].view()
        points.flags.writeable = scores.flags.writeable = False
        return Told(points=points, scores=scores, version=self._version)

    @property
    def told_count(self) -> int:
        return len(self._rows)

    def standing(self) -> tuple[Array, list[int]]:
        """Scores of all trials with a result, in the order of being told, and their numbers."""
        scores = self.told().scores
        if not self._late:
            return scores, self._rows
        rows = [row for row, number in enumerate(self._rows) if self.entries[number].row == row]
        return scores[rows], [self._rows[row] for row in rows]

    def scores_of(self, entry: Entry) -> tuple[float, ...]:
        """A trial's score in each group; infinite for one that failed, none for one that has not ended."""
        if entry.row < 0:
            return ()
        self._catch_up()
        return tuple(self._scores[entry.row].tolist())

    def why(self, entry: Entry) -> str:
        """Why a trial is not ranked, or the last reason of one that failed."""
        if entry.values is None:
            return entry.why
        values = {name: entry.values.get(name) for name in self.objectives.names}
        return self.domain.why_not(entry.params) or self.objectives.why(values)

    def _catch_up(self) -> None:
        count = len(self._rows)
        if self._known == count:
            return
        self._points = _grown(self._points, count, self.domain.dimension)
        groups = len(self.objectives.groups)
        if self._scores.shape[1] != groups or not self._known:
            # Whoever holds the earlier ones keeps them as they were.
            self._scores = np.empty((0, groups))
        self._scores = _grown(self._scores, count, groups)
        new = slice(self._known, count)
        params = [self.entries[number].params for number in self._rows[new]]
        points, inside = placed(self.domain, params)
        scores = self.objectives.scores(self._matrix(self._values[new]))
        scores[~inside] = np.inf
        scores[[values is None for values in self._values[new]]] = np.inf
        self._points[new], self._scores[new], self._known = points, scores, count

    def _matrix(self, values: Sequence[Values | None]) -> Array:
        columns = [[None if one is None else one.get(name) for one in values] for name in self.objectives.names]
        return np.array(columns, dtype=np.float64).reshape(len(columns), len(values)).T


def placed(domain: Domain, params: Sequence[Mapping[str, Scalar]]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Points of some trials, and which of them are of this domain; the others (it was another one) get the middle.

    By columns even for one trial: a place must not depend on how many were computed together.
    """
    inside = np.ones(len(params), bool)
    try:
        return domain.encode_columns(_columns(domain, params)), inside
    except (ConfigError, KeyError, ValueError, TypeError):
        inside[:] = [not domain.why_not(one) for one in params]
        points = np.full((len(params), domain.dimension), 0.5)
        kept = [one for one, fits in zip(params, inside.tolist(), strict=True) if fits]
        if kept:
            points[inside] = domain.encode_columns(_columns(domain, kept))
        return points, inside


def _columns(domain: Domain, params: Iterable[Mapping[str, Scalar]]) -> dict[str, Any]:
    rows = list(params)
    return {name: np.asarray([one[name] for one in rows]) for name in domain.names}


def _grown(array: Array, count: int, width: int) -> Array:
    if count <= len(array):
        return array
    grown = np.empty((max(64, 2 * count), width))
    grown[: len(array)] = array
    return grown


_ACTS: dict[str, Callable[[Register, Event], None]] = {
    "opened": Register._opened,
    "asked": Register._asked,
    "told": Register._told,
    "brought": Register._brought,
    "failed": Register._failed,
    "expired": Register._failed,
    "cancelled": Register._cancelled,
    "objectives": Register._changed,
}
