"""Rows of one campaign in the archive of another: read where they stand, renamed, with the columns that are new.

A few MiB are in memory at a time, whatever the size of a campaign: batches are read one after another, those of large
trials in pieces. What is not sealed is made of the hot store, as sealing it would.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from staffa import rows
from staffa.campaign.plan import Part, bytes_per_trial
from staffa.errors import WorkspaceError
from staffa.execution.sources import Source
from staffa.rows import archive_layout
from staffa.storage.archive import SealedRows
from staffa.storage.tables import Block, unrolled
from staffa.trial import Scalar

Row = npt.NDArray[Any]
PIECE_BYTES = 2 << 20
"""Outputs that are read at a time, before compression."""


@dataclass(frozen=True)
class Taking:
    """Trials of a group of a campaign that go into a part of the whole.

    Arguments:
    - `rows`: their places in the group; rows of the whole come in this order.
    - `names`: (n, 32) what they are called in the whole, as text; `replicates`: (n,).
    - `constants`: columns of the whole that the campaign does not have, with their values here.
    """

    source: Source
    group: int
    rows: Row
    names: Row
    replicates: Row
    constants: Mapping[str, Scalar] = field(default_factory=dict)

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        """Their rows of one table, some trials at a time, in the columns of the whole."""
        reader = _Reader(self.source, self.group, name)
        for chosen in self._pieces():
            found = reader.rows(self.rows[chosen])
            if found.num_rows:
                yield self._recast(found, chosen, schema)

    def blocks(self) -> Iterator[Block]:
        """The same trials' outputs, as reducers take them, with the parameters of the whole."""
        store, group = self.source.stores[self.group], self.source.plan.groups[self.group]
        arrays = [array for array in store.layout.arrays if array.numeric]
        own = [name for name in store.layout.attributes.get("parameters", ()) if name != "replicate"]
        readers = {name: _Reader(self.source, self.group, name) for name in {a.table or "draws" for a in arrays}}
        for chosen in self._pieces():
            index = self.source.index[self.group][self.rows[chosen]]
            trials = self.source.roster["trial"].take(pa.array(index)).combine_chunks()
            tables = {name: reader.rows(self.rows[chosen]) for name, reader in readers.items()}
            columns = {name: self.source.column(name, index) for name in own}
            columns |= {name: np.full(len(chosen), one) for name, one in self.constants.items() if one is not None}
            yield Block(
                self.names[chosen].astype(str).tolist(),
                self.replicates[chosen],
                group.sampler,
                columns,
                self.source.marks[index],
                np.zeros(len(chosen), np.float32),
                {a.name: unrolled(tables[a.table or "draws"], trials.to_pylist(), a, store.layout) for a in arrays},
                {array.name: array for array in store.layout.arrays},
                store.layout.draws,
            )

    def _pieces(self) -> Iterator[Row]:
        """Places of `rows` that are read together: of one batch, and not too many."""
        group = self.source.plan.groups[self.group]
        most = max(PIECE_BYTES // max(bytes_per_trial(group, self.source.plan.sampling.draws), 1), 1)
        starts = np.flatnonzero(np.diff(self.rows // group.batch)) + 1
        for run in np.split(np.arange(len(self.rows)), starts):
            sealed = self.source.sealed[self.source.index[self.group][self.rows[run]]]
            # Shards are read whole, so what is not sealed is read once.
            yield from np.split(run, range(most, len(run), most)) if sealed.all() else [run]

    def _recast(self, table: pa.Table, chosen: Row, schema: pa.Schema) -> pa.Table:
        old = self.source.roster["trial"].take(pa.array(self.source.index[self.group][self.rows[chosen]]))
        table = _ordered(table, old.combine_chunks())
        place = pc.index_in(table["trial"], value_set=old.combine_chunks())
        own = {
            "trial": pa.array(self.names[chosen].astype(str), pa.string()).take(place),
            "replicate": pa.array(self.replicates[chosen], pa.int64()).take(place),
        }
        return pa.Table.from_arrays([self._column(table, own, wanted) for wanted in schema], schema=schema)

    def _column(self, table: pa.Table, own: Mapping[str, Any], wanted: pa.Field) -> Any:
        if wanted.name in own:
            return own[wanted.name]
        if wanted.name in self.constants:
            return pa.repeat(pa.scalar(self.constants[wanted.name], wanted.type), table.num_rows)
        if wanted.name in table.column_names:
            return table[wanted.name].cast(wanted.type)
        return pa.nulls(table.num_rows, wanted.type)


def _ordered(table: pa.Table, trials: pa.Array) -> pa.Table:
    """Rows in the order of their trials, those of one trial as they stand."""
    codes = pc.index_in(table["trial"], value_set=trials).to_numpy()
    return table.take(pa.array(np.argsort(codes, kind="stable"))) if (np.diff(codes) < 0).any() else table


class _Reader:
    """Rows of one table of trials of a group, wherever they stand."""

    def __init__(self, source: Source, group: int, name: str) -> None:
        self._source, self._group, self._name = source, group, name
        self._parts = [part for part in source.plan.parts if part.group == group]
        self._open: tuple[str, SealedRows] | None = None

    def rows(self, chosen: Row) -> pa.Table:
        """All rows of some trials of one batch."""
        group = self._source.plan.groups[self._group]
        batch = int(chosen[0]) // group.batch
        index = self._source.index[self._group][chosen]
        sealed = self._source.sealed[index]
        found = []
        if sealed.any():
            names = self._source.roster["trial"].take(pa.array(index[sealed])).to_pylist()
            found.append(self._sealed(batch).of(names))
        if not sealed.all():
            found.append(self._made(batch, (chosen[~sealed] - batch * group.batch).tolist()))
        return found[0] if len(found) == 1 else pa.concat_tables(found, promote_options="default")

    def _sealed(self, batch: int) -> SealedRows:
        part: Part = next(part for part in self._parts if batch in part.batches())
        if self._open is None or self._open[0] != part.name:
            partition = self._source.plan.groups[self._group].partition
            self._open = part.name, SealedRows(self._source.workspace.archive, self._name, part.name, partition)
        return self._open[1]

    def _made(self, batch: int, lanes: Sequence[int]) -> pa.Table:
        """Rows that are not in the archive yet."""
        source, store = self._source, self._source.stores[self._group]
        group = source.plan.groups[self._group]
        segments = range(store.layout.segments)
        pieces = [rows.read(store, group, batch, segment, lanes) for segment in segments]
        bad = sorted({name for piece in pieces for name in piece.damaged})
        if bad or any(piece.block is None for piece in pieces):
            raise WorkspaceError(
                f"'{source.name}' cannot be merged: batch g{self._group}/{batch} is damaged ({', '.join(bad)})",
                f"staffa verify {shlex.quote(str(source.workspace.root))}",
            )
        tries = rows.Tries()
        if self._name == "trials":
            tries = rows.tries_of(source.books, store, (self._group, batch))
        return rows.made(archive_layout(source.plan), pieces, self._name, tries)
