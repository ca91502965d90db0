"""Loops over as many rows as count, some at a time, within one program: padded rows cost their memory only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_chunks(
    function: Callable[[Any], Any], count: Any, room: int, chunk: int, into: Any = None, behind: Any = 0
) -> Any:
    """What a function of rows' numbers, (chunk,), gives for rows 0 .. count - 1: arrays of `room` rows and a chunk.

    Arguments:
    - `function`: a pytree of arrays (chunk, …). Also asked for some rows from `count` on, whose answers mean nothing.
    - `into`, `behind`: where given, the answers go into these arrays, from row `behind` on.

    The chunk more is there since the last write may reach behind the room (and XLA would shift it to where it fits).
    """
    rows = jnp.arange(chunk, dtype=jnp.int32)
    if into is None:
        into = jax.tree.map(
            lambda one: jnp.zeros((room + chunk, *one.shape[1:]), one.dtype), jax.eval_shape(function, rows)
        )

    def one(number: Any, arrays: Any) -> Any:
        begin = number * chunk
        found = function(begin + rows)
        put = jax.lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda array, part: put(array, part, behind + begin, 0), arrays, found)

    return jax.lax.fori_loop(0, (count + chunk - 1) // chunk, one, into)


def only(array: Any, count: Any, room: int) -> Any:
    """The first `room` rows, 0 from row `count` on."""
    kept = array[:room]
    counts = (jnp.arange(room) < count).reshape(-1, *[1] * (kept.ndim - 1))
    return jnp.where(counts, kept, jnp.zeros((), kept.dtype))
