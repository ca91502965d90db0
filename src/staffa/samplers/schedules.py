"""Schedules: how an inverse temperature goes from its start to its end.

With x = (t - 1) / (n - 1) at step t of n, and b0 = `start`, b1 = `stop`:

| name | beta(t) |
|---|---|
| linear | b0 + x (b1 - b0) |
| exponential | b0 + (b1 - b0) (e^(r x) - 1) / (e^r - 1) |
| cosine | b0 + (b1 - b0) (1 - cos pi x) / 2 |
| static | b1 |
| adaptive | the next beta at which a given share of the particles would count |

All but the last are functions of the step alone. They can be traced: the step may be an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from blackjax.smc.solver import dichotomy
from jax.scipy.special import logsumexp

from staffa.samplers.options import check_count, check_number, check_positive


@runtime_checkable
class Schedule(Protocol):
    """A quantity in [0, 1] that is known for every step beforehand."""

    def __call__(self, step: Any) -> jax.Array:
        """Its value at a step, counted from 1; later steps have the last one's."""
        ...


@dataclass(frozen=True)
class Ramp:
    """From `start` at step 1 to `stop` at step `steps`, and `stop` from then on.

    A single step is the last one: it has `stop`.
    """

    start: float = 0.1
    stop: float = 1.0
    steps: int = 100

    def __post_init__(self) -> None:
        check_number("start", self.start, 0, 1)
        check_number("stop", self.stop, 0, 1)
        check_count("steps", self.steps)
        if self.start > self.stop:
            raise ValueError(f"start: {self.start!r} is above stop, {self.stop!r}; beta goes up")

    def __call__(self, step: Any) -> jax.Array:
        gone = (jnp.asarray(step, float) - 1) / max(self.steps - 1, 1)
        x = jnp.clip(gone, 0, 1)
        value = self.start + (self.stop - self.start) * self.share(x)
        # Rounding must not leave the last beta at 0.9999999.
        last = jnp.asarray(step) >= self.steps
        return jnp.where(last, self.stop, jnp.clip(value, self.start, self.stop))

    def share(self, x: jax.Array) -> jax.Array:
        """How much of the way is gone at x, from 0 at 0 to 1 at 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Ramp):
    """`linear`: equal increments.

    Options: `start` and `stop`, in [0, 1]; `steps`, n: as many as the experiment does, or fewer.
    """

    def share(self, x: jax.Array) -> jax.Array:
        return x


@dataclass(frozen=True)
class Exponential(Ramp):
    """`exponential`: increments that grow by the same factor each step, where the first ones cost most.

    Options: as of `linear`, and `rate`, r: above 0 slow at first, below 0 slow at last, 0 is linear.
    """

    rate: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rate", self.rate, -math.inf)

    def share(self, x: jax.Array) -> jax.Array:
        if self.rate == 0:
            return x
        if self.rate < 0:
            return jnp.expm1(self.rate * x) / math.expm1(self.rate)
        # The same as (e^(r x) - 1) / (e^r - 1), but e^r cannot overflow.
        return jnp.exp(self.rate * (x - 1)) * jnp.expm1(-self.rate * x) / math.expm1(-self.rate)


@dataclass(frozen=True)
class Cosine(Ramp):
    """`cosine`: slow at both ends. Options: as of `linear`."""

    def share(self, x: jax.Array) -> jax.Array:
        return (1 - jnp.cos(jnp.pi * x)) / 2


@dataclass(frozen=True)
class Static:
    """`static`: the same at every step. Option: `stop`, in [0, 1]."""

    stop: float = 1.0

    def __post_init__(self) -> None:
        check_number("stop", self.stop, 0, 1)

    def __call__(self, step: Any) -> jax.Array:
        return jnp.full(jnp.shape(step), self.stop, float)


@dataclass(frozen=True)
class Adaptive:
    """`adaptive`: as far at each step as the particles bear, found by bisection.

    The next beta is where the conditional effective sample size of the increments u,
    N (sum W u)^2 / sum W u^2, is `target_ess` of the N particles (Zhou, Johansen & Aston, J. Comput. Graph.
    Stat. 25:701, 2016). Where all weights W are equal, as after resampling, that is the effective sample
    size of the particles at the next beta. Particles of weight 0 now or at any later beta do not count: the
    rest would else be asked for more than they can give, and beta would stop where it is.

    Options: `target_ess`, share of the particles, in (0, 1); `stop`, in (0, 1].
    """

    target_ess: float = 0.5
    stop: float = 1.0

    def __post_init__(self) -> None:
        check_positive("target_ess", self.target_ess)
        check_number("target_ess", self.target_ess, 0, 1)
        if self.target_ess == 1:
            raise ValueError("target_ess: 1.0 lets beta go nowhere; it must be below 1")
        check_positive("stop", self.stop)
        check_number("stop", self.stop, 0, 1)

    def advance(
        self, beta: jax.Array, log_weights: jax.Array, increments: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """The next beta, above `beta` and at most `stop`.

        Arguments:
        - `log_weights`: ln W, (particles,).
        - `increments`: ln u at another beta, (particles,); -inf where a particle dies.
        """
        left = jnp.maximum(self.stop - beta, 0)
        alive = jnp.isfinite(log_weights) & jnp.isfinite(increments(beta + left))
        weights = jnp.where(alive, log_weights, -jnp.inf)
        wanted = logsumexp(weights) + math.log(self.target_ess)

        def spare(delta: jax.Array) -> jax.Array:
            weighted = jnp.where(alive, increments(beta + delta), 0)
            return 2 * logsumexp(weights + weighted) - logsumexp(weights + 2 * weighted) - wanted

        delta = dichotomy(spare, jnp.zeros_like(left), left)
        # With nobody alive, or none but one, there is nothing to solve for.
        return jnp.where(jnp.isfinite(delta), beta + jnp.clip(delta, 0, left), beta + left)
