"""Which random numbers are whose: a mock's key gives one to each stage, a stage's one to each row."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import jax


class Stage(IntEnum):
    """Numbers folded into a mock's key. They are part of what a mock is: never renumber them."""

    HALO_COUNT = 0
    HALO_MASS = 1
    HALO_POSITION = 2
    HALO_VELOCITY = 3
    SUBHALO_COUNT = 4
    SUBHALO_MASS = 5
    SATELLITE_RADIUS = 6
    SATELLITE_DIRECTION = 7
    SATELLITE_VELOCITY = 8
    CENTRAL_GROWTH = 9
    SATELLITE_GROWTH = 10
    STAR_FORMATION = 11
    EMISSION = 12


def row_keys(key: Any, stage: Stage, rows: Any) -> Any:
    """A key for each row (n,): so neither padding nor the size of chunks changes what a row draws."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, int(stage)), rows)


def uniforms(key: Any, stage: Stage, rows: Any, shape: tuple[int, ...] = ()) -> Any:
    """(n, *shape) uniforms in [0, 1)."""
    return jax.vmap(lambda own: jax.random.uniform(own, shape))(row_keys(key, stage, rows))


def normals(key: Any, stage: Stage, rows: Any, shape: tuple[int, ...] = ()) -> Any:
    """(n, *shape) standard normals."""
    return jax.vmap(lambda own: jax.random.normal(own, shape))(row_keys(key, stage, rows))
