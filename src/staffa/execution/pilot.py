"""A pilot: a few trials on a worker of the target pool, to find out what a campaign will take.

Everything stands in a temporary folder beside the campaigns, so that the disk is the right one, and
is gone afterwards. What was compiled stays in the compile cache: the run finds it there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import psutil
from dask.delayed import delayed

from staffa.campaign.cost import Cost, program_of, segment_steps
from staffa.campaign.machine import ClusterConfig
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.execution.bench import Bench, Order, bench_errors, bench_of, device_kind
from staffa.execution.cluster import local_pool
from staffa.execution.ending import Stop
from staffa.execution.pool import SAMPLE, Demand, Member, Pool
from staffa.execution.prepare import Prepared, create, group_layout, plan_digest
from staffa.execution.work import inputs_of, loop_of
from staffa.experiment.batch import Carried, Performer
from staffa.experiment.environment import worker_environment
from staffa.storage.hot import HotStore
from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

FOLDER = ".pilot-"
PROGRAMS = 8
"""Programs that are measured; the others are taken to be like them."""
PLAIN_TRIALS, PLAIN_SECONDS = 5, 20.0
"""Trials of plain Python that are measured, unless they take longer than this together."""
REPEATS, REPEAT_SECONDS = 3, 2.0
"""A segment is measured so often, as long as that takes no longer."""
LOOK_SECONDS = 0.5

Tell = Callable[[str], None]


# --- on the worker ---------------------------------------------------------------------------------


def measure(order: Order) -> dict[str, Any]:
    """Compile a group's program here, run a slice of it for one segment and write that down, with a clock in hand.

    Returns `width`, `begin`, `segment`, `compile`, `write`, `stored`, `memory` (see `Cost`), `limit`,
    `device`, and `failed`: what the trials said that failed, if all of them did.
    """
    bench = bench_of(order)
    group = bench.group(order.group)
    with bench_errors():
        found = _plain(bench, order, group) if group.vectorize == "off" else _compiled(bench, order, group)
    return {**found, "device": device_kind() if group.vectorize != "off" else "cpu", "limit": _limit()}


def _compiled(bench: Bench, order: Order, group: Group) -> dict[str, Any]:
    sampling, performer = bench.plan.sampling, bench.performer(order)
    width = bench.width(group)
    lanes = np.arange(group.batch) < min(width, group.size(0))
    inputs = inputs_of(bench, order, lanes)
    initialize, carried = _timed(lambda: performer.begin(inputs, width), 2)
    begin = initialize + _warming(performer, carried, "adapt", sampling.warmup, segment_steps(bench.plan))
    begin += _warming(performer, carried, "discard", sampling.discard * sampling.thin, segment_steps(bench.plan))
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
        "failed": None if ok.any() else next(iter(sampled.messages.values()), "no trial brought anything"),
    }
    outputs = {name: rows[ok] for name, rows in sampled.outputs.items()} if ok.any() else {}
    return {**facts, **_writing(bench, group, outputs)}


def _warming(performer: Performer, carried: Carried, phase: str, steps: int, few: int) -> float:
    """Seconds of a warm-up, from a few of its steps."""
    if not steps:
        return 0.0
    few = min(steps, max(few, 1))
    performer.warm(carried, phase, 0, 1)  # compiles
    seconds, _ = _timed(lambda: performer.warm(carried, phase, 0, few), 1)
    return seconds * steps / few


def _plain(bench: Bench, order: Order, group: Group) -> dict[str, Any]:
    """Plain Python: trials one by one."""
    loop = loop_of(bench, order)
    loop.outcomes[:] = Outcome.PADDING
    loop.outcomes[: min(PLAIN_TRIALS, group.size(0))] = Outcome.MISSING
    began = time.perf_counter()
    lanes = [int(lane) for lane in np.flatnonzero(loop.outcomes == Outcome.MISSING)]
    loop.run(lanes, lambda _: contextlib.nullcontext(), lambda: time.perf_counter() - began < PLAIN_SECONDS)
    ok = np.isin(loop.outcomes, (Outcome.OK, Outcome.NAN))
    tried = [lane for lane in lanes if loop.outcomes[lane] != Outcome.MISSING]
    facts = {
        "width": 1,
        "begin": 0.0,
        "segment": loop.spent / max(len(tried), 1),
        "compile": 0.0,
        "memory": None,
        "failed": None if ok.any() else next(iter(loop.messages.values()), "no trial brought anything"),
    }
    return {**facts, **_writing(bench, group, {name: rows[ok] for name, rows in loop.outputs.items()})}


def _timed(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The shortest of some tries, and what came of the last; the first, which may compile, does not count."""
    result, best, began = action(), float("inf"), time.perf_counter()
    for _ in range(repeats):
        started = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() - began > REPEAT_SECONDS:
            break
    return best, result


def _writing(bench: Bench, group: Group, outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """Bytes a trial takes in the hot store, and the seconds it takes to write one, as part of a whole batch."""
    rows = len(next(iter(outputs.values()), ()))
    if not rows:
        return {"stored": 0.0, "write": 0.0}
    segments = bench.plan.sampling.segments
    folder = bench.workspace.state / "pilot"
    layout = group_layout(bench.plan, replace(group, trials=rows, batch=rows))
    words = np.zeros((rows, 4), np.uint32)
    names = layout.attributes["parameters"]
    columns = {name: np.zeros(rows, np.int64) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    store = HotStore.create(folder / f"{group.name}.zarr", layout, words, ["0" * 32] * rows, columns)

    def write(data: Mapping[str, npt.NDArray[Any]]) -> int:
        paths = [store.write(name, 0, 0, values, folder / "scratch") for name, values in data.items()]
        return sum(path.stat().st_size for path in paths if path.exists())

    single = {name: _only_first(values) for name, values in outputs.items()}
    least, _ = _timed(lambda: write(single), 1)
    whole, size = _timed(lambda: write(outputs), 1)
    status, sums = np.ones(rows, np.uint8), np.zeros((segments, len(layout.arrays)), np.uint32)
    commit, _ = _timed(lambda: store.commit(0, status, sums, np.zeros(rows, np.float32)), 1)
    each = max(whole - least, 0.0) / rows
    return {"stored": size * segments / rows, "write": each * segments + (least * segments + commit) / group.batch}


def _only_first(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same with a single trial in it."""
    fill = np.nan if np.issubdtype(values.dtype, np.inexact) else 0
    rest = np.full_like(values, fill)
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
    config = prepared.declaration.campaign
    wait = config.execution.patience if patience is None else patience
    with _folder(Path(config.storage.root).absolute()) as workspace, Lease.acquire(workspace.lease) as lease:
        create(prepared, workspace)
        chosen = _chosen(prepared.plan)
        tell(f"measuring {len(chosen)} of {len({program_of(group) for group in prepared.plan.groups})} programs")
        with _pool(workspace, config) as (pool, names):
            costs: list[Cost] = []
            for name in names:
                member = _member(pool, name, wait, tell, lease)
                for number in chosen:
                    costs.append(_cost(workspace, prepared.plan, number, pool, member, name, lease))
            return costs


def _chosen(plan: Plan) -> list[int]:
    """The groups that are measured: one a program, spread over all of them if there are many."""
    first: dict[str, int] = {}
    for number, group in enumerate(plan.groups):
        first.setdefault(program_of(group), number)
    found = sorted(first.values())
    places = np.unique(np.linspace(0, len(found) - 1, min(PROGRAMS, len(found))).round().astype(int))
    return [found[place] for place in places]


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
def _pool(workspace: Workspace, config: CampaignConfig) -> Iterator[tuple[Pool, Sequence[str]]]:
    """One worker of each pool that samples, and the pools' names."""
    machine, title = config.cluster, workspace.root.name
    environment = worker_environment(config.execution.x64, config.execution.prng)
    quiet = machine.model_copy(update={"dashboard": False})
    if machine.kind == "slurm":
        from staffa.execution.slurm.pool import slurm_pool

        few = _single(quiet)
        with slurm_pool(workspace, title, few, environment, 1) as slurm:
            yield slurm, [name for name, shape in few.pools.items() if SAMPLE in shape.work]
    elif machine.kind == "allocation":
        from staffa.execution.slurm.allocation import allocation_pool

        with allocation_pool(workspace, title, quiet, environment, Stop()) as allocated:
            yield allocated, [""]
    else:
        with local_pool(workspace, 1, environment, memory=machine.memory, dashboard=False, port=0) as local:
            yield local, [""]


def _single(machine: ClusterConfig) -> ClusterConfig:
    """The same cluster with a single worker in each pool that samples."""
    pools = {
        name: pool.model_copy(update={"workers": int(SAMPLE in pool.work)}) for name, pool in machine.pools.items()
    }
    return machine.model_copy(update={"pools": pools})


def _member(pool: Pool, name: str, patience: float, tell: Tell, lease: Lease) -> Member:
    """A worker of a pool, once there is one."""
    until, told = time.monotonic() + patience, False
    while time.monotonic() < until:
        lease.beat()
        pool.turn(Demand(batches=1))
        found = [member for member in pool.members().values() if name in ("", member.pool)]
        if found:
            return found[0]
        if not told:
            tell(f"waiting for a worker{f' of pool {name}' if name else ''}")
            told = True
        time.sleep(LOOK_SECONDS)
    why = pool.trouble()
    raise ClusterError(
        f"no worker{f' of pool {name!r}' if name else ''} came within {patience:.0f} s{f'; {why}' if why else ''}",
        "squeue --me, or: staffa doctor --cluster NAME",
    )


def _cost(workspace: Workspace, plan: Plan, number: int, pool: Pool, member: Member, name: str, lease: Lease) -> Cost:
    group = plan.groups[number]
    order = Order(str(workspace.root), plan_digest(plan), plan.generation, number, 0)
    with dask.annotate(executor="device", workers=[member.address], allow_other_workers=False):
        task = delayed(measure, pure=False)(order, dask_key_name=f"pilot-g{number}-{name or 'local'}")
    future = pool.client.compute(task)
    while not future.done():
        lease.beat()
        pool.turn(Demand(batches=1, busy=frozenset({member.name})))
        time.sleep(LOOK_SECONDS / 5)
    if future.status != "finished":
        raise _refusal(future.exception(), group, name)
    facts = future.result()
    if facts["failed"]:
        raise PluginError(
            f"the pilot's trials of {group.sampler} ({group.name}) all failed: {facts['failed']}",
            "mend the model; or plan without --pilot",
        )
    return Cost(
        program_of(group),
        group.sampler,
        name,
        facts["device"],
        "pilot",
        facts["width"],
        facts["begin"],
        facts["segment"],
        segment_steps(plan),
        facts["compile"],
        facts["write"],
        facts["stored"],
        None,
        facts["memory"],
        facts["limit"],
    )


def _refusal(error: BaseException | None, group: Group, pool: str) -> Exception:
    where = f" of pool {pool!r}" if pool else ""
    if "RESOURCE_EXHAUSTED" in str(error):
        return ConfigError(
            f"execution.width: not one trial of {group.sampler} fits the device of a worker{where}: {error}",
            "raise execution.segments, record less, or use devices with more memory: one trial has to fit one device",
        )
    if type(error).__name__ == "KilledWorker":
        return ClusterError(
            f"the pilot's trials of {group.sampler} took their worker{where} down, or ran past execution.timeout",
            "look at the worker's log, or plan without --pilot",
        )
    return error if isinstance(error, Exception) else ClusterError(f"the pilot failed: {error}")
