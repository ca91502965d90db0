"""What happens to the machines a campaign runs on: workers, jobs, pools, and SLURM's own commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from staffa.telemetry.events import Event


@dataclass(frozen=True, kw_only=True)
class OfWorker(Event):
    """What concerns a worker process."""

    address: str
    name: str
    host: str
    pid: int
    node: str
    pool: str
    job: str
    ends: float | None
    """Unix time at which its job is cut off."""
    device: str | None
    """`CUDA_VISIBLE_DEVICES` of the process."""


@dataclass(frozen=True, kw_only=True)
class WorkerJoined(OfWorker):
    """A worker is there."""


@dataclass(frozen=True, kw_only=True)
class WorkerLeft(OfWorker):
    """A worker is gone, and it is known why."""

    reason: str
    expected: bool
    """Walltime, preemption, a drained node: nobody is to blame."""
    certain: bool
    """Its process died while its node lived on."""
    lost: float
    """Seconds of work on the device that were thrown away."""


@dataclass(frozen=True, kw_only=True)
class OfJob(Event):
    """What SLURM did with a job."""

    pool: str
    job: str
    node: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class JobStarted(OfJob):
    """A job runs."""


@dataclass(frozen=True, kw_only=True)
class JobRequeued(OfJob):
    """A job went back into the queue."""


@dataclass(frozen=True, kw_only=True)
class JobHeld(OfJob):
    """SLURM will not start a job; it is replaced."""


@dataclass(frozen=True, kw_only=True)
class JobEnded(Event):
    """A job is over."""

    pool: str
    job: str
    node: str
    state: str
    seconds: float | None
    """How long it ran."""
    cause: str = ""
    """`given back`, or `no worker came`."""
    words: str = ""
    """The last that a job said which ended before a worker came."""


@dataclass(frozen=True, kw_only=True)
class JobsSubmitted(Event):
    """Jobs were handed in."""

    pool: str
    array: int
    jobs: int


@dataclass(frozen=True, kw_only=True)
class JobsAdopted(Event):
    """Jobs of an earlier driver were found in the queue."""

    pool: str
    jobs: int


@dataclass(frozen=True, kw_only=True)
class JobsCancelled(Event):
    """Jobs that are not needed were taken back."""

    pool: str
    jobs: int
    ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class NodeExcluded(Event):
    """Jobs keep failing on a node; it gets no more."""

    pool: str
    node: str
    failures: int
    words: str


@dataclass(frozen=True, kw_only=True)
class PoolPaused(Event):
    """A pool gets no more jobs."""

    pool: str
    why: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class PoolContinued(Event):
    """A paused pool goes on."""

    pool: str
    wanted: int


@dataclass(frozen=True, kw_only=True)
class Trouble(Event):
    """A command of SLURM's that did not do what it should."""

    why: str
    hint: str = ""
    pool: str = ""


@dataclass(frozen=True, kw_only=True)
class SqueueSilent(Trouble):
    """SLURM does not answer; what runs goes on."""


@dataclass(frozen=True, kw_only=True)
class QueueFull(Trouble):
    """The queue takes no more jobs for now."""


@dataclass(frozen=True, kw_only=True)
class SubmitFailing(Trouble):
    """Jobs could not be handed in."""


@dataclass(frozen=True, kw_only=True)
class CommandFailed(Trouble):
    """Another command failed."""


@dataclass(frozen=True, kw_only=True)
class SqueueAnswers(Event):
    """SLURM answers again."""

    seconds: float
    """How long it did not."""
