"""Plain Python and NumPy experiments (`vectorize: off`): a loop over the trials of a batch.

Each trial has its own outcome and its own time limit; together they still make one shard.
Keys are `numpy.random.SeedSequence`s, folded from the same identity as everywhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.errors import PluginError
from staffa.experiment.batch import Guard
from staffa.experiment.perform import ADAPT, INITIALIZE, STEP
from staffa.experiment.protocol import Experiment, Params, Sampling, Schema
from staffa.experiment.registry import importing_from, user_code
from staffa.experiment.schema import check_outputs, flatten, has_chains, schema_of
from staffa.trial import Outcome

Row = npt.NDArray[Any]
Values = Mapping[str, Any]


def pilot(experiment: Experiment, seed: int, words: Row, params: Values, sampling: Sampling, directory: Path) -> Schema:
    """Run one trial to learn the shapes of its outputs, and how long it takes."""
    started = time.perf_counter()
    with importing_from(directory), user_code(directory, type(experiment).__name__):
        recorded = one_trial(experiment, seed, words, params, sampling)
        check_outputs(experiment, recorded)
    shapes = {name: (value.shape, value.dtype) for name, value in recorded.items()}
    for name, (_, dtype) in shapes.items():
        if dtype.kind not in "fiub":
            raise PluginError(f"output {name!r} has dtype {dtype}: only numbers and bools can be recorded")
    schema = schema_of(experiment, shapes, 0 if sampling.draws is None else 1, 0)
    return replace(schema, pilot_seconds=time.perf_counter() - started)


def one_trial(experiment: Experiment, seed: int, words: Row, params: Values, sampling: Sampling) -> dict[str, Row]:
    """Perform one trial: outputs with a draw axis, or without where no draws are asked for."""

    def key(stream: int, index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([seed, *map(int, words)], spawn_key=(stream, index))

    values = Params(params)
    state = experiment.initialize(key(INITIALIZE, 0), values)
    for index in range(sampling.warmup):
        state = experiment.adapt(key(ADAPT, index), state, values)  # type: ignore[attr-defined]
    if sampling.draws is None:
        _, outputs = experiment.step(key(STEP, 0), state, values)
        return {name: np.asarray(value) for name, value in flatten(outputs).items()}
    kept: list[dict[str, Any]] = []
    for draw in range(sampling.discard + sampling.draws):
        for index in range(draw * sampling.thin, (draw + 1) * sampling.thin):
            state, outputs = experiment.step(key(STEP, index), state, values)
        if draw >= sampling.discard:
            kept.append(flatten(outputs))
    stacked = {name: np.stack([np.asarray(one[name]) for one in kept]) for name in kept[0]}
    chained = {name for name, value in stacked.items() if has_chains(experiment, name) and value.ndim > 1}
    return {name: np.moveaxis(value, 1, 0) if name in chained else value for name, value in stacked.items()}


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
        self.trial_seconds = np.zeros(rows, np.float32)
        self.spent = 0.0
        """Seconds of the trials performed here; others may come from a checkpoint."""
        self.outputs: dict[str, Row] = {}
        for output in schema.outputs:
            chains = (output.chains,) if output.chains else ()
            dtype = np.dtype(output.dtype)
            fill = np.nan if np.issubdtype(dtype, np.inexact) else 0
            self.outputs[output.name] = np.full((rows, *chains, *draws, *output.shape), fill, dtype)

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
            recorded = one_trial(self.experiment, self.seed, self.words[lane], self.params[lane], self.sampling)
            _check_fit(recorded, self.outputs)
        except (Exception, SystemExit) as error:  # `sys.exit` in a script must not end the worker
            self.outcomes[lane] = Outcome.RAISED
            self.messages[lane] = f"{type(error).__name__}: {error}"[:300]
            return
        for name, buffer in self.outputs.items():
            buffer[lane] = recorded[name]
        floats = [b[lane] for b in self.outputs.values() if np.issubdtype(b.dtype, np.inexact)]
        bad = any(bool(np.isnan(value).any()) for value in floats)
        self.outcomes[lane] = Outcome.NAN if bad else Outcome.OK


def _check_fit(recorded: Mapping[str, Row], buffers: Mapping[str, Row]) -> None:
    """Refuse outputs that differ from the pilot trial's: nothing is cut off, rounded or dropped in silence."""
    for name in sorted(recorded.keys() ^ buffers.keys()):
        has, lacks = ("this trial", "the pilot trial") if name in recorded else ("the pilot trial", "this trial")
        raise PluginError(f"output {name!r} is recorded by {has}, but not by {lacks}")
    for name, buffer in buffers.items():
        value = recorded[name]
        if value.shape != buffer.shape[1:]:
            raise PluginError(f"output {name!r} has shape {value.shape}, the pilot trial's had {buffer.shape[1:]}")
        if not np.can_cast(value.dtype, buffer.dtype, "same_kind"):
            raise PluginError(f"output {name!r} has dtype {value.dtype}, the pilot trial's had {buffer.dtype}")
