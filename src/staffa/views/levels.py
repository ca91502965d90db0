"""Values of a column as a few levels in order: those of the design where they are few, bins where they are many."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas

Row = npt.NDArray[Any]

MOST = 48
"""Levels that can be told apart on a figure."""
BINS = 24
DECADES = 2
"""Positive numbers that span so many powers of ten are divided evenly on a logarithmic scale."""
ABSENT, OTHERS = "none", "others"
"""Of trials that do not have the parameter; of words beyond the most frequent."""


@dataclass(frozen=True)
class Levels:
    """A column's levels.

    Arguments:
    - `labels`: one a level.
    - `codes`: (rows,) each row's level.
    - `middles`: (levels,) where the levels of a column of numbers lie; None for words. NaN stands for `ABSENT`.
    - `edges`: of bins, one more than there are of them; None where each value is a level.
    - `unit`: of numbers, for people.
    """

    name: str
    labels: tuple[str, ...]
    codes: Row
    middles: Row | None = None
    edges: Row | None = None
    unit: str = ""

    @property
    def title(self) -> str:
        """What stands beside an axis: `temperature (K)`."""
        return titled(self.name, self.unit)

    def at(self, level: int) -> str:
        """One level in words: `temperature 4 K`."""
        label = self.labels[level]
        return f"{self.name} {label if label in (ABSENT, OTHERS) else measured(label, self.unit)}"

    @property
    def logarithmic(self) -> bool:
        """Whether the levels are read better on a logarithmic scale."""
        return self.middles is not None and spans_decades(self.middles[~np.isnan(self.middles)])

    def __len__(self) -> int:
        return len(self.labels)


def levels(name: str, values: pandas.Series[Any], most: int = MOST, bins: int = BINS, unit: str = "") -> Levels:
    """Divide a column.

    Arguments:
    - `most`: different values that are levels each; more are divided into `bins` (words: the most frequent stay).
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    absent = values.isna().to_numpy()
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        found = _of_numbers(name, values.to_numpy(np.float64, na_value=np.nan), absent, most, bins)
    else:
        # As objects: categories cannot take a word that is none of them.
        found = _of_words(name, values.astype(object).map(said, na_action="ignore"), absent, most)
    return replace(_with_absent(found, absent) if absent.any() else found, unit=unit)


def titled(name: str, unit: str) -> str:
    """`temperature (K)`; the name alone where there is no unit."""
    return f"{name} ({unit})" if unit else name


def measured(text: str, unit: str) -> str:
    """`4 K`; the number alone where there is no unit."""
    return f"{text} {unit}" if unit else text


def said(value: Any) -> str:
    """A value as people read it: four digits of a number, words as they are."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def spans_decades(values: Row) -> bool:
    """Whether numbers are all positive and of very different size."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) > 1 and finite.min() > 0 and finite.max() / finite.min() >= 10**DECADES)


def _of_numbers(name: str, values: Row, absent: Row, most: int, bins: int) -> Levels:
    finite = values[np.isfinite(values)]
    distinct = np.unique(values[~absent])
    if len(distinct) <= most or not len(finite):
        codes = np.searchsorted(distinct, values)
        return Levels(name, tuple(said(value) for value in distinct), codes, distinct)
    edges = _edges(finite, bins)
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    labels = tuple(f"{said(low)} to {said(high)}" for low, high in itertools.pairwise(edges))
    middles = np.sqrt(edges[1:] * edges[:-1]) if spans_decades(finite) else (edges[1:] + edges[:-1]) / 2
    return Levels(name, labels, codes, middles, edges)


def _edges(values: Row, bins: int) -> Row:
    low, high = float(values.min()), float(values.max())
    if spans_decades(values):
        return np.geomspace(low, high, bins + 1)
    return np.linspace(low, high, bins + 1)


def _of_words(name: str, values: pandas.Series[Any], absent: Row, most: int) -> Levels:
    counts = values[~absent].value_counts()
    kept = sorted(counts.index if len(counts) <= most else counts.index[: most - 1])
    places = {word: place for place, word in enumerate(kept)}
    codes = values.map(places).fillna(len(kept)).to_numpy(np.int64)
    return Levels(name, (*kept, OTHERS) if len(counts) > most else tuple(kept), codes)


def _with_absent(found: Levels, absent: Row) -> Levels:
    middles = None if found.middles is None else np.append(found.middles, math.nan)
    codes = np.where(absent, len(found), found.codes)
    return replace(found, labels=(*found.labels, ABSENT), codes=codes, middles=middles)
