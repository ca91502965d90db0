"""The points of a version in blocks, and a search that measures them block by block.

A block is a node, its head, with those of its children that are near it and all their descendants, as long as these are
few; its other children head blocks of their own. So a block has a radius that is small for its number of points,
whatever the dimension, and that is what a ball of points needs in order to be passed over.

Nobody goes down: the distances of all heads are computed at once, then those of the points of blocks that may matter.
In a block points stand by their distance from the head, in tiles of `TILE`: with the head at a distance of d, a tile
whose points are all nearer to it than d - bound, or farther than d + bound, is passed over, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .distances import Form, pairs
from .growing import Array, spread
from .pool import NOWHERE, TWIN, Pool, generations
from .questions import Nearest, ranked
from .walk import Walker

MOST = 128
"""Points of a block, twins of its points apart: more make it wide, fewer make many."""
TILE = 8
GROUP = 16
"""Heads of which the nearest counts, where it is asked how near neighbours are at most: fewer numbers to sort."""
ROWS = 32, 512
"""Queries of one call: few where there are so many heads that all their distances take much memory."""
ROOM = 1 << 22
"""Distances of queries and heads held at a time."""
NUMBERS = 1 << 20
"""Numbers in the tiles of one call."""
FARTHEST = np.finfo(np.float64).max


@dataclass(frozen=True)
class Blocks:
    """A version's points in blocks.

    Arguments:
    - `heads`: of each block on the device: the features of its head, no point's distance from that being larger, the
      number of the head, and the smallest number in the block; filled up with empty ones.
    - `tiles`: features on the device, (tiles, features, TILE), NaN where a block has no more points.
    - `first`, `count`: where a block's tiles stand; `points`: the numbers of the points in the tiles.
    - `near`, `far`: (tiles,) the least and the largest distance of its points from their head.
    """

    heads: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    tiles: jax.Array
    first: Array
    count: Array
    points: Array
    near: Array
    far: Array

    def __len__(self) -> int:
        """Blocks, empty ones among them."""
        return len(self.first)


def blocks_of(walker: Walker) -> Blocks:
    """The blocks of a version, made when it is first asked for them."""
    pool = walker.pool
    if pool.blocks is None or pool.blocks[0] != walker.root:
        pool.blocks = walker.root, _made(walker)
    found: Blocks = pool.blocks[1]
    return found


def _made(walker: Walker) -> Blocks:
    pool = walker.pool
    record, parent = pool.below(walker.root)
    heads, block = np.unique(_headed(pool, record, parent), return_inverse=True)
    point, features = pool.records["point"].take(record), pool.points["features"]
    head = point[heads]
    away = pairs(walker.fitted.form, features, point, features, head[block])
    order = np.lexsort((-away, block))
    sizes = np.bincount(block)
    tiles = -(-sizes // TILE)
    first = np.cumsum(tiles) - tiles
    # Where each point stands: behind the tiles of the blocks before, by its rank in its own.
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.repeat(first * TILE, sizes) + rank
    points = np.full(_filled(tiles.sum()) * TILE, -1)
    points[place] = point[order]
    distance = np.full(len(points), np.nan)
    distance[place] = away[order]
    laid = np.where(points[:, None] >= 0, features.take(points, axis=0, mode="wrap"), np.nan)
    distance, starts = distance.reshape(-1, TILE), np.cumsum(sizes) - sizes
    empty = _filled(len(heads)) - len(heads)
    least = np.minimum.reduceat(point[order], starts)
    told = (
        np.pad(features.take(head, axis=0), ((0, empty), (0, 0))),
        np.pad(distance[first, 0], (0, empty)),
        np.pad(head, (0, empty), constant_values=NOWHERE),
        np.pad(least, (0, empty), constant_values=NOWHERE),
    )
    with jax.enable_x64(True):
        on_device = tuple(map(jnp.asarray, told))
        lying = jnp.asarray(laid.reshape(-1, TILE, features.shape[1]).transpose(0, 2, 1))
    first, tiles = (np.pad(column, (0, empty)) for column in (first, tiles))
    near = np.fmin.reduce(distance, axis=1)
    return Blocks(on_device, lying, first, tiles, points, near, distance[:, 0])


def _filled(count: Any) -> int:
    """As many, or a few more, so that versions of about one size share their programs."""
    step = max((1 << int(count).bit_length()) // 8, GROUP)
    return int(-(-count // step) * step)


def _headed(pool: Pool, record: Array, parent: Array) -> Array:
    """Of each node the place of the one that heads its block.

    A node that heads a block keeps its children from the lowest level up, as long as its block has no more than `MOST`
    points; and its twins, which take no room.
    """
    level, size = pool.records["level"].take(record), pool.records["size"].take(record)
    block = np.zeros(len(record), np.int64)
    for some in generations(parent):
        places, above = np.arange(len(record))[some], parent[some]
        order = np.lexsort((level[some], above))
        places, above = places[order], above[order]
        twin = level[places] == TWIN
        # Points up to the end of each level, among the children of one node.
        held = np.cumsum(np.where(twin, 0, size[places]))
        firsts = np.flatnonzero(np.r_[True, above[1:] != above[:-1]])
        before = np.repeat(np.r_[0, held][firsts], np.diff(np.r_[firsts, len(above)]))
        ends = np.flatnonzero(np.r_[(above[1:] != above[:-1]) | (np.diff(level[places]) != 0), True])
        whole = np.repeat(held[ends], np.diff(np.r_[-1, ends])) - before
        kept = twin | (whole < MOST) | (block[above] != above)
        block[places] = np.where(kept, block[above], places)
    return block


def searched(walker: Walker, count: int, before: Array | None) -> tuple[Array, Array]:
    """The nearest points of each query, as `traversals` tells."""
    blocks = blocks_of(walker)
    rows = ROWS[len(blocks) * ROWS[1] <= ROOM]
    limits = np.full(len(walker.queries), NOWHERE) if before is None else before
    search = _Search(walker, blocks, count, rows)
    found = []
    with jax.enable_x64(True):
        for start in range(0, len(walker.queries), rows):
            found.append(search(walker.queries[start : start + rows], limits[start : start + rows]))
    points, distances = zip(*found, strict=True)
    return np.concatenate(points), np.concatenate(distances)


Hits = tuple[Array, Array, Array]
"""Query, number and distance of some points, in the order of the queries."""


class _Search:
    """Searches for a few queries at a time.

    Arguments:
    - `rows`: how many; fewer are filled up.
    """

    def __init__(self, walker: Walker, blocks: Blocks, count: int, rows: int) -> None:
        self._walker, self._blocks, self._count, self._rows = walker, blocks, count, rows
        self._form = walker.fitted.form
        self._slack = 4 * walker.fitted.relative, 4 * walker.fitted.absolute
        self._most = 1 << (max(NUMBERS // blocks.tiles[0].size, 8)).bit_length() - 1

    def __call__(self, queries: Array, limits: Array) -> tuple[Array, Array]:
        asked = len(queries)
        filled = np.pad(queries, ((0, self._rows - asked), (0, 0)))
        # What is there to fill the rows looks for nothing.
        limits = np.pad(limits, (0, self._rows - asked), constant_values=-1)
        found = _look(self._form, filled, limits, np.array(self._slack), *self._blocks.heads)
        low, away, nearest = map(np.asarray, found)
        question = Nearest(self._walker.pool, self._rows, self._count)
        if nearest.shape[1] >= self._count:
            question.cap[:] = np.partition(nearest, self._count - 1, axis=1)[:, self._count - 1]
        inside = low <= 0
        first = self._measured(filled, limits, np.flatnonzero(inside), away, question)
        # What holds nothing for a query is infinitely far away, even where nothing is known to be near.
        others = np.flatnonzero((low <= np.minimum(question.cap, FARTHEST)[:, None]) & ~inside)
        second = self._measured(filled, limits, others, away, question)
        row, point, distance = (np.concatenate(parts) for parts in zip(first, second, strict=True))
        keep = np.flatnonzero(distance <= self._beyond(question.cap).take(row))
        row, point = row[keep], point[keep]
        # Measured once more as all other traversals do, so that the last bits, and with them ties, are the same.
        exact = pairs(self._walker.fitted.form, filled, row, self._walker.pool.points["features"], point)
        points, distances = ranked(row, point, exact, self._rows, self._count)
        return points[:asked], distances[:asked]

    def _beyond(self, distance: Array) -> Array:
        """A little more than a distance, so that rounding hides nothing."""
        return distance + self._slack[0] * distance + self._slack[1]

    def _measured(self, queries: Array, limits: Array, chosen: Array, away: Array, question: Nearest) -> Hits:
        """Points of some blocks that may be among the nearest. Makes the question's bounds narrower."""
        blocks = self._blocks
        row, block = np.divmod(chosen, away.shape[1])
        cap, distance = question.cap.take(row), away.reshape(-1).take(chosen)
        reach = self._beyond(cap) + self._beyond(distance) - distance
        owner, tile = spread(blocks.first.take(block), blocks.count.take(block))
        near = blocks.far.take(tile) >= (distance - reach).take(owner)
        places = np.flatnonzero(near & (blocks.near.take(tile) <= (distance + reach).take(owner)))
        row, tile = row.take(owner.take(places)), tile.take(places)
        hits = self._scanned(queries, row, tile, self._beyond(question.cap))
        kept = np.flatnonzero((hits[1] >= 0) & (hits[1] < limits.take(hits[0])))
        row, point, distance = (part[kept] for part in hits)
        question.merge(row, distance)
        return row, point, distance

    def _scanned(self, queries: Array, row: Array, tile: Array, edges: Array) -> Hits:
        """The points in tiles that are within the edge of their query."""
        found: list[Hits] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        start = 0
        while start < len(row):
            count = min(len(row) - start, self._most)
            size = max(1 << (count - 1).bit_length(), self._most // 16)
            some = np.zeros((2, size), np.int32)
            some[0, :count], some[1, :count] = row[start : start + count], tile[start : start + count]
            distance, hit = map(np.asarray, _scan(self._form, queries, self._blocks.tiles, some, edges))
            place = np.flatnonzero(hit[:count])
            owner = start + place // TILE
            point = self._blocks.points.take(tile.take(owner) * TILE + place % TILE)
            found.append((row.take(owner), point, distance.reshape(-1).take(place)))
            start += count
        row, point, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return row, point, distance


@partial(jax.jit, static_argnums=0)
def _look(
    form: Form, queries: Any, limits: Any, slack: Any, heads: Any, radius: Any, head: Any, least: Any
) -> tuple[Any, Any, Any]:
    """Of all blocks the least distance their points may have, that of their heads, and of some heads each the least."""
    away = form(queries[:, None, :], heads[None, :, :])
    low = away - radius - slack[0] * (away + radius) - slack[1]
    low = jnp.where(least < limits[:, None], low, jnp.inf)
    found = jnp.where(head < limits[:, None], away, jnp.inf)
    return low, away, jnp.min(found.reshape(len(queries), GROUP, -1), axis=1)


@partial(jax.jit, static_argnums=0)
def _scan(form: Form, queries: Any, tiles: Any, some: Any, edges: Any) -> tuple[Any, Any]:
    """The distances in some tiles, each of its query, and which are within the edge."""
    # Gathered here, since handing over what was gathered takes longer than all the rest.
    asked = jnp.take(queries, some[0], axis=0, mode="clip")
    there = jnp.moveaxis(jnp.take(tiles, some[1], axis=0, mode="clip"), 1, 2)
    distance = form(asked[:, None, :], there)
    return distance, distance <= jnp.take(edges, some[0], mode="clip")[:, None]
