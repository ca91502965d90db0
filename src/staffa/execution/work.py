"""What workers do with a batch: initialize, sample, write, commit.

These functions travel by import path, with ids for arguments. What passes between them stays
on the worker; only the receipt goes home. Each first reads the batch's mark, so a duplicate or
a late twin leaves committed data alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.inputs import paths_of
from staffa.cells import blank, packed, unpacked
from staffa.execution.bench import Bench, Order, bench_errors, bench_of, device_kind, programs, start_mark
from staffa.execution.gauges import memory
from staffa.execution.lanes import asked_to_leave, seconds_left
from staffa.execution.overheard import KEPT, TrialLog, batch_said, heard, said_beside
from staffa.execution.pace import MARGIN, SETTLE_SECONDS
from staffa.execution.programs import Made, joined, known
from staffa.experiment.batch import (
    Carried,
    Inputs,
    OutOfMemory,
    Performer,
    checkpoint,
    memory_errors,
    narrowest,
    restored,
)
from staffa.experiment.compiles import compiles
from staffa.experiment.perform import device_dtype
from staffa.experiment.protocol import Params
from staffa.experiment.simulate import Loop
from staffa.rows import objective
from staffa.storage import checkpoints
from staffa.storage.hot import HotStore
from staffa.storage.spans import spans
from staffa.trial import Outcome, canonical

Row = npt.NDArray[Any]

TOPIC = "staffa"
"""Dask's event topic on which workers say that a group's program is compiled."""
CHECKPOINT_SECONDS = 2.0
"""Plain Python trials: finished ones are written down at least this often."""
MESSAGES = 8
"""Distinct messages a receipt carries at most: it must stay below 4 kB."""


@dataclass
class Work:
    """A batch on its way through the graph; stays on the worker."""

    order: Order
    done: bool = False
    """Nothing to do: the batch was committed by another task."""
    carried: Carried | None = None
    loop: Loop | None = None
    kept: Row | None = None
    """Outcomes committed by an earlier attempt, where this one adds lanes to it."""
    outputs: Mapping[str, Row] = field(default_factory=dict)
    resumed: int = 0
    """Segments that a checkpoint covers already."""
    warmed: int = 0
    """Pieces of the warm-up that it covers, where that is all it covers."""
    yielded: int | None = None
    """The segment another worker is to go on with: the time left here did not suffice, or trials are compared."""
    compared: tuple[int, ...] = ()
    """Lanes that a search is to compare with others before it goes on."""
    latest: float = 0.0
    """Seconds the last piece of it took on the device."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Seconds by kind, of a batch that was yielded."""
    programs: tuple[Made, ...] = ()
    """Every program that had a part in it, in order."""
    sums: list[list[int]] = field(default_factory=list)
    """Checksums of these segments' shards, one for each output."""
    started: float = 0.0
    compiled: tuple[int, float] = (0, 0.0)
    """Programs compiled for it, and the seconds that took."""
    said: str = ""
    """What it printed as a whole, where that is kept."""

    def __sizeof__(self) -> int:
        return 1 << 10


def initialize(order: Order, phase: int = 0, before: Work | None = None) -> Work:
    """Read the mark and the parameters, make the state, do the warm-up (or its `phase`-th piece)."""
    return _overheard(order, lambda: _initialize(order, phase, before))


def _initialize(order: Order, phase: int, before: Work | None) -> Work:
    bench = bench_of(order)
    if before is None and must_yield(order.begin + order.segment):
        return Work(order, yielded=0, started=time.time())
    if before is None:
        compiled = _prepare(bench, order)
        before = replace(_begin(bench, order), compiled=compiled)
    work = before
    if work.done or work.carried is None or work.resumed or phase < work.warmed or work.yielded is not None:
        return work
    if phase and must_yield(work.latest or order.begin):
        return _yielding(work, 0)
    began = time.perf_counter()
    performer, sampling = bench.performer(order), bench.plan.sampling
    total = sampling.warmup + sampling.discard * sampling.thin
    pieces = sampling.warm_segments
    first, last = total * phase // pieces, total * (phase + 1) // pieces
    carried = work.carried
    with bench_errors():
        carried = performer.warm(carried, "adapt", min(first, sampling.warmup), min(last, sampling.warmup))
        edge = sampling.warmup
        carried = performer.warm(carried, "discard", max(first - edge, 0), max(last - edge, 0))
    work = replace(work, carried=carried, latest=time.perf_counter() - began, programs=_made(work, carried))
    if phase + 1 < pieces:
        _save(bench, work, 0, (), warmed=phase + 1)
    return work


def sample(work: Work, segment: int) -> Work:
    """Record one segment; the outputs come to the host, the state stays."""
    if work.done or work.yielded is not None or segment < work.resumed:
        return work
    if work.loop is not None:
        return _simulate(bench_of(work.order), work)
    return _overheard(work.order, lambda: _sample(work, segment))


def _sample(work: Work, segment: int) -> Work:
    bench = bench_of(work.order)
    own = work.latest if segment > work.resumed else 0.0
    assert work.carried is not None
    if bench.plan.search is not None and segment > work.resumed and segment in bench.plan.search.rungs:
        return replace(_yielding(work, segment), compared=tuple(_own_lanes(work).tolist()))
    if must_yield(own or work.order.segment):
        return _yielding(work, segment)
    began = time.perf_counter()
    carried = bench.performer(work.order).sample(work.carried, segment * bench.plan.sampling.segment_draws)
    outputs, carried = carried.outputs, replace(carried, outputs={})
    latest = time.perf_counter() - began
    return replace(work, carried=carried, outputs=outputs, latest=latest, programs=_made(work, carried))


def _overheard(order: Order, action: Callable[[], Work]) -> Work:
    """Do something for a whole batch, and keep what it says meanwhile where that was asked for."""
    if order.logs == "none":
        return action()
    with heard(said_beside(start_mark(order.root).path)) as ear:
        work = action()
    return replace(work, said=(work.said + ear.text)[-KEPT:]) if ear.text else work


def must_yield(seconds: float) -> bool:
    """Whether another `seconds` on the device would not end in time, or the worker is asked to leave."""
    return asked_to_leave() or seconds_left() < MARGIN * seconds + SETTLE_SECONDS


def _yielding(work: Work, segment: int) -> Work:
    spent = dict(work.carried.seconds) if work.carried is not None else {}
    return replace(work, yielded=segment, spent=spent, carried=None, outputs={})


def write(work: Work, segment: int, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write one segment's shards, then (but for the last) the checkpoint that continues from it.

    Arguments:
    - `before`: what the write of the segment before returned.
    """
    started, cpu, order = time.perf_counter(), time.thread_time(), work.order
    bench = bench_of(order)
    store = bench.store(order.group)
    if work.done or _settled_elsewhere(store, work):
        return {"done": True, "seconds": 0.0, "cpu": 0.0, "bytes": 0, "sums": []}
    sums = list(before["sums"] if before else [])
    if work.yielded is not None:
        return {"done": False, "seconds": 0.0, "cpu": 0.0, "bytes": 0, "sums": sums}
    if segment < work.resumed:
        return {"done": False, "seconds": 0.0, "cpu": 0.0, "bytes": 0, "sums": [*sums, work.sums[segment]]}
    scratch = bench.workspace.scratch(f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}")
    size = 0
    own: list[int] = []
    for output in bench.group(order.group).outputs:
        data = _merged(store, work, output.name, segment, work.outputs.get(output.name))
        target = store.write(output.name, order.batch, segment, data, scratch)
        size += target.stat().st_size if target.exists() else 0
        own.append(store.checksum(output.name, order.batch, segment))
    sums.append(own)
    if segment + 1 < bench.plan.sampling.segments:
        _save(bench, work, segment + 1, sums)
    seconds, cpu = time.perf_counter() - started, time.thread_time() - cpu
    return {"done": False, "seconds": seconds, "cpu": cpu, "bytes": size, "sums": sums}


def commit(work: Work, written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mark the batch, its last write; forget its checkpoint; send the receipt."""
    started, cpu, order = time.perf_counter(), time.thread_time(), work.order
    bench = bench_of(order)
    store = bench.store(order.group)
    if work.done or any(piece["done"] for piece in written):
        _forget(bench, work)
        return _receipt(bench, work, store.status(order.batch), 0, {}, duplicate=True)
    if work.yielded is not None:
        batch_said(bench.workspace, order, work.said, None)
        if work.compared:
            so_far = objective.values_so_far(
                bench.plan, bench.group(order.group), store, order.batch, work.yielded, work.compared
            )
            store.compare(order.batch, work.yielded, so_far)
        size = sum(piece["bytes"] for piece in written)
        seconds = {**work.spent, "compile": work.compiled[1], "write": sum(piece["seconds"] for piece in written)}
        return _receipt(bench, work, np.zeros(0, np.uint8), size, seconds)
    status = _status(bench, work)
    sums = np.array(written[-1]["sums"], np.uint32)
    batch_said(bench.workspace, order, work.said, status[_own_lanes(work)])
    store.commit(order.batch, status, sums, _trial_seconds(work, store))
    if bench.plan.search is not None:
        found = objective.values(bench.plan, bench.group(order.group), store, order.batch)
        store.score(order.batch, found)
    checkpoints.remove(_checkpoint_path(bench, order))
    carried = work.carried.seconds if work.carried is not None else {}
    seconds = {**carried, "compile": work.compiled[1], "write": sum(piece["seconds"] for piece in written)}
    if work.loop is not None:
        seconds["sample"] = work.loop.spent
    seconds["commit"] = time.perf_counter() - started
    receipt = _receipt(bench, work, status, sum(piece["bytes"] for piece in written), seconds)
    receipt["cpu"] = {"write": sum(piece["cpu"] for piece in written), "commit": time.thread_time() - cpu}
    return receipt


def _prepare(bench: Bench, order: Order) -> tuple[int, float]:
    """Compile everything the batch needs, then tell the driver: others find it in the cache."""
    group = bench.group(order.group)
    started, before = time.perf_counter(), compiles()
    if group.vectorize != "off":
        sampling = bench.plan.sampling
        program = bench.program(group, bench.width(group))
        names = [
            "initialize",
            *["adapt"] * bool(sampling.warmup),
            *["discard"] * bool(sampling.discard),
            "sample",
        ]
        # Where not even the program fits the device, performing it will narrow the width.
        with bench_errors(), contextlib.suppress(OutOfMemory), memory_errors(program.width):
            program.prepare(*names)
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        get_worker().log_event(
            TOPIC, {"ready": order.group, "root": order.root, "pool": os.environ.get("STAFFA_POOL", "")}
        )
    return compiles() - before, time.perf_counter() - started


def _begin(bench: Bench, order: Order) -> Work:
    group, store = bench.group(order.group), bench.store(order.group)
    status = store.status(order.batch)
    rows = store.seats(order.batch)
    wanted = np.zeros(group.batch, bool)
    wanted[:rows] = True if order.lanes is None else np.isin(np.arange(rows), order.lanes)
    has_data = (status == Outcome.OK) | (status == Outcome.NAN)
    kept = status if status.any() else None
    wanted &= ~has_data
    if kept is not None and order.lanes is None:
        wanted &= status == Outcome.MISSING
    left_out = [lane for lane, _, _ in order.leave_out]
    asked = wanted.any()
    wanted[left_out] = False
    work = Work(order, kept=kept, started=time.time())
    if not asked:
        work.done = True
        return work
    if group.vectorize == "off":
        return _begin_loop(bench, work, wanted)
    return _begin_lanes(bench, work, wanted)


def inputs_of(bench: Bench, order: Order, wanted: Row) -> Inputs:
    """What the lanes of a batch start from."""
    group = bench.group(order.group)
    words, columns = bench.store(order.group).inputs(order.batch)
    traced = {
        name: _padded(columns[name].astype(device_dtype(kind, bench.plan.x64)), group.batch)
        for name, kind in group.traced.items()
    }
    return Inputs(bench.plan.seed, _padded(words, group.batch), traced, wanted)


def _begin_lanes(bench: Bench, work: Work, wanted: Row) -> Work:
    order = work.order
    group, inputs = bench.group(order.group), inputs_of(bench, order, wanted)
    width = bench.width(group)
    performer = bench.performer(order)
    if order.suspects:
        performer.probe(inputs, list(order.suspects), lambda one: _whole(bench, performer, one, width))
    saved = _saved(bench, work)
    if saved is None:
        carried = performer.begin(inputs, width)
        return replace(work, carried=carried, programs=_made(work, carried))
    if bench.plan.search is not None:  # of what it compared few may be left
        width = narrowest(group.batch, width, int(wanted.sum()))
    carried = restored(saved.arrays, _messages(saved.meta), inputs, bench.program(group, width))
    segment, warmed = int(saved.meta["segment"]), int(saved.meta.get("warmed", 0))
    return replace(
        work, carried=carried, resumed=segment, warmed=warmed, sums=saved.meta["sums"], programs=known(saved.meta)
    )


def _whole(bench: Bench, performer: Performer, inputs: Inputs, width: int) -> None:
    """All phases of some lanes, recorded nowhere: whoever kills the process does it now."""
    sampling = bench.plan.sampling
    carried = performer.begin(inputs, width)
    carried = performer.warm(carried, "adapt", 0, sampling.warmup)
    carried = performer.warm(carried, "discard", 0, sampling.discard * sampling.thin)
    for segment in range(sampling.segments):
        carried = replace(performer.sample(carried, segment * sampling.segment_draws), outputs={})


def loop_of(bench: Bench, order: Order) -> Loop:
    """The trials of a batch of plain Python, all of them still to be done."""
    group, store = bench.group(order.group), bench.store(order.group)
    words, columns = store.inputs(order.batch)
    params = [
        {
            **group.static,
            **{
                name: columns[name][lane].item() if columns[name].dtype.kind in "fiub" else str(columns[name][lane])
                for name in group.traced
            },
        }
        for lane in range(len(words))
    ]
    experiment = programs().experiment(bench.spec(group), group.experiment, bench.workspace.code)
    sampling, schema = bench.plan.sampling, bench.schema(group)
    own = _padded(words, group.batch)
    given = [Params(values, paths_of(bench.plan.inputs, values)) for values in params]
    return Loop(experiment, bench.plan.seed, own, given, sampling, schema, bench.workspace.code)


def _begin_loop(bench: Bench, work: Work, wanted: Row) -> Work:
    loop = loop_of(bench, work.order)
    loop.outcomes[~wanted] = Outcome.PADDING
    saved = _saved(bench, work)
    if saved is not None:
        finished = (
            wanted & (saved.arrays["outcomes"] != Outcome.MISSING) & (saved.arrays["outcomes"] != Outcome.PADDING)
        )
        words = {f"output/{output.name}": output.dtype for output in bench.group(work.order.group).outputs}
        outputs = unpacked(saved.arrays, words)
        for name, buffer in loop.outputs.items():
            buffer[finished] = outputs[f"output/{name}"][finished]
        loop.outcomes[finished] = saved.arrays["outcomes"][finished]
        loop.trial_seconds[finished] = saved.arrays["seconds"][finished]
        loop.messages = _messages(saved.meta)
    return replace(work, loop=loop, programs=joined(known(saved.meta) if saved else (), 1, work.order.root))


def _simulate(bench: Bench, work: Work) -> Work:
    loop, order = work.loop, work.order
    assert loop is not None
    log, saved_at = TrialLog(bench.workspace, order, loop, bench.store(order.group)), time.monotonic()

    def progressed() -> bool:
        nonlocal saved_at
        stop = must_yield(float(loop.trial_seconds.max()))
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS or stop:
            outputs = {f"output/{name}": buffer for name, buffer in loop.outputs.items()}
            arrays = {**packed(outputs), "outcomes": loop.outcomes, "seconds": loop.trial_seconds}
            meta = {"order": _terms(bench, work), "messages": loop.messages, "programs": work.programs}
            log.flush()
            checkpoints.save(_checkpoint_path(bench, order), arrays, meta)
            saved_at = time.monotonic()
        return stop

    @contextlib.contextmanager
    def guard(lanes: list[int]) -> Iterator[None]:
        mark = start_mark(order.root)
        with mark.on(order.batch_id, order.attempt, lanes, bench.plan.timeout), log.of(lanes[0], mark.path):
            yield

    lanes = np.flatnonzero(loop.outcomes == Outcome.MISSING)
    loop.run([int(lane) for lane in lanes], guard, progressed)
    log.flush()
    if (loop.outcomes == Outcome.MISSING).any():
        return replace(work, yielded=0, loop=None, spent={"sample": loop.spent})
    return replace(work, outputs=loop.outputs)


def _made(work: Work, carried: Carried) -> tuple[Made, ...]:
    """The programs that had a part in a batch, with the one that was used last."""
    return joined(work.programs, carried.width, work.order.root)


def _settled_elsewhere(store: HotStore, work: Work) -> bool:
    """Whether someone committed this batch since this task began."""
    now = store.status(work.order.batch)
    return bool((now != (work.kept if work.kept is not None else 0)).any())


def _merged(store: HotStore, work: Work, name: str, segment: int, data: Row | None) -> Row:
    """The shard to write: new lanes over those an earlier attempt committed."""
    array = next(a for a in store.layout.arrays if a.name == name)
    if data is None:
        # Every lane of the batch failed or is left out: the shard is all fill.
        data = blank(store.layout.shard(array), array.dtype)
    if work.kept is None:
        return data
    whole = store.read(name, work.order.batch, segment)
    lanes = _own_lanes(work)
    whole[lanes] = data[lanes]
    return whole


def _own_lanes(work: Work) -> Row:
    """Rows this attempt computed."""
    outcomes = work.loop.outcomes if work.loop is not None else work.carried.outcomes if work.carried else None
    assert outcomes is not None
    return np.flatnonzero((outcomes != Outcome.PADDING) & (outcomes != Outcome.MISSING))


def _status(bench: Bench, work: Work) -> Row:
    order = work.order
    group = bench.group(order.group)
    status = np.full(group.batch, Outcome.PADDING, np.uint8)
    status[: bench.store(order.group).seats(order.batch)] = Outcome.MISSING
    if work.kept is not None:
        status[:] = work.kept
    lanes = _own_lanes(work)
    outcomes = work.loop.outcomes if work.loop is not None else work.carried.outcomes if work.carried else None
    assert outcomes is not None
    status[lanes] = outcomes[lanes]
    for lane, outcome, _ in order.leave_out:
        if status[lane] not in (Outcome.OK, Outcome.NAN):
            status[lane] = outcome
    return status


def _trial_seconds(work: Work, store: HotStore) -> Row:
    seconds = store.seconds(work.order.batch)
    lanes = _own_lanes(work)
    if work.loop is not None:
        seconds[lanes] = work.loop.trial_seconds[lanes]
    elif work.carried is not None and len(lanes):
        spent = work.carried.seconds.get("sample", 0.0) + work.carried.seconds.get("initialize", 0.0)
        seconds[lanes] = spent / len(lanes)
    return seconds


def _receipt(
    bench: Bench, work: Work, status: Row, size: int, seconds: Mapping[str, float], duplicate: bool = False
) -> dict[str, Any]:
    codes, counts = np.unique(status, return_counts=True)
    outcomes = {Outcome(int(c)).word: int(n) for c, n in zip(codes, counts, strict=True) if c != Outcome.PADDING}
    messages: dict[str, list[int]] = {}
    own = work.loop.messages if work.loop is not None else work.carried.messages if work.carried else {}
    for lane, text in [*own.items(), *((lane, text) for lane, _, text in work.order.leave_out)]:
        messages.setdefault(text, []).append(lane)
    return {
        "batch": work.order.batch_id,
        "attempt": work.order.attempt,
        "outcomes": outcomes,
        "bytes": size,
        "messages": [[text, spans(lanes)[:200]] for text, lanes in list(messages.items())[:MESSAGES]],
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "started": work.started,
        "finished": time.time(),
        "node": socket.gethostname(),
        "duplicate": duplicate,
        "width": work.carried.width if work.carried is not None else 1,
        "programs": work.programs,
        "device": device_kind(),
        "compiles": work.compiled[0],
        "pid": os.getpid(),
        "cpu": {},
        "memory": memory() if work.order.telemetry else {},
        "yielded": work.yielded,
        "compared": bool(work.compared),
        "computed": (bench.plan.sampling.segments if work.yielded is None else work.yielded) - work.resumed,
    }


def _terms(bench: Bench, work: Work) -> str:
    """What a checkpoint must agree with: the same code and lanes, of which the same are left out."""
    left_out = sorted(lane for lane, _, _ in work.order.leave_out)
    return canonical([bench.plan.code, list(work.order.lanes or ()), left_out])


def _save(bench: Bench, work: Work, segment: int, sums: Sequence[Sequence[int]], warmed: int = 0) -> None:
    """Write down what a worker needs to go on with `segment`, or after `warmed` pieces of the warm-up."""
    assert work.carried is not None
    meta = {
        "order": _terms(bench, work),
        "segment": segment,
        "warmed": warmed,
        "sums": sums,
        "messages": work.carried.messages,
        "programs": work.programs,
    }
    checkpoints.save(_checkpoint_path(bench, work.order), checkpoint(work.carried), meta)


def _saved(bench: Bench, work: Work) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from, if there is one and what it builds upon still stands."""
    order = work.order
    saved = checkpoints.load(_checkpoint_path(bench, order))
    if saved is None or saved.meta.get("order") != _terms(bench, work):
        return None
    outputs, store = bench.group(order.group).outputs, bench.store(order.group)
    for segment, sums in enumerate(saved.meta.get("sums", [])):
        if sums != [store.checksum(output.name, order.batch, segment) for output in outputs]:
            return None
    return saved


def _forget(bench: Bench, work: Work) -> None:
    """Remove a checkpoint that a writer left after another task had committed its batch."""
    path = _checkpoint_path(bench, work.order)
    saved = checkpoints.load(path)
    if saved is not None and saved.meta.get("order") == _terms(bench, work):
        checkpoints.remove(path)


def _messages(meta: Mapping[str, Any]) -> dict[int, str]:
    return {int(lane): text for lane, text in meta.get("messages", {}).items()}


def _checkpoint_path(bench: Bench, order: Order) -> Path:
    return bench.workspace.checkpoint(bench.group(order.group).generation, f"g{order.group}", order.batch)


def _padded(values: Row, rows: int) -> Row:
    padded = np.zeros((rows, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded
