"""Resampling: who has how many offspring.

Each scheme turns N weights into N indices of ancestors, such that particle i has N W_i offspring on
average (Douc, Cappé & Moulines, "Comparison of resampling schemes for particle filtering", ISPA 2005).

| name | offspring of particle i | variance |
|---|---|---|
| systematic | floor or ceil of N W_i: one comb with a random offset | least, as a rule |
| stratified | one point in each of N strata: less than 2 away from N W_i | less than residual |
| residual | floor of N W_i for certain, the rest multinomial | less than multinomial |
| multinomial | N independent draws: genetic drift as in Wright-Fisher | most |

The four of `blackjax.smc.resampling` are not used. In single precision its `multinomial` (and so
its `residual`) takes ln 0 once in 2^23 uniforms, upon which nearly all ancestors are particle 0; and all four
may give offspring to a particle of weight 0 where the weights add up to a little less than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from staffa.samplers.options import check_number


@dataclass(frozen=True)
class Scheme:
    """A way to resample, and when.

    Options: `threshold`, share of the particles, in [0, 1]: resample where the effective sample size is below.
    0 is never, 1 whenever weights differ. Without it, the sampler has its own. Also a parameter of the trial.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("threshold", self.threshold, 0, 1)

    def ancestors(self, key: jax.Array, weights: jax.Array) -> jax.Array:
        """Indices of ancestors, int32 (N,), for weights (N,) that are 0 or more; they need not add up to 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Systematic(Scheme):
    """`systematic`: the points (i + u) / N with one u for all (Carpenter, Clifford & Fearnhead 1999)."""

    def ancestors(self, key: jax.Array, weights: jax.Array) -> jax.Array:
        return _comb(weights, jax.random.uniform(key, (), weights.dtype))


@dataclass(frozen=True)
class Stratified(Scheme):
    """`stratified`: the points (i + u_i) / N, each with a u of its own (Kitagawa 1996)."""

    def ancestors(self, key: jax.Array, weights: jax.Array) -> jax.Array:
        return _comb(weights, jax.random.uniform(key, weights.shape, weights.dtype))


@dataclass(frozen=True)
class Multinomial(Scheme):
    """`multinomial`: N independent points."""

    def ancestors(self, key: jax.Array, weights: jax.Array) -> jax.Array:
        return inverse(weights, _sorted_uniforms(key, weights))


@dataclass(frozen=True)
class Residual(Scheme):
    """`residual`: floor(N W_i) copies, and multinomial draws for what is missing (Liu & Chen 1998)."""

    def ancestors(self, key: jax.Array, weights: jax.Array) -> jax.Array:
        size, index = weights.size, jnp.arange(weights.size)
        expected = size * weights / jnp.sum(weights)
        # Rounding may leave N W a hair below a whole number that it is.
        whole = jnp.floor(expected * (1 + 4 * jnp.finfo(weights.dtype).eps)).astype(jnp.int32)
        rest = jnp.maximum(expected - whole, 0)
        drawing, shuffling = jax.random.split(key)
        # The points are sorted: without the shuffle those that are used would be the lowest.
        drawn = jax.random.permutation(shuffling, inverse(rest, _sorted_uniforms(drawing, weights)))
        copies = jnp.searchsorted(jnp.cumsum(whole), index, side="right")
        return jnp.where(index < jnp.sum(whole), copies, drawn).astype(jnp.int32)


def inverse(weights: jax.Array, points: jax.Array) -> jax.Array:
    """The particles whose share of the unit interval holds the points of [0, 1): int32, as `points`.

    A particle of weight 0 has no share, whatever rounding does to the sum.
    """
    total = lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights), 0))
    found = jnp.searchsorted(total, points * total[-1], side="right")
    last = weights.size - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(found, last).astype(jnp.int32)


def _comb(weights: jax.Array, offset: jax.Array) -> jax.Array:
    teeth = jnp.arange(weights.size, dtype=weights.dtype)
    return inverse(weights, (teeth + offset) / weights.size)


def _sorted_uniforms(key: jax.Array, like: jax.Array) -> jax.Array:
    """N sorted uniforms from N + 1 exponential spacings (Devroye 1986, V.3.1)."""
    steps = jnp.cumsum(jax.random.exponential(key, (like.size + 1,), like.dtype))
    return steps[:-1] / steps[-1]
