"""What the options of a sampler may be: each check names the option and the value it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from staffa.errors import near
from staffa.samplers.target import Discrete, Values

SUMMARIES = frozenset({"count", "mean", "sd", "min", "max"})
"""Last words of columns that the table of trials has for each output."""


def chosen(params: Values, option: str, value: Any) -> Any:
    """The parameter of the trial where the space gives one of that name, otherwise the option."""
    return params.get(option, value)


def check_number(option: str, value: float, least: float = 0.0, most: float = math.inf) -> None:
    """Refuse a number outside [least, most], infinity and NaN. Raises `ValueError`."""
    if not (least <= value <= most and math.isfinite(value)):
        upper = f" to {most:g}" if math.isfinite(most) else " or more"
        raise ValueError(f"{option}: {value!r} is not a number of {least:g}{upper}")


def check_positive(option: str, value: float) -> None:
    """Refuse a number that is not above 0 and finite. Raises `ValueError`."""
    if not 0 < value < math.inf:
        raise ValueError(f"{option}: {value!r} is not a number above 0")


def check_share(option: str, value: float) -> None:
    """Refuse a number that is not between 0 and 1, both excluded. Raises `ValueError`."""
    if not 0 < value < 1:
        raise ValueError(f"{option}: {value!r} is not above 0 and below 1")


def check_count(option: str, value: int, least: int = 1) -> None:
    """Refuse a number of things below `least`. Raises `ValueError`."""
    if value < least:
        raise ValueError(f"{option}: {value!r}; it must be {least} or more")


def check_word(option: str, value: str, words: Iterable[str]) -> None:
    """Refuse a word that is none of `words`. Raises `ValueError` with the near ones."""
    known = tuple(words)
    if value not in known:
        raise ValueError(f"{option}: {value!r} is unknown; {near(value, known)}")


def check_discrete(target: Any) -> Discrete:
    """The target itself. Raises `ValueError` for one that is no sequence, or has nothing to choose."""
    if not isinstance(target, Discrete):
        raise ValueError(
            f"target: {type(target).__name__} is no target over sequences (staffa.samplers.target.Discrete); "
            "hmc, nuts, mala and parallel_tempering take a density over positions"
        )
    for attribute, least in (("length", 1), ("states", 2)):
        value = getattr(target, attribute, None)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"target: {type(target).__name__}.{attribute} = {value!r}; it must be {least} or more")
    for name in target.components:
        if name in SUMMARIES or not name.isidentifier():
            raise ValueError(
                f"target: component {name!r} would make a column fitness.{name}, which is taken; rename it"
            )
    return target
