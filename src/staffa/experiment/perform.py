"""The engine's own loop: a scan of `step` over draws, compiled once for each program.

A program is everything that decides what XLA compiles: the experiment and its options, the
static parameters, the shapes and dtypes, the number of lanes (width), x64 and the PRNG. Groups
that agree in these share one program, and a worker process compiles it once.

Keys: a trial's key is folded from the seed of the `trials` channel and all words of its
digest; from it come three streams (initialize, adapt, step), and the key of step *i* is
`fold_in(stream, i)`. So n segments of m draws equal one of n*m, bit for bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from staffa.errors import PluginError
from staffa.experiment.protocol import Experiment, Params, Sampling, Schema
from staffa.experiment.registry import build, importing_from, located, user_code
from staffa.experiment.schema import check_outputs, flatten, has_chains, schema_of
from staffa.seeds import KEY_WORDS

INITIALIZE, ADAPT, STEP = 0, 1, 2
"""The three streams folded from a trial's key."""


@dataclass(frozen=True)
class Spec:
    """What makes a program; equal specs share compiled code."""

    experiment: str
    """Canonical text of the experiment block: reference and options."""
    code: str
    """Digest of the workflow's code."""
    static: tuple[tuple[str, Any], ...]
    traced: tuple[tuple[str, str], ...]
    """Names and dtypes of the traced parameters."""
    sampling: Sampling
    x64: bool = False
    prng: str = "threefry2x32"
    vectorize: str = "vmap"


def device_dtype(type_name: str, x64: bool) -> str:
    """The dtype a declared parameter type has inside a program."""
    wide = {"float": "float64", "int": "int64", "bool": "bool"}
    return wide[type_name] if x64 or type_name == "bool" else wide[type_name].replace("64", "32")


class Lane:
    """The pure functions of one lane (one trial), closed over the experiment and its statics."""

    def __init__(self, experiment: Experiment, spec: Spec) -> None:
        self.experiment = experiment
        self.spec = spec
        self.static = dict(spec.static)

    def initialize(self, seed: Any, words: Any, params: Mapping[str, Any]) -> Any:
        key = self._stream(seed, words, INITIALIZE)
        return jax.tree.map(_array, self.experiment.initialize(key, self._params(params)))

    def adapt(self, seed: Any, words: Any, params: Mapping[str, Any], state: Any, first: Any, last: Any) -> Any:
        """Warm-up calls `first` to `last`."""
        stream, values = self._stream(seed, words, ADAPT), self._params(params)
        adapt = self.experiment.adapt  # type: ignore[attr-defined]
        return lax.fori_loop(first, last, lambda i, s: adapt(_fold(stream, i), s, values), state)

    def discard(self, seed: Any, words: Any, params: Mapping[str, Any], state: Any, first: Any, last: Any) -> Any:
        """Steps `first` to `last` without recording."""
        stream, values = self._stream(seed, words, STEP), self._params(params)
        return lax.fori_loop(first, last, lambda i, s: self._step(stream, i, s, values)[0], state)

    def sample(self, seed: Any, words: Any, params: Mapping[str, Any], state: Any, draw: Any) -> Any:
        """Draws `draw` to `draw + segment_draws`: (state, outputs, whether a NaN stands in them)."""
        stream, values = self._stream(seed, words, STEP), self._params(params)
        sampling = self.spec.sampling
        if sampling.draws is None:
            state, outputs = self._step(stream, jnp.uint32(0), state, values)
            return state, outputs, _has_nan(outputs)

        def one_draw(state: Any, index: Any) -> Any:
            start = index * jnp.uint32(sampling.thin)
            if sampling.thin > 1:
                last = start + jnp.uint32(sampling.thin - 1)
                state = lax.fori_loop(start, last, lambda i, s: self._step(stream, i, s, values)[0], state)
                start = last
            return self._step(stream, start, state, values)

        indices = jnp.arange(sampling.segment_draws, dtype=jnp.uint32) + draw + jnp.uint32(sampling.discard)
        state, outputs = lax.scan(one_draw, state, indices)
        outputs = {name: self._chains_first(name, value) for name, value in outputs.items()}
        return state, outputs, _has_nan(outputs)

    def _chains_first(self, name: str, value: Any) -> Any:
        return jnp.moveaxis(value, 1, 0) if has_chains(self.experiment, name) else value

    def _step(self, stream: Any, index: Any, state: Any, values: Params) -> tuple[Any, dict[str, Any]]:
        state, outputs = self.experiment.step(_fold(stream, index), state, values)
        return jax.tree.map(_array, state), {k: _array(v) for k, v in flatten(outputs).items()}

    def _stream(self, seed: Any, words: Any, stream: int) -> Any:
        key = jax.random.key(seed, impl=self.spec.prng)
        for index in range(KEY_WORDS):
            key = jax.random.fold_in(key, words[index])
        return jax.random.fold_in(key, stream)

    def _params(self, params: Mapping[str, Any]) -> Params:
        return Params({**self.static, **params})


class Program:
    """One program at one width, compiled ahead of time and kept for the life of the process."""

    def __init__(self, lane: Lane, width: int, directory: Path) -> None:
        self.lane = lane
        self.width = width
        self.compile_seconds = 0.0
        self._directory = directory
        self._lowered: dict[str, Any] = {}
        self._compiled: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._state: Any = None

    def state_shape(self) -> Any:
        """Shapes and dtypes of `width` lanes' state."""
        if self._state is None:
            self._state = self._traced(lambda: jax.eval_shape(self._over_lanes("initialize"), *self._head()))
        return self._state

    def initialize(self, seed: int, words: Any, params: Mapping[str, Any]) -> Any:
        return self._call("initialize", np.uint32(seed), words, params)

    def adapt(self, seed: int, words: Any, params: Mapping[str, Any], state: Any, first: int, last: int) -> Any:
        return self._call("adapt", np.uint32(seed), words, params, state, np.uint32(first), np.uint32(last))

    def discard(self, seed: int, words: Any, params: Mapping[str, Any], state: Any, first: int, last: int) -> Any:
        return self._call("discard", np.uint32(seed), words, params, state, np.uint32(first), np.uint32(last))

    def sample(self, seed: int, words: Any, params: Mapping[str, Any], state: Any, draw: int) -> Any:
        return self._call("sample", np.uint32(seed), words, params, state, np.uint32(draw))

    def prepare(self, *names: str) -> None:
        """Compile now, so that what is timed later is the sampling alone."""
        for name in names:
            self._function(name)

    def lowered(self, name: str) -> str:
        """A phase as it is handed to the compiler, traced for this call; if it is compiled next, it is this."""
        self._lowered[name] = self._lower(name)
        return str(self._lowered[name].as_text())

    def memory(self, *names: str) -> int | None:
        """Bytes of the device that the largest of these phases takes, by its compiler; None if it does not say."""
        found = [self._function(name).memory_analysis() for name in names]
        if any(stats is None for stats in found):
            return None
        words = ("argument", "output", "temp", "generated_code")
        sizes = [sum(getattr(stats, f"{word}_size_in_bytes", 0) for word in words) for stats in found]
        shared = [getattr(stats, "alias_size_in_bytes", 0) for stats in found]
        return max((size - alias for size, alias in zip(sizes, shared, strict=True)), default=None)

    def _call(self, name: str, *arguments: Any) -> Any:
        compiled = self._function(name)
        with jax.enable_x64(self.lane.spec.x64):
            # Errors surface here and not at some later use; on the CPU an array whose
            # computation failed must never reach NumPy (the runtime aborts the process).
            return jax.block_until_ready(compiled(*arguments))

    def _function(self, name: str) -> Any:
        with self._lock:
            if name not in self._compiled:
                started = time.perf_counter()
                lowered = self._lowered.pop(name, None) or self._lower(name)
                self._compiled[name] = self._traced(lowered.compile)
                self.compile_seconds += time.perf_counter() - started
            return self._compiled[name]

    def _lower(self, name: str) -> Any:
        shapes = self._shapes(name)
        return self._traced(lambda: jax.jit(self._over_lanes(name)).lower(*shapes))

    def _traced(self, action: Callable[[], Any]) -> Any:
        with (
            importing_from(self._directory),
            user_code(self._directory, "experiment"),
            jax.enable_x64(self.lane.spec.x64),
        ):
            return action()

    def _shapes(self, name: str) -> tuple[Any, ...]:
        number = jax.ShapeDtypeStruct((), np.uint32)
        tail = {"initialize": (), "adapt": (number, number), "discard": (number, number), "sample": (number,)}
        state = () if name == "initialize" else (self.state_shape(),)
        return (*self._head(), *state, *tail[name])

    def _head(self) -> tuple[Any, ...]:
        return _head(self.lane.spec, (self.width,))

    def _over_lanes(self, name: str) -> Callable[..., Any]:
        function = getattr(self.lane, name)
        mapped = 2 if name == "initialize" else 3
        if self.lane.spec.vectorize == "vmap":

            def vectorized(seed: Any, *rest: Any) -> Any:
                axes = (None,) + (0,) * mapped + (None,) * (len(rest) - mapped)
                return jax.vmap(function, in_axes=axes)(seed, *rest)

            vectorized.__name__ = name
            return vectorized

        def in_turn(seed: Any, *rest: Any) -> Any:
            lanes, common = rest[:mapped], rest[mapped:]
            return lax.map(lambda lane: function(seed, *lane, *common), lanes)

        in_turn.__name__ = name
        return in_turn


@dataclass
class Programs:
    """All programs of a worker process, by spec and width: what makes compiling happen once."""

    _programs: dict[tuple[Spec, int], Program] = field(default_factory=dict)
    _lanes: dict[Spec, Lane] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, spec: Spec, block: Mapping[str, Any], width: int, directory: Path) -> Program:
        with self._lock:
            if spec not in self._lanes:
                self._lanes[spec] = Lane(build(block, directory), spec)
            if (spec, width) not in self._programs:
                self._programs[spec, width] = Program(self._lanes[spec], width, directory)
            return self._programs[spec, width]

    def experiment(self, spec: Spec, block: Mapping[str, Any], directory: Path) -> Experiment:
        with self._lock:
            if spec not in self._lanes:
                self._lanes[spec] = Lane(build(block, directory), spec)
            return self._lanes[spec].experiment


def describe(experiment: Experiment, spec: Spec, directory: Path) -> Schema:
    """Find out what a program records, without running it.

    Raises `PluginError` naming the line of the user's file for whatever cannot be traced,
    for a `step` that changes the state's structure, and for outputs that cannot be archived.
    """
    _check_warmup(experiment, spec.sampling)
    lane = Lane(experiment, spec)
    head = _head(spec, ())
    number = jax.ShapeDtypeStruct((), np.uint32)
    name = f"{located(type(experiment))}{type(experiment).__name__}"
    with jax.enable_x64(spec.x64), importing_from(directory), user_code(directory, name):
        state = jax.eval_shape(lane.initialize, *head)
        # The user's own functions once more by themselves: inside the scan a changed state
        # is reported by JAX against the engine's line, not the user's.
        stepped, outputs = jax.eval_shape(lambda *a: _bare_step(lane, *a), *head, state)
        check_outputs(experiment, outputs)
        _check_state(experiment, "step", state, stepped)
        if spec.sampling.warmup:
            _check_adapt(lane, head, state)
        shapes = {name: (value.shape, np.dtype(value.dtype)) for name, value in outputs.items()}
        schema = schema_of(experiment, shapes, 0, sum(_bytes(leaf) for leaf in jax.tree.leaves(state)))
        jax.eval_shape(lane.sample, *head, state, number)
    return schema


def _check_warmup(experiment: Experiment, sampling: Sampling) -> None:
    """A warm-up that is planned ahead must be as long as the one that is done."""
    told = getattr(experiment, "warmup", sampling.warmup)
    if told != sampling.warmup:
        raise PluginError(
            f"experiment.warmup: {told}, but sampling.warmup: {sampling.warmup}; "
            f"{type(experiment).__name__} plans its warm-up by this number",
            "give both the same number",
        )


def key_data(state: Any) -> Any:
    """Replace typed PRNG keys by their data, so that the state can be written down."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def wrap_keys(state: Any, like: Any) -> Any:
    """The inverse of `key_data`, guided by the shapes of a program's state."""

    def wrap(leaf: Any, shape: Any) -> Any:
        return jax.random.wrap_key_data(leaf, impl=_key_impl(shape)) if _is_key(shape) else leaf

    return jax.tree.map(wrap, state, like)


def _key_impl(shape: Any) -> Any:
    """The generator of abstract keys; JAX tells it of arrays and tracers only."""
    found: list[Any] = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), shape)
    return found[0]


def _head(spec: Spec, lanes: tuple[int, ...]) -> tuple[Any, Any, dict[str, Any]]:
    params = {name: jax.ShapeDtypeStruct(lanes, np.dtype(dtype)) for name, dtype in spec.traced}
    words = jax.ShapeDtypeStruct((*lanes, KEY_WORDS), np.uint32)
    return jax.ShapeDtypeStruct((), np.uint32), words, params


def _bare_step(lane: Lane, seed: Any, words: Any, params: Any, state: Any) -> Any:
    result = lane.experiment.step(lane._stream(seed, words, STEP), state, lane._params(params))
    if not (isinstance(result, tuple) and len(result) == 2):
        raise PluginError(
            f"{_named(lane.experiment, 'step')} must return (state, outputs), not {type(result).__name__}"
        )
    if not isinstance(result[1], Mapping):
        kind = type(result[1]).__name__
        raise PluginError(
            f"{_named(lane.experiment, 'step')} must return (state, dict of outputs), not {kind} for the outputs"
        )
    return jax.tree.map(_array, result[0]), {k: _array(v) for k, v in flatten(result[1]).items()}


def _check_adapt(lane: Lane, head: Any, state: Any) -> None:
    if not lane.experiment.adapts():
        raise PluginError(
            f"{located(type(lane.experiment))}sampling.warmup: {lane.spec.sampling.warmup}, "
            f"but {type(lane.experiment).__name__} has no method 'adapt'",
            "write adapt(self, key, state, params) -> state, or use sampling.discard",
        )

    def adapted(seed: Any, words: Any, params: Any, state: Any) -> Any:
        key = lane._stream(seed, words, ADAPT)
        return jax.tree.map(_array, lane.experiment.adapt(key, state, lane._params(params)))  # type: ignore[attr-defined]

    _check_state(lane.experiment, "adapt", state, jax.eval_shape(adapted, *head, state))


def _check_state(experiment: Experiment, method: str, before: Any, after: Any) -> None:
    name = _named(experiment, method)
    old_tree, new_tree = str(jax.tree.structure(before)), str(jax.tree.structure(after))
    if old_tree != new_tree:
        raise PluginError(
            f"{name} changes the structure of the state: {old_tree} became {new_tree}",
            "return a state of the same structure as the one initialize makes",
        )
    paths = jax.tree_util.tree_leaves_with_path(before)
    for (path, old), new in zip(paths, jax.tree.leaves(after), strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            place = f"state{jax.tree_util.keystr(path)}"
            raise PluginError(
                f"{name} changes {place} from {old.dtype}{list(old.shape)} to {new.dtype}{list(new.shape)}",
                "keep shapes and dtypes: e.g. jnp.float32(0) instead of 0 in initialize",
            )


def _named(experiment: Experiment, method: str) -> str:
    """`model.py:12: Walk.step`."""
    return f"{located(getattr(type(experiment), method))}{type(experiment).__name__}.{method}"


def _has_nan(outputs: Mapping[str, Any]) -> Any:
    floats = [value for value in outputs.values() if jnp.issubdtype(value.dtype, jnp.inexact)]
    flags = [jnp.any(jnp.isnan(value)) for value in floats]
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


def _array(leaf: Any) -> Any:
    array = jnp.asarray(leaf)
    # A Python number gives a weakly typed array, which would change type on its first step.
    return array if _is_key(array) else lax.convert_element_type(array, array.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _fold(key: Any, index: Any) -> Any:
    return jax.random.fold_in(key, index)


def _bytes(leaf: Any) -> int:
    if _is_key(leaf):
        return 16 * int(np.prod(leaf.shape, dtype=np.int64))
    return int(np.prod(leaf.shape, dtype=np.int64)) * int(np.dtype(leaf.dtype).itemsize)
