"""What a search found: its trials, the best of them, fronts, how it went; while it runs and after.

Trials stand in the order in which they were asked for. What is good can be asked otherwise than the search was told
(`rescored`): nothing is run for that, and nothing changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.config import load_frozen
from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.campaign.search import SearchConfig
from staffa.errors import ConfigError
from staffa.rows.objective import check_of, columns_of, values_in
from staffa.storage.lease import read_lease
from staffa.storage.workspace import Workspace
from staffa.trial import Scalar
from staffa.views.census import WORDS
from staffa.views.results import Results
from staffa.views.searched.judged import Judged
from staffa.views.searched.record import Record, read
from staffa.views.searched.sheets import described

if TYPE_CHECKING:
    import pandas

    from staffa.views.drawing.style import Drawing

Row = npt.NDArray[Any]

INDEX = "number"
OWN = ("trial", "score", "front", "crowding", "outcome", "why")
"""Columns that every table of a search has besides parameters and objectives."""


@dataclass(frozen=True)
class Found:
    """One trial of a search.

    Arguments:
    - `number`: which of those that were asked for, from 0; `trial`: its digest.
    - `objectives`: NaN for what there is nothing of.
    - `scores`: by group; inf for what is of no use.
    - `front`: from 0, -1 for none; `crowding`: how lonely it is there.
    - `why`: why it stands in no front.
    """

    number: int
    trial: str
    params: dict[str, Scalar]
    objectives: dict[str, float]
    scores: dict[int, float]
    front: int
    crowding: float
    outcome: str
    why: str = ""

    @property
    def score(self) -> float:
        """The sum over all groups."""
        return float(sum(self.scores.values()))


class Searched:
    """A search as it stands when it is first asked; ask for it anew (`run.search`) to see what came since.

    Arguments:
    - `objectives`: what is good; by default what the search is after.
    - `record`: what came back, where it was read before.

    Raises `ConfigError` for a campaign that is no search.
    """

    def __init__(
        self, workspace: Workspace, objectives: Objectives | None = None, record: Record | None = None
    ) -> None:
        self.workspace, self._given, self._record = workspace, objectives, record
        self._results = Results(workspace)
        self.plan = self._results.plan
        if self.plan.search is None:
            run = shlex.quote(str(workspace.root))
            raise ConfigError(
                f"'{workspace.root}' is no search: its points were listed beforehand", f"staffa status {run}"
            )

    # --- tables --------------------------------------------------------------------------------------

    @property
    def trials(self) -> pandas.DataFrame:
        """Every trial that was asked for, in that order; the index is its number.

        Columns: `trial`, parameters, objectives, `score` (with several groups `score.0`, …; inf for what is of no
        use), `front` (from 0, -1 for none), `crowding`, `outcome`, and `why` it stands in no front.
        """
        return self._frame(np.arange(len(self.record)))

    def top(self, k: int = 10) -> pandas.DataFrame:
        """The best trials that are ranked, best first, in the columns of `trials`.

        By score; with several groups by front, and within a front the most lonely first.
        """
        return self._frame(self.judged.top(k))

    def fronts(self, k: int = 1) -> pandas.DataFrame:
        """The trials of the first k fronts: nothing of later ones is better than they in all groups."""
        return self._frame(self.judged.leading(k))

    @property
    def history(self) -> pandas.DataFrame:
        """How the search went: by number each trial's scores, and the best so far; NaN before there is any.

        Columns: `trial`, `score` and `best`; with several groups `score.0`, `best.0`, …
        """
        import pandas

        columns: dict[str, Row] = {"trial": self.record.trial}
        for place, name in enumerate(self._score_names):
            columns[name] = self.judged.scores[:, place]
        for place, name in enumerate(self._score_names):
            columns[f"best{name.removeprefix('score')}"] = self.judged.best[:, place]
        return pandas.DataFrame(columns, index=pandas.RangeIndex(len(self.record), name=INDEX))

    @property
    def best(self) -> Found | None:
        """The first of `top`; None while no trial is ranked."""
        places = self.judged.top(1)
        return self._found(int(places[0])) if len(places) else None

    @property
    def status(self) -> dict[str, Any]:
        """The search in numbers.

        `asked`: trials so far, of `budget`; `told`: those with a result, of which some are `ranked`, others `useless`
        (beyond a limit, NaN), `failed`, `hopeless` (given up between segments) or `cancelled`. The rest is `in_flight`
        where a driver is at work, else `waiting`.
        """
        assert self.plan.search is not None
        counts, best = dict(self.judged.counts), self.best
        holder = read_lease(self.workspace.lease)
        live = holder is not None and holder.alive()
        left = counts.pop("open")
        return {
            "root": str(self.workspace.root),
            "live": live,
            "budget": self.plan.search.trials,
            **counts,
            "in_flight": left if live else 0,
            "waiting": 0 if live else left,
            "best": None if best is None else facts_of(best),
            "strategy": {"use": self.config.strategy.use, **self.config.strategy.options},
            "space": Domain.read(self.config.space).words(),
            "objectives": self.objectives.words(),
            "described": described(self.objectives, self.declared),
            "changed": self.objectives != self.declared,
        }

    # --- what is good --------------------------------------------------------------------------------

    @property
    def objectives(self) -> Objectives:
        """What is good, as it counts here."""
        return self._given or self.current

    @property
    def current(self) -> Objectives:
        """What the search is after now: as declared, or as it was changed since."""
        return Objectives.read(self.record.changed) if self.record.changed else self.declared

    @cached_property
    def declared(self) -> Objectives:
        """What the search was declared to be after."""
        return Objectives.read(self.config.objectives)

    def rescored(self, objectives: Mapping[str, Mapping[str, Any]] | Objectives) -> Searched:
        """The same trials by other objectives; nothing is changed for the search itself.

        Arguments:
        - `objectives`: what is to be otherwise, `{"bias": {"target": 0.02, "of": "bias.max"}}`: any word of a
          campaign's objectives, null to take a target away; one that was not declared has to say `of` what. Or an
          `Objectives`, which then counts alone.

        Raises `ConfigError` for what cannot be, and for columns that the table of trials does not have.
        """
        made = objectives
        if not isinstance(made, Objectives):
            made = self.objectives.changed(made, only_looking=True)
        for one in made.all:
            check_of(self.plan, one.column, f"objectives.{one.name}.of")
        return type(self)(self.workspace, made, self.record)

    # --- figures -------------------------------------------------------------------------------------

    def plot(self, kind: str = "course") -> Drawing:
        """Draw the search; a notebook shows the figure by itself, and `facts` has the numbers in it.

        Arguments:
        - `kind`: `course` (objectives by number, with the best so far), `parameters` (against the score), or `fronts`
          (scores of two groups against each other, of more in pairs).

        Raises `ConfigError` with the near names, and where there is nothing to draw.
        """
        from staffa.views.searched.figures import plotted

        return plotted(self, kind)

    # --- what it rests on ----------------------------------------------------------------------------

    @cached_property
    def config(self) -> SearchConfig:
        """The search as it was declared."""
        declaration = load_frozen(self.workspace.frozen, directory=self.workspace.code)
        assert declaration.campaign.search is not None
        return declaration.campaign.search

    @property
    def record(self) -> Record:
        """What was asked for and what came back, as arrays."""
        if self._record is None:
            self._record = read(self.workspace, self.plan, Domain.read(self.config.space).names)
        return self._record

    @cached_property
    def judged(self) -> Judged:
        """The same by what is good here."""
        return Judged(self.record, self.objectives, self._values())

    def _values(self) -> Row:
        """(n, objectives): as they were recorded; what the search does not score by is made of the table of trials."""
        assert self.plan.search is not None
        known = {of: place for place, (_, of) in enumerate(self.plan.search.objectives)}
        wanted = [one.column for one in self.objectives.all]
        others = list(dict.fromkeys(of for of in wanted if of not in known))
        made = dict(zip(others, self._made(others).T, strict=True)) if others else {}
        return np.stack([made[of] if of in made else self.record.values[:, known[of]] for of in wanted], axis=1)

    def _made(self, formulas: list[str]) -> Row:
        table = self._results.trials.to_arrow(["trial", *columns_of(self.plan, formulas)])
        places = {trial: place for place, trial in enumerate(self.record.trial.tolist())}
        at = np.array([places.get(trial, -1) for trial in table["trial"].to_pylist()], np.intp)
        found = np.full((len(self.record), len(formulas)), np.nan)
        found[at[at >= 0]] = values_in(self.plan, formulas, table)[at >= 0]
        return found

    @property
    def _score_names(self) -> list[str]:
        groups = self.objectives.groups
        return ["score"] if len(groups) == 1 else [f"score.{group}" for group in groups]

    def _frame(self, places: Row) -> pandas.DataFrame:
        import pandas

        record, judged = self.record, self.judged
        front, far = judged.standing(places)
        columns: dict[str, Any] = {"trial": record.trial[places]}
        names = self.names
        columns |= {names.params[name]: values[places] for name, values in record.params.items()}
        for place, name in enumerate(self.objectives.names):
            columns[names.objectives[name]] = judged.values[places, place]
        columns |= {name: judged.scores[places, place] for place, name in enumerate(self._score_names)}
        columns |= {"front": front, "crowding": far, "outcome": WORDS[record.outcome[places]]}
        columns["why"] = np.array(judged.whys(places), object)
        return pandas.DataFrame(columns, index=pandas.Index(places, name=INDEX))

    def _found(self, place: int) -> Found:
        record, judged, one = self.record, self.judged, np.array([place])
        front, far = judged.standing(one)
        values = dict(zip(self.objectives.names, judged.values[place].tolist(), strict=True))
        scores = dict(zip(self.objectives.groups, judged.scores[place].tolist(), strict=True))
        params = {name: own[one].tolist()[0] for name, own in record.params.items()}
        return Found(
            place, str(record.trial[place]), params, values, scores, int(front[0]), float(far[0]),
            str(WORDS[record.outcome[place]]), judged.whys(one)[0],
        )  # fmt: skip

    @cached_property
    def names(self) -> Names:
        """What parameters and objectives are called as columns."""
        return Names.of(tuple(self.record.params), self.objectives.names)

    def __repr__(self) -> str:
        counts = self.judged.counts
        told = f"{counts['told']:,} told, {counts['asked']:,} asked for"
        return f"<search of {str(self.workspace.root)!r}: {told}; {', '.join(self.objectives.names)}>"


@dataclass(frozen=True)
class Names:
    """Names of columns, by that of a parameter or an objective: its own, unless that is taken."""

    params: Mapping[str, str]
    objectives: Mapping[str, str]

    @classmethod
    def of(cls, params: tuple[str, ...], objectives: tuple[str, ...]) -> Names:
        own = {name: f"params.{name}" if _taken(name) else name for name in params}
        others = {name: f"objective.{name}" if _taken(name) or name in own else name for name in objectives}
        return cls(own, others)


def _taken(name: str) -> bool:
    return name in OWN or name == INDEX or name.startswith("score.")


def facts_of(found: Found) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "number": found.number,
        "trial": found.trial,
        "params": found.params,
        "objectives": found.objectives,
        "scores": list(found.scores.values()),
        "score": found.score,
        "front": found.front,
    }
