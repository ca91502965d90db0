"""The books of one pool: how many jobs it is to have, which go, how many are missing. Decides, does nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from staffa.campaign.machine import JobShape
from staffa.execution.slurm.budgets import Budget
from staffa.execution.slurm.lists import hosts
from staffa.execution.slurm.roll import Job, Roll
from staffa.execution.slurm.surplus import Departures, Need, departures, is_spent

PATIENCE = 60.0
"""Seconds after which a cancelled job that still waits or runs is cancelled again."""


@dataclass
class Stock:
    """A pool, as the keeper sees it.

    - `array`: jobs of one submission at most; `chunk`: how many the site took, or may take, lately.
    - `paused`: why nothing more is submitted, empty while it goes on; `hint`: what helps.
    - `tries`: submissions in a row that nobody answered; `not_before`: when the next may be made;
      `full_at`: when the site last had no room; `troubled`: what is wrong with submitting has been told.
    - `spent`: jobs whose time left is too short for anything that waits.
    - `throttles`, `exclusions`: what SLURM was last told of each array.
    """

    pool: str
    shape: JobShape
    roll: Roll
    budget: Budget
    array: int
    wanted: int = 0
    chunk: int = 0
    need: Need = field(default_factory=Need)
    paused: str = ""
    hint: str = ""
    tries: int = 0
    not_before: float = 0.0
    full_at: float = float("-inf")
    troubled: bool = False
    spent: frozenset[str] = frozenset()
    throttles: dict[int, int | None] = field(default_factory=dict)
    exclusions: dict[int, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted, self.chunk = self.shape.workers, self.array

    @property
    def partition(self) -> str | None:
        said = self.shape.directives.get("partition")
        return said if isinstance(said, str) else None

    @property
    def excluded(self) -> frozenset[str]:
        """Nodes left out, by the user and by us: what sbatch is told replaces what the script says."""
        said = self.shape.directives.get("exclude")
        return frozenset(self.budget.excluded) | frozenset(hosts(said) if isinstance(said, str) else ())

    def live(self) -> list[Job]:
        return self.roll.live(self.pool)

    def target(self) -> int:
        """Jobs it is to have now."""
        target = self.shape.jobs(min(self.wanted, self.need.workers or 0))
        if self.paused and self.budget.spent:
            # Those that wait would fail as well.
            return min(target, sum(job.phase == "running" for job in self.live()))
        return target

    def missing(self, now: float) -> int:
        """Jobs to submit."""
        if self.paused or self.shares()[1] == 0:
            return 0
        return self.target() - sum(not job.stuck and not is_spent(job, self.spent, now) for job in self.live())

    def departures(self, now: float) -> Departures:
        """Jobs that are to go, waiting ones at once and running ones when idle."""
        stuck = [job for job in self.live() if job.stuck]
        if self.need.workers is None:
            return Departures(stuck)
        found = departures([job for job in self.live() if not job.stuck], self.target(), self.spent, now)
        return Departures(stuck + found.cancel, found.leave)

    def depart(self, looks: int, now: float) -> list[Job]:
        """Jobs to cancel now. Marks those that are to leave: they go when a look shows them idle which came after
        the driver was told, as it may have given them work until then.
        """
        found = self.departures(now)
        going = {job.id for job in (*found.cancel, *found.leave)}
        for job in self.live():
            if job.id in going:
                job.leaving = True
            else:
                job.stay()
        idle = [job for job in found.leave if not job.busy and job.told is not None and job.told < looks]
        return found.cancel + idle + [job for job in self.roll if job.pool == self.pool and _deaf(job, now)]

    def unaware(self) -> list[int]:
        """Arrays with waiting jobs that SLURM has not been told of all nodes to leave out."""
        waiting = {job.array for job in self.live() if job.phase == "queued"}
        return sorted(array for array in waiting if self.exclusions.get(array, frozenset()) != self.excluded)

    def shares(self) -> tuple[dict[int, int], int | None]:
        """Throttle of each array with waiting jobs, and what is left for a new one; None where there is no limit.

        SLURM throttles each array by itself. Here the oldest get what they can use, the youngest the rest.
        """
        if self.shape.throttle is None:
            return {}, None
        live = self.live()
        left, sizes = min(self.shape.throttle, self.shape.jobs(self.wanted)), Counter(job.array for job in live)
        waiting = {job.array for job in live if job.phase == "queued"}
        shares = {}
        for array in sorted(sizes):
            # To the last it makes no difference, and saves telling SLURM each time one of its jobs ends.
            share = left if array == max(sizes) else min(left, sizes[array])
            left -= min(share, sizes[array])
            if array in waiting:
                shares[array] = max(share, 1)
        return shares, left

    def pause(self, why: str, hint: str) -> None:
        self.paused, self.hint = why, hint

    def resume(self, workers: int, now: float) -> bool:
        """Somebody says how many workers are wanted, and so that it can go on; whether it was paused."""
        was = bool(self.paused)
        self.budget.forgive(now, nodes=was)
        self.wanted, self.paused, self.hint, self.chunk = workers, "", "", self.array
        self.tries, self.not_before, self.troubled = 0, 0.0, False
        return was

    def facts(self) -> dict[str, Any]:
        live = self.live()
        running = [job for job in live if job.phase == "running"]
        queued = [job for job in live if job.phase == "queued"]
        return {
            "wanted": self.wanted,
            "needed": self.need.workers,
            "workers_per_job": self.shape.workers_per_job,
            "jobs": len(live),
            "queued": len(queued),
            "running": len(running),
            "starting": sum(not job.joined for job in running),
            "leaving": sum(job.leaving for job in running),
            "connected": sum(job.workers for job in self.roll if job.pool == self.pool),
            "reasons": dict(Counter(job.reason for job in queued if job.reason not in ("", "None"))),
            "excluded": sorted(self.budget.excluded),
            "failures": self.budget.in_a_row,
            "paused": self.paused,
            "hint": self.hint,
            "words": self.budget.words,
        }


def _deaf(job: Job, now: float) -> bool:
    return job.cancelled is not None and job.phase in ("queued", "running") and now - job.cancelled >= PATIENCE
