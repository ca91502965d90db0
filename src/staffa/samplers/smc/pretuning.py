"""Finding a kernel's number (step size, mutation rate) from the particles, step by step.

Each particle has a number of its own. Before a step's moves, each tries one move with its number, which is
then thrown away; numbers that carried their particle far have more offspring, and each gets some noise on its
logarithm (Fearnhead & Taylor, Bayesian Anal. 8:411, 2013, eq. 4; Buchholz, Chopin & Jacob, Bayesian Anal.
16:745, 2021, section 3). The scale of a kernel over positions is the particles' own standard deviation
(ibid., 3.1). The tuned kernel depends on the particles, so the normalising constant is consistent in their
number, but no longer exactly unbiased.

Not `blackjax.smc.pretuning.build_pretune`, which uses one random key for the trial moves and for the
numbers' offspring; what it calls for the offspring is used here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from blackjax.smc.pretuning import update_parameter_distribution

from staffa.samplers.smc.kernels import Kernel
from staffa.samplers.smc.path import Distribution, Particle
from staffa.samplers.smc.weights import weighted_mean
from staffa.samplers.target import Continuous, Discrete

NOISE = 0.2
"""Standard deviation of the noise on the logarithm of a number, at each step."""
_FLOOR = 1e-6
"""Added to the weights of numbers: where nobody moved, all have the same."""


def first(key: jax.Array, number: Any, particles: int) -> jax.Array:
    """ln of each particle's number before the first step: spread about the one that is given, (particles,)."""
    return jnp.log(jnp.asarray(number, float)) + jax.random.normal(key, (particles,), float)


def numbers(log_numbers: jax.Array, on: Distribution) -> jax.Array:
    """The numbers themselves; a mutation rate is at most 1 - 1/states, where the proposal is uniform."""
    target = on.path.target
    most = 1 - 1 / target.states if isinstance(target, Discrete) else jnp.inf
    return jnp.minimum(jnp.exp(log_numbers), most)


def scale_of(particles: Particle, log_weights: jax.Array, on: Distribution) -> jax.Array:
    """Standard deviation of the particles along each dimension, (dimension,); 1 where they have none."""
    if not isinstance(on.path.target, Continuous):
        return jnp.ones(particles.x.shape[-1])
    mean = weighted_mean(log_weights, particles.x)
    deviation = jnp.sqrt(weighted_mean(log_weights, (particles.x - mean) ** 2))
    return jnp.where((deviation > 0) & jnp.isfinite(deviation), deviation, 1)


def tuned(
    key: jax.Array, log_numbers: jax.Array, kernel: Kernel, particles: Particle, on: Distribution, scale: jax.Array
) -> jax.Array:
    """ln of the numbers for the moves to come, (particles,)."""
    trying, drawing = jax.random.split(key)
    tried, acceptance = kernel.once().moved(trying, particles, on, numbers(log_numbers, on), scale)

    def jumped(before: jax.Array, after: jax.Array, _: Any) -> jax.Array:
        """Squared length of the jumps in units of the scale; for sequences, sites that changed."""
        squared = before != after if isinstance(on.path.target, Discrete) else ((after - before) / scale) ** 2
        return jnp.nan_to_num(jnp.sum(squared, -1, dtype=log_numbers.dtype), posinf=0.0)

    found, _ = update_parameter_distribution(
        drawing,
        previous_param_samples={"number": log_numbers},
        previous_particles=particles.x,
        latest_particles=tried.x,
        measure_of_chain_mixing=jumped,
        alpha=_FLOOR,
        sigma_parameters={"number": NOISE},
        acceptance_probability=acceptance,
    )
    return jnp.asarray(found["number"], log_numbers.dtype)
