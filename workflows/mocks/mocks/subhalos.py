"""How many subhalos a halo has, and how heavy: diffsky's conditional mass function (A. Hearin et al.).

    lg <N(>mu) | M> = bent(lg mu; -1, y(M), -0.35, 10, low(M), -3.1),    mu = mass of the subhalo / M

Counts are Poisson.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mocks.curves import bent

POINTS = 100
"""Of the table in which a subhalo's share is looked up."""


def above(lgmu: Any, logm: Any) -> Any:
    """Subhalos with more than a share mu of the host's mass (both log10) that a host has on average."""
    value = bent(logm, 13, 0.06, 13.72, 1.95, 0.06, 0.15)
    low = bent(logm, 13, -0.98, 12.40, 1.67, 0.34, 0.09)
    return 10.0 ** bent(lgmu, -1, value, -0.35, 10, low, -3.1)


def mean_count(logm: Any, lgmp_min: float) -> Any:
    """Subhalos above `lgmp_min` (log10 Msun) that a host has on average; 0 where it is not itself above it."""
    lgmu_min = lgmp_min - logm
    return above(lgmu_min, logm) * (lgmu_min < 0)


def shares(uniform: Any, logm: Any, lgmp_min: float) -> Any:
    """log10 of mu of subhalos, at their uniforms and hosts' masses: the inverse of the distribution, by a table."""

    def share(u: Any, host: Any) -> Any:
        table = jnp.linspace(lgmp_min - host, 0.0, POINTS)
        more = above(table, host)
        below = more[0] - more
        return jnp.interp(u, below / below[-1], table)

    return jax.vmap(share)(uniform, logm)
