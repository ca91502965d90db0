"""The walk of the design's measurements: random-walk Metropolis on a standard normal.

1,000 steps thinned by 10 to 100 draws of 10 single-precision numbers: 4 kB a trial.
"""

import jax
import jax.numpy as jnp
import numpy as np

import staffa


class Walk(staffa.Experiment):
    """Random-walk Metropolis (Metropolis et al. 1953) with a normal proposal of width `scale`."""

    dims = {"x": ("dimension",)}

    def __init__(self, dimension: int = 10) -> None:
        self.dimension = dimension

    def initialize(self, key, params):
        return jax.random.normal(key, (self.dimension,))

    def step(self, key, state, params):
        move, accept = jax.random.split(key)
        proposed = state + params["scale"] * jax.random.normal(move, (self.dimension,))
        log_ratio = 0.5 * (state @ state - proposed @ proposed)
        state = jnp.where(jnp.log(jax.random.uniform(accept)) < log_ratio, proposed, state)
        return state, {"x": state}


class Plain(staffa.Experiment):
    """A plain NumPy simulation: two numbers a trial."""

    vectorize = "off"

    def initialize(self, key, params):
        return np.random.default_rng(key)

    def step(self, key, state, params):
        sample = state.normal(scale=params["scale"], size=100)
        return state, {"mean": sample.mean(), "sd": sample.std()}
