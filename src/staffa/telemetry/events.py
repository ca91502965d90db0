"""Every event that a ledger may hold, and what its fields mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import TypedDict

SCHEMA_ID = "staffa.events"
_DOCUMENTED: Any = {"use_attribute_docstrings": True}
"""Tells pydantic that the texts below fields are their descriptions."""


class Timings(TypedDict, total=False):
    """Seconds a batch spent, by kind; those that did not occur are missing."""

    __pydantic_config__ = _DOCUMENTED  # type: ignore[misc]  # pydantic's own way to configure a TypedDict

    queue: float
    """From the driver's hand to the device: on the wire, and behind other batches of the worker."""
    compile: float
    """Compiling, or fetching from the cache, every program of the batch."""
    initialize: float
    adapt: float
    """Warm-up."""
    discard: float
    """Draws computed and not kept."""
    sample: float
    write: float
    """Writing and syncing shards; goes on beside the next batch's sampling."""
    commit: float


class Memory(TypedDict, total=False):
    """Bytes a worker process had when it sent a receipt; what the machine does not tell is missing."""

    __pydantic_config__ = _DOCUMENTED  # type: ignore[misc]  # as above

    rss: int
    """Resident in main memory."""
    rss_peak: int
    """The most that ever was, since the process began."""
    device: int
    """In use on the device."""
    device_peak: int
    """The most that ever was in use on the device."""
    device_limit: int
    """What JAX may take of the device."""


class FailedLane(TypedDict):
    """A trial of a batch that this attempt brought no data of."""

    __pydantic_config__ = _DOCUMENTED  # type: ignore[misc]  # as above

    lane: int
    trial: str
    """Its digest."""
    outcome: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened."""

    __pydantic_config__: ClassVar[Any] = _DOCUMENTED

    at: float = 0.0
    """Unix time; 0 until the event is noted."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields that this version does not know."""


@dataclass(frozen=True, kw_only=True)
class Unknown(Event):
    """An event that this version does not know; all its fields are in `more`."""

    event: str


# --- runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A driver is at work: the header of what follows in its journal."""

    driver: str
    """Its lease, which also names the journal."""
    run_id: str
    """`<campaign>-YYYYMMDD-HHMMSS-<6 hexadecimal digits>`, in UTC, made of the lease."""
    host: str
    pid: int
    workers: int
    """Workers that were there already."""
    resumed: bool
    """Whether another driver has been at work before."""
    dashboard: str
    port_taken: int = 0
    """The port the dashboard was to have, where somebody else had it; it has another then."""
    job: str = ""
    """The SLURM job the driver runs in; empty where it runs in none."""
    schema_id: str = SCHEMA_ID
    campaign: str = ""
    """Name and version: the folder's name."""
    run_hash: str = ""
    """Of what is computed: configuration, seeds and code."""
    config_hash: str = ""
    """Of every value of the campaign, wherever it came from."""
    code: str = ""
    """Digest of the workflow's own code."""
    seeds: Mapping[str, int] | None = None
    """The global seed, and the seed of every channel, derived or pinned."""
    staffa: str = ""
    """Version of the package."""
    telemetry: bool = True
    """Whether receipts measure memory."""


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """A driver ended."""

    reason: str
    """`finished`, `stopped`, `interrupted`, `handover`, `consolidated`, or the name of an error."""
    exit_code: int
    outcomes: Mapping[str, int] | None = None
    """Trials by outcome, as they stand."""
    quarantined: int | None = None
    seconds: float | None = None
    message: str = ""
    """What the error said."""


@dataclass(frozen=True, kw_only=True)
class CodeChangeAccepted(Event):
    """A user went on although the workflow's code had changed."""

    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Paused(Event):
    """Nothing is issued for a while."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Continued(Event):
    """Whatever paused the run is over."""


@dataclass(frozen=True, kw_only=True)
class Grown(Event):
    """The campaign has more trials than before."""

    generation: int
    added: int
    trials: int
    """How many there are in all."""


@dataclass(frozen=True, kw_only=True)
class Merged(Event):
    """The campaign was made of others."""

    trials: int
    sources: Mapping[str, int]
    """How many trials came of each, as it was called."""


@dataclass(frozen=True, kw_only=True)
class RoundSettled(Event):
    """All trials of a campaign that grows by its own results were settled, and it was asked what comes after."""

    round: int
    """From 1; a generation that is asked about again is the same round."""
    generation: int
    """The campaign's, when it was asked."""
    what: str
    """Who was asked: the function."""
    trials: int
    """How many there were."""
    new: int
    """How many of them since the round before."""
    goes_on: bool
    """Whether there is more to do; `grown` follows where it is new."""
    why: str = ""
    """Why nobody could be asked, or no answer came."""


@dataclass(frozen=True, kw_only=True)
class BudgetReached(Event):
    """What the run may spend is spent: nothing more is issued."""

    budget: Mapping[str, float]
    """By unit, such as `gpu_hours`."""
    spent: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Unreadable(Event):
    """From the reader of a journal, never in one: lines that are no events."""

    journal: str
    lines: int


# --- batches and trials ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OfBatch(Event):
    """What concerns one issue of a batch."""

    batch: str
    """`g0/3`: the fourth batch of the first group."""
    attempt: int
    worker: str
    """The worker's address."""
    node: str = ""
    pool: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchIssued(OfBatch):
    """A batch was handed to a worker."""

    lanes: str | None = None
    """Lanes to compute (`0-3,7`); null for all that have no data yet."""


@dataclass(frozen=True, kw_only=True)
class BatchSettled(OfBatch):
    """A batch was committed."""

    outcomes: Mapping[str, int]
    """Trials of the batch by outcome, as they stand now."""
    failed: Sequence[FailedLane]
    """Tries that brought no data (or a NaN, where that is tried again) and that this attempt answers for."""
    timings: Timings
    bytes: int
    """Written to disk, compressed."""
    width: int
    """Lanes of one call of the device."""
    device: str
    """Kind of the device, as JAX has it."""
    compiles: int
    """Programs compiled for it that were not in the cache."""
    pid: int
    duplicate: bool
    """A late twin: it found the batch committed, and left it alone."""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Processor seconds of what the disk's lane did."""
    computed: int | None = None
    """Segments sampled; the others were taken over from a checkpoint."""
    lanes: str | None = None
    """As in `batch_issued`."""
    nan: Sequence[str] = ()
    """Trials whose data hold a NaN."""
    mended: Sequence[str] = ()
    """Trials whose data held a NaN, and do no longer."""
    memory: Memory | None = None
    programs: Sequence[tuple[int, str]] = ()
    """Programs that had a part in it, in order: width, and the backend's name (`metadata/backend-NAME.json`)."""


@dataclass(frozen=True, kw_only=True)
class BatchYielded(OfBatch):
    """A worker put a batch down between two segments, for another to carry on. No try is spent."""

    segment: int
    """The segment to go on with."""
    computed: int
    timings: Timings
    device: str = ""
    memory: Memory | None = None


@dataclass(frozen=True, kw_only=True)
class BatchLost(OfBatch):
    """A batch did not come back."""

    reason: str
    charged: bool
    """Whether it was on the device when its worker died: then the attempt counts."""
    lanes: Sequence[int] | None
    """First lane and the one after the last of those that were being tried."""


@dataclass(frozen=True, kw_only=True)
class BatchesFound(Event):
    """Batches that a driver before had committed, and was gone before it could say so."""

    batches: Mapping[str, Mapping[str, str]]
    """By batch: lanes that are not simply ok, by outcome."""


@dataclass(frozen=True, kw_only=True)
class BatchDamaged(Event):
    """Shards on disk are not what was committed: the batch is computed again."""

    batch: str
    outputs: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RetryPlanned(Event):
    """Failed trials are to be tried again."""

    batch: str
    lanes: Sequence[int]
    attempt: int
    due: float
    """Unix time, not before."""


@dataclass(frozen=True, kw_only=True)
class Quarantined(Event):
    """A trial was given up."""

    trial: str
    batch: str
    lane: int
    outcome: str
    message: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class FailedBefore(Event):
    """A trial failed in the campaign that this one was merged of; what comes next is not decided."""

    trial: str
    batch: str
    lane: int
    outcome: str
    message: str
    attempts: int
    """Failed tries there."""


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """Somebody decided that a trial, or what has no data of a batch, is not to be run."""

    trial: str = ""
    batch: str = ""
    lane: int | None = None
    trials: int | None = None
    """How many, where a whole batch is meant."""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Readmitted(Event):
    """A trial, or a whole batch, is back in the race."""

    trial: str = ""
    batch: str = ""
    lane: int | None = None


@dataclass(frozen=True, kw_only=True)
class PartPruned(Event):
    """The shards of a sealed part were removed: each of its rows stands in the archive, bit for bit."""

    part: str
    worker: str
    bytes: int
    """What they took on disk."""


@dataclass(frozen=True, kw_only=True)
class PartKept(Event):
    """Of some batches of a part the shards were not removed."""

    part: str
    worker: str
    bytes: int
    """What the shards of the other batches took."""
    differ: Mapping[str, Sequence[str]]
    """By batch the tables of the archive that do not hold what the hot store holds."""


@dataclass(frozen=True, kw_only=True)
class PartSealed(Event):
    """A part of the archive is complete."""

    part: str
    rows: int
    trials: int
    bytes: int
    seconds: float
    worker: str = ""
    found: bool = False
    """It stood there already, and nobody had said so."""


# --- searches --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrialsAsked(Event):
    """A search asked for a batch of trials; its parameters stand here before anything is done with them."""

    batch: str
    places: str
    """Which of the trials that the search asks for they are, from 0: `0-63`."""
    points: Mapping[str, Sequence[Any]]
    """By name what the search varies, one value a trial."""
    replicates: Sequence[int] = ()
    """Of each trial how often its point had been asked for before; empty for never."""


@dataclass(frozen=True, kw_only=True)
class TrialsJudged(Event):
    """Trials of a batch were compared with all that came as far, between two segments."""

    batch: str
    segment: int
    """Segments they had done."""
    hopeless: str = ""
    """Lanes that are given up: `3,5-7`."""
    best: Sequence[float] = ()
    """The least score of each group so far, among all that came as far."""


@dataclass(frozen=True, kw_only=True)
class ObjectivesChanged(Event):
    """Something else is good from now on: every trial of a search is scored anew, and none runs again."""

    objectives: Mapping[str, Any]
    """All of them, in the words of a campaign."""


# --- those who are told ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AlertSent(Event):
    """Somebody was told."""

    alert: str
    """The condition: `finished`, `stalled`, …"""
    to: str
    """The command's name, or the webhook without anything secret."""
    text: str


@dataclass(frozen=True, kw_only=True)
class AlertFailed(Event):
    """Somebody could not be told; the run went on."""

    alert: str
    to: str
    text: str
    why: str


@dataclass(frozen=True, kw_only=True)
class HookEnded(Event):
    """A hook around the run did what it was to do."""

    hook: str
    """`pre_run` or `post_run`."""
    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class HookFailed(Event):
    """A hook failed; the run went on."""

    hook: str
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class TrackerFailed(Event):
    """A tracker failed; the run went on."""

    tracker: str
    why: str


@dataclass(frozen=True, kw_only=True)
class EventsDropped(Event):
    """Somebody who is told was too slow, or failed: so many events never reached them."""

    by: str
    count: int
    why: str = ""
