"""A small model with everything in it, and the few lines that make programs of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.experiment.batch import Inputs, Performer, unguarded
from staffa.experiment.perform import Program, Programs, Spec, describe
from staffa.experiment.protocol import Sampling, Schema
from staffa.experiment.registry import build
from staffa.seeds import key_words
from staffa.trial import Outcome, canonical

SEED = 20_011
"""Of the `trials` channel, in all of these tests."""

MODEL = '''
import jax
import jax.numpy as jnp
import numpy as np
import staffa

class Walk(staffa.Experiment):
    """A walk that records the keys it got, and carries a key of its own in its state."""
    dims = {"x": ("dimension",)}
    coords = {"dimension": ["east", "north", "up"]}

    def __init__(self, dimension: int = 3):
        self.dimension = dimension

    def initialize(self, key, params):
        return {"x": jax.random.uniform(key, (self.dimension,)), "own": key, "size": 1.0, "steps": 0}

    def adapt(self, key, state, params):
        return {**state, "size": 0.9 * state["size"] + 0.2 * jax.random.uniform(key)}

    def step(self, key, state, params):
        own = jax.random.split(state["own"], 1)[0]
        jump = jax.random.uniform(key, (self.dimension,)) + jax.random.key_data(own)[0] * 2.0**-32
        x = jnp.cos(1.3 * state["x"] + params["scale"] * state["size"] * jump)
        outputs = {"x": x, "key": jax.random.key_data(key), "steps": state["steps"]}
        return {**state, "x": x, "own": own, "steps": state["steps"] + 1}, outputs


def angry(scale):
    if scale > 100 and scale < 1000:
        raise ValueError(f"scale {scale:g} is too large")
    return np.float32(0)

class Poisoned(Walk):
    """Raises on the host where 100 < scale < 1000, from the third step on; NaN where scale is negative."""
    def step(self, key, state, params):
        late = jnp.where(state["steps"] >= 2, params["scale"], 0.0)
        zero = jax.pure_callback(angry, jax.ShapeDtypeStruct((), "float32"), late, vmap_method="sequential")
        state, outputs = super().step(key, state, params)
        return state, {**outputs, "root": jnp.sqrt(params["scale"] + zero)}

class Dice(staffa.Experiment):
    """One shot."""
    dims = {"eyes": ("die",)}
    def initialize(self, key, params):
        return key
    def step(self, key, state, params):
        return state, {"eyes": jax.random.randint(key, (2,), 1, 7), "sum": params["bias"]}

class Tiny(staffa.Experiment):
    """Values that only doubles can hold."""
    def initialize(self, key, params):
        return params["scale"] * 1.0
    def step(self, key, state, params):
        return state + params["scale"], {"x": state, "n": jnp.asarray(params["n"])}
'''


class Lab:
    """A folder with a model, and the memo of its programs."""

    def __init__(self, directory: Path, source: str = MODEL) -> None:
        self.directory = directory
        (directory / "model.py").write_text(source)
        self.programs = Programs()

    def spec(
        self,
        name: str = "Walk",
        *,
        static: Mapping[str, Any] = {},
        traced: Mapping[str, str] | None = None,
        vectorize: str = "vmap",
        x64: bool = False,
        **sampling: Any,
    ) -> Spec:
        kinds = {"scale": "float32"} if traced is None else dict(traced)
        return Spec(
            canonical(self.block(name)),
            "code",
            tuple(sorted(static.items())),
            tuple(sorted(kinds.items())),
            Sampling(**sampling),
            x64=x64,
            vectorize=vectorize,
        )

    def block(self, name: str) -> dict[str, Any]:
        return {"use": f"model.py:{name}"}

    def program(self, spec: Spec, width: int) -> Program:
        return self.programs.get(spec, {"use": _name(spec)}, width, self.directory)

    def describe(self, spec: Spec) -> Schema:
        return describe(build({"use": _name(spec)}, self.directory), spec, self.directory)

    def performer(self, spec: Spec, narrowed: Callable[[int], None] = lambda width: None) -> Performer:
        return Performer(lambda width: self.program(spec, width), self.describe(spec), unguarded, narrowed)


def _name(spec: Spec) -> str:
    import json

    return str(json.loads(spec.experiment)["use"])


def words_of(*names: object) -> npt.NDArray[np.uint32]:
    """Digest words of trials, named by anything."""
    digests = [hashlib.sha256(repr(name).encode()).digest()[:16] for name in names]
    return key_words(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16))


def inputs_of(scales: Any, wanted: Any = None, dtype: str = "float32") -> Inputs:
    """Trials 0, 1, …, each with a scale."""
    rows = len(scales)
    chosen = np.ones(rows, bool) if wanted is None else np.isin(np.arange(rows), wanted)
    return Inputs(SEED, words_of(*range(rows)), {"scale": np.asarray(scales, dtype)}, chosen)


def outcomes(codes: Any) -> list[str]:
    return [Outcome(int(code)).word for code in codes]
