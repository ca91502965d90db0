"""How a tree is searched for the nearest points: plug-ins of the family `traversals`.

A strategy is called with a `Walker` (the tree, and queries as features), how many neighbours are wanted, and for each
query the number below which points are looked for (None: all). It gives (queries, count) numbers and distances, nearest
first, equally near ones by number; -1 and infinity where there are not so many. All give the same, but
for the last bits of a distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import blocks
from .distances import tiles
from .growing import Array
from .preorder import searched
from .questions import Nearest, ranked
from .walk import Walker


@dataclass(frozen=True)
class Blocks:
    """Blocks of near points are measured whole, or passed over: the fastest on a CPU, for many queries of one version.

    Few queries go down by `levels`.

    Options:
    - `least`: how many queries are many.
    """

    least: int = 64

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ValueError(f"least: {self.least} is not 1 or more")

    def __call__(self, walker: Walker, count: int, before: Array | None = None) -> tuple[Array, Array]:
        if len(walker.queries) < self.least:
            return Levels()(walker, count, before)
        return blocks.searched(walker, count, before)


@dataclass(frozen=True)
class Levels:
    """All queries go down the tree together, a generation of nodes at a time.

    Those that have a query within their radius come first: they tell how near neighbours are, so that most of the tree
    is never looked at.

    Options:
    - `together`: how many queries at once; more take more memory.
    """

    together: int = 1024

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ValueError(f"together: {self.together} is not 1 or more")

    def __call__(self, walker: Walker, count: int, before: Array | None = None) -> tuple[Array, Array]:
        found = []
        for start in range(0, len(walker.queries), self.together):
            piece = slice(start, start + self.together)
            some = Walker(walker.pool, walker.root, walker.fitted, walker.queries[piece])
            question = Nearest(some.pool, len(some.queries), count, None if before is None else before[piece])
            some.walk_inside_first(question)
            found.append(question.answer())
        return _joined(found)


@dataclass(frozen=True)
class Preorder:
    """Each query goes through the nodes in preorder, skipping what is too far, in one compiled program: for a GPU."""

    def __call__(self, walker: Walker, count: int, before: Array | None = None) -> tuple[Array, Array]:
        return searched(walker, count, before)


@dataclass(frozen=True)
class Brute:
    """All distances: for few points, many dimensions, and to check the others by."""

    def __call__(self, walker: Walker, count: int, before: Array | None = None) -> tuple[Array, Array]:
        pool = walker.pool
        points = np.sort(pool.records["point"].take(pool.below(walker.root)[0]))
        features, found = pool.points["features"].take(points, axis=0), []
        pieces: dict[int, list[Array]] = {}
        for row, column, distance in tiles(walker.fitted.form, walker.queries, features):
            if before is not None:
                some = points[column : column + distance.shape[1]]
                distance = np.where(some < before[row : row + len(distance), None], distance, np.inf)
            pieces.setdefault(row, []).append(distance)
            if column + distance.shape[1] == len(points):
                found.append(_nearest(points, np.concatenate(pieces.pop(row), axis=1), count))
        return _joined(found)


def _nearest(points: Array, distance: Array, count: int) -> tuple[Array, Array]:
    """Of a full table the nearest of each row."""
    width = min(count, distance.shape[1]) - 1
    limit = np.partition(distance, width, axis=1)[:, width]
    row, column = np.nonzero((distance <= limit[:, None]) & np.isfinite(distance))
    return ranked(row, points[column], distance[row, column], len(distance), count)


def _joined(found: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    points, distances = zip(*found, strict=True)
    return np.concatenate(points), np.concatenate(distances)
