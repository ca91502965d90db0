"""From a batch's shards to rows of the archive, for whoever seals a part and whoever looks before one is sealed.

A batch is read segment by segment, only the trials that have data, checked against its checksums; its draws are
flattened and every trial is summarised. What comes out is what stands in the archive afterwards, column by column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from staffa.campaign.plan import Group, Part, Plan
from staffa.experiment.diagnostics import FEWEST_DRAWS, diagnosed
from staffa.storage.archive import partition_path
from staffa.storage.books import Books
from staffa.storage.extracts import ExtractLayout
from staffa.storage.hot import HotStore
from staffa.storage.layouts import ArrayLayout
from staffa.storage.rereading import Rows, SealedFileRows, rebuilt
from staffa.storage.roster import hexadecimal
from staffa.storage.tables import (
    ArchiveLayout,
    Block,
    Moments,
    block_moments,
    diagnosed_columns,
    draw_table,
    extracted_columns,
    item_table,
    trial_table,
)
from staffa.trial import Outcome

TRIALS = "trials"
"""Among a batch's tables the columns of the table of trials that moments do not give."""


@dataclass
class Piece:
    """One segment of one batch in memory, or the word that it is damaged."""

    batch: int
    lanes: Any
    block: Block | None
    damaged: tuple[str, ...] = ()

    def __sizeof__(self) -> int:
        return 1 << 10


@dataclass
class Summary:
    piece: Piece
    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class Tries:
    """What the books know of a batch's trials: by lane the attempts where more than one was needed, and the node."""

    attempts: Mapping[int, int] = field(default_factory=dict)
    node: str = ""


def tries_of(books: Books, store: HotStore, batch: tuple[int, int]) -> Tries:
    """What the books say of a batch, given as (group, batch)."""
    name = f"g{batch[0]}/{batch[1]}"
    attempts: dict[int, int] = {}
    if books.attempts(name) > 1:
        trials = enumerate(store.digests(batch[1]))
        attempts = {lane: len(books.failures[trial]) + 1 for lane, trial in trials if trial in books.failures}
    return Tries(attempts, books.nodes.get(name, ""))


def archive_layout(plan: Plan) -> ArchiveLayout:
    """The archive's columns, from the plan."""
    outputs = tuple(array_layout(output) for output in plan.outputs())
    extracts = tuple(ExtractLayout(**asdict(extract)) for extract in plan.extracts())
    about = {name: said.said for name, said in plan.about.items()}
    return ArchiveLayout(
        plan.parameters, outputs, plan.partition_by, plan.summaries, plan.diagnosed, plan.identity, extracts, about
    )


def array_layout(output: Any) -> ArrayLayout:
    """How an output is laid out on disk."""
    return ArrayLayout(**{each.name: getattr(output, each.name) for each in fields(ArrayLayout)})


def with_data(store: HotStore, group: Group, batch: int, lanes: Collection[int] | None = None) -> Any:
    """Lanes of a batch whose data are committed, of these (or of all), in order."""
    status = store.status(batch)[: group.size(batch)]
    chosen = (status == Outcome.OK) | (status == Outcome.NAN)
    if lanes is not None:
        chosen &= np.isin(np.arange(len(status)), sorted(lanes))
    return np.flatnonzero(chosen)


def read(
    store: HotStore,
    group: Group,
    batch: int,
    segment: int,
    lanes: Collection[int] | None = None,
    *,
    outputs: Collection[str] | None = None,
    checked: bool = True,
) -> Piece:
    """Read one segment of a batch, only the trials that have data, checked against its checksums.

    Arguments:
    - `lanes`: only these; by default all.
    - `outputs`: only these; by default all.
    - `checked`: whether shards are held against their checksums, which reads each of them whole.
    """
    chosen = with_data(store, group, batch, lanes)
    bad = _damaged(store, batch, segment) if checked and len(chosen) else ()
    return Piece(batch, chosen, None, bad) if bad else written(store, group, batch, segment, chosen, outputs)


def written(
    store: HotStore, group: Group, batch: int, segment: int, chosen: Any, outputs: Collection[str] | None = None
) -> Piece:
    """One segment of some lanes as their shards have it, whatever the batch's mark says."""
    arrays = [a for a in store.layout.arrays if outputs is None or a.name in outputs]
    if not len(chosen):
        return Piece(batch, chosen, None)
    whole = len(chosen) == group.batch
    found = {}
    for array in arrays:
        data = store.read(array.name, batch, segment)
        found[array.name] = data if whole else data[chosen]
    draws = None if store.layout.draws is None else store.layout.draws // store.layout.segments
    return Piece(batch, chosen, _block(store, group, batch, chosen, found, draws))


def _block(
    store: HotStore, group: Group, batch: int, lanes: Any, outputs: dict[str, Any], draws: int | None, names: Any = None
) -> Block:
    """Some trials of a batch with what they recorded.

    Arguments:
    - `names`: the trials', where they are known.
    """
    _, columns = store.inputs(batch)
    if names is None:
        digests = store.digests(batch)
        names = [digests[lane] for lane in lanes]
    return Block(
        names,
        columns["replicate"][lanes],
        group.sampler,
        {name: values[lanes] for name, values in columns.items() if name != "replicate"},
        store.status(batch)[lanes],
        store.seconds(batch)[lanes],
        outputs,
        {a.name: a for a in store.layout.arrays},
        draws,
    )


class Archived:
    """The trials of a sealed part as they were before they became rows.

    Arguments:
    - `part`: its batches, from `first` to before `last`.
    - `outputs`: only these are read.
    """

    def __init__(self, archive: Path, part: Part, group: Group, store: HotStore, outputs: Collection[str]) -> None:
        self._group, self._store, self._archive, self._part = group, store, archive, part
        arrays = [array for array in store.layout.arrays if array.numeric and array.name in outputs]
        self._tables: dict[str, list[ArrayLayout]] = {}
        for array in arrays:
            self._tables.setdefault(array.table or "draws", []).append(array)

    def blocks(self, file: str) -> Iterator[Block]:
        """The trials of a published file, batch by batch; no more than one batch is in memory."""
        size, first = self._group.batch, self._part.first
        names = self._store.names[first * size : self._part.last * size]
        folder = partition_path(self._group.partition)
        tables = {
            name: SealedFileRows(self._archive / name / folder / f"{file}.parquet", (a.name for a in own), names, size)
            for name, own in self._tables.items()
        }
        # Of a ragged output a trial may have no row.
        there = tables.get("draws") or SealedFileRows(self._archive / TRIALS / f"{file}.parquet", (), names, size)
        places = there.places
        for batch in self._part.batches():
            own = places[places // size == batch - first]
            if len(own):
                yield self._block(batch, own, {name: rows.of(batch - first, own) for name, rows in tables.items()})

    def _block(self, batch: int, places: Any, found: Mapping[str, Rows]) -> Block:
        layout, outputs = self._store.layout, dict[str, Any]()
        for name, rows in found.items():
            outputs |= rebuilt(rows, len(places), self._tables[name], layout)
        lanes = places - (batch - self._part.first) * self._group.batch
        digests = hexadecimal(self._store.names[self._part.first * self._group.batch + places])
        return _block(self._store, self._group, batch, lanes, outputs, layout.draws, digests)


def tables(layout: ArchiveLayout, pieces: Sequence[Piece], names: Collection[str] | None = None) -> dict[str, pa.Table]:
    """A batch's rows: `draws`, one table for each ragged output, and of `trials` what takes all draws at once.

    Arguments:
    - `names`: only these tables; by default all.
    """
    block = joined(pieces)
    if block is None:
        return {}
    wanted = ("draws", *layout.tables, TRIALS) if names is None else names
    return {name: _table(block, layout, name) for name in wanted}


def _table(block: Block, layout: ArchiveLayout, name: str) -> pa.Table:
    if name == "draws":
        return draw_table(block, layout)
    if name == TRIALS:
        return pa.table(
            {**diagnosed_columns(block, layout, diagnosed, FEWEST_DRAWS), **extracted_columns(block, layout)}
        )
    return item_table(block, layout, name)


def summary(layout: ArchiveLayout, piece: Piece) -> Summary:
    """Moments of one segment."""
    return Summary(piece) if piece.block is None else Summary(piece, block_moments(piece.block, layout))


def merge(left: Summary, right: Summary) -> Summary:
    """Moments of two segments together."""
    damaged = tuple(dict.fromkeys([*left.piece.damaged, *right.piece.damaged]))
    return Summary(
        replace(left.piece, damaged=damaged),
        {name: found.merge(right.moments[name]) for name, found in left.moments.items() if name in right.moments},
    )


def warm(layout: ArchiveLayout, one: Summary, more: pa.Table, tries: Tries) -> pa.Table:
    """A batch's rows of the table of trials.

    Arguments:
    - `more`: the columns that take all draws at once, from `tables`.
    """
    block = one.piece.block
    assert block is not None
    counts = np.array([tries.attempts.get(int(lane), 1) for lane in one.piece.lanes], np.int64)
    columns = {name: more[name].combine_chunks() for name in more.column_names}
    return trial_table(block, one.moments, layout, counts, [tries.node] * block.rows, columns)


def made(layout: ArchiveLayout, pieces: Sequence[Piece], name: str, tries: Tries) -> pa.Table:
    """A batch's rows of one table, in the columns of the archive's files."""
    if name != "trials":
        return tables(layout, pieces, [name])[name]
    whole = reduce(merge, (summary(layout, piece) for piece in pieces))
    return warm(layout, whole, tables(layout, pieces, [TRIALS])[TRIALS], tries)


def joined(pieces: Sequence[Piece]) -> Block | None:
    """The segments of a batch as one block; None where one of them has no data or is damaged."""
    blocks = [piece.block for piece in pieces]
    first = blocks[0]
    if first is None or any(block is None for block in blocks):
        return None
    if len(blocks) == 1:
        return first
    outputs = {}
    for name in first.outputs:
        axis = 2 if first.layouts[name].chains else 1
        outputs[name] = np.concatenate([block.outputs[name] for block in blocks if block is not None], axis=axis)
    return replace(first, outputs=outputs, draws=sum(block.draws or 0 for block in blocks if block is not None))


def _damaged(store: HotStore, batch: int, segment: int) -> tuple[str, ...]:
    recorded = store.checksums(batch)
    return tuple(
        array.name
        for number, array in enumerate(store.layout.arrays)
        if store.checksum(array.name, batch, segment) != recorded[segment, number]
    )
