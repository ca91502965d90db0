"""Arrays of outputs as Arrow columns, and their fields."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Row = npt.NDArray[Any]


def column(values: Row, shape: tuple[int, ...], gone: Row | None = None) -> pa.Array:
    """Rows of numbers, or of arrays of one shape as variable-length lists.

    Arguments:
    - `gone`: (rows,): rows that are null.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.name == "bfloat16":
        flat = flat.astype(np.float32)
    if not shape:
        return pa.array(flat, mask=gone)
    return _lists(pa.array(flat), shape, len(values), gone)


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


def field(name: str, kind: pa.DataType, shape: Sequence[int] = (), dims: Sequence[str] = ()) -> pa.Field:
    """A column of numbers of some type, or of lists of them, with shape (and names of axes) in its metadata."""
    if not shape:
        return pa.field(name, kind)
    # `[null, 3]` where the first extent is not the same in all groups.
    metadata = {"shape": json.dumps([extent or None for extent in shape])}
    if dims:
        metadata["dims"] = json.dumps(list(dims))
    return pa.field(name, pa.list_(kind), metadata=metadata)


def arrow(dtype: str) -> pa.DataType:
    """The Arrow type of an output's elements."""
    return pa.from_numpy_dtype(np.dtype("float32" if dtype == "bfloat16" else dtype))
