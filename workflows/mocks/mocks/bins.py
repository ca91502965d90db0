"""Bins of one width, and counts in cells of which most are empty: only the others are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Bins:
    """From `low` in steps of `width` to `high`, or to the first step beyond it.

    Places are 1 ... number; 0 is for what lies below, number + 1 for what lies at the upper end or above. `option` is
    what the campaign file calls them, for complaints.
    """

    low: float
    high: float
    width: float
    option: str = "range"

    def __post_init__(self) -> None:
        if not np.isfinite([self.low, self.high, self.width]).all() or not self.low < self.high:
            raise ValueError(f"{self.option}: [{self.low}, {self.high}] is not an interval")
        if not 0 < self.width <= self.high - self.low:
            raise ValueError(f"width: {self.width} is not between 0 and the length of [{self.low}, {self.high}]")

    @property
    def number(self) -> int:
        return int(np.ceil((self.high - self.low) / self.width - 1e-9))

    @property
    def edges(self) -> Any:
        """(number + 1,)."""
        return self.low + self.width * np.arange(self.number + 1)

    @property
    def middles(self) -> Any:
        """(number,)."""
        return self.low + self.width * (np.arange(self.number) + 0.5)

    def places(self, values: Any) -> Any:
        """Where values lie; a NaN, too, is put somewhere."""
        return self.located(values)[0]

    def located(self, values: Any) -> tuple[Any, Any]:
        """Where values lie, and how far up in their bin, from 0 to 1; 0 below and above."""
        steps = (np.asarray(values, np.float64) - self.low) / self.width
        steps = np.nan_to_num(np.clip(steps, -1.0, self.number + 0.5), nan=-1.0)
        whole = np.floor(steps)
        inside = (whole >= 0) & (whole < self.number)
        places = np.where(whole < 0, 0, np.minimum(whole, self.number) + 1).astype(np.int64)
        return places, np.where(inside, steps - whole, 0.0)


def counted(cells: Any, size: int) -> dict[str, Any]:
    """How often each of `size` cells stands in a list: the `cells` that do, in order, and the `counts` of them."""
    counts = np.bincount(cells, minlength=size)
    there = np.flatnonzero(counts)
    return {"cells": there, "counts": counts[there].astype(np.int64)}


def merged(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of both."""
    size = max((int(half["cells"][-1]) + 1 for half in (one, two) if len(half["cells"])), default=0)
    # Through an array with all cells: several times faster than sorting those that are there.
    counts = spread(one, (size,))
    counts[two["cells"]] += two["counts"]
    there = np.flatnonzero(counts)
    return {"cells": there, "counts": counts[there]}


def spread(whole: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Counts as an array with all its cells."""
    counts = np.zeros(int(np.prod(shape)), np.int64)
    counts[whole["cells"]] = whole["counts"]
    return counts.reshape(shape)
