"""A pilot: a few trials on a worker of the target pool, to find out what a campaign will take.

Everything stands in a temporary folder beside the campaigns, so that the disk is the right one, and
is gone afterwards. What was compiled stays in the compile cache: the run finds it there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import psutil
from dask.delayed import delayed

from staffa.campaign.cost import PILOT, Cost, lane_bytes, program_of, segment_steps, warm_steps
from staffa.campaign.inputs import names_in, without
from staffa.campaign.machine import ClusterConfig
from staffa.campaign.plan import Group, Plan, bytes_per_trial
from staffa.cells import blank
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.execution.bench import Bench, Order, bench_errors, bench_of, device_kind, start_mark
from staffa.execution.drive import workers_of
from staffa.execution.ending import Stop
from staffa.execution.pool import SAMPLE, Demand, Member, Pool
from staffa.execution.prepare import Prepared, create, group_layout, plan_digest
from staffa.execution.work import inputs_of, loop_of
from staffa.experiment.batch import Carried, Inputs, Performer
from staffa.storage.hot import HotStore
from staffa.storage.lease import BEAT_SECONDS, SILENCE_SECONDS, Lease, read_lease
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

FOLDER = ".pilot-"
PROGRAMS = 8
"""Programs that are measured; the others are taken to be like them."""
PLAIN_TRIALS, PLAIN_SECONDS = 5, 20.0
"""Trials of plain Python that are measured, unless they take longer than this together."""
REPEATS, REPEAT_SECONDS = 5, 2.0
"""A segment is measured so often, as long as that takes no longer."""
WARM_SECONDS = 4.0
"""A warm-up is done only in part if all of it would take longer."""
LOOK_SECONDS = 0.1
JOBS_SECONDS = 60.0
"""Cancelled jobs that are not over by then are left to themselves."""

Tell = Callable[[str], None]


# --- on the worker ---------------------------------------------------------------------------------


def measure(order: Order) -> dict[str, Any]:
    """Compile a group's program here, run a slice of it for one segment and write that down, with a clock in hand.

    Arguments:
    - `order`: its `lanes` are those that may be tried.

    Returns `width`, `begin`, `segment`, `compile`, `write`, `stored`, `memory` (see `Cost`), `limit`,
    `device`, `failed`: whether all trials did, and `said`: what the first of them said.
    """
    bench = bench_of(order)
    group = bench.group(order.group)
    with bench_errors():
        found = _plain(bench, order, group) if group.vectorize == "off" else _compiled(bench, order, group)
    return {**found, "device": device_kind() if group.vectorize != "off" else "cpu", "limit": _limit()}


def _compiled(bench: Bench, order: Order, group: Group) -> dict[str, Any]:
    sampling, performer = bench.plan.sampling, bench.performer(order)
    inputs = inputs_of(bench, order, _slice(order, group, bench.width(group)))
    begin, carried, sampled = _first(bench, performer, inputs, bench.width(group))
    if sampled.width < carried.width:  # it did not fit the device: once more, as the run will do it
        inputs = inputs_of(bench, order, _slice(order, group, sampled.width))
        begin, carried, sampled = _first(bench, performer, inputs, sampled.width)
    # Looking for a trial that fails takes many calls: they are left out from here on.
    bad = sampled.outcomes == Outcome.RAISED
    carried.outcomes[bad] = Outcome.RAISED
    carried.messages.update(sampled.messages)
    segment, sampled = _timed(lambda: performer.sample(carried, 0), REPEATS)
    phases = ["initialize", *["adapt"] * bool(sampling.warmup), *["discard"] * bool(sampling.discard), "sample"]
    program = bench.program(group, sampled.width)
    ok = np.isin(sampled.outcomes, (Outcome.OK, Outcome.NAN))
    facts = {
        "width": sampled.width,
        "begin": begin,
        "segment": segment,
        "compile": program.compile_seconds,
        "memory": program.memory(*phases),
        "failed": not ok.any(),
        "said": next(iter(sampled.messages.values()), "no trial brought anything"),
    }
    outputs = {name: rows[ok] for name, rows in sampled.outputs.items()} if ok.any() else {}
    return {**facts, **_writing(bench, group, outputs)}


def _slice(order: Order, group: Group, width: int) -> npt.NDArray[np.bool_]:
    """Lanes of a single call: those of the slice that has most of what may be tried."""
    ready = np.zeros(group.batch, bool)
    ready[list(order.lanes or range(group.size(order.batch)))] = True
    first = width * int(ready.reshape(-1, width).sum(axis=1).argmax())
    place = np.arange(group.batch)
    return ready & (place >= first) & (place < first + width)


def _first(bench: Bench, performer: Performer, inputs: Inputs, width: int) -> tuple[float, Carried, Carried]:
    """Seconds of a call before its first segment, its state then, and that segment."""
    sampling = bench.plan.sampling
    seconds, carried = _timed(lambda: performer.begin(inputs, width), 2)
    for phase, steps in (("adapt", sampling.warmup), ("discard", sampling.discard * sampling.thin)):
        more, carried = _warmed(performer, carried, phase, steps)
        seconds += more
    return seconds, carried, performer.sample(carried, 0)


def _warmed(performer: Performer, carried: Carried, phase: str, steps: int) -> tuple[float, Carried]:
    """Seconds of a warm-up, and what it leads to: of as many of its steps as `WARM_SECONDS` allow."""
    if not steps:
        return 0.0, carried
    few, before = 1, carried
    while True:
        seconds, carried = _timed(functools.partial(performer.warm, before, phase, 0, few), 1)
        if few == steps or seconds * 8 > WARM_SECONDS:
            return seconds * steps / few, carried
        few = min(steps, 4 * few)


def _plain(bench: Bench, order: Order, group: Group) -> dict[str, Any]:
    """Plain Python: trials one by one."""
    loop = loop_of(bench, order)
    lanes = list(order.lanes or range(group.size(order.batch)))[:PLAIN_TRIALS]
    loop.outcomes[:] = Outcome.PADDING
    loop.outcomes[lanes] = Outcome.MISSING
    began = time.perf_counter()

    @contextlib.contextmanager
    def guard(tried: list[int]) -> Iterator[None]:
        with start_mark(order.root).on(order.batch_id, order.attempt, tried, bench.plan.timeout):
            yield

    loop.run(lanes, guard, lambda: time.perf_counter() - began >= PLAIN_SECONDS)
    ok = np.isin(loop.outcomes, (Outcome.OK, Outcome.NAN))
    tried = [lane for lane in lanes if loop.outcomes[lane] != Outcome.MISSING]
    facts = {
        "width": 1,
        "begin": 0.0,
        "segment": loop.spent / max(len(tried), 1),
        "compile": 0.0,
        "memory": None,
        "failed": not ok.any(),
        "said": next(iter(loop.messages.values()), "no trial brought anything"),
    }
    return {**facts, **_writing(bench, group, {name: rows[ok] for name, rows in loop.outputs.items()})}


def _timed(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The median of some tries, and what came of the last; the first, which may compile, does not count."""
    result, took, began = action(), list[float](), time.perf_counter()
    for _ in range(repeats):
        started = time.perf_counter()
        result = action()
        took.append(time.perf_counter() - started)
        if time.perf_counter() - began > REPEAT_SECONDS:
            break
    return float(np.median(took)), result


def _writing(bench: Bench, group: Group, outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """Bytes a trial takes in the hot store, and the seconds it takes to write one, as part of a whole batch."""
    rows = len(next(iter(outputs.values()), ()))
    if not rows:
        return {"stored": 0.0, "write": 0.0}
    segments = bench.plan.sampling.segments
    folder = bench.workspace.state / "pilot"
    layout = group_layout(bench.plan, replace(group, trials=rows, batch=rows))
    identity = np.zeros((rows, 4), np.uint32)
    names = layout.attributes["parameters"]
    columns = {name: np.zeros(rows, np.int64) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    store = HotStore.create(folder / f"{group.name}.zarr", layout, identity, ["0" * 32] * rows, columns)

    def write(data: Mapping[str, npt.NDArray[Any]]) -> int:
        paths = [store.write(name, 0, 0, values, folder / "scratch") for name, values in data.items()]
        return sum(path.stat().st_size for path in paths if path.exists())

    words = {array.name: array.dtype for array in layout.arrays}
    single = {name: _only_first(values, words[name]) for name, values in outputs.items()}
    least, _ = _timed(lambda: write(single), 1)
    whole, size = _timed(lambda: write(outputs), 1)
    status, sums = np.ones(rows, np.uint8), np.zeros((segments, len(layout.arrays)), np.uint32)
    commit, _ = _timed(lambda: store.commit(0, status, sums, np.zeros(rows, np.float32)), 1)
    each = max(whole - least, 0.0) / rows
    return {"stored": size * segments / rows, "write": each * segments + (least * segments + commit) / group.batch}


def _only_first(values: npt.NDArray[Any], word: str) -> npt.NDArray[Any]:
    """The same with a single trial in it."""
    rest = blank(values.shape, word)
    rest[0] = values[0]
    return rest


def _limit() -> int:
    """Bytes this worker's device has: its own memory, or its share of the machine's."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        limit = get_worker().memory_manager.memory_limit
        return int(stats.get("bytes_limit") or limit or psutil.virtual_memory().total)
    return int(stats.get("bytes_limit") or psutil.virtual_memory().total)


# --- on the driver ---------------------------------------------------------------------------------


def pilot(prepared: Prepared, *, tell: Tell = lambda text: None, patience: float | None = None) -> list[Cost]:
    """Measure what the programs of a campaign take on a worker of each of its pools that sample.

    Arguments:
    - `tell`: told what is being waited for.
    - `patience`: seconds a worker may take to come; by default `execution.patience`.

    Raises `PluginError` where all trials of a program fail, `ConfigError` where not one fits the device,
    `ClusterError` where no worker comes or stays.
    """
    config, plan = prepared.declaration.campaign, prepared.plan
    wait = config.execution.patience if patience is None else patience
    root = Path(config.storage.root).absolute()
    _sweep(root)
    with _interruptible(), _folder(root) as workspace, Lease.acquire(workspace.lease) as lease:
        create(prepared, workspace)
        chosen = _chosen(plan)
        orders = [_order(workspace, prepared, number) for number in chosen]
        tell(f"measuring {len(chosen)} of {number_of(plan)} programs")
        few = replace(prepared.declaration, campaign=config.model_copy(update={"cluster": _single(config.cluster)}))
        with _until_jobs_end(workspace, few.campaign.cluster), workers_of(workspace, few, None, Stop(), 1) as pool:
            names = [name for name, shape in few.campaign.cluster.pools.items() if SAMPLE in shape.work] or [""]
            visit = _Visit(pool, lease, tell, wait)
            return [_cost(plan, order, visit, member) for member in map(visit.member, names) for order in orders]


def number_of(plan: Plan) -> int:
    """Programs there are."""
    return len({program_of(plan, group) for group in plan.groups})


def _chosen(plan: Plan) -> list[int]:
    """The groups that are measured: one a program, spread over all of them if there are many."""
    first: dict[str, int] = {}
    for number, group in enumerate(plan.groups):
        first.setdefault(program_of(plan, group), number)
    found = sorted(first.values())
    places = np.unique(np.linspace(0, len(found) - 1, min(PROGRAMS, len(found))).round().astype(int))
    return [found[place] for place in places]


def _order(workspace: Workspace, prepared: Prepared, number: int) -> Order:
    """The batch in the middle of a group (the first is often an extreme), but for trials that wait for an input.

    Where all of its trials wait, the nearest of which some do not.
    """
    plan, group, lanes = prepared.plan, prepared.plan.groups[number], None
    batch = middle = (group.batches - 1) // 2
    if plan.inputs:
        outwards = sorted(range(group.batches), key=lambda one: abs(one - middle))
        found = ((one, _ready(prepared, number, one)) for one in outwards)
        batch, lanes = next(((one, ready) for one, ready in found if ready), (middle, None))
    return Order(str(workspace.root), plan_digest(plan), plan.generation, number, batch, lanes=lanes)


def _ready(prepared: Prepared, number: int, batch: int) -> tuple[int, ...]:
    """Lanes of a batch that do not wait for an input."""
    plan, rows = prepared.plan, prepared.rows
    group = plan.groups[number]
    members = rows.members(number)[batch * group.batch :][: group.size(batch)]
    asked = names_in(plan.inputs, ["replicate", *(name for name, _ in plan.parameters)])
    columns = {name: rows.column(name, members) if name != "replicate" else rows.replicate(members) for name in asked}
    return tuple(int(lane) for lane in np.flatnonzero(~without(plan.inputs, columns, len(members))))


def _sweep(root: Path) -> None:
    """Remove what pilots left that were killed."""
    for folder in root.glob(f"{FOLDER}*") if root.is_dir() else ():
        with contextlib.suppress(OSError):
            holder = read_lease(Workspace(folder).lease)
            late = time.time() - folder.stat().st_mtime > SILENCE_SECONDS
            if late if holder is None else not holder.alive():
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _folder(root: Path) -> Iterator[Workspace]:
    """A campaign's folder for the time being."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    path = root / f"{FOLDER}{os.urandom(3).hex()}"
    try:
        yield Workspace.create(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Being ended is like Ctrl-C: nothing may stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _until_jobs_end(workspace: Workspace, machine: ClusterConfig) -> Iterator[None]:
    """Leave only when SLURM says that the jobs are over: their last word is a file in the folder."""
    try:
        yield
    finally:
        if machine.kind == "slurm":
            from staffa.execution.slurm.commands import Slurm, SlurmError
            from staffa.execution.slurm.pool import launch_of
            from staffa.execution.slurm.script import job_name

            launch, until = launch_of(workspace, workspace.root.name, machine, {}), time.monotonic() + JOBS_SECONDS
            names = [job_name(launch, pool) for pool in machine.pools]
            with contextlib.suppress(SlurmError):
                while time.monotonic() < until and not all(task.over for task in Slurm().tasks(names)):
                    time.sleep(5 * LOOK_SECONDS)


def _single(machine: ClusterConfig) -> ClusterConfig:
    """The same cluster with a single worker in each pool that samples."""
    pools = {
        name: pool.model_copy(update={"workers": int(SAMPLE in pool.work)}) for name, pool in machine.pools.items()
    }
    workers = 1 if machine.kind == "local" else machine.workers
    return machine.model_copy(update={"pools": pools, "workers": workers, "dashboard": False})


@dataclass
class _Visit:
    """The pilot's time with the workers: keeps lease and pool alive while it waits for them."""

    pool: Pool
    lease: Lease
    tell: Tell
    patience: float
    beaten: float = 0.0

    def turn(self, busy: frozenset[str] = frozenset()) -> None:
        if time.monotonic() - self.beaten > BEAT_SECONDS:
            self.lease.beat()
            self.beaten = time.monotonic()
        self.pool.turn(Demand(batches=1, busy=busy))
        time.sleep(LOOK_SECONDS)

    def member(self, name: str) -> Member:
        """A worker of a pool (any, for an empty name), once there is one."""
        until, told = time.monotonic() + self.patience, False
        while time.monotonic() < until:
            found = [member for member in self.pool.members().values() if name in ("", member.pool)]
            if found:
                return found[0]
            if not told:
                self.tell(f"waiting for a worker{f' of pool {name}' if name else ''}")
                told = True
            self.turn()
        why = self.pool.trouble()
        raise ClusterError(
            f"no worker{f' of pool {name!r}' if name else ''} came within {self.patience:.0f} s"
            f"{f'; {why}' if why else ''}",
            "see squeue --me, or raise execution.patience",
        )

    def result(self, order: Order, member: Member, group: Group) -> dict[str, Any]:
        """What the pilot found on a worker. Raises what it met there, in words."""
        with dask.annotate(executor="device", workers=[member.address], allow_other_workers=False):
            key = f"pilot-g{order.group}-{member.pool or 'local'}"
            task = delayed(measure, pure=False)(order, dask_key_name=key)
        future = self.pool.client.compute(task)
        while not future.done():
            if member.address not in self.pool.members():
                raise _gone(group, member.pool)
            self.turn(frozenset({member.name}))
        if future.status != "finished":
            raise _refusal(future.exception(), group, member.pool)
        facts: dict[str, Any] = future.result()
        return facts


def _cost(plan: Plan, order: Order, visit: _Visit, member: Member) -> Cost:
    group = plan.groups[order.group]
    facts = visit.result(order, member, group)
    if facts.pop("failed"):
        raise PluginError(
            f"experiment: the pilot's trials of {group.sampler} ({group.name}) all failed: {facts['said']}",
            "mend the model; or plan without --pilot",
        )
    facts.pop("said")
    return Cost(
        program=program_of(plan, group),
        sampler=group.sampler,
        pool=member.pool,
        source=PILOT,
        steps=segment_steps(plan, group),
        warm=warm_steps(plan, group),
        plain=bytes_per_trial(group, plan.sampling.draws),
        lane=lane_bytes(plan, group),
        **facts,
    )


def _refusal(error: BaseException | None, group: Group, pool: str) -> Exception:
    where = f" of pool {pool!r}" if pool else ""
    if "RESOURCE_EXHAUSTED" in str(error):
        return ConfigError(
            f"execution.segments: not one trial of {group.sampler} fits the device of a worker{where}: {error}",
            "raise execution.segments, record less, or use devices with more memory: one trial has to fit one device",
        )
    if type(error).__name__ in ("KilledWorker", "FutureCancelledError", "CancelledError"):
        return _gone(group, pool)
    return error if isinstance(error, Exception) else ClusterError(f"the pilot failed: {error}")


def _gone(group: Group, pool: str) -> ClusterError:
    where = f" of pool {pool!r}" if pool else ""
    return ClusterError(
        f"the pilot's trials of {group.sampler} took their worker{where} down, or ran past execution.timeout",
        "mend the model, or plan without --pilot",
    )
