"""What a campaign will take: memory, bytes, hours; and the refusal of what cannot fit. Pure.

A `Cost` is what a program takes on one kind of worker: measured by a pilot, or read from the
receipts of a run. Without any, only what follows from shapes is known.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from staffa.campaign.machine import shapes
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan, bytes_per_trial
from staffa.errors import ConfigError
from staffa.trial import Outcome, canonical

DISK_THREADS = 2
"""Writes a worker does at a time, beside its device."""
COPIES = 4
"""Of what a lane carries and records, as long as nothing is measured: state and outputs, old and new."""
ARCHIVE_SHARE = 1.1
"""Bytes of the archive for each byte of the hot store, unless a run has told."""
STARTUP_SECONDS = 5.0
"""Until the first local worker is there."""
MARGIN, SETTLE_SECONDS = 1.1, 3.0
"""What has to end before a job is cut off gets so much more time than it took."""
HOUR = 3600.0
UNITS = {"gpu_hours": "GPU-hours", "node_hours": "node-hours", "hours": "hours"}


@dataclass(frozen=True)
class Cost:
    """What a program takes on the workers of one pool.

    Arguments:
    - `program`: see `program_of`; `sampler`: the experiment's reference.
    - `source`: `pilot`, or the folder of the run whose receipts were read.
    - `width`: lanes of one call; 1 for plain Python.
    - `begin`: seconds of a call before its first segment: initialize and warm-up.
    - `segment`: seconds of a call for one segment of `steps` steps.
    - `compile`: seconds until its programs are there, the first time.
    - `write`: seconds a trial takes on the disk.
    - `stored`, `archived`: bytes of a trial in the hot store and in the archive (None: not known).
    - `memory`: bytes of the device that a call takes; `limit`: what the device has (None: not known).
    """

    program: str
    sampler: str
    pool: str
    device: str
    source: str
    width: int
    begin: float
    segment: float
    steps: int
    compile: float
    write: float
    stored: float
    archived: float | None = None
    memory: int | None = None
    limit: int | None = None

    def calls(self, trials: int) -> int:
        """Calls of the device it takes for so many trials of a batch."""
        return math.ceil(trials / self.width)

    def device_seconds(self, trials: int, segments: int) -> float:
        """Seconds a batch of so many trials is on the device."""
        return self.calls(trials) * (self.begin + segments * self.segment)

    def period(self, trials: int, segments: int) -> float:
        """Seconds after which a worker that is kept busy has done the next such batch: it writes meanwhile."""
        return max(self.device_seconds(trials, segments), trials * self.write / DISK_THREADS)

    def memory_at(self, width: int) -> int | None:
        """Bytes of the device that `width` lanes take, in proportion."""
        return None if self.memory is None else math.ceil(self.memory * width / self.width)

    def scaled(self, steps: int) -> Cost:
        """The same for segments of another length."""
        return replace(self, segment=self.segment * steps / max(self.steps, 1), steps=steps)


@dataclass(frozen=True)
class Seats:
    """The workers of a pool that sample.

    Arguments:
    - `gpus`, `nodes`: how many they hold together; `gpus` is None where that shows only there.
    - `walltime`: seconds of a job; None for ever. `memory`: bytes each worker may take, None: not known.
    """

    pool: str
    workers: int
    nodes: int
    gpus: int | None = None
    walltime: float | None = None
    memory: int | None = None


def program_of(group: Group) -> str:
    """What is compiled for a group, its width and the lengths of its segments apart."""
    return canonical([group.experiment, group.static, group.traced, group.vectorize])


def segment_steps(plan: Plan) -> int:
    """Steps of one segment."""
    sampling = plan.sampling
    return sampling.thin if sampling.draws is None else sampling.thin * (sampling.draws // sampling.segments)


def seats(config: CampaignConfig) -> list[Seats]:
    """The workers a campaign asks for."""
    cluster = config.cluster
    if cluster.kind == "slurm":
        found = {name: shape for name, shape in shapes(cluster).items() if "sample" in shape.work}
        return [
            Seats(
                name,
                shape.workers,
                shape.jobs(shape.workers) * shape.nodes,
                shape.jobs(shape.workers) * shape.nodes * shape.gpus,
                shape.walltime,
                shape.memory // shape.workers_per_node if not shape.gpus else None,
            )
            for name, shape in found.items()
        ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = cluster.workers or config.execution.workers or cores
    return [Seats("", workers, 1, None, None, cluster.memory)]


def matched(plan: Plan, costs: Sequence[Cost], pool: str) -> tuple[dict[int, Cost], int]:
    """The cost of each group on a pool's workers, and of how many groups it is not their own.

    A group whose program was not measured gets the mean of those of its experiment, or of all.
    """
    steps, found, guessed = segment_steps(plan), {}, 0
    there = [cost.scaled(steps) for cost in costs if cost.pool == pool] or [cost.scaled(steps) for cost in costs]
    for number, group in enumerate(plan.groups):
        own = [cost for cost in there if cost.program == program_of(group)]
        if not own and there:
            guessed += 1
            own = [_mean([cost for cost in there if cost.sampler == group.sampler] or there)]
        if own:
            found[number] = own[0]
    return found, guessed


def _mean(costs: Sequence[Cost]) -> Cost:
    def mean(name: str) -> float:
        return float(np.mean([getattr(cost, name) for cost in costs]))

    if len(costs) == 1:
        return costs[0]
    return replace(
        costs[0],
        begin=mean("begin"),
        segment=mean("segment"),
        compile=mean("compile"),
        write=mean("write"),
        stored=mean("stored"),
    )


# --- the estimate ----------------------------------------------------------------------------------


def estimate(plan: Plan, config: CampaignConfig, costs: Sequence[Cost]) -> dict[str, Any]:
    """What a campaign will take, as far as it can be known.

    Arguments:
    - `costs`: none for what follows from shapes alone.

    Returns `source` (`shapes`, `pilot`, or the run whose receipts were read), `measured` (whether
    there were any costs), `guessed` (groups without a cost of their own), `bytes` (`hot`, `archive`),
    `memory` (see `_memory`), `hours` (None where nobody can tell; see `_hours`), `budget`.
    """
    workers = seats(config)
    table = {seat.pool: matched(plan, costs, seat.pool) for seat in workers}
    first, guessed = table[workers[0].pool] if workers else ({}, 0)
    hours = _hours(plan, workers, {pool: found for pool, (found, _) in table.items()}) if costs else None
    return {
        "source": costs[0].source if costs else "shapes",
        "measured": bool(costs),
        "guessed": guessed,
        "bytes": _bytes(plan, first),
        "memory": _memory(plan, workers, {pool: found for pool, (found, _) in table.items()}),
        "hours": hours,
        "budget": _budget(config, hours),
    }


def _bytes(plan: Plan, costs: Mapping[int, Cost]) -> dict[str, int]:
    """Bytes on disk when all is done: uncompressed where nothing was measured."""
    hot = archive = 0.0
    for number, group in enumerate(plan.groups):
        cost, plain = costs.get(number), bytes_per_trial(group, plan.sampling.draws)
        stored = cost.stored if cost is not None else plain
        told = cost.archived if cost is not None else None
        hot += stored * group.trials
        archive += (told if told is not None else stored * ARCHIVE_SHARE) * group.trials
    return {"hot": int(hot), "archive": int(archive)}


def lane_bytes(plan: Plan, group: Group) -> int:
    """What one lane carries and records in a segment."""
    draws = plan.sampling.draws
    recorded = bytes_per_trial(group, None if draws is None else draws // plan.sampling.segments)
    return recorded + group.state_bytes


def _memory(plan: Plan, workers: Sequence[Seats], costs: Mapping[str, Mapping[int, Cost]]) -> list[dict[str, Any]]:
    """The largest program of each pool: `pool`, `group`, `width`, `bytes` at that width, `per_trial`, `limit`, `fits`
    (lanes that fit), `measured`."""
    found = []
    for seat in workers:
        rows = [_memory_of(plan, number, seat, costs.get(seat.pool, {}).get(number)) for number in _compiled(plan)]
        found += [max(rows, key=lambda row: row["per_trial"])] if rows else []
    return found


def _compiled(plan: Plan) -> list[int]:
    return [number for number, group in enumerate(plan.groups) if group.vectorize != "off"]


def _memory_of(plan: Plan, number: int, seat: Seats, cost: Cost | None) -> dict[str, Any]:
    group = plan.groups[number]
    measured = cost is not None and cost.memory is not None
    if cost is not None and cost.memory is not None:
        width, size, limit = cost.width, cost.memory, cost.limit
    else:
        width = group.batch if plan.width == "auto" else min(int(plan.width), group.batch)
        size, limit = COPIES * lane_bytes(plan, group) * width, seat.memory
    each = max(math.ceil(size / width), 1)
    return {
        "pool": seat.pool,
        "group": group.name,
        "width": width,
        "bytes": size,
        "per_trial": each,
        "limit": limit,
        "fits": limit // each if limit is not None else None,
        "measured": measured,
    }


def _hours(plan: Plan, workers: Sequence[Seats], costs: Mapping[str, Mapping[int, Cost]]) -> dict[str, Any]:
    """Hours by the clock (`wall`, time in the queue apart), on the device, and held.

    Held are `worker`, `node`, `gpu` (None where no worker says that it has one); `compile`: seconds to
    compile everything once."""
    segments = plan.sampling.segments
    seconds = device = longest = 0.0
    for number, group in enumerate(plan.groups):
        last = group.size(group.batches - 1)
        rate = 0.0  # full batches a second, all workers together
        for seat in workers:
            cost = costs[seat.pool][number]
            period = max(cost.period(group.batch, segments), 1e-6)
            rate += seat.workers / period
            longest = max(longest, period + group.batch * cost.write)
        some = costs[workers[0].pool][number]
        share = some.device_seconds(last, segments) / max(some.device_seconds(group.batch, segments), 1e-9)
        seconds += (group.batches - 1 + share) / rate
        full = some.device_seconds(group.batch, segments) * (group.batches - 1)
        device += full + some.device_seconds(last, segments)
    compiling = {cost.program: cost.compile for cost in costs[workers[0].pool].values()}
    total = sum(seat.workers for seat in workers)
    compile_seconds = max(max(compiling.values(), default=0.0), sum(compiling.values()) / max(total, 1))
    wall = STARTUP_SECONDS + compile_seconds + max(seconds, longest)
    gpus = [seat.gpus if seat.gpus is not None else seat.workers * _on_gpu(costs[seat.pool]) for seat in workers]
    return {
        "wall": wall / HOUR,
        "device": device / HOUR,
        "worker": wall * total / HOUR,
        "node": wall * sum(seat.nodes for seat in workers) / HOUR,
        "gpu": wall * sum(gpus) / HOUR if sum(gpus) else None,
        "compile": sum(compiling.values()),
        "workers": total,
    }


def _on_gpu(costs: Mapping[int, Cost]) -> bool:
    return any(cost.device and cost.device.lower() != "cpu" for cost in costs.values())


def _budget(config: CampaignConfig, hours: Mapping[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """For each limit of the budget what it is, and what the campaign would need."""
    names = {"gpu_hours": "gpu", "node_hours": "node", "hours": "wall"}
    limits = {name: getattr(config.execution.budget, name) for name in names}
    return {
        name: {"limit": limit, "needed": (hours or {}).get(names[name])}
        for name, limit in limits.items()
        if limit is not None
    }


# --- refusals --------------------------------------------------------------------------------------


def refuse(
    plan: Plan, config: CampaignConfig, costs: Sequence[Cost], *, room: int | None, inodes: int | None, files: int
) -> None:
    """Refuse what cannot fit, naming the field that asks for it.

    Arguments:
    - `room`, `inodes`: what is free where the campaign is to stand (None: not known).
    - `files`: inodes of the whole campaign.

    Raises `ConfigError`.
    """
    workers = seats(config)
    table = {seat.pool: matched(plan, costs, seat.pool)[0] for seat in workers}
    for seat in workers:
        for number in _compiled(plan):
            _check_memory(plan, number, seat, table[seat.pool].get(number))
    for seat in workers:
        for number, cost in table[seat.pool].items():
            _check_walltime(plan, number, seat, cost)
    _check_room(config, _bytes(plan, table[workers[0].pool] if workers else {}), bool(costs), room, inodes, files)


def _check_memory(plan: Plan, number: int, seat: Seats, cost: Cost | None) -> None:
    group = plan.groups[number]
    where = f" of pool {seat.pool!r}" if seat.pool else ""
    if cost is not None and cost.memory is not None:
        needs, has = cost.memory_at(1) or 0, cost.limit
    else:
        # Less than that it cannot be, whatever the program does with it.
        needs, has = lane_bytes(plan, group), seat.memory
    if has is not None and needs > has:
        raise ConfigError(
            f"execution.segments: {plan.sampling.segments}, and one trial of {group.sampler} takes {gibibytes(needs)} "
            f"in a segment; a worker{where} has {gibibytes(has)}",
            "raise execution.segments, record less, or use devices with more memory: one trial has to fit one device",
        )


def _check_walltime(plan: Plan, number: int, seat: Seats, cost: Cost) -> None:
    if seat.walltime is None:
        return
    group, calls = plan.groups[number], cost.calls(plan.groups[number].batch)
    needs = cost.compile + MARGIN * calls * (cost.begin + cost.segment) + SETTLE_SECONDS
    if needs > seat.walltime:
        raise ConfigError(
            f"cluster.pools.{seat.pool}.walltime: {seat.walltime:.0f} s, but a batch of {group.batch} trials of "
            f"{group.sampler} takes {needs:.0f} s to its first checkpoint, by the measure of {cost.source}",
            "raise the walltime or execution.segments, or lower execution.batch",
        )


def _check_room(
    config: CampaignConfig, needed: Mapping[str, int], measured: bool, room: int | None, inodes: int | None, files: int
) -> None:
    total, root = sum(needed.values()), config.storage.root
    if room is not None and total > room:
        how = "as measured" if measured else "before compression"
        raise ConfigError(
            f"storage.root: {root!r} has room for {gibibytes(room)}, and the campaign takes {gibibytes(total)} {how} "
            f"({gibibytes(needed['hot'])} hot, {gibibytes(needed['archive'])} in the archive)",
            "make room, name another folder, record less"
            + ("" if measured else ", or find out how well it compresses: staffa plan … --pilot"),
        )
    if inodes is not None and files > inodes:
        raise ConfigError(
            f"storage.root: {root!r} has room for {inodes:,} files, and the campaign makes {files:,}",
            "raise execution.batch, or name another folder",
        )


def gibibytes(size: float) -> str:
    """Bytes as people read them."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):.3g} {unit}"
    return f"{size / 1024:.3g} KiB"


def settled_trials(outcomes: Mapping[str, int]) -> int:
    """Trials that a batch computed, by what its receipt says."""
    tried = {outcome.word for outcome in Outcome if outcome.has_data or outcome.failed}
    return sum(count for word, count in outcomes.items() if word in tried)


def labelled(costs: Iterable[Cost]) -> list[dict[str, Any]]:
    """Costs for a report, one row a program and pool."""
    return [
        {
            "sampler": cost.sampler,
            "pool": cost.pool,
            "device": cost.device,
            "width": cost.width,
            "compile_seconds": round(cost.compile, 3),
            "begin_seconds": round(cost.begin, 6),
            "segment_seconds": round(cost.segment, 6),
            "write_seconds_per_trial": round(cost.write, 9),
            "bytes_per_trial": round(cost.stored, 1),
            "memory": cost.memory,
            "limit": cost.limit,
        }
        for cost in costs
    ]
