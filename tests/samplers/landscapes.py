"""Targets small enough that every sequence, or a fine grid of positions, can be looked at."""

from __future__ import annotations

import functools
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from staffa.samplers.target import Continuous, Discrete

FALSE_ALARM = 1e-4
"""Share of seeds for which a test by `chi_square` would fail although all is well. Seeds are fixed."""


class Coupled(Discrete):
    """Fields at every site and couplings of neighbours: F(x) = sum h_i(x_i) + sum J_i(x_i, x_i+1).

    The parameter `scale` multiplies the fitness; with NaN it is NaN.
    """

    components = ("field", "coupling")

    def __init__(self, length: int = 3, states: int = 3, seed: int = 1) -> None:
        self.length, self.states = length, states
        rng = np.random.default_rng(seed)
        self.h = rng.normal(size=(length, states)).astype(np.float32)
        self.couplings = rng.normal(size=(length - 1, states, states)).astype(np.float32)

    def fitness(self, x, params):
        scale = params.get("scale", 1.0)
        sites = jnp.arange(self.length)
        field = scale * jnp.sum(jnp.asarray(self.h)[sites, x])
        coupling = scale * jnp.sum(jnp.asarray(self.couplings)[sites[:-1], x[:-1], x[1:]])
        return field + coupling, {"field": field, "coupling": coupling}

    def fitness_one_hot(self, p, params):
        pairs = jnp.einsum("ia,iab,ib->", p[:-1], self.couplings, p[1:])
        return params.get("scale", 1.0) * (jnp.sum(p * self.h) + pairs)

    def site_logits(self, params):
        return params.get("scale", 1.0) * jnp.asarray(self.h)


class Wells(Discrete):
    """Two states at each site and two wells, all 0 and all 1, the second e times as likely at beta 1.

    F falls by 4 for each site that differs from the nearer well, and there are few ways down: chains that begin
    in the first well meet a barrier of 32 - ln 12,870 = 22.5.
    """

    states = 2

    def __init__(self, length: int = 16) -> None:
        self.length = length

    def fitness(self, x, params):
        ones = jnp.sum(x)
        return 4.0 * jnp.abs(ones - self.length / 2) + jnp.where(ones > self.length / 2, 1.0, 0.0), {}

    def initial(self, key, params):
        return jnp.zeros(self.length, jnp.int32)


class Peaks(Continuous):
    """One coordinate; prior N(0, 3²), likelihood with two peaks at -4 and 4. At beta 1 they hold 0.3 and 0.7."""

    dimension = 1
    names = ("x",)
    dims = {"x": ("coordinate",)}

    def log_prior(self, position, params):
        return -0.5 * jnp.sum(position**2) / 9.0

    def log_likelihood(self, position, params):
        x = position[0]
        # divided by the prior, so that the posterior is the mixture itself
        peaks = jnp.logaddexp(jnp.log(0.3) - 0.5 * ((x + 4) / 0.4) ** 2, jnp.log(0.7) - 0.5 * ((x - 4) / 0.4) ** 2)
        return params.get("scale", 1.0) * (peaks + 0.5 * x**2 / 9.0)

    def sample_prior(self, key, params):
        return 3.0 * jax.random.normal(key, (1,))

    def initial(self, key, params):
        return jnp.full(1, -4.0)


def everything(target):
    """All sequences, (states^length, length)."""
    return np.array(list(product(range(target.states), repeat=target.length)), np.int32)


def law(target, beta, params=None):
    """Probability of every sequence, in the order of `everything`."""
    fitness = np.asarray(jax.vmap(lambda x: target.fitness(x, params or {})[0])(everything(target)), float)
    weights = np.exp(beta * (fitness - fitness.max()))
    return weights / weights.sum()


def numbered(target, sequences):
    """The number of each sequence in `everything`."""
    return np.asarray(sequences) @ (target.states ** np.arange(target.length)[::-1])


def chi_square(target, sequences, probabilities):
    """p-value that independent sequences, (draws, length), come from `probabilities`."""
    counts = np.bincount(numbered(target, sequences), minlength=len(probabilities))
    expected = probabilities * counts.sum()
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        if expected[-1] < 1:
            counts, expected = counts[:-1], expected[:-1] * counts[:-1].sum() / expected[:-1].sum()
    return stats.chisquare(counts, expected).pvalue


def drawn(sampler, steps, params=None, seed=0, every=None):
    """Outputs of a sampler's last step; of every `every`-th step with an axis for them first."""
    found = _drawing(sampler, steps, every or steps)(jax.random.key(seed), params or {})
    outputs = {name: np.asarray(value) for name, value in found.items()}
    return outputs if every else {name: value[0] for name, value in outputs.items()}


@functools.cache
def _drawing(sampler, steps, every):
    @jax.jit
    def all_of_them(key, params):
        def one(state, key):
            return sampler.step(key, state, params)

        def last(state, keys):
            state, outputs = jax.lax.scan(one, state, keys)
            return state, jax.tree.map(lambda value: value[-1], outputs)

        beginning, going = jax.random.split(key)
        state = sampler.initialize(beginning, params)
        keys = jax.random.split(going, (steps // every, every))
        return jax.lax.scan(last, state, keys)[1]

    return all_of_them
