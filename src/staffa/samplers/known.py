"""Targets whose moments are known: what a sampler is tried upon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from staffa.samplers.density import LOG_TWO_PI, Density, normal, real
from staffa.samplers.target import Values


class Known(Density):
    """A normalised density that is no posterior, written as one so that it can be tempered.

    Its prior is N(0, spread²) in every coordinate and its likelihood the density over that, so ln Z = 0.
    """

    def __init__(self, spread: float) -> None:
        if not 0 < spread < math.inf:
            raise ValueError(f"spread: {spread} is not above 0")
        self.spread = spread
        super().__init__()

    def log_target(self, position: jax.Array) -> jax.Array:
        """ln of the normalised density; a scalar."""
        raise NotImplementedError

    def log_prior(self, position: jax.Array, params: Values) -> jax.Array:
        return jnp.sum(normal(position, 0.0, self.spread))

    def log_likelihood(self, position: jax.Array, params: Values) -> jax.Array:
        return self.log_target(position) - self.log_prior(position, params)

    def log_density(self, position: jax.Array, params: Values) -> jax.Array:
        return self.log_target(position)

    def sample_prior(self, key: jax.Array, params: Values) -> jax.Array:
        return self.spread * jax.random.normal(key, (self.dimension,))


class Normal(Known):
    """A normal distribution around zero.

    Arguments:
    - `dimension`: coordinates of `x`.
    - `sd`: standard deviation of all coordinates, or of each.
    - `correlation`: between any two coordinates.
    - `spread`: standard deviation of the prior it is tempered from.
    """

    def __init__(
        self,
        dimension: int = 2,
        sd: float | Sequence[float] = 1.0,
        correlation: float = 0.0,
        spread: float = 3.0,
    ) -> None:
        if dimension < 1:
            raise ValueError(f"dimension: {dimension} is not above 0")
        each = np.broadcast_to(np.asarray(sd, float), (dimension,)) if np.size(sd) in (1, dimension) else None
        if each is None or not (each > 0).all():
            raise ValueError(f"sd: {sd} is neither one number above 0 nor {dimension} of them")
        covariance = np.outer(each, each) * np.where(np.eye(dimension, dtype=bool), 1.0, correlation)
        if not np.linalg.eigvalsh(covariance).min() > 0:
            raise ValueError(f"correlation: {correlation} is none that {dimension} coordinates can have")
        self.covariance = covariance
        self._whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        self.parameters = {"x": real(dimension)}
        super().__init__(spread)

    def log_target(self, position: jax.Array) -> jax.Array:
        whitening = jnp.asarray(self._whitening, position.dtype)
        white = whitening @ position
        log_volume = float(np.log(np.diag(self._whitening)).sum())
        return log_volume - 0.5 * white @ white - 0.5 * self.dimension * LOG_TWO_PI


class Funnel(Known):
    """Neal's funnel: v ~ N(0, 3²), and x ~ N(0, exp(v)) in the other coordinates.

    R. M. Neal. Slice sampling. *Annals of Statistics* 31:705-767, 2003, section 8.

    Arguments:
    - `dimension`: all coordinates, v among them.
    - `centred`: sample v and x as they are: no step size suits both the neck and the mouth. Otherwise v/3 and
      x exp(-v/2) are sampled, which are standard normal and independent, and v and x recorded all the same.
    - `spread`: standard deviation of the prior it is tempered from.
    """

    def __init__(self, dimension: int = 10, centred: bool = True, spread: float = 3.0) -> None:
        if dimension < 2:
            raise ValueError(f"dimension: {dimension} leaves nothing beside v; at least 2")
        self.centred = centred
        if centred:
            self.parameters = {"v": real(), "x": real(dimension - 1)}
        else:
            self.parameters = {"white": real(dimension)}
            self.derived = ("v", "x")
        super().__init__(spread)

    def log_target(self, position: jax.Array) -> jax.Array:
        if not self.centred:
            return jnp.sum(normal(position, 0.0, 1.0))
        v, x = position[0], position[1:]
        scaled = -0.5 * jnp.exp(-v) * x @ x - 0.5 * (self.dimension - 1) * (v + LOG_TWO_PI)
        return normal(v, 0.0, 3.0) + scaled

    def derive(self, values: Mapping[str, jax.Array], params: Values) -> dict[str, jax.Array]:
        if self.centred:
            return {}
        v = 3.0 * values["white"][0]
        return {"v": v, "x": jnp.exp(v / 2) * values["white"][1:]}


class Banana(Known):
    """A bent normal: x[0] ~ N(0, scale²), and x[1] ~ N(bend (x[0]² - scale²), 1).

    Both means are 0; the standard deviation of x[1] is sqrt(1 + 2 bend² scale⁴). H. Haario, E. Saksman,
    J. Tamminen. Adaptive proposal distribution for random walk Metropolis algorithm. *Computational
    Statistics* 14:375-395, 1999.

    Arguments:
    - `scale`, `bend`: as above.
    - `spread`: standard deviation of the prior it is tempered from.
    """

    def __init__(self, scale: float = 1.0, bend: float = 1.0, spread: float = 3.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: {scale} is not above 0")
        self.scale, self.bend = scale, bend
        self.parameters = {"x": real(2)}
        super().__init__(spread)

    def log_target(self, position: jax.Array) -> jax.Array:
        across, along = position[0], position[1]
        return normal(across, 0.0, self.scale) + normal(along, self.bend * (across**2 - self.scale**2), 1.0)
