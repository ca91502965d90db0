"""Arrays of what is no number: how text, times and whatever Arrow describes stand in them.

An element type is named by one word. Besides NumPy's own names there are two: `string`, of which an array holds Python
texts, and `bytes`, of which it holds cells: all values of one trial together, as an Arrow IPC stream of one column.
Both are arrays of objects in memory and of variable length on disk; neither is ever pickled.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Row = npt.NDArray[Any]

TEXT = "string"
CELLS = "bytes"
NOTHING = "\uffff"
"""Stands for a text that is missing: no character, by Unicode's own word. A text that begins with it has one more."""
COLUMN = "value"
"""The column of a cell's stream."""
_ENDS = "/ends"


def element_type(word: str) -> np.dtype[Any]:
    """What an array of such elements has for a dtype in memory."""
    return np.dtype(object if word in (TEXT, CELLS) else word)


def fill(word: str) -> Any:
    """What stands where there are no data: NaN, NaT, an empty text or cell, else 0."""
    if word in (TEXT, CELLS):
        return "" if word == TEXT else b""
    kind = np.dtype(word)
    if kind.kind in "mM":
        return np.array("NaT", kind)[()]
    return np.nan if np.issubdtype(kind, np.inexact) else kind.type(0)


def blank(shape: tuple[int, ...], word: str) -> Row:
    """An array in which nothing stands yet."""
    return np.full(shape, fill(word), element_type(word))


def is_blank(data: Row) -> bool:
    """Whether nothing but fill stands in an array."""
    if data.dtype.kind in "mM":
        return bool(np.isnat(data).all())
    return bool(np.isnan(data).all()) if np.issubdtype(data.dtype, np.inexact) else not data.any()


def text(value: str | None) -> str:
    """A text, or None, as it stands in an array."""
    if value is None:
        return NOTHING
    return NOTHING + value if value.startswith(NOTHING) else value


def texts(array: Row) -> pa.Array:
    """A flat array of texts as they stand there, as Arrow's: null where one is missing."""
    found = pa.array(array, pa.string())
    if not pc.any(pc.starts_with(found, NOTHING)).as_py():
        return found
    return pa.array([None if one == NOTHING else one.removeprefix(NOTHING) for one in array], pa.string())


def cell(values: pa.Array) -> bytes:
    """The values of one trial as one cell."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([pa.field(COLUMN, values.type)])) as stream:
        stream.write_batch(pa.record_batch([values], [COLUMN]))
    return bytes(sink.getvalue())


def opened(cells: Iterable[bytes], kind: pa.DataType, values: int) -> pa.Array:
    """The values of some trials, one after another.

    Arguments:
    - `values`: how many each trial has; those of an empty cell are null.
    """
    found = [pa.nulls(values, kind) if not one else _values(one) for one in cells]
    return pa.concat_arrays(found) if found else pa.array([], kind)


def _values(one: bytes) -> pa.Array:
    with pa.ipc.open_stream(one) as stream:
        return stream.read_all()[COLUMN].combine_chunks()


def packed(arrays: Mapping[str, Row]) -> dict[str, Row]:
    """Arrays without objects or times in them, for files that know numbers only; `unpacked` undoes it."""
    found: dict[str, Row] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "mM":
            found[name] = array.view(np.int64)
        elif array.dtype.hasobject:
            parts = [one if isinstance(one, bytes) else one.encode() for one in array.reshape(-1)]
            found[name] = np.frombuffer(b"".join(parts), np.uint8)
            found[name + _ENDS] = np.cumsum([len(part) for part in parts], dtype=np.int64).reshape(array.shape)
        else:
            found[name] = array
    return found


def unpacked(arrays: Mapping[str, Row], words: Mapping[str, str]) -> dict[str, Row]:
    """Packed arrays as they were.

    Arguments:
    - `words`: element types of those that may have been objects or times; of others nothing is changed.
    """
    found = {}
    for name, array in arrays.items():
        word = words.get(name, "")
        if name.endswith(_ENDS) and name.removesuffix(_ENDS) in words:
            continue
        if word in (TEXT, CELLS):
            ends, data = arrays[name + _ENDS], array.tobytes()
            starts = [0, *ends.reshape(-1)[:-1].tolist()]
            parts = [data[start:end] for start, end in zip(starts, ends.reshape(-1).tolist(), strict=True)]
            whole = np.empty(len(parts), object)
            whole[:] = [part.decode() for part in parts] if word == TEXT else parts
            found[name] = whole.reshape(ends.shape)
        else:
            found[name] = array.view(word) if word and np.dtype(word).kind in "mM" else array
    return found


def type_text(kind: pa.DataType) -> str:
    """An Arrow type as text that `type_of` understands: the schema of a cell, as Arrow serializes it, in base 64."""
    return base64.b64encode(pa.schema([pa.field(COLUMN, kind)]).serialize().to_pybytes()).decode()


def type_of(text: str) -> pa.DataType:
    """The Arrow type that a text tells."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text))).field(COLUMN).type
