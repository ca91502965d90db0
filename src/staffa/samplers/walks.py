"""Moves over positions: BlackJAX's kernels that leave p(x) ∝ prior(x) likelihood(x)^beta as it is.

The same form as `moves`: `walk(key, at, params, beta, step_size) -> (at, acceptance)`, for one position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, mala, random_walk

from staffa.errors import near
from staffa.samplers.target import Continuous, Values


class Located(NamedTuple):
    """A position with what is known of it; with leading axes for several."""

    x: jax.Array
    """(dimension,)."""
    log_prior: jax.Array
    log_likelihood: jax.Array


WALKS = ("random_walk", "mala", "hmc")
"""Names that `walk` knows."""

Walk = Callable[[jax.Array, Located, Values, Any, Any], tuple[Located, jax.Array]]
"""(key, at, params, beta, step_size) -> where it is now, and the probability of acceptance."""


def locate(target: Continuous, x: jax.Array, params: Values) -> Located:
    """Evaluate one position, in the precision of the run."""
    x = jnp.asarray(x, float)
    prior, likelihood = target.log_prior(x, params), target.log_likelihood(x, params)
    return Located(x, jnp.asarray(prior, float), jnp.asarray(likelihood, float))


def tempered(target: Continuous, params: Values, beta: Any) -> Callable[[jax.Array], jax.Array]:
    """ln of prior x likelihood^beta, as a function of the position."""

    def log_density(x: jax.Array) -> jax.Array:
        likelihood = target.log_likelihood(x, params)
        # At beta 0 the prior is all there is, also where the likelihood is 0.
        return target.log_prior(x, params) + jnp.where(beta == 0, 0.0, beta * likelihood)

    return log_density


def walk(name: str, target: Continuous, num_integration_steps: int = 10) -> Walk:
    """A kernel by name.

    `random_walk`: normal steps of standard deviation `step_size` in every coordinate. `mala`: Langevin steps.
    `hmc`: `num_integration_steps` leapfrog steps with unit masses. Raises `ValueError` for another name.
    """
    if name not in WALKS:
        raise ValueError(f"kernel: {name!r} is no kernel over positions; {near(name, WALKS)}")
    begin = {"random_walk": random_walk, "mala": mala, "hmc": hmc}[name].init
    if name == "mala":
        step = mala.build_kernel()
    else:
        step = _normal_steps() if name == "random_walk" else _leapfrog(target.dimension)

    def walked(key: jax.Array, at: Located, params: Values, beta: Any, step_size: Any) -> tuple[Located, jax.Array]:
        density = tempered(target, params, beta)
        more = (params.get("num_integration_steps", num_integration_steps),) if name == "hmc" else ()
        state, told = step(key, begin(at.x, density), density, step_size, *more)
        return locate(target, state.position, params), jnp.asarray(told.acceptance_rate, float)

    return walked


def _normal_steps() -> Callable[..., Any]:
    inner = random_walk.build_additive_step()

    def step(key: jax.Array, state: Any, density: Any, size: Any) -> Any:
        return inner(key, state, density, lambda key, x: size * jax.random.normal(key, x.shape, x.dtype))

    return step


def _leapfrog(dimension: int) -> Callable[..., Any]:
    inner = hmc.build_kernel()

    def step(key: jax.Array, state: Any, density: Any, size: Any, steps: Any) -> Any:
        return inner(key, state, density, size, jnp.ones(dimension), steps)

    return step
