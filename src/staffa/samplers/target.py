"""What is sampled: a fitness of sequences, or a density over positions.

A sampler gets its target as an option, `target: {use: nk, …}` or `target: {use: model.py:Fitness}`, and
takes one of the two kinds. Both are pure: the parameters of a trial come as an argument, so one target
serves all trials and is compiled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Values = Mapping[str, Any]


class Discrete:
    """Sequences of `length` sites with `states` states each, and a fitness: higher is better.

    Samplers draw from p(x) ∝ exp(beta F(x)) over all states^length sequences.

    Attributes:
    - `alphabet`: letters of the states, in order; empty where they mean nothing.
    - `components`: names of what `fitness` tells besides the value; each is recorded.
    """

    length: int
    states: int
    alphabet: str = ""
    components: tuple[str, ...] = ()
    static: ClassVar[tuple[str, ...]] = ()
    """Parameters of the trial that the target needs as Python values."""

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The fitness of one sequence, int32 (length,): a scalar, and the value of each component."""
        raise NotImplementedError

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """A first sequence, int32 (length,): by default any, each as likely."""
        return jax.random.randint(key, (self.length,), 0, self.states, jnp.int32)


class Continuous:
    """Positions in R^dimension, and a density: prior times likelihood, both up to a constant.

    Samplers draw from p(x) ∝ prior(x) likelihood(x)^beta, with beta = 1 unless they temper.

    Attributes:
    - `names`: names of what `constrain` gives, in order; each is recorded.
    """

    dimension: int
    names: tuple[str, ...] = ("x",)
    static: ClassVar[tuple[str, ...]] = ()

    def log_prior(self, position: jax.Array, params: Values) -> jax.Array:
        """ln of the prior density at one unconstrained position, (dimension,); a scalar."""
        raise NotImplementedError

    def log_likelihood(self, position: jax.Array, params: Values) -> jax.Array:
        """ln of the likelihood there; a scalar."""
        raise NotImplementedError

    def log_density(self, position: jax.Array, params: Values) -> jax.Array:
        """ln of the posterior density, up to a constant."""
        return self.log_prior(position, params) + self.log_likelihood(position, params)

    def sample_prior(self, key: jax.Array, params: Values) -> jax.Array:
        """A draw from the prior, (dimension,): where particles of SMC begin."""
        raise NotImplementedError

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """Where a chain begins, (dimension,): by default a draw from the prior."""
        return self.sample_prior(key, params)

    def constrain(self, position: jax.Array, params: Values) -> dict[str, jax.Array]:
        """What is recorded of a position: the model's own parameters, by name."""
        return {"x": position}


Target = Discrete | Continuous
