"""The roll of a campaign's jobs: what squeue last said of each, and which workers run in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from staffa.execution.slurm.commands import Task
from staffa.execution.slurm.lists import hosts

UNSEEN = 60.0
"""Seconds that squeue is given to list a job that sbatch has a number for: some sites answer from a cache."""

Phase = Literal["queued", "running", "ending", "gone"]


@dataclass(frozen=True)
class Seen:
    """A worker that is connected to the scheduler.

    - `job`: as squeue names it, `12_3`; `busy`: whether it has something in flight.
    - `joined`: unix time of its coming.
    """

    worker: str
    job: str
    pool: str
    busy: bool
    joined: float


@dataclass
class Job:
    """A job of a pool: one task of an array.

    - `adopted`: an earlier driver submitted it.
    - `state`, `reason`, `node`, `started`, `ends`: as in `commands.Task`; `node` outlives a requeue.
    - `listed`: squeue has shown it; `announced`: its start has been told.
    - `joined`: a worker of it has connected since it last started; `worked`: it was busy at some time.
    - `idle_since`: since when it has run with nothing to do.
    - `stuck`: it waits for ever: SLURM holds it, or no node may run it.
    - `leaving`: its workers are to get nothing new; `told`: the number of looks when the driver was first told so.
    - `cancelled`: when scancel took our word for it.
    """

    id: str
    array: int
    pool: str
    submitted: float
    adopted: bool = False
    phase: Phase = "queued"
    listed: bool = False
    announced: bool = False
    state: str = "PENDING"
    reason: str = ""
    node: str = ""
    started: float | None = None
    ends: float | None = None
    joined: bool = False
    worked: bool = False
    workers: int = 0
    busy: bool = False
    idle_since: float | None = None
    stuck: bool = False
    leaving: bool = False
    told: int | None = None
    cancelled: float | None = None

    @property
    def live(self) -> bool:
        """Whether it is, or will be, there to work."""
        return self.phase in ("queued", "running") and self.cancelled is None

    @property
    def nodes(self) -> list[str]:
        return hosts(self.node)

    @property
    def place(self) -> tuple[float, int, int]:
        """Orders jobs as they were handed in."""
        return (self.submitted, self.array, int(self.id.partition("_")[2] or 0))

    def stay(self) -> None:
        """Its workers may get work (again)."""
        self.leaving, self.told = False, None

    def age(self, now: float) -> float:
        """Seconds it has run."""
        return now - self.started if self.started is not None else 0.0


@dataclass(frozen=True)
class Change:
    """What squeue newly says of a job: it started, was put back into the queue, cannot start, or ended.

    `before` is the phase it was in; for an end, `seconds` is how long it ran (at most: exact where
    squeue still knew it), None where that cannot be told.
    """

    job: Job
    what: Literal["adopted", "started", "requeued", "held", "ended"]
    before: Phase = "queued"
    seconds: float | None = None


class Roll:
    """All jobs of the campaign that are there, or ended lately. Not for several threads."""

    def __init__(self, pools: Mapping[str, str]) -> None:
        """`pools`: which pool a job name belongs to."""
        self._pools = dict(pools)
        self._jobs: dict[str, Job] = {}
        self._merged = False

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __contains__(self, job: str) -> bool:
        return job in self._jobs

    def __getitem__(self, job: str) -> Job:
        return self._jobs[job]

    def live(self, pool: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.pool == pool and job.live]

    def submitted(self, pool: str, array: int, tasks: int, now: float) -> None:
        """sbatch took an array: its tasks count from now on."""
        for task in range(tasks):
            job = Job(f"{array}_{task}", array, pool, now)
            self._jobs[job.id] = job

    def merge(self, tasks: Iterable[Task], now: float) -> list[Change]:
        """Take over squeue's answer; what is new in it."""
        changes: list[Change] = []
        listed = set()
        for task in tasks:
            if (pool := self._pools.get(task.name)) is None:
                continue
            listed.add(task.id)
            job = self._jobs.get(task.id) or self._found(task, pool, changes)
            job.listed = True
            changes += self._told(job, task, now)
        for job in [job for job in self._jobs.values() if job.id not in listed]:
            changes += self._unlisted(job, now)
        self._merged = True
        return changes

    def look(self, seen: Collection[Seen], now: float) -> tuple[list[Job], bool]:
        """Take over the scheduler's view; jobs whose first worker has come, and whether any came or left."""
        workers = Counter(worker.job for worker in seen)
        busy = {worker.job for worker in seen if worker.busy}
        fresh, moved = [], any(job not in self._jobs for job in workers)
        for job in list(self._jobs.values()):
            moved |= job.workers != workers[job.id]
            job.workers, job.busy = workers[job.id], job.id in busy
            job.worked |= job.busy
            if job.workers and not job.joined and job.phase != "gone":
                job.joined = True
                # squeue will tell when and where.
                job.phase = "running" if job.phase == "queued" else job.phase
                fresh.append(job)
            _idle(job, now)
        return fresh, moved

    def _found(self, task: Task, pool: str, changes: list[Change]) -> Job:
        job = Job(task.id, task.array, pool, task.submitted, adopted=not self._merged)
        self._jobs[job.id] = job
        if not self._merged and task.over:
            job.phase = "gone"
        elif not self._merged:
            changes.append(Change(job, "adopted"))
        return job

    def _told(self, job: Job, task: Task, now: float) -> list[Change]:
        before = job.phase
        if before == "gone":
            return []
        job.state, job.reason, job.node = task.state, task.reason, task.node or job.node
        job.started, job.ends = task.started, task.ends
        if task.over:
            job.phase = "gone"
            seconds = (task.ends or now) - task.started if task.started is not None else None
            return [Change(job, "ended", before, seconds)]
        if task.waiting:
            return self._waits(job, before)
        job.phase = "ending" if task.state == "COMPLETING" else "running"
        job.stuck = False
        _idle(job, now)
        if job.announced or job.phase == "ending":
            return []
        job.announced = True
        return [Change(job, "started", before)] if self._merged else []

    def _waits(self, job: Job, before: Phase) -> list[Change]:
        # A worker that is connected knows better than an answer which crossed its coming.
        if before == "running" and job.workers:
            return []
        job.phase = "queued"
        again = before != "queued"
        if again:
            job.announced, job.joined, job.worked, job.idle_since = False, False, False, None
            job.stay()
        told, job.stuck = job.stuck, held(job.state, job.reason, ran=again or bool(job.node))
        if job.stuck:
            return [] if told or job.cancelled is not None else [Change(job, "held", before)]
        return [Change(job, "requeued", before)] if again else []

    def _unlisted(self, job: Job, now: float) -> list[Change]:
        before = job.phase
        if before == "gone":
            if not job.workers:
                del self._jobs[job.id]
            return []
        # An empty answer of a controller that just started is no proof against a worker that is there.
        if job.workers or (not job.listed and job.cancelled is None and now - job.submitted < UNSEEN):
            return []
        job.phase, job.state, job.reason = "gone", "", ""
        return [Change(job, "ended", before, now - job.started if job.started is not None else None)]


def _idle(job: Job, now: float) -> None:
    if job.busy or job.phase != "running":
        job.idle_since = None
    elif job.idle_since is None:
        job.idle_since = now


def held(state: str, reason: str, *, ran: bool) -> bool:
    """Whether a job that waits will wait for ever: its launch failed, or no node may run it.

    A hold that a person put on a job that never ran (JobHeldUser, JobHeldAdmin) is respected.
    """
    if state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or reason in ("BadConstraints", "JobHoldMaxRequeue"):
        return True
    return reason.startswith("launch_failed_requeued_held") or (reason == "JobHeldAdmin" and ran)
