"""Conditions on points: what `when:` and `exclude:` say.

    {kernel: rbf}                        this value
    {kernel: [rbf, linear]}              one of these
    {width: {min: 0.1, max: 2.0}}        in this range, ends included; one end may be left out

All names of a condition must hold. A parameter that a point lacks never does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from staffa.campaign.axes import Axis, Factor
from staffa.campaign.points import Column
from staffa.campaign.values import check_list, check_mapping, check_number, check_scalar, number_hint, shown
from staffa.errors import ConfigError, near
from staffa.trial import Scalar

LIKE = "{kernel: rbf}, {kernel: [rbf, linear]} or {width: {min: 0.1, max: 2.0}}"


@dataclass(frozen=True)
class Test:
    """What one parameter must be: one of `accepted`, or between `low` and `high`."""

    name: str
    accepted: frozenset[Scalar] | None = None
    low: int | float = -math.inf
    high: int | float = math.inf

    def met(self, value: Scalar) -> bool:
        if self.accepted is not None:
            return value in self.accepted
        return not isinstance(value, str) and self.low <= value <= self.high

    def holds(self, column: Column) -> npt.NDArray[np.bool_]:
        """For each point of a column whether the test is met; the entry behind the last is False."""
        met = np.array([*map(self.met, column.values), False], dtype=bool)
        return np.append(met[column.codes], False)


@dataclass(frozen=True)
class Condition:
    """Tests that must all be met."""

    tests: tuple[Test, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(test.name for test in self.tests)


@dataclass(frozen=True)
class Declared:
    """A parameter that conditions may name, and the factor it belongs to."""

    axis: Axis
    factor: Factor


def read_condition(raw: object, field: str, declared: Mapping[str, Declared], later: Collection[str] = ()) -> Condition:
    """Check a condition against the parameters it names.

    Arguments:
    - `declared`: the parameters it may name.
    - `later`: parameters that exist but come too late to be named here.
    """
    entries = check_mapping(raw, field, LIKE)
    tests = [_read_test(name, entry, field, declared, later) for name, entry in entries.items()]
    return Condition(tuple(tests))


def _read_test(
    name: object, entry: object, field: str, declared: Mapping[str, Declared], later: Collection[str]
) -> Test:
    if not isinstance(name, str) or name not in declared:
        if name in later:
            hint = "a condition can only name parameters of earlier blocks: move this block behind it"
            raise ConfigError(f"{field}: {name!r} is not declared before this block", hint)
        hint = near(str(name), declared) or "no parameter is declared before it"
        raise ConfigError(f"{field}: there is no parameter {shown(name)}", hint)
    place = f"{field}.{name}"
    if isinstance(entry, Mapping):
        return _read_range(name, entry, place, declared[name].axis)
    return _read_values(name, entry, place, declared[name])


def _read_range(name: str, entry: Mapping[object, object], field: str, axis: Axis) -> Test:
    ends = check_mapping(entry, field, "{min: 0.1, max: 2.0}")
    for key in ends:
        if key not in ("min", "max"):
            raise ConfigError(f"{field}: unknown {shown(key)}", near(str(key), ("min", "max")))
    if axis.type not in ("int", "float"):
        raise ConfigError(f"{field}: {name} is {axis.type}, which has no range", f"name its values: {LIKE}")
    numbers = {key: check_number(value, f"{field}.{key}") for key, value in ends.items()}
    low, high = numbers.get("min", -math.inf), numbers.get("max", math.inf)
    if low > high:
        raise ConfigError(f"{field}: {shown(dict(ends))}: min must not be above max")
    return Test(name, None, low, high)


def _read_values(name: str, entry: object, field: str, declared: Declared) -> Test:
    axis = declared.axis
    if axis.continuous:
        hint = "give a range: {min: 0.1, max: 2.0}"
        raise ConfigError(f"{field}: {shown(entry)}: {name} is sampled from a range of floats", hint)
    alone = isinstance(entry, str) or not isinstance(entry, Sequence)
    entries = [entry] if alone else check_list(entry, field, LIKE)
    values = [_as_type(check_scalar(value, field), axis, field) for value in entries]
    known = set(declared.factor.column(name).values) if axis.listed else set(values)
    for value in values:
        if value not in known:
            raise ConfigError(f"{field}: {name} is never {value!r}", _nearest(value, known, axis))
    return Test(name, frozenset(values))


def _nearest(value: Scalar, known: Collection[Scalar], axis: Axis) -> str:
    """The declared values that were probably meant."""
    if isinstance(value, str):
        return near(value, map(str, known)) if len(known) <= 100 else f"see {axis.field}"
    numbers = [other for other in known if not isinstance(other, str)]
    closest = heapq.nsmallest(3, numbers, key=lambda other: abs(other - value))
    return "nearest: " + ", ".join(map(repr, closest))


def _as_type(value: Scalar, axis: Axis, field: str) -> Scalar:
    """The value in the declared type of the parameter it is compared with."""
    if axis.type == "float" and type(value) is int:
        return float(value)
    if type(value).__name__ != axis.type:
        hint = number_hint(value) or f"see {axis.field}"
        raise ConfigError(f"{field}: {value!r} is {type(value).__name__}, {axis.name} is {axis.type}", hint)
    return value
