"""What the journals of a campaign say, folded: tries, failures, losses, parts.

Events and their fields:

    run_started {driver, host, pid, workers, resumed}     run_ended {reason, exit_code}
    worker_joined {address, name, host, pid, node, pool, job, ends, device}
    worker_left {address, ..., reason, expected, certain, lost: seconds of device work thrown away}
    batch_issued {batch, attempt, worker[, lanes]}: lanes as text (`0-3,7`), unless it is all without data
    batch_yielded {batch, attempt, worker, node, segment, computed, timings}: no try is spent
    batch_settled {batch, attempt, worker, node, outcomes: {word: n}, nan: [digest], bytes,
                   failed: [{lane, trial, outcome, message}], timings: {kind: seconds}
                   [, mended: [digest]]}: `failed` are the tries that count, those of a NaN included
                   where the campaign tries them again; `mended` held a NaN and do no longer;
                   `left` (as text): lanes that are still to be run
    batches_found {batches: {batch: {word: lanes}}}: committed by a driver before, who was gone before
                   it could say so; lanes that are not simply ok
    batch_damaged {batch, outputs}: its data were not what was committed; its mark was taken back
    batch_lost {batch, attempt, worker, reason, charged, lanes: [first, end]}
    retry_planned {batch, lanes, attempt, due}
    quarantined {trial, batch, lane, outcome, message, attempts}
    failed_before {trial, batch, lane, outcome, message, attempts}: in the campaign this one was merged of
    cancelled {trial | batch, why[, lane]}: of a batch all that has no data (`trials` of them); with a
                   trial, its batch may stand, too
    readmitted {trial | batch[, lane, flying]}: back into the race; with a trial, its batch and lane may
                   stand, too; `flying`: its batch was in flight all the time
    part_sealed {part, rows, trials, bytes, seconds[, found]}      code_change_accepted {old, new}
    part_pruned, part_kept {part, bytes, differ: {batch: [table]}}: shards that were removed, or not
    budget_reached {budget: {unit: amount}, spent: {unit: amount}}
    paused {reason}                                       continued {}
    unreadable {journal, lines}: from the reader, not from a journal

Every event also has `event` and `at`. Unknown ones are only counted, so an old
version can read a newer one's history: those of the pools (jobs_submitted, job_ended, pool_paused,
…) are read by `staffa.views.pools`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.storage.spans import unspan
from staffa.storage.spending import Spending
from staffa.storage.states import State
from staffa.trial import Outcome


@dataclass(frozen=True)
class Failure:
    """One try of one trial that brought no data."""

    attempt: int
    outcome: str
    message: str
    at: float
    node: str


@dataclass(frozen=True)
class Loss:
    """A batch whose worker vanished; `charged` when the batch was on its device at the time.

    Arguments:
    - `lanes`: first lane and the one after the last that were being tried.
    """

    attempt: int
    worker: str
    reason: str
    at: float
    charged: bool
    lanes: tuple[int, int] | None


UNNAMED = "workers"
"""What stands for the pool of workers that belong to none: those of this machine, or of a given client."""

CUT_OFFS, CRASHES, VANISHED = "cut_offs", "crashes", "vanished"
"""Why work was thrown away: a stop that was to be expected, a process that died, a node that was gone."""


def cause(event: Mapping[str, Any]) -> str:
    """To which of the three causes a `worker_left` belongs."""
    if event.get("expected"):
        return CUT_OFFS
    certain = event.get("certain", "vanished" not in str(event.get("reason", "")))
    return CRASHES if certain else VANISHED


@dataclass(frozen=True)
class Books:
    """What the journals say, folded. Only `note` changes it.

    Batches are named as in the events (`g0/3`), trials by their digest.

    Arguments:
    - `charged`: for each batch the attempts that count against its limit: settled, or lost by
      its own doing.
    - `flying`: batches issued and not heard of since, with their worker.
    - `adrift`: batches that were in flight when their driver ended, and not heard of since.
    - `settled`: batches known to be committed.
    - `nodes`: where each of them was computed, as far as it was said.
    - `issued`: lanes a batch was last issued for, where these are not all without data.
    - `open`: lanes of settled batches that are to be tried again: planned, or readmitted.
    - `undecided`: lanes that failed, and of which nobody said yet what comes of them.
    - `segments`: batches that yielded and were not committed since, with the segment to carry on from.
    - `failures`, `losses`: what went wrong, in order, per trial and per batch.
    - `nan`: trials whose data hold a NaN.
    - `forgiven`: trials readmitted, with how many of their failures no longer count.
    - `states`: trials (or whole batches) that are out of the race: `quarantined`, `cancelled`, …
      (`staffa.storage.states.State`); `why`: what was said when they were cancelled; `sizes`: trials
      that went with a whole batch; `words`: how many trials are in each state.
    - `retries`: planned and not yet issued, per batch: the event's `lanes`, `attempt`, `due`.
    - `parts`: sealed parts by name: the event's `rows`, `trials`, `bytes`, `seconds`.
    - `code_changes`: accepted ones, old and new digest.
    - `runs`: one entry a driver: the fields of `run_started`, later those of `run_ended`.
    - `counts`: how often each event was recorded; `outcomes`: tries by outcome (a trial that was
      retried counts every time).
    - `seconds`: sums of the timings of settled and yielded batches by kind; `written`: the `batches`
      that settled, and their `bytes`.
    - `present`: workers that are there, by address: their pool.
    - `sharers`: names of all workers that a node has had for one job; they share its hours.
    - `node_seconds_lost`: work thrown away, by cause (`CUT_OFFS`, …).
    - `condition`: `paused` with its reason while the driver is paused.
    - `spending`: what has been held of the machines.
    - `asked`: of a search, by batch what was asked for (`trials_asked`), in that order; `came`: its batches in the
      order in which they settled; `objectives`: what it is after, in words, where that was changed.
    """

    charged: dict[str, tuple[int, ...]] = field(default_factory=dict)
    flying: dict[str, str] = field(default_factory=dict)
    adrift: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    nodes: dict[str, str] = field(default_factory=dict)
    issued: dict[str, str] = field(default_factory=dict)
    open: dict[str, set[int]] = field(default_factory=dict)
    undecided: dict[str, set[int]] = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    losses: dict[str, list[Loss]] = field(default_factory=dict)
    nan: set[str] = field(default_factory=set)
    forgiven: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    words: Counter[str] = field(default_factory=Counter)
    retries: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    code_changes: list[tuple[str, str]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)
    present: dict[str, str] = field(default_factory=dict)
    sharers: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    node_seconds_lost: dict[str, float] = field(default_factory=dict)
    condition: dict[str, str] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    asked: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    came: list[str] = field(default_factory=list)
    objectives: dict[str, Any] = field(default_factory=dict)

    def note(self, event: Mapping[str, Any]) -> None:
        """Enter one event. Unknown ones are only counted, malformed ones as `unreadable`."""
        enter = _ENTRIES.get(event["event"])
        try:
            if enter is not None:
                enter(self, event)
            self.spending.note(event)
            self.counts[event["event"]] += 1
        except (KeyError, TypeError, ValueError, AttributeError):
            self.counts["unreadable"] += 1

    def tries(self, trial: str) -> int:
        """Failed tries of a trial that count against its limit."""
        return len(self.failures.get(trial, ())) - self.forgiven.get(trial, 0)

    def tries_by_class(self, trial: str) -> Counter[str]:
        """The same, by outcome: each class of failures has a limit of its own."""
        return Counter(failure.outcome for failure in self.failures.get(trial, ())[self.forgiven.get(trial, 0) :])

    def state(self, trial: str, batch: str = "") -> str:
        """Why a trial is out of the race (see `states`); empty for one that is not."""
        return self.states.get(trial) or self.states.get(batch, "")

    def attempts(self, batch: str) -> int:
        """How many attempts of a batch have been charged."""
        return len(self.charged.get(batch, ()))

    def summary(self) -> dict[str, Any]:
        """The books in numbers, small however large the campaign."""
        return {
            "events": dict(self.counts),
            "outcomes": dict(self.outcomes),
            "written": dict(self.written),
            "seconds": {name: round(total, 3) for name, total in self.seconds.items()},
            "workers": dict(Counter(self.present.values())),
            "node_hours_lost": {name: round(lost / 3600, 6) for name, lost in self.node_seconds_lost.items()},
            "flying": len(self.flying),
            "yielded": len(self.segments),
            "retries": len(self.retries),
            "nan": len(self.nan),
            "quarantined": self.words[State.QUARANTINED],
            "cancelled": self.words[State.CANCELLED],
            "parts": len(self.parts),
            "rows": sum(int(part.get("rows", 0)) for part in self.parts.values()),
            "paused": self.condition.get("paused"),
            "run": self.runs[-1] if self.runs else None,
        }


def fold(events: Iterable[Mapping[str, Any]]) -> Books:
    """Read a history into books."""
    books = Books()
    for event in events:
        books.note(event)
    return books


def _run_started(books: Books, event: Mapping[str, Any]) -> None:
    books.runs.append({name: value for name, value in event.items() if name != "event"})
    _nobody(books)


def _run_ended(books: Books, event: Mapping[str, Any]) -> None:
    if not books.runs:
        books.runs.append({})
    books.runs[-1].update(ended=event["at"], reason=event.get("reason"), exit_code=event.get("exit_code"))
    _nobody(books)


def _nobody(books: Books) -> None:
    """Between two drivers nothing is in flight, and nobody is known to be there."""
    books.adrift.update(books.flying)
    books.flying.clear()
    books.present.clear()
    books.condition.clear()


def _worker_joined(books: Books, event: Mapping[str, Any]) -> None:
    books.present[event["address"]] = event.get("pool") or UNNAMED
    books.sharers.setdefault(_place(books, event), set()).add(slot(event))


def _worker_left(books: Books, event: Mapping[str, Any]) -> None:
    books.present.pop(event["address"], None)
    lost = max(float(event.get("lost", 0.0)), 0.0)
    if lost:
        sharers = len(books.sharers.get(_place(books, event), ())) or 1
        found, why = books.node_seconds_lost, cause(event)
        found[why] = found.get(why, 0.0) + lost / sharers


def _place(books: Books, event: Mapping[str, Any]) -> tuple[str, str]:
    """A node, as held by one job; without jobs, as used by one driver."""
    return str(event.get("job") or f"run {len(books.runs)}"), str(event.get("node") or event.get("host", ""))


def slot(event: Mapping[str, Any]) -> str:
    """A worker's place in its job: `12-3-0` of `12-3-0.2`, which was started there for the second time."""
    name = str(event.get("name", ""))
    return name.partition(".")[0] if event.get("job") else name


def _batch_issued(books: Books, event: Mapping[str, Any]) -> None:
    books.flying[event["batch"]] = str(event.get("worker", ""))
    books.adrift.discard(event["batch"])
    books.retries.pop(event["batch"], None)
    books.issued.pop(event["batch"], None)
    if event.get("lanes") is not None:
        books.issued[event["batch"]] = event["lanes"]


def _batch_settled(books: Books, event: Mapping[str, Any]) -> None:
    batch, attempt = event["batch"], int(event["attempt"])
    _charge(books, batch, attempt)
    books.flying.pop(batch, None)
    books.segments.pop(batch, None)
    books.settled.add(batch)
    if batch in books.asked:
        books.came.append(batch)
    books.nodes[batch] = sys.intern(str(event.get("node") or ""))
    books.adrift.discard(batch)
    tried = unspan(books.issued.pop(batch)) if batch in books.issued else None
    _close(books, batch, tried)
    failed = {int(lane["lane"]) for lane in event.get("failed", ()) if lane.get("outcome") != Outcome.NAN.word}
    _leave_undecided(books, batch, failed)
    books.outcomes.update(event.get("outcomes", {}))
    books.nan.difference_update(event.get("mended", ()))
    books.nan.update(event.get("nan", ()))
    books.written.update(batches=1, bytes=int(event.get("bytes", 0)))
    _spend(books, event)
    for lane in event.get("failed", ()):
        _fail(books, lane, attempt, event)


def _close(books: Books, batch: str, lanes: Iterable[int] | None) -> None:
    """Lanes are not to be tried again for now; None: none of the batch."""
    rest = books.open.pop(batch, set()).difference(lanes or ()) if lanes is not None else set()
    books.open.pop(batch, None)
    if rest:
        books.open[batch] = rest


def _leave_undecided(books: Books, batch: str, lanes: set[int]) -> None:
    if lanes:
        books.undecided.setdefault(batch, set()).update(lanes)


def _decide(books: Books, batch: str, lanes: Iterable[int]) -> None:
    rest = books.undecided.pop(batch, set()).difference(lanes)
    if rest:
        books.undecided[batch] = rest


def _spend(books: Books, event: Mapping[str, Any]) -> None:
    for name, seconds in event.get("timings", {}).items():
        books.seconds[name] = books.seconds.get(name, 0.0) + float(seconds)


def _fail(books: Books, lane: Mapping[str, Any], attempt: int, event: Mapping[str, Any]) -> None:
    failure = Failure(
        attempt=attempt,
        outcome=str(lane.get("outcome", "raised")),
        message=str(lane.get("message", "")),
        at=float(event["at"]),
        node=str(event.get("node", "")),
    )
    books.failures.setdefault(lane["trial"], []).append(failure)


def _batch_lost(books: Books, event: Mapping[str, Any]) -> None:
    batch, lanes = event["batch"], event.get("lanes")
    loss = Loss(
        attempt=int(event["attempt"]),
        worker=str(event.get("worker", "")),
        reason=str(event.get("reason", "")),
        at=float(event["at"]),
        charged=bool(event["charged"]),
        lanes=(int(lanes[0]), int(lanes[1])) if lanes else None,
    )
    books.losses.setdefault(batch, []).append(loss)
    books.flying.pop(batch, None)
    if loss.charged:
        _charge(books, batch, loss.attempt)


def _charge(books: Books, batch: str, attempt: int) -> None:
    charged = books.charged.get(batch, ())
    if attempt not in charged:
        books.charged[batch] = (*charged, attempt)


def _batch_yielded(books: Books, event: Mapping[str, Any]) -> None:
    books.segments[event["batch"]] = int(event["segment"])
    books.flying.pop(event["batch"], None)
    _spend(books, event)


def _retry_planned(books: Books, event: Mapping[str, Any]) -> None:
    books.retries[event["batch"]] = {name: event[name] for name in ("lanes", "attempt", "due")}
    books.open.setdefault(event["batch"], set()).update(event["lanes"])
    _decide(books, event["batch"], event["lanes"])


def _batches_found(books: Books, event: Mapping[str, Any]) -> None:
    for batch, words in event["batches"].items():
        books.settled.add(batch)
        if batch in books.asked:
            books.came.append(batch)
        books.adrift.discard(batch)
        books.segments.pop(batch, None)
        missing = set(unspan(words.get(Outcome.MISSING.word, "")))
        _close(books, batch, books.open.get(batch, set()) - missing)
        failed = {lane for word, lanes in words.items() if Outcome[word.upper()].failed for lane in unspan(lanes)}
        _leave_undecided(books, batch, failed)


def _trials_asked(books: Books, event: Mapping[str, Any]) -> None:
    books.asked[event["batch"]] = {name: event.get(name, ()) for name in ("places", "points", "replicates")}


def _objectives_changed(books: Books, event: Mapping[str, Any]) -> None:
    said = dict(event["objectives"])
    books.objectives.clear()
    books.objectives.update(said)


def _batch_damaged(books: Books, event: Mapping[str, Any]) -> None:
    books.settled.discard(event["batch"])
    books.segments.pop(event["batch"], None)
    _close(books, event["batch"], None)
    books.undecided.pop(event["batch"], None)


def _quarantined(books: Books, event: Mapping[str, Any]) -> None:
    trial = event["trial"]
    _put(books, trial, State.QUARANTINED)
    _out(books, event)
    if trial not in books.failures:
        # A trial that took its process down never had a receipt; here alone stands why.
        _fail(books, event, int(event.get("attempts", 1)), event)


def _failed_before(books: Books, event: Mapping[str, Any]) -> None:
    _fail(books, event, int(event["attempts"]), event)


def _cancelled(books: Books, event: Mapping[str, Any]) -> None:
    name = event["trial"] if "trial" in event else event["batch"]
    _put(books, name, State.CANCELLED, int(event.get("trials", 1)))
    if event.get("why"):
        books.why[name] = str(event["why"])
    _out(books, event)


def _put(books: Books, name: str, word: str, trials: int = 1) -> None:
    """A trial, or a batch with so many trials, leaves the race, or comes back into it."""
    before = books.states.pop(name, "")
    if before:
        books.words[before] -= books.sizes.pop(name, 1)
    if word:
        books.states[name] = word
        books.words[word] += trials
        if trials > 1:
            books.sizes[name] = trials


def _out(books: Books, event: Mapping[str, Any]) -> None:
    """A trial (or a whole batch) leaves the race."""
    batch = event.get("batch", "")
    if "lane" in event:
        _close(books, batch, [int(event["lane"])])
        _decide(books, batch, [int(event["lane"])])
    elif "trial" not in event:
        _close(books, batch, None)
        books.undecided.pop(batch, None)


def _readmitted(books: Books, event: Mapping[str, Any]) -> None:
    name = event["trial"] if "trial" in event else event["batch"]
    _put(books, name, "")
    books.why.pop(name, None)
    if "trial" in event:
        books.forgiven[event["trial"]] = len(books.failures.get(event["trial"], ()))
        if "lane" in event:
            books.open.setdefault(event["batch"], set()).add(int(event["lane"]))
            _decide(books, event["batch"], [int(event["lane"])])
    else:
        books.charged.pop(event["batch"], None)


def _part_sealed(books: Books, event: Mapping[str, Any]) -> None:
    books.parts[event["part"]] = {
        name: event[name] for name in ("rows", "trials", "bytes", "seconds", "at") if name in event
    }


def _code_change_accepted(books: Books, event: Mapping[str, Any]) -> None:
    books.code_changes.append((str(event["old"]), str(event["new"])))


def _paused(books: Books, event: Mapping[str, Any]) -> None:
    books.condition["paused"] = str(event.get("reason", ""))


def _continued(books: Books, _: Mapping[str, Any]) -> None:
    books.condition.clear()


def _unreadable(books: Books, event: Mapping[str, Any]) -> None:
    books.counts["unreadable"] += int(event["lines"]) - 1


_ENTRIES: Mapping[str, Callable[[Books, Mapping[str, Any]], None]] = {
    "run_started": _run_started,
    "run_ended": _run_ended,
    "worker_joined": _worker_joined,
    "worker_left": _worker_left,
    "batch_issued": _batch_issued,
    "batch_settled": _batch_settled,
    "batch_lost": _batch_lost,
    "batch_yielded": _batch_yielded,
    "batches_found": _batches_found,
    "trials_asked": _trials_asked,
    "objectives_changed": _objectives_changed,
    "batch_damaged": _batch_damaged,
    "retry_planned": _retry_planned,
    "quarantined": _quarantined,
    "failed_before": _failed_before,
    "cancelled": _cancelled,
    "readmitted": _readmitted,
    "part_sealed": _part_sealed,
    "code_change_accepted": _code_change_accepted,
    "paused": _paused,
    "continued": _continued,
    "unreadable": _unreadable,
}
