"""The points of a version in blocks, and a search that measures them block by block.

A block is a node with those of its children that are near it, all their descendants among them, as long as these are few;
its other children head blocks of their own. So a block has a radius that is small for its number of points, whatever the
dimension, and that is what a ball of points needs in order to be passed over.

Nothing is gone down to: of all blocks the distances of their heads are computed at once, and of those that may matter
the points. In a block they stand by their distance from the head, in tiles of `TILE`: a tile whose points are all nearer to
it than d - bound, or farther than d + bound, is passed over, too.
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

MOST = 96
"""Points of a block, twins of its points apart: more make it wide, fewer make many."""
TILE = 8
ROWS, HEADS = (32, 256), 1024
"""Queries and heads of one call: few queries where there are so many heads that all their distances take much memory."""
ROOM = 1 << 22
"""Distances of queries and heads held at a time."""
NUMBERS = 1 << 20
"""Numbers in the tiles of one call."""


@dataclass(frozen=True)
class Blocks:
    """A version's points in blocks.

    Arguments:
    - `heads`: features (blocks, features), with empty ones up to a multiple of `HEADS`.
    - `head`, `least`: their numbers, and the smallest number of each block.
    - `radius`: no point of a block is farther from its head.
    - `first`, `count`: where a block's tiles stand.
    - `tiles`: features (tiles, features, TILE), NaN where a block has no more points; `points`: their numbers.
    - `near`, `far`: (tiles,) the least and the largest distance of its points from their head.
    """

    heads: Array
    head: Array
    least: Array
    radius: Array
    first: Array
    count: Array
    tiles: Array
    points: Array
    near: Array
    far: Array


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
    points = np.full(tiles.sum() * TILE, -1)
    points[place] = point[order]
    distance = np.full(len(points), np.nan)
    distance[place] = away[order]
    laid = np.where(points[:, None] >= 0, features.take(points, axis=0, mode="wrap"), np.nan)
    distance, empty = distance.reshape(-1, TILE), -len(heads) % HEADS
    starts = np.cumsum(sizes) - sizes
    return Blocks(
        heads=np.pad(features.take(head, axis=0), ((0, empty), (0, 0))),
        head=np.pad(head, (0, empty), constant_values=NOWHERE),
        least=np.pad(np.minimum.reduceat(point[order], starts), (0, empty), constant_values=NOWHERE),
        radius=np.pad(distance[first, 0], (0, empty)),
        first=np.pad(first, (0, empty)),
        count=np.pad(tiles, (0, empty)),
        tiles=np.ascontiguousarray(laid.reshape(-1, TILE, features.shape[1]).transpose(0, 2, 1)),
        points=points,
        near=np.nanmin(distance, axis=1),
        far=distance[:, 0],
    )


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
    rows = ROWS[len(blocks.heads) * ROWS[1] <= ROOM]
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
        self._slack = 4 * walker.fitted.relative, 4 * walker.fitted.absolute
        features = blocks.heads.shape[1]
        size = 1 << (max(NUMBERS // (TILE * features), 8)).bit_length() - 1
        self._queries, self._edges = np.zeros((size, features)), np.zeros(size)
        self._tiles = np.zeros((size, features, TILE))

    def __call__(self, queries: Array, limits: Array) -> tuple[Array, Array]:
        asked = len(queries)
        filled = np.pad(queries, ((0, self._rows - asked), (0, 0)))
        # What is there to fill the rows looks for nothing.
        limits = np.pad(limits, (0, self._rows - asked), constant_values=-1)
        low, away, nearest = self._looked(filled, limits)
        question = Nearest(self._walker.pool, self._rows, self._count)
        if nearest.shape[1] >= self._count:
            question.cap[:] = np.partition(nearest, self._count - 1, axis=1)[:, self._count - 1]
        inside = low <= 0
        first = self._measured(filled, limits, np.flatnonzero(inside), away, question)
        others = np.flatnonzero((low <= question.cap[:, None]) & ~inside)
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

    def _looked(self, queries: Array, limits: Array) -> tuple[Array, Array, Array]:
        """Of all blocks the least distance their points may have, that of their heads, and of eight heads the least."""
        found, blocks = [], self._blocks
        for start in range(0, len(blocks.heads), HEADS):
            some = slice(start, start + HEADS)
            told = (one[some] for one in (blocks.heads, blocks.radius, blocks.head, blocks.least))
            found.append(_look(self._walker.fitted.form, queries, limits, *told, np.array(self._slack)))
        low, away, nearest = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return low, away, nearest

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
        edge = self._beyond(question.cap).take(row)
        rows, points, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        start = 0
        while start < len(row):
            size = len(self._edges) if len(row) - start > len(self._edges) // 8 else len(self._edges) // 8
            some = slice(start, start + size)
            place, lengths = self._scanned(queries, row[some], tile[some], edge[some], size)
            rows.append(row[some].take(place // TILE))
            points.append(blocks.points.take(tile[some].take(place // TILE) * TILE + place % TILE))
            distances.append(lengths)
            start += size
        found = np.concatenate(rows), np.concatenate(points), np.concatenate(distances)
        kept = np.flatnonzero(found[1] < limits.take(found[0]))
        hits = found[0][kept], found[1][kept], found[2][kept]
        question.merge(hits[0], hits[2])
        return hits

    def _scanned(self, queries: Array, row: Array, tile: Array, edge: Array, size: int) -> tuple[Array, Array]:
        """Where in some tiles there is a point within the edge, and its distance."""
        count = len(row)
        np.take(queries, row, axis=0, out=self._queries[:count], mode="clip")
        np.take(self._blocks.tiles, tile, axis=0, out=self._tiles[:count], mode="clip")
        self._edges[:count], self._edges[count:size] = edge, -1.0
        form = self._walker.fitted.form
        distance, hit = _scan(form, self._queries[:size], self._tiles[:size], self._edges[:size])
        place = np.flatnonzero(np.asarray(hit))
        return place, np.asarray(distance).reshape(-1).take(place)


@partial(jax.jit, static_argnums=0)
def _look(
    form: Form, queries: Any, limits: Any, heads: Any, radius: Any, head: Any, least: Any, slack: Any
) -> tuple[Any, Any, Any]:
    away = form(queries[:, None, :], heads[None, :, :])
    low = away - radius - slack[0] * (away + radius) - slack[1]
    low = jnp.where(least < limits[:, None], low, jnp.inf)
    found = jnp.where(head < limits[:, None], away, jnp.inf)
    return low, away, jnp.min(found.reshape(len(queries), TILE, -1), axis=1)


@partial(jax.jit, static_argnums=0)
def _scan(form: Form, queries: Any, tiles: Any, edges: Any) -> tuple[Any, Any]:
    distance = form(queries[:, None, :], jnp.moveaxis(tiles, 1, 2))
    return distance, distance <= edges[:, None]
