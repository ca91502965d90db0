"""Fronts, crowding and hypervolume against what is slow and plain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.search.fronts import crowding, hypervolume, order, ranks, top

INF, NAN = math.inf, math.nan


def by_hand(scores: np.ndarray) -> list[int]:
    """Peel what nothing left dominates, front by front, comparing all with all."""
    found = [-1] * len(scores)
    left = [i for i, row in enumerate(scores.tolist()) if all(value < INF for value in row)]
    for front in itertools.count():
        if not left:
            return found
        best = [
            i for i in left if not any((scores[j] <= scores[i]).all() and (scores[j] < scores[i]).any() for j in left)
        ]
        for i in best:
            found[i] = front
        left = [i for i in left if i not in best]
    raise AssertionError


def lonely(scores: np.ndarray, fronts: list[int]) -> list[float]:
    """Crowding distances as the paper's loop writes them."""
    found = [0.0] * len(scores)
    for front in set(fronts) - {-1}:
        members = [i for i, other in enumerate(fronts) if other == front]
        for group in range(scores.shape[1]):
            members.sort(key=lambda i: (scores[i, group], i))
            width = scores[members[-1], group] - scores[members[0], group]
            found[members[0]] = found[members[-1]] = INF
            for before, i, after in zip(members, members[1:], members[2:], strict=False):
                found[i] += (scores[after, group] - scores[before, group]) / width if width else 0.0
    return found


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Few different values, so that equals and ties are many; some of no use."""
    groups, size = draw(st.integers(1, 5)), draw(st.integers(0, 25))
    value = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, -1.5, INF, NAN])
    rows = draw(st.lists(st.lists(value, min_size=groups, max_size=groups), min_size=size, max_size=size))
    return np.array(rows).reshape(size, groups)


@settings(max_examples=150)
@given(tables())
def test_fronts_and_crowding_as_by_hand(scores: np.ndarray) -> None:
    expected = by_hand(scores)
    assert ranks(scores).tolist() == expected
    assert crowding(scores, expected).tolist() == pytest.approx(lonely(scores, expected))


@settings(max_examples=60)
@given(tables(), st.integers(0, 30))
def test_the_top_is_where_the_order_begins(scores: np.ndarray, count: int) -> None:
    found, fronts = order(scores).tolist(), by_hand(scores)
    alone = lonely(scores, fronts)
    if scores.shape[1] == 1:
        expected = sorted(range(len(scores)), key=lambda i: (scores[i, 0] if fronts[i] >= 0 else INF, i))
    else:
        expected = sorted(range(len(scores)), key=lambda i: (fronts[i] if fronts[i] >= 0 else INF, -alone[i], i))
    assert found == expected
    assert top(scores, count).tolist() == [i for i in found if fronts[i] >= 0][:count]


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_fronts_of_many(groups: int) -> None:
    scores = np.random.default_rng(groups).random((250, groups))
    scores[::7] = scores[::7].round(1)
    assert ranks(scores).tolist() == by_hand(scores)
    assert top(scores, 40).tolist() == order(scores)[:40].tolist()


def test_a_hundred_thousand_are_ranked() -> None:
    angle = np.random.default_rng(0).random(100_000) * math.pi / 2
    ring = np.arange(100_000) % 10
    scores = np.stack([1 - np.cos(angle), 1 - np.sin(angle)], axis=1) + ring[:, None]
    assert (ranks(scores) == ring).all() and len(top(scores, 5)) == 5
    three = np.concatenate([scores, -scores[:, :1]], axis=1)
    first = ranks(three)
    assert first.min() == 0 and (first[ring == 0] == 0).all()


def test_scores_as_good_as_can_be_stand_first() -> None:
    scores = np.array([[0.0, 1.0], [-INF, 2.0], [3.0, -INF], [INF, -INF]])
    assert ranks(scores).tolist() == [0, 0, 0, -1] and order(scores)[-1] == 3
    assert not np.isnan(crowding(scores, ranks(scores))).any()
    assert order([[1.0], [-INF], [0.0]]).tolist() == [1, 2, 0]


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1.0, 3.0], [2.0, 1.0], [2.0, 2.0], [5.0, 0.0]], (4.0, 4.0)) == 7.0
    assert hypervolume(np.empty((0, 2)), (1.0, 1.0)) == 0.0
    assert hypervolume([[0.25]], (1.0,)) == 0.75
    assert hypervolume([[0.0, 0.0, 0.0], [0.5, 0.5, -1.0]], (1.0, 1.0, 1.0)) == pytest.approx(1.25)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_hypervolume_is_that_of_the_cells_that_are_dominated(groups: int) -> None:
    generator = np.random.default_rng(groups)
    for _ in range(10):
        points = generator.integers(0, 6, size=(8, groups)).astype(float)
        cells = np.array(list(itertools.product(range(5), repeat=groups)))
        covered = (points[:, None, :] <= cells[None]).all(axis=2).any(axis=0)
        assert hypervolume(points, (5.0,) * groups) == pytest.approx(covered.sum())
