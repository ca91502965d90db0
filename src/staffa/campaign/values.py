"""What may stand in a space: names, values, ranges, counts. Everything else is refused by name."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from staffa.campaign.points import Kind
from staffa.errors import ConfigError, near
from staffa.trial import Scalar

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

RESERVED = ("trial", "replicate", "chain", "draw", "outcome", "group", "experiment")
"""Columns the archive has of its own, and the block that `experiment.use` and the like reach into."""

LARGEST = 100_000_000
"""Points a space may be expanded to; more is a mistake, not a campaign."""

EXACT = 2**53
"""Whole numbers up to here are exact as floats, which is what samplers draw."""

SCALES = ("log", "int")

Scale = Literal["linear", "log", "int"]

_EXPONENT = re.compile(r"[-+]?(\d+)\.?(\d*)[eE]([-+]?\d+)")


def shown(value: object) -> str:
    """A value as a message quotes it: short, and with its type where that is not plain."""
    plain = isinstance(value, bool | int | float | str | list | tuple | dict) or value is None
    return reprlib.repr(value) if plain else f"{reprlib.repr(value)} ({type(value).__name__})"


def check_name(name: object, field: str) -> str:
    """A parameter's name: whole words joined by dots, none that the archive needs itself."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        hint = "names are whole words, dotted where they reach into the experiment: experiment.kernel.width"
        if isinstance(name, bool):
            hint = "YAML reads yes, no, on and off as booleans: quote them"
        raise ConfigError(f"{field}: {shown(name)} cannot be the name of a parameter", hint)
    if name in RESERVED:
        hint = "to vary the experiment itself use experiment.use" if name == "experiment" else ""
        reserved = "reserved: " + ", ".join(RESERVED)
        raise ConfigError(f"{field}: {name!r} is a reserved name", hint or f"{reserved}; choose another")
    return name


def check_mapping(value: object, field: str, like: str) -> Mapping[object, object]:
    """A mapping with something in it; `like` shows what was expected."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field}: {shown(value)} must be a mapping", f"for example {like}")
    if not value:
        raise ConfigError(f"{field} is empty", f"for example {like}")
    return value


def check_list(value: object, field: str, like: str) -> Sequence[object]:
    """A list with something in it; `like` shows what was expected."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(f"{field}: {shown(value)} must be a list", f"for example {like}")
    if not value:
        raise ConfigError(f"{field} is empty", f"for example {like}")
    return value


def check_count(value: object, field: str, least: int = 1) -> int:
    """A whole number of points, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field}: {shown(value)} must be a whole number of points", number_hint(value))
    if not least <= value <= LARGEST:
        raise ConfigError(f"{field}: {shown(value)} must be between {least} and {LARGEST:,}")
    return value


def check_scalar(value: object, field: str) -> Scalar:
    """A value a parameter can have: bool, int of 64 bits, finite float, or str."""
    if isinstance(value, bool | str):
        return value if isinstance(value, bool) else str(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            hint = "write it as a text or as a float"
            raise ConfigError(f"{field}: {shown(value)} needs more than 64 bits", hint)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{field}: {value!r} cannot be the value of a parameter", "use a finite number")
        return float(value) + 0.0  # -0.0 and 0.0 are one value
    hint = "a value is a boolean, a number or a text"
    if value is None:
        hint += "; to leave a parameter out of some points give its block a `when:`"
    elif not isinstance(value, Mapping | Sequence):
        hint += "; to YAML this is none of them: quote it"
    raise ConfigError(f"{field}: {shown(value)} cannot be the value of a parameter", hint)


def unify(values: Sequence[Scalar], field: str) -> tuple[Kind, list[Scalar]]:
    """The one type of a parameter's values, and the values in it: ints among floats are floats."""
    present = {type(value) for value in values}
    if len(present) == 1:
        kinds: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "str"}
        return kinds[present.pop()], list(values)
    if present == {int, float}:
        return "float", [float(value) for value in values]
    one_each = {type(value).__name__: value for value in reversed(values)}
    listed = ", ".join(f"{value!r} ({name})" for name, value in sorted(one_each.items()))
    hints = filter(None, map(number_hint, values))
    raise ConfigError(
        f"{field}: its values are of several types: {listed}",
        next(hints, "all values of a parameter have one type; only ints and floats mix, and are floats"),
    )


def number_hint(value: object) -> str:
    """How to write a number that YAML reads as text: `1e-3` lacks a point."""
    found = _EXPONENT.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return ""
    whole, part, exponent = found.groups()
    sign = "-" if str(value).startswith("-") else ""
    exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
    meant = f"{sign}{whole}.{part or 0}e{exponent}"
    return "numbers are not quoted" if meant == value else f"YAML reads {value} as text; write {meant}"


def check_number(value: object, field: str) -> int | float:
    """A finite number: the end of a range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{field}: {shown(value)} must be a number", number_hint(value))
    number = check_scalar(value, field)
    assert isinstance(number, int | float)
    return number


@dataclass(frozen=True)
class Interval:
    """A range of values, both ends included.

    Attributes:
    - `scale`: `linear`; `log`: uniform in the logarithm; `int`: every whole number alike.
    """

    low: int | float
    high: int | float
    scale: Scale

    def spread(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Put (n,) numbers of [0, 1) into the interval."""
        if self.scale == "log":
            low, high = math.log(self.low), math.log(self.high)
            spread = np.exp(low + uniform * (high - low))
        elif self.scale == "int":
            spread = self.low + np.floor(uniform * (self.high - self.low + 1))
        else:
            spread = self.low + uniform * (self.high - self.low)
        return np.clip(spread, self.low, self.high) + 0.0


def read_ends(entry: Sequence[object], field: str) -> tuple[int | float, int | float]:
    """The first two numbers of a range, low below high and not infinitely far apart."""
    low, high = check_number(entry[0], field), check_number(entry[1], field)
    if not low < high:
        raise ConfigError(f"{field}: {shown(entry)}: low must be below high")
    if not math.isfinite(float(high) - float(low)):
        raise ConfigError(f"{field}: {shown(entry)}: the range is too wide for a float")
    return low, high


def read_interval(entry: object, field: str) -> Interval:
    """`[low, high]`, `[low, high, log]` or `[low, high, int]`."""
    parts = check_list(entry, field, "[0.1, 10.0, log]")
    if len(parts) not in (2, 3):
        raise ConfigError(f"{field}: {shown(entry)} must be [low, high] or [low, high, scale]")
    low, high = read_ends(parts, field)
    if len(parts) == 2:
        return Interval(low, high, "linear")
    if parts[2] == "log":
        check_positive(low, parts, field)
        return Interval(low, high, "log")
    if parts[2] != "int":
        raise ConfigError(f"{field}: {shown(parts[2])} is no scale", near(str(parts[2]), SCALES))
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{field}: {shown(entry)}: the ends of an int range must be whole numbers")
    if max(abs(low), abs(high)) > EXACT:
        raise ConfigError(f"{field}: {shown(entry)}: sampled whole numbers are at most {EXACT}")
    return Interval(low, high, "int")


def check_positive(low: int | float, entry: Sequence[object], field: str) -> None:
    """Refuse a range that has no logarithm."""
    if low <= 0:
        raise ConfigError(f"{field}: {shown(entry)}: a logarithmic range must be above 0")
