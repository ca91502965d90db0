"""One parameter of a search: its values, and the side of the unit cube they lie on."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from staffa.campaign.points import Kind
from staffa.trial import Scalar

Column = npt.NDArray[Any]
"""(n,) values of a parameter: float64, int64, bool, or text."""
Side = npt.NDArray[np.float64]
"""(n,) coordinates in [0, 1]."""


class Axis(Protocol):
    """What every axis can do; columns are the same as single values, many at a time."""

    @property
    def kind(self) -> Kind:
        """The declared type of the parameter."""

    def decode(self, u: float) -> Scalar:
        """The value at a coordinate of [0, 1]."""

    def encode(self, value: Any) -> float:
        """The coordinate of a value that it `holds`; of a discrete one the middle of its bin."""

    def holds(self, value: Any) -> bool:
        """Whether it is one of the axis's values, by type and range."""

    def decode_column(self, u: Side) -> Column: ...
    def encode_column(self, values: Column) -> Side: ...
    def held(self, values: Column) -> npt.NDArray[np.bool_]: ...

    def covers(self, earlier: Axis) -> bool:
        """Whether all values of another axis are values of this one."""

    def words(self) -> Any:
        """What it is read from."""

    def told(self) -> str:
        """What a value has to be, for messages."""


def fits(value: object, kind: Kind) -> bool:
    """Whether a value is of a type of parameter; whole numbers are floats as well, booleans are no numbers."""
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool" or isinstance(value, bool | np.bool_):
        return kind == "bool" and isinstance(value, bool | np.bool_)
    return isinstance(value, numbers.Integral if kind == "int" else numbers.Real)


@dataclass(frozen=True)
class Continuous:
    """A float of [low, high]; with `log` uniform in the logarithm."""

    low: float
    high: float
    log: bool = False
    kind: ClassVar[Kind] = "float"

    def decode(self, u: float) -> float:
        return float(self.decode_column(np.array([u]))[0])

    def encode(self, value: float) -> float:
        return float(self.encode_column(np.array([value]))[0])

    def holds(self, value: Any) -> bool:
        return fits(value, self.kind) and bool(self.low <= value <= self.high)

    def decode_column(self, u: Side) -> Column:
        u = np.clip(u, 0.0, 1.0)
        if self.log:
            spread = self.low * np.exp(u * (math.log(self.high) - math.log(self.low)))
        else:
            spread = self.low + u * (self.high - self.low)
        # the upper end is reached exactly: low + (high - low) need not be high
        return np.where(u == 1.0, self.high, np.clip(spread, self.low, self.high)) + 0.0

    def encode_column(self, values: Column) -> Side:
        values = np.asarray(values, np.float64)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return np.clip((np.log(values) - low) / (high - low), 0.0, 1.0)
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)

    def held(self, values: Column) -> npt.NDArray[np.bool_]:
        return _between(values, self)

    def covers(self, earlier: Axis) -> bool:
        return earlier.kind == self.kind and all(self.holds(end) for end in _ends(earlier))

    def words(self) -> list[Any]:
        return [self.low, self.high, *(["log"] if self.log else [])]

    def told(self) -> str:
        return f"a number of {self.low!r} to {self.high!r}"


@dataclass(frozen=True)
class Integer:
    """A whole number of low to high, both included.

    With `log`, the bin of k is as wide as ln(k + 1) - ln(k): as many trials from 1 to 2 as from 512 to 1,024.
    """

    low: int
    high: int
    log: bool = False
    kind: ClassVar[Kind] = "int"

    def decode(self, u: float) -> int:
        return int(self.decode_column(np.array([u]))[0])

    def encode(self, value: int) -> float:
        return float(self.encode_column(np.array([value]))[0])

    def holds(self, value: Any) -> bool:
        return fits(value, self.kind) and bool(self.low <= value <= self.high)

    def decode_column(self, u: Side) -> Column:
        u = np.clip(u, 0.0, 1.0)
        spread = self.low * np.exp(u * self._width) if self.log else self.low + u * (self.high - self.low + 1)
        return np.clip(np.floor(spread).astype(np.int64), self.low, self.high)

    def encode_column(self, values: Column) -> Side:
        values = np.asarray(values, np.float64)
        if self.log:
            return ((np.log(values) + np.log(values + 1.0)) / 2 - math.log(self.low)) / self._width
        return (values - self.low + 0.5) / (self.high - self.low + 1)

    @property
    def _width(self) -> float:
        return math.log(self.high + 1) - math.log(self.low)

    def held(self, values: Column) -> npt.NDArray[np.bool_]:
        return _between(values, self)

    def covers(self, earlier: Axis) -> bool:
        return earlier.kind == self.kind and all(self.holds(end) for end in _ends(earlier))

    def words(self) -> list[Any]:
        return [self.low, self.high, "int", *(["log"] if self.log else [])]

    def told(self) -> str:
        return f"a whole number of {self.low} to {self.high}"


class _Listed:
    """What axes of given values share: n bins of one width."""

    values: tuple[Any, ...]

    @cached_property
    def kind(self) -> Kind:
        kinds: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "str"}
        return kinds[type(self.values[0])]

    def decode(self, u: float) -> Any:
        return self.values[int(_bins(np.array([u]), len(self.values))[0])]

    def encode(self, value: Any) -> float:
        return (self._places[value] + 0.5) / len(self.values)

    def holds(self, value: Any) -> bool:
        return fits(value, self.kind) and value in self._places

    def decode_column(self, u: Side) -> Column:
        return np.array(self.values)[_bins(u, len(self.values))]

    def encode_column(self, values: Column) -> Side:
        return (self._codes(values) + 0.5) / len(self.values)

    def held(self, values: Column) -> npt.NDArray[np.bool_]:
        return np.asarray(self._codes(values) >= 0)

    def _codes(self, values: Column) -> npt.NDArray[np.intp]:
        """Places of values in the list; -1 where one is not there. Types are asked once a column where it has one."""
        places, listed = self._places, values.tolist()
        types = set(map(type, listed))
        if types <= {bool, int, float, str} and all(fits(one(), self.kind) for one in types):
            return np.array([places.get(value, -1) for value in listed], np.intp)
        return np.array([places[value] if self.holds(value) else -1 for value in listed], np.intp)

    def covers(self, earlier: Axis) -> bool:
        return isinstance(earlier, _Listed) and earlier.kind == self.kind and all(map(self.holds, earlier.values))

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {value: place for place, value in enumerate(self.values)}


@dataclass(frozen=True)
class Categorical(_Listed):
    """One of some values without an order: all text, all whole numbers, all numbers, or both booleans."""

    values: tuple[Scalar, ...]

    def words(self) -> dict[str, Any]:
        return {"choice": list(self.values)}

    def told(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))


@dataclass(frozen=True)
class Lattice(_Listed):
    """One of some numbers in ascending order: neighbours are alike."""

    values: tuple[int | float, ...]

    def words(self) -> dict[str, Any]:
        return {"grid": list(self.values)}

    def told(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))


def _bins(u: Side, count: int) -> npt.NDArray[np.intp]:
    return np.clip(np.floor(np.asarray(u) * count), 0, count - 1).astype(np.intp)


def _between(values: Column, axis: Continuous | Integer) -> npt.NDArray[np.bool_]:
    if values.dtype.kind in ("iu" if axis.kind == "int" else "iuf"):
        return (values >= axis.low) & (values <= axis.high)
    if values.dtype.kind == "O":
        return np.array([axis.holds(value) for value in values.tolist()], np.bool_)
    return np.zeros(len(values), np.bool_)


def _ends(axis: Axis) -> tuple[Any, ...]:
    if isinstance(axis, Continuous | Integer):
        return axis.low, axis.high
    return axis.values if isinstance(axis, _Listed) else ()
