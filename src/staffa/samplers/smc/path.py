"""The distributions that particles go through, from p0 at beta 0 to the target at beta 1.

p_beta(x) ∝ p0(x) exp(sum over k of c_k(beta) l_k(x)), where

- tempered: one piece, l = F(x) (sequences) or ln likelihood (positions), and c = beta / temperature;
- by data: l_k is the log-likelihood of datum k, and c_k = min(max(beta K - k, 0), 1) / temperature: data enter
  one after another, and at beta = j / K the first j of K are in (Chopin, Biometrika 89:539, 2002).

p0 is uniform over sequences, and the prior over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from staffa.samplers.target import Continuous, Target, Values


@runtime_checkable
class Pieces(Protocol):
    """What a target has besides, where its data can be added in pieces.

    Attributes:
    - `pieces`: how many there are, K.
    """

    pieces: int

    def log_likelihood_pieces(self, x: jax.Array, params: Values) -> jax.Array:
        """ln likelihood of each piece at one position (or its share of the fitness), (K,).

        Their sum is `log_likelihood` (or `fitness`).
        """
        ...


class Particle(NamedTuple):
    """A place with what is known of it; with a leading axis for several."""

    x: jax.Array
    """int32 (length,) or float (dimension,)."""
    pieces: jax.Array
    """l_k, (K,); their sum is the fitness, or ln likelihood."""
    components: dict[str, jax.Array]
    """Scalars, by the target's names of components."""

    @property
    def value(self) -> jax.Array:
        """Fitness, or ln likelihood: of all data, whatever beta is."""
        return jnp.sum(self.pieces, -1)


@dataclass(frozen=True)
class Path:
    """The way from p0 to a target.

    Arguments:
    - `by_data`: whether data are added one by one; otherwise all are tempered together.
    """

    target: Target
    by_data: bool = False
    temperature: float = 1.0

    def coefficients(self, beta: Any, params: Values) -> jax.Array:
        """c_k(beta), (K,)."""
        temperature = jnp.asarray(params.get("temperature", self.temperature), float)
        beta = jnp.asarray(beta, float)
        if not isinstance(self.target, Pieces) or not self.by_data:
            return jnp.reshape(beta / temperature, (1,))
        return jnp.clip(beta * self.target.pieces - jnp.arange(self.target.pieces), 0, 1) / temperature

    def evaluate(self, x: jax.Array, params: Values) -> Particle:
        """What is to be known of one place."""
        value, components = self._whole(x, params)
        pieces = value[None]
        if self.by_data and isinstance(self.target, Pieces):
            pieces = jnp.asarray(self.target.log_likelihood_pieces(x, params), float)
        return Particle(x, pieces, components)

    def _whole(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fitness and its components, or ln likelihood; what is not used afterwards is never computed."""
        if isinstance(self.target, Continuous):
            return jnp.asarray(self.target.log_likelihood(x, params), float), {}
        value, components = self.target.fitness(x, params)
        return jnp.asarray(value, float), {name: jnp.asarray(components[name]) for name in self.target.components}

    def at(self, beta: Any, params: Values) -> Distribution:
        """The distribution at one beta."""
        return Distribution(self, self.coefficients(beta, params), params)


@dataclass(frozen=True, eq=False)
class Distribution:
    """One distribution of a path, for the parameters of one trial."""

    path: Path
    coefficients: jax.Array
    params: Values

    def evaluate(self, x: jax.Array) -> Particle:
        """What is to be known of one place."""
        return self.path.evaluate(x, self.params)

    def log_likelihood(self, pieces: jax.Array) -> jax.Array:
        """sum of c_k l_k, over the last axis; -inf where it is no number or above all bounds.

        Pieces that do not count yet do not harm.
        """
        counted = self.coefficients > 0
        return bounded(jnp.sum(jnp.where(counted, self.coefficients * jnp.where(counted, pieces, 0), 0), -1))

    def log_density(self, position: jax.Array) -> jax.Array:
        """ln of the density at one position, up to a constant. Of a `Continuous` target only."""
        assert isinstance(self.path.target, Continuous)
        pieces = self.path.evaluate(position, self.params).pieces
        return self.path.target.log_prior(position, self.params) + self.log_likelihood(pieces)


def increments(pieces: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """ln of the factor by which a particle's weight changes: sum of (c'_k - c_k) l_k, over the last axis.

    -inf where it is no number or above all bounds; pieces whose coefficient stays do not harm.
    """
    step = after - before
    return bounded(jnp.sum(jnp.where(step > 0, step * jnp.where(step > 0, pieces, 0), 0), -1))


def bounded(log_value: jax.Array) -> jax.Array:
    """-inf for NaN and infinity: what cannot be weighed does not count."""
    return jnp.where(jnp.isnan(log_value) | jnp.isposinf(log_value), -jnp.inf, log_value)
