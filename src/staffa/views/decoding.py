"""From columns of the archive back to the values that were recorded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.errors import PluginError, StaffaWarning
from staffa.experiment.encoded import restored
from staffa.experiment.encoding import Elements, Encoding, objects

Row = npt.NDArray[Any]


@dataclass(frozen=True)
class Plain(Encoding):
    """In place of an encoding that is not installed: values as Arrow has them."""

    def array(self, column: pa.Array) -> Row:
        return objects(column.to_pylist())

    def value(self, elements: Row) -> Any:
        return elements if elements.shape else elements[()]


def encoding(told: str, name: str) -> Encoding:
    """The encoding of an output, by what its layout or the metadata of its column tell.

    One that is not installed is warned of, and its values are left as they stand in the archive.
    """
    try:
        return restored(told)
    except PluginError as error:
        warnings.warn(f"{name}: shown as the archive has it: {error.message}", StaffaWarning, stacklevel=3)
        return Plain()


def decoder(field: pa.Field) -> Encoding | None:
    """The encoding of a column's values; None for numbers, and for arrays of elements."""
    said: Mapping[bytes, bytes] = field.metadata or {}
    return encoding(said[b"encoding"].decode(), field.name) if b"encoding" in said and b"shape" not in said else None


def numpy_values(column: pa.ChunkedArray, field: pa.Field) -> Row:
    """A column for NumPy; arrays of one shape are stacked, others stay objects."""
    whole = column.combine_chunks()
    own = decoder(field)
    if own is not None:
        return own.array(whole)
    if not pa.types.is_list(whole.type):
        return np.asarray(column.to_numpy())
    lengths = {len(value) for value in whole if value.is_valid}
    rows = column.to_numpy()
    return np.stack(rows) if len(lengths) == 1 and not whole.null_count else rows


def pandas_frame(table: pa.Table) -> Any:
    """A table for pandas."""
    import pandas

    decoders = {field.name: own for field in table.schema if (own := decoder(field)) is not None}
    frame = table.drop_columns(list(decoders)).to_pandas()
    for name, own in decoders.items():
        values = own.series(table[name].combine_chunks())
        if isinstance(values, np.ndarray) and values.dtype == object:
            values = pandas.Series(values, index=frame.index, dtype=object)
        frame[name] = values
    return frame[table.column_names]


def recorded_value(own: Encoding | None, values: Row, drawn: bool, chained: bool) -> Any:
    """What a trial recorded, as the experiment returned it; with draws a list of that, arrays where they are numbers.

    Arguments:
    - `values`: [chain x] [draw x] own axes.
    """
    if own is None:
        return values[()]
    if not drawn and not chained:
        return own.value(values)
    if chained or not isinstance(own, Elements):
        return values if chained else list(values)
    return [own.value(values[place : place + 1].reshape(values.shape[1:])) for place in range(len(values))]
