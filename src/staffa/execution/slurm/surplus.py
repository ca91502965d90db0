"""Who goes when there are more jobs than work."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from staffa.execution.slurm.roll import Job

IDLE = 30.0
"""Seconds a job must have been idle, and a lower need must have lasted, before jobs are given back."""


@dataclass
class Need:
    """How many workers would have something to do: rises at once, falls when it has been lower for 30 s.

    Between two steps of a campaign the need may be low for a moment, and a driver that just came may
    not know of any work yet; a place in the queue is not given away for that. `workers` is None until
    something is known.
    """

    workers: int | None = None
    _since: float | None = None
    _peak: int = 0

    @property
    def falling(self) -> bool:
        return self._since is not None

    def tell(self, needed: int, now: float) -> None:
        if needed >= (1 if self.workers is None else self.workers):
            self.workers, self._since = needed, None
        elif self._since is None:
            self._since, self._peak = now, needed
        else:
            self._peak = max(self._peak, needed)
            if now - self._since >= IDLE:
                self.workers, self._since = self._peak, None


@dataclass(frozen=True)
class Departures:
    """- `cancel`: jobs that can go now; `leave`: running ones whose workers get nothing new, and go when idle."""

    cancel: list[Job] = field(default_factory=list)
    leave: list[Job] = field(default_factory=list)


def departures(jobs: Iterable[Job], target: int, spent: Collection[str], now: float) -> Departures:
    """Which of a pool's live jobs go, if `target` are wanted.

    Waiting ones first, the newest of them first; then those that run idle, the longest first; then busy
    ones, the one that would end first. Jobs whose time left is too short for anything (`spent`) go in any case.
    """
    live = list(jobs)
    over = [job for job in live if is_spent(job, spent, now)]
    gone = {job.id for job in over}
    useful = [job for job in live if job.id not in gone]
    surplus = len(useful) - target
    waiting = sorted((job for job in useful if job.phase == "queued"), key=lambda job: job.place, reverse=True)
    cancel = waiting[: max(surplus, 0)]
    running = sorted((job for job in useful if job.phase == "running"), key=_order)
    chosen = running[: max(surplus - len(cancel), 0)]
    return Departures(cancel, over + [job for job in chosen if job.busy or _idled(job, now)])


def is_spent(job: Job, spent: Collection[str], now: float) -> bool:
    """Whether a job is of no more use: idle, with too little time for what waits.

    One that never had anything to do must be past half its time, or else jobs that are too short from
    the start would be replaced for ever.
    """
    if job.id not in spent or job.busy or job.phase != "running":
        return False
    length = (job.ends or math.inf) - (job.started or now)
    return job.worked or job.age(now) > length / 2


def _order(job: Job) -> tuple[bool, bool, bool, float, float, str]:
    idle_since = math.inf if job.idle_since is None else job.idle_since
    return (job.busy, not job.leaving, job.workers > 0, idle_since, job.ends or math.inf, job.id)


def _idled(job: Job, now: float) -> bool:
    return job.leaving or (job.idle_since is not None and now - job.idle_since >= IDLE)
