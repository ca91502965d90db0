"""Who goes on, against the definition: the better share of all that came as far, counted by sorting them all."""

from __future__ import annotations

import numpy as np
import pytest

from staffa.search.fronts import order
from staffa.search.halving import Halving


@pytest.mark.parametrize("groups", [1, 2])
def test_the_better_share_goes_on(groups: int) -> None:
    chance = np.random.default_rng(1)
    halving, came = Halving(0.25, 8), np.empty((0, groups))
    for batch in range(40):
        scores = chance.integers(0, 30, (4, groups)).astype(float)
        scores[chance.random(4) < 0.2] = np.inf
        lanes = [0, 2, 3, 5]
        found = halving.judge(1, batch, lanes, scores)
        came = np.concatenate([came, scores])
        best = order(came)[: max(len(came) // 4, 1)]
        kept = {int(place) for place in best if np.isfinite(came[place]).all()}
        first = len(came) - 4
        assert found == ([lane for n, lane in enumerate(lanes) if first + n not in kept] if len(came) >= 8 else [])


def test_one_that_comes_again_counts_once() -> None:
    halving = Halving(0.5, 2)
    halving.remember(1, "a", [0, 1], np.array([[3.0], [2.0]]))
    assert halving.judge(1, "a", [0], np.array([[1.0]])) == []
    assert halving.judge(1, "a", [1], np.array([[2.0]])) == [1]
    halving.forget()
    assert halving.judge(1, "b", [], np.empty((0, 1))) == []
