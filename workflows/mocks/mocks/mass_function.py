"""How many halos there are, and how heavy: SMDPL's mass function as diffsky calibrates it (A. Hearin et al.).

    lg n(>M, z) = bent(lg M; 13, y(z), x(z), 1.2, low(z), high(z)),    n per comoving Mpc^3, M in Msun (no h)

Halos are a Poisson sample of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mocks.curves import bent, sigmoid

HIGHEST = 17.0
"""log10 of the mass, Msun, above which no halo is."""

POINTS = 200
"""Of the table in which masses are looked up."""


def density_above(logm: Any, redshift: Any) -> Any:
    """Halos per comoving Mpc^3 above a mass (log10 Msun)."""
    value = bent(redshift, 3, -5.330, 1.318, 0.543, -0.171, -1.344)
    middle = bent(redshift, 3, 13.030, 1.781, 1.559, -0.811, -0.510)
    low = sigmoid(redshift, 3.620, 0.693, -0.792, -2.442)
    high = bent(redshift, 3, -3.727, 4.312, 1.113, -0.426, -0.265)
    return 10.0 ** bent(logm, 13, value, middle, 1.2, low, high)


def mean_count(lgmp_min: float, redshift: Any, box: float) -> Any:
    """Halos that a cube of side `box` (comoving Mpc) has on average."""
    return box**3 * (density_above(lgmp_min, redshift) - density_above(HIGHEST, redshift))


def masses(uniform: Any, lgmp_min: float, redshift: Any) -> Any:
    """log10 masses, Msun, at some uniforms: the inverse of the distribution, by a table."""
    table = jnp.linspace(lgmp_min, HIGHEST, POINTS)
    above = density_above(table, redshift)
    below = above[0] - above
    return jax.vmap(lambda u: jnp.interp(u, below / below[-1], table))(uniform)
