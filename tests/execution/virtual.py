"""A laboratory on a clock of its own: the real driver, stores, ledger and archive; only Dask and time are made up.

What a worker does with a batch is the real thing, too, done in this process at the moment its time
has come. Each trial has a fate: how its successive tries end. Workers die, nodes vanish, batches are
put down, drivers are killed, data are damaged, all by one random number generator.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import queue
import random
import shutil
import sys
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import staffa
from staffa.campaign.config import load_frozen
from staffa.execution.pool import Departure, Member
from staffa.execution.prepare import create, current_plan, open_stores, plan_digest, unfolded
from staffa.execution.runner import Runner
from staffa.execution.verify import reopen
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger, history
from staffa.storage.states import Course, Seat
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

FATES = "staffa_test_fates"
"""Name under which the model finds how a try is to end."""

MODEL = f"""
import sys

import numpy as np
import staffa

class Fated(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return 0.0

    def step(self, key, state, params):
        fate = sys.modules["{FATES}"].next(int(params["place"]))
        if fate == "raised":
            raise ValueError(f"fate of {{params['place']}}")
        x = np.nan if fate == "nan" else np.random.default_rng(key).normal()
        return state, {{"x": np.float32(x), "y": np.arange(3, dtype=np.int32)}}
"""

CAMPAIGN = """
campaign: {name: fated}
experiment: {use: "model.py:Fated"}
space:
  - zip: {side: [%s], place: [%s]}
execution:
  batch: 4
  retries: {limit: 1, backoff: {initial: 30s, factor: 2, jitter: 0.1}}
archive: {partition_by: [side], part_size: 160, every: {trials: 6}}
cluster: {dashboard: false}
"""

TRIALS = 22
LIMITS = {"raised": 1, "timeout": 0, "killed": 2, "nan": 1}


def template(folder: Path) -> Workspace:
    """A planned campaign of plain Python, to be copied."""
    (folder / "workflow").mkdir()
    (folder / "workflow" / "model.py").write_text(MODEL)
    places = ", ".join(map(str, range(TRIALS)))
    sides = ", ".join("left" if n < 10 else "right" for n in range(TRIALS))
    (folder / "workflow" / "campaign.yaml").write_text(CAMPAIGN % (sides, places))
    sys.modules[FATES] = types.SimpleNamespace(next=lambda place: "ok")  # type: ignore[assignment]  # for the pilot trial
    limits = json.dumps(LIMITS)
    campaign = staffa.load(
        folder / "workflow" / "campaign.yaml",
        set=[f"storage.root={folder / 'runs'}", f"execution.retries.per_class={limits}"],
    )
    workspace = Workspace(campaign.root.absolute())
    create(unfolded(campaign.declaration), workspace)
    return workspace


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


class KilledWorker(Exception):
    """What Dask says, by name."""


class DriverKilled(BaseException):
    """`kill -9`."""


class Future:
    """A batch or a seal that is with a made-up worker."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.key, self.status = graph, graph.key, "pending"
        self.receipt: Any = None
        self.error: BaseException | None = None
        self._told: list[Callable[[Any], None]] = []

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        self._told.append(tell)

    def release(self) -> None:
        pass

    def result(self, timeout: float) -> Any:
        return self.receipt

    def exception(self) -> BaseException | None:
        return self.error

    def cancel(self, force: bool = False) -> None:
        self.status = "cancelled"

    def end(self, receipt: Any = None, error: BaseException | None = None) -> None:
        if self.status != "pending":
            return
        self.receipt, self.error = receipt, error
        self.status = "finished" if error is None else "error"
        for tell in self._told:
            tell(self)


class World:
    """Everything but the driver.

    Arguments:
    - `fates`: how the tries of each trial end, one after another; the last goes on for ever.
    - `odds`: how often things happen, of a thousand.
    """

    def __init__(self, root: Path, chance: random.Random, fates: dict[int, list[str]], odds: dict[str, int]) -> None:
        self.workspace = Workspace(root)
        self.plan, _ = current_plan(self.workspace)
        self.config = load_frozen(self.workspace.campaign_yaml, directory=self.workspace.code).campaign
        self.chance, self.fates, self.odds = chance, {place: [*own] for place, own in fates.items()}, odds
        self.clock = Clock()
        self.happened: Counter[str] = Counter()
        self.wishes: list[tuple[str, Any]] = []
        self._numbers = itertools.count(1)
        self._members: dict[str, Member] = {}
        self._due: list[tuple[float, int, Future]] = []
        self._news: deque[tuple[str, Any]] = deque()
        self.runner: Runner | None = None
        self.graphs: dict[str, Future] = {}
        sys.modules[FATES] = types.SimpleNamespace(next=self.next)  # type: ignore[assignment]
        self.places = pq.read_table(self.workspace.trials(0)).to_pylist()

    # What the model asks

    def next(self, place: int) -> str:
        return self._pop(place)

    def _pop(self, place: int) -> str:
        fates = self.fates.get(place, ["ok"])
        fate = fates.pop(0) if len(fates) > 1 else fates[0]
        if fate in ("ok", "nan"):
            # What brought data once does so again, should they be lost.
            self.fates[place] = [other for other in fates if other in ("ok", "nan")] or [fate]
        return fate

    def happens(self, what: str) -> bool:
        # What is not spoken of draws no number: what was found with one seed is found again.
        if what not in self.odds or self.chance.randrange(1000) >= self.odds[what]:
            return False
        self.happened[what] += 1
        return True

    # What the runner takes for a pool, a client and a queue

    dashboard = ""

    @property
    def client(self) -> World:
        return self

    def members(self) -> dict[str, Member]:
        while len(self._members) < 2:
            n = next(self._numbers)
            self._members[f"tls://w{n}"] = Member(f"tls://w{n}", f"w{n}", "host", 10_000 + n, node=f"n{n % 3}")
        if self.happens("driver killed"):
            raise DriverKilled
        self._wish()
        return dict(self._members)

    def departure(self, member: Member, since: float) -> Departure | None:
        kind = self.chance.choice(["crash", "crash", "cut off", "vanished"])
        if kind == "cut off":
            return Departure("its time was over", expected=True)
        return Departure("the process died") if kind == "crash" else Departure("its node vanished", certain=False)

    def turn(self, demand: Any) -> list[dict[str, Any]]:
        return []

    def does(self, member: Member, kind: str) -> bool:
        return True

    def expects(self) -> bool:
        return True

    def trouble(self) -> str:
        return ""

    def facts(self) -> dict[str, Any]:
        return {}

    def keep(self) -> None: ...

    def run(self, *args: Any, **kwargs: Any) -> None: ...

    def subscribe_topic(self, topic: str, hear: Any) -> None: ...

    def unsubscribe_topic(self, topic: str) -> None: ...

    def compute(self, graph: Any) -> Future:
        future = Future(graph)
        heapq.heappush(self._due, (self.clock.now + self.chance.uniform(0.5, 20.0), next(self._numbers), future))
        return future

    def put(self, news: tuple[str, Any]) -> None:
        self._news.append(news)

    def get(self, timeout: float) -> tuple[str, Any]:
        until = self.clock.now + timeout
        while not self._news:
            if not self._due or self._due[0][0] > until:
                self.clock.now = until
                raise queue.Empty
            at, _, future = heapq.heappop(self._due)
            self.clock.now = max(self.clock.now, at)
            self._perform(future)
        return self._news.popleft()

    def get_nowait(self) -> tuple[str, Any]:
        if not self._news:
            raise queue.Empty
        return self._news.popleft()

    # What happens to a batch

    def _perform(self, future: Future) -> None:
        flight = self.runner.flights.get(future.key) if self.runner is not None else None
        if flight is None or future.status != "pending":
            return
        if flight.is_seal:
            self._end(future)
        elif self.happens("dask forgets"):
            future.status = "lost"
            self._news.append(("done", (future.key, None, None)))
        elif self.happens("machinery fails"):
            future.end(error=RuntimeError("a fault of the machinery"))
        elif self.happens("worker dies"):
            self._die(flight, None)
        elif self.happens("yielded"):
            future.end(self._put_down())
        else:
            self._try(flight, future)

    def _try(self, flight: Any, future: Future) -> None:
        guilty = self._deadly(flight)
        if guilty is not None:
            lane, place = guilty
            fate = self._pop(place)
            self.happened[fate] += 1
            self._die(flight, (lane, fate == "timeout"))
            return
        self._end(future)
        if self.happens("damaged"):
            self._damage(self.runner.stores[flight.batch[0]], flight.batch[1])  # type: ignore[union-attr]

    def _deadly(self, flight: Any) -> tuple[int, int] | None:
        """The first lane of a batch that takes its process down, and its place; None where all is well."""
        order = flight.next
        store = self.runner.stores[flight.batch[0]]  # type: ignore[union-attr]
        status = store.status(flight.batch[1])
        out = {lane for lane, _, _ in order.leave_out}
        size = self.plan.groups[flight.batch[0]].size(flight.batch[1])
        wanted = [n for n in (range(size) if order.lanes is None else order.lanes) if n not in out]
        wanted = [n for n in wanted if not Outcome(int(status[n])).has_data]
        if order.lanes is None:
            wanted = [n for n in wanted if status[n] == Outcome.MISSING]
        for lane in wanted:
            place = int(store.column("place")[flight.batch[1] * store.layout.batch + lane])
            head = self.fates.get(place, ["ok"])[0]
            if head in ("killed", "timeout"):
                return lane, place
        return None

    def _end(self, future: Future) -> None:
        try:
            receipt = self._compute(future)
        except Exception as error:  # what was to be read is damaged
            future.end(error=error)
        else:
            future.end(receipt)

    def _compute(self, future: Future) -> Any:
        return future.graph.compute(scheduler="synchronous")

    def _damage(self, store: Any, batch: int) -> None:
        shard = store.chunk("y", batch, 0)
        if shard.exists():
            data = bytearray(shard.read_bytes())
            data[self.chance.randrange(len(data))] ^= 0xFF
            shard.write_bytes(bytes(data))

    def _put_down(self) -> dict[str, Any]:
        return {
            "yielded": 0,
            "compared": False,
            "computed": 0,
            "seconds": {},
            "device": "cpu",
            "started": self.clock.now,
            "outcomes": {},
        }

    def _die(self, flight: Any, guilty: tuple[int, bool] | None) -> None:
        """The worker's process is gone, with everything it had."""
        member = flight.member
        path = self.workspace.start_mark(f"{member.host}-{member.pid}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if guilty is not None:
            batch, attempt = f"g{flight.batch[0]}/{flight.batch[1]}", flight.attempt
            mark = {"batch": batch, "attempt": attempt, "lanes": str(guilty[0]), "timed_out": guilty[1]}
            path.write_text(json.dumps(mark))
        self._members.pop(member.address, None)
        for other in list(self.runner.flights.values()):  # type: ignore[union-attr]
            if other.member.address == member.address:
                if self.happens("committed all the same") and not other.is_seal and other is not flight:
                    self._quietly(other)
                other.future.end(error=KilledWorker())

    def _quietly(self, flight: Any) -> None:
        """A task does its work, unless it dies of it, and nobody hears of it."""
        if self._deadly(flight) is None:
            with contextlib.suppress(Exception):
                self._compute(flight.future)

    # What people ask

    def _wish(self) -> None:
        runner = self.runner
        if runner is None or (not runner.flights and not runner.board.waiting):
            return
        names = [row["trial"] for row in self.places]
        if self.happens("cancel"):
            chosen = self.chance.sample(names, self.chance.randrange(1, 6))
            self.wishes.append(("cancel", chosen))
            runner.wishes.cancel(chosen, "by chance")
        if self.happens("cancel a batch"):
            group = self.chance.randrange(len(self.plan.groups))
            batch = self.chance.randrange(self.plan.groups[group].batches)
            chosen = runner.stores[group].digests(batch)
            self.wishes.append(("cancel", chosen))
            runner.wishes.cancel(chosen, "whole")
        if self.happens("retry"):
            chosen = self.chance.sample(names, self.chance.randrange(1, 12))
            self.wishes.append(("retry", chosen))
            runner.wishes.retry(chosen)
        if self.happens("retry all"):
            self.wishes.append(("retry", None))
            runner.wishes.retry(None)
        if self.happens("verify"):
            every = [f"g{n}/{batch}" for n, group in enumerate(self.plan.groups) for batch in range(group.batches)]
            self.wishes.append(("verify", reopen(runner.wishes, every)))

    # Drivers

    def drive(self) -> str:
        """One driver's life: how it ended, `killed` included."""
        plan, _ = current_plan(self.workspace)
        stores = open_stores(self.workspace, plan)
        with Lease.acquire(self.workspace.lease) as lease, Ledger.open(self.workspace, lease, self.clock) as ledger:
            self.clock.now += 5.0
            runner = Runner(
                self.workspace, plan, plan_digest(plan), self.config, ledger, stores, self, clock=self.clock  # type: ignore[arg-type]
            )  # fmt: skip
            runner._news = self  # type: ignore[assignment]
            runner.scrutiny._chance = self.chance
            self.runner = runner
            ledger.append({"event": "run_started", "driver": lease.lease_id, "host": "here", "pid": 1})
            try:
                ended = runner.run()
                ledger.append({"event": "run_ended", "reason": ended.reason, "exit_code": ended.exit_code})
                return ended.reason
            except DriverKilled:
                for flight in runner.flights.values():
                    if not flight.is_seal and self.chance.random() < 0.5:
                        self._quietly(flight)
                return "killed"
            finally:
                self.runner = None
                self._due.clear()
                self._news.clear()

    def complete(self) -> int:
        """Drivers, one after another, until one finishes; how many it took."""
        for count in itertools.count(1):
            if count > 40:
                self.odds = {}
            assert count < 60, "it does not come to an end"
            if self.drive() == "finished":
                return count
        raise AssertionError

    # Looking

    def events(self) -> list[dict[str, Any]]:
        return list(history(self.workspace))

    def courses(self) -> Iterator[tuple[Course, Outcome, int]]:
        """Every trial's way through the ledger, what its mark says, and its place."""
        events = self.events()
        stores = open_stores(self.workspace, self.plan)
        marks = {number: store.status() for number, store in stores.items()}
        for row in self.places:
            group = self.plan.groups[row["group"]]
            batch, lane = divmod(int(row["row"]), group.batch)
            part = next(p for p in self.plan.parts if p.group == row["group"] and p.first <= batch < p.last)
            course = Course(Seat(row["trial"], f"g{row['group']}/{batch}", lane, part.name), strict=True)
            for event in events:
                course.note(event)
            yield course, Outcome(int(marks[row["group"]][row["row"]])), int(row["place"])


def copied(workspace: Workspace, folder: Path) -> Path:
    """A fresh copy of a planned campaign."""
    return Path(shutil.copytree(workspace.root, folder / workspace.root.name))
