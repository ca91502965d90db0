"""Writing a new version of a tree: new records, and copies of those above them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .distances import pairs
from .growing import Array, spread
from .pool import TWIN, Pool
from .questions import Way
from .walk import Walker

COLUMNS = ("point", "level", "gap", "radius", "first", "count", "size", "least")
"""Columns of records."""

FLOOR = TWIN
"""The floor of a point that may stand at any level."""


@dataclass(frozen=True)
class Items:
    """What is to be hung into a tree.

    Arguments:
    - `point`: numbers of points, which the pool knows.
    - `floor`: the level below which each must not stand: that of a subtree it comes with; `FLOOR` for none.
    - `record`: the record of that subtree, -1 for none.
    """

    point: Array
    floor: Array
    record: Array

    @classmethod
    def new(cls, point: Array) -> Items:
        """Points that come alone."""
        return cls(point, np.full(len(point), FLOOR), np.full(len(point), -1))

    def only(self, chosen: Array) -> Items:
        """Some of them."""
        return Items(self.point[chosen], self.floor[chosen], self.record[chosen])

    def __len__(self) -> int:
        return len(self.point)


@dataclass
class Places:
    """Where items go: below a node, or below another item (`below`, -1 for none)."""

    level: Array
    gap: Array
    below: Array
    dominated: int = 0
    rounds: int = 0
    chosen: int = field(default=-1)


@dataclass(frozen=True)
class Above:
    """Pairs of an item and what will be above it: an item or a record; `distance` between the two points."""

    item: Array
    above: Array
    distance: Array


def placed(walker: Walker, items: Items, places: Places, way: Way) -> tuple[int, int]:
    """Hang items where they belong: the record of the new root, and how many records were copied for it."""
    pool, count = walker.pool, len(items)
    among, top = _items_above(walker, places)
    over = _records_above(walker, top, way)
    old = np.unique(over.above)
    slots = np.searchsorted(old, over.above)
    base = len(pool.records)
    columns = {name: np.r_[part, pool.records[name].take(old)] for name, part in _own(pool, items, places).items()}
    item, above = np.r_[among.item, over.item], np.r_[among.above, slots + count]
    # Before anything is added up: what each item brings with it.
    brought = {name: columns[name][item] for name in ("radius", "size", "least")}
    reach = np.r_[among.distance, over.distance] + brought["radius"]
    np.maximum.at(columns["radius"], above, reach + np.where(brought["radius"] > 0, walker.slack(reach), 0.0))
    np.add.at(columns["size"], above, brought["size"])
    np.minimum.at(columns["least"], above, brought["least"])
    parent = np.where(places.below >= 0, places.below, 0)
    own = way.height == 0
    hung = np.empty(count, np.int64)
    hung[way.row[own]] = np.searchsorted(old, way.record[own]) + count
    parent = np.where(places.below >= 0, parent, hung)
    slot, child = _kept(pool, items, old, base + count)
    written(pool, columns, np.r_[slot, parent], np.r_[child, base + np.arange(count)])
    return int(base + count + np.searchsorted(old, walker.root)), len(old)


def written(pool: Pool, columns: dict[str, Array], slot: Array, child: Array) -> Array:
    """Append records and their children: `child` is the record of a child of the new record number `slot`."""
    order = np.argsort(slot, kind="stable")
    start = len(pool.children)
    pool.children.append(record=child[order])
    counts = np.bincount(slot, minlength=len(columns["point"]))
    return pool.records.append(**columns, first=start + np.cumsum(counts) - counts, count=counts)


def _own(pool: Pool, items: Items, places: Places) -> dict[str, Array]:
    """What items are by themselves, with the subtrees they come with."""
    brings, kept = items.record >= 0, np.maximum(items.record, 0)
    return {
        "point": items.point,
        "level": places.level,
        "gap": places.gap,
        "radius": np.where(brings, pool.records["radius"].take(kept), 0.0),
        "size": np.where(brings, pool.records["size"].take(kept), 1),
        "least": np.where(brings, pool.records["least"].take(kept), items.point),
    }


def _kept(pool: Pool, items: Items, old: Array, base: int) -> tuple[Array, Array]:
    """Children that items bring with them, and those of copied records: slots and records."""
    brings = np.flatnonzero(items.record >= 0)
    owner, child = pool.families(items.record[brings])
    above, below = pool.families(old)
    return np.r_[brings[owner], above + len(items)], np.r_[child, renamed(below, old, base)]


def renamed(records: Array, old: Array, base: int) -> Array:
    """Records, where they are among `old` (in order) by the numbers of their copies."""
    place = np.minimum(np.searchsorted(old, records), len(old) - 1)
    return np.where(old[place] == records, base + place, records)


def _items_above(walker: Walker, places: Places) -> tuple[Above, Array]:
    """Items above items; and of each the uppermost, itself where it hangs below a node."""
    every = np.arange(len(places.below))
    top, item, above = every, [every[:0]], [every[:0]]
    while (places.below[top] >= 0).any():
        rows = np.flatnonzero(places.below[top] >= 0)
        top = np.where(places.below[top] >= 0, places.below[top], top)
        item.append(rows)
        above.append(top[rows])
    items, aboves = np.concatenate(item), np.concatenate(above)
    distance = pairs(walker.fitted.form, walker.queries, items, walker.queries, aboves)
    return Above(items, aboves, distance), top


def _records_above(walker: Walker, top: Array, way: Way) -> Above:
    """Records above items, by the way that the uppermost item above each has found."""
    order = np.argsort(way.row, kind="stable")
    counts = np.bincount(way.row, minlength=len(top))
    firsts = np.cumsum(counts) - counts
    item, place = spread(firsts[top], counts[top])
    record, distance = way.record[order][place], way.distance[order][place].copy()
    other = np.flatnonzero(top[item] != item)
    points = walker.pool.records["point"].take(record[other])
    distance[other] = pairs(walker.fitted.form, walker.queries, item[other], walker.pool.points["features"], points)
    return Above(item, record, distance)
