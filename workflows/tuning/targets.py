"""What the sampler is tuned on: a normal distribution that is ten times wider in one direction than in another."""

import jax.numpy as jnp
import numpy as np

from staffa.samplers.density import real
from staffa.samplers.known import Known


class Stretched(Known):
    """x[i] ~ N(0, sd[i]²), sd from 1 to `width` in equal ratios.

    Chains begin within 2 of zero in every coordinate, so far too close together. `square` is the mean of
    (x[i] / sd[i])²: exactly 1 on average once they have spread.

    Options:
    - `dimension`: coordinates of x.
    - `width`: the largest sd.
    """

    def __init__(self, dimension: int = 10, width: float = 10.0) -> None:
        self.sd = np.geomspace(1.0, width, dimension)
        self.parameters, self.derived = {"x": real(dimension)}, ("square",)
        super().__init__(spread=width)

    def log_target(self, position):
        white = position / jnp.asarray(self.sd, position.dtype)
        return -0.5 * white @ white - float(np.log(self.sd).sum()) - 0.5 * self.dimension * float(np.log(2 * np.pi))

    def derive(self, values, params):
        return {"square": jnp.mean((values["x"] / jnp.asarray(self.sd, values["x"].dtype)) ** 2)}
