"""What a search asks for next: plug-ins of the family `strategies`.

A strategy sees the unit cube, never the parameters, and what was told so far, never what is under way. It is a
function: the same arguments give the same points, and three at once are the same three as one after another. So a
search that resumes goes on as it would have, and nothing of a strategy is ever stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Domain
from staffa.errors import ConfigError, PluginError
from staffa.experiment import plugins
from staffa.experiment.registry import checked_options

Points = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float64]

FAMILY = "strategies"
DEFAULT = "explore"
FIELD = "search.strategy"
GIVEN = ("domain", "budget", "seed")
"""What every strategy is made with besides its own options."""


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of the trials that came back, in the order they did.

    Arguments:
    - `points`: (n, dimension) in the unit cube. They are to be what `domain.encode` says of the parameters, also of
      a trial that was just asked for: else a search that is read from its journal would go on differently.
    - `scores`: (n, groups); inf for what failed, is infeasible or of no use.
    - `version`: another number once earlier rows have changed (other objectives); rows are only added otherwise.
    """

    points: Points
    scores: Scores
    version: int = 0

    @classmethod
    def nothing(cls, dimension: int, groups: int = 1) -> Told:
        """Before the first result."""
        return cls(np.empty((0, dimension)), np.empty((0, groups)))

    def __len__(self) -> int:
        return len(self.points)

    def until(self, rows: int) -> Told:
        """What was known when there were so many."""
        return self if rows >= len(self) else Told(self.points[:rows], self.scores[:rows], self.version)


@runtime_checkable
class Strategy(Protocol):
    """Made as `Strategy(domain=…, budget=…, seed=…, **options)`; bad options are a `ValueError("option: what")`.

    One that learns in a costly way may have `refits_at(told: int) -> int`, up to which row it looks once so many are
    told, and `prepare(told)`, which does it ahead of time: a server calls it off the path of requests, and then hands
    `suggest` what was told up to that row until the next preparation is done.
    """

    def suggest(self, first: int, count: int, told: Told) -> Points:
        """The trials number `first`, `first` + 1, … as (count, dimension) points of the unit cube."""


def build(words: object, domain: Domain, budget: int | None, seed: int, field: str = FIELD) -> Strategy:
    """A strategy from its words: a name, or `{use: name, …}` with options.

    Arguments:
    - `budget`: trials the search may ask for; None for no end.

    Raises `ConfigError` (`PluginError` for a name that is unknown) that begins with the field.
    """
    block = {"use": words} if isinstance(words, str) else words
    if block is None:
        block = {"use": DEFAULT}
    if not isinstance(block, Mapping) or not isinstance(block.get("use", DEFAULT), str):
        raise ConfigError(f"{field}: {words!r} is not a strategy", f"write {{use: {DEFAULT}}}, or its name only")
    name, options = block.get("use", DEFAULT), {str(key): value for key, value in block.items() if key != "use"}
    for option in options:
        if option in GIVEN:
            raise ConfigError(f"{field}.{option}: is not an option of a strategy", "the search has a word for it")
    found = plugins.load(FAMILY, name, f"{field}.use")
    try:
        given: dict[str, Any] = {"domain": domain, "budget": budget, "seed": seed}
        made: Strategy = found(**given, **checked_options(found, options, field, given=GIVEN))
    except PluginError as error:
        raise ConfigError(error.message, error.hint) from None
    except ValueError as error:
        raise ConfigError(f"{field}.{error}") from error
    return made


def check_count(option: str, value: int, least: int = 1) -> None:
    """Refuse a number of things below `least`. Raises `ValueError`."""
    if value < least:
        raise ValueError(f"{option}: {value!r}; it must be {least} or more")


def check_share(option: str, value: float) -> None:
    """Refuse what is not above 0 and at most 1. Raises `ValueError`."""
    if not 0 < value <= 1:
        raise ValueError(f"{option}: {value!r} is not above 0 and at most 1")
