"""The space of a search: parameters with the values they may have, and the unit cube they are looked for in.

    rate: [0.001, 1.0, log]           a float, spaced in its logarithm
    leaps: [1, 32, int]               a whole number, both ends included; [1, 1024, int, log] spaced in its logarithm
    mass: {choice: [unit, diagonal]}  one of some values without an order
    size: {grid: [16, 64, 256]}       one of some numbers in ascending order
    width: {linspace: [0.5, 2.0, 4]}  … evenly spaced, or {logspace: [0.1, 10, 3]}
    kernel: {width: [0.1, 1]}         nested: the parameter is kernel.width

Strategies know only the cube. A discrete axis of n values cuts its side into n bins, of one width but for
logarithmic whole numbers; the inverse of a value is the middle of its bin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.points import Kind
from staffa.campaign.sides import Axis, Categorical, Column, Continuous, Integer, Lattice
from staffa.campaign.values import (
    check_count,
    check_list,
    check_mapping,
    check_name,
    check_positive,
    check_scalar,
    number_hint,
    read_ends,
    shown,
    unify,
)
from staffa.errors import ConfigError, near
from staffa.trial import Scalar

__all__ = ["Axis", "Categorical", "Continuous", "Domain", "Integer", "Lattice"]

Points = npt.NDArray[np.float64]
"""(n, dimension) coordinates in [0, 1]."""

LIKE = "space: {rate: [0.001, 1.0, log], leaps: [1, 32, int], mass: {choice: [unit, diagonal]}}"
SCALES = ("int", "log")
WIDEST = 2**40
"""Whole numbers of one axis: so many bins are still told apart in a float of the unit interval."""


@dataclass(frozen=True)
class Domain:
    """All parameters of a search, in the order they were declared.

    Arguments:
    - `axes`: by the parameter's whole name.
    """

    axes: Mapping[str, Axis]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))

    @classmethod
    def read(cls, said: object, field: str = "search.space") -> Domain:
        """A domain from its words, from YAML or Python (tuples, and axes themselves, are taken as well).

        Raises `ConfigError` that begins with the field and quotes the value.
        """
        if isinstance(said, Domain):
            return said
        axes: dict[str, Axis] = {}
        for name, place, entry in _entries(check_mapping(said, field, LIKE), field, ""):
            check_name(name, field)
            if name in axes:
                raise ConfigError(f"{place}: {name!r} is said twice", "keep one of the two: dots and nesting are one")
            axes[name] = _axis(entry, place)
        return cls(axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.axes)

    @property
    def dimension(self) -> int:
        """Sides of the unit cube: one a parameter."""
        return len(self.axes)

    def words(self) -> dict[str, Any]:
        """What `read` makes this domain of, by whole names."""
        return {name: axis.words() for name, axis in self.axes.items()}

    def decode(self, points: npt.ArrayLike) -> list[dict[str, Scalar]]:
        """(n, dimension) points of the unit cube as parameters."""
        columns = self.decode_columns(points)
        rows = zip(*(columns[name].tolist() for name in self.axes), strict=True)
        return [dict(zip(self.axes, row, strict=True)) for row in rows]

    def encode(self, params: Sequence[Mapping[str, Any]]) -> Points:
        """Parameters as (n, dimension) points. Raises `ConfigError` for those that are not of this domain."""
        points = np.empty((len(params), self.dimension))
        for row, one in enumerate(params):
            if reason := self.why_not(one):
                raise ConfigError(f"parameters[{row}]: {reason}", "such a trial is infeasible in this space")
            points[row] = [axis.encode(one[name]) for name, axis in self.axes.items()]
        return points

    def decode_columns(self, points: npt.ArrayLike) -> dict[str, Column]:
        """(n, dimension) points as an array of values for each parameter."""
        cube = np.clip(np.asarray(points, np.float64), 0.0, 1.0).reshape(-1, self.dimension)
        return {name: axis.decode_column(cube[:, i]) for i, (name, axis) in enumerate(self.axes.items())}

    def encode_columns(self, columns: Mapping[str, npt.ArrayLike]) -> Points:
        """Arrays of values, one for each parameter, as (n, dimension) points.

        Raises `ConfigError` that quotes the first value outside.
        """
        arrays = self._arrays(columns)
        held = {name: axis.held(arrays[name]) for name, axis in self.axes.items()}
        for name, inside in held.items():
            if not inside.all():
                row = int(np.argmin(inside))
                reason = self._outside(name, arrays[name][row : row + 1].tolist()[0])
                raise ConfigError(f"parameters[{row}]: {reason}", "such a trial is infeasible in this space")
        return np.stack([axis.encode_column(arrays[name]) for name, axis in self.axes.items()], axis=1)

    def feasible(self, columns: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.bool_]:
        """(n,) whether all of a row's values are of this domain."""
        arrays = self._arrays(columns)
        return np.asarray(np.stack([axis.held(arrays[name]) for name, axis in self.axes.items()]).all(axis=0))

    def snapped(self, points: npt.ArrayLike) -> Points:
        """Points with the middle of the bin in the place of each coordinate of a discrete axis."""
        cube = np.clip(np.asarray(points, np.float64), 0.0, 1.0).reshape(-1, self.dimension)
        sides = [
            cube[:, i] if isinstance(axis, Continuous) else axis.encode_column(axis.decode_column(cube[:, i]))
            for i, axis in enumerate(self.axes.values())
        ]
        return np.stack(sides, axis=1)

    def why_not(self, params: Mapping[str, Any]) -> str:
        """Why parameters are infeasible: one is missing, unknown, of another type, outside. Empty if they are not."""
        for name in params:
            if name not in self.axes:
                return f"{name!r} is no parameter of the search; {near(str(name), self.axes)}"
        for name, axis in self.axes.items():
            if name not in params:
                return f"{name!r} is missing"
            if not axis.holds(params[name]):
                return self._outside(name, params[name])
        return ""

    def expands(self, earlier: Domain) -> bool:
        """Whether all that was in an earlier domain is in this one, so that its trials remain.

        Bounds may have grown, values may have been added, a scale may be another.
        """
        same = set(self.axes) == set(earlier.axes)
        return same and all(axis.covers(earlier.axes[name]) for name, axis in self.axes.items())

    def _outside(self, name: str, value: object) -> str:
        return f"{name} = {shown(value)} is not {self.axes[name].told()}"

    def _arrays(self, columns: Mapping[str, npt.ArrayLike]) -> dict[str, Column]:
        for name in columns:
            if name not in self.axes:
                raise ConfigError(f"{name!r} is no parameter of the search", near(name, self.axes))
        for name in self.axes:
            if name not in columns:
                raise ConfigError(f"{name!r} is missing", "a column for each parameter: " + ", ".join(self.axes))
        return {name: np.asarray(columns[name]) for name in self.axes}


def _entries(said: Mapping[object, object], field: str, above: str) -> Iterator[tuple[str, str, object]]:
    """Everything a mapping declares: (whole name, its place, what is said)."""
    for key, entry in said.items():
        name, place = f"{above}{key}" if isinstance(key, str) else key, f"{field}.{key}"
        if isinstance(entry, Mapping) and not any(kind in entry for kind in LISTED):
            if name != "experiment":  # its options are varied as experiment.NAME
                check_name(name, field)
            yield from _entries(check_mapping(entry, place, "kernel: {width: [0.1, 1.0]}"), place, f"{name}.")
        else:
            yield name, place, entry  # type: ignore[misc]  # a key that is no text is refused by check_name


def _axis(entry: object, field: str) -> Axis:
    if isinstance(entry, Continuous | Integer | Categorical | Lattice):
        return entry
    if isinstance(entry, Mapping):
        if len(entry) > 1:
            others = ", ".join(str(key) for key in entry)
            raise ConfigError(f"{field}: says {others}", "one of " + ", ".join(LISTED) + " says all of a parameter")
        kind, body = next(iter(entry.items()))
        return LISTED[kind](body, f"{field}.{kind}")
    if isinstance(entry, str) or not isinstance(entry, Sequence):
        raise ConfigError(f"{field}: {shown(entry)} is not a range", _range_hint(entry, field))
    return _range(entry, field)


def _range_hint(entry: object, field: str) -> str:
    word = field.rpartition(".")[2]
    meant = near(word, LISTED)
    if meant.startswith("did you mean"):
        return meant
    fixed = isinstance(entry, bool | int | float | str)
    hint = "[low, high], [low, high, log], [low, high, int], {choice: […]} or {grid: […]}"
    return f"{hint}; what is not searched stands under `parameters`" if fixed else hint


def _range(entry: Sequence[object], field: str) -> Axis:
    """`[low, high]` and the words behind it."""
    if len(entry) < 2 or any(isinstance(end, str) and not number_hint(end) for end in entry[:2]):
        raise ConfigError(f"{field}: {shown(entry)} is not a range", _range_hint(entry, field))
    for word in entry[2:]:
        if word not in SCALES:
            hint = near(str(word), SCALES)
            if isinstance(word, int | float):
                hint = f"of given numbers write {{grid: {list(entry)!r}}}"
            raise ConfigError(f"{field}: {shown(word)} is no scale", hint)
    if len(set(entry[2:])) < len(entry[2:]):
        raise ConfigError(f"{field}: {shown(entry)} says one word twice", near("", SCALES))
    low, high = read_ends(entry, field)
    log = "log" in entry[2:]
    if log:
        check_positive(low, entry, field)
    if "int" not in entry[2:]:
        return Continuous(float(low), float(high), log)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{field}: {shown(entry)}: the ends of an int range must be whole numbers")
    if (high if log else high - low) >= WIDEST:
        raise ConfigError(f"{field}: {shown(entry)} has too many whole numbers", "write it without int, round yourself")
    return Integer(low, high, log)


def _values(body: object, field: str, like: str) -> tuple[Kind, list[Scalar]]:
    listed = check_list(body, field, like)
    kind, values = unify([check_scalar(one, f"{field}[{i}]") for i, one in enumerate(listed)], field)
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(f"{field}[{i}]: {value!r} is there twice", "each value once")
    return kind, values


def _choice(body: object, field: str) -> Axis:
    return Categorical(tuple(_values(body, field, "{choice: [unit, diagonal]}")[1]))


def _grid(body: object, field: str) -> Axis:
    kind, values = _values(body, field, "{grid: [16, 64, 256]}")
    numbers = [value for value in values if isinstance(value, int | float)]
    if kind not in ("int", "float") or len(numbers) < len(values):
        raise ConfigError(f"{field}: {shown(body)} are not numbers", f"write {{choice: {list(values)!r}}}")
    if numbers != sorted(numbers):
        raise ConfigError(f"{field}: {shown(body)} do not ascend", f"write {sorted(numbers)!r}")
    return Lattice(tuple(numbers))


def _spaced(word: str) -> Callable[[object, str], Axis]:
    def read(body: object, field: str) -> Axis:
        parts = check_list(body, field, f"{{{word}: [0.5, 2.0, 4]}}")
        if len(parts) != 3:
            raise ConfigError(f"{field}: {shown(parts)} must be [low, high, number of values]")
        low, high = map(float, read_ends(parts, field))
        if word == "logspace":
            check_positive(low, parts, field)
        count = check_count(parts[2], field, least=2)
        spaced = np.geomspace(low, high, count) if word == "logspace" else np.linspace(low, high, count)
        return Lattice(tuple((spaced + 0.0).tolist()))

    return read


LISTED: dict[str, Callable[[object, str], Axis]] = {"choice": _choice, "grid": _grid, "linspace": _spaced("linspace")}
LISTED |= {"logspace": _spaced("logspace")}
"""Words that list the values of a parameter."""
