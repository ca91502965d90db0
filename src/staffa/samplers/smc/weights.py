"""What particles count: normalised weights, their effective number, the normalising constant."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from blackjax.smc.ess import log_ess
from jax.scipy.special import logsumexp


class Weighed(NamedTuple):
    """Particles after their weights have changed."""

    log_weights: jax.Array
    """ln W, (particles,); exp of them adds up to 1. All alike where nobody is left."""
    log_z_increment: jax.Array
    """ln of the sum of the old weights, each times its change; -inf where nobody is left."""
    ess: jax.Array
    """1 / sum of W^2, from 1 to the number of particles; 0 where nobody is left."""


def even(particles: int) -> jax.Array:
    """ln W of as many particles that count alike."""
    return jnp.full(particles, -jnp.log(jnp.asarray(particles, float)))


def weighed(log_weights: jax.Array, increments: jax.Array) -> Weighed:
    """Change normalised weights.

    The sum over steps of `log_z_increment` is the ln of an unbiased estimate of the ratio of normalising
    constants (Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 68:411, 2006), resampled in between or not.
    """
    raised = log_weights + increments
    # Where nothing changes it is 0, not what rounding leaves of it.
    total = jnp.where(jnp.all(increments == 0), 0, logsumexp(raised))
    left = jnp.isfinite(total)
    normalised = jnp.where(left, raised - jnp.where(left, total, 0), even(raised.size))
    return Weighed(normalised, total, jnp.where(left, jnp.exp(log_ess(normalised)), 0))


def weighted_mean(log_weights: jax.Array, values: jax.Array) -> jax.Array:
    """sum of W times values, over their first axis; what a particle of weight 0 has does not count.

    A value of -inf that does count makes the mean -inf.
    """
    weights = jnp.exp(log_weights).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0), 0), 0)
