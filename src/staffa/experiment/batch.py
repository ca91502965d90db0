"""Performing the lanes of a batch: slices of `width` lanes, and lanes that fail alone.

A batch is performed as slices of one program. Lanes that are not wanted (padding, lanes to
leave out, lanes already done) are filled with a copy of a wanted neighbour, so the program
never changes. When a slice raises, the guilty lane is searched for with the same program;
when the device memory does not suffice, the slices are halved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.errors import PluginError
from staffa.experiment.perform import Program, key_data, wrap_keys
from staffa.experiment.protocol import Schema
from staffa.trial import Outcome

Guard = Callable[[list[int]], contextlib.AbstractContextManager[None]]
"""Entered around each call of the device with the lanes it computes: the start mark and the timeout."""

Row = npt.NDArray[Any]
CPU_WIDTHS = (96, 384)
CPU_STATE = 384 << 10
"""Lanes of a call on the CPU: as many as keep their state within 384 KiB, a part of a second-level cache, in these
bounds. Measured on the walk of the benchmarks (40 bytes of state), core-milliseconds a trial are 0.24 at 64 lanes,
0.20 at 128, 0.18 at 256, 0.165 at 384, and 0.28 from 448 on, however much is recorded; two processes of Metropolis
over 60 sites (976 bytes) do 330 trials a second at 96 lanes, 374 at 192, 410 at 512."""
PROBES = 8
"""Pieces a suspicious slice is divided into while looking for a lane that kills its process."""


@dataclass(frozen=True)
class Inputs:
    """What the lanes of a batch start from; one row a lane, padding included."""

    seed: int
    words: npt.NDArray[np.uint32]
    """(rows, KEY_WORDS): digest words folded into each trial's key."""
    params: Mapping[str, Row]
    wanted: npt.NDArray[np.bool_]
    """(rows,): lanes to compute."""


@dataclass
class Carried:
    """A batch between two segments: it stays on the worker and is never sent."""

    inputs: Inputs
    width: int
    slices: list[tuple[Row, Any]]
    """The lanes of each slice that has a wanted one, (width,), and their state. A lane stands once in all, but where
    it fills up the last slice of a batch that has become smaller."""
    outcomes: npt.NDArray[np.uint8]
    messages: dict[int, str]
    outputs: dict[str, Row] = field(default_factory=dict)
    """Of the segment sampled last: rows x [chain x] draws x own axes, on the host."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.outcomes)

    def alive(self, lanes: Row) -> list[int]:
        """Those of a slice's lanes that are wanted and have not failed."""
        ok = self.inputs.wanted[lanes] & (self.outcomes[lanes] <= Outcome.NAN)
        return list(dict.fromkeys(lanes[ok].tolist()))


class OutOfMemory(Exception):
    """The device cannot hold `width` lanes."""


@contextlib.contextmanager
def memory_errors(width: int) -> Iterator[None]:
    """Tell a device that is too small for `width` lanes from every other trouble."""
    try:
        yield
    except Exception as error:
        if _out_of_memory(error) and width > 1:
            raise OutOfMemory from error
        raise


def _out_of_memory(error: BaseException) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


class Performer:
    """Performs batches with the program that `program_at(width)` gives.

    Arguments:
    - `program_at`: the process's memo of programs.
    - `schema`: what the program records, for the host buffers.
    - `guard`: entered around each device call.
    - `narrowed`: told the width that fits, after the device ran out of memory.
    """

    def __init__(
        self,
        program_at: Callable[[int], Program],
        schema: Schema,
        guard: Guard,
        narrowed: Callable[[int], None] = lambda width: None,
    ) -> None:
        self._program_at = program_at
        self._schema = schema
        self._guard = guard
        self._narrowed = narrowed

    def begin(self, inputs: Inputs, width: int) -> Carried:
        """Initialize every wanted lane."""
        rows = len(inputs.wanted)
        outcomes = np.where(inputs.wanted, Outcome.MISSING, Outcome.PADDING).astype(np.uint8)
        slices = [np.arange(start, start + width) for start in range(0, rows, width)]
        wanted = [(lanes, None) for lanes in slices if inputs.wanted[lanes].any()]
        carried = Carried(inputs, width, list(wanted), outcomes, {})
        return self._each(
            carried,
            "initialize",
            lambda program, words, params, state: (program.initialize(inputs.seed, words, params), None),
        )

    def warm(self, carried: Carried, phase: str, first: int, last: int) -> Carried:
        """Do warm-up calls (`adapt`) or unrecorded steps (`discard`) `first` to `last`."""
        if first == last:
            return carried
        seed = carried.inputs.seed
        return self._each(
            carried,
            phase,
            lambda program, words, params, state: (
                getattr(program, phase)(seed, words, params, state, first, last),
                None,
            ),
        )

    def sample(self, carried: Carried, draw: int) -> Carried:
        """Record one segment, from draw number `draw` on."""
        seed = carried.inputs.seed

        def call(program: Program, words: Any, params: Any, state: Any) -> tuple[Any, Any]:
            state, outputs, bad = program.sample(seed, words, params, state, draw)
            return state, (outputs, bad)

        return self._each(carried, "sample", call)

    def probe(self, inputs: Inputs, suspects: list[int], run: Callable[[Inputs], None]) -> None:
        """Run pieces of the suspects alone; whoever kills the process stands in the start mark."""
        pieces = np.array_split(np.asarray(suspects), min(PROBES, len(suspects)))
        for piece in pieces:
            wanted = np.zeros_like(inputs.wanted)
            wanted[piece] = True
            run(Inputs(inputs.seed, inputs.words, inputs.params, wanted))

    def _each(self, carried: Carried, phase: str, call: Callable[..., tuple[Any, Any]]) -> Carried:
        while True:
            try:
                return self._each_slice(carried, phase, call)
            except OutOfMemory:
                carried = self._narrower(carried)
                self._narrowed(carried.width)

    def _each_slice(self, carried: Carried, phase: str, call: Callable[..., tuple[Any, Any]]) -> Carried:
        program = self._program_at(carried.width)
        compiled = program.compile_seconds
        with memory_errors(carried.width):
            program.prepare(phase)
        compiled = program.compile_seconds - compiled
        started = time.perf_counter()
        after = Carried(carried.inputs, carried.width, [], carried.outcomes.copy(), dict(carried.messages))
        for slots, state in carried.slices:
            lanes = carried.alive(slots)
            if not lanes:
                after.slices.append((slots, state))
                continue
            found, guilty = self._search(program, call, carried, slots, state, lanes)
            for lane, message in guilty.items():
                after.outcomes[lane] = Outcome.RAISED
                after.messages[lane] = message
            after.slices.append((slots, _joined(slots, [(part, new) for part, new, _ in found], state)))
            for part, _, recorded in found:
                if recorded is not None:
                    self._keep(after, slots, part, *recorded)
        _blank(after)
        after.seconds = {**carried.seconds}
        after.seconds["compile"] = after.seconds.get("compile", 0.0) + compiled
        key = "sample" if phase == "sample" else "initialize"
        after.seconds[key] = after.seconds.get(key, 0.0) + time.perf_counter() - started
        return after

    def _search(
        self,
        program: Program,
        call: Callable[..., Any],
        carried: Carried,
        slots: Row,
        state: Any,
        lanes: list[int],
    ) -> tuple[list[tuple[list[int], Any, Any]], dict[int, str]]:
        """Run `lanes` together; where that raises, halve until the guilty stand alone."""
        inputs = carried.inputs
        index = np.where(np.isin(slots, lanes), slots, lanes[0])
        if state is not None and len(lanes) < len(carried.alive(slots)):
            places = _places(slots, index)
            state = jax.tree.map(lambda leaf: leaf[places], state)
        words = inputs.words[index]
        params = {name: values[index] for name, values in inputs.params.items()}
        # No lane is to blame for what the guard itself meets (a full disk).
        with self._guard(lanes):
            try:
                new, recorded = call(program, words, params, state)
                return [(lanes, new, recorded)], {}
            except PluginError:
                raise
            except Exception as error:
                if _out_of_memory(error):
                    # One trial fits one device (the bound): a single lane that does not is no fault of its own.
                    if carried.width == 1:
                        raise
                    raise OutOfMemory from error
                if len(lanes) == 1:
                    return [], {lanes[0]: _first_line(error)}
        found: list[tuple[list[int], Any, Any]] = []
        guilty: dict[int, str] = {}
        for half in (lanes[: len(lanes) // 2], lanes[len(lanes) // 2 :]):
            more, bad = self._search(program, call, carried, slots, state, half)
            found += more
            guilty |= bad
        return found, guilty

    def _keep(self, after: Carried, slots: Row, lanes: list[int], outputs: Mapping[str, Any], bad: Any) -> None:
        """Copy a slice's outputs into the batch's host buffers and flag its lanes."""
        rows, first = np.asarray(lanes), int(slots[0])
        places = _places(slots, rows)
        whole = len(lanes) == after.width and int(slots[-1]) == first + after.width - 1
        for output in self._schema.outputs:
            value = np.asarray(outputs[output.name])
            if output.name not in after.outputs:
                after.outputs[output.name] = np.empty((after.rows, *value.shape[1:]), value.dtype)
            if whole:
                after.outputs[output.name][first : first + after.width] = value
            else:
                after.outputs[output.name][rows] = value[places]
        flags = np.asarray(bad)[places]
        done = after.outcomes[rows]
        after.outcomes[rows] = np.where(flags | (done == Outcome.NAN), Outcome.NAN, Outcome.OK)

    def _narrower(self, carried: Carried) -> Carried:
        """The same batch in slices of half the width; of a third where the width is odd, and so on."""
        wide = carried.width
        width = next(wide // divisor for divisor in range(2, wide + 1) if wide % divisor == 0)
        slices = []
        for slots, state in carried.slices:
            for start in range(0, wide, width):
                piece = slice(start, start + width)
                if carried.inputs.wanted[slots[piece]].any():
                    slices.append((slots[piece], jax.tree.map(lambda leaf, piece=piece: leaf[piece], state)))
        return Carried(carried.inputs, width, slices, carried.outcomes, carried.messages, seconds=carried.seconds)


def checkpoint(carried: Carried) -> dict[str, Row]:
    """Write a batch's state down as plain arrays, lane by lane, whatever its width."""
    arrays: dict[str, Row] = {"outcomes": carried.outcomes}
    for slots, state in carried.slices:
        # A slice of which no lane could start has no state, and needs none any more.
        for number, leaf in enumerate(map(np.asarray, jax.tree.leaves(key_data(state)))):
            name = f"state/{number}"
            if name not in arrays:
                arrays[name] = np.zeros((carried.rows, *leaf.shape[1:]), leaf.dtype)
            arrays[name][slots] = leaf
    return arrays


def restored(arrays: Mapping[str, Row], messages: Mapping[int, str], inputs: Inputs, program: Program) -> Carried:
    """Take up a batch from its checkpoint, at this program's width."""
    width, shapes = program.width, program.state_shape()
    names = [f"state/{number}" for number in range(len(jax.tree.leaves(shapes)))]
    slices: list[tuple[Row, Any]] = []
    for slots in _slices(inputs.wanted, width):
        if not all(name in arrays for name in names):
            slices.append((slots, None))
            continue
        # They stay NumPy's until the program takes them: jnp.asarray compiles for each shape.
        leaves = [arrays[name][slots] for name in names]
        state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
        slices.append((slots, wrap_keys(state, shapes)))
    # A lane that was cancelled while its batch waited is aboard the checkpoint, and wanted no more.
    outcomes = np.where(inputs.wanted, arrays["outcomes"], Outcome.PADDING).astype(np.uint8)
    return Carried(inputs, width, slices, outcomes, dict(messages))


def _slices(wanted: Row, width: int) -> list[Row]:
    """The lanes of each call: as they stand in the batch; where that saves calls, those that are wanted together."""
    lanes = np.flatnonzero(wanted)
    standing = np.arange(len(wanted)).reshape(-1, width)
    standing = standing[wanted[standing].any(axis=1)]
    if len(standing) <= -(-len(lanes) // width):
        return list(standing)
    filled = np.concatenate([lanes, np.repeat(lanes[-1:], -len(lanes) % width)])
    return list(filled.reshape(-1, width))


def narrowest(batch: int, width: int, wanted: int) -> int:
    """Lanes of a call for a batch of which few lanes are left, so that none, or few, of a call stand idle.

    Arguments:
    - `width`: lanes of a call for the whole batch. What comes out divides the batch, as it does.
    """
    divisors = [lanes for lanes in range(1, width + 1) if batch % lanes == 0]
    return min((lanes for lanes in divisors if lanes >= min(wanted, width)), default=width)


def choose_width(batch: int, schema: Schema, sampling_draws: int, cpu_lanes: int | None = None) -> int:
    """The lanes of one call: what fits the device with room to spare, and divides the batch.

    On the CPU the cache decides (`CPU_STATE`), or the experiment (`Experiment.cpu_lanes`); on an
    accelerator half of its memory is planned for, with four copies of what a lane carries and records.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    cached = min(max(CPU_STATE // max(schema.state_bytes, 1), CPU_WIDTHS[0]), CPU_WIDTHS[1])
    limit = cpu_lanes or cached
    if device.platform != "cpu" and "bytes_limit" in stats:
        recorded = sum(output.bytes for output in schema.outputs) * max(sampling_draws, 1)
        limit = int(stats["bytes_limit"] // 2 // max(4 * (recorded + schema.state_bytes), 1))
    return max(width for width in range(1, batch + 1) if batch % width == 0 and (width <= limit or width == 1))


def _places(slots: Row, lanes: Row) -> Row:
    """Where lanes stand in a slice."""
    order = np.argsort(slots, kind="stable")
    return np.asarray(order[np.searchsorted(slots, lanes, sorter=order)])


def _joined(slots: Row, found: list[tuple[list[int], Any]], before: Any) -> Any:
    """One state of a slice from those of its separately computed lanes; failed lanes keep filler."""
    if not found:
        return before
    whole = found[0][1]
    for lanes, state in found[1:]:
        rows = np.isin(slots, lanes)

        def place(old: Any, new: Any, mask: Any = rows) -> Any:
            return jnp.where(mask.reshape(-1, *([1] * (old.ndim - 1))), new, old)

        whole = jax.tree.map(place, whole, state)
    return whole


def _blank(carried: Carried) -> None:
    """Give rows that have no data the fill value; full batches, the rule, are spared a pass."""
    empty = (carried.outcomes != Outcome.OK) & (carried.outcomes != Outcome.NAN)
    if empty.any():
        for buffer in carried.outputs.values():
            buffer[empty] = np.nan if np.issubdtype(buffer.dtype, np.inexact) else 0


def _first_line(error: BaseException) -> str:
    """What went wrong in one line; of an error that comes with a traceback, the line below its last frame."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] + 1 if frames else 0 :] if not (frames and line.startswith(" "))]
    return (said or [type(error).__name__])[0].strip()[:300]


@contextlib.contextmanager
def unguarded(lanes: list[int]) -> Iterator[None]:
    """The guard that does nothing, for use outside a worker."""
    yield
