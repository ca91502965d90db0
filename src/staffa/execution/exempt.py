"""Trials that are not to be run: cancelled, or without an input they need.

That stands in their hot store's marks, like any other outcome: a batch of which nothing is left to
run is settled, and of the others a worker computes the rest. The ledger tells why; where the two
differ (a driver died between them) the ledger is right. Who is cancelled and who comes back is decided in
`staffa.execution.wishes`, who lacks an input here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.inputs import without
from staffa.campaign.plan import Plan
from staffa.execution.board import Batch, Board
from staffa.execution.tally import word_counts
from staffa.storage.books import Books
from staffa.storage.hot import HotStore
from staffa.storage.roster import read_rosters
from staffa.storage.states import State
from staffa.storage.workspace import Workspace
from staffa.trial import DIGEST_BYTES, Outcome

Lanes = Mapping[int, Outcome]
Mask = npt.NDArray[np.bool_]
Marks = npt.NDArray[np.uint8]


@dataclass
class Desk:
    """Where it is decided about trials that were not tried: by a driver, or by a command alone.

    Arguments:
    - `note`: records an event.
    - `flying`: batches that workers have.
    - `moved`: told of batches whose marks were changed: the lanes, and what stands there now.
    """

    workspace: Workspace
    plan: Plan
    stores: dict[int, HotStore]
    books: Books
    note: Callable[[dict[str, Any]], None]
    flying: Collection[Batch] = ()
    moved: Callable[[Mapping[Batch, tuple[Lanes, Marks]]], None] = lambda changed: None
    waiting: dict[Batch, dict[int, Outcome]] = field(default_factory=dict)
    """What is decided of batches that workers have, and done when they are settled."""
    _changed: dict[Batch, tuple[Lanes, Marks]] = field(default_factory=dict)

    def busy(self, batch: Batch) -> bool:
        """Whether a batch is under way: with a worker, or begun and yielded."""
        return batch in self.flying or named(batch) in self.books.segments

    def mark(self, batch: Batch, lanes: Lanes) -> None:
        """Have lanes of a batch run, or not run: at once, or when it comes back from its worker."""
        if batch in self.flying:
            self.waiting.setdefault(batch, {}).update(lanes)
        else:
            group, number = batch
            store = self.stores[group]
            self._changed[batch] = lanes, store.mark(number, lanes)[: store.seats(number)]

    def done(self) -> None:
        """Tell of the marks that were changed."""
        changed, self._changed = self._changed, {}
        if changed:
            self.moved(changed)

    def landed(self, batch: Batch) -> None:
        """A batch was settled: what was decided of it meanwhile is done now, where it still applies."""
        lanes = self.waiting.pop(batch, None)
        if lanes is None:
            return
        status = self.stores[batch[0]].status(batch[1])
        open_lanes = {lane: outcome for lane, outcome in lanes.items() if _open(status[lane])}
        if open_lanes:
            self.mark(batch, open_lanes)
            self.done()


def give_up(desk: Desk, batch: Batch, lanes: Iterable[int]) -> None:
    """Lanes of a batch that a search has no more hope for; the batch is not in flight."""
    desk.mark(batch, dict.fromkeys(lanes, Outcome.HOPELESS))
    desk.done()


def named(batch: Batch) -> str:
    """A batch as the ledger calls it."""
    return f"g{batch[0]}/{batch[1]}"


def agree(desk: Desk) -> None:
    """Run what the ledger says was readmitted and the marks call cancelled: its driver was gone too soon."""
    out = {name for name, word in desk.books.states.items() if word == State.CANCELLED}
    back = desk.books.forgiven.keys() - out
    for number, store in desk.stores.items() if back else ():
        status, size = store.status(), store.layout.batch
        admit = _among(store, back) & (status[: store.layout.trials] == Outcome.CANCELLED)
        admit &= ~_of_batches(store, out, number)
        for batch in np.unique(np.flatnonzero(admit) // size):
            lanes = np.flatnonzero(admit[int(batch) * size : (int(batch) + 1) * size])
            desk.mark((number, int(batch)), dict.fromkeys(lanes.tolist(), Outcome.MISSING))
    desk.done()


def untried(desk: Desk, chosen: Mapping[int, Mask]) -> tuple[list[str], int]:
    """Digests of trials that were never issued; and how many of the chosen ones were.

    Arguments:
    - `chosen`: for each group which of its trials.
    """
    found: list[str] = []
    issued = 0
    for batch, rows, status in _batches(desk, chosen):
        open_lanes = rows & np.isin(status, (Outcome.MISSING, Outcome.MISSING_INPUT)) & (not desk.busy(batch))
        digests = desk.stores[batch[0]].digests(batch[1])
        found += [digests[lane] for lane in np.flatnonzero(open_lanes)]
        issued += int((rows & (status != Outcome.CANCELLED) & ~open_lanes).sum())
    return found, issued


def on_board(board: Board, changed: Mapping[Batch, tuple[Lanes, Marks]]) -> None:
    """Have a board know of marks that were changed."""
    taken = {}
    for batch, (lanes, status) in changed.items():
        admitted = tuple(lane for lane, outcome in lanes.items() if outcome is Outcome.MISSING)
        if admitted:
            board.admit(batch, admitted)
        taken[batch] = [lane for lane in lanes if lane not in admitted], word_counts(status)
    board.withdraw(taken)


def check_inputs(desk: Desk) -> dict[str, int]:
    """Look for the files trials need: those without wait, those whose files came are admitted.

    Returns `missing_input` (how many wait now), `withheld` and `admitted` (how many that is news of).
    """
    found = {"missing_input": 0, "withheld": 0, "admitted": 0}
    if not desk.plan.inputs and not desk.books.counts["missing_input"]:
        return found
    for batch, lacking, status in _batches(desk, lacking_inputs(desk.workspace, desk.plan), every=True):
        size = len(lacking)
        gone = np.flatnonzero(lacking & (status == Outcome.MISSING)).tolist() if not desk.busy(batch) else []
        came = np.flatnonzero(~lacking & (status == Outcome.MISSING_INPUT)).tolist()
        if gone:
            _tell(desk, batch, "missing_input", gone)
        if came:
            _tell(desk, batch, "input_found", came)
        if gone or came:
            lanes = dict.fromkeys(gone, Outcome.MISSING_INPUT) | dict.fromkeys(came, Outcome.MISSING)
            desk.mark(batch, lanes)
        waiting = int((status[:size] == Outcome.MISSING_INPUT).sum())
        found["missing_input"] += waiting + len(gone) - len(came)
        found["withheld"] += len(gone)
        found["admitted"] += len(came)
    desk.done()
    return found


def lacking_inputs(workspace: Workspace, plan: Plan) -> dict[int, Mask]:
    """For each group which of its trials lack an input."""
    table = read_rosters(workspace.rosters, ["group", "row", *plan.inputs.names])
    columns = {name: table[name].to_numpy() for name in plan.inputs.names if name in table.column_names}
    columns = {name: _with_gaps(values, table[name].null_count) for name, values in columns.items()}
    return seated(plan, table, without(plan.inputs, columns, table.num_rows))


def seated(plan: Plan, table: Any, chosen: Mask) -> dict[int, Mask]:
    """What is true of trials in the order of the roster, by group and row.

    Arguments:
    - `table`: columns `group` and `row` of all trials.
    """
    groups, rows = table["group"].to_numpy(), table["row"].to_numpy()
    found = {number: np.zeros(group.trials, bool) for number, group in enumerate(plan.groups)}
    for number, mask in found.items():
        own = groups == number
        mask[rows[own]] = chosen[own]
    return found


def _with_gaps(values: npt.NDArray[Any], gaps: int) -> npt.NDArray[Any]:
    """A column of the roster; where some trials lack the parameter Arrow says NaN, we say None."""
    if not gaps or values.dtype == object:
        return values
    whole = values.astype(object)
    whole[np.isnan(values)] = None
    return whole


def _batches(desk: Desk, chosen: Mapping[int, Mask], *, every: bool = False) -> Iterator[tuple[Batch, Mask, Marks]]:
    """Batches with a chosen trial: which lanes these are, and what stands in the lanes' marks."""
    for number, mask in chosen.items():
        if not (every or mask.any()):
            continue
        store = desk.stores[number]
        status, size = store.status(), store.layout.batch
        for batch in range(store.layout.batches):
            rows = mask[batch * size : (batch + 1) * size]
            if every or rows.any():
                yield (number, batch), rows, status[batch * size : batch * size + len(rows)]


def _tell(desk: Desk, batch: Batch, event: str, lanes: list[int], **more: Any) -> None:
    """Note what becomes of lanes: of a whole batch in one event, otherwise of each by itself."""
    group, number = batch
    if len(lanes) == desk.stores[group].seats(number):
        desk.note({"event": event, "batch": named(batch), **more})
        return
    digests = desk.stores[group].digests(number)
    for lane in lanes:
        desk.note({**_event(event, batch, digests[lane], lane), **more})


def _event(event: str, batch: Batch, trial: str, lane: int) -> dict[str, Any]:
    return {"event": event, "trial": trial, "batch": named(batch), "lane": lane}


def _open(code: Any) -> bool:
    outcome = Outcome(int(code))
    return outcome is Outcome.MISSING or outcome.exempt


def _among(store: HotStore, names: Iterable[str]) -> Mask:
    """Which trials of a store are called so."""
    wanted = np.array([bytes.fromhex(name) for name in names if len(name) == 2 * DIGEST_BYTES], f"S{DIGEST_BYTES}")
    return np.isin(np.ascontiguousarray(store.names).view(f"S{DIGEST_BYTES}").reshape(-1), wanted)


def _of_batches(store: HotStore, names: Collection[str], group: int) -> Mask:
    """Which trials of a store are in batches called so."""
    batches = np.arange(store.layout.trials) // store.layout.batch
    wanted = [number for number in range(store.layout.batches) if named((group, number)) in names]
    return np.isin(batches, wanted)
