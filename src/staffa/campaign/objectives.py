"""What a search is after: objectives, the score of each, and their sum in each group.

    bias: {of: bias.mean, target: 0.01, limit: 1.0, direction: minimize, priority: 1, group: 0}
    loss: minimize

With target and limit the score is 0 at the target or better, `priority` at the limit, in proportion between, and
infinite beyond the limit; without them it is `priority` times the value (times minus the value where it is to be
large). What is missing, NaN, or infinite in the bad direction scores infinitely much. Scores are added up within a
group; groups are never added up, but compared by fronts (`staffa.search.fronts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from staffa.campaign.values import check_mapping, check_name, check_number, number_hint, shown
from staffa.errors import ConfigError, near

Values = npt.NDArray[np.float64]
Direction = Literal["minimize", "maximize"]

DIRECTIONS = ("minimize", "maximize")
LIKE = "objectives: {loss: minimize, bias: {of: bias.mean, target: 0.01, limit: 1.0}}"
WORDS = ("of", "target", "limit", "direction", "priority", "group")


@dataclass(frozen=True)
class Objective:
    """One number of a trial that should be small or large.

    Arguments:
    - `target`: as good as is needed: beyond it nothing is gained. Goes with `limit`, or both are None.
    - `limit`: as bad as is bearable: what is beyond it is of no use.
    - `priority`: the score at the limit; without one the weight of the value itself.
    - `group`: objectives of one group are added up.
    - `of`: the column of the table of trials it is read from; by default that of its own name.

    Raises `ConfigError` for what cannot be.
    """

    name: str
    target: float | None = None
    limit: float | None = None
    direction: Direction = "minimize"
    priority: float = 1.0
    group: int = 0
    of: str = ""

    def __post_init__(self) -> None:
        self.check("objectives")

    @property
    def column(self) -> str:
        return self.of or self.name

    def check(self, section: str) -> None:
        """Refuse what cannot be. Raises `ConfigError` that begins with the field under `section`."""
        field = f"{section}.{self.name}"
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"{field}.direction: {shown(self.direction)} is no direction", _direction(self.direction))
        if check_number(self.priority, f"{field}.priority") <= 0:
            raise ConfigError(f"{field}.priority: {self.priority!r} is not above 0", "it is the score at the limit")
        if isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 0:
            raise ConfigError(f"{field}.group: {shown(self.group)} is no group", "groups are 0, 1, 2 …")
        if (self.target is None) is not (self.limit is None):
            alone, other = ("limit", "target") if self.target is None else ("target", "limit")
            hint = "give both, or none to go for the value itself"
            raise ConfigError(f"{field}: has a {alone} ({getattr(self, alone)!r}) and no {other}", hint)
        if self.target is not None and self.limit is not None:
            target = check_number(self.target, f"{field}.target")
            limit = check_number(self.limit, f"{field}.limit")
            if not (target < limit if self.direction == "minimize" else target > limit):
                order = "below" if self.direction == "minimize" else "above"
                hint = f"to {self.direction}, the target is {order} the limit"
                raise ConfigError(f"{field}: target {target!r} is not {order} limit {limit!r}", hint)

    def scores(self, values: npt.ArrayLike) -> Values:
        """(n,) values as (n,) scores: small is good, inf of no use."""
        given = np.asarray(values, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.target is None or self.limit is None:
                found = self.priority * (given if self.direction == "minimize" else -given)
            else:
                share = (given - self.target) / (self.limit - self.target)
                # the limit itself scores the priority exactly: compared as given, not after rounding
                beyond = given > self.limit if self.direction == "minimize" else given < self.limit
                found = np.where(beyond, np.inf, self.priority * np.clip(share, 0.0, 1.0))
        return np.where(np.isnan(given), np.inf, found)

    def why(self, value: float | None) -> str:
        """Why a value scores infinitely much; empty where it does not."""
        if value is None:
            return f"{self.name} is missing"
        return self._told(value) if self.scores(value) == np.inf else ""

    def _told(self, value: float) -> str:
        """Why a value does that does."""
        if self.limit is None or math.isnan(value):
            return f"{self.name} is {value!r}"
        return f"{self.name} = {value!r} is beyond its limit {self.limit!r}"

    def words(self) -> Any:
        """What it is read from, as short as that can be said."""
        standard = {one.name: one.default for one in fields(self)}
        said = {word: getattr(self, word) for word in WORDS if getattr(self, word) != standard[word]}
        return self.direction if set(said) <= {"direction"} else said


@dataclass(frozen=True)
class Objectives:
    """All objectives of a search, in the order they were declared."""

    all: tuple[Objective, ...]

    @classmethod
    def read(cls, said: object, field: str = "search.objectives") -> Objectives:
        """Objectives from their words. Raises `ConfigError` that begins with the field and quotes the value."""
        if isinstance(said, Objectives):
            return said
        if isinstance(said, str) and said not in DIRECTIONS:
            said = {said: "minimize"}
        entries = check_mapping(said, field, LIKE)
        return cls(tuple(_objective(check_name(name, field), entry, field) for name, entry in entries.items()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.all)

    @property
    def columns(self) -> dict[str, str]:
        """Of each objective the column of the table of trials."""
        return {one.name: one.column for one in self.all}

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the groups, ascending: the columns of `scores`."""
        return tuple(sorted({one.group for one in self.all}))

    def row(self, values: Mapping[str, float | None]) -> Values:
        """What was measured of one trial as (objectives,) numbers: NaN for what is missing.

        Raises `ConfigError` for an objective that is unknown and a value that is no number.
        """
        for name, value in values.items():
            if name not in self.names:
                raise ConfigError(f"values.{name}: there is no objective {name!r}", near(str(name), self.names))
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
                hint = number_hint(value) or "a number, or null for what is missing"
                raise ConfigError(f"values.{name}: {shown(value)} is not a number", hint)
        found = (values.get(name) for name in self.names)
        return np.array([math.nan if value is None else _number(value) for value in found])

    def scores(self, values: npt.ArrayLike) -> Values:
        """(n, objectives) values as (n, groups) sums of scores; inf where any of the group is."""
        given = np.asarray(values, np.float64).reshape(-1, len(self.all))
        sums = np.zeros((len(given), len(self.groups)))
        for place, one in enumerate(self.all):
            group = self.groups.index(one.group)
            # inf and -inf of two objectives would be NaN: what is of no use stays so
            found, before = one.scores(given[:, place]), sums[:, group]
            useless = (found == np.inf) | (before == np.inf)
            with np.errstate(invalid="ignore"):
                sums[:, group] = np.where(useless, np.inf, before + found)
        return sums

    def why(self, values: Mapping[str, float | None]) -> str:
        """For a trial's record: which objectives made its score infinite; empty for none."""
        row = self.row(values)
        given = [None if values.get(one.name) is None else float(row[place]) for place, one in enumerate(self.all)]
        return "; ".join(filter(None, (one.why(value) for one, value in zip(self.all, given, strict=True))))

    def whys(self, values: npt.ArrayLike) -> list[str]:
        """The same for (n, objectives) values of many trials, NaN where there is nothing: a sentence each, or empty."""
        given = np.asarray(values, np.float64).reshape(-1, len(self.all))
        found = [""] * len(given)
        for place, one in enumerate(self.all):
            for row in np.flatnonzero(one.scores(given[:, place]) == np.inf).tolist():
                text = one._told(float(given[row, place]))
                found[row] = f"{found[row]}; {text}" if found[row] else text
        return found

    def changed(
        self, patch: Mapping[str, Mapping[str, Any]], field: str = "objectives", *, only_looking: bool = False
    ) -> Objectives:
        """The same with other targets, limits, directions, priorities or groups; None takes a target or limit away.

        Arguments:
        - `only_looking`: they may be of another column, too; and one that is not known yet is added, if it says `of`
          which. What was measured for a search cannot be changed.

        Raises `ConfigError` for unknown objectives and words, and for what cannot be.
        """
        found = {one.name: one for one in self.all}
        for name, words in check_mapping(patch, field, "{bias: {target: 0.02}}").items():
            said = check_mapping(words, f"{field}.{name}", "{target: 0.02}")
            if not isinstance(name, str) or (name not in found and not (only_looking and "of" in said)):
                raise ConfigError(f"{field}.{name}: there is no objective {name!r}", near(str(name), found))
            if "of" in said and not only_looking:
                hint = "look at others, without changing anything: staffa search top RUN --set loss.of=loss.max"
                raise ConfigError(f"{field}.{name}.of: what was measured cannot be changed", hint)
            given = _words(said, f"{field}.{name}", WORDS)
            before = found.get(name) or Objective(check_name(name, field))
            found[name] = _made(lambda before=before, given=given: replace(before, **given), field)
        return Objectives(tuple(found.values()))

    def words(self) -> dict[str, Any]:
        return {one.name: one.words() for one in self.all}


def _objective(name: str, entry: object, field: str) -> Objective:
    if isinstance(entry, str):
        entry = {"direction": entry}
    given = _words(check_mapping(entry, f"{field}.{name}", "{target: 0.01, limit: 1.0}"), f"{field}.{name}", WORDS)
    return _made(lambda: Objective(name, **given), field)


def _words(said: Mapping[object, object], field: str, known: tuple[str, ...]) -> dict[str, Any]:
    for word, value in said.items():
        if word not in known:
            raise ConfigError(f"{field}.{word}: an objective has no {word!r}", near(str(word), known))
        if word in ("target", "limit", "priority") and not (value is None and word != "priority"):
            check_number(value, f"{field}.{word}")
        if word == "of" and not (isinstance(value, str) and value):
            raise ConfigError(f"{field}.of: {shown(value)} is no column", "such as bias.mean, of the table of trials")
    return {str(word): value for word, value in said.items()}


def _made(make: Any, section: str) -> Objective:
    """An objective, complaints told under the section it is read from."""
    try:
        made: Objective = make()
    except ConfigError as error:
        raise ConfigError(section + error.message.removeprefix("objectives"), error.hint) from None
    return made


def _direction(said: object) -> str:
    short = {"min": "minimize", "max": "maximize", "minimise": "minimize", "maximise": "maximize"}
    return f"did you mean {short[said]!r}?" if said in short else near(str(said), DIRECTIONS)


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
