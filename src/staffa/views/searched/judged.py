"""What the trials of a search are worth: scores by some objectives, fronts, and who stands in none, and why."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.objectives import Objectives
from staffa.search import fronts
from staffa.trial import Outcome
from staffa.views.searched.record import Record

Row = npt.NDArray[Any]

WAITING = "no result yet"


@dataclass(frozen=True)
class Judged:
    """A search's trials by some objectives.

    Arguments:
    - `values`: (n, objectives) what they are scored by, NaN where there is nothing.
    """

    record: Record
    objectives: Objectives
    values: Row

    @cached_property
    def scores(self) -> Row:
        """(n, groups) sums of scores; inf for what is of no use, or has no data."""
        found = self.objectives.scores(self.values)
        found[~self.record.with_data] = np.inf
        return found

    @cached_property
    def ranked(self) -> Row:
        """(n,) whether a trial stands in a front."""
        return np.asarray((self.scores < np.inf).all(axis=1))

    @cached_property
    def best(self) -> Row:
        """(n, groups) the least score of a group among all trials up to each, in the order of asking; NaN for none."""
        found = np.minimum.accumulate(np.where(self.ranked[:, None], self.scores, np.inf), axis=0)
        return np.where(found == np.inf, np.nan, found)

    def top(self, count: int) -> Row:
        """Places of the best trials, best first: by score, or with several groups by front and crowding."""
        return fronts.top(self.scores, count)

    def leading(self, count: int) -> Row:
        """Places of the trials in the first so many fronts, front after front, the most lonely first."""
        found = itertools.islice(fronts.first_fronts(self.scores, len(self.record)), max(count, 0))
        chosen = np.sort(np.concatenate([np.empty(0, np.intp), *found]))
        return chosen[fronts.order(self.scores[chosen])]

    def standing(self, places: Row) -> tuple[Row, Row]:
        """Front (-1 for none) and crowding distance of some trials.

        Of three groups and more not all are ranked for the sake of a few: the fronts up to the last of these tell.
        """
        few = self.ranked[places].all() and len(places) < len(self.record) // 2
        if self.scores.shape[1] < 3 or not few:
            return self._all[0][places], self._all[1][places]
        inside = self._up_to(places)
        front = fronts.ranks(self.scores[inside])
        far = fronts.crowding(self.scores[inside], front)
        at = np.searchsorted(inside, places)
        return front[at], far[at]

    def _up_to(self, places: Row) -> Row:
        """Places of all trials in whole fronts, until these are among them."""
        missing, found = set(places.tolist()), [np.empty(0, np.intp)]
        for front in fronts.first_fronts(self.scores, len(self.record)):
            if not missing:
                break
            found.append(front)
            missing.difference_update(front.tolist())
        return np.sort(np.concatenate(found))

    @cached_property
    def _all(self) -> tuple[Row, Row]:
        front = fronts.ranks(self.scores)
        return front, fronts.crowding(self.scores, front)

    def whys(self, places: Row) -> list[str]:
        """For each of some trials why it stands in no front; empty for those that do."""
        found = [""] * len(places)
        outside = np.flatnonzero(~self.ranked[places])
        data = self.record.with_data[places[outside]]
        beyond = outside[data]
        for place, text in zip(beyond.tolist(), self.objectives.whys(self.values[places[beyond]]), strict=True):
            found[place] = text
        for place in outside[~data].tolist():
            found[place] = self._without_data(int(places[place]))
        return found

    def _without_data(self, place: int) -> str:
        outcome = Outcome(int(self.record.outcome[place]))
        if outcome is Outcome.MISSING:
            return WAITING
        said = self.record.said.get(str(self.record.trial[place]), "")
        return said or outcome.word.replace("_", " ")

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many trials were `asked`, `told` (have a result), and of these are `ranked`, `useless` (data, but no
        score), `failed`, `hopeless`, `cancelled`; and how many have none yet (`open`)."""
        outcome = self.record.outcome
        failed = np.isin(outcome, [one for one in Outcome if one.failed])
        found = {
            "asked": len(outcome),
            "told": outcome != Outcome.MISSING,
            "open": outcome == Outcome.MISSING,
            "ranked": self.ranked,
            "useless": self.record.with_data & ~self.ranked,
            "failed": failed,
            "hopeless": outcome == Outcome.HOPELESS,
            "cancelled": np.isin(outcome, (Outcome.CANCELLED, Outcome.MISSING_INPUT)),
        }
        return {name: int(np.sum(one)) for name, one in found.items()}
