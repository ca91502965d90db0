"""A population on an NK landscape: what comes of a design, in five numbers.

A design says how rugged the landscape is (`length` N, `k`, `states` q) and how a population of `population`
sequences lives on it for some `generations`: each generation the next one is drawn from the last with
probabilities ∝ exp(selection x fitness) (Wright-Fisher), and each site of each sequence changes with probability
`mutation_rate` to one of its other states. Landscape: Kauffman & Weinberger, J. Theor. Biol. 141:211 (1989).
"""

from functools import cache

import jax
import jax.numpy as jnp
from jax import lax

import staffa
from staffa.samplers.diversity import entropy, frequencies, jeffreys, jensen_shannon
from staffa.samplers.fitness.nk import Nk
from staffa.samplers.resampling import Multinomial

BINS = 20
"""Of the histograms of fitness, over (0, 1)."""


class Evolution(staffa.Experiment):
    """One population from its first generation to its last.

    Options:
    - `landscape`: seed of neighbours and contributions.

    Parameters: `length`, `k`, `states`, `population` (each makes a program of its own), `generations`,
    `mutation_rate` in [0, 1], `selection` of 0 or more.

    Outputs, scalars:
    - `information_gain`: Jeffreys divergence of the histograms of fitness in the first and the last population, in
      nats, with half a count more in each of the 20 bins.
    - `barrier_crossing`: how often offspring is on the other side of the first population's median fitness than its
      parent, a share of all offspring of all generations.
    - `entropy`: mean Shannon entropy of the last population's sites, in nats.
    - `divergence`: mean Jensen-Shannon divergence of the last population's sites from the first one's.
    - `geometric_fitness`: geometric mean over the generations of the population's mean fitness.
    """

    static = ("length", "k", "states", "population")

    def __init__(self, landscape: int = 0) -> None:
        self.landscape = landscape

    def initialize(self, key, params):
        """Sequences of any states, int32 (population, length)."""
        shape = (params["population"], params["length"])
        return jax.random.randint(key, shape, 0, params["states"], jnp.int32)

    def step(self, key, state, params):
        """All generations."""
        target = landscape(params["length"], params["k"], params["states"], self.landscape)
        value = jax.vmap(lambda x: target.fitness(x, {})[0])
        first = value(state)
        median = jnp.median(first)

        def generation(number, carry):
            population, fitness, crossed, logs = carry
            selecting, mutating = jax.random.split(jax.random.fold_in(key, number))
            weights = jnp.exp(params["selection"] * (fitness - jnp.max(fitness)))
            parents = Multinomial().ancestors(selecting, weights)
            population = mutated(mutating, population[parents], params["mutation_rate"], params["states"])
            offspring = value(population)
            crossed += jnp.mean((offspring > median) != (fitness[parents] > median))
            return population, offspring, crossed, logs + jnp.log(jnp.mean(offspring))

        begin = (state, first, jnp.zeros(()), jnp.zeros(()))
        last, fitness, crossed, logs = lax.fori_loop(0, params["generations"], generation, begin)
        then, now = (frequencies(population, params["states"]) for population in (state, last))
        return last, {
            "information_gain": jeffreys(histogram(first), histogram(fitness)),
            "barrier_crossing": crossed / params["generations"],
            "entropy": jnp.mean(entropy(now)),
            "divergence": jnp.mean(jensen_shannon(then, now)),
            "geometric_fitness": jnp.exp(logs / params["generations"]),
        }


@cache
def landscape(length: int, k: int, states: int, seed: int) -> Nk:
    """A landscape, made once for all who ask for it."""
    return Nk(length=length, k=k, states=states, seed=seed)


def mutated(key: jax.Array, population: jax.Array, rate: jax.Array, states: int) -> jax.Array:
    """Each site changed with probability `rate`, to each of its other states with the same probability."""
    where, what = jax.random.split(key)
    changes = jax.random.uniform(where, population.shape) < rate
    others = (population + jax.random.randint(what, population.shape, 1, states, population.dtype)) % states
    return jnp.where(changes, others, population)


def histogram(fitness: jax.Array) -> jax.Array:
    """Shares of the bins, none of them 0."""
    counts = jnp.histogram(fitness, BINS, (0.0, 1.0))[0] + 0.5
    return counts / counts.sum()
