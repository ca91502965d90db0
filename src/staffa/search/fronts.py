"""Which of many trials are best where there is more than one score: fronts, crowding, hypervolume.

Scores are (n, groups), small is good. A trial dominates another if it is nowhere worse and somewhere better. Front 0
is what nothing dominates, front 1 what only front 0 does, and so on (NSGA-II: Deb, Pratap, Agarwal & Meyarivan 2002).
Whatever has an infinite score, or NaN, stands in no front.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

UNRANKED = -1


def ranks(scores: npt.ArrayLike) -> Indices:
    """(n, groups) scores as (n,) numbers of fronts, -1 for what is in none.

    One group: places of the distinct scores. Two and three groups take n log n steps, and about that; more compare
    with the members of fronts (efficient non-dominated sorting: Zhang, Tian, Cheng & Jin 2015).
    """
    given = _table(scores)
    found = np.full(len(given), UNRANKED, np.intp)
    kept = np.flatnonzero(_ranked(given))
    if not len(kept):
        return found
    distinct, place = _distinct(given[kept])
    sort = {1: _sort_one, 2: _sort_two, 3: _sort_three}.get(given.shape[1], _sort_many)
    found[kept] = sort(distinct)[place]
    return found


def crowding(scores: npt.ArrayLike, fronts: npt.ArrayLike) -> Scores:
    """(n,) how far each trial's neighbours in its own front are apart, summed over groups of its front's width each.

    The first and last of a front in any group have infinity; equal scores stand in the order of trials. 0 for what is
    in no front.
    """
    given, of = _table(scores), np.asarray(fronts, np.intp)
    found = np.zeros(len(given))
    kept = np.flatnonzero(of != UNRANKED)
    if not len(kept):
        return found
    for group in range(given.shape[1]):
        order = kept[np.lexsort((kept, given[kept, group], of[kept]))]
        value, front = given[order, group], of[order]
        first = np.r_[True, front[1:] != front[:-1]]
        last = np.r_[first[1:], True]
        starts = np.flatnonzero(first)
        lengths = np.diff(np.r_[starts, len(order)])
        with np.errstate(invalid="ignore"):  # -inf is as good as can be
            width = np.repeat(value[starts + lengths - 1] - value[starts], lengths)
            between = np.zeros(len(order))
            between[1:-1] = value[2:] - value[:-2]
            share = np.divide(between, width, out=np.zeros(len(order)), where=width > 0)
        found[order] += np.where(first | last, np.inf, np.nan_to_num(share, posinf=np.inf))
    return found


def order(scores: npt.ArrayLike) -> Indices:
    """Indices of trials, the best first; those in no front last.

    One group: by score, equals as they came. More: by front, within it the most lonely first, equals as they came.
    """
    given = _table(scores)
    index = np.arange(len(given))
    if given.shape[1] == 1:
        return np.lexsort((index, np.where(_ranked(given), given[:, 0], np.inf)))
    front = ranks(given)
    behind = np.where(front == UNRANKED, len(given), front)
    return np.lexsort((index, -crowding(given, front), behind))


def top(scores: npt.ArrayLike, count: int) -> Indices:
    """The first `count` of `order` that are in a front, found without ranking all."""
    given = _table(scores)
    kept = np.flatnonzero(_ranked(given))
    if given.shape[1] > 1:
        chosen = np.array(sorted(index for front in first_fronts(given, count) for index in front), np.intp)
    elif count < len(kept):
        least = np.partition(given[kept, 0], count - 1)[count - 1] if count > 0 else -np.inf
        chosen = kept[given[kept, 0] <= least]
    else:
        chosen = kept
    return chosen[order(given[chosen])][: max(count, 0)]


def first_fronts(scores: npt.ArrayLike, count: int) -> Iterator[Indices]:
    """Whole fronts, the best first, until they hold `count` trials: ascending indices of each."""
    given = _table(scores)
    left = np.flatnonzero(_ranked(given))
    left = left[np.lexsort(given[left].T[::-1])]
    taken = 0
    while taken < count and len(left):
        inside = _undominated(given[left])
        yield np.sort(left[inside])
        taken += int(inside.sum())
        left = left[~inside]


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The measure of what is dominated by any of (n, groups) points and better than a reference point.

    Exact, by cutting along the last group; for few groups.
    """
    corner = np.asarray(reference, np.float64)
    given = _table(points).reshape(-1, len(corner))
    return _volume(given[(given < corner).all(axis=1)], corner)


def _volume(points: Scores, corner: Scores) -> float:
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points[:, 0].min())
    if len(corner) == 2:
        ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
        floor = np.minimum.accumulate(ordered[:, 1])
        width = np.diff(np.r_[ordered[:, 0], corner[0]])
        return float((width * (corner[1] - floor)).sum())
    ordered = points[np.argsort(points[:, -1], kind="stable")]
    height = np.diff(np.r_[ordered[:, -1], corner[-1]])
    slices = (_volume(ordered[: at + 1, :-1], corner[:-1]) * high for at, high in enumerate(height) if high > 0)
    return float(sum(slices))


def _table(scores: npt.ArrayLike) -> Scores:
    given = np.asarray(scores, np.float64)
    return given.reshape(-1, 1) if given.ndim == 1 else given


def _ranked(scores: Scores) -> npt.NDArray[np.bool_]:
    return np.asarray((scores < np.inf).all(axis=1))


def _distinct(scores: Scores) -> tuple[Scores, Indices]:
    """Distinct rows in lexicographic order, and for each row the place of its equal among them."""
    ordered = np.lexsort(scores.T[::-1])
    rows = scores[ordered]
    new = np.r_[True, (rows[1:] != rows[:-1]).any(axis=1)]
    place = np.empty(len(scores), np.intp)
    place[ordered] = np.cumsum(new) - 1
    return rows[new], place


def _undominated(rows: Scores) -> npt.NDArray[np.bool_]:
    """Which of lexicographically ordered rows no other dominates; equal rows are alike."""
    if rows.shape[1] == 2:
        lowest = np.r_[np.inf, np.minimum.accumulate(rows[:, 1])[:-1]]
        inside = rows[:, 1] < lowest
        # an equal of the row before shares its fate
        equal = np.r_[False, (rows[1:] == rows[:-1]).all(axis=1)]
        starts = np.maximum.accumulate(np.where(equal, 0, np.arange(len(rows))))
        return np.asarray(inside[starts])
    inside = np.zeros(len(rows), np.bool_)
    left = np.arange(len(rows))
    while len(left):
        best = rows[left[0]]
        inside[left[(rows[left] == best).all(axis=1)]] = True
        left = left[(rows[left] < best).any(axis=1)]
    return inside


def _sort_one(rows: Scores) -> Indices:
    return np.arange(len(rows))


def _sort_two(rows: Scores) -> Indices:
    """Of each front the lowest second score so far says whether it dominates what comes; those ascend by front."""
    found, lowest = np.empty(len(rows), np.intp), list[float]()
    for at, second in enumerate(rows[:, 1].tolist()):
        front = bisect_right(lowest, second)
        lowest[front : front + 1] = [second]
        found[at] = front
    return found


def _sort_three(rows: Scores) -> Indices:
    """As with two; what a front's lowest scores were is a staircase: second ascending, third descending."""
    found, stairs = np.empty(len(rows), np.intp), list[tuple[list[float], list[float]]]()
    for at, (_, second, third) in enumerate(rows.tolist()):
        low, high = 0, len(stairs)
        while low < high:
            middle = (low + high) // 2
            seconds, thirds = stairs[middle]
            step = bisect_right(seconds, second)
            low, high = (middle + 1, high) if step and thirds[step - 1] <= third else (low, middle)
        if low == len(stairs):
            stairs.append(([], []))
        _climb(*stairs[low], second, third)
        found[at] = low
    return found


def _climb(seconds: list[float], thirds: list[float], second: float, third: float) -> None:
    """Add a step to a staircase, and take away those that it covers."""
    start = bisect_right(seconds, second)
    if start and seconds[start - 1] == second:
        start -= 1
    end = start
    while end < len(thirds) and thirds[end] >= third:
        end += 1
    seconds[start:end], thirds[start:end] = [second], [third]


def _sort_many(rows: Scores) -> Indices:
    """For each row the first front none of whose members dominates it; rows before it are all there is to ask."""
    found, fronts = np.empty(len(rows), np.intp), list[_Members]()
    for at, row in enumerate(rows):
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if fronts[middle].dominate(row) else (low, middle)
        if low == len(fronts):
            fronts.append(_Members(rows.shape[1]))
        fronts[low].add(row)
        found[at] = low
    return found


class _Members:
    """Rows of one front, in an array that doubles."""

    def __init__(self, groups: int) -> None:
        self._rows, self._count = np.empty((16, groups)), 0

    def add(self, row: Scores) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = row
        self._count += 1

    def dominate(self, row: Scores) -> bool:
        return bool((self._rows[: self._count] <= row).all(axis=1).any())
