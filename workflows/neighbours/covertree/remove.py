"""Taking many points out of a tree at once.

What hung below them keeps its own subtree and is hung again, the highest first: so whatever may stand in the way of
one that has to rise is in the tree already.
"""

from __future__ import annotations

import numpy as np

from .attach import Batch, attach
from .conflicts import Strategy
from .copying import COLUMNS, FLOOR, Items, renamed, written
from .growing import Array
from .metrics import Fitted
from .pool import Pool, levels_over
from .questions import Way, ways_to
from .walk import Walker


def removed(
    pool: Pool, root: int, numbers: Array, fitted: Fitted, conflict: Strategy, seed: int
) -> tuple[int, list[Batch]]:
    """A version without some of its points: its root, and what each batch of hanging again took.

    The points have to be in the tree, and not be all of it.
    """
    walker = Walker(pool, root, fitted, pool.points["features"].take(numbers, axis=0))
    top, orphans = _cut(walker, ways_to(walker, numbers), numbers)
    if top < 0:
        top, orphans = _crowned(pool, orphans)
    batches = []
    while len(orphans):
        highest = orphans.floor == orphans.floor.max()
        top, batch = attach(pool, top, orphans.only(highest), fitted, conflict, seed)
        batches.append(batch)
        orphans = orphans.only(~highest)
    return top, batches


def _cut(walker: Walker, way: Way, numbers: Array) -> tuple[int, Items]:
    """The tree without the nodes of some points, and what hung below them; -1 where the root is one of them."""
    pool, root = walker.pool, walker.root
    affected, depth = _affected(way)
    gone = np.isin(pool.records["point"].take(affected), numbers)
    old, depth, left = affected[~gone], depth[~gone], affected[gone]
    base = len(pool.records)
    owner, child = pool.families(old)
    stays = ~np.isin(child, left)
    owner, child = owner[stays], renamed(child[stays], old, base) if len(old) else child[stays]
    columns = {name: pool.records[name].take(old) for name in COLUMNS if name not in ("first", "count")}
    fresh = written(pool, columns, owner, child)
    _recount(walker, fresh, depth)
    _, below = pool.families(left)
    below = below[~np.isin(below, left)]
    below = renamed(below, old, base) if len(old) else below
    level = pool.records["level"].take(below)
    # A twin may stand anywhere: nothing hangs below it.
    orphans = Items(pool.records["point"].take(below), np.maximum(level, FLOOR), below)
    return (-1 if root in left else int(base + np.searchsorted(old, root))), orphans


def _affected(way: Way) -> tuple[Array, Array]:
    """Records on the ways, in order, and how deep each is in the tree."""
    deepest = np.zeros(int(way.row.max()) + 1, np.int64)
    np.maximum.at(deepest, way.row, way.height)
    record, first = np.unique(way.record, return_index=True)
    return record, (deepest[way.row] - way.height)[first]


def _recount(walker: Walker, fresh: Array, depth: Array) -> None:
    """Set what new records say of their subtrees, the deepest first. A radius becomes a bound: it may be too large."""
    pool = walker.pool
    records = pool.records
    for level in np.unique(depth)[::-1]:
        some = fresh[depth == level]
        owner, child = pool.families(some)
        size, least = np.ones(len(some), np.int64), records["point"][some].copy()
        radius = np.zeros(len(some))
        np.add.at(size, owner, records["size"][child])
        np.minimum.at(least, owner, records["least"][child])
        reach = records["gap"][child] + records["radius"][child]
        np.maximum.at(radius, owner, reach + walker.slack(reach))
        records["size"][some], records["least"][some] = size, least
        records["radius"][some] = np.minimum(records["radius"][some], radius)


def _crowned(pool: Pool, orphans: Items) -> tuple[int, Items]:
    """The highest of the orphans as the root of a tree, and the others."""
    first = np.lexsort((orphans.point, -orphans.floor))[0]
    rest = np.arange(len(orphans)) != first
    row = {name: pool.records[name][orphans.record[first : first + 1]] for name in COLUMNS}
    level = np.maximum(row["level"], levels_over(np.zeros(1)))
    top = pool.records.append(**{**row, "level": level, "gap": np.zeros(1)})
    return int(top[0]), orphans.only(rest)
