"""A smooth surface through what was told: where no trial has been, what its score would be, and how sure that is.

Cubic splines in any number of dimensions: `sum_i c_i |x - x_i|^3` and a linear part (Duchon 1977), with a ridge for
noise. It is also a Gaussian process, of which the ridge and the scale are chosen by restricted maximum likelihood
(Wahba 1990, chapter 4); it has no length to choose, which few trials could not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RIDGES = tuple(10.0**power for power in range(-9, 3))
"""Variances of the noise that are tried, in units of the mean curvature."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Fitted to (n, d) points and their (n,) values.

    Arguments:
    - `weights`: (n,) of the cubes, `linear`: (d + 1,) of 1 and the coordinates.
    - `inverse`, `trend`, `shape`: what the uncertainty takes (see `predict`).
    - `scale`: variance of the process.
    """

    points: Array
    weights: Array
    linear: Array
    inverse: Array
    trend: Array
    shape: Array
    scale: float
    ridge: float

    @classmethod
    def fit(cls, points: Array, values: Array) -> Surface:
        """At least d + 2 distinct points are needed."""
        full, triangle = np.linalg.qr(_tail(points), mode="complete")
        many = points.shape[1] + 1
        inside, rest = full[:, :many], full[:, many:]
        cubes = _cubes(points, points)
        curved, turned = np.linalg.eigh(rest.T @ cubes @ rest)
        curved, seen = np.maximum(curved, 0.0), turned.T @ (rest.T @ values)
        ridge = _ridge(curved, seen)
        basis = rest @ turned
        inverse = (basis / (curved + ridge)) @ basis.T
        weights = inverse @ values
        smooth = np.linalg.pinv(triangle[:many]) @ inside.T
        stiff = cubes + ridge * np.eye(len(points))
        linear = smooth @ (values - stiff @ weights)
        # universal kriging: the trend's share of the variance
        shape = smooth @ (stiff - stiff @ inverse @ stiff) @ smooth.T
        scale = float(max((seen**2 / (curved + ridge)).mean(), 1e-300))
        return cls(points, weights, linear, inverse, smooth - smooth @ stiff @ inverse, shape, scale, ridge)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """(m,) means and (m,) standard deviations at (m, d) points."""
        cubes, tail = _cubes(points, self.points), _tail(points)
        means = cubes @ self.weights + tail @ self.linear
        # variance of a prediction that is exact for any linear function (conditionally positive kernel)
        known = cubes @ self.inverse
        variance = -(known * cubes).sum(axis=1) - 2 * ((tail @ self.trend) * cubes).sum(axis=1)
        variance += ((tail @ self.shape) * tail).sum(axis=1)
        return means, np.sqrt(self.scale * np.maximum(variance, 0.0))


def _ridge(curved: Array, seen: Array) -> float:
    """The ridge of the highest restricted likelihood, its scale taken out."""
    ridges = np.array(RIDGES) * max(float(curved.mean()), 1e-300)
    spread = curved + ridges[:, None]
    likelihood = -np.log(spread).sum(axis=1) - len(seen) * np.log((seen**2 / spread).sum(axis=1) + 1e-300)
    return float(ridges[int(likelihood.argmax())])


def _tail(points: Array) -> Array:
    return np.concatenate([np.ones((len(points), 1)), points], axis=1)


def _cubes(points: Array, others: Array) -> Array:
    squares = (points**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * points @ others.T
    squares = np.maximum(squares, 0.0)
    return np.asarray(squares * np.sqrt(squares))
