"""What is asked of a tree: the nearest points, a parent for a point, the way to a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .distances import pairs
from .growing import Array
from .pool import NOWHERE, Pool, scales
from .walk import Frontier, Walker, nearest_of_each


class Nearest:
    """The `count` nearest points of each query, of equally near ones those of smaller number.

    Arguments:
    - `before`: (queries,) only points of smaller number than this are looked for.
    """

    def __init__(self, pool: Pool, queries: int, count: int, before: Array | None = None) -> None:
        self.pool, self.count, self.before = pool, count, before
        self.narrows = before is not None
        self.cap = np.full(queries, np.inf)
        self.best = np.full((queries, count), np.inf)
        self.seen: list[tuple[Array, Array, Array]] = []

    def bound(self, row: Array, record: Array) -> Array:
        bound = self.cap.take(row)
        if self.before is None:
            return bound
        return np.where(self.pool.records["least"].take(record) < self.before.take(row), bound, -np.inf)

    def see(self, frontier: Frontier) -> None:
        row, point, distance = frontier.row, self.pool.records["point"].take(frontier.record), frontier.distance
        keep = distance <= self.cap.take(row)
        if self.before is not None:
            keep &= point < self.before.take(row)
        places = np.flatnonzero(keep)
        row, point, distance = row[places], point[places], distance[places]
        self.seen.append((row, point, distance))
        self.merge(row, distance)

    def merge(self, row: Array, distance: Array) -> None:
        """Put distances among the best of their query. Rows have to be in order."""
        if not len(row):
            return
        starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        counts = np.diff(np.r_[starts, len(row)])
        rows = row[starts]
        table = np.full((len(rows), self.count + int(counts.max())), np.inf)
        table[:, : self.count] = self.best[rows]
        which = np.repeat(np.arange(len(rows)), counts)
        table[which, self.count + np.arange(len(row)) - np.repeat(starts, counts)] = distance
        table.partition(self.count - 1, axis=1)
        self.best[rows] = table[:, : self.count]
        self.cap[rows] = np.minimum(self.cap[rows], table[:, self.count - 1])

    def answer(self) -> tuple[Array, Array]:
        """(queries, count) numbers and distances, nearest first; -1 and infinity where there are not so many."""
        row, point, distance = (np.concatenate(column) for column in zip(*self.seen, strict=True))
        keep = np.flatnonzero(distance <= self.cap.take(row))
        return ranked(row[keep], point[keep], distance[keep], *self.best.shape)


def ranked(row: Array, point: Array, distance: Array, queries: int, count: int) -> tuple[Array, Array]:
    """The `count` nearest of each query among pairs of query and point, nearest first, then by number."""
    order = np.lexsort((point, distance, row))
    row, point, distance = row[order], point[order], distance[order]
    starts = np.searchsorted(row, np.arange(queries))
    rank = np.arange(len(row)) - starts[row]
    keep = rank < count
    points, distances = np.full((queries, count), -1), np.full((queries, count), np.inf)
    points[row[keep], rank[keep]] = point[keep]
    distances[row[keep], rank[keep]] = distance[keep]
    return points, distances


@dataclass(frozen=True)
class Way:
    """The way from nodes up to the root: pairs of a question and a node above (or the node itself).

    Arguments:
    - `row`, `record`: question and node; `distance`: between the two; `height`: 0 for the node that was found.
    """

    row: Array
    record: Array
    distance: Array
    height: Array

    @classmethod
    def up(cls, found: list[tuple[Frontier, int] | None]) -> Way:
        """The way from a place in a frontier of each question; None where nothing was found."""
        parts: list[tuple[Array, Array, Array, Array]] = []
        at = {row: one for row, one in enumerate(found) if one is not None}
        groups: dict[int, tuple[Frontier, list[int], list[int]]] = {}
        for row, (frontier, place) in at.items():
            _, rows, places = groups.setdefault(id(frontier), (frontier, [], []))
            rows.append(row)
            places.append(place)
        for frontier, rows, places in groups.values():
            height, one, place = 0, frontier, np.array(places)
            while True:
                count = len(rows)
                parts.append((np.array(rows), one.record[place], one.distance[place], np.full(count, height)))
                if one.before is None or one.back is None:
                    break
                one, place, height = one.before, one.back[place], height + 1
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return cls(*columns)


class _Tracked:
    """The one node each question is after, and where it was met."""

    narrows = True

    def __init__(self, pool: Pool, queries: int) -> None:
        self.pool = pool
        self.distance = np.full(queries, np.inf)
        self.number = np.full(queries, NOWHERE)
        self.met: list[tuple[Frontier, int] | None] = [None] * queries

    def note(self, frontier: Frontier, keep: Array) -> None:
        """Take the best of the pairs that are kept: the nearest, then that of the smallest number."""
        places = np.flatnonzero(keep)
        row, distance = frontier.row[places], frontier.distance[places]
        number = self.pool.records["point"].take(frontier.record[places])
        best = nearest_of_each(row, distance, number)
        row, distance, number, places = row[best], distance[best], number[best], places[best]
        old = self.distance[row]
        better = (distance < old) | ((distance == old) & (number < self.number[row]))
        row, places = row[better], places[better]
        self.distance[row], self.number[row] = distance[better], number[better]
        for one, place in zip(row.tolist(), places.tolist(), strict=True):
            self.met[one] = (frontier, place)


class Parent(_Tracked):
    """The nearest node q that a point may hang below: with d <= 2^level(q), and level(q) above the point's floor.

    So a point has a parent in the cover set that is one above its own level, and nothing nearer than its level allows
    (`levels_over(d) - 1`): of all i for which some q of C_i has d <= 2^i, the smallest is that of the nearest such q.
    """

    def __init__(self, pool: Pool, floor: Array) -> None:
        super().__init__(pool, len(floor))
        self.floor = floor

    def bound(self, row: Array, record: Array) -> Array:
        level = self.pool.records["level"].take(record)
        reach = np.minimum(self.distance.take(row), scales(level))
        return np.where(level > self.floor.take(row), reach, -np.inf)

    def see(self, frontier: Frontier) -> None:
        level = self.pool.records["level"].take(frontier.record)
        self.note(frontier, (frontier.distance <= scales(level)) & (level > self.floor.take(frontier.row)))


class Itself(_Tracked):
    """The nodes of points that are in the tree, by their numbers."""

    def __init__(self, pool: Pool, numbers: Array, selves: Array) -> None:
        super().__init__(pool, len(numbers))
        self.numbers, self.selves = numbers, selves

    def bound(self, row: Array, record: Array) -> Array:
        missing = np.isinf(self.distance.take(row)) & (
            self.pool.records["least"].take(record) <= self.numbers.take(row)
        )
        return np.where(missing, self.selves.take(row), -np.inf)

    def see(self, frontier: Frontier) -> None:
        self.note(frontier, self.pool.records["point"].take(frontier.record) == self.numbers.take(frontier.row))


def parents(walker: Walker, floor: Array) -> tuple[Array, Way]:
    """The distance of each query to its parent, and the way from there up to the root."""
    question = Parent(walker.pool, floor)
    walker.walk(question)
    return question.distance, Way.up(question.met)


def ways_to(walker: Walker, numbers: Array) -> Way:
    """The way from points of the tree up to the root. Queries have to be the points' features."""
    every = np.arange(len(numbers))
    selves = pairs(walker.fitted.form, walker.queries, every, walker.queries, every)
    question = Itself(walker.pool, numbers, selves)
    walker.walk(question)
    return Way.up(question.met)
