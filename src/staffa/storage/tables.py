"""From a batch's arrays to Arrow tables: draws, ragged items, and one summary row a trial.

Arrays are variable-length lists, never of fixed size, since groups may differ; their shape
stands in the field's metadata. Every file carries the campaign's full schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.storage.hot import ArrayLayout
from staffa.trial import Outcome

Row = npt.NDArray[Any]
_WORDS = np.array([Outcome(c).word if c in set(Outcome) else "" for c in range(256)], dtype=object)

ARROW = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}


@dataclass(frozen=True)
class ArchiveLayout:
    """The columns of a campaign's archive, the same for every file."""

    parameters: tuple[tuple[str, str], ...]
    """Names and declared types of all parameters of the campaign."""
    outputs: tuple[ArrayLayout, ...]
    """All outputs of all groups; an extent that differs between groups is 0."""
    partition_by: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the ragged outputs' tables."""
        return tuple(sorted({output.table for output in self.outputs if output.table}))

    def draws(self) -> pa.Schema:
        """One row per trial x chain x draw."""
        outputs = [_field(output) for output in self.outputs if not output.table]
        return pa.schema([*self._head(), *outputs])

    def items(self, table: str) -> pa.Schema:
        """One row per item of a ragged output."""
        outputs = [_field(o, own=o.shape[1:]) for o in self.outputs if o.table == table]
        return pa.schema([*self._head(), pa.field("item", pa.int64()), *outputs])

    def trials(self) -> pa.Schema:
        """One row per settled trial: parameters, outcome, timings, summaries."""
        fields = [
            pa.field("trial", pa.string()),
            pa.field("replicate", pa.int64()),
            pa.field("sampler", pa.string()),
        ]
        fields += [pa.field(name, ARROW[type_name]) for name, type_name in self.parameters]
        fields += [pa.field("outcome", pa.string()), pa.field("seconds", pa.float64())]
        fields += [pa.field("attempts", pa.int64()), pa.field("node", pa.string())]
        for output in self.outputs:
            if not output.table:
                fields.append(pa.field(f"{output.name}.count", pa.int64()))
                fields += [_summary_field(output, word) for word in ("mean", "sd", "min", "max")]
        return pa.schema(fields)

    def failed(self) -> pa.Schema:
        """Trials without data."""
        fields = [
            pa.field("trial", pa.string()),
            pa.field("replicate", pa.int64()),
            pa.field("sampler", pa.string()),
        ]
        fields += [pa.field(name, ARROW[type_name]) for name, type_name in self.parameters]
        fields += [pa.field("outcome", pa.string()), pa.field("message", pa.string())]
        return pa.schema([*fields, pa.field("attempts", pa.int64()), pa.field("state", pa.string())])

    def _head(self) -> list[pa.Field]:
        kept = [(n, ARROW[t]) for n, t in (("sampler", "str"), *self.parameters) if n not in self.partition_by]
        fixed = [
            ("trial", pa.string()),
            ("replicate", pa.int64()),
            ("chain", pa.int64()),
            ("draw", pa.int64()),
        ]
        return [pa.field(name, kind) for name, kind in (*fixed, *kept)]


@dataclass
class Block:
    """The trials of one batch (or some of its rows) that have data, in memory."""

    digests: list[str]
    replicates: Row
    sampler: str
    parameters: Mapping[str, Row]
    outcomes: Row
    seconds: Row
    outputs: dict[str, Row]
    """rows x [chain x] [draw x] own axes."""
    layouts: Mapping[str, ArrayLayout]
    has_draws: bool

    @property
    def rows(self) -> int:
        return len(self.digests)


def draw_table(block: Block, archive: ArchiveLayout) -> pa.Table:
    """Flatten a block to one row per trial x chain x draw."""
    chains, draws = _extent(block)
    repeat = chains * draws
    schema = archive.draws()
    columns = _head_columns(block, archive, np.full(block.rows, repeat))
    columns["chain"] = pa.array(np.tile(np.repeat(np.arange(chains), draws), block.rows))
    columns["draw"] = pa.array(np.tile(np.arange(draws), block.rows * chains))
    for output in archive.outputs:
        if not output.table and output.name in block.outputs:
            columns[output.name] = _values(_per_draw(block, output.name, chains), block.layouts[output.name].shape)
    return _table(columns, schema, block.rows * repeat)


def item_table(block: Block, archive: ArchiveLayout, table: str) -> pa.Table:
    """Flatten a ragged output: only the first `length` items of each draw."""
    members = [o for o in archive.outputs if o.table == table and o.name in block.outputs]
    schema = archive.items(table)
    if not members:
        return schema.empty_table()
    chains, draws = _extent(block)
    counts = _per_draw(block, members[0].length, chains).reshape(-1).astype(np.int64)
    longest = block.layouts[members[0].name].shape[0]
    counts = np.clip(counts, 0, longest)
    per_trial = counts.reshape(block.rows, -1).sum(axis=1)
    columns = _head_columns(block, archive, per_trial)
    row = np.repeat(np.arange(len(counts)), counts)
    columns["chain"] = pa.array(row // draws % chains)
    columns["draw"] = pa.array(row % draws)
    inside = np.arange(longest)[None, :] < counts[:, None]
    columns["item"] = pa.array(np.nonzero(inside)[1].astype(np.int64))
    for output in members:
        shape = block.layouts[output.name].shape
        flat = _per_draw(block, output.name, chains).reshape(-1, longest, *shape[1:])
        columns[output.name] = _values(flat[inside], shape[1:])
    return _table(columns, schema, int(counts.sum()))


@dataclass
class Moments:
    """Count, mean, sum of squared deviations and extremes along draws, mergeable in any order."""

    count: int
    mean: Row
    squares: Row
    low: Row
    high: Row

    def merge(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque (1983): combine the moments of two disjoint sets of draws."""
        total = self.count + other.count
        with np.errstate(invalid="ignore"):  # infinities have a mean, but no deviation from it
            delta = other.mean - self.mean
            mean = self.mean * (self.count / total) + other.mean * (other.count / total)
            squares = self.squares + other.squares + delta * delta * (self.count * other.count / total)
        return Moments(total, mean, squares, np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def moments(values: Row, axes: tuple[int, ...]) -> Moments:
    """Moments of (rows, [chain,] draw, own...) over `axes` (chain and draw), in double precision."""
    count = math.prod(values.shape[axis] for axis in axes)
    first = np.moveaxis(values, axes, range(len(axes)))
    # With draws in front every reduction runs along contiguous rows: five times as fast as
    # reducing a middle axis, the copy included.
    flat = np.ascontiguousarray(first).reshape(count, -1)
    mean = flat.mean(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # infinities have a mean, but no deviation from it
        deviations = flat - mean
    squares = np.einsum("ij,ij->j", deviations, deviations)
    found = (mean, squares, flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64))
    return Moments(count, *(row.reshape(first.shape[len(axes) :]) for row in found))


def block_moments(block: Block, archive: ArchiveLayout) -> dict[str, Moments]:
    """Moments of each output that is not ragged, over chains and draws."""
    found = {}
    for output in archive.outputs:
        if output.name in block.outputs and not output.table:
            values = block.outputs[output.name]
            chained = bool(block.layouts[output.name].chains)
            lead = int(chained) + int(block.has_draws)
            if not lead:
                values, lead = values[:, None], 1
            found[output.name] = moments(values, tuple(range(1, 1 + lead)))
    return found


def trial_table(
    block: Block,
    summaries: Mapping[str, Moments],
    archive: ArchiveLayout,
    attempts: Row,
    nodes: Sequence[str],
) -> pa.Table:
    """One row a trial."""
    ones = np.ones(block.rows, np.int64)
    columns = _head_columns(block, ArchiveLayout(archive.parameters, archive.outputs), ones)
    columns["outcome"] = pa.array(_WORDS[block.outcomes])
    columns["seconds"] = pa.array(block.seconds.astype(np.float64))
    columns["attempts"] = pa.array(attempts)
    columns["node"] = pa.array(list(nodes), pa.string())
    for name, found in summaries.items():
        shape = block.layouts[name].shape
        sd = np.sqrt(np.maximum(found.squares, 0) / max(found.count - 1, 1))
        columns[f"{name}.count"] = pa.array(np.full(block.rows, found.count))
        for word, values in (("mean", found.mean), ("sd", sd), ("min", found.low), ("max", found.high)):
            columns[f"{name}.{word}"] = _values(values, shape)
    return _table(columns, archive.trials(), block.rows)


def _extent(block: Block) -> tuple[int, int]:
    chains = max([layout.chains for layout in block.layouts.values()] or [0])
    if not block.has_draws:
        return max(chains, 1), 1
    name, layout = next(iter(block.layouts.items()))
    return max(chains, 1), block.outputs[name].shape[2 if layout.chains else 1]


def _per_draw(block: Block, name: str, chains: int) -> Row:
    """An output as (rows x chains x draws, own...): repeated over chains where it has none."""
    values, layout = block.outputs[name], block.layouts[name]
    if not layout.chains and chains > 1:
        values = np.repeat(values[:, None], chains, axis=1)
    return values.reshape(-1, *layout.shape)


def _head_columns(block: Block, archive: ArchiveLayout, repeat: Row) -> dict[str, pa.Array]:
    columns = {"trial": digest_column(block.digests, repeat)}
    columns["replicate"] = pa.array(np.repeat(block.replicates.astype(np.int64), repeat))
    total = int(repeat.sum())
    columns["sampler"] = pa.array([block.sampler]).take(pa.array(np.zeros(total, np.int32)))
    for name, type_name in archive.parameters:
        if name not in archive.partition_by and name in block.parameters:
            values = block.parameters[name]
            if type_name == "str":
                distinct, codes = np.unique(values.astype(object).astype(str), return_inverse=True)
                columns[name] = pa.array(list(distinct), pa.string()).take(pa.array(np.repeat(codes, repeat)))
            else:
                columns[name] = pa.array(np.repeat(values, repeat), ARROW[type_name])
    return columns


def digest_column(digests: Sequence[str] | Row, repeat: Row) -> pa.Array:
    """Trial names, each repeated so often, as an Arrow string column."""
    # Every digest has the same length, so offsets need no look at the text: ten times as fast
    # as an Arrow take of strings, for the column with the most bytes of all.
    if not len(digests):
        return pa.array([], pa.string())
    width = len(digests[0])
    text = np.repeat(np.asarray(digests, dtype=f"S{width}"), repeat)
    offsets = np.arange(0, (len(text) + 1) * width, width, dtype=np.int64)
    if offsets[-1] < 2**31:
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text)]
        return pa.StringArray.from_buffers(len(text), buffers[1], buffers[2])
    return pa.LargeStringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(text)).cast(pa.string())


def _values(values: Row, shape: tuple[int, ...]) -> pa.Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.name == "bfloat16":
        flat = flat.astype(np.float32)
    array = pa.array(flat)
    if not shape:
        return array
    size = math.prod(shape)
    rows = len(flat) // size if size else len(values)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int64) * size).cast(pa.int32())
    return pa.ListArray.from_arrays(offsets, array)


def _table(columns: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _field(output: ArrayLayout, own: tuple[int, ...] | None = None) -> pa.Field:
    shape = output.shape if own is None else own
    name = "float32" if output.dtype == "bfloat16" else output.dtype
    kind = pa.from_numpy_dtype(np.dtype(name))
    if not shape:
        return pa.field(output.name, kind)
    dims = output.dims if own is None else output.dims[1:]
    metadata = {"shape": _extents(shape), "dims": json.dumps(list(dims))}
    return pa.field(output.name, pa.list_(kind), metadata=metadata)


def _extents(shape: tuple[int, ...]) -> str:
    """A shape for a field's metadata: `[null, 3]` where the first extent is not the same in all groups."""
    return json.dumps([extent or None for extent in shape])


def _summary_field(output: ArrayLayout, word: str) -> pa.Field:
    kind = pa.list_(pa.float64()) if output.shape else pa.float64()
    metadata = {"shape": _extents(output.shape)} if output.shape else None
    return pa.field(f"{output.name}.{word}", kind, metadata=metadata)
