"""Chains of which there is much to report: some mix badly, some never move, some fail, some hold a NaN."""

import numpy as np

import staffa


class Chains(staffa.Experiment):
    """Four autoregressive chains: `rho` is how much of a draw stays, `temperature` how wide they are."""

    vectorize = "off"
    encodings = {"notes": "json"}
    dims = {"energy": ("chain",), "x": ("chain", "place"), "divergent": ("chain",)}

    def initialize(self, key, params):
        return np.random.default_rng(key).normal(size=4) if params["rho"] < 1 else np.zeros(4)

    def step(self, key, state, params):
        generator, rho, temperature = np.random.default_rng(key), params["rho"], params["temperature"]
        if temperature == 4 and rho == 0:
            raise ValueError(f"lost at temperature {temperature} <b>&")
        if rho < 1:
            state = rho * state + np.sqrt(1 - rho**2) * generator.normal(size=4) * temperature
        energy = 0.5 * state**2 if temperature > 0.5 else np.full(4, np.nan)
        numbers = {"energy": energy.astype(np.float32), "x": np.stack([state, state**2], 1).astype(np.float32)}
        words = {"phase": "hot" if abs(state[0]) > temperature else "cold", "notes": {"at": float(state[0])}}
        return state, {**numbers, **words, "divergent": np.abs(state) > 8}
