"""Outputs of trials that are sealed, as arrays again: a batch at a time, only the columns that are asked for.

Which rows are whose is read first, of a whole file: for each row group the names in it, and a code a row. Then each row
group is read once, when the batch comes that has rows in it. Rows stand in the order of trials, chains and draws; then
an array is what was read, in another shape. Where they do not, each row is put to its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.cells import fill
from staffa.errors import WorkspaceError
from staffa.storage.layouts import ArrayLayout, GroupLayout
from staffa.storage.roster import hexadecimal
from staffa.storage.tables import digest_column

Row = npt.NDArray[Any]
AXES = ("chain", "draw", "item")


@dataclass(frozen=True)
class Rows:
    """Rows of some trials.

    Arguments:
    - `trials`: (rows,) which of the batch's trials each belongs to.
    - `columns`: what was asked for, with `chain`, `draw` and, of a ragged output's table, `item`.
    """

    trials: Row
    columns: Mapping[str, pa.ChunkedArray]

    def axis(self, name: str) -> Row:
        return np.asarray(self.columns[name].to_numpy())


class SealedFileRows:
    """A sealed file of one table, some of its columns, the rows of a batch at a time.

    Arguments:
    - `columns`: outputs.
    - `names`: (n, 16) digests of the part's trials, in the order of their rows in the group's store.
    - `batch`: trials of a batch; the first of `names` begins one.

    Raises `WorkspaceError` for a trial that is none of these.
    """

    def __init__(self, path: Path, columns: Iterable[str], names: Row, batch: int) -> None:
        self._file = pq.ParquetFile(path, read_dictionary=["trial"])
        self._columns = [*(axis for axis in AXES if axis in self._file.schema_arrow.names), *columns]
        self._batch = batch
        known = digest_column(hexadecimal(names), np.ones(len(names), np.int64))
        self._places = self._read_in_turn(path, known) or self._read_places(path, known)
        """Of each row group the places of its rows' trials among the part's."""
        self._latest: tuple[int, pa.Table] | None = None
        """The row group that was read last: it may have rows of the batch that comes next, too."""

    @property
    def places(self) -> Row:
        """Places of the trials in it, each once, in order."""
        found = np.concatenate([np.zeros(0, np.int64), *self._distinct])
        return found if (np.diff(found) > 0).all() else np.unique(found)

    def of(self, batch: int, trials: Row) -> Rows:
        """The rows of a batch's trials.

        Arguments:
        - `batch`: counted from the first of the part.
        - `trials`: their places in the part, in order.
        """
        found, own = [], []
        for number, distinct in enumerate(self._distinct):
            within = distinct // self._batch == batch
            if within.any():
                table, places = self._group(number), self._places[number]
                if not within.all():
                    chosen = places // self._batch == batch
                    table, places = table.filter(pa.array(chosen)), places[chosen]
                found.append(table)
                own.append(np.searchsorted(trials, places))
        if not found:
            return Rows(np.zeros(0, np.int64), self._empty())
        whole = found[0] if len(found) == 1 else pa.concat_tables(found)
        return Rows(np.concatenate(own), dict(zip(whole.column_names, whole.columns, strict=True)))

    def _group(self, number: int) -> pa.Table:
        if self._latest is None or self._latest[0] != number:
            same = self._same(number)
            columns = [name for name in self._columns if name not in same]
            read = self._file.read_row_group(number, columns=columns, use_threads=False)
            rows = self._file.metadata.row_group(number).num_rows
            found = {name: pa.repeat(same[name], rows) if name in same else read[name] for name in self._columns}
            self._latest = number, pa.table(found)
        return self._latest[1]

    def _same(self, number: int) -> dict[str, pa.Scalar]:
        """Axes of which a row group has but one value, as its footer says: nothing has to be read of them."""
        group, found = self._file.metadata.row_group(number), {}
        for place in range(group.num_columns):
            column = group.column(place)
            name, told = column.path_in_schema, column.statistics
            if name in AXES and told is not None and told.has_min_max and told.min == told.max and not told.null_count:
                found[name] = pa.scalar(told.min, self._file.schema_arrow.field(name).type)
        return found

    def _empty(self) -> dict[str, pa.ChunkedArray]:
        schema = self._file.schema_arrow
        return {name: pa.chunked_array([], schema.field(name).type) for name in self._columns}

    def _read_in_turn(self, path: Path, known: pa.Array) -> list[Row]:
        """Places of a file with one row of each trial of the part, in turn; none of any other file."""
        if self._file.metadata.num_rows != len(known):
            return []
        texts = pq.ParquetFile(path).read(columns=["trial"], use_threads=False)["trial"].combine_chunks()
        if not texts.equals(known):
            return []
        groups = range(self._file.metadata.num_row_groups)
        ends = np.cumsum([self._file.metadata.row_group(number).num_rows for number in groups])
        self._distinct = np.split(np.arange(len(known)), ends[:-1]) if len(ends) else []
        return self._distinct

    def _read_places(self, path: Path, known: pa.Array) -> list[Row]:
        groups = range(self._file.metadata.num_row_groups)
        chunks = [
            self._file.read_row_group(number, columns=["trial"], use_threads=False)["trial"]
            .combine_chunks()
            .dictionary_encode()
            for number in groups
        ]
        texts = pa.concat_arrays([pa.array([], pa.string()), *(chunk.dictionary for chunk in chunks)])
        ends = np.cumsum([len(chunk.dictionary) for chunk in chunks])
        self._distinct = np.split(_places(path, texts, known), ends[:-1]) if chunks else []
        return [
            distinct[np.asarray(chunk.indices.to_numpy())]
            for chunk, distinct in zip(chunks, self._distinct, strict=True)
        ]


def _places(path: Path, texts: pa.Array, known: pa.Array) -> Row:
    """Where names stand among these."""
    if texts.equals(known):  # all of a part, in turn: as nearly all files have them
        return np.arange(len(known))
    found = pc.index_in(texts, value_set=known)
    if found.null_count:
        strange = texts.filter(found.is_null())[0].as_py()
        raise WorkspaceError(f"'{path}' has a trial {strange}, and its part has none of that name")
    return np.asarray(found.to_numpy(), np.int64)


def rebuilt(rows: Rows, trials: int, arrays: Sequence[ArrayLayout], layout: GroupLayout) -> dict[str, Row]:
    """Outputs of one table as they were recorded: (trials, [chain,] [draw,] own), fill where there is none.

    Arguments:
    - `trials`: how many there are of the batch.
    """
    chains = max([1, *(array.chains for array in layout.arrays)])
    draws = 1 if layout.draws is None else layout.draws
    in_turn = not arrays[0].table and _in_turn(rows, trials, chains, draws)
    found = {}
    for array in arrays:
        values = _values(rows.columns[array.name], array)
        if in_turn:
            own = values.reshape(trials, chains, draws, *array.shape)
            own = own if array.chains else own[:, 0]
            found[array.name] = own if layout.draws is not None else own.reshape(_shape(array, layout, trials))
        else:
            found[array.name] = _placed(rows, values, array, layout, trials)
    return found


def _in_turn(rows: Rows, trials: int, chains: int, draws: int) -> bool:
    """Whether each trial has all its rows, and they stand in order."""
    if len(rows.trials) != trials * chains * draws:
        return False
    trial, chain, draw = (
        one.reshape(trials, chains, draws) for one in (rows.trials, rows.axis("chain"), rows.axis("draw"))
    )
    each = (np.arange(size) for size in (trials, chains, draws))
    expected = np.ix_(*each)
    return all(bool((one == wanted).all()) for one, wanted in zip((trial, chain, draw), expected, strict=True))


def _values(cells: pa.ChunkedArray, array: ArrayLayout) -> Row:
    """(rows, own) of a column."""
    own = array.shape[1:] if array.table else array.shape
    whole = cells.combine_chunks()
    flat = np.asarray((whole.flatten() if own else whole).to_numpy(zero_copy_only=False))
    return flat.reshape(len(whole), *own)


def _placed(rows: Rows, values: Row, array: ArrayLayout, layout: GroupLayout, trials: int) -> Row:
    """Each row's values at their place."""
    word = "float32" if array.dtype == "bfloat16" else array.dtype
    whole = np.full(_shape(array, layout, trials), fill(word), word)
    axes = ["chain"] * bool(array.chains) + ["draw"] * (layout.draws is not None) + ["item"] * bool(array.table)
    place = (rows.trials, *(rows.axis(name) for name in axes))
    if not array.chains:  # what has none stands with each chain of the others
        first = rows.axis("chain") == 0
        place, values = tuple(axis[first] for axis in place), values[first]
    whole[place] = values
    return whole


def _shape(array: ArrayLayout, layout: GroupLayout, trials: int) -> tuple[int, ...]:
    chains = (array.chains,) if array.chains else ()
    return (trials, *chains, *(() if layout.draws is None else (layout.draws,)), *array.shape)
