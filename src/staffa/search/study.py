"""A search as it is asked and told: what to try next, who tries it, what came of it.

    study = Study(domain, objectives, strategy, trials=200)
    for asked in study.ask(4, worker="w1"):
        study.tell(asked.trial, {"loss": loss(**asked.params)}, attempt=asked.attempt)
    study.best.params

Several threads may use one study. With a `journal` it is the same study again after its process was killed: same
trials, same answers to the same keys, and the same suggestions from there on.

**Nothing counts twice.** A trial has one result: the first. The same one told again is answered as it was
(`replayed`), another one is a `ConflictError`. A trial whose lease ran out, or that failed, is handed out again while
it has tries left; if its first worker's result comes late, it is taken, and the second's is the duplicate.

**Keys.** Whoever does not know whether a call arrived makes it again with the same `key`, and gets the answer the
first one got. Another call with a used key is a `ConflictError`. The latest 20,000 keys are known; a result needs none,
since it is known by what it says.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.errors import ConfigError, near
from staffa.search import fronts
from staffa.search.answers import Asked, Beat, ConflictError, Record, UnknownTrialError, Values, Verdict
from staffa.search.journal import Event, Journal
from staffa.search.register import CANCELLED, PENDING, RECORDED, STATES, WAITING, Entry, Register
from staffa.search.strategies import Strategy, Told
from staffa.search.suggesting import Suggesting
from staffa.trial import Scalar

__all__ = ["Asked", "Beat", "ConflictError", "Record", "Study", "UnknownTrialError", "Verdict"]

KEYS = 20_000
"""Idempotency keys that are remembered."""

MOST = 1000
"""Trials in one ask."""

LEASE = 300.0
"""Seconds a trial is somebody's without a word from them."""

LAPSED = "nothing was heard of it during its lease"


class Study:
    """A search that is asked and told.

    Arguments:
    - `trials`: how many trials the strategy is asked for in all; None for no end.
    - `seed`: of the strategy; only written down here.
    - `retries`: how many tries a trial may cost besides the first.
    - `lease`: seconds a trial is its worker's without a heartbeat; infinite where somebody else minds the workers.
    - `clock`: seconds since 1970.
    - `journal`: where facts go before they count; what stands in it is taken up. None: nothing outlives the process.

    Raises `ConfigError` where the journal's trials cannot be taken up.
    """

    def __init__(
        self,
        domain: Domain,
        objectives: Objectives,
        strategy: Strategy,
        *,
        trials: int | None = None,
        seed: int = 0,
        retries: int = 3,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
        journal: Journal | None = None,
    ) -> None:
        self.domain, self.strategy, self.budget, self.seed = domain, strategy, trials, seed
        self.lease, self.retries, self.journal = lease, retries, journal
        self._clock = clock
        self._lock = threading.RLock()
        self._suggesting = Suggesting(domain, strategy)
        self._keys: OrderedDict[str, Event] = OrderedDict()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._register = Register(domain, objectives, retries)
        self._ranked: tuple[object, Any] = (None, None)
        if journal is not None:
            self._take_up(journal, objectives)

    # --- asking ---

    def ask(self, count: int = 1, *, worker: str = "", key: str | None = None) -> list[Asked]:
        """Trials to be done now: first those that failed elsewhere and have tries left, then new ones.

        Arguments:
        - `count`: at most so many, up to 1,000. Fewer come when the budget is used up; none may mean that others still
          run (`finished` tells).
        - `worker`: under which name their heartbeats come.
        - `key`: the same key again is answered with the same trials.

        Raises `ConfigError` for a count out of range, `ConflictError` for a key used otherwise, `OSError` when the disk
        fails: then nothing was handed out.
        """
        handed = self.ask_at_once(count, worker=worker, key=key)
        if handed is not None:
            return handed
        with self._suggesting.thinking:
            with self._lock:
                # The same call, made twice at once, is one.
                handed = self.ask_at_once(count, worker=worker, key=key)
                if handed is not None:
                    return handed
                ready = len(self._suggesting.ready)
                first = self._register.suggested + ready
                new = min(count - len(self._register.waiting), self._left) - ready
                known = self._suggesting.known(self._register.told())
            fresh = self._suggesting.make(first, new, known)
            with self._lock:
                fresh = [*self._suggesting.ready, *fresh]
                again = list(islice(self._register.waiting, count - len(fresh)))
                return self._hand_out(again, fresh, count, worker, key)

    def ask_at_once(self, count: int = 1, *, worker: str = "", key: str | None = None) -> list[Asked] | None:
        """As `ask`; None where the strategy would have to think about it."""
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
            raise ConfigError(f"count: {count!r} trials cannot be asked for", f"a whole number from 1 to {MOST}")
        with self._lock:
            known = self._known(key, "asked", {"count": count, "worker": worker})
            if known is not None:
                return self._handed(known)
            self.expire()
            again = list(islice(self._register.waiting, count))
            new = min(count - len(again), self._left)
            if new > len(self._suggesting.ready):
                return None
            return self._hand_out(again, list(islice(self._suggesting.ready, new)), count, worker, key)

    def _hand_out(
        self, again: list[int], fresh: list[dict[str, Scalar]], count: int, worker: str, key: str | None
    ) -> list[Asked]:
        now = self._clock()
        self._saw(worker, now)
        if not again and not fresh:
            return []
        first = len(self._register.entries)
        event: Event = {
            "event": "asked",
            "at": now,
            "trials": [*again, *range(first, first + len(fresh))],
            "params": [*[None] * len(again), *fresh],
            "attempts": [*[self._register.entries[number].attempt + 1 for number in again], *[1] * len(fresh)],
            "worker": worker,
            "until": now + self.lease if self.lease < math.inf else None,
        }
        self._happens({**event, "key": key, "count": count} if key else event)
        for _ in range(min(len(fresh), len(self._suggesting.ready))):
            self._suggesting.ready.popleft()
        return self._handed(event)

    def _handed(self, event: Event) -> list[Asked]:
        entries = self._register.entries
        pairs = zip(event["trials"], event["attempts"], strict=True)
        return [
            Asked(number, dict(entries[number].params), attempt, entries[number].until) for number, attempt in pairs
        ]

    @property
    def _left(self) -> int:
        return MOST if self.budget is None else max(0, self.budget - self._register.suggested)

    # --- telling ---

    def tell(
        self,
        trial: int,
        values: Mapping[str, float | None] | None,
        *,
        attempt: int | None = None,
        key: str | None = None,
        failed: str = "",
        params: Mapping[str, Scalar] | None = None,
    ) -> Verdict:
        """Take the result of a trial, or (`failed`) the reason why a try brought none.

        Arguments:
        - `values`: by objective. A NaN, None or missing one scores infinitely much, and the trial's record says why.
        - `attempt`: which handing out this is about; without it, the latest.
        - `params`: what was computed: refused if that is not what the trial is.

        Raises `UnknownTrialError`, `ConfigError` for what makes no sense, `ConflictError` for what contradicts what
        stands, `OSError` when the disk fails. In each case nothing was recorded.
        """
        result = None if failed else self._values(values)
        with self._lock:
            entry = self._entry(trial)
            if params is not None and dict(params) != entry.params:
                raise ConflictError(f"trial {trial} has other parameters: {entry.params!r}", "tell what was asked for")
            if attempt is not None and not 1 <= attempt <= max(entry.attempt, 1):
                raise ConflictError(f"trial {trial} was never handed out as attempt {attempt}", "say what `ask` said")
            said = {"trial": trial, "attempt": attempt or entry.attempt}
            kind, body = ("told", {"values": result}) if result is not None else ("failed", {"why": failed})
            known = self._known(key, kind, {**said, **body} if attempt else {"trial": trial, **body})
            self._saw(entry.worker, self._clock())
            if known is not None:
                return self._verdict(trial, "replayed")
            if result is not None:
                return self._take(entry, {**said, **body}, key)
            return self._charge(entry, {**said, **body}, key)

    def add(
        self, params: Mapping[str, Scalar], values: Mapping[str, float | None], *, key: str | None = None
    ) -> Verdict:
        """Take a result that nobody asked for: a trial done before, or elsewhere. It is not of the budget.

        Raises `ConfigError` for parameters outside the space; the rest as `tell`.
        """
        if reason := self.domain.why_not(params):
            raise ConfigError(f"params: {reason}", "trials of a search lie in its space")
        result = self._values(values)
        with self._lock:
            body = {"params": dict(params), "values": result}
            known = self._known(key, "brought", body)
            if known is not None:
                return self._verdict(known["trial"], "replayed")
            number = len(self._register.entries)
            self._happens(self._keyed({"event": "brought", "at": self._clock(), "trial": number, **body}, key))
            return self._verdict(number, "recorded")

    def _take(self, entry: Entry, said: Event, key: str | None) -> Verdict:
        number, values = said["trial"], said["values"]
        if entry.state == RECORDED:
            if _plain(entry.values) == _plain(values):
                return self._verdict(number, "replayed")
            raise ConflictError(
                f"trial {number} has another result: {entry.values!r}, not {values!r}", "the first result stands"
            )
        if entry.state == CANCELLED:
            raise ConflictError(f"trial {number} was cancelled", "its result is not taken")
        if (entry.over or {}).get(said["attempt"], LAPSED) != LAPSED:
            raise ConflictError(f"attempt {said['attempt']} of trial {number} was said to have failed")
        why = self._register.objectives.why(values)
        event = {"event": "told", "at": self._clock(), **said, **({"why": why} if why else {})}
        self._happens(self._keyed(event, key))
        return self._verdict(number, "recorded")

    def _charge(self, entry: Entry, said: Event, key: str | None) -> Verdict:
        number, attempt = said["trial"], said["attempt"]
        before = (entry.over or {}).get(attempt)
        if before is not None:
            if before in (said["why"], LAPSED):
                return self._verdict(number, "replayed" if before != LAPSED else "ignored")
            raise ConflictError(f"attempt {attempt} of trial {number} was said to have failed: {before!r}")
        if entry.state == RECORDED and entry.told_by == attempt:
            raise ConflictError(f"trial {number} has a result", "the first word on an attempt stands")
        if entry.state != PENDING or attempt != entry.attempt:
            return self._verdict(number, "ignored")
        self._happens(self._keyed({"event": "failed", "at": self._clock(), **said}, key))
        return self._verdict(number, "recorded")

    def _values(self, said: Mapping[str, float | None] | None) -> Values:
        """What was said of the objectives, as it is written down: floats, None for what is missing."""
        names = self._register.objectives.names
        if not isinstance(said, Mapping):
            raise ConfigError(
                f"values: {said!r} are no values of objectives", f"a mapping; objectives: {', '.join(names)}"
            )
        for name in said:
            if name not in names:
                raise ConfigError(f"values.{name}: {name!r} is no objective", near(str(name), names))
        return {name: _number(said.get(name), name) for name in names}

    def _verdict(self, number: int, status: str) -> Verdict:
        entry = self._register.entries[number]
        return Verdict(number, status, entry.state, self._register.scores_of(entry), self._register.why(entry))

    # --- leases ---

    def cancel(self, trials: int | Iterable[int], *, again: bool = False, worker: str | None = None) -> dict[int, str]:
        """Nobody is to run these trials; with `again` somebody else is, and no try is charged.

        Arguments:
        - `worker`: only those that are held under this name; others are left as they are.

        Returns where each stands now. Raises `UnknownTrialError`; a trial with a result keeps it.
        """
        numbers = [trials] if isinstance(trials, int) else list(dict.fromkeys(trials))
        with self._lock:
            movable = (PENDING,) if again else (PENDING, WAITING)
            entries = {number: self._entry(number) for number in numbers}
            moved = [
                number
                for number, entry in entries.items()
                if entry.state in movable and (worker is None or entry.worker == worker)
            ]
            if moved:
                self._happens({"event": "cancelled", "at": self._clock(), "trials": moved, "again": again})
            return {number: entry.state for number, entry in entries.items()}

    def beat(self, worker: str = "", trials: Sequence[int] = ()) -> Beat:
        """Somebody is alive: what they hold is theirs for another lease.

        Arguments:
        - `worker`: all that is held under this name, unless they say what they have.
        - `trials`: which they believe to have: these alone are extended, so that one whose answer got lost on the way
          comes back. Those they have not (any more) are `lost`.

        Raises `UnknownTrialError`.
        """
        with self._lock:
            named = {number: self._entry(number) for number in trials}
            now = self._clock()
            self._saw(worker, now)
            self.expire(now)
            held = {
                number
                for number, entry in named.items()
                if entry.state == PENDING and (not worker or entry.worker == worker)
            }
            if worker and not named:
                held = set(self._register.workers.get(worker, set()))
            for number in held:
                self._register.extend(number, now + self.lease)
            return Beat(tuple(sorted(held)), tuple(sorted(set(named) - held)))

    def expire(self, now: float | None = None) -> list[int]:
        """Take trials from those who were not heard of during a lease; each costs a try. Says which."""
        with self._lock:
            now = self._clock() if now is None else now
            found = []
            for number in self._register.overdue(now):
                attempt = self._register.entries[number].attempt
                self._happens({"event": "expired", "at": now, "trial": number, "attempt": attempt, "why": LAPSED})
                found.append(number)
            return found

    # --- looking ---

    @property
    def objectives(self) -> Objectives:
        """What is good, as it counts now."""
        return self._register.objectives

    @property
    def best(self) -> Record | None:
        """The first of `top_k`; None while no trial is ranked."""
        found = self.top_k(1)
        return found[0] if found else None

    def top_k(self, k: int) -> list[Record]:
        """The best trials that are ranked, best first."""
        with self._lock:
            scores, numbers = self._register.standing()
            return [self._record(numbers[row]) for row in fronts.top(scores, k).tolist()]

    def fronts(self, k: int = 1) -> list[list[Record]]:
        """The first k fronts: trials than which none of later fronts is better in all groups. Each by trial number."""
        with self._lock:
            scores, numbers = self._register.standing()
            state = (self._register.told_count, self._register.told().version)
            if self._ranked[0] != state:
                self._ranked = state, fronts.ranks(scores)
            ranks = self._ranked[1]
            found = [[numbers[row] for row in (ranks == front).nonzero()[0].tolist()] for front in range(k)]
            return [[self._record(number) for number in sorted(front)] for front in found if front]

    def record(self, trial: int) -> Record:
        """One trial. Raises `UnknownTrialError`."""
        with self._lock:
            self._entry(trial)
            return self._record(trial)

    def trials(self, since: int = 0, limit: int | None = None) -> list[Record]:
        """Trials by number, from `since` on."""
        with self._lock:
            count = len(self._register.entries)
            end = count if limit is None else min(count, since + limit)
            return [self._record(number) for number in range(since, end)]

    def told(self) -> Told:
        """What the strategy is told."""
        with self._lock:
            return self._register.told()

    @property
    def finished(self) -> bool:
        """Whether the budget is used up and nobody has, or is to get, a trial."""
        with self._lock:
            counts = self._register.counts
            return self._left == 0 and not counts[PENDING] and not counts[WAITING]

    def status(self) -> dict[str, Any]:
        """The search in short: how many trials stand where, who works, the best one, what is good; fit for JSON."""
        with self._lock:
            now = self._clock()
            self.expire(now)
            best = self.best
            workers = {name: len(held) for name, held in self._register.workers.items() if name}
            recent = {name: 0 for name, at in self._seen.items() if name and now - at <= self.lease}
            return {
                "trials": {state: self._register.counts[state] for state in STATES},
                "asked": self._register.suggested,
                "budget": self.budget,
                "finished": self.finished,
                "workers": {**recent, **workers},
                "best": best and {"trial": best.trial, "params": best.params, "values": best.values},
                "objectives": self.objectives.words(),
                "space": self.domain.words(),
                "lease": self.lease if self.lease < math.inf else None,
                "cursor": self.journal.size if self.journal else 0,
            }

    # --- changing ---

    def hear(self, event: Event) -> None:
        """Take in what happened elsewhere, in the words of the journal: for a study that only follows a search."""
        with self._lock:
            self._happens(event)

    def rescore(self, objectives: Objectives) -> None:
        """Let something else be good: every trial is scored anew; nothing runs again.

        Raises `ConfigError` for other names than before, once there is a result: what was told is known by them.
        """
        with self._suggesting.thinking, self._lock:
            if self._register.counts[RECORDED] and set(objectives.names) != set(self.objectives.names):
                names = ", ".join(self.objectives.names)
                raise ConfigError(f"objectives: {', '.join(objectives.names)} are other ones than {names}")
            self._happens({"event": "objectives", "at": self._clock(), "objectives": objectives.words()})
            self._suggesting.ready.clear()

    def prepare(self) -> bool:
        """Let the strategy do what takes long (a refit) now, in the caller's thread, not in somebody's ask.

        From the first call on, `ask` goes by what the strategy was prepared for last. Says whether there was anything
        to do. One thread at a time.
        """
        return self._suggesting.prepare(self.told())

    def stock_up(self) -> bool:
        """Make one suggestion ahead of time, for an `ask` to find; says whether one was wanted."""
        with self._suggesting.thinking:
            with self._lock:
                ready = len(self._suggesting.ready)
                if ready >= self._suggesting.level(self._register.counts[PENDING], self._left):
                    return False
                first = self._register.suggested + ready
                known = self._suggesting.known(self._register.told())
            made = self._suggesting.make(first, 1, known)
            with self._lock:
                self._suggesting.ready.extend(made)
            return True

    def close(self) -> None:
        """Make what was recorded durable. The study is of no use afterwards if it has a journal."""
        with self._suggesting.thinking, self._lock:
            if self.journal is not None:
                self.journal.close()

    # --- inside ---

    def _happens(self, event: Event) -> None:
        """A fact: written first, then acted on. Raises `OSError` when it cannot be written; then it is none."""
        if self.journal is not None:
            self.journal.append(event)
        self._register.note(event)
        self._remember(event)

    def _remember(self, event: Event) -> None:
        key = event.get("key")
        if key:
            self._keys[key] = event
            if len(self._keys) > KEYS:
                self._keys.popitem(last=False)

    def _known(self, key: str | None, kind: str, body: Mapping[str, Any]) -> Event | None:
        """What was said under this key before. Raises `ConflictError` where it was something else."""
        known = self._keys.get(key) if key else None
        if known is None:
            return None
        if known["event"] != kind or any(_plain(known.get(name)) != _plain(said) for name, said in body.items()):
            raise ConflictError(f"the key {key!r} was used for something else", "each call has a key of its own")
        return known

    def _keyed(self, event: Event, key: str | None) -> Event:
        return {**event, "key": key} if key else event

    def _entry(self, trial: int) -> Entry:
        entries = self._register.entries
        if not isinstance(trial, int) or isinstance(trial, bool) or not 0 <= trial < len(entries):
            known = f"0 to {len(entries) - 1}" if entries else "none yet"
            raise UnknownTrialError(f"there is no trial {trial!r}", f"trials: {known}")
        return entries[trial]

    def _record(self, number: int) -> Record:
        entry, register = self._register.entries[number], self._register
        scores, why = register.scores_of(entry), register.why(entry)
        values = None if entry.values is None else dict(entry.values)
        return Record(number, dict(entry.params), entry.state, entry.attempt, entry.worker, values, scores, why)

    def _saw(self, worker: str, now: float) -> None:
        self._seen[worker] = now
        self._seen.move_to_end(worker)
        if len(self._seen) > KEYS:
            self._seen.popitem(last=False)

    def _take_up(self, journal: Journal, given: Objectives) -> None:
        """Go on with what a journal says; what was changed on the way stands, unless the declaration is a new one."""
        words = given.words()
        with _uncollected():
            for event in journal.read():
                self._register.note(event)
                self._remember(event)
        self._suggesting.gave(self._register.points())
        before = self._register.opened.get("objectives")
        now = self._clock()
        # Nobody could be heard of while there was nobody to hear.
        self._register.renew(now + self.lease)
        space = self.domain.words()
        self._happens({"event": "opened", "at": now, "objectives": words, "space": space, "seed": self.seed})
        if before is not None and _plain(before) != _plain(words):
            self._happens({"event": "objectives", "at": now, "objectives": words})


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A block that makes a million objects and drops none: looking for garbage among them would take half its time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _number(said: object, name: str) -> float | None:
    if said is None:
        return None
    if isinstance(said, str | bytes | bool) or not hasattr(said, "__float__"):
        raise ConfigError(f"values.{name}: {said!r} is no number", "a number, or null where there is none")
    try:
        number = float(said)
    except OverflowError:
        raise ConfigError(f"values.{name}: a number of that size cannot be stored", "it must fit in 64 bits") from None
    return number


def _plain(value: object) -> str:
    """A value as it comes back from a journal, whether it was there or not."""
    return json.dumps(value, sort_keys=True, default=str)
