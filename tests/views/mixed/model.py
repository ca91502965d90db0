"""Three experiments that have little in common, for one archive."""

import jax
import jax.numpy as jnp
import numpy as np

import staffa


class Walk(staffa.Experiment):
    """Arrays whose size is a parameter; NaN where `scale` is large."""

    static = ("size",)
    dims = {"x": ("place",)}

    def initialize(self, key, params):
        return jnp.zeros(params["size"])

    def step(self, key, state, params):
        state = state + params["scale"] * jax.random.normal(key, state.shape)
        energy = jnp.where(params["scale"] > 2.5, jnp.nan, state @ state)
        return state, {"x": state, "energy": energy}


class Flips(staffa.Experiment):
    """A ragged output, and none of the walk's."""

    ragged = {"run": "runs"}

    def initialize(self, key, params):
        return jnp.int32(0)

    def step(self, key, state, params):
        heads = jax.random.bernoulli(key, 0.5, (4,)).astype(jnp.int32)
        runs = 1 + heads.sum()
        return state + 1, {"heads": heads.sum(), "run": jnp.arange(4) * 10, "runs": jnp.minimum(runs, 4)}


class Fragile(staffa.Experiment):
    """Plain Python that fails for one scale."""

    vectorize = "off"

    def initialize(self, key, params):
        return np.random.default_rng(key).normal()

    def step(self, key, state, params):
        if params["scale"] == 2.0:
            raise ValueError(f"no value at scale {params['scale']}")
        return state, {"energy": np.float32(state)}
