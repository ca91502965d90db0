"""The compressed cover tree (Elkin & Kurlin, 2021): each point is one node, at a level of its own.

With l(p) the level of p and C_i = {p: l(p) >= i}:
- nesting: l(parent of p) > l(p);
- covering: d(p, parent of p) <= 2^(l(p) + 1);
- separation: any two points of C_i are more than 2^i apart.

A point that lies exactly on another is its twin: a child at a distance of 0, below every level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .attach import Batch, attach
from .checks import checked_count, checked_numbers, checked_points, checked_queries
from .copying import Items
from .growing import Array
from .metrics import Fitted
from .parts import part
from .pool import Pool, levels_over
from .remove import removed
from .validate import Report, validated
from .walk import Walker

ORDER = 7
"""The stream of random numbers that the order of insertion comes from."""


@dataclass(frozen=True)
class CoverTree:
    """One version of a tree. It never changes: `insert` and `delete` give another, which shares what is the same.

    Made by `build`. Points have numbers, from 0 on, in the order in which they came; those of deleted points are not
    given again.

    Arguments:
    - `pool`, `root`: where its nodes stand, and the record of the uppermost.
    - `fitted`: its metric; `dimensions`: of a point; `seed`: of whatever is decided by chance.
    - `conflict`, `traversal`: the strategies it is built and searched by.
    - `batches`: what was done for the last change, a batch at a time.
    """

    pool: Pool
    root: int
    fitted: Fitted
    dimensions: int
    seed: int
    conflict: Callable[..., Any]
    traversal: Callable[..., Any]
    batches: tuple[Batch, ...] = ()

    def __len__(self) -> int:
        return int(self.pool.records["size"][self.root])

    @property
    def numbers(self) -> Array:
        """The numbers of its points, in order."""
        return np.sort(self.pool.records["point"].take(self.pool.below(self.root)[0]))

    def nodes(self) -> dict[str, Array]:
        """Its nodes by number: `point`, `parent` (-1 for the root), `level`, `gap` (to the parent), `radius`."""
        record, parent = self.pool.below(self.root)
        point = self.pool.records["point"].take(record)
        above = np.where(parent < 0, -1, point[parent])
        columns = {name: self.pool.records[name].take(record) for name in ("level", "gap", "radius", "size", "least")}
        order = np.argsort(point)
        return {name: column[order] for name, column in {"point": point, "parent": above, **columns}.items()}

    def knn(
        self, queries: Any, k: int = 1, before: Any = None, traversal: str | Callable[..., Any] | None = None
    ) -> tuple[Array, Array]:
        """The k nearest points of each query: numbers and distances, both (queries, k).

        Nearest first; equally near ones by number.

        Arguments:
        - `queries`: (queries, dimensions).
        - `before`: (queries,) numbers; of each query only points of a smaller number count. Where there are fewer
          than k of them, the rest is -1 at an infinite distance.
        - `traversal`: another strategy than the tree's own, by name or as an object.

        Raises `ConfigError` for k above the number of points, and for queries that are no finite numbers.
        """
        queries = checked_queries(queries, self.dimensions)
        count = checked_count(k, len(self))
        limits = None if before is None else checked_numbers(before, "before", len(queries))
        search = self.traversal if traversal is None else part("traversals", traversal)
        walker = Walker(self.pool, self.root, self.fitted, self.fitted.features(queries))
        if not len(queries):
            return np.zeros((0, count), np.int64), np.zeros((0, count))
        found: tuple[Array, Array] = search(walker, count, limits)
        return found

    def predecessors(self, numbers: Any, k: int = 1) -> tuple[Array, Array]:
        """Of points of the tree the k nearest among those of smaller number, as `knn` (Vecchia's neighbours)."""
        numbers = self._members(numbers)
        points = self.pool.points["features"].take(numbers, axis=0)[:, : self.dimensions]
        return self.knn(points, k, before=numbers)

    def insert(self, points: Any) -> CoverTree:
        """A version with more points; the first has the number `len(tree.pool.points)` had."""
        points = checked_points(points, self.dimensions)
        numbers = self.pool.points.append(features=self.fitted.features(points))
        return self._grown(numbers, len(self))

    def delete(self, numbers: Any) -> CoverTree:
        """A version without some points. Raises `ConfigError` for numbers it has not, and for all it has."""
        numbers = self._members(numbers)
        if not len(numbers):
            return replace(self, batches=())
        checked_count(len(numbers) + 1, len(self), "delete: nothing would be left; points deleted + 1")
        root, batches = removed(self.pool, self.root, numbers, self.fitted, self.conflict, self.seed)
        return replace(self, root=root, batches=tuple(batches))

    def validate(self) -> Report:
        """Whether the tree is what it has to be, node by node, by all distances: for tests and doubts."""
        return validated(self.pool, self.root, self.fitted)

    def _members(self, numbers: Any) -> Array:
        found = np.unique(checked_numbers(numbers, "numbers"))
        checked_numbers(found, "numbers", among=self.numbers)
        return found

    def _grown(self, numbers: Array, there: int) -> CoverTree:
        """With points of the pool hung in batches, each at most as large as the tree is by then."""
        order = np.random.default_rng([self.seed, ORDER, int(numbers[0])]).permutation(numbers)
        root, start, batches = self.root, 0, []
        while start < len(order):
            some = Items.new(order[start : start + there])
            root, batch = attach(self.pool, root, some, self.fitted, self.conflict, self.seed)
            batches.append(batch)
            start, there = start + len(some), there + len(some)
        return replace(self, root=root, batches=tuple(batches))


def build(
    points: Any,
    metric: Any = "euclidean",
    *,
    conflict: Any = "hanging",
    traversal: Any = "blocks",
    seed: int = 0,
) -> CoverTree:
    """A tree of points, (points, dimensions), at least two of them.

    Arguments:
    - `metric`, `conflict`, `traversal`: strategies, by the name of a plug-in or as objects.
    - `seed`: equal seeds make equal trees.

    Raises `ConfigError` for what is not a finite number, for one point, and for what the metric refuses.
    """
    points = checked_points(points)
    fitted = part("metrics", metric).fitted(points, seed)
    features = fitted.features(points)
    pool = Pool(features.shape[1])
    numbers = pool.points.append(features=features)
    order = np.random.default_rng([seed, ORDER]).permutation(numbers)
    root = int(pool.leaves(order[:1], levels_over(np.zeros(1)), np.zeros(1))[0])
    strategies = part("conflicts", conflict), part("traversals", traversal)
    tree = CoverTree(pool, root, fitted, points.shape[1], seed, *strategies)
    return compact(tree._grown(np.setdiff1d(numbers, order[:1]), 1))


def compact(tree: CoverTree) -> CoverTree:
    """The same version in a pool of its own: siblings side by side, nothing of other versions."""
    record, _ = tree.pool.below(tree.root)
    old = tree.pool.records
    pool = Pool(tree.pool.points["features"].shape[1])
    pool.points.append(features=tree.pool.points["features"])
    count = old["count"].take(record)
    # Generation by generation the children of one node stand together, and in the order of their parents.
    pool.children.append(record=np.arange(1, len(record)))
    columns = {name: old[name].take(record) for name in ("point", "level", "gap", "radius", "size", "least")}
    pool.records.append(**columns, count=count, first=np.cumsum(count) - count)
    return replace(tree, pool=pool, root=0)
