"""What may become of a trial: its states, and what leads from one to the next. Pure.

    planned --> issued --> done --> archived --> pruned
       ^          |
       |          +--> failed --> quarantined        (and back to planned: retry, readmitted)
       |          |
       +--- lost, yielded, orphaned

A trial that is not to be run is `cancelled`, one that cannot be run yet has `missing_input`; neither
holds data. "Lost" is an attempt that is counted, not a state. What is done is said by the mark
beside the data; the ledger tells the rest (`standing`). `Course` follows one trial through the
ledger, and says so when something happens to it that must not happen.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.storage.spans import unspan
from staffa.trial import Outcome

Event = Mapping[str, Any]


class State(enum.StrEnum):
    """Where a trial stands."""

    PLANNED = "planned"
    """It has no data, and will be tried (again)."""
    ISSUED = "issued"
    """Its batch is with a worker, and it is one of those that are tried."""
    DONE = "done"
    """Its data are committed."""
    ARCHIVED = "archived"
    """They stand in a sealed part of the archive, too."""
    FAILED = "failed"
    """It was tried and has no data; what comes next is not decided."""
    QUARANTINED = "quarantined"
    """Given up after its last try. Only `staffa retry` brings it back."""
    CANCELLED = "cancelled"
    """Somebody decided that it is not to be run."""
    MISSING_INPUT = "missing_input"
    """A file it needs is not there."""
    PRUNED = "pruned"
    """Archived, and its hot data were removed."""
    HOPELESS = "hopeless"
    """A search gave it up: after some segments it was worse than others."""


class Cause(enum.StrEnum):
    """What moves a trial on."""

    ISSUED = "issued"
    COMMITTED = "committed"
    RESTORED = "restored"
    """Committed again, after the hot data of what is archived were found damaged."""
    FAILED = "failed"
    LOST = "lost"
    YIELDED = "yielded"
    ORPHANED = "orphaned"
    """Its driver is gone; nobody would hear of what is in flight."""
    FOUND = "found"
    """A driver before committed it, and was gone before it could say so."""
    FOUND_FAILED = "found_failed"
    RETRIED = "retried"
    GIVEN_UP = "given_up"
    CANCELLED = "cancelled"
    READMITTED = "readmitted"
    REJOINED = "rejoined"
    """Cancelled and readmitted while its batch was in flight."""
    DAMAGED = "damaged"
    SEALED = "sealed"
    PRUNED = "pruned"
    INPUT_MISSING = "input_missing"
    INPUT_FOUND = "input_found"
    GIVEN_UP_AS_HOPELESS = "given_up_as_hopeless"


_S, _C = State, Cause

TRANSITIONS: Mapping[Cause, tuple[frozenset[State], State]] = {
    _C.ISSUED: (frozenset({_S.PLANNED}), _S.ISSUED),
    _C.COMMITTED: (frozenset({_S.ISSUED}), _S.DONE),
    # From planned where its driver was gone before it could say so.
    _C.RESTORED: (frozenset({_S.ISSUED, _S.PLANNED}), _S.ARCHIVED),
    _C.FAILED: (frozenset({_S.ISSUED}), _S.FAILED),
    _C.LOST: (frozenset({_S.ISSUED}), _S.PLANNED),
    _C.YIELDED: (frozenset({_S.ISSUED}), _S.PLANNED),
    _C.ORPHANED: (frozenset({_S.ISSUED}), _S.PLANNED),
    _C.FOUND: (frozenset({_S.PLANNED}), _S.DONE),
    _C.FOUND_FAILED: (frozenset({_S.PLANNED}), _S.FAILED),
    # Data that hold a NaN may be tried again where the campaign says so.
    _C.RETRIED: (frozenset({_S.FAILED, _S.DONE}), _S.PLANNED),
    _C.GIVEN_UP: (frozenset({_S.FAILED}), _S.QUARANTINED),
    _C.CANCELLED: (
        frozenset({_S.PLANNED, _S.ISSUED, _S.FAILED, _S.QUARANTINED, _S.MISSING_INPUT}),
        _S.CANCELLED,
    ),
    # From planned, too: what waits for its next try need not wait any longer.
    _C.READMITTED: (frozenset({_S.PLANNED, _S.FAILED, _S.QUARANTINED, _S.CANCELLED}), _S.PLANNED),
    _C.REJOINED: (frozenset({_S.CANCELLED}), _S.ISSUED),
    _C.DAMAGED: (frozenset({_S.DONE, _S.ARCHIVED, _S.FAILED, _S.PLANNED}), _S.PLANNED),
    _C.SEALED: (frozenset({_S.DONE}), _S.ARCHIVED),
    _C.PRUNED: (frozenset({_S.ARCHIVED}), _S.PRUNED),
    _C.INPUT_MISSING: (frozenset({_S.PLANNED}), _S.MISSING_INPUT),
    _C.INPUT_FOUND: (frozenset({_S.MISSING_INPUT}), _S.PLANNED),
    # It yielded before it was compared.
    _C.GIVEN_UP_AS_HOPELESS: (frozenset({_S.PLANNED}), _S.HOPELESS),
}
"""For each cause the states it may find a trial in, and the one it leaves it in."""

FINAL = frozenset({State.ARCHIVED, State.PRUNED, State.QUARANTINED, State.CANCELLED, State.HOPELESS})
"""Where a trial stays by itself once a campaign is finished and sealed."""

OUT = frozenset({State.QUARANTINED, State.CANCELLED, State.MISSING_INPUT, State.HOPELESS})
"""Out of the race: not tried unless somebody asks for it."""


class IllegalTransition(ValueError):
    """Something happened to a trial that its state does not allow."""


def after(state: State, cause: Cause) -> State:
    """The state a cause leads to. Raises `IllegalTransition` from any other state than those it may find."""
    allowed, target = TRANSITIONS[cause]
    if state not in allowed:
        raise IllegalTransition(f"a trial that is {state} cannot be {cause}")
    return target


def standing(
    outcome: Outcome, word: str = "", *, issued: bool = False, retry: bool = False, sealed: bool = False
) -> State:
    """Where a trial stands: by the mark beside its data, and what the ledger adds to that.

    Arguments:
    - `word`: what `Books.states` says of the trial, or of its batch; empty for most.
    - `issued`: a live driver has it in flight.
    - `retry`: another try is planned.
    - `sealed`: it stands in a sealed part.
    """
    if outcome.has_data and not (issued or retry):
        return State.ARCHIVED if sealed else State.DONE
    if outcome is Outcome.CANCELLED or word == State.CANCELLED:
        return State.CANCELLED
    if outcome is Outcome.MISSING_INPUT or word == State.MISSING_INPUT:
        return State.MISSING_INPUT
    if outcome is Outcome.HOPELESS:
        return State.HOPELESS
    if word == State.QUARANTINED:
        return State.QUARANTINED
    if issued:
        return State.ISSUED
    return State.FAILED if outcome.failed and not retry else State.PLANNED


def census(
    trials: int,
    outcomes: Mapping[str, int],
    words: Mapping[str, int],
    *,
    issued: int = 0,
    retried: int = 0,
    archived: int = 0,
) -> dict[str, int]:
    """How many trials are in each state; they add up to `trials`, and what is zero is left out.

    Arguments:
    - `outcomes`: trials by what their marks say.
    - `words`: how many trials `Books.states` calls quarantined.
    - `issued`: trials in flight.
    - `retried`: trials that failed and are in flight again, or wait for that.
    - `archived`: trials in sealed parts.
    """
    data = sum(outcomes.get(word.word, 0) for word in Outcome if word.has_data)
    failed = sum(outcomes.get(word.word, 0) for word in Outcome if word.failed)
    quarantined = min(words.get(State.QUARANTINED, 0), failed)
    found = {
        State.ISSUED: issued,
        State.DONE: data - min(archived, data),
        State.ARCHIVED: min(archived, data),
        State.FAILED: max(failed - quarantined - retried, 0),
        State.QUARANTINED: quarantined,
        State.CANCELLED: outcomes.get(Outcome.CANCELLED.word, 0),
        State.MISSING_INPUT: outcomes.get(Outcome.MISSING_INPUT.word, 0),
        State.HOPELESS: outcomes.get(Outcome.HOPELESS.word, 0),
    }
    rest = trials - sum(found.values())
    return {str(state): count for state, count in {State.PLANNED: rest, **found}.items() if count > 0}


# --- one trial's course ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seat:
    """A trial's place, in the words of the ledger: its digest, its batch (`g0/3`) and lane, its part."""

    trial: str
    batch: str
    lane: int
    part: str


@dataclass
class Course:
    """A trial on its way through a history.

    Arguments:
    - `strict`: raise `IllegalTransition` where the history says what cannot be. Otherwise it is
      believed, and counted in `surprises`: a journal may have been lost.
    """

    seat: Seat
    strict: bool = False
    state: State = State.PLANNED
    attempts: int = 0
    """Tries that ended: committed, failed, or lost by its own batch's doing."""
    sealed: bool = False
    surprises: int = 0
    steps: list[tuple[float, Cause, State]] = field(default_factory=list)

    def note(self, event: Event) -> Cause | None:
        """Take in the next event; what it meant for the trial, if anything."""
        read = _READERS.get(event["event"])
        cause = read(self, event) if read is not None else None
        if cause is not None:
            self._move(cause, float(event.get("at", 0.0)))
        return cause

    def _move(self, cause: Cause, at: float) -> None:
        try:
            self.state = after(self.state, cause)
        except IllegalTransition as error:
            if self.strict:
                raise IllegalTransition(f"{self.seat}: {error}, after {self.steps[-6:]}") from None
            self.surprises += 1
            self.state = TRANSITIONS[cause][1]
        self.sealed = self.sealed or cause is Cause.SEALED
        self.attempts += cause in (Cause.COMMITTED, Cause.RESTORED, Cause.FAILED)
        self.steps.append((at, cause, self.state))

    def own(self, event: Event) -> bool:
        """Whether an event is about the trial itself, or about its whole batch."""
        if "trial" in event:
            return bool(event["trial"] == self.seat.trial)
        return event.get("batch") == self.seat.batch


def _issued(course: Course, event: Event) -> Cause | None:
    if not course.own(event):
        return None
    lanes = event.get("lanes")
    if lanes is None:  # all that have no data and are still in the race
        return Cause.ISSUED if course.state is State.PLANNED else None
    if course.state is State.CANCELLED:
        return None  # its batch goes on from a checkpoint that it is in; what comes of it is not kept
    return Cause.ISSUED if course.seat.lane in unspan(lanes) else None


def _settled(course: Course, event: Event) -> Cause | None:
    if not course.own(event):
        return None
    mine = next((lane for lane in event.get("failed", ()) if lane["lane"] == course.seat.lane), None)
    if mine is not None and mine["outcome"] != Outcome.NAN.word:
        return Cause.FAILED
    if mine is None and course.state is not State.ISSUED:
        return None  # it was not one of those that were tried
    if course.seat.lane in unspan(event.get("left", "")):
        return Cause.YIELDED
    return Cause.RESTORED if course.sealed else Cause.COMMITTED


def _lost(course: Course, event: Event) -> Cause | None:
    if not course.own(event) or course.state is not State.ISSUED:
        return None
    course.attempts += bool(event.get("charged"))
    return Cause.LOST


def _found(course: Course, event: Event) -> Cause | None:
    others = event["batches"].get(course.seat.batch)
    if others is None or course.state is not State.PLANNED:
        return None
    word = next((word for word, lanes in others.items() if course.seat.lane in unspan(lanes)), Outcome.OK.word)
    if Outcome[word.upper()].failed:
        return Cause.FOUND_FAILED
    if not Outcome[word.upper()].has_data:
        return None
    return Cause.RESTORED if course.sealed else Cause.FOUND


def _retried(course: Course, event: Event) -> Cause | None:
    return Cause.RETRIED if course.own(event) and course.seat.lane in event["lanes"] else None


def _cancelled(course: Course, event: Event) -> Cause | None:
    if not course.own(event) or course.state is State.CANCELLED:
        return None
    # Of a whole batch that is cancelled, what has data already keeps them.
    whole = "trial" not in event and course.state not in TRANSITIONS[Cause.CANCELLED][0]
    return None if whole else Cause.CANCELLED


def _readmitted(course: Course, event: Event) -> Cause | None:
    if not course.own(event) or ("trial" not in event and course.state is not State.CANCELLED):
        return None
    return Cause.REJOINED if event.get("flying") else Cause.READMITTED


def _judged(course: Course, event: Event) -> Cause | None:
    mine = course.own(event) and course.seat.lane in unspan(event["hopeless"])
    return Cause.GIVEN_UP_AS_HOPELESS if mine and course.state is State.PLANNED else None


def _damaged(course: Course, event: Event) -> Cause | None:
    """What is out of the race stays out; the others lost their data."""
    return Cause.DAMAGED if course.own(event) and course.state not in OUT else None


def _in_part(course: Course, event: Event) -> bool:
    name = str(event["part"])
    return name == course.seat.part or name.startswith(f"{course.seat.part}-s")


def _when(state: State, cause: Cause, concerns: Callable[[Course, Event], bool]) -> Callable[[Course, Event], Any]:
    """The cause, for trials in a state that an event concerns."""
    return lambda course, event: cause if course.state is state and concerns(course, event) else None


def _anybody(course: Course, event: Event) -> bool:
    return True


_READERS: Mapping[str, Callable[[Course, Event], Cause | None]] = {
    "run_started": _when(State.ISSUED, Cause.ORPHANED, _anybody),
    "run_ended": _when(State.ISSUED, Cause.ORPHANED, _anybody),
    "batch_issued": _issued,
    "batch_settled": _settled,
    "batch_lost": _lost,
    "batch_yielded": _when(State.ISSUED, Cause.YIELDED, Course.own),
    "batches_found": _found,
    "batch_damaged": _damaged,
    "trials_judged": _judged,
    "retry_planned": _retried,
    "quarantined": lambda course, event: Cause.GIVEN_UP if course.own(event) else None,
    "cancelled": _cancelled,
    "readmitted": _readmitted,
    "part_sealed": _when(State.DONE, Cause.SEALED, _in_part),
    "part_pruned": _when(State.ARCHIVED, Cause.PRUNED, _in_part),
    "missing_input": _when(State.PLANNED, Cause.INPUT_MISSING, Course.own),
    "input_found": _when(State.MISSING_INPUT, Cause.INPUT_FOUND, Course.own),
}
