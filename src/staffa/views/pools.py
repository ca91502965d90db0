"""Why a pool of workers is as it is: what is wanted, queued, running, connected, and what stands in the way.

While a driver is at work its own figures tell, otherwise the ledger does.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from staffa.errors import ConfigError, StaffaError, near
from staffa.storage.lease import read_lease
from staffa.storage.ledger import history, read_summary
from staffa.storage.workspace import Workspace
from staffa.views.readings import moment, number, reasons, span
from staffa.views.sheet import Grid, Sheet, one_line

Event = Mapping[str, Any]

EVENTS = 20
"""Latest events of a pool that are told."""
TAIL_BYTES = 4096
TAIL_LINES = 8
SPEAKING = ("paused", "starting")
"""States in which the last lines of a job's log may tell more than Staffa knows."""
COUNTS = ("wanted", "needed", "connected", "jobs", "queued", "running", "starting", "leaving")
"""Numbers of a pool that its driver tells: the first three are workers, the others jobs."""


@dataclass
class Story:
    """What the ledger says of a pool.

    Arguments:
    - `names`: all pools it speaks of.
    - `events`: the latest, as `{at, event, text}`.
    - `paused`, `hint`: why the pool was paused last, and what helps; empty while it goes on.
    - `excluded`: nodes left out under the present driver.
    - `trouble`: what was wrong with submitting, since anything was submitted.
    - `words`: the last that a job said which ended before a worker came, and `job`: which one.
    - `last_job`: the latest that is known to have run.
    - `present`: workers that joined and were not seen leaving.
    - `run`: the latest driver: its `run_started`, later with `reason` of its end.
    """

    pool: str
    names: set[str] = field(default_factory=set)
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    paused: str = ""
    hint: str = ""
    excluded: set[str] = field(default_factory=set)
    trouble: str = ""
    words: str = ""
    job: str = ""
    last_job: str = ""
    present: set[str] = field(default_factory=set)
    run: dict[str, Any] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Take in an event; malformed ones are passed over."""
        name, pool = event["event"], event.get("pool")
        if isinstance(pool, str) and pool:
            self.names.add(pool)
        if name == "run_started":
            self._begin(event)
        elif name == "run_ended":
            self.run |= {"ended": event["at"], "reason": event.get("reason")}
        elif pool == self.pool or (pool is None and name in _SHARED):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self._tell(name, event)

    def _begin(self, event: Event) -> None:
        # Every driver has its own opinion of nodes and of what it is refused.
        self.run = dict(event)
        self.paused = self.hint = self.trouble = ""
        self.excluded.clear()
        self.present.clear()

    def _tell(self, name: str, event: Event) -> None:
        tell = _TELLERS.get(name)
        if tell is None:
            return
        text = tell(event)
        enter = _ENTRIES.get(name)
        if enter is not None:
            enter(self, event)
        if isinstance(event.get("job"), str) and event["job"]:
            self.last_job = event["job"]
        self.events.append({"at": event["at"], "event": name, "text": text})

    def joined(self, event: Event) -> None:
        self.present.add(str(event["address"]))
        # The pool can start: what failed before is no longer what is the matter.
        self.words = self.job = ""

    def left(self, event: Event) -> None:
        self.present.discard(str(event["address"]))

    def ended(self, event: Event) -> None:
        if event.get("words"):
            self.words, self.job = str(event["words"]), str(event["job"])

    def submitted(self, _: Event) -> None:
        self.trouble = ""

    def troubled(self, event: Event) -> None:
        self.trouble = str(event["why"])

    def pause(self, event: Event) -> None:
        self.paused, self.hint = str(event["why"]), str(event.get("hint") or "")

    def go_on(self, _: Event) -> None:
        self.paused = self.hint = self.trouble = ""
        self.excluded.clear()

    def exclude(self, event: Event) -> None:
        self.excluded.add(str(event["node"]))


_ENTRIES: Mapping[str, Callable[[Story, Event], None]] = {
    "worker_joined": Story.joined,
    "worker_left": Story.left,
    "job_ended": Story.ended,
    "jobs_submitted": Story.submitted,
    "queue_full": Story.troubled,
    "submit_failing": Story.troubled,
    "pool_paused": Story.pause,
    "pool_continued": Story.go_on,
    "node_excluded": Story.exclude,
}


# --- events in words -------------------------------------------------------------------------------


def _ended(event: Event) -> str:
    lived = "" if event.get("seconds") is None else f" after {span(float(event['seconds']))}"
    words = f": {_last_line(str(event['words']))}" if event.get("words") else ""
    cause = f" ({event['cause']}{words})" if event.get("cause") else ""
    return f"job {event['job']}{_on(event)} ended{lived}, {event.get('state') or 'no longer in the queue'}{cause}"


def _left(event: Event) -> str:
    lost = float(event.get("lost") or 0.0)
    return f"worker {event['name']} left: {event['reason']}" + (f" ({span(lost)} of work lost)" if lost else "")


def _excluded(event: Event) -> str:
    words = f": {_last_line(str(event['words']))}" if event.get("words") else ""
    count = int(event.get("failures") or 0)
    return f"node {event['node']} is left out, {number(count, 'job')} ended there before a worker came{words}"


def _on(event: Event) -> str:
    return f" on {event['node']}" if event.get("node") else ""


def _because(event: Event) -> str:
    return "" if event.get("reason") in (None, "", "None") else f": {event['reason']}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


_SHARED: Mapping[str, Callable[[Event], str]] = {
    "squeue_silent": lambda event: f"SLURM does not answer: {event['why']}",
    "squeue_answers": lambda event: f"SLURM answers again, after {span(float(event['seconds']))}",
    "command_failed": lambda event: f"a command failed: {event['why']}",
}
"""Events that concern all pools."""

_TELLERS: Mapping[str, Callable[[Event], str]] = {
    **_SHARED,
    "worker_joined": lambda event: f"worker {event['name']}{_on(event)} joined",
    "worker_left": _left,
    "jobs_submitted": lambda event: f"{number(int(event['jobs']), 'job')} handed in as array {event['array']}",
    "jobs_adopted": lambda event: f"{number(int(event['jobs']), 'job')} of an earlier driver found in the queue",
    "jobs_cancelled": lambda event: f"{number(int(event['jobs']), 'job')} given back: {', '.join(event['ids'])}",
    "job_started": lambda event: f"job {event['job']}{_on(event)} started",
    "job_requeued": lambda event: f"job {event['job']} was put back into the queue{_because(event)}",
    "job_held": lambda event: f"job {event['job']}{_on(event)} is held by SLURM{_because(event)}; it is replaced",
    "job_ended": _ended,
    "node_excluded": _excluded,
    "pool_paused": lambda event: f"paused: {event['why']}",
    "pool_continued": lambda event: f"goes on, {number(int(event['wanted']), 'worker')} wanted",
    "queue_full": lambda event: f"the queue takes no more: {event['why']}",
    "submit_failing": lambda event: f"handing in failed: {event['why']}",
}


# --- facts -----------------------------------------------------------------------------------------


def explain_pool(workspace: Workspace, pool: str) -> dict[str, Any]:
    """Tell what is the matter with a pool.

    Returns `root`, `pool`, `live`, `state`, `why`, `next` (commands), `wanted`, `needed`, `connected`
    (workers), `jobs`, `queued`, `running`, `starting`, `leaving` (jobs; None: nobody knows), `reasons`
    (why jobs wait, counted), `failures` (jobs in a row that ended before a worker came), `excluded`
    (nodes), `paused`, `hint`, `trouble`, `silent` (seconds SLURM has not answered), `words` (the last
    lines of the job that failed), `log` (its file), `history`: the latest events as `{at, event, text}`.

    Raises `ConfigError` for a pool the campaign does not have.
    """
    story = Story(pool)
    for event in history(workspace):
        story.note(event)
    holder = read_lease(workspace.lease)
    live = holder is not None and holder.alive()
    summary = read_summary(workspace) or {}
    told = (summary.get("figures") or {}).get("pools") or {}
    declared = _declared(workspace)
    known = {*told, *story.names, *declared}
    if pool not in known:
        raise _unknown(workspace, pool, known)
    facts = _facts(workspace, story, dict(told.get(pool) or {}), live, declared.get(pool))
    state, why, commands = _verdict(facts, story, _doctor(workspace))
    run = shlex.quote(str(workspace.root))
    if state in SPEAKING and not facts["words"]:
        facts["words"] = _tail(facts["log"])
    return {**facts, "state": state, "why": why, "next": [re.sub(r"\bRUN\b", lambda _: run, text) for text in commands]}


def _facts(
    workspace: Workspace, story: Story, told: Mapping[str, Any], live: bool, declared: int | None
) -> dict[str, Any]:
    wanted = told.get("wanted", declared)
    # A driver that is gone tells nothing of what there is now.
    told = told if live else {}
    counts = {name: told.get(name) for name in COUNTS}
    counts |= {"wanted": wanted, "connected": told.get("connected", len(story.present) if live else 0)}
    said = told or {"paused": story.paused, "hint": story.hint}
    words = (told.get("words") if told.get("failures") else "") or story.words
    job = story.job or story.last_job
    log = workspace.logs / f"{story.pool}-{job}.log" if job else _newest(workspace, story.pool)
    return {
        "root": str(workspace.root),
        "pool": story.pool,
        "live": live,
        **counts,
        "reasons": dict(told.get("reasons") or {}),
        "excluded": sorted({*(told.get("excluded") or ()), *story.excluded}),
        "paused": str(said.get("paused") or ""),
        "hint": str(said.get("hint") or ""),
        "trouble": story.trouble,
        "failures": int(told.get("failures") or 0),
        "silent": float(told.get("silent") or 0.0),
        "words": words,
        "log": str(log) if log is not None and _says_something(log) else "",
        "history": sorted(story.events, key=lambda event: event["at"]),
    }


def _declared(workspace: Workspace) -> dict[str, int]:
    """Pools of the frozen declaration, and of a detached driver's machine: how many workers each is to have."""
    from staffa.campaign.config import load_frozen

    found: dict[str, int] = {}
    for machine in (None, *[workspace.machine] * workspace.machine.is_file()):
        with contextlib.suppress(StaffaError, OSError):
            frozen = load_frozen(workspace.campaign_yaml, directory=workspace.code, cluster=machine)
            found |= {name: pool.workers for name, pool in frozen.campaign.cluster.pools.items()}
    return found


def _unknown(workspace: Workspace, pool: str, known: Iterable[str]) -> ConfigError:
    names = sorted(known)
    run = shlex.quote(str(workspace.root))
    if not names:
        return ConfigError(
            f"the campaign has no pool {pool!r}: its workers belong to no pool (cluster.kind is not slurm)",
            f"staffa status {run}",
        )
    return ConfigError(f"the campaign has no pool {pool!r}", near(pool, names))


def _newest(workspace: Workspace, pool: str) -> Path | None:
    """The latest log of a pool's jobs, where the ledger names none."""
    dated = []
    with contextlib.suppress(OSError):
        for path in workspace.logs.iterdir():
            if re.fullmatch(re.escape(pool) + r"-\d+(_\d+)?\.log", path.name):
                dated.append((path.stat().st_mtime, path))
    return max(dated)[1] if dated else None


def _says_something(log: Path) -> bool:
    try:
        return log.stat().st_size > 0
    except OSError:
        return False


def _tail(log: str) -> str:
    """The last lines of a log."""
    if not log:
        return ""
    try:
        with Path(log).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-TAIL_LINES:])


# --- verdict ---------------------------------------------------------------------------------------

Verdict = tuple[str, str, list[str]]


def _verdict(facts: Event, story: Story, doctor: str) -> Verdict:
    """State, why it is so in a sentence or two, and the commands that come next."""
    if not facts["live"]:
        return _without_driver(facts, story, doctor)
    if facts["paused"]:
        return "paused", f"It is paused: {_reason(facts)}{_excluded_too(facts)}", _mend(facts, doctor)
    if facts["silent"]:
        why = f"SLURM has not answered for {span(facts['silent'])}: what is there is unknown, nothing is handed in."
        return "unknown", why, ["scontrol ping", "staffa status RUN"]
    state, why, commands = _running(facts)
    trouble = f" Handing in fails: {facts['trouble']}." if facts["trouble"] and state != "complete" else ""
    count = facts["failures"]
    failures = f" {number(count, 'job')} in a row ended before a worker came." if count and not trouble else ""
    return state, f"{why}{trouble}{failures}{_excluded_too(facts)}", commands


def _without_driver(facts: Event, story: Story, doctor: str) -> Verdict:
    if not story.run:
        return "planned", "No driver has run yet.", ["staffa resume RUN"]
    if facts["paused"]:
        why = f"No driver is running. The pool was paused when the last one ended: {_reason(facts)}"
        return "paused", f"{why}{_excluded_too(facts)}", [doctor, "staffa resume RUN"]
    if "ended" in story.run:
        return "over", f"No driver is running: the last one ended ({story.run['reason']}).", _later(story.run["reason"])
    why = "No driver is running: the last one died. Its jobs look for the next for a while, then give their nodes back."
    return "over", why, ["staffa resume RUN", "staffa cluster reap"]


def _later(reason: Any) -> list[str]:
    return ["staffa usage RUN"] if reason == "finished" else ["staffa resume RUN", "staffa usage RUN"]


def _running(facts: Event) -> Verdict:
    """A pool that goes on."""
    pool, wanted = facts["pool"], facts["wanted"]
    if wanted is None:
        # Inside an allocation nobody counts: every GPU of it has its worker.
        there = number(facts["connected"], "worker")
        return ("complete" if facts["connected"] else "starting"), f"{there} connected.", ["staffa watch RUN"]
    more = [f"staffa scale RUN {pool}={max(wanted, 1)}"]
    if not wanted:
        return "let go", "No workers are wanted: it was scaled to 0.", [f"staffa scale RUN {pool}=1"]
    if facts["needed"] == 0:
        return (
            "idle",
            "There is nothing for it to do now: its nodes were given back, or will be.",
            ["staffa status RUN"],
        )
    target = min(wanted, facts["needed"] or wanted)
    if (facts["connected"] or 0) >= target:
        rest = "" if target == wanted else f" More than {target:,} would have nothing to do."
        return "complete", f"All workers it needs are there.{rest}", ["staffa watch RUN"]
    if facts["starting"]:
        job = number(facts["starting"], "job")
        look = [f"tail -f {shlex.quote(facts['log'])}"] if facts["log"] else []
        return "starting", f"{job} started, and no worker has joined from there yet.", [*look, "staffa watch RUN"]
    if facts["queued"]:
        why = reasons(facts["reasons"])
        return (
            "queued",
            f"{number(facts['queued'], 'job')} in the queue{': ' * bool(why)}{why}.",
            ["squeue --me", *more],
        )
    return "submitting", "Jobs are missing; they are handed in as soon as the site lets us.", more


def _reason(facts: Event) -> str:
    """Why a pool is paused, in one line: the job's words are shown by themselves."""
    reason = facts["paused"].removesuffix(facts["words"]).strip() if facts["words"] else facts["paused"]
    return one_line(re.sub(r"; the last one said:$", "", reason)).rstrip(".") + "."


def _excluded_too(facts: Event) -> str:
    nodes = facts["excluded"]
    return f" Left out, since jobs end there before a worker comes: {', '.join(nodes)}." if nodes else ""


def _mend(facts: Event, doctor: str) -> list[str]:
    go_on = f"staffa scale RUN {facts['pool']}={facts['wanted'] or 1}"
    hint = facts["hint"] if go_on not in facts["hint"] else ""
    return [*([hint] if hint else []), doctor, go_on]


def _doctor(workspace: Workspace) -> str:
    machine = shlex.quote(str(workspace.machine)) if workspace.machine.is_file() else "CLUSTER"
    return f"staffa doctor --cluster {machine}"


# --- sheet -----------------------------------------------------------------------------------------


def pool_sheet(facts: Event) -> Sheet:
    """What is the matter with a pool, on a page."""
    lines = {
        "state": facts["state"],
        "why": facts["why"],
        "workers": _workers(facts),
        "jobs": _jobs(facts),
        "left out": ", ".join(facts["excluded"]),
        "log": facts["log"],
    }
    rows = [(moment(event["at"]), one_line(event["text"])) for event in facts["history"]]
    words = [f"    {line}" for line in facts["words"].splitlines()]
    said = ["last words of a job:", *words] if words else []
    notes = [*said, *(f"next: {command}" for command in facts["next"])]
    return Sheet(f"pool {facts['pool']}", {n: t for n, t in lines.items() if t}, Grid(("when", "what"), rows), notes)


def _workers(facts: Event) -> str:
    wanted = f" of {facts['wanted']:,} wanted" if facts["wanted"] is not None else ""
    needed = f", {facts['needed']:,} would have something to do" if facts["needed"] is not None else ""
    return f"{facts['connected']:,} connected{wanted}{needed}" if facts["live"] else wanted.removeprefix(" of ")


def _jobs(facts: Event) -> str:
    names = {"queued": "in the queue", "running": "running", "starting": "of them starting", "leaving": "leaving"}
    said = [f"{facts[name]:,} {text}" for name, text in names.items() if facts[name]]
    why = reasons(facts["reasons"])
    return f"{', '.join(said)}{' (' * bool(why)}{why}{')' * bool(why)}"
