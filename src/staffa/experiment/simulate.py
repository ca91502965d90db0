"""Plain Python and NumPy experiments (`vectorize: off`): a loop over the trials of a batch.

Each trial has its own outcome and its own time limit; together they still make one shard.
Keys are `numpy.random.SeedSequence`s, folded from the same identity as everywhere else.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.cells import CELLS, blank, type_text
from staffa.errors import PilotError, PluginError
from staffa.experiment.batch import Guard
from staffa.experiment.encoded import NUMBERS, encoding_errors, encoding_of, fitted, numbers, restored, told
from staffa.experiment.encoding import Elements, Encoding, described
from staffa.experiment.perform import ADAPT, INITIALIZE, STEP
from staffa.experiment.protocol import Experiment, Params, Sampling, Schema, UnknownParameter
from staffa.experiment.registry import explained, importing_from, located
from staffa.experiment.schema import check_names, flatten, has_chains, schema_of
from staffa.trial import Outcome

Row = npt.NDArray[Any]
Values = Mapping[str, Any]

TRACE = 4096
"""Characters kept of where a trial raised: the last ones."""


TRIES = 8
"""Trials of a program that are tried at most, until one tells what it records."""
LEAST = 2
"""… and at least, however long that takes."""
PATIENCE = 60.0
"""Seconds of trials that raised, in a whole campaign, after which no more than the least are tried."""


class Pilots:
    """Trials that are performed before a campaign starts, since only a trial tells what a program records.

    Arguments:
    - `seed`: of the channel `trials`. The keys are none of the campaign's.
    """

    def __init__(self, seed: int, sampling: Sampling, directory: Path) -> None:
        self._seed, self._sampling, self._directory = seed, sampling, directory
        self._lost = 0.0

    def __call__(self, experiment: Experiment, trials: Iterable[Values]) -> Schema:
        """What a program records, by the first of its trials that works.

        Arguments:
        - `trials`: parameters, in the order in which they are to be tried; more than a few are not looked at.

        Raises `PilotError` where none works, and `PluginError` at once for what is wrong with all of them.
        """
        first: PilotError | None = None
        tried = 0
        for params in trials:
            if tried == TRIES or (tried >= LEAST and self._lost > PATIENCE):
                break
            words, started = np.array([0, 0, 0, tried], np.uint32), time.perf_counter()
            try:
                return pilot(experiment, self._seed, words, params, self._sampling, self._directory)
            except PilotError as error:
                first = first or error
            tried += 1
            self._lost += time.perf_counter() - started
        assert first is not None
        several = f" (none of {tried} trials that were tried works)" if tried > 1 else ""
        raise PilotError(f"{first.message}{several}", first.hint)


def pilot(experiment: Experiment, seed: int, words: Row, params: Values, sampling: Sampling, directory: Path) -> Schema:
    """Run one trial to learn the shapes of its outputs, how they are encoded, and how long it takes.

    Raises `PilotError` where it raises, and another trial may not; `PluginError` for all else.
    """
    started = time.perf_counter()
    with importing_from(directory):
        values = _tried(experiment, directory, lambda: one_trial(experiment, seed, words, params, sampling))
    seconds = time.perf_counter() - started
    check_names(experiment, values)
    recorded, encoded = {}, {}
    for name, found in values.items():
        try:
            chosen = encoding_of(experiment, name, found)
            array = laid_out(experiment, name, found, sampling, chosen[1] if chosen else None)
        except PluginError as error:
            raise PluginError(f"{located(type(experiment))}{error.message}", error.hint) from error
        recorded[name] = (array.shape, chosen[1].dtype if chosen else array.dtype)
        if chosen is not None:
            encoded[name] = _told(*chosen, array, len(found))
    schema = schema_of(experiment, recorded, 0 if sampling.draws is None else 1, 0, encoded)
    return replace(schema, pilot_seconds=seconds)


def _tried(experiment: Experiment, directory: Path, trial: Callable[[], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    try:
        return trial()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # `sys.exit` in a script must not end the driver
        told = explained(error, directory, type(experiment).__name__)
        if isinstance(error, SyntaxError | ImportError | UnknownParameter):  # no parameters will mend it
            raise told from error
        raise PilotError(told.message, told.hint) from error


def one_trial(
    experiment: Experiment, seed: int, words: Row, params: Values, sampling: Sampling
) -> dict[str, list[Any]]:
    """Perform one trial: of each output its values, draw by draw; a single one where no draws are asked for."""

    def key(stream: int, index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([seed, *map(int, words)], spawn_key=(stream, index))

    values = params if isinstance(params, Params) else Params(params)
    state = experiment.initialize(key(INITIALIZE, 0), values)
    for index in range(sampling.warmup):
        state = experiment.adapt(key(ADAPT, index), state, values)  # type: ignore[attr-defined]
    if sampling.draws is None:
        _, outputs = experiment.step(key(STEP, 0), state, values)
        return {name: [value] for name, value in flatten(outputs, experiment.encodings).items()}
    kept: list[dict[str, Any]] = []
    for draw in range(sampling.discard + sampling.draws):
        for index in range(draw * sampling.thin, (draw + 1) * sampling.thin):
            state, outputs = experiment.step(key(STEP, index), state, values)
        if draw >= sampling.discard:
            kept.append(flatten(outputs, experiment.encodings))
    return {name: [one[name] for one in kept] for name in kept[0]}


def laid_out(
    experiment: Experiment, name: str, values: Sequence[Any], sampling: Sampling, encoding: Encoding | None
) -> Row:
    """A trial's values of an output as they stand in the hot store: [chain x] [draw x] own axes, or a cell of all.

    Raises `PluginError` for values that cannot be recorded.
    """
    if encoding is not None:
        fitted(name, encoding, values)
    try:
        if encoding is not None and not isinstance(encoding, Elements):
            return encoding.cell(values)
        arrays = [np.asarray(one) if encoding is None else encoding.elements(one) for one in values]
    except PluginError:
        raise
    except Exception as error:
        raise encoding_errors(name, error) from error
    if sampling.draws is None:
        return arrays[0]
    if len({array.shape for array in arrays}) > 1:
        raise PluginError(
            f"output {name!r} has shape {arrays[0].shape} in one draw and {_other(arrays)} in another",
            f'where its length differs: encodings = {{"{name}": "ragged"}}',
        )
    stacked = np.stack(arrays)
    return np.moveaxis(stacked, 1, 0) if has_chains(experiment, name) and stacked.ndim > 1 else stacked


def _other(arrays: Sequence[Row]) -> tuple[int, ...]:
    return next(array.shape for array in arrays if array.shape != arrays[0].shape)


def _told(name: str, encoding: Encoding, array: Row, draws: int) -> dict[str, Any]:
    """What the schema tells of an encoding, and how long its elements were in the pilot trial."""
    size = 0.0
    if array.dtype == object:
        lengths = [len(one if isinstance(one, bytes) else one.encode()) for one in array.reshape(-1)]
        size = sum(lengths) / (draws if encoding.dtype == CELLS else max(len(lengths), 1))
    told_type = type_text(encoding.type)
    return {"encoding": told(name, encoding), "type": told_type, "categories": encoding.codes, "cell": size}


class Loop:
    """The trials of a batch in turn, with what is finished kept in `outputs`."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        words: Row,
        params: Sequence[Values],
        sampling: Sampling,
        schema: Schema,
        directory: Path,
    ) -> None:
        rows = len(words)
        draws = () if sampling.draws is None else (sampling.draws,)
        self.experiment, self.seed, self.words, self.params = experiment, seed, words, params
        self.sampling, self.directory = sampling, directory
        self.outcomes = np.full(rows, Outcome.MISSING, np.uint8)
        self.messages: dict[int, str] = {}
        self.traces: dict[int, str] = {}
        """Where those that raised here did so."""
        self.trial_seconds = np.zeros(rows, np.float32)
        self.spent = 0.0
        """Seconds of the trials performed here; others may come from a checkpoint."""
        self.encodings = {output.name: restored(output.encoding) for output in schema.outputs if output.encoding}
        self.outputs: dict[str, Row] = {}
        for output in schema.outputs:
            chains = (output.chains,) if output.chains else ()
            axes = () if output.dtype == CELLS else (*chains, *draws, *output.shape)
            self.outputs[output.name] = blank((rows, *axes), output.dtype)

    def run(self, lanes: Sequence[int], guard: Guard, progressed: Callable[[], bool | None]) -> None:
        """Perform `lanes` but for those with an outcome; `progressed` is called after each: True to stop there."""
        with importing_from(self.directory):
            for lane in lanes:
                if self.outcomes[lane] == Outcome.MISSING:
                    started = time.perf_counter()
                    with guard([lane]):
                        self._perform(lane)
                    self.trial_seconds[lane] = time.perf_counter() - started
                    self.spent += float(self.trial_seconds[lane])
                    if progressed():
                        return

    def _perform(self, lane: int) -> None:
        try:
            values = one_trial(self.experiment, self.seed, self.words[lane], self.params[lane], self.sampling)
            _check_names(values, self.outputs)
            recorded = {name: self._laid_out(name, found) for name, found in values.items()}
        except (Exception, SystemExit) as error:  # `sys.exit` in a script must not end the worker
            self.outcomes[lane] = Outcome.RAISED
            self.messages[lane] = f"{type(error).__name__}: {error}"[:300]
            self.traces[lane] = traceback.format_exc()[-TRACE:]
            return
        for name, buffer in self.outputs.items():
            buffer[lane] = recorded[name][()] if recorded[name].dtype == object else recorded[name]
        bad = any(self._has_nan(name, values[name], recorded[name]) for name in values)
        self.outcomes[lane] = Outcome.NAN if bad else Outcome.OK

    def _laid_out(self, name: str, values: Sequence[Any]) -> Row:
        """A trial's values of an output, refused where they differ from the pilot trial's."""
        encoding, buffer = self.encodings.get(name), self.outputs[name]
        array = laid_out(self.experiment, name, values, self.sampling, encoding)
        if encoding is None:
            _check_numbers(name, values, array, buffer.dtype)
        if array.shape != buffer.shape[1:]:
            raise PluginError(
                f"output {name!r} has shape {array.shape}, the pilot trial's had {buffer.shape[1:]}",
                f'where its length differs: encodings = {{"{name}": "ragged"}}',
            )
        return array

    def _has_nan(self, name: str, values: Sequence[Any], array: Row) -> bool:
        encoding = self.encodings.get(name)
        if encoding is not None:
            return any(value is not None and encoding.flagged(value) for value in values)
        return bool(np.issubdtype(array.dtype, np.inexact) and np.isnan(array).any())


def _check_names(recorded: Mapping[str, Any], buffers: Mapping[str, Row]) -> None:
    """Refuse outputs that the pilot trial had not, or had: nothing is dropped in silence."""
    for name in sorted(recorded.keys() ^ buffers.keys()):
        has, lacks = ("this trial", "the pilot trial") if name in recorded else ("the pilot trial", "this trial")
        raise PluginError(f"output {name!r} is recorded by {has}, but not by {lacks}")


def _check_numbers(name: str, values: Sequence[Any], array: Row, dtype: np.dtype[Any]) -> None:
    """Refuse what is no number, or another one than the pilot trial's: nothing is cut off or rounded in silence."""
    if array.dtype.kind not in NUMBERS:
        odd = next((value for value in values if numbers(value) is None), values[0])
        raise PluginError(f"output {name!r} is {described(odd)}, the pilot trial's was a number of dtype {dtype}")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise PluginError(f"output {name!r} has dtype {array.dtype}, the pilot trial's had {dtype}")
