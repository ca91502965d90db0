"""Successive halving without waiting: who is worth going on with after some segments.

Jamieson and Talwalkar 2016; asynchronously as Li et al. 2020 (ASHA): a trial is held against all that came as far
before it, not against a generation. The first few go on whatever they score; what is forgiven them costs little.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from staffa.search.fronts import order


class Halving:
    """What was scored at each rung, and who goes on.

    Arguments:
    - `keep`: share of the trials that goes on.
    - `least`: trials that must have come as far before any is given up.
    """

    def __init__(self, keep: float, least: int) -> None:
        self._keep, self._least = keep, least
        self._came: dict[int, dict[Hashable, npt.NDArray[np.float64]]] = {}

    def remember(self, rung: int, batch: Hashable, lanes: Sequence[int], scores: npt.NDArray[np.float64]) -> None:
        """Trials that came as far; of one that comes again what it scored last counts.

        Arguments:
        - `scores`: (lanes, groups); inf for what is of no use.
        """
        came = self._came.setdefault(rung, {})
        for lane, own in zip(lanes, scores, strict=True):
            came[batch, lane] = own

    def forget(self) -> None:
        """What came before is to be told anew: it scores otherwise now."""
        self._came.clear()

    def judge(self, rung: int, batch: Hashable, lanes: Sequence[int], scores: npt.NDArray[np.float64]) -> list[int]:
        """The lanes that are not worth going on with; arguments as for `remember`."""
        self.remember(rung, batch, lanes, scores)
        came = self._came[rung]
        if len(came) < self._least:
            return []
        best = order(np.stack(list(came.values())))[: max(int(self._keep * len(came)), 1)]
        trials = list(came)
        kept = {trials[place] for place in best.tolist() if np.isfinite(came[trials[place]]).all()}
        return [lane for lane in lanes if (batch, lane) not in kept]
