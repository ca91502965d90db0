"""Densities over named parameters: what the continuous samplers draw from.

A model is a class that names its parameters with their ranges and says its prior and its likelihood:

    class Target(Density):
        parameters = {"mean": real(), "scale": positive()}

        def prior(self, values, params):
            return normal(values["mean"], 0.0, 10.0) + exponential(values["scale"], 1.0)

        def likelihood(self, values, params):
            return jnp.sum(normal(self.y, values["mean"], values["scale"]))

or, where a function is all there is, `Target = density(log_density, x=real(), y=positive())`. Either is
`target: {use: model.py:Target}` in a campaign. Samplers move in R^dimension: a parameter with a bounded
range is transformed, and the logarithm of the transform's derivative is part of the prior (Stan Reference
Manual, chapter "Constraint Transforms").
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from staffa.samplers.target import Continuous, Values

START = 2.0
"""Chains begin uniformly within this of zero in every coordinate, as Stan's do."""


@dataclass(frozen=True)
class Range:
    """Where a parameter lies, and its shape.

    Arguments:
    - `lower`, `upper`: bounds of every element; infinite for none.
    - `shape`: own shape; () for a scalar.
    - `dims`: names of its axes, for xarray and Parquet; numbered where there are none.
    """

    lower: float = -math.inf
    upper: float = math.inf
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"range: lower {self.lower} is not below upper {self.upper}")
        if any(extent < 1 for extent in self.shape):
            raise ValueError(f"range: shape {self.shape} has an axis without elements")
        if self.dims and len(self.dims) != len(self.shape):
            raise ValueError(f"range: dims {self.dims} does not name the axes of shape {self.shape}")

    def named(self, *dims: str) -> Range:
        """The same with names for its axes."""
        return replace(self, dims=dims)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def constrain(self, free: jax.Array) -> jax.Array:
        """From the real line into the range."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(free)
        if math.isfinite(self.lower):
            return self.lower + jnp.exp(free)
        return self.upper - jnp.exp(free) if math.isfinite(self.upper) else free

    def unconstrain(self, value: jax.Array) -> jax.Array:
        """The inverse of `constrain`."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return jnp.log(value - self.lower) - jnp.log(self.upper - value)
        if math.isfinite(self.lower):
            return jnp.log(value - self.lower)
        return jnp.log(self.upper - value) if math.isfinite(self.upper) else value

    def log_derivative(self, free: jax.Array) -> jax.Array:
        """ln |d constrain / d free|, summed over elements; a scalar."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            widths = math.log(self.upper - self.lower)
            return jnp.sum(widths + jax.nn.log_sigmoid(free) + jax.nn.log_sigmoid(-free))
        bounded = math.isfinite(self.lower) or math.isfinite(self.upper)
        return jnp.sum(free) if bounded else jnp.zeros((), free.dtype)


def real(*shape: int) -> Range:
    """Any real number; `real(8)` for eight of them."""
    return Range(shape=shape)


def positive(*shape: int) -> Range:
    """A number above zero."""
    return Range(lower=0.0, shape=shape)


def between(lower: float, upper: float, *shape: int) -> Range:
    """A number between two others."""
    return Range(lower, upper, shape)


class Density(Continuous):
    """A posterior density over named parameters. Write `prior`, `likelihood`, and for SMC `draw`.

    Attributes:
    - `parameters`: ranges by name, in the order in which they stand in a position; of the class, or set in
      `__init__` before `super().__init__()` where they depend on an option.
    - `derived`: names of what `derive` adds to the record.
    - `dims`: names of the axes of what is derived.
    """

    parameters: Mapping[str, Range]
    derived: tuple[str, ...] = ()
    dims: Mapping[str, tuple[str, ...]] = {}

    def __init__(self) -> None:
        if not self.parameters:
            raise ValueError(f"{type(self).__name__}.parameters is empty: there is nothing to sample")
        both = set(self.parameters) & set(self.derived)
        if both:
            raise ValueError(f"{type(self).__name__}: {sorted(both)} stands in parameters and in derived")
        self.dimension = sum(each.size for each in self.parameters.values())
        self.names = (*self.parameters, *self.derived)
        self.dims = {**{name: each.dims for name, each in self.parameters.items() if each.dims}, **self.dims}

    def prior(self, values: Mapping[str, jax.Array], params: Values) -> jax.Array:
        """ln of the prior density over the parameters as they are named; a scalar. Flat unless written."""
        return jnp.zeros(())

    def likelihood(self, values: Mapping[str, jax.Array], params: Values) -> jax.Array:
        """ln of the likelihood; a scalar."""
        raise NotImplementedError(f"{type(self).__name__} has no method 'likelihood'")

    def draw(self, key: jax.Array, params: Values) -> dict[str, jax.Array]:
        """A draw from the prior, by name: where particles of SMC begin."""
        raise NotImplementedError(f"{type(self).__name__} has no method 'draw', which SMC needs: a draw from its prior")

    def derive(self, values: Mapping[str, jax.Array], params: Values) -> dict[str, jax.Array]:
        """Further quantities to record, by the names in `derived`."""
        return {}

    def log_prior(self, position: jax.Array, params: Values) -> jax.Array:
        values, free = self._split(position)
        derivative = sum(each.log_derivative(free[name]) for name, each in self.parameters.items())
        return self.prior(values, params) + derivative

    def log_likelihood(self, position: jax.Array, params: Values) -> jax.Array:
        return self.likelihood(self._split(position)[0], params)

    def sample_prior(self, key: jax.Array, params: Values) -> jax.Array:
        return self.position(self.draw(key, params))

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """Uniform in [-2, 2] in every unconstrained coordinate, whatever the prior (Stan's rule)."""
        return jax.random.uniform(key, (self.dimension,), minval=-START, maxval=START)

    def constrain(self, position: jax.Array, params: Values) -> dict[str, jax.Array]:
        values = self._split(position)[0]
        return {**values, **self.derive(values, params)}

    def position(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """The unconstrained position of some values, (dimension,)."""
        free = [jnp.ravel(each.unconstrain(jnp.asarray(values[name]))) for name, each in self.parameters.items()]
        return jnp.concatenate(free)

    def _split(self, position: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Parameters by name, in their ranges and on the real line."""
        values, free, start = {}, {}, 0
        for name, each in self.parameters.items():
            free[name] = position[start : start + each.size].reshape(each.shape)
            values[name] = each.constrain(free[name])
            start += each.size
        return values, free


def density(
    log_density: Callable[..., jax.Array],
    *,
    prior: Callable[..., jax.Array] | None = None,
    draw: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None,
    **parameters: Range,
) -> type[Density]:
    """Make a target of a function.

    Arguments:
    - `log_density`: ln of the density of its arguments, up to a constant. Those that are no `parameters` are
      taken from the trial's parameters, so that `def log_density(x, scale)` may be swept over `scale`.
    - `prior`: where given, `log_density` is the likelihood, and this the prior, of the same arguments.
    - `draw`: a draw from the prior, by name, from a key.
    - `parameters`: ranges of the arguments.

    Raises `ValueError` for parameters that the function does not take.
    """
    asked = {each: _arguments(each) for each in (log_density, prior) if each is not None}
    for name in parameters:
        if not any(name in arguments for arguments in asked.values()):
            raise ValueError(f"density: {getattr(log_density, '__name__', log_density)!s} takes no argument {name!r}")

    def called(function: Callable[..., jax.Array], values: Mapping[str, Any], params: Values) -> jax.Array:
        given = {name: values[name] if name in values else params[name] for name in asked[function]}
        return jnp.asarray(function(**given))

    class FromFunction(Density):
        def prior(self, values: Mapping[str, jax.Array], params: Values) -> jax.Array:
            return super().prior(values, params) if prior is None else called(prior, values, params)

        def likelihood(self, values: Mapping[str, jax.Array], params: Values) -> jax.Array:
            return called(log_density, values, params)

        def draw(self, key: jax.Array, params: Values) -> dict[str, jax.Array]:
            return super().draw(key, params) if draw is None else dict(draw(key))

    FromFunction.parameters = parameters
    return FromFunction


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


# --- logarithms of densities, element by element ---------------------------------------------------

LOG_TWO_PI = math.log(2 * math.pi)


def normal(x: Any, mean: Any, sd: Any) -> jax.Array:
    """ln N(x; mean, sd)."""
    return jnp.asarray(-0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * LOG_TWO_PI)


def half_cauchy(x: Any, scale: Any) -> jax.Array:
    """ln of a Cauchy density at x > 0, twice the whole one's."""
    return math.log(2 / math.pi) - jnp.log(scale) - jnp.log1p((x / scale) ** 2)


def exponential(x: Any, rate: Any) -> jax.Array:
    """ln of rate exp(-rate x) at x > 0."""
    return jnp.asarray(jnp.log(rate) - rate * x)
