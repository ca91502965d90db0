"""From hot to cold: what workers do to seal a part of the archive.

Each batch of a part is read and checked against its checksums, flattened to Arrow, summarised,
and written with the others as one Parquet file a table. What is damaged is reported, not sealed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from staffa import rows
from staffa.campaign.plan import Part
from staffa.execution import ensemble
from staffa.execution.bench import Order, bench_errors, bench_of
from staffa.experiment.ensembles import Arrays, Reducer
from staffa.rows import TRIALS, Piece, Summary, Tries, archive_layout
from staffa.storage.archive import Archive, SealedRows
from staffa.storage.derived import derived_file
from staffa.storage.tables import ArchiveLayout, same_rows


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
    tries: tuple[tuple[int, Tries], ...] = ()
    """By batch, what the books say."""
    reducers: ensemble.Blocks = ()
    task: Literal["seal", "answer", "prune", "apply"] = "seal"
    """Of a part that is sealed already: `answer` asks reducers that came later, `prune` has its shards removed, `apply`
    has what reducers found applied to its rows."""
    files: tuple[str, ...] = ()
    """To answer for, or to apply to: names of published files that lack something."""
    wholes: tuple[tuple[str, str], ...] = ()
    """To apply: names of reducers, and of their answers."""
    issue: int = 1
    """How often this run has issued the seal: its tasks are never called like earlier ones."""
    run: str = ""
    """Names the run. A worker that still does what an earlier one asked takes a task of that name for the same, and
    answers with that one's."""

    @property
    def tag(self) -> str:
        again = f".{self.issue}" if self.issue > 1 else ""
        return f"{self.part.replace('part-', 'p')}{again}{'~' * bool(self.run)}{self.run}"

    def order(self, batch: int) -> Order:
        return Order(self.root, self.plan, self.generation, self.group, batch)


def read(seal: SealOrder, batch: int, segment: int) -> Piece:
    """Read one segment of a batch, only the trials that are to be sealed, checked against its checksums."""
    bench = bench_of(seal.order(batch))
    lanes = None if seal.lanes is None else dict(seal.lanes).get(batch, ())
    return rows.read(bench.store(seal.group), bench.group(seal.group), batch, segment, lanes)


def table(seal: SealOrder, pieces: Sequence[Piece]) -> dict[str, pa.Table]:
    """A batch's rows, see `staffa.rows.tables`."""
    return rows.tables(_layout(seal), pieces)


def summary(seal: SealOrder, piece: Piece) -> Summary:
    """Moments of one segment."""
    return rows.summary(_layout(seal), piece)


merge = rows.merge


def mapped(seal: SealOrder, pieces: Sequence[Piece]) -> dict[str, Arrays]:
    """What the campaign's reducers make of a batch."""
    block = rows.joined(pieces)
    return ensemble.mapped(block, _reducers(seal)) if block is not None else {}


def seal(
    order: SealOrder,
    tables: Sequence[Mapping[str, pa.Table]],
    summaries: Sequence[Summary],
    answers: Sequence[Mapping[str, Arrays]] = (),
) -> dict[str, Any]:
    """Write the part's files and publish them; nothing is published when a batch is damaged."""
    started = time.perf_counter()
    bench = bench_of(order.order(order.first))
    bad = {one.piece.batch: list(one.piece.damaged) for one in summaries if one.piece.damaged}
    if bad:
        return {"part": order.part, "damaged": bad}
    layout = archive_layout(bench.plan)
    archive = Archive(bench.workspace.archive, layout, bench.plan.compression, bench.plan.level)
    tries = dict(order.tries)
    warm = [
        rows.warm(layout, one, found[TRIALS], tries.get(one.piece.batch, Tries()))
        for one, found in zip(summaries, tables, strict=True)
        if one.piece.block is not None
    ]
    if not warm:
        return {"part": order.part, "trials": 0, "rows": 0, "bytes": 0, "files": [], "seconds": 0.0}
    _answer(order, order.part, answers)
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


def answer(order: SealOrder) -> dict[str, Any]:
    """Ask reducers about trials that were sealed before there were such reducers, file by file."""
    found = _reducers(order)
    archived = _archived(order, found)
    for file in order.files:
        answers = [ensemble.mapped(block, found) for block in archived.blocks(file)]
        _answer(order, file, answers)
    return {"part": order.part, "answered": list(order.files)}


def apply(order: SealOrder) -> dict[str, Any]:
    """Apply what reducers found to the rows of a part, file by file: a file of each reducer's own table beside each."""
    bench = bench_of(order.order(order.first))
    archive = Archive(bench.workspace.archive, _layout(order), bench.plan.compression, bench.plan.level)
    made: dict[str, dict[str, Any]] = {}
    with bench_errors():
        for name, whole in order.wholes:
            for file in order.files:
                if not derived_file(archive.path, name, file, whole).exists():
                    found = archive.derive(name, file, whole, _applied(order, name, whole, file))
                    made.setdefault(name, {})[file] = asdict(found)
    return {"part": order.part, "applied": made}


def _applied(order: SealOrder, name: str, digest: str, file: str) -> Iterator[pa.Table]:
    """What a reducer applies to the rows of a file, batch by batch."""
    told = next(one for one in order.reducers if one.name == name)
    whole = ensemble.whole_of(bench_of(order.order(order.first)).workspace, told, digest)
    found = {name: _reducers(order)[name]}
    for block in _archived(order, found).blocks(file):
        yield ensemble.applied(name, found[name], whole, block)


def _archived(order: SealOrder, found: Mapping[str, Reducer]) -> rows.Archived:
    """What some reducers want of a part's archived rows."""
    bench = bench_of(order.order(order.first))
    store = bench.store(order.group)
    outputs = ensemble.wanted(found.values(), store.layout)
    part = Part(order.part, order.group, order.first, order.last)
    return rows.Archived(bench.workspace.archive, part, bench.group(order.group), store, outputs)


def _answer(order: SealOrder, file: str, answers: Sequence[Mapping[str, Arrays]]) -> None:
    archive = bench_of(order.order(order.first)).workspace.archive
    ensemble.write_part(archive, order.reducers, file, ensemble.joined(answers, _reducers(order)))


def prune(order: SealOrder) -> dict[str, Any]:
    """Remove the shards of a sealed part, batch by batch, if every row of it stands in the archive, bit for bit.

    Returns the `bytes` that were freed, and by batch the tables that `differ`.
    """
    bench = bench_of(order.order(order.first))
    store, group, layout = bench.store(order.group), bench.group(order.group), _layout(order)
    archived = {
        name: SealedRows(bench.workspace.archive, name, order.part, group.partition)
        for name in ("draws", *layout.tables)
    }
    freed, differ = 0, {}
    for batch in range(order.first, order.last):
        lanes = np.setdiff1d(rows.with_data(store, group, batch), np.flatnonzero(store.pruned(batch)))
        if not len(lanes):
            continue
        pieces = [rows.read(store, group, batch, segment, lanes) for segment in range(store.layout.segments)]
        trials, made = store.digests(batch), rows.tables(layout, pieces)
        names = [trials[lane] for lane in lanes]
        bad = [name for name, there in archived.items() if not made or not _stands(made[name], there.of(names))]
        if bad:
            differ[batch] = bad
        else:
            freed += store.prune(batch, lanes)
    return {"part": order.part, "pruned": True, "bytes": freed, "differ": differ}


def _stands(made: pa.Table, archived: pa.Table) -> bool:
    """Whether rows stand in the archive; columns that came when the campaign grew are empty, and not in older files."""
    added = [name for name in made.column_names if name not in archived.column_names]
    empty = all(made[name].null_count == made.num_rows for name in added)
    return empty and same_rows(made.drop_columns(added), archived)


def _reducers(seal: SealOrder) -> Mapping[str, Reducer]:
    return ensemble.reducers(seal.reducers, Path(seal.root) / "code")


def _layout(seal: SealOrder) -> ArchiveLayout:
    return archive_layout(bench_of(seal.order(seal.first)).plan)
