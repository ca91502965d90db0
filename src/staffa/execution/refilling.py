"""Where the next batches of a search come from: asked for as soon as a worker has room, by what is known by then.

Everything stands in two places: what was asked for in the journal, before anything is done with it, and in the hot
store beside the batch's data. A driver that takes over reads the journal, makes the stores agree with it, and goes on
with the trial after the last; so does one that finds no journal, from the stores alone.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from staffa.campaign.asking import Asking
from staffa.campaign.domain import Domain
from staffa.campaign.model import CampaignConfig
from staffa.campaign.objectives import Objectives
from staffa.campaign.plan import Plan, Rows
from staffa.errors import ConfigError
from staffa.execution.board import Batch, Board
from staffa.execution.exempt import named
from staffa.execution.prepare import Built, strategy_of
from staffa.execution.tally import batch_key
from staffa.rows import objective
from staffa.search.fresh import Fresh
from staffa.search.halving import Halving
from staffa.search.strategies import Strategy, Told
from staffa.seeds import key_words
from staffa.storage.books import Books
from staffa.storage.hot import HotStore, committed_batches
from staffa.storage.roster import hexadecimal, write_roster
from staffa.storage.spans import spans, unspan
from staffa.storage.states import State
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

ROSTER_SECONDS = 2.0
ROSTER_SHARE = 0.02
"""The list of trials is written anew at most every two seconds, and in at most 2 % of the time."""

Row = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]
Note = Callable[[dict[str, Any]], None]


class Refill(Protocol):
    """What gives a run more to do once all that it knows of is under way."""

    def begin(self, board: Board, note: Note) -> None:
        """Have the board know which batches there are, before what is in the stores is counted.

        Arguments:
        - `note`: records an event, now and later.
        """

    def more(self, board: Board) -> bool:
        """Ask for another batch; whether there is one on the board now."""

    def settled(self, batch: Batch, board: Board) -> None:
        """A batch was committed, or came to nothing."""

    def compared(self, batch: Batch, segments: int) -> Collection[int]:
        """Lanes of a batch that are not worth going on with, after so many segments."""

    def change(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Something else is good from now on; returns `done` with the `objectives`, or `why` it is not."""

    def facts(self) -> dict[str, Any]:
        """What the run's figures say of it."""

    def tick(self, now: float) -> None:
        """What is due now and then."""

    def close(self) -> None:
        """The run ends: what readers go by is brought up to date."""


class Listed:
    """Everything is listed before it runs."""

    def begin(self, board: Board, note: Note) -> None:
        pass

    def more(self, board: Board) -> bool:
        return False

    def settled(self, batch: Batch, board: Board) -> None:
        pass

    def compared(self, batch: Batch, segments: int) -> Collection[int]:
        return ()

    def change(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        return {"done": False, "why": "the campaign is no search"}

    def facts(self) -> dict[str, Any]:
        return {}

    def tick(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Seat:
    """A batch that was asked for.

    Arguments:
    - `places`: which of the search's trials its lanes are; `points`: (lanes, dimension) in the unit cube, NaN where
      a trial does not lie in the space any more: that has become another one.
    - `rows`: its trials, at `at` among them; `replicates`: of each how often its point was asked for before.
    - `base`: (lanes, 16) what they would be called, had they been asked for once.
    """

    places: tuple[int, ...]
    points: npt.NDArray[np.float64]
    rows: Rows
    at: npt.NDArray[np.int64]
    replicates: tuple[int, ...]
    base: npt.NDArray[np.uint8]

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        return self.rows.digests[self.at]


@dataclass
class Knowledge:
    """What was told so far, in buffers that grow.

    Arguments:
    - `values`: (trials, objectives), NaN for what there is nothing of; `scores` are made of them.
    - `version`: how often other objectives made others of them.
    """

    dimension: int
    objectives: Objectives
    points: Row = field(init=False)
    values: Row = field(init=False)
    scores: Row = field(init=False)
    count: int = 0
    version: int = 0

    def __post_init__(self) -> None:
        self.points = np.empty((64, self.dimension))
        self.values = np.full((64, len(self.objectives.all)), np.nan)
        self.scores = np.empty((64, len(self.objectives.groups)))

    def add(self, points: Row, values: Row) -> None:
        end = self.count + len(points)
        while end > len(self.points):
            self.points = np.concatenate([self.points, np.empty_like(self.points)])
            self.values = np.concatenate([self.values, np.full_like(self.values, np.nan)])
            self.scores = np.concatenate([self.scores, np.empty_like(self.scores)])
        new = slice(self.count, end)
        self.points[new], self.values[new], self.scores[new] = points, values, self.objectives.scores(values)
        self.count = end

    def rescore(self, objectives: Objectives) -> None:
        self.objectives, self.scores = objectives, objectives.scores(self.values)
        self.version += 1

    def told(self) -> Told:
        return Told(self.points[: self.count], self.scores[: self.count], self.version)


class Searching:
    """A search as its driver sees it."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        stores: Mapping[int, HotStore],
        books: Books,
        asking: Asking,
        objectives: Objectives,
        strategy: Strategy,
        halving: Halving | None = None,
    ) -> None:
        assert plan.search is not None
        self.workspace, self.plan, self.stores, self.books = workspace, plan, stores, books
        self.asking, self.objectives = asking, objectives
        self._fresh = Fresh(asking.domain, strategy)
        self._note: Note = lambda event: None
        self.seats: dict[Batch, Seat] = {}
        self._left = plan.search.trials
        """Trials that may still be asked for."""
        self._know = Knowledge(asking.domain.dimension, objectives)
        self._free: list[deque[int]] = [deque(range(group.batches)) for group in plan.groups]
        self._asked: list[list[tuple[int, Columns]]] = [[] for _ in plan.groups]
        """By group what was asked for and has no seat yet: place and parameters."""
        self.owed: deque[Batch] = deque()
        """Batches that the journal knows, and that a full disk kept from the store."""
        self._lost: deque[int] = deque()
        """Places that a driver before had asked for, and that never came to a seat."""
        self._next = 0
        self._repeats: Counter[bytes] = Counter()
        """How often a point was asked for, by its trial's name."""
        self._told: dict[Batch, npt.NDArray[np.bool_]] = {}
        self._halving = halving
        self._roster = _RosterFile(workspace, plan)

    # --- what stands already ---------------------------------------------------------------------------

    def begin(self, board: Board, note: Note) -> None:
        self._note = note
        self._read()
        self._adopt_unheard()
        taken = {place for seat in self.seats.values() for place in seat.places}
        self._lost = deque(place for place in range(self._next) if place not in taken)
        board.reserve(batch for group, free in enumerate(self._free) for batch in ((group, b) for b in free))
        if not self._left:
            board.release()
        self._remember()
        for name in dict.fromkeys([*self.books.came, *map(named, self.seats)]):
            if batch_key(name) in self.seats:
                self._tell(batch_key(name), final=False)

    def _read(self) -> None:
        """Take up what the journal says was asked for, and have the stores agree."""
        asked = self.books.asked
        if not asked:
            return
        names = self.asking.domain.names
        values = {name: [value for one in asked.values() for value in one["points"][name]] for name in names}
        columns = {name: value_column(own) for name, own in values.items()}
        replicates = [n for one in asked.values() for n in (one["replicates"] or [0] * len(one["points"][names[0]]))]
        points, rows = _coordinates(self.asking.domain, columns), self.asking.rows(columns, replicates)
        base = self.asking.rows(columns).digests if any(replicates) else rows.digests
        start = 0
        for name, one in asked.items():
            batch, places = batch_key(name), tuple(unspan(one["places"]))
            at = np.arange(start, start + len(places))
            start += len(places)
            self._take(batch, Seat(places, points[at], rows, at, tuple(replicates[at[0] : start]), base[at]))

    def _remember(self) -> None:
        """What was compared before: of whoever came as far later fewer go on."""
        if self._halving is None:
            return
        for (group, number), seat in self.seats.items():
            for segments in self.stores[group].layout.rungs:
                found = self.stores[group].compared(number, segments)[: len(seat.places)]
                lanes = np.flatnonzero(~np.isnan(found).all(axis=1)).tolist()
                self._halving.remember(segments, (group, number), lanes, self.objectives.scores(found[lanes]))

    def _adopt_unheard(self) -> None:
        """Batches that are committed, of which no journal tells that they were asked for."""
        for group, store in self.stores.items():
            for number in sorted(committed_batches(store)):
                if (group, number) in self.seats:
                    continue
                if not self._adopted(group, number, store):
                    # Parameters that never reached the disk: nobody can say what was computed.
                    store.reset(number)

    def _adopted(self, group: int, number: int, store: HotStore) -> bool:
        identity, columns = store.inputs(number)
        own = self._own_columns(group, columns, len(identity))
        if not len(identity) or own is None:
            return False
        replicates = tuple(columns["replicate"].tolist())
        rows = self.asking.rows(own, replicates)
        if not np.array_equal(key_words(rows.digests), identity):
            return False
        first = self._next
        points, base = self.asking.domain.encode_columns(own), self.asking.rows(own).digests
        seat = Seat(tuple(range(first, first + len(identity))), points, rows, rows.kept, replicates, base)
        self._say(group, number, seat.places, own, replicates)
        self._take((group, number), seat)
        return True

    def _own_columns(self, group: int, columns: Mapping[str, Any], count: int) -> Columns | None:
        """What the search varies, of the parameters beside a batch; None where one of them is not there."""
        names, static = self.asking.domain.names, self.plan.groups[group].static
        known = {**{name: np.array([value] * count) for name, value in static.items()}, **columns}
        if any(name not in known for name in names):
            return None
        return {name: value_column(known[name].tolist()) for name in names}

    def _take(self, batch: Batch, seat: Seat) -> None:
        group, number = batch
        if batch in self.seats:  # a full disk had this begun anew
            return
        if number in self._free[group]:
            self._free[group].remove(number)
        if not np.array_equal(self.stores[group].identity(number), key_words(seat.digests)):
            self._seat(batch, seat)
        self.seats[batch] = seat
        self._next = max(self._next, seat.places[-1] + 1)
        self._fresh.add(seat.points[~np.isnan(seat.points[:, 0])])
        self._repeats.update(map(bytes, seat.base))
        self._left = max(self._left - len(seat.places), 0)
        self._roster.add(batch, seat)

    # --- asking ------------------------------------------------------------------------------------------

    def more(self, board: Board) -> bool:
        if self.owed:
            batch = self.owed[0]
            self.write_seats()
            board.seat(batch)
            return True
        while True:
            group = next((n for n, own in enumerate(self._asked) if len(own) >= self.plan.groups[n].batch), None)
            if group is None and not self._left:
                group = next((n for n, own in enumerate(self._asked) if own), None)
                if group is None:
                    board.release()
                    return False
            if group is not None:
                board.seat(self._seated(group))
                return True
            self._ask(min(self._left, self.plan.groups[0].batch))

    def _ask(self, count: int) -> None:
        self._left -= count
        told, places = self._know.told(), [self._place() for _ in range(count)]
        for first, length in _runs(places):
            columns = self._fresh.suggest(first, length, told)
            # A batch's trials are made when it is seated; before, only where there is a choice.
            groups = self.asking.rows(columns).group.tolist() if len(self.plan.groups) > 1 else [0] * length
            for row, group in enumerate(groups):
                one = {name: values[row : row + 1] for name, values in columns.items()}
                self._asked[group].append((first + row, one))

    def _place(self) -> int:
        if self._lost:
            return self._lost.popleft()
        self._next += 1
        return self._next - 1

    def _seated(self, group: int) -> Batch:
        """Give the trials of a group that have no seat yet a batch."""
        size = self.plan.groups[group].batch
        chosen, self._asked[group] = sorted(self._asked[group][:size], key=_place_of), self._asked[group][size:]
        columns = {name: np.concatenate([one[name] for _, one in chosen]) for name in self.asking.domain.names}
        return self.seat(group, tuple(place for place, _ in chosen), columns)

    def seat(self, group: int, places: tuple[int, ...], columns: Columns) -> Batch:
        """Give trials at some points the next batch of a group; what is said of it stands in the journal first.

        Arguments:
        - `places`: which of the search's trials they are, ascending; `columns`: what the search varies, (places,) each.

        Raises `OSError` when the disk is full: where the journal does not know of the batch by then, nothing happened;
        otherwise `write_seats` is to be called again.
        """
        rows = self.asking.rows(columns)
        base, replicates = rows.digests, self._replicates(map(bytes, rows.digests))
        if any(replicates):
            rows = self.asking.rows(columns, replicates)
        batch = group, self._free[group][0]
        seat = Seat(places, _coordinates(self.asking.domain, columns), rows, rows.kept, replicates, base)
        self._say(*batch, places, columns, replicates)
        self._free[group].popleft()
        self._repeats.update(map(bytes, base))
        self.seats[batch] = seat
        self._roster.add(batch, seat)
        self.owed.append(batch)
        self.write_seats()
        return batch

    def write_seats(self) -> None:
        """Have the stores know of every batch that the journal knows. Raises `OSError` when the disk is full."""
        while self.owed:
            self._seat(self.owed[0], self.seats[self.owed[0]])
            self.owed.popleft()

    def _replicates(self, names: Iterable[bytes]) -> tuple[int, ...]:
        """Of each point how often it was asked for before."""
        here, found = Counter[bytes](), []
        for name in names:
            found.append(self._repeats[name] + here[name])
            here[name] += 1
        return tuple(found)

    def _say(
        self, group: int, number: int, places: Iterable[int], columns: Columns, replicates: tuple[int, ...]
    ) -> None:
        points = {name: values.tolist() for name, values in columns.items()}
        event = {"event": "trials_asked", "batch": named((group, number)), "places": spans(places), "points": points}
        self._note(event | ({"replicates": list(replicates)} if any(replicates) else {}))

    def _seat(self, batch: Batch, seat: Seat) -> None:
        group, number = batch
        store, digests = self.stores[group], seat.digests
        names = [name for name in store.layout.attributes["parameters"] if name != "replicate"]
        columns = {name: seat.rows.column(name, seat.at) for name in names}
        columns["replicate"] = np.array(seat.replicates, np.int64)
        store.seat(number, key_words(digests), [text.decode() for text in hexadecimal(digests)], columns)

    # --- telling -----------------------------------------------------------------------------------------

    def settled(self, batch: Batch, board: Board) -> None:
        self._tell(batch, final=board.is_settled(batch))

    def _tell(self, batch: Batch, *, final: bool) -> None:
        """Have the strategy know of the trials of a batch that have data; where it is final, of those without, too."""
        group, number = batch
        seat, store = self.seats[batch], self.stores[group]
        status = store.status(number)[: len(seat.places)]
        data = (status == Outcome.OK) | (status == Outcome.NAN)
        gone = (status != Outcome.MISSING) & ~data
        exempt = (status >= Outcome.CANCELLED) & (status != Outcome.PADDING)
        before = self._told.setdefault(batch, np.zeros(len(status), bool))
        over = gone if final else exempt | self._given_up(batch, gone & ~exempt & ~before)
        fresh = (data | over) & ~before
        if not fresh.any():
            return
        values = self._values(batch, data & fresh)
        before |= fresh
        fresh &= ~np.isnan(seat.points[:, 0])
        self._know.add(seat.points[fresh], np.where(data[:, None], values, np.nan)[fresh])

    def _given_up(self, batch: Batch, lanes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which of some lanes without data will not be tried again."""
        found = np.zeros_like(lanes)
        if lanes.any():
            digests, name = self.stores[batch[0]].digests(batch[1]), named(batch)
            for lane in np.flatnonzero(lanes).tolist():
                found[lane] = self.books.state(digests[lane], name) == State.QUARANTINED
        return found

    def _values(self, batch: Batch, lanes: npt.NDArray[np.bool_]) -> Row:
        """(trials, objectives) of a batch; made anew where its worker was killed before it wrote them."""
        group, number = batch
        store = self.stores[group]
        found = store.scores(number)
        there = lanes & ~store.gone(number)[: len(lanes)]
        if there.any() and (found is None or np.isnan(found[: len(lanes)][lanes]).all()):
            found = objective.values(self.plan, self.plan.groups[group], store, number)
            with contextlib.suppress(OSError):  # a full disk: they can be made again
                store.score(number, found)
        return np.full((len(lanes), self._know.values.shape[1]), np.nan) if found is None else found[: len(lanes)]

    def compared(self, batch: Batch, segments: int) -> Collection[int]:
        if self._halving is None:
            return ()
        group, number = batch
        found = self.stores[group].compared(number, segments)
        fresh = np.flatnonzero(self.stores[group].status(number)[: len(self.seats[batch].places)] == Outcome.MISSING)
        hopeless = self._halving.judge(segments, batch, fresh.tolist(), self.objectives.scores(found[fresh]))
        self._note({"event": "trials_judged", "batch": named(batch), "segment": segments, "hopeless": spans(hopeless)})
        return hopeless

    def change(self, patch: Mapping[str, Any]) -> dict[str, Any]:
        try:
            objectives = self.objectives.changed(patch)
        except ConfigError as error:
            return {"done": False, "why": error.message}
        if objectives != self.objectives:
            self.objectives = objectives
            self._know.rescore(objectives)
            if self._halving is not None:
                self._halving.forget()
                self._remember()
            self._note({"event": "objectives_changed", "objectives": objectives.words()})
        return {"done": True, "objectives": objectives.words()}

    # --- readers -----------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        assert self.plan.search is not None
        return {"asked": self.plan.search.trials - self._left, "batches": len(self.seats)}

    def tick(self, now: float) -> None:
        self._roster.tick(now)

    def close(self) -> None:
        self._roster.write()


class _RosterFile:
    """The list of trials, written anew as it grows: a copy for readers, the journal has it all."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        # All generations are one search, and their trials one list.
        self._path, self._parameters = workspace.trials(0), plan.parameters
        self._pieces: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("digest", "group", "row", "replicate")}
        self._pieces |= {name: [] for name, _ in plan.parameters}
        self._sizes = [group.batch for group in plan.groups]
        self._new: list[tuple[Batch, Seat]] = []
        self._changed = False
        """Whether the pieces have more than the file: a full disk may have kept it from being written."""
        self._due = 0.0

    def add(self, batch: Batch, seat: Seat) -> None:
        self._new.append((batch, seat))

    def tick(self, now: float) -> None:
        if (self._new or self._changed) and now >= self._due:
            began = time.monotonic()
            self.write()
            self._due = now + max(ROSTER_SECONDS, (time.monotonic() - began) / ROSTER_SHARE)

    def write(self) -> None:
        # Those that were read from a journal share their rows: their columns are made once.
        for _, own in groupby(self._new, lambda one: id(one[1].rows)):
            self._enter(list(own))
            self._changed = True
        self._new.clear()
        if not self._changed:
            return
        whole = {name: _joined(pieces) for name, pieces in self._pieces.items()}
        for name, values in whole.items():
            self._pieces[name] = [values]
        columns = {name: ("int", whole[name]) for name in ("group", "row", "replicate")}
        columns |= {name: (kind, whole[name]) for name, kind in self._parameters}
        write_roster(self._path, whole["digest"], columns)
        self._changed = False

    def _enter(self, seated: list[tuple[Batch, Seat]]) -> None:
        rows, at = seated[0][1].rows, np.concatenate([seat.at for _, seat in seated])
        firsts = [np.arange(len(seat.at)) + number * self._sizes[group] for (group, number), seat in seated]
        piece = {name: rows.column(name, at) for name, _ in self._parameters}
        piece["group"] = np.concatenate([np.full(len(seat.at), group) for (group, _), seat in seated])
        piece |= {"digest": rows.digests[at], "row": np.concatenate(firsts)}
        piece["replicate"] = np.array([number for _, seat in seated for number in seat.replicates], np.int64)
        for name, values in piece.items():
            self._pieces[name].append(values)


def _joined(pieces: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Pieces of a column; where a parameter is absent from some they are objects."""
    if len({piece.dtype for piece in pieces}) > 1:
        pieces = [piece.astype(object) for piece in pieces]
    return np.concatenate(pieces)


def value_column(values: list[Any]) -> npt.NDArray[Any]:
    """Values of a parameter, texts as objects."""
    return np.array(values, object) if values and isinstance(values[0], str) else np.array(values)


def _coordinates(domain: Domain, columns: Columns) -> Row:
    """(n, dimension) coordinates of trials; NaN where one does not lie in the domain any more."""
    inside = domain.feasible(columns)
    points = np.full((len(inside), domain.dimension), np.nan)
    points[inside] = domain.encode_columns({name: values[inside] for name, values in columns.items()})
    return points


def _place_of(asked: tuple[int, Columns]) -> int:
    return asked[0]


def _runs(places: list[int]) -> Iterable[tuple[int, int]]:
    """Places in a row: first and how many."""
    first = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1:
            yield places[first], end - first
            first = end


def refill_of(
    workspace: Workspace, config: CampaignConfig, plan: Plan, stores: Mapping[int, HotStore], books: Books
) -> Refill:
    """Where a campaign's next batches come from."""
    if config.search is None:
        return Listed()
    search, asking = config.search, Asking(config, plan, Built(workspace.code).offer)
    strategy = strategy_of(config)
    objectives, prune = Objectives.read(books.objectives or search.objectives), search.prune
    halving = Halving(prune.keep, prune.least) if prune is not None else None
    return Searching(workspace, plan, stores, books, asking, objectives, strategy, halving)
