"""What is said of one parameter: its value unless it is explored, type and range, unit, and for people a comment.

An experiment declares its parameters so (`Experiment.parameters`), a campaign presets them in `parameters:`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from staffa.trial import Scalar

TYPES: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str}

Range = tuple[int | float | None, int | float | None]


@dataclass(frozen=True)
class Parameter:
    """One parameter: `staffa.Parameter(1.0, comment="width of the kernel", unit="mm", range=(0.1, 10))`.

    Arguments:
    - `value`: what every trial has unless the space explores the parameter; None where that has to be said.
    - `comment`, `unit`: for people; they stand beside the data.
    - `type`: `bool`, `int`, `float` or `str`; by default that of the value. Whole numbers pass for floats.
    - `range`: least and greatest value, ends included; either may be None. For numbers only.
    - `choices`: all values there may be.
    - `annotations`: whatever else is to be kept, by a key of your own.
    - `derived`: a formula over other parameters, in the place of a value: `"temperature * kernel.width ** 2"`.

    Raises `ValueError` that begins with the field, `range: …`, for what does not go together.
    """

    value: Scalar | None = None
    comment: str = ""
    unit: str = ""
    type: str = ""
    range: Range | None = None
    choices: tuple[Scalar, ...] = ()
    annotations: Mapping[str, Scalar] = field(default_factory=dict)
    derived: str = ""

    def __post_init__(self) -> None:
        if self.type and self.type not in TYPES:
            raise ValueError(f"type: {self.type!r} is none of {', '.join(TYPES)}")
        if self.derived and self.value is not None:
            raise ValueError(f"derived: {self.derived!r} beside value: {self.value!r}: say one of them")
        own = {name: _plain(getattr(self, name), name) for name in ("value", "choices", "range")}
        own["choices"], own["range"] = tuple(own["choices"]), own["range"] and _ends(own["range"])
        own["annotations"] = {str(key): _plain(said, "annotations") for key, said in self.annotations.items()}
        own["type"] = self.type or _common([*own["choices"], *([] if own["value"] is None else [own["value"]])])
        if own["range"] and own["type"] in ("bool", "str"):
            raise ValueError(f"range: {list(own['range'])}: a {own['type']} has none, but may have choices")
        for name, values in own.items():
            object.__setattr__(self, name, values)
        object.__setattr__(self, "choices", tuple(self._of_type(choice, "choices") for choice in self.choices))
        if self.value is not None:
            object.__setattr__(self, "value", self.checked(self.value))

    def checked(self, value: Scalar) -> Scalar:
        """A value in the parameter's type. Raises `ValueError` for one that it cannot have."""
        found = self._of_type(value, "value")
        if why := self.refused(found):
            raise ValueError(f"value: {found!r} {why}")
        return found

    def refused(self, value: Scalar) -> str:
        """Why the parameter cannot have a value of its type: `is not within [0.1, 10]`; empty where it can."""
        if self.choices and value not in self.choices:
            return f"is none of {list(self.choices)}"
        if self.range is None or isinstance(value, str):
            return ""
        low, high = self.range
        within = (low is None or low <= value) and (high is None or value <= high)
        return "" if within else f"is not within {shown_range(self.range)}"

    @property
    def said(self) -> dict[str, str]:
        """What is said of it for people, as text: stands with its column wherever that stands."""
        words = {"unit": self.unit, "comment": self.comment, "derived": self.derived}
        lists = {"range": self.range, "choices": self.choices, "annotations": dict(self.annotations)}
        words |= {name: json.dumps(said, ensure_ascii=False) for name, said in lists.items() if said}
        return {name: text for name, text in words.items() if text}

    def _of_type(self, value: Scalar, name: str) -> Scalar:
        kind = type(value).__name__
        if not self.type or kind == self.type:
            return value
        if (kind, self.type) == ("int", "float"):
            return float(value)
        raise ValueError(f"{name}: {value!r} is {kind}, the parameter is {self.type}")


def shown_range(ends: Range) -> str:
    """`[0.1, 10]`, `[0, …]`."""
    low, high = ("…" if end is None else f"{end!r}" for end in ends)
    return f"[{low}, {high}]"


def _common(values: Sequence[Scalar]) -> str:
    """The one type of some values, empty where there are none."""
    kinds = {type(value).__name__ for value in values}
    if kinds == {"int", "float"}:
        return "float"
    if len(kinds) > 1:
        raise ValueError(f"choices: {list(values)} are of several types: {', '.join(sorted(kinds))}")
    return next(iter(kinds), "")


def _ends(ends: Iterable[Any]) -> Range:
    found = tuple(ends)
    numbers = [end for end in found if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(found) != 2 or not numbers or len(numbers) + sum(end is None for end in found) != 2:
        raise ValueError(f"range: {list(found)} is not [low, high]; one of the two may be null")
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(f"range: {list(found)}: low is above high")
    return found[0], found[1]


def _plain(value: Any, name: str) -> Any:
    """The same without NumPy's types. Raises `ValueError` for what no trial could be named by."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if name == "value":
            raise ValueError(f"value: {value!r} is not one value: several are explored in the space")
        return [_plain(item, name) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if value is not None and type(value) not in TYPES.values():
        raise ValueError(f"{name}: {value!r} is neither a boolean, a number nor a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: {value!r} needs more than 64 bits")
    return value + 0.0 if isinstance(value, float) else value  # -0.0 and 0.0 are one value
