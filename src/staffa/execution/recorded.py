"""What a campaign recorded of a trial, from the hot store or from the archive, held against other values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.campaign.plan import Plan
from staffa.cells import opened, type_of
from staffa.errors import WorkspaceError
from staffa.rows import archive_layout, array_layout
from staffa.storage.archive import sealed_trials
from staffa.storage.columns import elements
from staffa.storage.hot import HotStore
from staffa.storage.layouts import ArrayLayout
from staffa.storage.roster import read_rosters
from staffa.storage.tables import Block, draw_table, item_table
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

Row = npt.NDArray[Any]
DATA = (Outcome.OK, Outcome.NAN)


@dataclass(frozen=True)
class Gap:
    """How far a trial's values are from those recorded, in one output.

    Arguments:
    - `bits`: values that differ in any bit; `beyond`: those that differ by more than the tolerance.
    - `largest`: the largest difference; infinite where only one of two is a NaN, or shapes differ.
    - `place`: of that value, counted along the output's axes (archived: row, then element).
    """

    bits: int
    beyond: int
    largest: float
    place: tuple[int, ...] = ()
    recorded: float = math.nan
    again: float = math.nan


@dataclass(frozen=True)
class Standing:
    """Where a trial of a campaign stands."""

    trial: str
    index: int
    group: int
    batch: int
    lane: int

    @property
    def batch_id(self) -> str:
        return f"g{self.group}/{self.batch}"


class Recorded:
    """A campaign's trials, and what was recorded of them.

    Arguments:
    - `archived`: what of it stands in the archive.
    """

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.workspace, self.plan = workspace, plan
        self.archived = Archived(workspace)
        self._stores: dict[int, HotStore | None] = {}

    @cached_property
    def roster(self) -> pa.Table:
        return read_rosters(self.workspace.rosters).combine_chunks()

    def store(self, group: int) -> HotStore | None:
        """A group's hot store; None where it is gone."""
        if group not in self._stores:
            own = self.plan.groups[group]
            try:
                self._stores[group] = HotStore.open(self.workspace.group(own.generation, own.name))
            except WorkspaceError:
                self._stores[group] = None
        return self._stores[group]

    def with_data(self) -> Row:
        """(trials,): whether a trial's data stand in the hot store or in the archive."""
        group, row = self.roster["group"].to_numpy(), self.roster["row"].to_numpy()
        found = pc.is_in(self.roster["trial"], self.archived.trials).to_numpy().copy()
        for number in range(len(self.plan.groups)):
            store, members = self.store(number), np.flatnonzero(group == number)
            if store is not None:
                found[members] |= np.isin(store.status()[row[members]], DATA)
        return np.asarray(found)

    def standing(self, place: int) -> Standing:
        """Where the trial in some row of the list of trials stands."""
        one = self.roster.slice(place, 1).select(["trial", "index", "group", "row"]).to_pylist()[0]
        batch, lane = divmod(one["row"], self.plan.groups[one["group"]].batch)
        return Standing(one["trial"], one["index"], one["group"], batch, lane)

    def rows(self, group: int, batch: int, lanes: Sequence[int]) -> pa.Table:
        """The list's rows of some lanes of a batch, in their order."""
        first = batch * self.plan.groups[group].batch
        own = self.roster.filter(pc.equal(self.roster["group"], group)).combine_chunks()
        return own.take(pc.index_in(pa.array([first + lane for lane in lanes]), own["row"].chunk(0)))


def stands(store: HotStore | None, batch: int) -> bool:
    """Whether a batch's data are in the hot store: committed, and not pruned."""
    if store is None or not np.isin(store.status(batch), DATA).any():
        return False
    return not store.gone(batch).all()


class Archived:
    """The trials that stand in the archive, and their rows."""

    def __init__(self, workspace: Workspace) -> None:
        self.path = workspace.archive
        self._part = {trial: part for part, trials in sealed_trials(self.path) for trial in trials}

    @property
    def trials(self) -> pa.Array:
        return pa.array(list(self._part), pa.string())

    def __contains__(self, trial: str) -> bool:
        return trial in self._part

    def outcome(self, trial: str) -> Outcome:
        """How a trial ended."""
        table = pq.read_table(self.path / "trials" / f"{self._part[trial]}.parquet", columns=["trial", "outcome"])
        word = table.filter(pc.equal(table["trial"], trial))["outcome"][0].as_py()
        return Outcome[word.upper()]

    def rows(self, table: str, trial: str) -> pa.Table:
        """A trial's rows of one table, in order."""
        path = next(self.path.glob(f"{table}/**/{self._part[trial]}.parquet"), None)
        if path is None:
            raise WorkspaceError(f"{self.path / table}: {self._part[trial]}.parquet is gone", "restore the archive")
        # The partition's columns, which stand in the path, are not of interest.
        own = pq.read_table(path, filters=[("trial", "=", trial)], partitioning=None)
        keys = [key for key in ("chain", "draw", "item") if key in own.column_names]
        return own.sort_by([(key, "ascending") for key in keys])


def hot_gaps(store: HotStore, where: Standing, outputs: Mapping[str, Row], tolerance: float) -> dict[str, Gap]:
    """A trial's values against those of the hot store."""
    found = {}
    layouts = {array.name: array for array in store.layout.arrays}
    for name, value in outputs.items():
        try:
            own = store.read(name, where.batch)[where.lane : where.lane + 1]
            if layouts[name].numeric:
                found[name] = gap(own[0], value, tolerance)
            else:
                one, two = (_column(row, layouts[name], store.layout.draws) for row in (own, value[None]))
                found[name] = column_gap(one, two, tolerance)
        except (RuntimeError, ValueError, OSError):
            # The codec cannot read a damaged shard.
            found[name] = Gap(value.size, value.size, math.inf)
    return found


def archived_gaps(
    archived: Archived, plan: Plan, where: Standing, parameters: Mapping[str, Row], outputs: Mapping[str, Row],
    tolerance: float,
) -> dict[str, Gap]:  # fmt: skip
    """A trial's values against those of the archive, by way of the same tables.

    Raises `pa.ArrowException` or `OSError` where a file of the archive cannot be read.
    """
    group, layout = plan.groups[where.group], archive_layout(plan)
    block = Block(
        [where.trial],
        np.zeros(1, np.int64),
        group.sampler,
        parameters,
        np.array([Outcome.OK], np.uint8),
        np.zeros(1, np.float32),
        {name: value[None] for name, value in outputs.items()},
        {output.name: array_layout(output) for output in group.outputs},
        plan.sampling.draws,
    )
    tables = {"draws": draw_table(block, layout), **{name: item_table(block, layout, name) for name in layout.tables}}
    found: dict[str, Gap] = {}
    for name, again in tables.items():
        own = [output.name for output in group.outputs if (output.table or "draws") == name]
        rows = archived.rows(name, where.trial) if own else again
        found |= {output: column_gap(rows[output], again[output], tolerance) for output in own}
    return found


def _column(row: Row, layout: ArrayLayout, draws: int | None) -> pa.Array:
    """What a trial has in the hot store, as Arrow has its values."""
    return opened(row, type_of(layout.type), draws or 1) if layout.whole else elements(row.reshape(-1), layout)


def column_gap(recorded: pa.Array, again: pa.Array, tolerance: float) -> Gap:
    """Two columns of a table, value by value; of lists and structs their numbers."""
    one, two = (found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found for found in (recorded, again))
    if one.type != two.type or len(one) != len(two) or not one.is_null().equals(two.is_null()):
        return Gap(len(two), len(two), math.inf)
    if pa.types.is_list(one.type):
        return _list_gap(one, two, tolerance)
    if pa.types.is_struct(one.type):
        pairs = zip(one.flatten(), two.flatten(), strict=True)
        gaps = [column_gap(first, second, tolerance) for first, second in pairs]
        worst = max(gaps, key=lambda found: (found.largest, found.bits))
        return replace(worst, bits=sum(found.bits for found in gaps), beyond=sum(found.beyond for found in gaps))
    if pa.types.is_integer(one.type) or pa.types.is_floating(one.type) or pa.types.is_boolean(one.type):
        first, second = (found.drop_null().to_numpy(zero_copy_only=False) for found in (one, two))
        return gap(first, second, tolerance)
    apart = np.flatnonzero(~pc.fill_null(pc.equal(one, two), True).to_numpy(zero_copy_only=False))
    # Of what is no number there is no telling how far it is from another.
    return Gap(len(apart), len(apart), math.inf if len(apart) else 0.0, tuple(apart[:1].tolist()))


def _list_gap(one: pa.ListArray, two: pa.ListArray, tolerance: float) -> Gap:
    lengths = pc.fill_null(pc.list_value_length(one), 0)
    if not lengths.equals(pc.fill_null(pc.list_value_length(two), 0)):
        return Gap(len(one), len(one), math.inf)
    found = column_gap(one.flatten(), two.flatten(), tolerance)
    if not found.place:
        return found
    rows = np.repeat(np.arange(len(one)), lengths.to_numpy(zero_copy_only=False))
    row = int(rows[found.place[0]])
    return replace(found, place=(row, found.place[0] - int(np.searchsorted(rows, row)), *found.place[1:]))


def gap(recorded: Row, again: Row, tolerance: float) -> Gap:
    """How far two arrays are apart, bit by bit and as numbers.

    Two values agree within the tolerance when they differ by at most `tolerance x max(1, |recorded|)`,
    or are both NaN, or are the same infinity.
    """
    if recorded.shape != again.shape or recorded.dtype != again.dtype:
        return Gap(again.size, again.size, math.inf)
    if not recorded.size:
        return Gap(0, 0, 0.0)
    bits = (_bytes(recorded) != _bytes(again)).any(axis=1)
    one, two = (values.astype(np.float64).reshape(-1) for values in (recorded, again))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one - two)
        apart[(one == two) | (np.isnan(one) & np.isnan(two))] = 0.0
        apart[np.isnan(apart)] = np.inf
        beyond = apart > tolerance * np.maximum(1.0, np.nan_to_num(np.abs(one), nan=1.0, posinf=1.0))
    worst = int(np.argmax(np.where(apart > 0, apart, bits * np.finfo(float).tiny)))
    place = tuple(int(i) for i in np.unravel_index(worst, recorded.shape))
    return Gap(int(bits.sum()), int(beyond.sum()), float(apart[worst]), place, float(one[worst]), float(two[worst]))


def _bytes(values: Row) -> Row:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), -1)
