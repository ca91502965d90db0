"""A search of which every step is part of one compiled program.

The nodes stand in preorder, each with the place after its subtree. A query walks along: it looks at a node, keeps it
where it is among the best so far, and goes to the next node or, where the subtree has nothing near enough, past it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .distances import Form
from .growing import Array
from .pool import NOWHERE, generations
from .walk import Walker

LANES = 256
"""Queries that go side by side."""


def searched(walker: Walker, count: int, before: Array | None) -> tuple[Array, Array]:
    """The nearest points of each query, as `traversals` tells."""
    table = _table(walker)
    limits = np.full(len(walker.queries), NOWHERE) if before is None else before
    found = []
    with jax.enable_x64(True):
        slack = jnp.array([walker.fitted.relative, walker.fitted.absolute]) * 4
        for start in range(0, len(walker.queries), LANES):
            queries, limit = walker.queries[start : start + LANES], limits[start : start + LANES]
            empty = LANES - len(queries)
            lanes = np.pad(queries, ((0, empty), (0, 0)), mode="edge")
            # What is there to fill the lanes looks for nothing.
            limit = np.pad(limit, (0, empty), constant_values=-1)
            some = _search(walker.fitted.form, count, table, lanes, limit, slack)
            found.append([np.asarray(part)[: len(queries)] for part in some])
    points, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return np.where(np.isinf(distances), -1, points), distances


def _table(walker: Walker) -> dict[str, Array]:
    """A version's nodes in preorder, as many rows as the next power of two."""
    pool = walker.pool
    record, parent = pool.below(walker.root)
    size = pool.records["size"].take(record)
    place = np.zeros(len(record), np.int64)
    for some in generations(parent):
        # The children of one node stand together: each begins where its elder sibling ends.
        above, sizes = parent[some], size[some]
        firsts = np.flatnonzero(np.r_[True, above[1:] != above[:-1]])
        before = np.cumsum(sizes) - sizes
        elder = before - np.repeat(before[firsts], np.diff(np.r_[firsts, len(above)]))
        place[some] = place[above] + 1 + elder
    order = np.argsort(place)
    rows = record[order]
    columns = {
        "features": pool.of(rows),
        "point": pool.records["point"].take(rows),
        "radius": pool.records["radius"].take(rows),
        "least": pool.records["least"].take(rows),
        "after": np.arange(len(rows)) + size[order],
    }
    length = 1 << (len(rows) - 1).bit_length()
    padded = {name: _longer(part, length) for name, part in columns.items()}
    return {**padded, "length": np.array(len(rows))}


def _longer(rows: Array, length: int) -> Array:
    return np.pad(rows, [(0, length - len(rows)), *([(0, 0)] * (rows.ndim - 1))])


@partial(jax.jit, static_argnums=(0, 1))
def _search(form: Form, count: int, table: dict[str, Any], queries: Any, limits: Any, slack: Any) -> Any:
    return jax.vmap(partial(_one, form, count, table, slack))(queries, limits)


def _one(form: Form, count: int, table: dict[str, Any], slack: Any, query: Any, limit: Any) -> Any:
    def going(state: Any) -> Any:
        return state[0] < table["length"]

    def step(state: Any) -> Any:
        place, points, distances = state
        distance = form(query, table["features"][place])
        point, radius = table["point"][place], table["radius"][place]
        last = distances[-1]
        low = distance - radius - slack[0] * (distance + radius) - slack[1]
        deeper = (low <= last) & (table["least"][place] < limit)
        points, distances = _inserted(points, distances, point, jnp.where(point < limit, distance, jnp.inf))
        return jnp.where(deeper, place + 1, table["after"][place]), points, distances

    start = (jnp.zeros((), jnp.int64), jnp.full(count, NOWHERE), jnp.full(count, jnp.inf))
    return jax.lax.while_loop(going, step, start)[1:]


def _inserted(points: Any, distances: Any, point: Any, distance: Any) -> Any:
    """A point in its place among the best: by distance, then by number."""
    ahead = (distances < distance) | ((distances == distance) & (points < point))
    place = jnp.sum(ahead)
    rank = jnp.arange(len(distances))

    def moved(values: Any, value: Any) -> Any:
        return jnp.where(rank < place, values, jnp.where(rank == place, value, jnp.roll(values, 1)))

    return moved(points, point), moved(distances, distance)
