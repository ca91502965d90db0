"""What the engine takes for granted of an experiment, asked of one."""

from __future__ import annotations

import contextlib
import gc
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from staffa.cells import packed
from staffa.experiment.protocol import Experiment, Sampling, Schema
from staffa.seeds import KEY_WORDS
from staffa.testing.findings import Finding, judged, words_of
from staffa.trial import Outcome

if TYPE_CHECKING:
    from staffa.experiment.simulate import Loop

Arrays = dict[str, Any]
Values = Mapping[str, Any]

LANES = 4
STEP = 1e-6
"""Relative and absolute, what a step may differ in double precision between lanes side by side and one alone."""
SEED = 20_260_101


def check_experiment(
    cls: type[Experiment],
    params: Values | Sequence[Values],
    *,
    options: Values = MappingProxyType({}),
    draws: int | None = 6,
    thin: int = 1,
    discard: int = 0,
    warmup: int = 0,
    stochastic: bool = True,
    tolerance: float = 1e-4,
    nan: Values | None = None,
    x64: Sequence[bool] = (False, True),
    directory: Path | None = None,
) -> tuple[Finding, ...]:
    """Ask an experiment for what the engine takes for granted.

    That it is pure and can be traced; that keys are used, and none twice; that shapes stay; that segments
    continue exactly; that lanes side by side give what one alone gives; that it says the same precision as
    it is run in; that a NaN is flagged and stays in its lane. Plain Python (`vectorize = "off"`) is asked what
    has a meaning there.

    Arguments:
    - `params`: of one trial, or of several that are run as one batch; each with the same names. Those the class
      declares with a value may be left out.
    - `options`: keywords of the class.
    - `draws`, `thin`, `discard`, `warmup`: as in section `sampling`; `draws` should have a divisor.
    - `stochastic`: whether two trials of the same parameters should differ.
    - `tolerance`: relative and absolute, between one lane and several, at the first draw.
    - `nan`: parameters at which outputs are known to have a NaN.
    - `x64`: precisions to run in.
    - `directory`: where a file-based experiment's neighbours are imported from.

    Raises `NotConforming`.
    """
    own = {name: declared.value for name, declared in cls.parameters.items() if declared.value is not None}
    rows = [{**own, **row} for row in ([params] * LANES if isinstance(params, Mapping) else params)]
    sampling = Sampling(draws, thin, discard, warmup)
    findings: list[Finding] = []
    with _folder(directory) as folder, _options(cls, options, findings) as experiment:
        if experiment is not None and cls.vectorize == "off":
            findings += _Plain(experiment, rows, sampling, folder).asked(stochastic, nan)
        elif experiment is not None:
            for wide in x64:
                asked = _Compiled(experiment, rows, sampling, wide, tolerance, folder).asked(stochastic, nan)
                findings += [Finding(f"{one.what} (x64: {str(wide).lower()})", one.holds, one.why) for one in asked]
    return judged(cls.__qualname__, findings)


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="staffa-testing-") as name:
        yield Path(name)


@contextlib.contextmanager
def _options(cls: type[Experiment], options: Values, findings: list[Finding]) -> Iterator[Experiment | None]:
    """The experiment, looked at before and after for what it keeps between trials."""
    try:
        experiment = cls(**options)
    except Exception as error:
        findings.append(Finding("can be made from its options", False, words_of(error)))
        yield None
        return
    before = [_kept(vars(cls)), _kept(vars(experiment))]
    yield experiment
    changed = sorted(
        name
        for old, new in zip(before, [_kept(vars(cls)), _kept(vars(experiment))], strict=True)
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
    )
    why = f"it writes to {', '.join(f'self.{name}' for name in changed)}: trials would see one another"
    findings.append(Finding("keeps nothing between trials", not changed, why))


def _kept(attributes: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Attributes by identity and, where they may change in place, by what they show."""
    containers = (list, dict, set, np.ndarray, bytearray)
    return {
        name: (id(value), repr(value) if isinstance(value, containers) else "")
        for name, value in attributes.items()
        if not name.startswith("__")
    }


# --- compiled experiments --------------------------------------------------------------------------


class _Compiled:
    """An experiment in one precision, and everything that is asked of it."""

    def __init__(
        self,
        experiment: Experiment,
        rows: Sequence[Values],
        sampling: Sampling,
        wide: bool,
        tolerance: float,
        folder: Path,
    ) -> None:
        self.experiment, self.rows, self.sampling, self.wide = experiment, rows, sampling, wide
        self.tolerance, self.folder = tolerance, folder
        self.static = {n: v for n, v in rows[0].items() if isinstance(v, str) or n in experiment.static}
        self._programs: dict[tuple[Sampling, int], Any] = {}
        self._handed: dict[str, str] = {}

    def asked(self, stochastic: bool, nan: Values | None) -> Iterator[Finding]:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            schema, traceable = self._described()
        yield traceable
        if schema is None:
            return
        yield self._precision(schema, [str(one.message) for one in heard])
        yield from self._watched()
        try:
            self._handed = self._lowered(self._program(self.sampling, len(self.rows)))
            whole, flags = self._run(self.sampling, self.rows)
        except Exception as error:
            yield Finding("runs", False, words_of(error))
            return
        yield Finding("runs", True)
        yield self._anew(whole)
        yield self._shapes(schema, whole)
        yield self._keys(whole, stochastic)
        yield self._segments(whole)
        yield self._alone(whole)
        yield from self._one_step()
        yield Finding("no NaN at these parameters", not flags.any(), f"lanes {np.flatnonzero(flags).tolist()} have one")
        if nan is not None:
            yield from self._nan(whole, nan)

    def _spec(self, sampling: Sampling) -> Any:
        from staffa.experiment.perform import Spec, device_dtype

        kinds = {name: _kind(value) for name, value in self.rows[0].items() if name not in self.static}
        traced = tuple((name, device_dtype(kind, self.wide)) for name, kind in sorted(kinds.items()))
        static, mode = tuple(sorted(self.static.items())), self.experiment.vectorize
        return Spec(type(self.experiment).__qualname__, "", static, traced, sampling, self.wide, vectorize=mode)

    def _described(self) -> tuple[Schema | None, Finding]:
        from staffa.experiment.perform import describe

        try:
            return describe(self.experiment, self._spec(self.sampling), self.folder), Finding("can be traced", True)
        except Exception as error:
            return None, Finding("can be traced", False, words_of(error))

    def _precision(self, schema: Schema, heard: Sequence[str]) -> Finding:
        asked = [words.splitlines()[0] for words in heard if "Explicitly requested dtype" in words]
        wide = [output.name for output in schema.outputs if output.dtype in ("float64", "int64")]
        if not self.wide and (asked or wide):
            return Finding("no float64 leaks", False, "; ".join(asked) or f"outputs {wide} are wide")
        return Finding("no float64 leaks", True)

    def _watched(self) -> Iterator[Finding]:
        """JAX's own detectors, over each method by itself: the engine hands each a key of its own.

        Both watch one trace. Only where that fails has each a trace of its own, and its own word.
        """
        import jax

        leaks, keys = jax.checking_leaks, lambda: jax.debug_key_reuse(True)
        with _spared():
            failed = self._complaint(leaks, keys)
        for what, watch in (("pure: keeps no traced value", leaks), ("no key is used twice", keys)):
            why = self._complaint(watch) if failed else ""
            yield Finding(what, not why, why)

    def _complaint(self, *watches: Callable[[], Any]) -> str:
        """What is said while every method is traced under some detectors; nothing where all is well."""
        import jax

        from staffa.experiment.protocol import Params
        from staffa.experiment.registry import importing_from

        own, params = self.experiment, lambda values: Params({**self.static, **values})
        later = [own.adapt] if self.sampling.warmup else []  # type: ignore[attr-defined]
        later.append(lambda *given: own.step(*given)[0])

        def methods(first: Any, others: Sequence[Any], values: Arrays) -> Any:
            state = jax.jit(lambda k, v: own.initialize(k, params(v)))(first, values)
            for method, key in zip(later, others, strict=True):
                state = jax.jit(lambda k, s, v, method=method: method(k, s, params(v)))(key, state, values)
            return state

        with contextlib.ExitStack() as watched:
            for watch in (lambda: jax.enable_x64(self.wide), lambda: importing_from(self.folder), *watches):
                watched.enter_context(watch())
            first, *others = [jax.random.key(number) for number in range(1 + len(later))]
            row = {name: values[0] for name, values in self._params(self.rows[:1]).items()}
            try:
                jax.eval_shape(jax.jit(methods), first, others, row)
            except Exception as error:
                return words_of(error)
        return ""

    def _run(
        self, sampling: Sampling, rows: Sequence[Values], words: Any = None, width: int | None = None
    ) -> tuple[Arrays, Any]:
        """Outputs of some trials, lane by lane, and which of them have a NaN."""
        words = _words_of(len(rows)) if words is None else words
        # However draws are cut, they begin alike: what was compiled for that serves all.
        begin, program = (self._program(shape, width or len(rows)) for shape in (self.sampling, sampling))
        params = self._params(rows)
        slices = list(_slices(len(rows), program.width))
        pieces = [_sampled(begin, program, sampling, words[at], _at(params, at)) for at in slices]
        outputs = {name: np.concatenate([piece[0][name] for piece in pieces]) for name in pieces[0][0]}
        return outputs, np.concatenate([piece[1] for piece in pieces])

    def _params(self, rows: Sequence[Values]) -> Arrays:
        kinds = dict(self._spec(self.sampling).traced)
        return {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}

    def _program(self, sampling: Sampling, width: int) -> Any:
        from staffa.experiment.perform import Lane, Program

        if (sampling, width) not in self._programs:
            lane = Lane(self.experiment, self._spec(sampling))
            self._programs[sampling, width] = Program(lane, width, self.folder)
        return self._programs[sampling, width]

    def _anew(self, whole: Arrays) -> Finding:
        what = "pure: traced anew, it gives the same"
        before = self._program(self.sampling, len(self.rows))
        self._programs.clear()
        # What is handed to the compiler alike is compiled alike, and need not be compiled again.
        if self._lowered(self._program(self.sampling, len(self.rows))) == self._handed:
            self._programs[self.sampling, len(self.rows)] = before
        return _equal(what, whole, self._run(self.sampling, self.rows)[0])

    def _lowered(self, program: Any) -> dict[str, str]:
        """All phases as they are handed to the compiler, traced for this call."""
        phases = ("initialize", *(("adapt",) if self.sampling.warmup else ()), "sample")
        return {name: program.lowered(name) for name in phases}

    def _shapes(self, schema: Schema, whole: Arrays) -> Finding:
        lanes, draws = len(self.rows), () if self.sampling.draws is None else (self.sampling.draws,)
        wrong = []
        for output in schema.outputs:
            chains = (output.chains,) if output.chains else ()
            shape, found = (lanes, *chains, *draws, *output.shape), whole[output.name]
            if found.shape != shape or found.dtype.name != output.dtype:
                wrong.append(f"{output.name} is {found.dtype}{list(found.shape)}, not {output.dtype}{list(shape)}")
        return Finding("shapes are as described", not wrong, "; ".join(wrong))

    def _keys(self, whole: Arrays, stochastic: bool) -> Finding:
        other, _ = self._run(self.sampling, self.rows, _words_of(len(self.rows), start=1000))
        differ = [name for name in whole if whole[name].tobytes() != other[name].tobytes()]
        if stochastic:
            why = "trials with other keys give the same: say stochastic=False where that is meant"
            return Finding("keys are used", bool(differ), why)
        return Finding("keys are not used", not differ, f"trials with other keys differ in {differ}")

    def _segments(self, whole: Arrays) -> Finding:
        draws = self.sampling.draws
        pieces = next((n for n in (3, 2, 5, 7) if draws and draws % n == 0), draws or 1)
        if pieces == 1:
            return Finding("segments continue exactly", True, "one draw has no segments")
        cut = Sampling(draws, self.sampling.thin, self.sampling.discard, self.sampling.warmup, pieces)
        return _equal("segments continue exactly", whole, self._run(cut, self.rows)[0])

    def _alone(self, whole: Arrays) -> Finding:
        """At the first draw: later ones of a chaotic experiment drift apart, and may."""
        single, _ = self._run(self.sampling, self.rows, width=1)
        wrong = []
        for name, values in whole.items():
            one, many = self._first(name, single[name]), self._first(name, values)
            if not np.allclose(one, many, rtol=self.tolerance, atol=self.tolerance, equal_nan=True):
                apart = np.max(np.abs(one.astype("float64") - many.astype("float64")))
                wrong.append(f"{name} differs by {apart:.3g}")
        return Finding("lanes side by side give what one alone gives", not wrong, "; ".join(wrong))

    def _one_step(self) -> Iterator[Finding]:
        """From one state, several lanes together and each alone: their keys exactly, what is recorded first closely."""
        import jax

        lanes = range(len(self.rows))
        many, single = self._program(self.sampling, len(self.rows)), self._program(self.sampling, 1)
        words, params = _words_of(len(self.rows)), self._params(self.rows)
        with jax.enable_x64(self.wide):
            state = many.initialize(SEED, words, params)
            alone = [single.initialize(SEED, words[i : i + 1], _at(params, slice(i, i + 1))) for i in lanes]
            joined = jax.tree.map(lambda *leaves: np.concatenate([_bits(leaf) for leaf in leaves]), *alone)
            pairs = zip(jax.tree.leaves(jax.tree.map(_bits, state)), jax.tree.leaves(joined), strict=True)
            whole = [np.array_equal(one, other) for one, other in pairs if one.dtype.kind not in "fc"]
            yield Finding(
                "keys are the same side by side and alone", all(whole), "integers or keys of the state differ"
            )
            if self.sampling.warmup:
                state = many.adapt(SEED, words, params, state, 0, self.sampling.warmup)
            if self.sampling.discard:
                state = many.discard(SEED, words, params, state, 0, self.sampling.discard * self.sampling.thin)
            cut = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], state) for i in lanes]
            found = many.sample(SEED, words, params, state, 0)[1]
            each = [single.sample(SEED, words[i : i + 1], _at(params, slice(i, i + 1)), cut[i], 0)[1] for i in lanes]
        tolerance = STEP if self.wide else self.tolerance
        wrong = []
        for name, values in found.items():
            one = self._first(name, np.concatenate([np.asarray(outputs[name]) for outputs in each]))
            if not np.allclose(
                one, self._first(name, np.asarray(values)), rtol=tolerance, atol=tolerance, equal_nan=True
            ):
                wrong.append(name)
        why = f"{', '.join(wrong)} differ by more than {tolerance:g} after one step from the same state"
        yield Finding("one step from the same state gives the same", not wrong, why)

    def _first(self, name: str, values: Any) -> Any:
        from staffa.experiment.schema import has_chains

        if self.sampling.draws is None:
            return values
        return np.take(values, 0, axis=2 if has_chains(self.experiment, name) else 1)

    def _nan(self, whole: Arrays, nan: Values) -> Iterator[Finding]:
        rows = [dict(nan), *self.rows[1:]]
        outputs, flags = self._run(self.sampling, rows)
        yield Finding("a NaN is flagged", bool(flags[0]), f"none is recorded at {dict(nan)}")
        others = {name: values[1:] for name, values in outputs.items()}
        yield _equal("a NaN stays in its lane", {name: values[1:] for name, values in whole.items()}, others)


def _sampled(begin: Any, program: Any, sampling: Sampling, words: Any, params: Arrays) -> tuple[Arrays, Any]:
    """One slice of lanes through warm-up and all segments; `begin` is the program up to the first draw."""
    state = begin.initialize(SEED, words, params)
    if sampling.warmup:
        state = begin.adapt(SEED, words, params, state, 0, sampling.warmup)
    if sampling.discard:
        state = begin.discard(SEED, words, params, state, 0, sampling.discard * sampling.thin)
    found, flags = [], np.zeros(program.width, bool)
    for piece in range(sampling.segments):
        state, outputs, bad = program.sample(SEED, words, params, state, piece * sampling.segment_draws)
        found.append({name: np.asarray(value) for name, value in outputs.items()})
        flags |= np.asarray(bad)
    axes = {name: _draw_axis(program.lane.experiment, name) for name in found[0]}
    joined = {name: np.concatenate([one[name] for one in found], axes[name]) for name in axes if len(found) > 1}
    return {**found[0], **joined}, flags


@contextlib.contextmanager
def _spared() -> Iterator[None]:
    """What is there already is spared the search for leaks, of which there is one at the end of every trace."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _bits(leaf: Any) -> Any:
    """A leaf of a state as NumPy's, keys as the numbers they are."""
    import jax
    import jax.numpy as jnp

    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _draw_axis(experiment: Experiment, name: str) -> int:
    from staffa.experiment.schema import has_chains

    return 2 if has_chains(experiment, name) else 1


def _slices(rows: int, width: int) -> Iterator[slice]:
    yield from (slice(start, start + width) for start in range(0, rows, width))


def _at(params: Arrays, at: slice) -> Arrays:
    return {name: values[at] for name, values in params.items()}


def _words_of(rows: int, start: int = 0) -> Any:
    """Digest words of made-up trials."""
    return np.random.default_rng(SEED + start).integers(0, 2**32, (rows, KEY_WORDS), np.uint32)


def _kind(value: Any) -> str:
    return "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"


def _equal(what: str, one: Arrays, other: Arrays) -> Finding:
    differ = [name for name in one if name not in other or one[name].tobytes() != other[name].tobytes()]
    return Finding(what, not differ, f"{', '.join(differ)} differ bit for bit")


# --- plain Python ----------------------------------------------------------------------------------


class _Plain:
    """A plain Python experiment, and everything that is asked of it."""

    def __init__(self, experiment: Experiment, rows: Sequence[Values], sampling: Sampling, folder: Path) -> None:
        self.experiment, self.rows, self.sampling, self.folder = experiment, rows, sampling, folder

    def asked(self, stochastic: bool, nan: Values | None) -> Iterator[Finding]:
        from staffa.experiment.simulate import pilot

        words, before = _words_of(len(self.rows)), _global_randomness()
        try:
            self.schema = pilot(self.experiment, SEED, words[0], dict(self.rows[0]), self.sampling, self.folder)
        except Exception as error:
            yield Finding("runs", False, words_of(error))
            return
        found = self._trials(words, self.rows)
        unlike = [text for text in found.messages.values() if text.startswith("PluginError: output")]
        raised = [text for text in found.messages.values() if text not in unlike]
        yield Finding("runs", not raised, "; ".join(raised[:1]))
        yield Finding("every trial records what the first does", not unlike, "; ".join(unlike[:1]))
        drawn = _global_randomness() != before
        yield Finding(
            "draws from its own key alone", not drawn, "it draws from random or numpy.random: use default_rng(key)"
        )
        again = self._trials(words, self.rows)
        yield _equal("pure: run anew, it gives the same", packed(found.outputs), packed(again.outputs))
        others = _words_of(len(self.rows), start=1000)
        other = self._trials(others, self.rows)
        differ = not _equal("", packed(found.outputs), packed(other.outputs)).holds
        what = "keys are used" if stochastic else "keys are not used"
        yield Finding(
            what, differ == stochastic, "trials with other keys give the same" if stochastic else "they differ"
        )
        yield Finding("no NaN at these parameters", Outcome.NAN not in found.outcomes, "a trial has one")
        if nan is not None:
            flagged = Outcome.NAN in self._trials(words[:1], [nan]).outcomes
            yield Finding("a NaN is flagged", flagged, f"none is recorded at {dict(nan)}")

    def _trials(self, words: Any, rows: Sequence[Values]) -> Loop:
        from staffa.experiment.batch import unguarded
        from staffa.experiment.simulate import Loop

        params = [dict(row) for row in rows]
        loop = Loop(self.experiment, SEED, words, params, self.sampling, self.schema, self.folder)
        loop.run(range(len(rows)), unguarded, lambda: None)
        return loop


def _global_randomness() -> tuple[str, str]:
    return repr(random.getstate()), repr(np.random.get_state())
