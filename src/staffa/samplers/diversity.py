"""How diverse a population of sequences is, and how far two populations are apart, site by site.

A population is int (particles, sites) with states 0 to `states` - 1; what is no state (padding, -1) does not
count. Weights are those of the particles, in any unit; without them each counts the same. All in nats, jitted,
and pure: `jax.vmap` takes them along chains, islands or trials.

Shannon, A mathematical theory of communication (1948); Kullback & Leibler, On information and sufficiency, Ann.
Math. Stat. 22:79 (1951); Jeffreys, Proc. R. Soc. A 186:453 (1946); Lin, Divergence measures based on the
Shannon entropy, IEEE Trans. Inf. Theory 37:145 (1991).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import rel_entr, xlogy

Weights = jax.Array | None


@partial(jax.jit, static_argnames="states")
def frequencies(population: jax.Array, states: int, weights: Weights = None, pseudocount: float = 0.0) -> jax.Array:
    """(sites, states): how often each state stands at each site.

    Arguments:
    - `pseudocount`: added to each count of particles (weights are scaled to sum to their number); above 0 no
      frequency is 0. Where nothing counts at a site, its states are all as frequent.
    """
    size, sites = population.shape
    each = jnp.ones(size) if weights is None else weights * (size / jnp.sum(weights))
    # A negative index would count from the end; one beyond the end is dropped.
    state = jnp.where((population >= 0) & (population < states), population, states)
    place = jnp.broadcast_to(jnp.arange(sites), population.shape)
    counts = jnp.full((sites, states), pseudocount, each.dtype)
    counts = counts.at[place, state].add(jnp.broadcast_to(each[:, None], population.shape), mode="drop")
    total = counts.sum(axis=1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1.0), 1.0 / states)


def entropy(p: jax.Array) -> jax.Array:
    """Shannon entropy -sum p ln p over the last axis; from 0 (one state) to ln states (all alike)."""
    return -jnp.sum(xlogy(p, p), axis=-1)


def kullback_leibler(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) = sum p ln(p / q) over the last axis; infinite where a state of p is none of q."""
    return jnp.sum(rel_entr(p, q), axis=-1)


def jeffreys(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) + KL(q || p): the same both ways; infinite where one lacks a state of the other."""
    return kullback_leibler(p, q) + kullback_leibler(q, p)


def jensen_shannon(p: jax.Array, q: jax.Array) -> jax.Array:
    """Mean of KL(p || m) and KL(q || m), m = (p + q) / 2: from 0 to ln 2, its root is a distance."""
    middle = (p + q) / 2
    return jnp.maximum((kullback_leibler(p, middle) + kullback_leibler(q, middle)) / 2, 0.0)


@partial(jax.jit, static_argnames="states")
def site_entropy(population: jax.Array, states: int, weights: Weights = None) -> jax.Array:
    """(sites,): Shannon entropy of the states at each site."""
    return entropy(frequencies(population, states, weights))


class Shares(NamedTuple):
    """Frequencies of a population, (sites, states).

    - `plain`: as they are; `smooth`: with a pseudocount, so that none is 0.
    """

    plain: jax.Array
    smooth: jax.Array


def shares(population: jax.Array, states: int, weights: Weights = None, pseudocount: float = 0.5) -> Shares:
    """Frequencies of a population; the pseudocount is by default Jeffreys' prior."""
    return Shares(frequencies(population, states, weights), frequencies(population, states, weights, pseudocount))


def compared(now: Shares, origin: Shares) -> dict[str, jax.Array]:
    """Of populations, (..., sites, states), means over sites: `site_entropy`; and from an origin to each of them
    `kullback_leibler` (of the population from the origin), `jeffreys`, `jensen_shannon`."""
    found = {
        "site_entropy": entropy(now.plain),
        "kullback_leibler": kullback_leibler(now.smooth, origin.smooth),
        "jeffreys": jeffreys(now.smooth, origin.smooth),
        "jensen_shannon": jensen_shannon(now.plain, origin.plain),
    }
    return {name: values.mean(axis=-1) for name, values in found.items()}


@partial(jax.jit, static_argnames="states")
def along(
    populations: jax.Array, states: int, weights: Weights = None, origin: Weights = None, pseudocount: float = 0.5
) -> dict[str, jax.Array]:
    """Diversity generation by generation: `compared` of each, (generations,) numbers.

    Arguments:
    - `populations`: (generations, particles, sites), as recorded; `weights`: (generations, particles).
    - `origin`: (particles, sites): the population the others are compared with; by default the first one.
    - `pseudocount`: for the divergences that would be infinite without.
    """
    axes = (0, None if weights is None else 0)
    now = jax.vmap(lambda x, own: shares(x, states, own, pseudocount), axes)(populations, weights)
    first = Shares(now.plain[0], now.smooth[0]) if origin is None else shares(origin, states, None, pseudocount)
    return compared(now, first)


@dataclass(frozen=True)
class Divergence:
    """How far two populations are apart: the mean over sites of a divergence of their frequencies.

    A plug-in of the family `metrics`: `metric: {use: jensen_shannon, states: 20}`; called with two populations
    (particles, sites) and, where they have some, their weights. They need as many sites, not as many particles.

    Options:
    - `states`: how many states a site has.
    - `pseudocount`: added to each count.
    """

    states: int
    pseudocount: float = 0.5

    def __post_init__(self) -> None:
        if self.states < 1:
            raise ValueError(f"states: {self.states} is not 1 or more")
        if not 0 <= self.pseudocount < float("inf"):
            raise ValueError(f"pseudocount: {self.pseudocount} is not 0 or more")

    def __call__(
        self, first: jax.Array, second: jax.Array, first_weights: Weights = None, second_weights: Weights = None
    ) -> jax.Array:
        if first.shape[1:] != second.shape[1:]:
            raise ValueError(f"populations of {first.shape[1:]} and {second.shape[1:]} sites cannot be compared")
        p = frequencies(first, self.states, first_weights, self.pseudocount)
        q = frequencies(second, self.states, second_weights, self.pseudocount)
        return jnp.mean(self.between(p, q))

    def between(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """The divergence of frequencies (sites, states) at each site."""
        raise NotImplementedError


@dataclass(frozen=True)
class KullbackLeibler(Divergence):
    """KL of the first population from the second; not the same both ways."""

    def between(self, p: jax.Array, q: jax.Array) -> jax.Array:
        return kullback_leibler(p, q)


@dataclass(frozen=True)
class Jeffreys(Divergence):
    """KL both ways together."""

    def between(self, p: jax.Array, q: jax.Array) -> jax.Array:
        return jeffreys(p, q)


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Jensen-Shannon divergence: finite without pseudocounts, at most ln 2."""

    pseudocount: float = 0.0

    def between(self, p: jax.Array, q: jax.Array) -> jax.Array:
        return jensen_shannon(p, q)
