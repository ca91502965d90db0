"""What pages speak of without showing it: a walk with some parameters, in JAX."""

import jax
import jax.numpy as jnp
import numpy as np

import staffa


class Walk(staffa.Experiment):
    dims = {"x": ("dimension",)}

    def __init__(self, dimension: int = 2) -> None:
        self.dimension = dimension

    def initialize(self, key, params):
        return jax.random.normal(key, (self.dimension,))

    def step(self, key, state, params):
        state = state + jnp.sqrt(params.get("scale", 1.0)) * jax.random.normal(key, state.shape)
        return state, {"x": state, "energy": 0.5 * state @ state}


class Largest:
    """A reducer."""

    def map(self, outputs, params):
        return {"largest": np.max(outputs["energy"])}

    def reduce(self, one, two):
        return {"largest": np.maximum(one["largest"], two["largest"])}

    def finish(self, whole):
        return whole
