"""What a campaign held of its machines, and what became of it: useful, compiling, waiting, lost.

All of it is read from the ledger, on any machine, while the campaign runs or after. A worker is
held from the moment it joined its driver until it left; one that is started again in the same job
was held all the time. What its device did in between is known from receipts:

- `useful`: initialize, adapt, discard and sample of batches that settled or yielded, and of others
  whatever stands in their checkpoints;
- `compiling`: making programs, or fetching them from the cache;
- `lost`: on the device, and thrown away: `cut_offs` (walltime, preemption, scancel: expected stops),
  `crashes` (the process died), `vanished` (its node was gone), `drivers` (the driver died, or left at
  once: at most so much, since a checkpoint may have saved a part);
- `in_flight`: on the device of a live run now;
- `waiting`: the rest.

They add up to what was held. A second on a node, or on a GPU, belongs in equal parts to the workers
that share it then. Writing goes on beside the device and is told apart from all this.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from staffa.storage.books import CRASHES, CUT_OFFS, UNNAMED, VANISHED, cause, slot
from staffa.storage.lease import Holder, read_lease
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.views.readings import number, span
from staffa.views.sheet import Grid, Sheet

Event = Mapping[str, Any]
Accounting = Callable[[Sequence[str], float], Iterable[Mapping[str, Any]] | None]
"""Asks the site's accounting for the jobs of these pools since a time: rows with `id`, `started`,
`ended`, `nodes`, `gpus`; None where nobody can tell."""

DEVICE = ("initialize", "adapt", "discard", "sample")
DISK = ("write", "commit")
DRIVERS = "drivers"
CAUSES = (CUT_OFFS, CRASHES, VANISHED, DRIVERS)
PARTS = ("useful", "compiling", "waiting", "lost", "in_flight")

NO_SIGN = frozenset({"readmitted", "cancelled", "code_change_accepted", "unreadable"})
"""Events that may be written without workers, long after the last of them was there."""
NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})
HOUR = 3600.0


@dataclass
class Stint:
    """A worker's place in a job, held without a break. Times are Unix seconds, amounts seconds.

    Arguments:
    - `node`: the job and the node, which are held together.
    - `devices`: GPUs it was given, as `CUDA_VISIBLE_DEVICES` names them; `kind`: what JAX calls its device.
    - `met`: when it joined last; `until`: when it left, None while it is there.
    - `left`: whether it was seen leaving.
    - `start`: how often its process was started.
    - `flying`: batches it has; `busy`: since when whatever is on its device has not been accounted for.
    """

    pool: str
    job: str
    node: tuple[str, str]
    since: float
    met: float
    devices: tuple[str, ...] = ()
    start: int = 1
    kind: str = ""
    until: float | None = None
    left: bool = False
    flying: set[str] = field(default_factory=set)
    busy: float = 0.0
    amounts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lost: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def held(self) -> float:
        return max((self.since if self.until is None else self.until) - self.since, 0.0)

    @property
    def gpus(self) -> tuple[tuple[str, ...], ...]:
        """The GPUs it had; a worker that was told nothing and used one shared that of its node."""
        given = self.devices or (("0",) if self.kind.lower() not in ("", "cpu") else ())
        return tuple((*self.node, device) for device in given)

    def shares(self) -> dict[str, float]:
        """What was held, by what became of it: never more than was held, whatever the receipts say."""
        rest = self.held
        found: dict[str, float] = {}

        def take(name: str, seconds: float) -> None:
            nonlocal rest
            found[name] = min(max(seconds, 0.0), rest)
            rest -= found[name]

        for name in CAUSES:
            take(name, self.lost[name])
        for name in ("in_flight", "compiling", "useful"):
            take(name, self.amounts[name])
        if not found["useful"]:
            # Sealing goes on beside sampling; where nothing is sampled it is what the worker is for.
            take("useful", self.amounts["sealing"])
        return found | {"waiting": rest, "held": self.held, "lost": sum(found[name] for name in CAUSES)}


@dataclass
class Jobs:
    """What is known of a run's jobs."""

    pools: dict[str, str] = field(default_factory=dict)
    """Job, or array of jobs, -> pool."""
    submitted: dict[str, float] = field(default_factory=dict)
    """Array -> when it was handed in."""
    joined: dict[str, float] = field(default_factory=dict)
    """Job -> when its first worker joined."""
    failed: list[tuple[str, float]] = field(default_factory=list)
    """Pool and seconds of the jobs that ended before a worker came."""

    def waits(self, pool: str | None) -> list[float]:
        """Seconds from submission to the first worker, for the jobs of a pool (None: of all)."""
        return [
            max(at - self.submitted[job.partition("_")[0]], 0.0)
            for job, at in self.joined.items()
            if job.partition("_")[0] in self.submitted and pool in (None, self.pools.get(job))
        ]

    def pool_of(self, job: str) -> str | None:
        return self.pools.get(job) or self.pools.get(job.partition("_")[0])


class Tracks:
    """Follows workers through a history, event by event, driver after driver."""

    def __init__(self) -> None:
        self.stints: list[Stint] = []
        self.jobs = Jobs()
        self.departures: dict[str, Counter[str]] = {}
        """Pool -> workers that left, by cause."""
        self._slots: dict[tuple[str, str], Stint] = {}
        self._known: dict[str, Stint] = {}
        """Address -> its latest stint under this driver."""
        self._last = self._began = 0.0
        self._driver = ""

    def note(self, event: Event) -> None:
        """Take in the next event; malformed ones are passed over."""
        # What the reader itself says has no time.
        name, at = event["event"], float(event.get("at", 0.0))
        if name == "run_started":
            self._change(at, str(event.get("driver", "")))
        elif name == "run_ended":
            self._close(at)
        elif name not in NO_SIGN:
            self._last = max(self._last, at)
        take = _TAKERS.get(name)
        if take is not None:
            try:
                take(self, event)
            except (KeyError, TypeError, ValueError, AttributeError):
                return

    def end(self, holder: Holder | None, live: bool) -> None:
        """The history is over: those still there were held until their driver's last sign of life."""
        if holder is not None and holder.lease_id == self._driver:
            self._last = max(self._last, holder.heartbeat)
        self._close(self._last, live=live)

    def present(self) -> dict[str, Stint]:
        """Workers that are there, by address."""
        return {address: stint for address, stint in self._known.items() if stint.until is None}

    def _change(self, at: float, driver: str) -> None:
        self._close(self._last)
        self._driver, self._last = driver, at

    def _close(self, at: float, *, live: bool = False) -> None:
        for stint in self._known.values():
            if stint.until is None:
                stint.until = max(at, stint.met)
                if stint.flying:
                    spent = max(stint.until - stint.busy, 0.0)
                    (stint.amounts if live else stint.lost)["in_flight" if live else DRIVERS] += spent
                stint.flying.clear()
        self._known.clear()

    def joined(self, event: Event) -> None:
        address, job, at = str(event["address"]), str(event.get("job") or ""), float(event["at"])
        key, start = (job, slot(event)), _start(event)
        before = self._slots.get(key) if job else self._known.get(address)
        if before is not None and _goes_on(before, start):
            stint = before
            stint.until, stint.left, stint.met, stint.start = None, False, max(at, stint.met), start
        else:
            stint = Stint(
                event.get("pool") or UNNAMED,
                job,
                (job, str(event.get("node") or event.get("host", ""))),
                at,
                at,
                _devices(event.get("device")),
                start,
            )
            self.stints.append(stint)
        self._known[address] = stint
        if job:
            self._slots[key] = stint
            self.jobs.pools[job] = stint.pool
            self.jobs.joined.setdefault(job, at)

    def left(self, event: Event) -> None:
        stint, at, why = self._of(event, "address"), float(event["at"]), cause(event)
        self.departures.setdefault(stint.pool, Counter())[why] += 1
        lost = max(float(event.get("lost", 0.0)), 0.0)
        stint.lost[why] += lost
        if stint.flying:
            # What was done since the last receipt and is not lost stands in a checkpoint.
            stint.amounts["useful"] += max(at - lost - stint.busy, 0.0)
        stint.flying.clear()
        if stint.until is None and at >= stint.met:
            # Otherwise it came back before anybody knew why it had left.
            stint.until, stint.left = max(at, stint.since), True

    def issued(self, event: Event) -> None:
        stint = self._of(event)
        if not stint.flying:
            stint.busy = float(event["at"])
        stint.flying.add(str(event["batch"]))

    def told(self, event: Event) -> None:
        """A batch settled or yielded."""
        stint, timings = self._of(event), event.get("timings") or {}
        useful = sum(float(timings.get(name, 0.0)) for name in DEVICE)
        compiling = float(timings.get("compile", 0.0))
        if not useful and event["event"] == "batch_yielded" and event.get("computed"):
            # It was put down before its end, and nobody took the time: it went on since the last receipt.
            useful = max(float(event["at"]) - stint.busy - compiling, 0.0) if stint.flying else 0.0
        stint.amounts["useful"] += useful
        stint.amounts["compiling"] += compiling
        stint.amounts["writing"] += sum(float(timings.get(name, 0.0)) for name in DISK)
        stint.kind = str(event.get("device") or stint.kind)
        stint.busy = float(event["at"])
        stint.flying.discard(str(event["batch"]))

    def sealed(self, event: Event) -> None:
        if "worker" in event:
            self._of(event).amounts["sealing"] += float(event.get("seconds", 0.0))

    def submitted(self, event: Event) -> None:
        self.jobs.submitted[str(event["array"])] = float(event["at"])
        self.jobs.pools[str(event["array"])] = str(event["pool"])

    def ended(self, event: Event) -> None:
        self.jobs.pools.setdefault(str(event["job"]), str(event["pool"]))
        if event.get("words"):
            self.jobs.failed.append((str(event["pool"]), max(float(event.get("seconds") or 0.0), 0.0)))

    def _of(self, event: Event, name: str = "worker") -> Stint:
        """The stint an event belongs to; a worker whose coming nobody noted is there from now on."""
        address = str(event[name])
        if address not in self._known:
            at = float(event["at"])
            node = str(event.get("node") or "")
            stint = Stint(event.get("pool") or UNNAMED, "", ("", node), at, at)
            self.stints.append(stint)
            self._known[address] = stint
        return self._known[address]


_TAKERS: Mapping[str, Callable[[Tracks, Event], None]] = {
    "worker_joined": Tracks.joined,
    "worker_left": Tracks.left,
    "batch_issued": Tracks.issued,
    "batch_settled": Tracks.told,
    "batch_yielded": Tracks.told,
    "part_sealed": Tracks.sealed,
    "jobs_submitted": Tracks.submitted,
    "job_ended": Tracks.ended,
}


def _goes_on(before: Stint, start: int) -> bool:
    """Whether a worker that joins takes the place of one before it in the same job, which was held meanwhile.

    A first start after an end that was seen is another run of the job: it had been put back into the queue.
    """
    return not before.left or start > before.start


def _start(event: Event) -> int:
    """Which start of its process: 2 of `12-3-0.2`."""
    again = str(event.get("name", "")).partition(".")[2]
    return int(again) if again.isdecimal() else 1


def _devices(said: Any) -> tuple[str, ...]:
    names = tuple(word.strip() for word in str(said or "").split(","))
    return tuple(name for name in names if name not in NO_DEVICE)


# --- facts -----------------------------------------------------------------------------------------


def usage_facts(workspace: Workspace, accounting: Accounting | None = None) -> dict[str, Any]:
    """What a campaign held of its machines.

    Arguments:
    - `accounting`: asked what the site charged for the same jobs, if there were any.

    Returns `root`, `live`, `since`, `until`, `pools` (by name) and `total`, `accounting` (None: nobody
    can tell). Every pool has `workers`, `jobs`, `nodes`, `gpus` (how many different ones); `worker_hours`,
    `node_hours` and, with GPUs, `gpu_hours`: each with `held`, `useful`, `compiling`, `waiting`, `lost`,
    `in_flight` and `lost_to` by cause; `writing_hours` and `sealing_hours`, which overlap; `queue`: how
    long jobs waited, in seconds; `failed_starts`: jobs that ended before a worker came, and their hours;
    `departures`: workers that left, by cause.
    """
    tracks, holder = Tracks(), read_lease(workspace.lease)
    for event in history(workspace):
        tracks.note(event)
    live = holder is not None and holder.alive()
    tracks.end(holder, live)
    scale = _Scale(tracks.stints)
    names = sorted({stint.pool for stint in tracks.stints} | set(tracks.jobs.pools.values()))
    return {
        "root": str(workspace.root),
        "live": live,
        "since": min((stint.since for stint in tracks.stints), default=None),
        "until": max((stint.until or stint.since for stint in tracks.stints), default=None),
        "pools": {name: _pool(tracks, name, scale) for name in names},
        "total": _pool(tracks, None, scale),
        "accounting": _accounted(tracks, accounting),
    }


class _Scale:
    """How much of a node's, and of a GPU's, hours a worker's hour is: those who share it share its hours."""

    def __init__(self, stints: Sequence[Stint]) -> None:
        self._nodes = _parts((stint.node, stint) for stint in stints)
        self._gpus = _parts((gpu, stint) for stint in stints for gpu in stint.gpus)

    def node(self, stint: Stint) -> float:
        return self._nodes.get(stint.node, 0.0)

    def gpu(self, stint: Stint) -> float:
        return sum(self._gpus.get(gpu, 0.0) for gpu in stint.gpus)


def _parts(used: Iterable[tuple[tuple[str, ...], Stint]]) -> dict[tuple[str, ...], float]:
    """For everything shared: the time it was held over the sum of the times it was held by each."""
    spans: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for thing, stint in used:
        spans.setdefault(thing, []).append((stint.since, stint.since + stint.held))
    sums = {thing: sum(end - start for start, end in found) for thing, found in spans.items()}
    return {thing: _union(found) / sums[thing] for thing, found in spans.items() if sums[thing] > 0}


def _union(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds covered by any of some spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def _pool(tracks: Tracks, name: str | None, scale: _Scale) -> dict[str, Any]:
    """A pool in numbers; None: all of them."""
    stints = [stint for stint in tracks.stints if name in (None, stint.pool)]
    gpus = {gpu for stint in stints for gpu in stint.gpus}
    left = sum((count for pool, count in tracks.departures.items() if name in (None, pool)), Counter[str]())
    failed = [seconds for pool, seconds in tracks.jobs.failed if name in (None, pool)]
    waits = tracks.jobs.waits(name)
    return {
        "workers": len(stints),
        "jobs": len({stint.job for stint in stints if stint.job}),
        "nodes": len({stint.node[1] for stint in stints}),
        "gpus": len({(node, device) for _, node, device in gpus}),
        "worker_hours": _hours(stints, lambda stint: 1.0),
        "node_hours": _hours(stints, scale.node),
        **({"gpu_hours": _hours([stint for stint in stints if stint.gpus], scale.gpu)} if gpus else {}),
        "writing_hours": _in_hours(sum(stint.amounts["writing"] for stint in stints)),
        "sealing_hours": _in_hours(sum(stint.amounts["sealing"] for stint in stints)),
        "queue": {
            "jobs": len(waits),
            "mean": round(sum(waits) / len(waits), 3) if waits else None,
            "longest": round(max(waits), 3) if waits else None,
        },
        "failed_starts": {"jobs": len(failed), "hours": _in_hours(sum(failed))},
        "departures": {cause: left[cause] for cause in (CUT_OFFS, CRASHES, VANISHED)},
    }


def _hours(stints: Iterable[Stint], scale: Callable[[Stint], float]) -> dict[str, Any]:
    sums: dict[str, float] = defaultdict(float)
    for stint in stints:
        factor = scale(stint)
        for name, seconds in stint.shares().items():
            sums[name] += factor * seconds
    found: dict[str, Any] = {name: _in_hours(sums[name]) for name in ("held", *PARTS)}
    return found | {"lost_to": {name: _in_hours(sums[name]) for name in CAUSES}}


def _in_hours(seconds: float) -> float:
    return round(seconds / HOUR, 6)


def _accounted(tracks: Tracks, accounting: Accounting | None) -> dict[str, Any] | None:
    """What the site's accounting says of the same jobs."""
    jobs = tracks.jobs
    if accounting is None or not jobs.pools:
        return None
    began = min([*jobs.submitted.values(), *jobs.joined.values()], default=0.0)
    rows = accounting(sorted(set(jobs.pools.values())), began)
    if rows is None:
        return None
    found = [row for row in rows if row.get("started") and jobs.pool_of(str(row["id"])) is not None]
    now = max((stint.until or stint.since for stint in tracks.stints), default=0.0)
    node_seconds = gpu_seconds = 0.0
    counted = all(row.get("gpus") is not None for row in found)
    for row in found:
        seconds = max((row.get("ended") or now) - row["started"], 0.0)
        node_seconds += seconds * int(row.get("nodes") or 1)
        gpu_seconds += seconds * int(row.get("gpus") or 0)
    return {
        "jobs": len(found),
        "node_hours": _in_hours(node_seconds),
        "gpu_hours": _in_hours(gpu_seconds) if counted else None,
    }


# --- sheet -----------------------------------------------------------------------------------------

UNITS = {"gpu_hours": "GPU-hours", "worker_hours": "worker-hours", "node_hours": "node-hours"}
WORDS = {CUT_OFFS: "cut-offs", CRASHES: "crashes", VANISHED: "vanished nodes", DRIVERS: "ends of drivers (at most)"}


def usage_sheet(facts: Event) -> Sheet:
    """A campaign's usage on a page."""
    total = facts["total"]
    if not total["workers"]:
        nothing = {"held": "nothing: no worker has joined yet", "failed": _failed(total)}
        return Sheet(facts["root"], {name: text for name, text in nothing.items() if text}, notes=_next(facts))
    lines = {
        "held": _held(total),
        "lost": _lost(total),
        "queue": _queued(total),
        "failed": _failed(total),
        "writing": f"{hours(total['writing_hours'])} worker-hours, beside the device",
        "accounting": _accounting(facts["accounting"]),
    }
    rows = list(_rows(facts))
    columns = ["pool", "unit", "held", *PARTS] if total["worker_hours"]["in_flight"] else ["pool", "unit", "held"]
    columns = columns if len(columns) > 3 else [*columns, *PARTS[:-1]]
    shown = [[row[name] for name in columns] for row in rows]
    heads = [name.replace("_", " ") for name in columns]
    grid = Grid(heads, shown, frozenset(heads[2:]))
    return Sheet(facts["root"], {name: text for name, text in lines.items() if text}, grid, _next(facts))


def _rows(facts: Event) -> Iterator[dict[str, str]]:
    for name, pool in facts["pools"].items():
        if pool["workers"]:
            yield _row(name, pool, "gpu_hours" if "gpu_hours" in pool else "worker_hours")
    several = sum(1 for pool in facts["pools"].values() if "gpu_hours" in pool) > 1
    for unit in (*["gpu_hours"] * several, "node_hours"):
        yield _row("all", facts["total"], unit)


def _row(name: str, pool: Event, unit: str) -> dict[str, str]:
    found = pool[unit]
    cells = {part: _share(found[part], found["held"]) for part in PARTS}
    return {"pool": name, "unit": UNITS[unit], "held": hours(found["held"]), **cells}


def _share(part: float, whole: float) -> str:
    return f"{hours(part)} ({100 * part / whole:.0f} %)" if part and whole else "0"


def _held(total: Event) -> str:
    said = [f"{hours(total['node_hours']['held'])} node-hours on {number(total['nodes'], 'node')}"]
    if "gpu_hours" in total:
        said.append(f"{hours(total['gpu_hours']['held'])} GPU-hours on {number(total['gpus'], 'GPU')}")
    jobs = f" in {number(total['jobs'], 'job')}" if total["jobs"] else ""
    return f"{', '.join(said)}; {number(total['workers'], 'worker')}{jobs}"


def _lost(total: Event) -> str:
    lost = total["node_hours"]
    gpus = f" ({hours(total['gpu_hours']['lost'])} GPU-hours)" if "gpu_hours" in total and lost["lost"] else ""
    said = ", ".join(f"{hours(part)} by {WORDS[name]}" for name, part in lost["lost_to"].items() if part)
    return f"{hours(lost['lost'])} node-hours{gpus}{': ' * bool(said)}{said}"


def _queued(total: Event) -> str:
    queue = total["queue"]
    if not queue["jobs"]:
        return ""
    return (
        f"{number(queue['jobs'], 'job')} waited {span(queue['mean'])} on average for the first worker, "
        f"{span(queue['longest'])} at most"
    )


def _failed(total: Event) -> str:
    failed = total["failed_starts"]
    if not failed["jobs"]:
        return ""
    lived = f", after {span(failed['hours'] * HOUR)} in all" if failed["hours"] else ""
    return f"{number(failed['jobs'], 'job')} ended before a worker came{lived}"


def _accounting(found: Event | None) -> str:
    if found is None:
        return "unknown"
    gpus = f", {hours(found['gpu_hours'])} GPU-hours" if found["gpu_hours"] else ""
    return f"{hours(found['node_hours'])} node-hours{gpus} for {number(found['jobs'], 'job')}, starting included"


def _next(facts: Event) -> list[str]:
    run = shlex.quote(facts["root"])
    commands = [f"staffa explain {run} pool {name}" for name in facts["pools"] if name != UNNAMED]
    return [f"next: {command}" for command in commands or [f"staffa status {run}"]]


def hours(count: float) -> str:
    """Hours as people read them: `1,204`, `12.3`, `0.042`, `0.000012`."""
    if count >= 1000:
        return f"{count:,.0f}"
    return f"{count:.3g}" if count >= 0.001 else f"{count:.6f}".rstrip("0").rstrip(".")
