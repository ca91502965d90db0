"""A synthetic catalogue of halos: a Poisson sample of the mass function, spread evenly over a periodic cube."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mocks import mass_function
from mocks.chunks import in_chunks, only
from mocks.draws import Stage, normals, uniforms


class Halos(NamedTuple):
    """Padded: rows from `count` on are 0. `lost`: drawn beyond the room there is."""

    logm: Any
    """(room,), log10 Msun."""
    position: Any
    """(room, 3), comoving Mpc."""
    velocity: Any
    """(room, 3), km/s."""
    count: Any
    lost: Any


def drawn(key: Any, redshift: Any, box: float, lgmp_min: float, dispersion: float, room: int, chunk: int) -> Halos:
    """The halos of one mock; `dispersion` is of their velocities, km/s per axis."""
    mean = mass_function.mean_count(lgmp_min, redshift, box)
    wanted = jax.random.poisson(jax.random.fold_in(key, int(Stage.HALO_COUNT)), mean)
    count = jnp.minimum(wanted, room).astype(jnp.int32)

    def some(rows: Any) -> tuple[Any, Any, Any]:
        return (
            mass_function.masses(uniforms(key, Stage.HALO_MASS, rows), lgmp_min, redshift),
            box * uniforms(key, Stage.HALO_POSITION, rows, (3,)),
            dispersion * normals(key, Stage.HALO_VELOCITY, rows, (3,)),
        )

    arrays = (only(array, count, room) for array in in_chunks(some, count, room, chunk))
    return Halos(*arrays, count, (wanted - count).astype(jnp.int32))
