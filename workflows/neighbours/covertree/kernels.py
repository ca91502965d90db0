"""Covariance functions of Gaussian processes, for the residual correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Stationary:
    """A kernel of the distance between two points, in units of a length.

    Arguments:
    - `length`: over which values become independent, in the points' own unit.
    - `variance`: at one point.

    Raises `ValueError` for one that is not above 0.
    """

    length: float = 1.0
    variance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("length", "variance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: {value!r} is not above 0")

    def __call__(self, left: Any, right: Any) -> Any:
        """The covariance over the last axis."""
        difference = (left - right) / self.length
        return self.variance * self.shape(jnp.sum(difference * difference, axis=-1))

    def shape(self, square: Any) -> Any:
        """The correlation at a squared distance."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rbf(Stationary):
    """exp(-r²/2): smooth."""

    def shape(self, square: Any) -> Any:
        return jnp.exp(-square / 2)


@dataclass(frozen=True)
class Matern52(Stationary):
    """(1 + s + s²/3) exp(-s), s = sqrt(5) r: twice differentiable (Rasmussen & Williams, 2006, eq. 4.17)."""

    def shape(self, square: Any) -> Any:
        scaled = jnp.sqrt(5 * square)
        return (1 + scaled + 5 * square / 3) * jnp.exp(-scaled)
