"""Arrays of outputs as Arrow columns, and their fields."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from staffa.cells import TEXT, texts, type_of
from staffa.storage.layouts import ArrayLayout

Row = npt.NDArray[Any]


def column(values: Row, shape: tuple[int, ...], gone: Row | None = None, layout: ArrayLayout | None = None) -> pa.Array:
    """Rows of elements, or of arrays of one shape of them as variable-length lists.

    Arguments:
    - `gone`: (rows,): rows that are null.
    - `layout`: of an output what its elements are; without it they are numbers.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if layout is not None and not layout.numeric:
        cells = elements(flat, layout)
        if shape:
            return _lists(cells, shape, len(values), gone)
        return cells if gone is None else pc.if_else(pa.array(gone), pa.scalar(None, cells.type), cells)
    if flat.dtype.name == "bfloat16":
        flat = flat.astype(np.float32)
    if not shape:
        return pa.array(flat, mask=gone)
    return _lists(pa.array(flat), shape, len(values), gone)


def elements(flat: Row, layout: ArrayLayout) -> pa.Array:
    """Texts, times, or codes, as they stand in the hot store, as Arrow has them; null where one is missing."""
    if layout.dtype == TEXT:
        return texts(flat)
    kind = type_of(layout.type)
    if layout.categories:
        return pa.array([None, *layout.categories], kind).take(pa.array(flat))
    found = pa.array(flat)
    if found.type == kind:
        return found
    # Whole seconds stand as milliseconds; those with a time zone are in UTC.
    return found.cast(pa.timestamp(kind.unit)).view(kind)


def defined(values: Row, shape: tuple[int, ...]) -> pa.Array:
    """The same, null for NaN: what cannot be said of a row is left out of averages."""
    flat = np.ascontiguousarray(values).reshape(-1)
    cells = pa.array(flat, mask=np.isnan(flat))
    return _lists(cells, shape, len(values)) if shape else cells


def _lists(cells: pa.Array, shape: tuple[int, ...], empty: int, gone: Row | None = None) -> pa.Array:
    """Numbers as lists of so many of them; where that is none, `empty` lists."""
    size = math.prod(shape)
    rows = len(cells) // size if size else empty
    offsets = pa.array(np.arange(rows + 1, dtype=np.int64) * size).cast(pa.int32())
    return pa.ListArray.from_arrays(offsets, cells, mask=None if gone is None else pa.array(gone))


def field(
    name: str, kind: pa.DataType, shape: Sequence[int] = (), dims: Sequence[str] = (), encoding: str = ""
) -> pa.Field:
    """A column of elements of some type, or of lists of them.

    In its metadata stand the shape of lists, names of axes, and how values that are no numbers are encoded.
    """
    metadata = {"encoding": encoding} if encoding else {}
    if not shape:
        return pa.field(name, kind, metadata=metadata or None)
    # `[null, 3]` where the first extent is not the same in all groups.
    metadata["shape"] = json.dumps([extent or None for extent in shape])
    if dims:
        metadata["dims"] = json.dumps(list(dims))
    return pa.field(name, pa.list_(kind), metadata=metadata)


def arrow(layout: ArrayLayout) -> pa.DataType:
    """The Arrow type of an output's elements; of one that stands in cells that of its values."""
    if layout.type:
        return type_of(layout.type)
    return pa.from_numpy_dtype(np.dtype("float32" if layout.dtype == "bfloat16" else layout.dtype))
