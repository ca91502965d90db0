"""Computing trials once more, in a process of its own: what `staffa reproduce` starts.

    python -m staffa.execution.again FOLDER

The folder holds `request.json` (what to compute), `plan.json` and `code/`; `answer.json` and
`arrays.npz` are written beside them. A process of its own, since XLA reads its flags only once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.inputs import paths_of
from staffa.campaign.plan import Group, Plan
from staffa.cells import packed, unpacked
from staffa.errors import StaffaError
from staffa.execution.bench import spec_of
from staffa.experiment.backend import backend
from staffa.experiment.batch import Inputs, Performer, choose_width, unguarded
from staffa.experiment.perform import Program, Programs, device_dtype
from staffa.experiment.protocol import Output, Params, Sampling, Schema
from staffa.experiment.simulate import Loop
from staffa.seeds import KEY_WORDS, key_words

Row = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """Some trials of one batch, to be computed once more.

    Arguments:
    - `width`: lanes of a call, as recorded or asked for; None for what a worker would choose.
    - `lanes`: the lanes wanted; `filled`: all that have data, for they were computed with them.
    - `digests`, `parameters`: of the `filled`, in order; the parameters column by column.
    """

    group: int
    batch: int
    width: int | None
    lanes: tuple[int, ...]
    filled: tuple[int, ...]
    digests: tuple[str, ...]
    parameters: Mapping[str, Sequence[Any]]

    def words(self) -> Row:
        """(filled, KEY_WORDS): what is folded into the trials' keys."""
        data = bytes.fromhex("".join(self.digests))
        return key_words(np.frombuffer(data, np.uint8).reshape(len(self.digests), -1))


@dataclass(frozen=True)
class Lane:
    """What came of one trial."""

    outcome: int
    message: str
    outputs: Mapping[str, Row]
    """[chain x] [draw x] own axes, by name."""


@dataclass(frozen=True)
class Done:
    """What came of a job, and at which width: less than was asked for where the device is too small."""

    width: int
    lanes: dict[int, Lane]


def perform(plan: Plan, job: Job, programs: Programs, code: Path) -> Done:
    """Compute a job's lanes, together with those they were computed with."""
    group = plan.groups[job.group]
    if group.vectorize == "off":
        return _looped(plan, group, job, programs, code)
    experiment = programs.experiment(spec_of(plan, group), group.experiment, code)
    width = job.width or _width(plan, group, experiment.cpu_lanes)

    def program_at(width: int) -> Program:
        return programs.get(spec_of(plan, group), group.experiment, width, code)

    performer = Performer(program_at, _schema(group), unguarded)
    whole = _inputs(plan, group, job, -(-group.batch // width) * width)
    narrowest = width
    found: dict[int, Lane] = {}
    for first in sorted({lane // width * width for lane in job.lanes}):
        own = [lane - first for lane in job.lanes if first <= lane < first + width]
        used, lanes = _slice_performed(plan, group, performer, _piece(whole, first, width), own)
        found |= {first + lane: done for lane, done in lanes.items()}
        narrowest = min(narrowest, used)
    return Done(narrowest, found)


def _slice_performed(
    plan: Plan, group: Group, performer: Performer, inputs: Inputs, own: Sequence[int]
) -> tuple[int, dict[int, Lane]]:
    """All phases of one slice; the width it ended with, and what came of some of its lanes."""
    sampling = plan.sampling
    carried = performer.begin(inputs, len(inputs.wanted))
    carried = performer.warm(carried, "adapt", 0, sampling.warmup)
    carried = performer.warm(carried, "discard", 0, sampling.discard * sampling.thin)
    segments = []
    for segment in range(sampling.segments):
        carried = performer.sample(carried, segment * sampling.segment_draws)
        segments.append(carried.outputs)
        carried.outputs = {}
    lanes = {}
    for lane in own:
        outputs = {o.name: _joined([found.get(o.name) for found in segments], lane, o, sampling) for o in group.outputs}
        lanes[lane] = Lane(int(carried.outcomes[lane]), carried.messages.get(lane, ""), outputs)
    return carried.width, lanes


def _joined(segments: Sequence[Row | None], lane: int, output: Output, sampling: Sampling) -> Row:
    """A lane's recorded draws of one output; nothing but zeros where not one lane came that far."""
    chains = (output.chains,) if output.chains else ()
    draws = () if sampling.draws is None else (sampling.segment_draws,)
    none = np.zeros((*chains, *draws, *output.shape), np.dtype(output.dtype))
    pieces = [none if found is None else found[lane] for found in segments]
    return np.concatenate(pieces, axis=len(chains)) if draws else pieces[0]


def _looped(plan: Plan, group: Group, job: Job, programs: Programs, code: Path) -> Done:
    """Plain Python: the trials one by one, as ever."""
    places = [job.filled.index(lane) for lane in job.lanes]
    columns = {name: job.parameters[name] for name in group.traced}
    params = [{**group.static, **{name: values[place] for name, values in columns.items()}} for place in places]
    given = [Params(values, paths_of(plan.inputs, values)) for values in params]
    experiment = programs.experiment(spec_of(plan, group), group.experiment, code)
    loop = Loop(experiment, plan.seed, job.words()[places], given, plan.sampling, _schema(group), code)
    loop.run(range(len(places)), unguarded, lambda: None)
    lanes = {}
    for row, lane in enumerate(job.lanes):
        outputs = {name: _row(buffer, row) for name, buffer in loop.outputs.items()}
        lanes[lane] = Lane(int(loop.outcomes[row]), loop.messages.get(row, ""), outputs)
    return Done(1, lanes)


def _row(buffer: Row, row: int) -> Row:
    """One trial's array; of a single object, too."""
    return buffer[row : row + 1].reshape(buffer.shape[1:])


def _schema(group: Group) -> Schema:
    return Schema(group.outputs, group.coords, group.state_bytes)


def _width(plan: Plan, group: Group, cpu_lanes: int | None) -> int:
    """What a worker would take that remembers nothing."""
    if plan.width != "auto":
        return min(int(plan.width), group.batch)
    return choose_width(group.batch, _schema(group), plan.sampling.segment_draws, cpu_lanes)


def _inputs(plan: Plan, group: Group, job: Job, rows: int) -> Inputs:
    lanes = np.asarray(job.filled)
    words = np.zeros((rows, KEY_WORDS), np.uint32)
    words[lanes] = job.words()
    wanted = np.zeros(rows, bool)
    wanted[lanes] = True
    columns = {}
    for name, kind in group.traced.items():
        columns[name] = np.zeros(rows, device_dtype(kind, plan.x64))
        columns[name][lanes] = np.asarray(job.parameters[name])
    return Inputs(plan.seed, words, columns, wanted)


def _piece(inputs: Inputs, first: int, width: int) -> Inputs:
    piece = slice(first, first + width)
    columns = {name: values[piece] for name, values in inputs.params.items()}
    return Inputs(inputs.seed, inputs.words[piece], columns, inputs.wanted[piece])


# --- between two processes ---------------------------------------------------------------------------


def ask(folder: Path, jobs: Sequence[Job]) -> None:
    """Write a request; `plan.json` and `code/` stand in the folder already."""
    (folder / "request.json").write_text(json.dumps([asdict(job) for job in jobs]))


def answer(folder: Path) -> None:
    """Do what a folder's request asks for, and write what came of it."""
    plan = Plan.loads((folder / "plan.json").read_text())
    reply: dict[str, Any] = {"jobs": []}
    arrays: dict[str, Row] = {}
    try:
        reply["backend"], programs = backend(), Programs()
        for number, values in enumerate(json.loads((folder / "request.json").read_text())):
            done = perform(plan, Job(**values), programs, folder / "code")
            said = {lane: [found.outcome, found.message] for lane, found in done.lanes.items()}
            reply["jobs"].append({"width": done.width, "lanes": said})
            for lane, found in done.lanes.items():
                arrays |= packed({f"{number}/{lane}/{name}": value for name, value in found.outputs.items()})
    except StaffaError as error:
        reply["error"] = [type(error).__name__, error.message, error.hint]
    with (folder / "arrays.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]  # names are none of its options
    (folder / "answer.json").write_text(json.dumps(reply))


def answered(folder: Path, plan: Plan, jobs: Sequence[Job]) -> tuple[list[Done], dict[str, str]]:
    """What `answer` wrote, job by job, and the backend it ran on. Raises the error it met."""
    reply = json.loads((folder / "answer.json").read_text())
    if "error" in reply:
        kind, message, hint = reply["error"]
        raise next(found for found in _errors() if found.__name__ == kind)(message, hint)
    found = []
    with np.load(folder / "arrays.npz") as arrays:
        for number, (job, said) in enumerate(zip(jobs, reply["jobs"], strict=True)):
            lanes = {}
            for lane, (outcome, message) in said["lanes"].items():
                own = f"{number}/{lane}/"
                here = {name: arrays[name] for name in arrays.files if name.startswith(own)}
                words = {own + output.name: output.dtype for output in plan.groups[job.group].outputs}
                outputs = {name.removeprefix(own): value for name, value in unpacked(here, words).items()}
                lanes[int(lane)] = Lane(outcome, message, outputs)
            found.append(Done(said["width"], lanes))
    return found, reply["backend"]


def _errors() -> list[type[StaffaError]]:
    return [StaffaError, *StaffaError.__subclasses__()]


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
