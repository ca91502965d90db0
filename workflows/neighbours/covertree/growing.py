"""Columns of numbers that are only ever appended to, so that whoever has seen a row sees it for ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Growing:
    """Columns of one length: `table["level"]` are all rows of a column, `table.append(level=…)` adds some.

    A view of a column stays valid and unchanged when rows are added: growth copies, and no row is written twice.

    Arguments:
    - `columns`: name -> (type, shape of one element).
    """

    def __init__(self, **columns: tuple[Any, tuple[int, ...]]) -> None:
        self.size = 0
        self._held = {name: np.empty((16, *shape), kind) for name, (kind, shape) in columns.items()}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> Array:
        return self._held[name][: self.size]

    def append(self, **values: Array) -> Array:
        """Add rows, all columns of them; returns their numbers."""
        count = len(next(iter(values.values())))
        end = self.size + count
        for name, held in self._held.items():
            if end > len(held):
                grown = np.empty((max(end, 2 * len(held)), *held.shape[1:]), held.dtype)
                grown[: self.size] = held[: self.size]
                self._held[name] = grown
            self._held[name][self.size : end] = values[name]
        self.size = end
        return np.arange(end - count, end)


def spread(first: Array, count: Array) -> tuple[Array, Array]:
    """Runs [first, first + count) one after another: which run each element is of, and the element itself."""
    owner = np.repeat(np.arange(len(count)), count)
    ends = np.cumsum(count)
    return owner, np.arange(len(owner)) + np.repeat(first - ends + count, count)
