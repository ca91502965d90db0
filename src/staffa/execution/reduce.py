"""From hot to cold: what workers do to seal a part of the archive.

Each batch of a part is read and checked against its checksums, flattened to Arrow, summarised,
and written with the others as one Parquet file a table. What is damaged is reported, not sealed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.execution.bench import Order, bench_of
from staffa.experiment.diagnostics import FEWEST_DRAWS, diagnosed
from staffa.storage.archive import Archive
from staffa.storage.extracts import ExtractLayout
from staffa.storage.hot import ArrayLayout, HotStore
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


@dataclass(frozen=True)
class SealOrder:
    """A part to be sealed."""

    root: str
    plan: str
    generation: int
    part: str
    group: int
    first: int
    last: int
    lanes: tuple[tuple[int, tuple[int, ...]], ...] | None = None
    """For a supplement: the lanes of each batch that were not sealed before."""
    attempts: tuple[tuple[int, int, int], ...] = ()
    """(batch, lane, attempts) where more than one was needed."""
    nodes: tuple[tuple[int, str], ...] = ()
    """(batch, node)."""
    issue: int = 1
    """How often this run has issued the seal: its tasks are never called like earlier ones."""

    def order(self, batch: int) -> Order:
        return Order(self.root, self.plan, self.generation, self.group, batch)


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


def archive_layout(plan: Plan) -> ArchiveLayout:
    """The archive's columns, from the plan."""
    outputs = tuple(array_layout(output) for output in plan.outputs())
    extracts = tuple(ExtractLayout(**asdict(extract)) for extract in plan.extracts())
    return ArchiveLayout(plan.parameters, outputs, plan.partition_by, plan.summaries, plan.diagnosed, extracts)


def array_layout(output: Any) -> ArrayLayout:
    """How an output is laid out on disk."""
    return ArrayLayout(output.name, output.dtype, output.shape, output.dims, output.chains, output.table, output.length)


def read(seal: SealOrder, batch: int, segment: int) -> Piece:
    """Read one segment of a batch, only the trials that have data, checked against its checksums."""
    bench = bench_of(seal.order(batch))
    store, group = bench.store(seal.group), bench.group(seal.group)
    status = store.status(batch)[: group.size(batch)]
    chosen = (status == Outcome.OK) | (status == Outcome.NAN)
    if seal.lanes is not None:
        chosen &= np.isin(np.arange(len(status)), dict(seal.lanes).get(batch, ()))
    lanes = np.flatnonzero(chosen)
    bad = _damaged(store, batch, segment)
    if bad or not len(lanes):
        return Piece(batch, lanes, None, bad)
    _, columns = store.inputs(batch)
    digests = store.digests(batch)
    whole = len(lanes) == group.batch
    outputs = {}
    for array in store.layout.arrays:
        data = store.read(array.name, batch, segment)
        outputs[array.name] = data if whole else data[lanes]
    block = Block(
        [digests[lane] for lane in lanes],
        columns["replicate"][lanes],
        group.sampler,
        {name: values[lanes] for name, values in columns.items() if name != "replicate"},
        status[lanes],
        store.seconds(batch)[lanes],
        outputs,
        {a.name: a for a in store.layout.arrays},
        store.layout.draws is not None,
    )
    return Piece(batch, lanes, block)


def table(seal: SealOrder, pieces: Sequence[Piece]) -> dict[str, pa.Table]:
    """A batch's rows: `draws`, one table for each ragged output, and of `trials` what takes all draws at once."""
    plan = bench_of(seal.order(seal.first)).plan
    archive = archive_layout(plan)
    block = _joined(pieces)
    if block is None:
        return {}
    return {
        "draws": draw_table(block, archive),
        **{name: item_table(block, archive, name) for name in archive.tables},
        TRIALS: pa.table(
            {**diagnosed_columns(block, archive, diagnosed, FEWEST_DRAWS), **extracted_columns(block, archive)}
        ),
    }


def summary(seal: SealOrder, piece: Piece) -> Summary:
    """Moments of one segment."""
    if piece.block is None:
        return Summary(piece)
    return Summary(piece, block_moments(piece.block, archive_layout(bench_of(seal.order(seal.first)).plan)))


def merge(left: Summary, right: Summary) -> Summary:
    """Moments of two segments together."""
    damaged = tuple(dict.fromkeys([*left.piece.damaged, *right.piece.damaged]))
    return Summary(
        replace(left.piece, damaged=damaged),
        {name: found.merge(right.moments[name]) for name, found in left.moments.items() if name in right.moments},
    )


def seal(order: SealOrder, tables: Sequence[Mapping[str, pa.Table]], rows: Sequence[Summary]) -> dict[str, Any]:
    """Write the part's files and publish them; nothing is published when a batch is damaged."""
    started = time.perf_counter()
    bench = bench_of(order.order(order.first))
    bad = {one.piece.batch: list(one.piece.damaged) for one in rows if one.piece.damaged}
    if bad:
        return {"part": order.part, "damaged": bad}
    layout = archive_layout(bench.plan)
    archive = Archive(bench.workspace.archive, layout, bench.plan.compression, bench.plan.level)
    warm = [
        _warm(order, layout, one, found[TRIALS])
        for one, found in zip(rows, tables, strict=True)
        if one.piece.block is not None
    ]
    if not warm:
        return {"part": order.part, "trials": 0, "rows": 0, "bytes": 0, "files": [], "seconds": 0.0}
    names = ("draws", *layout.tables)
    pieces = {name: [found[name] for found in tables if name in found] for name in names}
    group = bench.group(order.group)
    sealed = archive.seal(order.part, group.partition, pieces, pa.concat_tables(warm))
    return {
        "part": order.part,
        "trials": sealed.trials,
        "rows": sealed.rows,
        "bytes": sealed.size,
        "files": [asdict(file) for file in sealed.files],
        "seconds": time.perf_counter() - started,
    }


def _warm(order: SealOrder, layout: ArchiveLayout, one: Summary, more: pa.Table) -> pa.Table:
    block = one.piece.block
    assert block is not None
    attempts = {(batch, lane): count for batch, lane, count in order.attempts}
    counts = np.array([attempts.get((one.piece.batch, int(lane)), 1) for lane in one.piece.lanes], np.int64)
    node = dict(order.nodes).get(one.piece.batch, "")
    columns = {name: more[name].combine_chunks() for name in more.column_names}
    return trial_table(block, one.moments, layout, counts, [node] * block.rows, columns)


def _joined(pieces: Sequence[Piece]) -> Block | None:
    blocks = [piece.block for piece in pieces]
    first = blocks[0]
    if first is None or any(block is None for block in blocks):
        return None
    if len(blocks) == 1:
        return first
    outputs = {}
    for name, layout in first.layouts.items():
        axis = 2 if layout.chains else 1
        outputs[name] = np.concatenate([block.outputs[name] for block in blocks if block is not None], axis=axis)
    return replace(first, outputs=outputs)


def _damaged(store: HotStore, batch: int, segment: int) -> tuple[str, ...]:
    recorded = store.checksums(batch)
    return tuple(
        array.name
        for number, array in enumerate(store.layout.arrays)
        if store.checksum(array.name, batch, segment) != recorded[segment, number]
    )
