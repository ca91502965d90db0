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
from staffa.errors import WorkspaceError
from staffa.execution.reduce import archive_layout, array_layout
from staffa.storage.archive import sealed_trials
from staffa.storage.hot import HotStore
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
    sums = store.checksums(batch)
    shards = [
        (store.chunk(array.name, batch, segment), sums[segment, number])
        for number, array in enumerate(store.layout.arrays)
        for segment in range(store.layout.segments)
    ]
    # A shard that is all fill is never stored, and its checksum is 0.
    return not any(recorded and not path.exists() for path, recorded in shards) or any(p.exists() for p, _ in shards)


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
    for name, value in outputs.items():
        try:
            found[name] = gap(np.asarray(store.read(name, where.batch)[where.lane]), value, tolerance)
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
        plan.sampling.draws is not None,
    )
    tables = {"draws": draw_table(block, layout), **{name: item_table(block, layout, name) for name in layout.tables}}
    found: dict[str, Gap] = {}
    for name, again in tables.items():
        own = [output.name for output in group.outputs if (output.table or "draws") == name]
        rows = archived.rows(name, where.trial) if own else again
        found |= {output: column_gap(rows[output], again[output], tolerance) for output in own}
    return found


def column_gap(recorded: pa.ChunkedArray, again: pa.ChunkedArray, tolerance: float) -> Gap:
    """Two columns of a table, value by value."""
    one, two = recorded.combine_chunks(), again.combine_chunks()
    if not pa.types.is_list(one.type):
        return gap(one.to_numpy(zero_copy_only=False), two.to_numpy(zero_copy_only=False), tolerance)
    lengths = pc.list_value_length(one)
    if not lengths.equals(pc.list_value_length(two)):
        return Gap(len(one), len(one), math.inf)
    first, second = (values.flatten().to_numpy(zero_copy_only=False) for values in (one, two))
    found = gap(first, second, tolerance)
    if not found.place:
        return found
    rows = np.repeat(np.arange(len(one)), lengths.to_numpy(zero_copy_only=False))
    row = int(rows[found.place[0]])
    return replace(found, place=(row, found.place[0] - int(np.searchsorted(rows, row))))


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
