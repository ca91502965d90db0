"""What programs take on the workers they run on, and how that is carried over to another plan. Pure.

A `Cost` is measured by a pilot, or read from the receipts of a run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from staffa.campaign.machine import JobShape, shapes
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan, bytes_per_trial
from staffa.trial import Outcome, canonical

SHAPES, PILOT = "shapes", "pilot"
"""Sources besides a run: nothing was measured, or a few trials were."""
DISK_THREADS = 2
"""Writes a worker does at a time, beside its device."""
NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})


@dataclass(frozen=True)
class Cost:
    """What a program takes on the workers of one pool.

    Arguments:
    - `program`: see `program_of`; `sampler`: the experiment's reference.
    - `source`: `pilot`, or `run FOLDER` where receipts were read.
    - `width`: lanes of one call; 1 for plain Python.
    - `begin`: seconds of a call before its first segment: initialize, and `warm` warm-up steps.
    - `segment`: seconds of a call for one segment of `steps` steps.
    - `compile`: seconds until its programs are there, the first time.
    - `write`: seconds a trial takes on the disk.
    - `stored`, `archived`: bytes of a trial in the hot store and in the archive (None: not known);
      `plain`: what it would be without compression.
    - `memory`: bytes of the device that a call takes; `limit`: what the device has (None: not known);
      `lane`: what one lane carries and records, by its shapes.
    - `note`: what is to be said of the source.
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
    warm: int = 0
    plain: int = 1
    lane: int = 1
    note: str = ""

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

    def fitted(self, plan: Plan, group: Group) -> Cost:
        """The same for a group of another plan, in proportion: other draws, warm-up, segments, batches."""
        steps, warm, width = segment_steps(plan, group), warm_steps(plan, group), width_in(plan, group, self.width)
        plain, lane, wider = bytes_per_trial(group, plan.sampling.draws), lane_bytes(plan, group), width / self.width
        step, size = self.segment / max(self.steps, 1), plain / max(self.plain, 1)
        return replace(
            self,
            width=width,
            begin=max(self.begin + (warm - self.warm) * step, 0.0) * wider,
            segment=step * steps * wider,
            steps=steps,
            warm=warm,
            write=self.write * size,
            stored=self.stored * size,
            archived=None if self.archived is None else self.archived * size,
            memory=None if self.memory is None else math.ceil(self.memory * wider * lane / max(self.lane, 1)),
            plain=plain,
            lane=lane,
        )


@dataclass(frozen=True)
class Seats:
    """The workers of a pool that sample.

    Arguments:
    - `gpus`, `nodes`: how many they hold together.
    - `walltime`: seconds of a job; None for ever. `memory`: bytes each worker may take, None: not known.
    - `jobs`: jobs of SLURM's they run in.
    """

    pool: str
    workers: int
    nodes: int
    gpus: int
    walltime: float | None = None
    memory: int | None = None
    jobs: int = 0


@dataclass(frozen=True)
class Matched:
    """The cost of each group on the workers of one pool.

    Arguments:
    - `guessed`: groups whose program nobody measured: they got the mean of others.
    - `foreign`: what was measured ran on the workers of another pool.
    """

    costs: Mapping[int, Cost] = field(default_factory=dict)
    guessed: int = 0
    foreign: bool = False


def program_of(plan: Plan, group: Group) -> str:
    """What is compiled for a group, its width and numbers of steps apart."""
    return canonical([group.experiment, group.static, group.traced, group.vectorize, plan.x64, plan.prng])


def segment_steps(plan: Plan, group: Group) -> int:
    """Steps of one segment; of plain Python all of a trial, its warm-up included."""
    own = plan.sampling.thin * plan.sampling.segment_draws
    return own + _warm_steps(plan) if group.vectorize == "off" else own


def warm_steps(plan: Plan, group: Group) -> int:
    """Steps before the first segment."""
    return 0 if group.vectorize == "off" else _warm_steps(plan)


def _warm_steps(plan: Plan) -> int:
    return plan.sampling.warmup + plan.sampling.discard * plan.sampling.thin


def lane_bytes(plan: Plan, group: Group) -> int:
    """What one lane carries and records in a segment."""
    draws = plan.sampling.draws
    recorded = bytes_per_trial(group, None if draws is None else draws // plan.sampling.segments)
    return recorded + group.state_bytes


def width_in(plan: Plan, group: Group, width: int) -> int:
    """Lanes of a call in this plan, where it was `width` elsewhere."""
    if group.vectorize == "off":
        return 1
    return min(width if plan.width == "auto" else int(plan.width), group.batch)


# --- the workers -----------------------------------------------------------------------------------


def seats(config: CampaignConfig, inside: JobShape | None = None) -> list[Seats]:
    """The workers a campaign asks for; none where nobody can tell: a plug-in's cluster, an allocation from outside.

    Arguments:
    - `inside`: the allocation this process runs in.
    """
    cluster = config.cluster
    if cluster.kind == "slurm":
        return [_seats(shape) for shape in shapes(cluster).values() if "sample" in shape.work and shape.workers]
    if cluster.kind == "allocation":
        return [_seats(inside)] if inside is not None else []
    if cluster.kind != "local":
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = cluster.workers or config.execution.workers or cores
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = {name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")} - NO_DEVICE
    return [Seats("", workers, 1, len(devices), None, cluster.memory or here)]


def _seats(shape: JobShape) -> Seats:
    jobs = min(shape.jobs(shape.workers), shape.throttle or shape.workers)
    return Seats(
        shape.pool,
        min(shape.workers, jobs * shape.workers_per_job),
        jobs * shape.nodes,
        jobs * shape.nodes * shape.gpus,
        shape.walltime if math.isfinite(shape.walltime) else None,
        None if shape.gpus else shape.memory // shape.workers_per_node,
        jobs,
    )


def matched(plan: Plan, costs: Sequence[Cost], pool: str) -> Matched:
    """What each group costs on a pool's workers.

    A group whose program was not measured gets the mean of those of its experiment, or of all.
    """
    own = [cost for cost in costs if cost.pool == pool]
    there, found, guessed = own or list(costs), {}, 0
    for number, group in enumerate(plan.groups):
        name = program_of(plan, group)
        measured = [cost for cost in there if cost.program == name]
        alike = measured or [cost for cost in there if cost.sampler == group.sampler] or there
        if alike:
            guessed += not measured
            found[number] = _mean([cost.fitted(plan, group) for cost in alike])
    return Matched(found, guessed, bool(there) and not own)


def _mean(costs: Sequence[Cost]) -> Cost:
    """One cost in the place of several of the same plan and group; the widest memory of them."""
    if len(costs) == 1:
        return costs[0]
    width = min(cost.width for cost in costs)

    def mean(name: str) -> float:
        return float(np.mean([getattr(cost, name) for cost in costs]))

    def mean_call(name: str) -> float:
        """Calls of other widths take other times: what a lane takes is what can be compared."""
        return width * float(np.mean([getattr(cost, name) / cost.width for cost in costs]))

    archived = [cost.archived for cost in costs if cost.archived is not None]
    memory = [size for cost in costs if (size := cost.memory_at(width)) is not None]
    limits = [cost.limit for cost in costs if cost.limit is not None]
    return replace(
        costs[0],
        width=width,
        begin=mean_call("begin"),
        segment=mean_call("segment"),
        compile=mean("compile"),
        write=mean("write"),
        stored=mean("stored"),
        archived=float(np.mean(archived)) if archived else None,
        memory=max(memory, default=None),
        limit=min(limits, default=None),
    )


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
            "source": cost.source,
            "width": cost.width,
            "compile_seconds": round(cost.compile, 3),
            "begin_seconds": round(cost.begin, 6),
            "segment_seconds": round(cost.segment, 6),
            "segment_steps": cost.steps,
            "write_seconds_per_trial": round(cost.write, 9),
            "bytes_per_trial": round(cost.stored, 1),
            "archive_bytes_per_trial": None if cost.archived is None else round(cost.archived, 1),
            "memory": cost.memory,
            "limit": cost.limit,
        }
        for cost in costs
    ]
