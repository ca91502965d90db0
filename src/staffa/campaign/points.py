"""The points of a space, column by column.

A million trials are planned as a few int32 per trial: a column holds each
value once and, for every point, the place of its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import numpy as np
import numpy.typing as npt

from staffa.trial import Scalar, canonical

Kind = Literal["bool", "int", "float", "str"]
"""The declared type of a parameter; it is part of a trial's identity (`1` is not `1.0`)."""

ABSENT = -1
"""The code of a point that lacks the parameter."""


@dataclass(frozen=True, eq=False)
class Column:
    """One parameter over all points.

    Attributes:
    - `values`: the values, in the order they were declared; of a sampled float one
      per point. Those from `Space.expand` are all used; `Points.select` keeps the
      whole tuple, so that a selection costs nothing but its codes.
    - `codes`: (n,) int32: for each point the place of its value in `values`,
      `ABSENT` where the parameter does not apply.
    - `continuous`: sampled from a range of floats, so that no two points share a
      value: never a sensible partition of an archive.
    """

    name: str
    type: Kind
    values: tuple[Scalar, ...]
    codes: npt.NDArray[np.int32]
    continuous: bool = False

    def take(self, index: int) -> Scalar | None:
        """The value at a point; None where the parameter does not apply."""
        code = int(self.codes[index])
        return None if code == ABSENT else self.values[code]

    def texts(self) -> list[str]:
        """The canonical text of each value, as it enters a trial's identity."""
        return [canonical(value) for value in self.values]

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> Column:
        """The same parameter at some of the points: a mask or indices."""
        return Column(self.name, self.type, self.values, self.codes[chosen], self.continuous)

    def compact(self) -> Column:
        """The same column without the values no point has."""
        used = np.zeros(len(self.values) + 1, dtype=bool)
        used[self.codes] = True  # ABSENT marks the last place, which is no value's
        used = used[:-1]
        if used.all():
            return self
        renumbered = np.append(np.cumsum(used, dtype=np.int32) - 1, ABSENT).astype(np.int32)
        values = tuple(compress(self.values, used.tolist()))
        return Column(self.name, self.type, values, renumbered[self.codes], self.continuous)


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a space, in order: `length` rows over `columns`, in the order of declaration."""

    columns: tuple[Column, ...]
    length: int

    def __len__(self) -> int:
        return self.length

    def column(self, name: str) -> Column:
        """The column of a parameter; `KeyError` when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def row(self, index: int) -> dict[str, Scalar]:
        """The parameters of one point; those that do not apply are left out."""
        if not -self.length <= index < self.length:
            raise IndexError(f"point {index} of {self.length}")
        taken = ((column.name, column.take(index)) for column in self.columns)
        return {name: value for name, value in taken if value is not None}

    def rows(self) -> Iterator[dict[str, Scalar]]:
        """Every point in turn, see `row`."""
        return map(self.row, range(self.length))

    def select(self, chosen: npt.ArrayLike) -> Points:
        """Some of the points: a mask over all of them, or indices in the wanted order."""
        wanted = np.asarray(chosen)
        wanted = wanted if wanted.size else wanted.astype(np.intp)
        if wanted.dtype == bool and len(wanted) != self.length:
            raise IndexError(f"a mask of {len(wanted)} for {self.length} points")
        length = int(np.count_nonzero(wanted)) if wanted.dtype == bool else len(wanted)
        return Points(tuple(column.select(wanted) for column in self.columns), length)


def distinct(values: Sequence[Scalar]) -> tuple[tuple[Scalar, ...], npt.NDArray[np.int32]]:
    """Values of one type, each once in order of first appearance, and the code of each given one."""
    places: dict[Scalar, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return tuple(places), np.array(codes, dtype=np.int32)
