"""How far two points are apart: plug-ins of the family `metrics`.

A metric is made with its options, then fitted to the points of a tree. What it comes to is a `Fitted`: each point as
a row of features, and a form that takes two such rows to a distance which satisfies the triangle inequality. Whatever
does may be used: a class with `fitted(points, seed)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from staffa.errors import ConfigError

from .distances import Form
from .growing import Array
from .kernels import Rbf


@dataclass(frozen=True)
class Fitted:
    """A metric, ready for points of one kind.

    Arguments:
    - `form`: the distance of two rows of features; hashable, for programs are compiled by it.
    - `features`: points (n, dimensions) as features (n, features).
    - `relative`, `absolute`: how far rounding may put a distance off: by relative * distance + absolute. Bounds are
      loosened by it, so that no search misses what it would find by computing all distances.
    """

    form: Form
    features: Callable[[Array], Array]
    relative: float = 1e-13
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.relative < 0.1 and 0 <= self.absolute < np.inf):
            raise ValueError(f"relative: {self.relative}, absolute: {self.absolute}: rounding is small, and never 0")


class Metric(Protocol):
    """What the family's plug-ins are made to."""

    def fitted(self, points: Array, seed: int) -> Fitted:
        """The metric for points like these, (n, dimensions). Raises `ConfigError` for what it cannot do."""
        ...


UNROLLED = 16
"""Dimensions up to which a sum of squares is written out."""


@dataclass(frozen=True)
class Straight:
    """The form of `Euclidean`."""

    def __call__(self, left: Any, right: Any) -> Any:
        if left.shape[-1] > UNROLLED:
            difference = left - right
            return jnp.sqrt(jnp.sum(difference * difference, axis=-1))
        # Written out, it is done for many pairs at once: XLA does not do so with short sums.
        differences = [left[..., place] - right[..., place] for place in range(left.shape[-1])]
        return jnp.sqrt(sum(difference * difference for difference in differences))


@dataclass(frozen=True)
class Euclidean:
    """The straight distance, sqrt(sum (x_i - y_i)²)."""

    known_as: ClassVar[str] = "euclidean"
    """What SciPy and scikit-learn call it."""

    def fitted(self, points: Array, seed: int) -> Fitted:
        return Fitted(Straight(), _unchanged, relative=4e-16 * (points.shape[1] + 8))


def _unchanged(points: Array) -> Array:
    return points


@dataclass(frozen=True)
class Correlated:
    """The form of `ResidualCorrelation`: features are the place, L⁻¹ K_mx, and 1/sqrt(p)."""

    kernel: Callable[[Any, Any], Any]
    dimensions: int

    def __call__(self, left: Any, right: Any) -> Any:
        size = self.dimensions
        explained = jnp.sum(left[..., size:-1] * right[..., size:-1], axis=-1)
        correlation = (self.kernel(left[..., :size], right[..., :size]) - explained) * left[..., -1] * right[..., -1]
        return jnp.sqrt(jnp.maximum(1 - jnp.abs(correlation), 0.0))


@dataclass(frozen=True)
class ResidualCorrelation:
    """sqrt(1 - |rho|), rho the correlation that is left of a Gaussian process where inducing points are known.

    With V = L⁻¹ K_mx, L L^T = K_mm + 1e-6 K(0) I: p_i = max(K_ii - |V_i|², 1e-9) and
    rho_ij = (K_ij - V_i.V_j) / sqrt(p_i p_j). This is a metric, where 1 - |rho| is none (neighbours for a Vecchia
    approximation: Guinness, Technometrics 60:415, 2018; Jimenez & Katzfuss, AISTATS 2023).

    Options:
    - `kernel`: of two arrays of points over their last axis; hashable.
    - `inducing`: how many points are known: of all some at random, by the tree's seed.
    """

    kernel: Callable[[Any, Any], Any] = field(default_factory=Rbf)
    inducing: int = 32

    def __post_init__(self) -> None:
        if self.inducing < 1:
            raise ValueError(f"inducing: {self.inducing} is not 1 or more")

    def fitted(self, points: Array, seed: int) -> Fitted:
        """Refuses a kernel that is not positive definite over these points, and more inducing points than points."""
        if self.inducing > len(points):
            raise ConfigError(f"inducing: {self.inducing} of {len(points)} points", f"inducing: {len(points)} at most")
        chosen = np.random.default_rng([seed, self.inducing]).permutation(len(points))[: self.inducing]
        known = points[np.sort(chosen)]
        covariance = _covariances(self.kernel, known, known)
        jitter = 1e-6 * float(np.max(np.diag(covariance)))
        factor = _factor(covariance + jitter * np.eye(len(known)), self.kernel)
        features = _Residuals(self.kernel, known, factor)
        residual = features(points)
        # What cancels in K_ij - V_i.V_j, beside what is left of it.
        lost = 8e-16 * (self.inducing + 8) * float(np.max(np.diag(covariance))) * float(np.max(residual[:, -1])) ** 2
        return Fitted(Correlated(self.kernel, points.shape[1]), features, absolute=float(np.sqrt(lost)))


@dataclass(frozen=True)
class _Residuals:
    """Points as features of `Correlated`."""

    kernel: Callable[[Any, Any], Any]
    known: Array
    factor: Array

    def __call__(self, points: Array) -> Array:
        from scipy.linalg import solve_triangular

        explained = solve_triangular(self.factor, _covariances(self.kernel, self.known, points), lower=True).T
        with jax.enable_x64(True):
            own = np.asarray(self.kernel(points, points), np.float64)
        left = own - np.sum(explained * explained, axis=1)
        if not (left > -1e-6 * np.abs(own) - 1e-9).all():
            worst = int(np.argmin(left))
            raise ConfigError(
                f"kernel {self.kernel!r} is not positive definite: point {worst} has {left[worst]:.3g} variance left",
                "take one that is, such as Rbf or Matern52",
            )
        return np.column_stack([points, explained, 1 / np.sqrt(np.maximum(left, 1e-9))])


def _covariances(kernel: Callable[[Any, Any], Any], left: Array, right: Array) -> Array:
    with jax.enable_x64(True):
        return np.asarray(kernel(left[:, None, :], right[None, :, :]), np.float64)


def _factor(covariance: Array, kernel: Any) -> Array:
    finite = np.isfinite(covariance).all()
    smallest = float(np.linalg.eigvalsh((covariance + covariance.T) / 2)[0]) if finite else np.nan
    if not (smallest > 0 and np.allclose(covariance, covariance.T)):
        raise ConfigError(
            f"kernel {kernel!r} is not positive definite: of {len(covariance)} inducing points the smallest eigenvalue "
            f"is {smallest:.3g}",
            "take one that is, such as Rbf or Matern52",
        )
    return np.linalg.cholesky(covariance)
