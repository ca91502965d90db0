"""Successive halving without waiting: who is worth going on with after some segments.

Jamieson and Talwalkar 2016; asynchronously as Li et al. 2020 (ASHA): a trial is held against all that came as far
before it, not against a generation. The first few go on whatever they score; what is forgiven them costs little.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from staffa.search.fronts import top

Scores = npt.NDArray[np.float64]


class Halving:
    """What was scored at each rung, and who goes on.

    Arguments:
    - `keep`: share of the trials that goes on.
    - `least`: trials that must have come as far before any is given up.
    """

    def __init__(self, keep: float, least: int) -> None:
        self._keep, self._least = keep, least
        self._came: dict[int, _Rung] = {}

    def remember(self, rung: int, batch: Hashable, lanes: Sequence[int], scores: Scores) -> None:
        """Trials that came as far; of one that comes again what it scored last counts.

        Arguments:
        - `scores`: (lanes, groups); inf for what is of no use.
        """
        if len(lanes):
            self._came.setdefault(rung, _Rung(scores.shape[1])).put([(batch, lane) for lane in lanes], scores)

    def forget(self) -> None:
        """What came before is to be told anew: it scores otherwise now."""
        self._came.clear()

    def judge(self, rung: int, batch: Hashable, lanes: Sequence[int], scores: Scores) -> list[int]:
        """The lanes that are not worth going on with; arguments as for `remember`."""
        self.remember(rung, batch, lanes, scores)
        came = self._came.get(rung)
        if came is None or len(came.rows) < self._least:
            return []
        kept = set(top(came.scores, max(int(self._keep * len(came.rows)), 1)).tolist())
        return [lane for lane in lanes if came.rows[batch, lane] not in kept]


class _Rung:
    """Scores of the trials that came as far, in an array that doubles: each batch is compared with all of them."""

    def __init__(self, groups: int) -> None:
        self.rows: dict[Hashable, int] = {}
        self._scores = np.empty((64, groups))

    @property
    def scores(self) -> Scores:
        return self._scores[: len(self.rows)]

    def put(self, trials: Sequence[Hashable], scores: Scores) -> None:
        places = [self.rows.setdefault(trial, len(self.rows)) for trial in trials]
        while len(self.rows) > len(self._scores):
            self._scores = np.concatenate([self._scores, np.empty_like(self._scores)])
        self._scores[places] = scores
