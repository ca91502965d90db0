"""From a batch's arrays to Arrow tables: draws, ragged items, and one summary row a trial.

Arrays are variable-length lists, never of fixed size, since groups may differ; their shape
stands in the field's metadata. Every file carries the campaign's full schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as own
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from staffa.cells import fill, opened
from staffa.storage.columns import arrow, column, defined, field
from staffa.storage.extracts import ExtractLayout, extract_columns, extract_field
from staffa.storage.layouts import ArrayLayout, GroupLayout
from staffa.trial import Outcome

Row = npt.NDArray[Any]
_WORDS = np.array([Outcome(c).word if c in set(Outcome) else "" for c in range(256)], dtype=object)

ARROW = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}

KEYS = ("trial", "chain", "draw", "item")
"""Columns that tell rows apart."""
MOMENTS = ("count", "mean", "sd", "min", "max")
"""Words of the table of trials that come from moments, which merge along the draws."""


@dataclass(frozen=True)
class ArchiveLayout:
    """The columns of a campaign's archive, the same for every file."""

    parameters: tuple[tuple[str, str], ...]
    """Names and declared types of all parameters of the campaign."""
    outputs: tuple[ArrayLayout, ...]
    """All outputs of all groups; an extent that differs between groups is 0."""
    partition_by: tuple[str, ...] = ()
    summaries: tuple[str, ...] = MOMENTS
    """What the table of trials says of each output: moments, and words that need all draws at once."""
    diagnosed: int = 1
    """Elements an output may have for those words to be said of it, of each element for itself."""
    identity: str = ""
    """Names the campaign in each file's metadata."""
    extracts: tuple[ExtractLayout, ...] = ()
    """Further columns of the table of trials, of all groups."""
    about: Mapping[str, Mapping[str, str]] = own(default_factory=dict)
    """What is said of parameters (`unit`, `comment`, …): stands in their columns' metadata."""

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
        fields += [self._parameter(name, kind) for name, kind in self.parameters]
        fields += [pa.field("outcome", pa.string()), pa.field("seconds", pa.float64())]
        fields += [pa.field("attempts", pa.int64()), pa.field("node", pa.string())]
        for output in self.outputs:
            if not output.table:
                fields += [_summary_field(output, word) for word in self.said(output)]
        own = {output.name: output for output in self.outputs}
        return pa.schema([*fields, *(extract_field(extract, own) for extract in self.extracts)])

    def said(self, output: ArrayLayout) -> tuple[str, ...]:
        """The words that stand of an output in the table of trials."""
        if not output.numeric:
            return ()
        return tuple(w for w in self.summaries if w in MOMENTS or not output.shape or self.diagnosed > 1)

    def failed(self) -> pa.Schema:
        """Trials without data."""
        fields = [
            pa.field("trial", pa.string()),
            pa.field("replicate", pa.int64()),
            pa.field("sampler", pa.string()),
        ]
        fields += [self._parameter(name, kind) for name, kind in self.parameters]
        fields += [pa.field("outcome", pa.string()), pa.field("message", pa.string())]
        return pa.schema([*fields, pa.field("attempts", pa.int64()), pa.field("state", pa.string())])

    def _head(self) -> list[pa.Field]:
        kept = [one for one in (("sampler", "str"), *self.parameters) if one[0] not in self.partition_by]
        fixed = [
            ("trial", pa.string()),
            ("replicate", pa.int64()),
            ("chain", pa.int64()),
            ("draw", pa.int64()),
        ]
        return [*(pa.field(name, kind) for name, kind in fixed), *(self._parameter(*one) for one in kept)]

    def _parameter(self, name: str, kind: str) -> pa.Field:
        return pa.field(name, ARROW[kind], metadata=self.about.get(name))


@dataclass
class Block:
    """The trials of one batch (or some of its rows) that have data, in memory."""

    digests: list[str] | Row
    """Names, or (rows,) the same as bytes."""
    replicates: Row
    sampler: str
    parameters: Mapping[str, Row]
    outcomes: Row
    seconds: Row
    outputs: dict[str, Row]
    """rows x [chain x] [draw x] own axes."""
    layouts: Mapping[str, ArrayLayout]
    draws: int | None
    """Draws of each chain; None for outputs without a draw axis."""

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
            columns[output.name] = _drawn(block, output.name, chains)
    return _table(columns, schema, block.rows * repeat)


def item_table(block: Block, archive: ArchiveLayout, table: str) -> pa.Table:
    """Flatten a ragged output: only the first `length` items of each draw."""
    members = [o for o in archive.outputs if o.table == table and o.name in block.layouts]
    schema = archive.items(table)
    if not members:
        return schema.empty_table()
    items = _items(block, members[0])
    columns = _head_columns(block, archive, items.per_trial) | items.columns
    for output in (member for member in members if member.name in block.outputs):
        layout = block.layouts[output.name]
        flat = items.flat(block.outputs[output.name], layout)
        columns[output.name] = column(flat, layout.shape[1:], layout=layout)
    return _table(columns, schema, int(items.per_trial.sum()))


def applied_table(block: Block, table: str, found: Mapping[str, Row]) -> pa.Table:
    """Columns that were made of a block: rows parallel to those of a ragged output, or one a trial.

    Arguments:
    - `table`: the ragged output's; "" for one row a trial.
    - `found`: by name (trials, own); of a ragged output (trials, [chain,] [draw,] room, own), as it is itself.

    Raises `ValueError` that names the column for other shapes, and for types that have no place in a table.
    """
    layout = next((one for one in block.layouts.values() if table and one.table == table), None)
    lead: tuple[int, ...] = (block.rows,)
    if layout is not None:
        chains = (layout.chains,) if layout.chains else ()
        draws = () if block.draws is None else (block.draws,)
        lead = (block.rows, *chains, *draws, layout.shape[0])
    for name, values in found.items():
        _check_column(name, values, lead)
    items = None if layout is None else _items(block, layout)
    per_trial = np.ones(block.rows, np.int64) if items is None else items.per_trial
    columns = {"trial": digest_column(block.digests, per_trial)} | ({} if items is None else items.columns)
    fields = [pa.field(name, made.type) for name, made in columns.items()]
    for name, values in found.items():
        own = values.shape[len(lead) :]
        flat = values
        if items is not None and layout is not None:
            flat = items.flat(values, replace(layout, shape=values.shape[len(lead) - 1 :]))
        columns[name] = column(flat, own)
        kind = columns[name].type
        fields.append(field(name, kind.value_type if own else kind, own))
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))


def _check_column(name: str, values: Row, lead: tuple[int, ...]) -> None:
    if name in KEYS:
        raise ValueError(f"{name!r} is a column of every table")
    if values.shape[: len(lead)] != lead:
        raise ValueError(f"{name!r} has the shape {values.shape}, which does not begin with {lead}")
    if values.dtype.kind not in "biufmMU":
        raise ValueError(f"{name!r} holds {values.dtype}, which is no column of a table")


@dataclass(frozen=True)
class _Items:
    """The rows of a ragged output's table.

    Arguments:
    - `per_trial`: (rows,) how many are each trial's.
    - `inside`: (rows x chains x draws, room) where there is an item.
    - `columns`: chain, draw and item of each.
    """

    per_trial: Row
    inside: Row
    chains: int
    columns: dict[str, pa.Array]

    def flat(self, values: Row, layout: ArrayLayout) -> Row:
        """(items, own) of (rows, [chain,] [draw,] room, own)."""
        return _drawn_rows(values, layout, self.chains)[self.inside]


def _items(block: Block, layout: ArrayLayout) -> _Items:
    """Only the first `length` items of each draw."""
    chains, draws = _extent(block)
    longest = block.layouts[layout.name].shape[0]
    counts = np.clip(_per_draw(block, layout.length, chains).reshape(-1).astype(np.int64), 0, longest)
    row = np.repeat(np.arange(len(counts)), counts)
    inside = np.arange(longest)[None, :] < counts[:, None]
    columns = {
        "chain": pa.array(row // draws % chains),
        "draw": pa.array(row % draws),
        "item": pa.array(np.nonzero(inside)[1].astype(np.int64)),
    }
    return _Items(counts.reshape(block.rows, -1).sum(axis=1), inside, chains, columns)


def unrolled(table: pa.Table, trials: Sequence[str], array: ArrayLayout, layout: GroupLayout) -> Row:
    """An output of some trials from their rows: (trials, [chain,] [draw,] own), fill where there is none.

    Arguments:
    - `table`: of draws, or of the items of a ragged output; in any order.
    """
    chains = (array.chains,) if array.chains else ()
    draws = () if layout.draws is None else (layout.draws,)
    word = "float32" if array.dtype == "bfloat16" else array.dtype
    whole = np.full((len(trials), *chains, *draws, *array.shape), fill(word), word)
    if not array.chains:
        table = table.filter(pc.equal(table["chain"], 0))
    axes = ["chain"] * bool(chains) + ["draw"] * bool(draws) + ["item"] * bool(array.table)
    row = pc.index_in(table["trial"], pa.array(list(trials), pa.string()))
    place = tuple(np.asarray(axis.to_numpy()) for axis in (row, *(table[name] for name in axes)))
    cells = table[array.name].combine_chunks()
    own = array.shape[1:] if array.table else array.shape
    flat = np.asarray((cells.flatten() if own else cells).to_numpy(zero_copy_only=False))
    whole[place] = flat.reshape(len(cells), *own)
    return whole


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
        if output.name in block.outputs and output.numeric and not output.table:
            values = block.outputs[output.name]
            chained = bool(block.layouts[output.name].chains)
            lead = int(chained) + (block.draws is not None)
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
    more: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """One row a trial.

    Arguments:
    - `more`: columns that take all draws at once (`diagnosed_columns`, `extracted_columns`).
    """
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
            columns[f"{name}.{word}"] = column(values, shape)
    return _table({**columns, **(more or {})}, archive.trials(), block.rows)


Diagnose = Callable[[Row, Sequence[str]], Mapping[str, Row]]
"""For (series, chains, draws) numbers and words, of each word (series,) numbers."""


def diagnosed_columns(block: Block, archive: ArchiveLayout, diagnose: Diagnose, fewest: int) -> dict[str, pa.Array]:
    """Columns `x.ess` and so on, of outputs that are sampled: numbers that are not whole, with a draw axis.

    Null where nothing can be said (R-hat of a series that does not vary).

    Arguments:
    - `fewest`: draws below which nothing is said.
    """
    words = tuple(word for word in archive.summaries if word not in MOMENTS)
    found = {}
    for output in archive.outputs:
        layout = block.layouts.get(output.name)
        if output.name not in block.outputs or layout is None or output.table or not (words and block.draws):
            continue
        if "float" not in layout.dtype or not math.prod(layout.shape) <= archive.diagnosed:
            continue
        series = _series(block.outputs[output.name], layout)
        if series.shape[2] >= fewest:
            for word, numbers in diagnose(series, words).items():
                found[f"{output.name}.{word}"] = defined(numbers, layout.shape)
    return found


def extracted_columns(block: Block, archive: ArchiveLayout) -> dict[str, pa.Array]:
    """Columns of what the experiment wants to stand in a trial's row."""
    return extract_columns(archive.extracts, block.outputs, block.layouts, block.draws is not None)


def _series(values: Row, layout: ArrayLayout) -> Row:
    """(rows, [chain,] draw, own...) as (rows x own, chains, draws)."""
    lead = 2 if layout.chains else 1
    whole = values if layout.chains else values[:, None]
    own = tuple(range(3, whole.ndim))
    return np.transpose(whole, (0, *own, 1, 2)).reshape(-1, layout.chains or 1, values.shape[lead])


def _extent(block: Block) -> tuple[int, int]:
    chains = max([layout.chains for layout in block.layouts.values()] or [0])
    return max(chains, 1), 1 if block.draws is None else block.draws


def _drawn(block: Block, name: str, chains: int) -> pa.Array:
    """A column of the table of draws."""
    layout = block.layouts[name]
    if not layout.whole:
        return column(_per_draw(block, name, chains), layout.shape, layout=layout)
    draws = 1 if block.draws is None else block.draws
    found = opened(block.outputs[name], arrow(layout), draws)
    if chains == 1:
        return found
    # What has no chains stands with each chain of the others.
    each = np.arange(block.rows * draws).reshape(block.rows, 1, draws)
    return found.take(pa.array(np.repeat(each, chains, axis=1).reshape(-1)))


def _per_draw(block: Block, name: str, chains: int) -> Row:
    """An output as (rows x chains x draws, own...): repeated over chains where it has none."""
    return _drawn_rows(block.outputs[name], block.layouts[name], chains)


def _drawn_rows(values: Row, layout: ArrayLayout, chains: int) -> Row:
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


def same_rows(one: pa.Table, two: pa.Table) -> bool:
    """Whether two tables have the same rows, in whatever order, bit for bit: a NaN is equal to itself."""
    if one.num_rows != two.num_rows or set(one.column_names) != set(two.column_names):
        return False
    keys = [(name, "ascending") for name in KEYS if name in one.column_names]
    first, second = (table.select(one.column_names).sort_by(keys).combine_chunks() for table in (one, two))
    return all(_same(a, b) for a, b in zip(_columns(first), _columns(second), strict=True))


def _columns(table: pa.Table) -> list[pa.Array]:
    return [column.combine_chunks() for column in table.columns]


def _same(one: pa.Array, two: pa.Array) -> bool:
    if one.type != two.type or len(one) != len(two):
        return False
    if not one.is_null().equals(two.is_null()):
        return False
    if pa.types.is_list(one.type):
        sizes = one.value_lengths().equals(two.value_lengths())
        return bool(sizes) and _same(one.flatten(), two.flatten())
    if pa.types.is_struct(one.type):
        return all(_same(first, second) for first, second in zip(one.flatten(), two.flatten(), strict=True))
    if pa.types.is_floating(one.type):
        bits = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[one.type.bit_width]
        one, two = one.view(bits), two.view(bits)
    return bool(one.equals(two))


def _table(columns: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _field(output: ArrayLayout, own: tuple[int, ...] | None = None) -> pa.Field:
    shape, dims = (output.shape, output.dims) if own is None else (own, output.dims[1:])
    return field(output.name, arrow(output), shape, dims, output.encoding)


def _summary_field(output: ArrayLayout, word: str) -> pa.Field:
    if word == "count":
        return pa.field(f"{output.name}.count", pa.int64())
    return field(f"{output.name}.{word}", pa.float64(), output.shape)
