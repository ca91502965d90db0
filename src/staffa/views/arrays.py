"""Outputs as arrays with named axes, lazily, wherever their trials stand.

A batch whose shards are in the hot store is read from there, inner chunk by inner chunk; of one that was pruned the
archive is asked, row group by row group. What is read is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from staffa.cells import blank, fill, opened
from staffa.experiment.encoding import Encoding
from staffa.storage.columns import arrow, elements
from staffa.storage.hot import HotStore
from staffa.storage.layouts import ArrayLayout
from staffa.views.decoding import encoding, recorded_value
from staffa.views.standing import Place, Standing

Row = npt.NDArray[Any]


def dataset(standing: Standing, number: int) -> xarray.Dataset:
    """A group's trials: outputs that are read when they are wanted; parameters, outcome and timings as coordinates.

    Arguments:
    - `number`: of the group in the plan.
    """
    group, store = standing.plan.groups[number], standing.store(number)
    outputs = [array.name for array in store.layout.arrays]
    # A parameter in "days since 1970-01-01" is the number it was declared as.
    numbers = dict.fromkeys(store.layout.attributes["parameters"], False)
    hot = xarray.open_zarr(
        store.path, chunks=None, drop_variables=["identity", "checksum", *outputs], decode_times=numbers
    )
    # Rows past the last trial only fill up a shard.
    found = hot.set_coords(["status", "seconds"]).isel(trial=slice(0, group.trials))
    whole: xarray.Dataset = found.assign({a.name: _variable(standing, number, a) for a in store.layout.arrays})
    return whole.isel(trial=_taken(whole["trial"].values)) if store.layout.seated else whole


def _taken(trials: Row) -> slice | Row:
    """Rows of a search's group that belong to a trial: there are as many as it may ask for."""
    rows = np.flatnonzero(trials != "")
    return slice(0, len(rows)) if np.array_equal(rows, np.arange(len(rows))) else rows


def one(standing: Standing, number: int, row: int, trial: str) -> xarray.Dataset:
    """The outputs of one trial of a group, read when they are wanted: dims ([chain,] [draw,] own).

    Arguments:
    - `row`: its place among the trials of its group; `trial`: its digest.
    """
    layout = standing.store(number).layout
    found = {}
    for array in layout.arrays:
        found[array.name] = _variable(standing, number, array, {row: trial})[row]
    axes = {name: (name, list(values)) for name, values in layout.coords.items()}
    if layout.draws is not None:
        axes["draw"] = ("draw", list(range(layout.draws)))
    return xarray.Dataset(
        found, {name: axis for name, axis in axes.items() if any(name in v.dims for v in found.values())}
    )


def trial_value(standing: Standing, number: int, row: int, trial: str, name: str) -> Any:
    """What one trial recorded as one of its outputs, see `decoding.recorded_value`."""
    layout = standing.store(number).layout
    array = next(one for one in layout.arrays if one.name == name)
    stored = Stored(standing, number, array, {row: trial})
    values = stored.read((row, *[slice(None)] * (len(stored.shape) - 1)))
    return recorded_value(stored.codec.encoding, values, layout.draws is not None, bool(array.chains))


def _variable(
    standing: Standing, number: int, array: ArrayLayout, names: Mapping[int, str] | None = None
) -> xarray.Variable:
    layout = standing.store(number).layout
    dims = ["trial", *["chain"] * bool(array.chains), *["draw"] * (layout.draws is not None), *array.dims]
    lazy = indexing.LazilyIndexedArray(Stored(standing, number, array, names))
    chunks = dict(zip(dims, layout.shard(array), strict=not array.whole))
    return xarray.Variable(dims, lazy, encoding={"preferred_chunks": chunks})


class Stored(BackendArray):
    """One output of a group's trials: (trial, [chain,] [draw,] own). Items of a ragged one behind its last are fill.

    Arguments:
    - `names`: by row the digests of all trials that will be asked for, where they are known already.
    """

    def __init__(
        self, standing: Standing, number: int, array: ArrayLayout, names: Mapping[int, str] | None = None
    ) -> None:
        self._standing, self._number, self._array, self._names = standing, number, array, names
        self._store = standing.store(number)
        self._batch = self._store.layout.batch
        self.shape = (standing.plan.groups[number].trials, *_extent(self._store, array))
        self.codec = codec(array)
        self.dtype = self.codec.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.read)

    def __deepcopy__(self, memo: Any) -> Stored:
        """What is on disk needs no copy."""
        return self

    def read(self, key: tuple[Any, ...]) -> Row:
        """What stands at a number, a slice or places along each axis."""
        single = tuple(axis for axis, one in enumerate(key) if isinstance(one, int | np.integer))
        key = tuple(slice(one, one + 1) if axis in single else one for axis, one in enumerate(key))
        rows = np.arange(self.shape[0])[key[0]]
        if not self._gone(rows).any():
            values = self._hot(key)
            if not self._gone(rows).any():  # nor has any of them been pruned meanwhile
                return np.squeeze(values, single)
        extent = [len(np.arange(n)[one]) for n, one in zip(self.shape[1:], key[1:], strict=True)]
        whole = np.empty((len(rows), *extent), self.dtype)
        gone = self._gone(rows)
        if not gone.all():
            whole[~gone] = self._hot((rows[~gone], *key[1:]))
        for batch in np.unique(rows[gone] // self._batch).tolist():
            places = np.flatnonzero(gone & (rows // self._batch == batch))
            values = archived(self._standing, self._number, batch, self.codec, self._trials(batch, rows[places]))
            for axis, one in enumerate(key[1:], start=1):
                values = values[(slice(None),) * axis + (one,)]
            whole[places] = values
        return np.squeeze(whole, single)

    def _trials(self, batch: int, rows: Row) -> list[str]:
        if self._names is not None:
            return [self._names[row] for row in rows.tolist()]
        digests = self._store.digests(batch)
        return [digests[row - batch * self._batch] for row in rows.tolist()]

    def _gone(self, rows: Row) -> Row:
        """Of each of some rows, whether it has to be asked of the archive."""
        batches, place = np.unique(rows // self._batch, return_inverse=True)
        masks = [self._store.gone(int(batch)) for batch in batches]
        return np.stack(masks)[place, rows % self._batch] if masks else np.zeros(0, bool)

    def _hot(self, key: tuple[Any, ...]) -> Row:
        if self._array.whole:
            return self._cells(key)
        values = self.codec.of_hot(self._store.select(self._array.name, key))
        if not self._array.table:
            return values
        lead = len(self.shape) - len(self._array.shape)
        items = np.arange(self.shape[lead])[key[lead]]
        inside = items < self._store.select(self._array.length, key[:lead])[..., None]
        return np.where(inside.reshape(*inside.shape, *[1] * (values.ndim - inside.ndim)), values, self.codec.fill)

    def _cells(self, key: tuple[Any, ...]) -> Row:
        cells = self._store.select(self._array.name, key[:1])
        values = self.codec.of_column(opened(cells, arrow(self._array), self._store.layout.draws or 1))
        values = values.reshape(len(cells), *self.shape[1:])
        return values[:, key[1]] if len(key) > 1 else values


@dataclass(frozen=True)
class Codec:
    """How an output's values are made of what stands on disk.

    Arguments:
    - `encoding`: None for numbers.
    - `fill`: what stands where there are no data.
    """

    array: ArrayLayout
    encoding: Encoding | None
    dtype: np.dtype[Any]
    fill: Any

    def of_hot(self, values: Row) -> Row:
        """Elements as the hot store has them; numbers as they are."""
        if self.encoding is None:
            return values
        return self.of_column(elements(values.reshape(-1), self.array)).reshape(values.shape)

    def of_column(self, column: pa.Array) -> Row:
        """A flat column of the archive."""
        if self.encoding is not None:
            return self.encoding.array(column)
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(self.dtype)


def codec(array: ArrayLayout) -> Codec:
    """How an output is read. Encodings are looked up here, where the block counts in which somebody registered them."""
    if array.numeric:
        dtype = np.dtype(np.float32 if array.dtype == "bfloat16" else array.dtype)
        return Codec(array, None, dtype, fill(dtype.name))
    own, nothing = encoding(array.encoding, array.name), pa.nulls(1, arrow(array))
    if not array.whole:
        nothing = elements(blank((1,), array.dtype), array)
    found = own.array(nothing)
    return Codec(array, own, found.dtype, found[0])


def archived(standing: Standing, number: int, batch: int, own: Codec, trials: Sequence[str]) -> Row:
    """An output of some trials of a batch from the archive: (trials, [chain,] [draw,] own), fill where it has none."""
    store, array = standing.store(number), own.array
    part = next(one for one in standing.plan.parts if one.group == number and batch in one.batches())
    # It may have been sealed since the campaign was looked at.
    place = Place(part, Standing(standing.workspace, standing.plan).sealed.get(part.name, ()))
    found = np.full((len(trials), *_extent(store, array)), own.fill, own.dtype)
    names = {trial: row for row, trial in enumerate(trials)}
    for file, path in zip(place.files, standing.files(array.table or "draws", place), strict=True):
        order = _order(standing.workspace.trials_archive / f"{file}.parquet")
        here = {trial: row for trial, row in names.items() if trial in order}
        if here and array.table:
            _put_items(path, own, here, found, store.layout.draws is not None)
        elif here:
            size = standing.rows(number)
            for row, values in _runs(path, own, sorted((order[trial], row) for trial, row in here.items()), size):
                # What has no chains stands with each chain of the others.
                each = values[: len(values) if array.chains else size // _chains(store)]
                found[row : row + 1] = each.reshape(1, *found.shape[1:])
    return found


def _extent(store: HotStore, array: ArrayLayout) -> tuple[int, ...]:
    """Axes of an output behind that of trials."""
    draws = () if store.layout.draws is None else (store.layout.draws,)
    return (*((array.chains,) if array.chains else ()), *draws, *array.shape)


def _chains(store: HotStore) -> int:
    return max([1, *(array.chains for array in store.layout.arrays)])


@lru_cache(maxsize=8)
def _footer(path: Path) -> pq.FileMetaData:
    return pq.read_metadata(path)


@lru_cache(maxsize=8)
def _order(path: Path) -> Mapping[str, int]:
    """By trial its place in a sealed file; such files never change."""
    return {trial: place for place, trial in enumerate(pq.read_table(path, columns=["trial"])["trial"].to_pylist())}


def _runs(path: Path, own: Codec, wanted: list[tuple[int, int]], size: int) -> Iterator[tuple[int, Row]]:
    """For (place in the file, row) of some trials: row and values (rows of the table, own)."""
    array = own.array
    with pq.ParquetFile(path, metadata=_footer(path)) as file:
        ends = np.cumsum([file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)])
        kept: tuple[tuple[int, ...], Row] = ((), np.empty(0))
        for place, row in wanted:
            first = place * size
            low, high = np.searchsorted(ends, (first, first + size - 1), "right")
            groups = tuple(range(low, high + 1))
            if kept[0] != groups:
                column = file.read_row_groups(list(groups), columns=[array.name])[array.name]
                kept = groups, _values(column, own, array.shape)
            start = first - (int(ends[groups[0] - 1]) if groups[0] else 0)
            yield row, kept[1][start : start + size]


def _put_items(path: Path, own: Codec, rows: Mapping[str, int], found: Row, draws: bool) -> None:
    """Put the items of some trials where they belong."""
    array = own.array
    table = pq.ParquetFile(path).read(columns=["trial", "chain", "draw", "item", array.name])
    table = table.filter(pc.is_in(table["trial"], pa.array(list(rows))))
    row = np.array([rows[trial] for trial in table["trial"].to_pylist()], np.int64)
    chain, draw, item = (table[name].to_numpy() for name in ("chain", "draw", "item"))
    keep = slice(None) if array.chains else chain == 0
    place = (row, *[chain] * bool(array.chains), *[draw] * draws, item)
    found[tuple(axis[keep] for axis in place)] = _values(table[array.name], own, array.shape[1:])[keep]


def _values(column: pa.ChunkedArray, own: Codec, shape: tuple[int, ...]) -> Row:
    """A column as (rows, own)."""
    values = column.combine_chunks()
    return own.of_column(values.flatten() if shape else values).reshape(len(values), *shape)
