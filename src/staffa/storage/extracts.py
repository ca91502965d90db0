"""What stands of a trial's outputs in its row: how a search ended, its best, how often something happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.storage.columns import arrow, column, field
from staffa.storage.layouts import ArrayLayout

Row = npt.NDArray[Any]


@dataclass(frozen=True)
class ExtractLayout:
    """A column of the table of trials: `how` of `output`; for `argmax` and `argmin` where `by` is extreme."""

    name: str
    how: str
    output: str
    by: str = ""


def extract_field(extract: ExtractLayout, outputs: Mapping[str, ArrayLayout]) -> pa.Field:
    """The column's type."""
    output = outputs[extract.output]
    kind = arrow(output)
    if extract.how == "sum":
        kind = pa.float64() if "float" in output.dtype else pa.int64()
    return field(extract.name, kind, _shape(extract, outputs), encoding=output.encoding)


def extract_columns(
    extracts: Sequence[ExtractLayout], outputs: Mapping[str, Row], layouts: Mapping[str, ArrayLayout], has_draws: bool
) -> dict[str, pa.Array]:
    """The columns of one block's trials; none for what its group does not record.

    Arguments:
    - `outputs`: rows x [chain x] [draw x] own axes.
    """
    found = {}
    for extract in extracts:
        if {extract.output, extract.by or extract.output} <= outputs.keys():
            values = _whole(outputs[extract.output], layouts[extract.output], has_draws)
            by = _whole(outputs[extract.by], layouts[extract.by], has_draws) if extract.by else values
            made, gone = _extracted(extract.how, values, by)
            found[extract.name] = column(made, _shape(extract, layouts), gone, layouts[extract.output])
    return found


def _extracted(how: str, values: Row, by: Row) -> tuple[Row, Row | None]:
    """(rows, chains, draws, own) values as rows, and which of them are null."""
    flat = values.reshape(len(values), -1)
    if how == "sum":
        return flat.sum(axis=1, dtype=np.float64 if _inexact(flat) else np.int64), None
    if how in ("first", "last"):
        return values[:, :, 0 if how == "first" else -1], None
    place, gone = _extreme(by.reshape(len(by), -1), least=how in ("min", "argmin"))
    # Where `by` has fewer axes, its place is that of a whole array of the values.
    cells = values.reshape(len(values), by[0].size, -1)
    return cells[np.arange(len(cells)), place], gone


def _extreme(flat: Row, least: bool) -> tuple[Row, Row]:
    """Where (rows, places) numbers are greatest (or least), and the rows of nothing but NaN."""
    if not _inexact(flat):
        return (flat.argmin(axis=1) if least else flat.argmax(axis=1)), np.zeros(len(flat), bool)
    numbers = flat.astype(np.float64)
    bad = np.isnan(numbers)
    numbers[bad] = np.inf if least else -np.inf
    place = numbers.argmin(axis=1) if least else numbers.argmax(axis=1)
    # An infinity of the wrong sign is a number still, and no NaN is to stand for it.
    lost = np.take_along_axis(bad, place[:, None], axis=1)[:, 0]
    place[lost] = (~bad[lost]).argmax(axis=1)
    return place, np.asarray(bad.all(axis=1))


def _whole(values: Row, layout: ArrayLayout, has_draws: bool) -> Row:
    """With a chain axis and a draw axis, whether or not there is more than one of them."""
    lead = values.shape[1 + bool(layout.chains) : 1 + bool(layout.chains) + has_draws] or (1,)
    return values.reshape(len(values), layout.chains or 1, *lead, *layout.shape)


def _shape(extract: ExtractLayout, outputs: Mapping[str, ArrayLayout]) -> tuple[int, ...]:
    output = outputs[extract.output]
    if extract.how in ("first", "last"):
        return (*((output.chains,) if output.chains else ()), *output.shape)
    return output.shape[len(outputs[extract.by].shape) :] if extract.by else ()


def _inexact(values: Row) -> bool:
    return values.dtype.name.startswith(("float", "bfloat"))
