"""The models of the survival tests, copied into each test's workflow as `model.py`.

They are held, poisoned and mended from outside, by files in the folder `$SURVIVAL_GATES`.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import staffa


def flag(name):
    """Whether the test has put up a file of this name."""
    folder = os.environ.get("SURVIVAL_GATES")
    return bool(folder) and Path(folder, name).exists()


def gate(name):
    """Wait for as long as the test holds this gate; say that someone came by."""
    if flag(f"{name}.held"):
        Path(os.environ["SURVIVAL_GATES"], f"{name}.reached").write_text(str(os.getpid()))
        while flag(f"{name}.held"):
            time.sleep(0.02)


def told(call, *values):
    """A zero that XLA cannot foresee: `call` has seen the values of all lanes."""
    return jax.pure_callback(call, jax.ShapeDtypeStruct((), jnp.float32), *values, vmap_method="broadcast_all")


def move(key, x, scale):
    a, b = jax.random.split(key)
    y = x + scale * jax.random.normal(a, x.shape)
    accept = jnp.log(jax.random.uniform(b)) < 0.5 * (x @ x - y @ y)
    return jnp.where(accept, y, x)


class Walk(staffa.Experiment):
    """Metropolis on a normal distribution."""

    dims = {"x": ("dimension",)}

    def __init__(self, dimension: int = 4):
        self.dimension = dimension

    def initialize(self, key, params):
        return jnp.zeros(self.dimension)

    def step(self, key, x, params):
        x = move(key, x, params["scale"])
        return x, {"x": x, "energy": 0.5 * x @ x}


class Gated(Walk):
    """The same walk with gates: `trace`, `initialize`, and `step-<n>` before the n-th step."""

    def initialize(self, key, params):
        def passed(scale):
            gate("initialize")
            return np.zeros(np.shape(scale), np.float32)

        return super().initialize(key, params) + told(passed, params["scale"]), jnp.int32(0)

    def step(self, key, state, params):
        if multiprocessing.parent_process() is not None:
            gate("trace")

        def passed(number):
            gate(f"step-{int(np.asarray(number).flat[0])}")
            return np.zeros(np.shape(number), np.float32)

        x, number = state
        x, outputs = super().step(key, x + told(passed, number), params)
        return (x, number + 1), outputs


FINE, RAISES, NAN, HANGS, KILLS, MENDED = range(6)


def misbehave(kinds):
    """What the worst of some trials does."""
    if KILLS in kinds:
        os.kill(os.getpid(), signal.SIGKILL)
    if HANGS in kinds:
        time.sleep(3600)
    if RAISES in kinds:
        raise ValueError("this trial is poisoned")
    if MENDED in kinds and not flag("mended"):
        raise RuntimeError("not mended yet")


class Poison(Walk):
    """The walk, with trials that misbehave as `kind` says."""

    def step(self, key, x, params):
        def passed(kind):
            kind = np.asarray(kind)
            misbehave(kind)
            return np.where(kind == NAN, np.nan, 0.0).astype(np.float32)

        return super().step(key, x + told(passed, params["kind"]), params)


class BadStart(Gated):
    """The gated walk, with trials that misbehave before their first step."""

    def initialize(self, key, params):
        def passed(kind):
            misbehave(np.asarray(kind))
            return np.zeros(np.shape(kind), np.float32)

        x, number = super().initialize(key, params)
        return x + told(passed, params["kind"]), number


class Slow(Walk):
    """The walk at leisure: sixteen steps take 0.6 s, however many lanes there are."""

    def step(self, key, x, params):
        def passed(place):
            time.sleep(0.6 / 16)
            return np.zeros(np.shape(place), np.float32)

        # It has to depend on the step: what does not is computed once, before the loop.
        return super().step(key, x + told(passed, x[0]), params)


class PlainPoison(staffa.Experiment):
    """Poison in plain Python."""

    vectorize = "off"

    def __init__(self, dimension: int = 4):
        self.dimension = dimension

    def initialize(self, key, params):
        return np.zeros(self.dimension)

    def step(self, key, x, params):
        kind = int(params["kind"])
        misbehave([kind])
        x = x + params["scale"] * np.random.default_rng(key).normal(size=self.dimension)
        return x, {"x": x if kind != NAN else x * np.nan}
