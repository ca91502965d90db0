"""Which arriving points cannot stand in a tree together: plug-ins of the family `conflicts`.

Two points conflict when their distance is at most 2^min(level): each found its level as if the other were not there. A
strategy is called with `Arrivals` and gives the edges of that graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .distances import pairs, tiles
from .growing import Array, spread
from .pool import TWIN, scales
from .questions import Way
from .walk import Frontier, Walker


@dataclass(frozen=True)
class Edges:
    """Pairs of arrivals in conflict, each once, and their distances."""

    left: Array
    right: Array
    distance: Array

    def __len__(self) -> int:
        return len(self.left)

    def only(self, chosen: Array) -> Edges:
        """Some of them."""
        return Edges(self.left[chosen], self.right[chosen], self.distance[chosen])


@dataclass(frozen=True)
class Arrivals:
    """Points on their way into a tree.

    Arguments:
    - `walker`: the tree, and the points' features as its queries.
    - `level`: of each; `way`: from the parent it found (`height` 0) up to the root.
    """

    walker: Walker
    level: Array
    way: Way


Strategy = Callable[[Arrivals], Edges]


@dataclass(frozen=True)
class Dense:
    """Every arrival with every other: the fastest for few of them."""

    def __call__(self, arrivals: Arrivals) -> Edges:
        walker, scale = arrivals.walker, scales(arrivals.level)
        features = walker.queries
        found = []
        for row, column, distance in tiles(walker.fitted.form, features, features):
            high, wide = distance.shape
            limit = np.minimum(scale[row : row + high, None], scale[column : column + wide])
            near = distance - walker.slack(distance) <= limit
            left, right = np.nonzero(near)
            keep = left + row < right + column
            found.append((left[keep] + row, right[keep] + column))
        # The last bits of a distance differ between programs: every strategy has its distances from the same one.
        left, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
        distance = pairs(walker.fitted.form, features, left, features, right)
        return Edges(left, right, distance).only(distance <= np.minimum(scale[left], scale[right]))


@dataclass(frozen=True)
class Hanging:
    """Only arrivals whose parents are near enough: these are found in the tree itself.

    Of two in conflict let p have the lower level l, and q be its parent: the other one's distance to q is at most
    2^l + 2^(l+1).

    Options:
    - `dense`: up to so many arrivals every one is compared with every other.
    """

    dense: int = 256

    def __post_init__(self) -> None:
        if self.dense < 0:
            raise ValueError(f"dense: {self.dense} is not 0 or more")

    def __call__(self, arrivals: Arrivals) -> Edges:
        if len(arrivals.level) <= self.dense:
            return Dense()(arrivals)
        question = _Near(arrivals)
        arrivals.walker.walk(question)
        return question.edges()


class _Near:
    """Below which nodes something hangs that may conflict with an arrival."""

    narrows = True

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals, way = arrivals, arrivals.way
        size = len(arrivals.walker.pool.records)
        self.highest = np.full(size, TWIN)
        np.maximum.at(self.highest, way.record, arrivals.level[way.row])
        own = way.height == 0
        order = np.argsort(way.record[own], kind="stable")
        self.items, self.gaps = way.row[own][order], way.distance[own][order]
        self.count = np.bincount(way.record[own], minlength=size)
        self.first = np.cumsum(self.count) - self.count
        self.seen: list[tuple[Array, Array, Array]] = []

    def bound(self, row: Array, record: Array) -> Array:
        scale = scales(np.minimum(self.highest.take(record), self.arrivals.level.take(row)))
        return np.where(scale > 0, 3 * scale, -np.inf)

    def see(self, frontier: Frontier) -> None:
        reach = self.bound(frontier.row, frontier.record) + self.arrivals.walker.slack(frontier.distance)
        keep = (self.count.take(frontier.record) > 0) & (frontier.distance <= reach)
        self.seen.append((frontier.row[keep], frontier.record[keep], frontier.distance[keep]))

    def edges(self) -> Edges:
        row, record, above = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
        owner, place = spread(self.first.take(record), self.count.take(record))
        left, right, gap = row[owner], self.items[place], self.gaps[place]
        level, walker = self.arrivals.level, self.arrivals.walker
        # Each pair from the higher of the two, of equals from the first.
        ordered = (level[right] < level[left]) | ((level[right] == level[left]) & (left < right))
        near = np.abs(above[owner] - gap) - walker.slack(above[owner] + gap) <= scales(level[right])
        keep = np.flatnonzero(ordered & near)
        left, right = left[keep], right[keep]
        distance = pairs(walker.fitted.form, walker.queries, left, walker.queries, right)
        return Edges(left, right, distance).only(distance <= scales(level[right]))
