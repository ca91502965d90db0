"""Distances by compiled programs of few shapes: of pairs, and of all queries to all points.

In double precision, whatever the process computes in otherwise. Each program is compiled for a fixed number of rows,
so that trees of any size share them; what is left over is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from .growing import Array

Form = Callable[[Any, Any], Any]
"""Distance of two arrays of features over their last axis; equal forms compare equal and share their programs."""

SMALL, LARGE = 512, 16384
"""Pairs of one call: few, and as many as fit a core's own cache."""
TILE = 256, 4096
"""Queries and points of one call of `tiles`."""


@partial(jax.jit, static_argnums=0)
def _pairs(form: Form, left: jax.Array, right: jax.Array) -> jax.Array:
    return form(left, right)


@partial(jax.jit, static_argnums=0)
def _tile(form: Form, left: jax.Array, right: jax.Array) -> jax.Array:
    return form(left[:, None, :], right[None, :, :])


def pairs(form: Form, left: Array, lefts: Array, right: Array, rights: Array) -> Array:
    """Distances of left[lefts[i]] and right[rights[i]]."""
    total, start = len(lefts), 0
    found = np.empty(total)
    sides = [(side, rows, np.zeros((LARGE, side.shape[1]))) for side, rows in ((left, lefts), (right, rights))]
    with jax.enable_x64(True):
        while start < total:
            size = SMALL if total - start <= SMALL else LARGE
            end = min(start + size, total)
            for side, rows, held in sides:
                # "clip" spares a check of each place: they are ours.
                np.take(side, rows[start:end], axis=0, out=held[: end - start], mode="clip")
            found[start:end] = np.asarray(_pairs(form, *(held[:size] for _, _, held in sides)))[: end - start]
            start = end
    return found


def tiles(form: Form, left: Array, right: Array) -> Iterator[tuple[int, int, Array]]:
    """Distances of all to all, a piece at a time: (first row, first column, distances)."""
    high, wide = TILE
    with jax.enable_x64(True):
        for row in range(0, len(left), high):
            some = left[row : row + high]
            for column in range(0, len(right), wide):
                others = right[column : column + wide]
                found = np.asarray(_tile(form, _padded(some, high), _padded(others, wide)))
                yield row, column, found[: len(some), : len(others)]


def _padded(rows: Array, size: int) -> Array:
    if len(rows) == size:
        return rows
    filled = np.zeros((size, *rows.shape[1:]))
    filled[: len(rows)] = rows
    return filled
