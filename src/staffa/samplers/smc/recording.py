"""What a step of SMC writes down, and the names of its axes."""

from __future__ import annotations

import contextlib
from typing import Literal

import jax
import jax.numpy as jnp

from staffa.samplers.diversity import Shares, shares
from staffa.samplers.moves import narrow
from staffa.samplers.smc.path import Particle
from staffa.samplers.smc.weights import weighted_mean
from staffa.samplers.target import Continuous, Discrete, Target, Values

Record = Literal["summary", "particles"]
RECORDS: tuple[Record, ...] = ("summary", "particles")

OWN = (
    "beta", "ess", "log_z_increment", "log_z", "ancestors", "resampled", "acceptance", "invalid", "weights",
    "log_likelihood", "step_size",
)  # fmt: skip
"""Outputs that no quantity of a target over positions can be called by."""

Outputs = dict[str, jax.Array]
Axes = dict[str, tuple[str, ...]]


def value_name(target: Target) -> str:
    """What the value of a particle is called."""
    return "fitness" if isinstance(target, Discrete) else "log_likelihood"


def invalid(values: jax.Array) -> jax.Array:
    """Which values are no numbers, or above all bounds: they count as -inf."""
    return jnp.isnan(values) | jnp.isposinf(values)


def population(target: Target, particles: Particle, log_weights: jax.Array, params: Values) -> Outputs:
    """Of all particles together: weighted means, and the best."""
    name, value = value_name(target), particles.value
    sound = jnp.where(invalid(value), -jnp.inf, value)
    found = {f"mean_{name}": weighted_mean(log_weights, sound), f"max_{name}": jnp.max(sound)}
    if isinstance(target, Discrete):
        parts = particles.components.items()
        means = {f"mean_{name}.{part}": weighted_mean(log_weights, values) for part, values in parts}
        return {**found, **means, "best_sequence": narrow(target, particles.x[jnp.argmax(sound)])}
    for name, values in _constrained(target, particles, params).items():
        found[f"mean_{name}"] = mean = weighted_mean(log_weights, values)
        found[f"sd_{name}"] = jnp.sqrt(weighted_mean(log_weights, (values - mean) ** 2))
    return found


def individuals(target: Target, particles: Particle, log_weights: jax.Array, params: Values) -> Outputs:
    """Of each particle: where it is, its value, and what it counts; the first axis is `particle`."""
    name = value_name(target)
    found = {name: particles.value, "weights": jnp.exp(log_weights)}
    if isinstance(target, Discrete):
        parts = {f"{name}.{part}": values for part, values in particles.components.items()}
        return {**found, **parts, "sequence": narrow(target, particles.x)}
    return {**found, **_constrained(target, particles, params)}


def shares_of(target: Target, particles: Particle, log_weights: jax.Array) -> Shares:
    """How often each state stands at each site, by the weights of the particles."""
    assert isinstance(target, Discrete)
    return shares(particles.x, target.states, jnp.exp(log_weights))


def axes(target: Target, record: Record, resampled: bool) -> Axes:
    """Names of the axes of `population` and `individuals`, and of `ancestors` where there are any."""
    found: Axes = {"ancestors": ("particle",)} if resampled else {}
    if isinstance(target, Discrete):
        found["best_sequence"] = ("site",)
        named: Axes = {"sequence": ("site",), **{f"fitness.{part}": () for part in target.components}}
    else:
        named = _constrained_axes(target)
        found |= {f"{word}_{name}": own for name, own in named.items() if own for word in ("mean", "sd")}
    if record == "particles":
        each = {value_name(target): (), "weights": (), **named}
        found |= {name: ("particle", *own) for name, own in each.items()}
    return found


def _constrained(target: Continuous, particles: Particle, params: Values) -> Outputs:
    return jax.vmap(lambda x: target.constrain(x, params))(particles.x)


def _constrained_axes(target: Continuous) -> Axes:
    """Axes of what `constrain` gives: as the target's `dims` has them, else numbered.

    Where the parameters of the trial are needed to know how many there are, they are not named.
    """
    position = jax.ShapeDtypeStruct((target.dimension,), jnp.result_type(float))
    said: Axes = getattr(target, "dims", {})
    with contextlib.suppress(KeyError):
        shapes = jax.eval_shape(lambda x: target.constrain(x, {}), position)
        numbered = {name: tuple(f"{name}_{axis}" for axis in range(shape.ndim)) for name, shape in shapes.items()}
        return {name: tuple(said.get(name, own)) for name, own in numbered.items()}
    return {}
