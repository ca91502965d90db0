"""What is to be issued next, what is in flight, what failed and when it is tried again.

Pure bookkeeping over batches, without Dask and without files, so that every rule about retries,
suspects and ripe parts can be tested with a clock of its own.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.campaign.plan import Group, Plan
from staffa.execution.marks import Started
from staffa.trial import Outcome, canonical

Batch = tuple[int, int]
"""(group, batch)."""

STRAYS = 3
"""Nodes that may vanish under a batch before it is taken for the cause."""
STUCK = 3
"""Searches for one guilty lane before all lanes that die together are left out."""


INFRASTRUCTURE = "infrastructure"
"""The class of failures that no trial is to blame for: errors of the machinery."""
NO_LIMIT_OF_ITS_OWN = {Outcome.NAN.word: 0, INFRASTRUCTURE: 3}
"""Classes for which `limit` does not count: a NaN is an answer, and the machinery is no trial's doing."""


@dataclass(frozen=True)
class Retries:
    """How often and when a failed trial is tried again.

    Arguments:
    - `limit`: tries after the first, for every class of failures (an outcome's word) by itself.
    - `per_class`: the same for single classes.
    """

    limit: int = 3
    initial: float = 30.0
    factor: float = 2.0
    jitter: float = 0.1
    maximum: float = 3600.0
    per_class: Mapping[str, int] = field(default_factory=dict)

    def allowed(self, word: str) -> int:
        """Failures of a class after which there is another try."""
        return self.per_class.get(word, NO_LIMIT_OF_ITS_OWN.get(word, self.limit))

    def wait(self, tries: int, chance: float) -> float:
        """Seconds before try number `tries + 1`; `chance` in [0, 1) spreads them."""
        try:
            base = min(self.initial * self.factor ** max(tries - 1, 0), self.maximum)
        except OverflowError:  # hundreds of tries
            base = self.maximum
        return base * (1 + self.jitter * (2 * chance - 1))


@dataclass
class Trouble:
    """A batch that did not go through at once."""

    attempts: int = 0
    deaths: int = 0
    """Processes that died with this batch on the device since it was last settled."""
    suspects: tuple[int, ...] = ()
    stuck: int = 0
    """Times the suspects could not be narrowed down."""
    leave_out: dict[int, tuple[int, str]] = field(default_factory=dict)
    tries: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Failed tries of each lane, by class."""
    faults: int = 0
    """Errors of the machinery, which no lane is to blame for."""
    strays: int = 0
    """Times its node vanished while it was on the device: nobody's fault, unless it goes on."""
    nodes: set[str] = field(default_factory=set)
    """Where it failed: the next try goes elsewhere, if there is an elsewhere."""

    def acquit(self, lanes: Collection[int]) -> None:
        """Nothing is held against these lanes any more."""
        self.suspects = tuple(lane for lane in self.suspects if lane not in lanes)
        for lane in lanes:
            self.leave_out.pop(lane, None)

    def tried(self, lane: int) -> int:
        """Failed tries of a lane, of whatever class."""
        return self.tries[lane].total() if lane in self.tries else 0


@dataclass(frozen=True)
class Next:
    """A batch to be issued now."""

    batch: Batch
    attempt: int
    lanes: tuple[int, ...] | None
    leave_out: tuple[tuple[int, int, str], ...]
    suspects: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """What settling a batch decided about its failed lanes."""

    retried: tuple[int, ...] = ()
    due: float = 0.0
    quarantined: tuple[int, ...] = ()


class Board:
    """The state of every batch of a plan.

    Arguments:
    - `clock`, `chance`: the time, and random numbers in [0, 1) for the jitter.
    """

    def __init__(self, plan: Plan, retries: Retries, clock: Callable[[], float], chance: random.Random) -> None:
        self.plan = plan
        self.retries = retries
        self.troubles: dict[Batch, Trouble] = {}
        self.outcomes: Counter[str] = Counter()
        self.flying: set[Batch] = set()
        self.held: set[Batch] = set()
        """Batches that wait for what the desk has to do with them: not issued, and their parts not ripe."""
        self.sealing: set[int] = set()
        """Parts that are being read: their batches are not issued, hence not written, until they are sealed."""
        self._clock, self._chance = clock, chance
        self._queue: deque[tuple[Batch, tuple[int, ...] | None]] = deque()
        self._later: list[tuple[float, Batch, tuple[int, ...]]] = []
        self._waiting: set[Batch] = set()
        """Batches in one of the two."""
        self._aloft: dict[Batch, tuple[int, ...] | None] = {}
        """Lanes that are being tried, of each batch in flight; None for all that have no data."""
        self._counts: dict[Batch, Counter[str]] = {}
        self._groups: defaultdict[int, Counter[str]] = defaultdict(Counter)
        """The same, summed up by group."""
        self._part_of = {(part.group, b): n for n, part in enumerate(plan.parts) for b in part.batches()}
        self._open = [len(part.batches()) for part in plan.parts]
        self._programs = _programs(plan)
        self._unsettled: set[Batch] = set(self._part_of)
        self.vacant: set[Batch] = set()
        """Batches of a search that no trial belongs to yet."""
        self._nobodys: set[Batch] = set()
        """Those that none ever will belong to."""

    def load(
        self,
        statuses: Iterable[tuple[Batch, Mapping[str, int]]],
        half_open: Mapping[Batch, tuple[int, ...]] | None = None,
    ) -> None:
        """Take over what the hot stores say: committed batches are settled, the rest is queued.

        Arguments:
        - `half_open`: of batches that were tried before, the lanes that are still to be run.
        """
        for batch, counts in statuses:
            if batch in self.vacant or batch in self._nobodys:
                continue
            self._settle(batch, counts, open_again=bool(counts.get(Outcome.MISSING.word)))
        for part in self.plan.parts:
            for number in part.batches():
                if (part.group, number) in self._unsettled and (part.group, number) not in self.vacant:
                    self._wait((part.group, number), (half_open or {}).get((part.group, number)))

    def grow(self, plan: Plan) -> None:
        """Take up a plan that has grown: groups and parts that it did not have are queued."""
        for number in range(len(self.plan.parts), len(plan.parts)):
            part = plan.parts[number]
            self._open.append(len(part.batches()))
            for batch in part.batches():
                self._part_of[part.group, batch] = number
                self._unsettled.add((part.group, batch))
                self._wait((part.group, batch), None)
        self._programs = _programs(plan)
        self.plan = plan

    def reserve(self, batches: Iterable[Batch]) -> None:
        """Batches that are issued once somebody asks for trials (`seat`); to be told before `load`."""
        self.vacant.update(batches)

    def seat(self, batch: Batch) -> None:
        """Trials were asked for: their batch is to be issued."""
        self.vacant.discard(batch)
        self._wait(batch, None)

    def release(self) -> None:
        """Nothing more is asked for: the batches that nobody has are done with."""
        for batch in self.vacant:
            self._settle(batch, {})
        self._nobodys |= self.vacant
        self.vacant.clear()

    def is_settled(self, batch: Batch) -> bool:
        """Whether a batch is committed, and not to be done again."""
        return batch not in self._unsettled

    def program(self, group: int) -> str:
        """What a worker must have compiled for a group."""
        return self._programs[group]

    def take(self, accepts: Callable[[int], bool], node: str = "", nodes: Collection[str] = ()) -> Next | None:
        """The next batch to issue whose group is accepted; it is in flight from now on.

        Arguments:
        - `node`: where it would run; a batch that failed there waits for another of the `nodes`.
        """
        self._ripen()
        accepted: dict[int, bool] = {}
        for index, (batch, lanes) in enumerate(self._queue):
            group = batch[0]
            if group not in accepted:
                accepted[group] = accepts(group)
                if len(accepted) == len(self.plan.groups) and not any(accepted.values()):
                    return None
            held = batch in self.held or self.part(batch) in self.sealing
            if accepted[group] and not held and not self._shuns(batch, node, nodes):
                del self._queue[index]
                self._waiting.discard(batch)
                return self._issue(batch, lanes)
        return None

    def part(self, batch: Batch) -> int:
        """The number of the part that a batch belongs to."""
        return self._part_of[batch]

    def busy(self, batch: Batch) -> bool:
        """Whether a batch is being written, or read to be sealed."""
        return batch in self.flying or self.part(batch) in self.sealing

    def failed_on(self, batch: Batch, node: str) -> None:
        """Remember where a batch failed."""
        self.trouble(batch).nodes.add(node)

    def trouble(self, batch: Batch) -> Trouble:
        """What is known against a batch; begun where nothing was."""
        return self.troubles.setdefault(batch, Trouble())

    def settled(
        self, batch: Batch, counts: Mapping[str, int], failed: Mapping[int, Outcome], tried: Iterable[int]
    ) -> Verdict:
        """A batch was committed.

        Arguments:
        - `counts`: trials of the batch by outcome.
        - `failed`: its lanes without data (and those with a NaN, where such are tried again).
        - `tried`: the lanes this attempt was to compute: only those are charged.
        """
        self._land(batch)
        fresh = {lane: outcome for lane, outcome in sorted(failed.items()) if lane in set(tried)}
        verdict = self._judge(batch, fresh) if fresh else Verdict()
        trouble = self.troubles.get(batch)
        if trouble is not None:
            trouble.deaths, trouble.suspects, trouble.stuck, trouble.leave_out = 0, (), 0, {}
        self._settle(batch, counts, open_again=bool(verdict.retried) or batch in self.held)
        if verdict.retried:
            self._waiting.add(batch)
            heapq.heappush(self._later, (verdict.due, batch, verdict.retried))
        return verdict

    def lost(
        self,
        batch: Batch,
        lanes: tuple[int, ...] | None,
        started: Started | None,
        attempt: int,
        *,
        certain: bool = True,
    ) -> bool:
        """A worker died; returns whether this batch is charged for it. It goes to the front again.

        A batch that had its start mark open is charged. One death may be an accident; from the
        second on (or at once, if the time ran out) the lanes on the device are suspects, divided
        until one stands alone: that one is left out.

        Arguments:
        - `certain`: whether the process died while its node lived on. A node that vanished is
          charged to nobody, until it happens to the same batch again and again.
        """
        self._land(batch)
        charged = started is not None and started.batch == f"g{batch[0]}/{batch[1]}" and started.attempt == attempt
        if charged and not certain:
            trouble = self.trouble(batch)
            trouble.strays += 1
            charged = trouble.strays >= STRAYS
        if charged and started is not None:
            trouble = self.trouble(batch)
            trouble.deaths += 1
            known = len(started.lanes) == 1 and trouble.tried(started.lanes[0]) > 0
            if started.timed_out or trouble.deaths > 1 or known:
                self._accuse(trouble, started)
        self._wait(batch, lanes, first=True)
        return charged

    def returned(self, batch: Batch, lanes: tuple[int, ...] | None, *, fault: bool) -> int:
        """Put a batch back that the machinery failed; returns how often that has happened."""
        self._land(batch)
        self._wait(batch, lanes, first=True)
        if fault:
            self.trouble(batch).faults += 1
        return self.troubles[batch].faults if batch in self.troubles else 0

    def yielded(self, batch: Batch, lanes: tuple[int, ...] | None) -> None:
        """A worker stopped between two segments; another goes on with the same attempt."""
        self._land(batch)
        trouble = self.troubles.get(batch)
        if trouble is not None:
            trouble.attempts -= 1
        self._wait(batch, lanes, first=True)

    def reopen(self, batch: Batch, lanes: tuple[int, ...] | None) -> None:
        """Do (some lanes of) a settled batch again: damaged data, or a retry asked for.

        What already waits for this batch, now or later, is done with it: one batch is never
        issued twice at a time. One that is in flight is left alone: ask again when it has landed.
        """
        if batch in self.flying:
            return
        trouble = self.trouble(batch)
        for lane in lanes or ():
            trouble.tries.pop(lane, None)
        for more in self._withdraw(batch):
            lanes = None if lanes is None or more is None else tuple(sorted({*lanes, *more}))
        self._unsettle(batch)
        self._wait(batch, lanes)

    def admit(self, batch: Batch, lanes: tuple[int, ...]) -> None:
        """Lanes of a batch that were not to be tried are to be tried after all, as their marks say by now."""
        known: Mapping[str, int] = self._counts.get(batch, {})
        if batch in self.troubles or any(known[word] for word in known if not Outcome[word.upper()].exempt):
            self.reopen(batch, lanes)
        elif batch not in self._waiting:
            self._unsettle(batch)
            self._wait(batch, None)

    def withdraw(self, taken: Mapping[Batch, tuple[Collection[int], Mapping[str, int]]]) -> None:
        """Lanes of batches that are not in flight are not to be tried (any more), as their marks say by now.

        Arguments:
        - `taken`: the lanes, and the trials of the batch by outcome after that.
        """

        def rest(batch: Batch, lanes: tuple[int, ...] | None) -> tuple[int, ...] | None:
            if batch not in taken:
                return lanes
            gone, counts = taken[batch]
            if lanes is None:
                # One that somebody committed unheard is issued all the same: its receipt tells the rest.
                return () if all(Outcome[word.upper()].exempt for word in counts) else None
            return tuple(lane for lane in lanes if lane not in gone)

        queue = [(batch, rest(batch, lanes)) for batch, lanes in self._queue]
        later = [(due, batch, rest(batch, lanes) or ()) for due, batch, lanes in self._later]
        self._queue = deque(entry for entry in queue if entry[1] != ())
        self._later = [entry for entry in later if entry[2]]
        heapq.heapify(self._later)
        self._waiting = {batch for batch, _ in self._queue} | {batch for _, batch, _ in self._later}
        for batch, (lanes, counts) in taken.items():
            self._settle(batch, counts, open_again=batch in self._waiting)
            if batch in self.troubles:
                self.troubles[batch].acquit(lanes)

    def tried_now(self, batch: Batch, lane: int) -> bool:
        """Whether a lane is among those that are being tried, its batch being in flight."""
        lanes = self._aloft.get(batch, ())
        return lanes is None or lane in lanes

    @property
    def trials_flying(self) -> int:
        """Trials that are being tried; of a batch that was never settled, all of it."""
        return sum(self._aloft_by_group().values())

    def by_group(self) -> list[dict[str, Any]]:
        """Every group in numbers, in the order of the plan."""
        aloft = self._aloft_by_group()
        return [group_facts(group, self._groups[n], aloft[n]) for n, group in enumerate(self.plan.groups)]

    @property
    def trials_retrying(self) -> int:
        """Trials that failed and are being tried again, or will be."""
        queued, later = (lanes for _, lanes in self._queue), (lanes for _, _, lanes in self._later)
        return sum(len(lanes) for lanes in (*queued, *later, *self._aloft.values()) if lanes is not None)

    def settled_batches(self) -> set[Batch]:
        """Batches that are committed and not to be done again."""
        return set(self._part_of) - self._unsettled

    def with_data(self, part: int) -> int:
        """Trials of a part that have data."""
        own = self.plan.parts[part]
        counts = [self._counts.get((own.group, number), Counter()) for number in own.batches()]
        return sum(found[word] for found in counts for word in (Outcome.OK.word, Outcome.NAN.word))

    def ripe(self, part: int) -> bool:
        """Whether all batches of a part are settled, with no retry to come."""
        return self._open[part] == 0

    @property
    def idle_until(self) -> float | None:
        """When the next retry falls due; None if nothing waits."""
        return self._later[0][0] if self._later else None

    @property
    def finished(self) -> bool:
        return not (self._queue or self._later or self.flying or self.vacant)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waiting_groups(self) -> set[int]:
        """Groups with batches that could be issued now."""
        return {batch[0] for batch, _ in self._queue}

    @property
    def retrying(self) -> int:
        return len(self._later)

    def _issue(self, batch: Batch, lanes: tuple[int, ...] | None) -> Next:
        trouble = self.troubles.get(batch)
        self.flying.add(batch)
        self._aloft[batch] = lanes
        if trouble is None:
            return Next(batch, 1, lanes, (), ())
        trouble.attempts = max(trouble.attempts, 1) + 1
        left_out = tuple((lane, outcome, text) for lane, (outcome, text) in sorted(trouble.leave_out.items()))
        return Next(batch, trouble.attempts, lanes, left_out, trouble.suspects)

    def _aloft_by_group(self) -> Counter[int]:
        """Trials that are being tried."""
        found: Counter[int] = Counter()
        for batch, lanes in self._aloft.items():
            found[batch[0]] += self._size(batch) if lanes is None else len(lanes)
        return found

    def _land(self, batch: Batch) -> None:
        self.flying.discard(batch)
        self._aloft.pop(batch, None)

    def _size(self, batch: Batch) -> int:
        return self.plan.groups[batch[0]].size(batch[1])

    def _judge(self, batch: Batch, fresh: Mapping[int, Outcome]) -> Verdict:
        """Charge failures to their lanes: each class is counted, and limited, by itself."""
        trouble = self.trouble(batch)
        again, out = [], []
        for lane, outcome in fresh.items():
            trouble.tries[lane][outcome.word] += 1
            spent = trouble.tries[lane][outcome.word] > self.retries.allowed(outcome.word)
            if not spent:
                again.append(lane)
            elif not outcome.has_data:
                out.append(lane)
        # A batch waits as long as the lane of it that failed most often has to.
        tries = max((trouble.tried(lane) for lane in again), default=1)
        due = self._clock() + self.retries.wait(tries, self._chance.random())
        return Verdict(tuple(again), due, tuple(out))

    def _shuns(self, batch: Batch, node: str, nodes: Collection[str]) -> bool:
        trouble = self.troubles.get(batch)
        return trouble is not None and node in trouble.nodes and any(other not in trouble.nodes for other in nodes)

    def _wait(self, batch: Batch, lanes: tuple[int, ...] | None, *, first: bool = False) -> None:
        self._waiting.add(batch)
        (self._queue.appendleft if first else self._queue.append)((batch, lanes))

    def _withdraw(self, batch: Batch) -> list[tuple[int, ...] | None]:
        """Take a batch out of the queue, and its retries to come; what lanes were asked for."""
        if batch not in self._waiting:
            return []
        found = [lanes for other, lanes in self._queue if other == batch]
        found += [lanes for _, other, lanes in self._later if other == batch]
        self._queue = deque(entry for entry in self._queue if entry[0] != batch)
        self._later = [entry for entry in self._later if entry[1] != batch]
        heapq.heapify(self._later)
        return found

    def _ripen(self) -> None:
        while self._later and self._later[0][0] <= self._clock():
            _, batch, lanes = heapq.heappop(self._later)
            self._queue.appendleft((batch, lanes))

    def _accuse(self, trouble: Trouble, started: Started) -> None:
        lanes = started.lanes
        if len(lanes) > 1:
            # Tried in pieces they lived, together they die: that is searched only so often.
            trouble.stuck += len(lanes) >= len(trouble.suspects)
            if trouble.stuck <= STUCK:
                trouble.suspects = lanes
                return
        outcome = Outcome.TIMEOUT if started.timed_out else Outcome.KILLED
        text = "ran past execution.timeout" if started.timed_out else "took its process down"
        if len(lanes) > 1:
            text += f" together with {len(lanes) - 1} others, not alone: lower execution.width"
        for lane in lanes:
            trouble.leave_out[lane] = (int(outcome), text)
        trouble.suspects, trouble.deaths, trouble.stuck = (), 0, 0

    def _settle(self, batch: Batch, counts: Mapping[str, int], *, open_again: bool = False) -> None:
        known = {word: count for word, count in counts.items() if word != Outcome.MISSING.word}
        for sums in (self.outcomes, self._groups[batch[0]]):
            sums.subtract(self._counts.get(batch, {}))
            sums.update(known)
        self._counts[batch] = Counter(known)
        if open_again:
            self._unsettle(batch)
        elif batch in self._unsettled:
            self._unsettled.remove(batch)
            self._open[self._part_of[batch]] -= 1

    def _unsettle(self, batch: Batch) -> None:
        if batch not in self._unsettled:
            self._unsettled.add(batch)
            self._open[self._part_of[batch]] += 1


def group_facts(group: Group, outcomes: Mapping[str, int], flying: int = 0) -> dict[str, Any]:
    """A group in numbers.

    Arguments:
    - `outcomes`: its trials by outcome; `flying`: how many are being tried.
    """
    known = {word: count for word, count in sorted(outcomes.items()) if count}
    settled = sum(known.values())
    facts = {"group": group.name, "of": group.label, "trials": group.trials, "settled": settled}
    return facts | {"outcomes": known, "flying": flying}


def _programs(plan: Plan) -> list[str]:
    return [canonical([g.experiment, g.static, g.traced, g.vectorize, g.batch]) for g in plan.groups]
