"""Trials that go wrong in every way there is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from staffa.experiment.protocol import Experiment

Arrays = dict[str, Any]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """A way for a trial to go wrong.

    Arguments:
    - `code`: the value of parameter `fault` that brings it about.
    - `outcome`: how the trial ends then, once its retries are used up.
    """

    name: str
    code: int
    outcome: str
    what: str


def faults() -> dict[str, Fault]:
    """The fault table, by name. Use it with `Faulty` or `PlainFaulty`, from a file of the workflow:

        from staffa.testing import Faulty        # model.py; then `use: model.py:Faulty`

    and `grid: {fault: [0, 1, 2]}` in the space. Give the campaign a short `execution.timeout` for `hang`.
    """
    rows = (
        Fault("healthy", 0, "ok", "nothing is wrong"),
        Fault("nan", 1, "nan", "an output is NaN"),
        Fault("infinite", 2, "ok", "an output is infinite, which is allowed"),
        Fault("raise", 3, "raised", "step raises"),
        Fault("raise early", 4, "raised", "initialize raises"),
        Fault("hang", 5, "timeout", "step never returns"),
        Fault("kill", 6, "killed", "step takes its process down, by SIGKILL"),
    )
    return {row.name: row for row in rows}


HEALTHY, NAN, INFINITE, RAISES, RAISES_EARLY, HANGS, KILLS = range(7)


def _misbehave(codes: Any) -> None:
    """What the worst of some trials does."""
    if KILLS in codes:
        # A test that runs such a trial in its own process would be gone without a word.
        if multiprocessing.parent_process() is None and "STAFFA_WORKER" not in os.environ:
            raise RuntimeError("this trial kills its process, and this is no worker's")
        os.kill(os.getpid(), signal.SIGKILL)
    if HANGS in codes:
        time.sleep(86_400)
    if RAISES in codes or RAISES_EARLY in codes:
        raise ValueError("this trial is faulty")


class Faulty(Experiment):
    """A random walk whose trials go wrong as their parameter `fault` says (see `faults`)."""

    dims = {"x": ("dimension",)}

    def __init__(self, dimension: int = 2) -> None:
        self.dimension = dimension

    def initialize(self, key: Any, params: Values) -> Any:
        import jax

        start = jax.random.normal(key, (self.dimension,))
        return start + self._told(params["fault"], RAISES_EARLY)

    def step(self, key: Any, state: Any, params: Values) -> tuple[Any, Arrays]:
        import jax
        import jax.numpy as jnp

        fault = params["fault"]
        x = state + jax.random.normal(key, (self.dimension,)) + self._told(fault, RAISES, HANGS, KILLS)
        x = jnp.where(fault == NAN, jnp.nan, jnp.where(fault == INFINITE, jnp.inf, x))
        return x, {"x": x}

    def _told(self, fault: Any, *codes: int) -> Any:
        """A zero that XLA cannot foresee: the host has seen the codes of all lanes."""
        import jax
        import jax.numpy as jnp

        def seen(found: Any) -> Any:
            _misbehave(np.intersect1d(np.asarray(found), codes))
            return np.zeros(np.shape(found), "float32")

        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(seen, shape, fault, vmap_method="broadcast_all")


class PlainFaulty(Experiment):
    """The same in plain Python."""

    dims = {"x": ("dimension",)}
    vectorize = "off"

    def __init__(self, dimension: int = 2) -> None:
        self.dimension = dimension

    def initialize(self, key: Any, params: Values) -> Any:
        _misbehave({int(params["fault"])} & {RAISES_EARLY})
        return np.random.default_rng(key).normal(size=self.dimension)

    def step(self, key: Any, state: Any, params: Values) -> tuple[Any, Arrays]:
        fault = int(params["fault"])
        _misbehave({fault} & {RAISES, HANGS, KILLS})
        x = state + np.random.default_rng(key).normal(size=self.dimension)
        scale = {NAN: np.nan, INFINITE: np.inf}.get(fault, 1.0)
        return x, {"x": np.abs(x) * scale}
