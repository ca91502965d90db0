"""Hanging many points into a tree at once: new ones, and those whose parent was taken away.

Each finds its level and parent as if it were alone. Of those that then stand too near to one another a maximal
independent set stays as it is; each of the others is near enough to a chosen one to hang below it, at a lower level,
and they are looked at again among themselves (Gu, Napier, Sun & Wang, Parallel cover trees, SPAA 2022).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .conflicts import Arrivals, Edges, Strategy
from .copying import COLUMNS, Items, Places, placed
from .growing import Array
from .independent import draws, independent
from .metrics import Fitted
from .pool import Pool, levels_over, scales
from .questions import parents
from .walk import Walker


@dataclass(frozen=True)
class Batch:
    """What was done for one batch of points.

    Arguments:
    - `size`: points; `edges`: of their conflict graph; `chosen`: how many stood in no nearer one's way at first.
    - `dominated`: how often a point had to give way; `rounds`: of choosing; `copied`: records made anew on paths.
    - `search_ms`, `conflict_ms`, `choice_ms`, `copy_ms`: where the time went.
    """

    size: int
    edges: int = 0
    chosen: int = 0
    dominated: int = 0
    rounds: int = 0
    copied: int = 0
    search_ms: float = 0.0
    conflict_ms: float = 0.0
    choice_ms: float = 0.0
    copy_ms: float = 0.0


def attach(pool: Pool, root: int, items: Items, fitted: Fitted, conflict: Strategy, seed: int) -> tuple[int, Batch]:
    """Hang items into a version of a tree: the record of the new version's root, and what it took.

    Arguments:
    - `conflict`: a strategy of the family `conflicts`.
    """
    clock = [time.perf_counter()]
    queries = pool.points["features"].take(items.point, axis=0)
    walker = Walker(pool, root, fitted, queries)
    walker = replace(walker, root=_raised(walker, items))
    gap, way = parents(walker, items.floor)
    clock.append(time.perf_counter())
    level = np.maximum(levels_over(gap), items.floor + 1) - 1
    edges: Edges = conflict(Arrivals(walker, level, way))
    clock.append(time.perf_counter())
    places = settled(items, level, gap, edges, seed)
    clock.append(time.perf_counter())
    top, made = placed(walker, items, places, way)
    clock.append(time.perf_counter())
    spent = [1000 * (after - before) for before, after in pairwise(clock)]
    return top, Batch(len(items), len(edges), places.chosen, places.dominated, places.rounds, made, *spent)


def settled(items: Items, level: Array, gap: Array, edges: Edges, seed: int) -> Places:
    """Levels and parents at which no two items conflict."""
    places = Places(level.copy(), gap.copy(), np.full(len(items), -1))
    drawn = draws(seed, items.point)
    waiting = np.ones(len(items), bool)
    while True:
        scale = scales(places.level)
        edges = edges.only(waiting[edges.left] & waiting[edges.right])
        edges = edges.only(edges.distance <= np.minimum(scale[edges.left], scale[edges.right]))
        rank = np.empty(len(items), np.int64)
        # Of equal draws (one in 2^64) the first: ranks have to differ.
        rank[np.lexsort((drawn, -items.floor, -places.level))] = np.arange(len(items))
        chosen, rounds = independent(rank, edges.left, edges.right)
        places.rounds += rounds
        chosen &= waiting
        if places.chosen < 0:
            places.chosen = int(chosen.sum())
        waiting &= ~chosen
        if not waiting.any():
            return places
        places.dominated += int(waiting.sum())
        _give_way(items, places, edges, chosen)


def _give_way(items: Items, places: Places, edges: Edges, chosen: Array) -> None:
    """Hang each item that is in conflict with chosen ones below the nearest of them."""
    loser = np.r_[edges.left, edges.right]
    winner, distance = np.r_[edges.right, edges.left], np.r_[edges.distance, edges.distance]
    keep = chosen[winner] & ~chosen[loser]
    loser, winner, distance = loser[keep], winner[keep], distance[keep]
    order = np.lexsort((items.point[winner], distance, loser))
    loser, winner, distance = loser[order], winner[order], distance[order]
    first = np.r_[True, loser[1:] != loser[:-1]]
    loser, winner, distance = loser[first], winner[first], distance[first]
    places.below[loser], places.gap[loser] = winner, distance
    places.level[loser] = np.maximum(levels_over(distance), items.floor[loser] + 1) - 1


def _raised(walker: Walker, items: Items) -> int:
    """The root, high enough to be the parent of every item."""
    start, pool = walker.start(), walker.pool
    needed = np.maximum(levels_over(start.distance), items.floor + 1).max()
    if needed <= pool.records["level"][walker.root]:
        return walker.root
    row = {name: pool.records[name][walker.root : walker.root + 1].copy() for name in COLUMNS}
    return int(pool.records.append(**{**row, "level": np.array([needed])})[0])
