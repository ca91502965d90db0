"""Why a trial is where it is: its parameters, its place, its history, and what to do about it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.campaign.inputs import missing_of
from staffa.campaign.plan import Part, Plan
from staffa.errors import ConfigError
from staffa.rows import archive_layout
from staffa.storage.archive import Archive
from staffa.storage.books import Books
from staffa.storage.lease import read_lease
from staffa.storage.ledger import history
from staffa.storage.merged import origin_of
from staffa.storage.roster import find_trial
from staffa.storage.spans import unspan
from staffa.storage.trial_logs import as_text, read_lines
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from staffa.views.readings import number, span
from staffa.views.stored import group_store, how_to_name, stored_plan

Event = Mapping[str, Any]

PLACE = ("index", "trial", "group", "row", "replicate")


@dataclass(frozen=True)
class Place:
    """Where a trial stands in its campaign."""

    plan: Plan
    trial: str
    index: int
    replicate: int
    parameters: dict[str, Any]
    group: int
    batch: int
    lane: int

    @property
    def batch_id(self) -> str:
        """As the journal names it."""
        return f"g{self.group}/{self.batch}"

    @property
    def part(self) -> Part:
        return next(p for p in self.plan.parts if p.group == self.group and p.first <= self.batch < p.last)


@dataclass
class Case:
    """What is known of a trial's fate."""

    place: Place
    outcome: Outcome
    archived: str
    """The part that holds it; empty while it is not sealed."""
    live: bool
    books: Books = field(default_factory=Books)
    history: list[dict[str, Any]] = field(default_factory=list)


def explain_trial(workspace: Workspace, trial: str) -> dict[str, Any]:
    """Tell a trial's whole story.

    Arguments:
    - `trial`: its index in the campaign, or the beginning of its digest.

    Returns `trial`, `index`, `replicate`, `sampler`, `parameters`, `group`, `batch`, `lane`, `part`,
    `computed` (in which campaign this one was merged of, or None), `state`, `outcome`, `why`, `next`,
    `history`: a list of `{at, event, text}`, `log`: what it printed, where that was kept, and `log_file`.

    Raises `ConfigError` where no trial, or more than one, is meant.
    """
    place = _found(workspace, trial)
    holder = read_lease(workspace.lease)
    case = Case(
        place,
        Outcome(int(group_store(workspace, place.plan, place.group).status(place.batch)[place.lane])),
        _archived(workspace, place),
        holder is not None and holder.alive(),
    )
    for event in history(workspace):
        case.books.note(event)
        case.history.extend(_told(case, event))
    state, why, command = _verdict(case, time.time())
    return {
        "trial": place.trial,
        "index": place.index,
        "replicate": place.replicate,
        "sampler": place.plan.groups[place.group].sampler,
        "parameters": place.parameters,
        "group": place.plan.groups[place.group].name,
        "batch": place.batch_id,
        "lane": place.lane,
        "part": case.archived or place.part.name,
        "computed": _computed(workspace, place),
        "state": state,
        "outcome": case.outcome.word,
        "why": why,
        "next": command.replace("RUN", shlex.quote(str(workspace.root))),
        "history": case.history,
        **_log(workspace, place),
    }


def _log(workspace: Workspace, place: Place) -> dict[str, str]:
    path = workspace.trial_log(place.batch_id)
    text = as_text(read_lines(path, place.lane))
    return {"log": text, "log_file": str(path) if text else ""}


def _found(workspace: Workspace, trial: str) -> Place:
    plan = stored_plan(workspace)
    row = find_trial(workspace.rosters, trial)
    if row is None:
        raise ConfigError(
            f"{trial!r} names no trial of '{workspace.root}', or more than one",
            how_to_name(workspace),
        )
    group = plan.groups[row["group"]]
    parameters = {name: value for name, value in row.items() if name not in PLACE and value is not None}
    return Place(
        plan,
        row["trial"],
        int(row["index"]),
        int(row["replicate"]),
        parameters,
        int(row["group"]),
        int(row["row"]) // group.batch,
        int(row["row"]) % group.batch,
    )


def _computed(workspace: Workspace, place: Place) -> dict[str, Any] | None:
    found = origin_of(workspace, place.index)
    if found is None:
        return None
    maker, trial = found
    return {"root": maker.root, "run_hash": maker.run_hash, "seed": maker.seed, "code": maker.code, "trial": trial}


def _archived(workspace: Workspace, place: Place) -> str:
    """Name of the sealed file that holds the trial."""
    parts = Archive(workspace.archive, archive_layout(place.plan)).manifest()["parts"]
    own = place.part.name
    names = [name for name in parts if name == own or name.startswith(f"{own}-s")]
    return next((name for name in sorted(names, reverse=True) if _holds(workspace, name, place.trial)), "")


def _holds(workspace: Workspace, part: str, trial: str) -> bool:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = workspace.trials_archive / f"{part}.parquet"
    if not path.is_file():
        return False
    return bool(pc.any(pc.equal(pq.read_table(path, columns=["trial"])["trial"], trial)).as_py())


# --- history ---------------------------------------------------------------------------------------


def _told(case: Case, event: Event) -> Iterator[dict[str, Any]]:
    """The event as a line of the trial's history, where it concerns the trial."""
    tell = _TELLERS.get(event["event"])
    concerns = event.get("trial") == case.place.trial or (
        event.get("batch") == case.place.batch_id and "trial" not in event
    )
    if tell is None or not concerns:
        return
    text = tell(case, event)
    if text:
        yield {"at": event["at"], "event": event["event"], "text": text}


def _issued(_: Case, event: Event) -> str:
    return f"attempt {event['attempt']} of its batch was issued to {event.get('worker', 'a worker')}"


def _settled(case: Case, event: Event) -> str:
    if event.get("duplicate"):
        return "a late twin of the batch found it committed and left it alone"
    own = next((lane for lane in event.get("failed", ()) if lane["trial"] == case.place.trial), None)
    where = f"on {event['node']}" if event.get("node") else ""
    if own is not None:
        return f"the trial {_OUTCOMES[own['outcome']]} {where}: {own.get('message', '')}".rstrip(": ")
    return f"its batch was committed {where}".rstrip()


def _lost(case: Case, event: Event) -> str:
    charged = "counted as a failed attempt" if event.get("charged") else "not held against it"
    first, end = event.get("lanes") or (0, 0)
    suspect = first <= case.place.lane < end
    also = "; the trial was on the device then" if suspect else ""
    return f"attempt {event['attempt']} of its batch was lost: {event['reason']} ({charged}{also})"


def _retried(case: Case, event: Event) -> str:
    if case.place.lane not in event["lanes"]:
        return ""
    return f"to be tried again, at the earliest {span(max(event['due'] - event['at'], 0))} later"


def _asked(case: Case, event: Event) -> str:
    return f"asked for by the search, as its trial number {unspan(event['places'])[case.place.lane]}"


def _judged(case: Case, event: Event) -> str:
    given_up = case.place.lane in unspan(event["hopeless"])
    return f"compared after segment {event['segment']}: {'given up' if given_up else 'it goes on'}"


def _failed_before(_: Case, event: Event) -> str:
    told = f"the trial {_OUTCOMES.get(event['outcome'], event['outcome'])} before the merge: {event['message']}"
    return told.rstrip(": ")


def _quarantined(_: Case, event: Event) -> str:
    return f"given up after {number(int(event['attempts']), 'try')}: {event.get('message', '')}".rstrip(": ")


_OUTCOMES = {"raised": "raised", "timeout": "ran out of time", "killed": "took its process down"}

_TELLERS: Mapping[str, Callable[[Case, Event], str]] = {
    "batch_issued": _issued,
    "batch_settled": _settled,
    "batch_lost": _lost,
    "batch_yielded": lambda _, event: f"its batch stopped after segment {event['segment']} and will go on from there",
    "batch_damaged": lambda _, event: f"its batch was found damaged on disk ({', '.join(event['outputs'])})",
    "retry_planned": _retried,
    "quarantined": _quarantined,
    "failed_before": _failed_before,
    "trials_asked": _asked,
    "trials_judged": _judged,
    "cancelled": lambda _, event: "cancelled: it will not be run",
    "missing_input": lambda _, event: "an input of it is not there: it waits",
    "input_found": lambda _, event: "its input is there now",
    "readmitted": lambda _, event: "admitted again by `staffa retry`",
}


# --- verdict ---------------------------------------------------------------------------------------


def _verdict(case: Case, now: float) -> tuple[str, str, str]:
    """State, one sentence why, and the command that comes next."""
    word = case.books.states.get(case.place.trial) or case.books.states.get(case.place.batch_id)
    if case.outcome.has_data:
        return _done(case)
    if word == "cancelled" or case.outcome is Outcome.CANCELLED:
        return _cancelled(case)
    if case.outcome is Outcome.MISSING_INPUT:
        return _without_input(case)
    if case.outcome is Outcome.HOPELESS:
        why = "The search gave it up between two segments: others were better by then."
        return "hopeless", why, "staffa search top RUN"
    if word == "quarantined":
        return _given_up(case)
    if case.live and case.place.batch_id in case.books.flying:
        worker = case.books.flying[case.place.batch_id]
        return "issued", f"Its batch is in flight on {worker}.{_trouble(case)}", "staffa watch RUN"
    if case.outcome.failed:
        return _failed(case, now)
    return _waiting(case)


def _cancelled(case: Case) -> tuple[str, str, str]:
    why = case.books.why.get(case.place.trial) or case.books.why.get(case.place.batch_id, "")
    if why == "shrunk":
        why = "It was dropped from the campaign before it was issued, and will not be run."
        return "cancelled", why, "staffa expand RUN --readmit"
    return "cancelled", "It was cancelled and will not be run" + (f": {why}." if why else "."), "staffa status RUN"


def _without_input(case: Case) -> tuple[str, str, str]:
    place = case.place
    gone = missing_of(place.plan.inputs, {**place.parameters, "replicate": place.replicate})
    if gone:
        why = f"It needs '{gone[0]}', which is not there."
    else:
        kin = ", ".join(f"{name}={place.parameters.get(name)}" for name in place.plan.inputs.together)
        why = f"Another trial of {kin} lacks an input." if kin else "Its input has come since it was looked for."
    return "missing_input", why, "staffa reconcile RUN"


def _done(case: Case) -> tuple[str, str, str]:
    flaw = " They hold a NaN or an infinity." if case.outcome is Outcome.NAN else ""
    query = f"staffa query RUN \"select * from trials where trial = '{case.place.trial}'\""
    if case.archived:
        return "archived", f"Its data are sealed in {case.archived}.{flaw}", query
    return "done", f"Its data are committed, its part is not sealed yet.{flaw}", "staffa consolidate RUN"


def _given_up(case: Case) -> tuple[str, str, str]:
    failures = case.books.failures.get(case.place.trial, [])
    tries = number(len(failures), "failed try") if failures else "its failed tries"
    return "quarantined", f"It was given up after {tries}. {_last_failure(case)}", "staffa retry RUN"


def _failed(case: Case, now: float) -> tuple[str, str, str]:
    retry = case.books.retries.get(case.place.batch_id)
    if retry is None or case.place.lane not in retry["lanes"]:
        why = f"{_last_failure(case)} It is tried again when the campaign is resumed."
        return "failed", why, "staffa watch RUN" if case.live else "staffa resume RUN"
    wait = max(math.ceil(retry["due"] - now), 0)
    due = f"in {span(wait)}" if wait else "now"
    if case.live:
        return "planned", f"{_last_failure(case)} It will be tried again {due}.", "staffa watch RUN"
    why = f"{_last_failure(case)} It waits to be tried again, but no driver is running."
    return "planned", why, "staffa resume RUN"


def _waiting(case: Case) -> tuple[str, str, str]:
    trouble = _trouble(case)
    if not case.live:
        return "planned", f"It has no data yet, and no driver is running.{trouble}", "staffa resume RUN"
    if case.books.condition:
        why = f"The driver is paused: {case.books.condition.get('paused', '')}.{trouble}"
        return "planned", why, "staffa status RUN"
    return "planned", f"Its batch waits to be issued: others go first.{trouble}", "staffa watch RUN"


def _last_failure(case: Case) -> str:
    failures = case.books.failures.get(case.place.trial, [])
    if not failures:
        return f"It {_OUTCOMES.get(case.outcome.word, 'failed')}."
    last = failures[-1]
    return f"It {_OUTCOMES.get(last.outcome, last.outcome)}: {last.message}".rstrip(": .") + "."


def _trouble(case: Case) -> str:
    losses = case.books.losses.get(case.place.batch_id, [])
    if not losses:
        return ""
    return f" Its batch was lost {number(len(losses), 'time')}, last: {losses[-1].reason}."
