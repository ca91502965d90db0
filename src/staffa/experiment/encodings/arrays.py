"""Arrays whose length differs from trial to trial, or draw to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.experiment.encoding import Encoding, described, objects
from staffa.experiment.encodings.text import sound
from staffa.experiment.encodings.times import UNITS, exact, moment_type

Row = npt.NDArray[Any]


@dataclass(frozen=True)
class Ragged(Encoding):
    """An array of numbers, bools, text or times whose first axis has any length: `encodings = {"path": "ragged"}`.

    Arguments:
    - `kind`: what its elements are in NumPy; `string` for text.
    - `shape`: of its other axes. The archive has all elements in one list, as of any array.
    """

    kind: str
    shape: tuple[int, ...] = ()
    automatic = False

    @classmethod
    def of(cls, value: Any) -> Self | None:
        array = _array(value)
        if array is None:
            return None
        if 0 in array.shape[1:]:
            raise ValueError(f"has shape {array.shape}: only the first axis may be empty")
        return cls("string" if array.dtype.kind == "U" else array.dtype.name, tuple(array.shape[1:]))

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        if self.kind == "string":
            return pa.list_(pa.string())
        dtype = np.dtype(self.kind)
        return pa.list_(moment_type(np.datetime_data(dtype)[0]) if dtype.kind == "M" else pa.from_numpy_dtype(dtype))

    def misfit(self, value: Any) -> str:
        array = _array(value)
        if array is not None and not array.size and array.shape[1:] in ((), self.shape):
            return ""  # without elements it has no type to be wrong
        text = array is not None and array.dtype.kind == "U"
        if array is None or text != (self.kind == "string"):
            return f"is {described(value)}"
        if array.shape[1:] != self.shape:
            return (
                f"has shape {array.shape}, and only the first axis may be another than the pilot trial's, {self.shape}"
            )
        cast = text or array.dtype.kind in "mM" or np.can_cast(array.dtype, self.kind, "same_kind")
        return "" if cast else f"has dtype {array.dtype}, the pilot trial's had {self.kind}"

    def encode(self, value: Any) -> Any:
        flat = np.ascontiguousarray(_array(value)).reshape(-1)
        if not flat.size:
            return []
        if self.kind == "string":
            return [sound(one) for one in flat.tolist()]
        if flat.dtype.kind not in "mM":
            return flat.astype(self.kind)
        # Coarser times stand as finer ones where Parquet knows no others.
        return exact(exact(flat, self.kind), self.type.value_type.to_pandas_dtype())

    def flagged(self, value: Any) -> bool:
        array = np.asarray(value)
        return bool(np.issubdtype(array.dtype, np.inexact) and np.isnan(array).any())

    def array(self, column: pa.Array) -> Row:
        return objects([self._one(one.values) if one.is_valid else None for one in column])

    def _one(self, flat: pa.Array) -> Row:
        found = np.asarray(flat.to_numpy(zero_copy_only=False))
        found = found.astype(str if self.kind == "string" else self.kind)
        return found.reshape(-1, *self.shape)


def _array(value: Any) -> Row | None:
    """A value as an array with a first axis, of elements that can be recorded; None where it is none."""
    if not isinstance(value, np.ndarray | list | tuple) and not hasattr(value, "__array__"):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    times = array.dtype.kind in "mM" and np.datetime_data(array.dtype) in [(unit, 1) for unit in UNITS]
    return array if array.ndim and (array.dtype.kind in "fiubU" or times) else None
