"""The one loop: issue a window, take receipts, retry, seal, stop.

Everything the loop knows is either in the stores, in the ledger or can be found again: the
process may die at any line. Dask is disposable; what it returns are receipts.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Plan
from staffa.errors import ClusterError, StaffaError
from staffa.execution import notes
from staffa.execution.bench import Order
from staffa.execution.board import INFRASTRUCTURE, Batch, Board, Next, Retries
from staffa.execution.charging import charge
from staffa.execution.chronicle import Chronicle, Listener
from staffa.execution.consolidate import Consolidation, Due
from staffa.execution.crew import Crew
from staffa.execution.ending import HANDOVER, Ended, Stop, swept
from staffa.execution.ensemble import blocks_in
from staffa.execution.exempt import Desk, agree, check_inputs, give_up, on_board
from staffa.execution.graph import batch_graph, reduce_graph
from staffa.execution.growing import mend, take_up, tell_growth
from staffa.execution.notes import Flight
from staffa.execution.overheard import left_behind
from staffa.execution.pace import Pace
from staffa.execution.patience import Patience
from staffa.execution.pool import REDUCE, SAMPLE, Demand, Departure, Member, Pool
from staffa.execution.prepare import plan_digest
from staffa.execution.refilling import Listed, Refill
from staffa.execution.requests import Requests
from staffa.execution.sealing import Sealing
from staffa.execution.stragglers import Watch
from staffa.execution.takeover import resume_failures, take_stock
from staffa.execution.tally import Rate, Standing, batch_key, spent_of
from staffa.execution.verify import UNSEEN_SECONDS, Scrutiny
from staffa.execution.warming import Warming
from staffa.execution.wishes import Wishes
from staffa.execution.work import TOPIC
from staffa.storage import control
from staffa.storage.files import DISK
from staffa.storage.hot import HotStore
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

POLL_SECONDS = 0.5
CONTROL_SECONDS = 2.0
RECEIPT_SECONDS = 30.0
"""How long a receipt may be on its way; its worker may have died before it was sent."""
UNSURE_SECONDS = 5.0
"""A batch whose fate Dask does not know is waited for so long: its worker may be about to vanish."""
CONSOLIDATED = "consolidated"
BUDGET = "budget"
SEALS_PER_WORKER = 2
"""Parts sealed at a time: one is read and written while the other waits for the disk's sync."""


class Runner:
    """Drives a planned campaign on a pool of workers, under a lease, until it is done or stopped."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        digest: str,
        config: CampaignConfig,
        ledger: Ledger,
        stores: Mapping[int, HotStore],
        pool: Pool,
        *,
        listeners: Iterable[Listener] = (),
        refill: Refill | None = None,
        stop: Stop | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.workspace, self.plan, self.digest, self.config = workspace, plan, digest, config
        self.ledger, self.stores, self.pool = ledger, dict(stores), pool
        self.stop, self.clock = stop or Stop(), clock
        self.chronicle = Chronicle(ledger, listeners, config.execution.patience, workspace.root, clock)
        retries, backoff = config.execution.retries, config.execution.retries.backoff
        waits = backoff.initial, backoff.factor, backoff.jitter, backoff.maximum
        rules = Retries(
            retries.limit, *waits, per_class={str(word): count for word, count in retries.per_class.items()}
        )
        self.board = Board(plan, rules, clock, random.Random(config.seeds.pack().channel("retry")))
        self.crew = Crew(pool, self.chronicle)
        self.desk = Desk(workspace, plan, self.stores, ledger.books, self.chronicle.note, self.board.flying)
        self.wishes = Wishes(self.desk, self.board)
        self.scrutiny = Scrutiny(lambda: self.plan, self.stores, random.Random())
        archive = Consolidation(workspace, plan, digest, self.stores, blocks_in(workspace, config.reduce, plan.code))
        due = Due(config.archive.every)
        self.sealing = Sealing(
            archive, plan, self.stores, self.board, ledger.books, self.chronicle, due, self.wishes.mend,
            config.archive.prune == "verified",
        )  # fmt: skip
        self.refill: Refill = refill or Listed()
        self.pace = Pace(plan, {number: self.board.program(number) for number in range(len(plan.groups))})
        self.watch = Watch(plan.timeout)
        self.flights: dict[str, Flight] = {}
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.warming = Warming()
        self._issues: Counter[Batch] = Counter()
        self._unsure: dict[str, float] = {}
        """Flights without a receipt or an error, and since when."""
        self._unseen: list[tuple[Flight, Mapping[str, Any], float]] = []
        """Receipts whose mark does not (yet) stand on disk."""
        self._asked_to_leave = False
        self._patience = Patience(config.execution.patience, pool, f"staffa resume {workspace.root}")
        self._polled = self._controlled = 0.0
        self._standing = Standing(self.board, self.sealing.archive.held, ledger.books.words)
        self._rate = Rate()
        self._started = clock()
        self.requests = Requests(
            self.wishes, self.refill, self.sealing, pool, self.stop, self._adopt,
            lambda: self.board.sealing, self._started,
        )  # fmt: skip

    def run(self) -> Ended:
        """Issue everything that has no data yet, to the end (or until stopped)."""
        self._take_over()
        self.crew.ask_to_leave(False)  # these workers may have served a driver that asked them
        self.pool.client.subscribe_topic(TOPIC, self._hear)
        try:
            while not self._over():
                self._poll()
                self._seal()
                self._fill()
                self._listen()
                self._tick()
            return self._end()
        finally:
            with contextlib.suppress(Exception):
                self.pool.client.unsubscribe_topic(TOPIC)
            if self.stop.reason == HANDOVER:
                self.pool.keep()
            self._let_go()

    def seal(self) -> Ended:
        """Seal what is ripe and end; no batch is issued."""
        self._take_over()
        self.sealing.ask(())
        self.stop.reason = CONSOLIDATED
        try:
            self._drain()
            self.chronicle.insist(self._closed)
            while self.stop.reason == CONSOLIDATED and self.sealing.apply(self.board.sealing):
                self._drain()
            self.sealing.archive.complain()
            return self._ended("finished")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Dask is to forget what is in flight: the next run's tasks may be called the same."""
        for flight in self.flights.values():
            with contextlib.suppress(Exception):
                flight.future.cancel()

    def _drain(self) -> None:
        while self.flights or self.sealing.queue:
            self._poll()
            self._seal()
            self._listen()
            self._tick()

    def _closed(self) -> None:
        """Write what is said of all parts together."""
        self.sealing.archive.failed(self.ledger.books)
        self.sealing.archive.reduced()

    # What stands already

    def _take_over(self) -> None:
        books = self.ledger.books
        self.chronicle.insist(lambda: mend(self.workspace))
        tell_growth(self.desk)
        self.chronicle.insist(lambda: agree(self.desk))
        self.chronicle.insist(lambda: check_inputs(self.desk))
        self.desk.moved = functools.partial(on_board, self.board)
        self.chronicle.insist(functools.partial(self.refill.begin, self.board, self.chronicle.note))
        self.chronicle.insist(self.wishes.enforce)
        for event in take_stock(self.board, self.stores, books, self.sealing.archive.archive.manifest()["parts"]):
            self.chronicle.note(event)
        for event in resume_failures(self.board, self.stores, books, self.clock()):
            self.chronicle.note(event)
        for batch, attempts in books.charged.items():
            trouble = self.board.troubles.get(batch_key(batch))
            if trouble is not None and attempts:
                trouble.attempts = max(attempts)
        self._forget_checkpoints()
        self.sealing.due.reset(self._settled_trials(), self.clock())

    def _forget_checkpoints(self) -> None:
        """Checkpoints that outlived their batch: its worker died between the mark and their removal."""
        saved = list(self.workspace.state.glob("*.safetensors"))
        if not saved:
            return
        board = self.board
        stale = {self._checkpoint(batch) for batch in board.settled_batches() - board.troubles.keys()}
        for path in stale.intersection(saved):
            path.unlink(missing_ok=True)

    def _adopt(self, plan: Plan) -> None:
        """Go on with a plan that has grown: what stood in the one before stands in it unchanged."""
        added = range(len(self.plan.groups), len(plan.groups))
        take_up(self.desk, plan)
        self.plan, self.digest = plan, plan_digest(plan)
        self.board.grow(plan)
        self.pace.grow({number: self.board.program(number) for number in added})
        self.sealing.grow(plan, self.digest)

    def _checkpoint(self, batch: Batch) -> Path:
        group, number = batch
        return self.workspace.checkpoint(self.plan.groups[group].generation, f"g{group}", number)

    # The loop's five steps

    def _over(self) -> bool:
        if self.stop.reason:
            late = self.stop.leave_at is not None and self.clock() > self.stop.leave_at
            return late or not self.flights
        idle = self.board.finished and not (self.flights or self._unseen or self.sealing.queue or self.wishes.pending)
        flying, seals = self.board.sealing, idle and self.sealing.due.every != "off"
        return idle and not (seals and (self.sealing.ask(flying) or self.sealing.apply(flying)))

    def _poll(self) -> None:
        now = self.clock()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            self.crew.meet(self.pool.members(), now)
            self._judge(now)
            self._patience.check(len(self.crew.members), now)
            for event in self.pool.turn(self._demand(now)):
                self.chronicle.note(event)
            self.stop.look(now)
            self._look_at_budget(now)
        if self.stop.reason not in ("", CONSOLIDATED) and not self._asked_to_leave:
            self._asked_to_leave = True
            if self.plan.sampling.segments > 1:
                self.crew.ask_to_leave()
        if now - self._controlled >= CONTROL_SECONDS:
            self._controlled = now
            for request in control.pending(self.workspace):
                reply = self.requests.obey(request)
                self.chronicle.disk(functools.partial(control.answer, self.workspace, request, reply))
        if self.wishes.pending:
            self.chronicle.disk(self.wishes.settle)

    def _fill(self) -> None:
        if self.stop.reason or self.chronicle.waiting:
            return
        nodes, more = {one.node for one in self.crew.members.values()}, functools.partial(self.refill.more, self.board)
        for member in self.crew.able(SAMPLE):
            while self.crew.loads[member.address] < self.config.execution.window:
                accepts = functools.partial(self._may_take, member)
                chosen = self.board.take(accepts, member.node, nodes)
                if chosen is None and self.board.waiting < len(self.crew.members) and self.chronicle.went_well(more):
                    chosen = self.board.take(accepts, member.node, nodes)
                if chosen is None:
                    break
                self._issue(member, chosen)

    def _seal(self) -> None:
        if not self.stop.reason:
            self.sealing.look(self._settled_trials(), self.clock(), self.board.sealing)
        if not self.sealing.queue or self.chronicle.waiting:
            return
        if self.stop.reason not in ("", CONSOLIDATED):
            self.sealing.queue.clear()
            return
        busy = Counter(flight.member.address for flight in self.flights.values() if flight.is_seal)
        for member in self.crew.able(REDUCE):
            while busy[member.address] < SEALS_PER_WORKER:
                chosen = self.sealing.next()
                if chosen is None:
                    return
                part, seal = chosen
                busy[member.address] += 1
                future = self.pool.client.compute(reduce_graph(seal, self.plan.sampling.segments, member.address))
                self._launch(Flight(member, future, self.clock(), part=part))

    def _listen(self) -> None:
        """Wait for news, then take all there is."""
        wait = POLL_SECONDS
        due = self.board.idle_until
        if due is not None:
            wait = min(wait, max(due - self.clock(), 0.01))
        with contextlib.suppress(queue.Empty):
            kind, what = self._news.get(timeout=wait)
            self._take(kind, what)
            while True:
                self._take(*self._news.get_nowait())

    def _tick(self) -> None:
        self.chronicle.disk(functools.partial(self.refill.tick, self.clock()))
        self.chronicle.tick(self.figures())

    # Issuing

    def _may_take(self, member: Member, group: int) -> bool:
        """One worker compiles a program before the others start it; and it must end in time."""
        program = self.board.program(group), member.pool
        return self.warming.may_have(program, member.address) and self._in_time(member, group)

    def _in_time(self, member: Member, group: int) -> bool:
        if member.ends is None:
            return True
        return self.pace.fits(group, member.pool, member.ends - self.clock(), self.crew.loads[member.address])

    def _issue(self, member: Member, chosen: Next) -> None:
        group, batch = chosen.batch
        self._issues[chosen.batch] += 1
        expected = self.pace.expect(group, member.pool)
        order = Order(
            str(self.workspace.root),
            self.digest,
            self.plan.generation,
            group,
            batch,
            chosen.attempt,
            chosen.lanes,
            chosen.leave_out,
            chosen.suspects,
            self._issues[chosen.batch],
            expected.begin if expected else 0.0,
            expected.segment if expected else 0.0,
            self.config.execution.telemetry,
            self.config.execution.logs,
        )
        self.warming.given((self.board.program(group), member.pool), member.address)
        self.chronicle.note(notes.issued(Flight(member, None, self.clock(), chosen.batch, chosen)))
        future = self.pool.client.compute(batch_graph(order, self.plan.sampling, member.address))
        self._launch(Flight(member, future, self.clock(), chosen.batch, chosen))

    def _launch(self, flight: Flight) -> None:
        self.flights[flight.future.key] = flight
        if not flight.is_seal:
            self.crew.given(flight.member, self.clock())
        flight.future.add_done_callback(self._landed)

    def _forget(self, key: str) -> None:
        flight = self.flights.pop(key)
        self._unsure.pop(key, None)
        if not flight.is_seal:
            self.crew.relieved(flight.member)

    def _landed(self, future: Any) -> None:
        """Fetch a receipt, in a thread of Dask's: it may never come, and the loop must not wait for it."""
        receipt, error = None, None
        if future.status == "finished":
            with contextlib.suppress(Exception):
                receipt = future.result(timeout=RECEIPT_SECONDS)
        elif future.status == "error":
            error = future.exception()
        self._news.put(("done", (future.key, receipt, error)))

    def _hear(self, event: Any) -> None:
        message = event[1] if isinstance(event, tuple) else event
        if isinstance(message, dict) and message.get("root") == str(self.workspace.root):
            self._news.put(("ready", (message["ready"], message.get("pool", ""))))

    # Receipts

    def _take(self, kind: str, what: Any) -> None:
        if kind == "ready":
            self._ready(*what)
            return
        key, receipt, error = what
        flight = self.flights.get(key)
        if flight is None:
            return
        if receipt is not None:
            self._forget(key)
            self._came_back(flight, receipt)
        elif type(error).__name__ == "KilledWorker":
            self.crew.died(flight.member, self.clock())
            self._judge(self.clock())
        elif error is None:
            self._unsure[key] = self.clock()
        else:
            self._forget(key)
            self._failed(flight, error)

    def _came_back(self, flight: Flight, receipt: Mapping[str, Any]) -> None:
        self.crew.told(flight.member, self.clock())
        if flight.is_seal:
            self.sealing.sealed(flight.part, flight.member.address, receipt)
            return
        self.watch.note(flight, receipt, self.clock())
        self.pace.note(flight.batch[0], flight.member.pool, receipt["device"], receipt["computed"], receipt["seconds"])
        if receipt["yielded"] is not None:
            self._yielded(flight, receipt)
        elif not self._settled(flight, receipt):
            self._unseen.append((flight, receipt, self.clock()))

    def _ready(self, group: int, pool: str) -> None:
        self.warming.ready((self.board.program(group), pool))

    def _yielded(self, flight: Flight, receipt: Mapping[str, Any]) -> None:
        """A worker stopped between two segments, since its time is nearly over: that is no failure."""
        self._ready(flight.batch[0], flight.member.pool)
        self.board.yielded(flight.batch, flight.lanes)
        self.chronicle.note(notes.yielded(flight, receipt))
        hopeless = self.refill.compared(flight.batch, receipt["yielded"]) if receipt["compared"] else ()
        if hopeless:
            give_up(self.desk, flight.batch, hopeless)
            self.refill.settled(flight.batch, self.board)
            if self.board.is_settled(flight.batch):
                self._checkpoint(flight.batch).unlink(missing_ok=True)

    def _settled(self, flight: Flight, receipt: Mapping[str, Any]) -> bool:
        """Take up a batch that was committed; False while its mark does not say so, too."""
        group = flight.batch[0]
        self._ready(group, flight.member.pool)
        status = self.scrutiny.mark(flight.batch, receipt["outcomes"])
        if status is None:
            return False
        damage = self.scrutiny.damage(flight.batch)
        if damage:
            self._failed(flight, RuntimeError(f"what was written is not what stands on disk: {', '.join(damage)}"))
            self.wishes.mend(flight.batch, damage)
            return True
        store, archived = self.stores[group], self.sealing.archived
        charge(flight, receipt, status, store, self.board, self.wishes, self.chronicle, archived)
        left = tuple(lane for lane, code in enumerate(status) if code == Outcome.MISSING)
        if left:
            self.board.reopen(flight.batch, left)
        self.desk.landed(flight.batch)
        self.refill.settled(flight.batch, self.board)
        self.chronicle.go_on()
        return True

    def _judge(self, now: float) -> None:
        """Settle the accounts of workers that left, as soon as it is known why."""
        for member, departure, since in self.crew.gone(now):
            self._gone(member, departure, since)
        for key, since in list(self._unsure.items()):
            flight = self.flights[key]
            if now - since > UNSURE_SECONDS and not self.crew.left(flight.member):
                self._forget(key)
                self._failed(flight, ClusterError("Dask lost the batch, its worker is still there"))
        waiting, self._unseen = self._unseen, []
        for flight, receipt, since in waiting:
            if self._settled(flight, receipt):
                continue
            if now - since > UNSEEN_SECONDS:
                self._failed(flight, RuntimeError("its mark does not say what its worker says"))
            else:
                self._unseen.append((flight, receipt, since))

    def _gone(self, member: Member, departure: Departure, since: float) -> None:
        flights = {key: f for key, f in self.flights.items() if f.member.address == member.address}
        lost = self._lost_seconds(member, flights.values(), since)
        self.warming.left(member.address)
        for key, flight in flights.items():
            self._lost(key, flight, departure)
        self.chronicle.note(notes.worker_left(member, departure, since, lost))

    def _lost_seconds(self, member: Member, flights: Iterable[Flight], since: float) -> float:
        """Seconds of the device whose work was lost: since the last receipt, or the last checkpoint."""
        kept = self.crew.busy_since(member, since)
        batches = [flight.batch for flight in flights if not flight.is_seal]
        for batch in batches:
            with contextlib.suppress(OSError):
                kept = max(kept, self._checkpoint(batch).stat().st_mtime)
        return max(since - kept, 0.0) if batches else 0.0

    def _lost(self, key: str, flight: Flight, departure: Departure) -> None:
        """A worker vanished: charge the batch its start mark names, re-issue the others free."""
        self._forget(key)
        with contextlib.suppress(Exception):
            flight.future.cancel(force=True)
        if flight.is_seal:
            self.sealing.again(flight.part)
            return
        if departure.expected:
            self.board.returned(flight.batch, flight.lanes, fault=False)
            self.chronicle.note(notes.lost(flight, departure.reason))
            return
        started = left_behind(self.workspace, flight.member, self.stores)
        charged = self.board.lost(flight.batch, flight.lanes, started, flight.attempt, certain=departure.certain)
        if charged:
            self.board.failed_on(flight.batch, flight.member.node)
        self.chronicle.note(notes.lost(flight, departure.reason, charged, started))

    def _failed(self, flight: Flight, error: BaseException | None) -> None:
        """The machinery failed: a full disk is waited for, anything else is tried again a few times."""
        flight.future.release()  # whoever holds on to the error holds this frame; Dask is not to keep the task's fate
        full = isinstance(error, OSError) and error.errno in DISK
        if full:
            self.chronicle.pause(f"{error}")
        if flight.is_seal:
            faults = self.sealing.again(flight.part, fault=not full)
        else:
            faults = self.board.returned(flight.batch, flight.lanes, fault=not full)
            self.chronicle.note(notes.lost(flight, f"{type(error).__name__}: {error}"[:500]))
            damage = self.scrutiny.read_back(flight.batch) if not full else []
            if damage:  # what an earlier try left cannot be added to
                self.wishes.mend(flight.batch, damage)
        if isinstance(error, StaffaError):
            raise error
        if faults > self.board.retries.allowed(INFRASTRUCTURE):
            raise ClusterError(
                f"a task failed {faults} times: {type(error).__name__}: {error}",
                f"staffa resume {self.workspace.root}",
            )

    # Demand and budget

    def _demand(self, now: float) -> Demand:
        board, going = self.board, not self.stop.reason
        flying = [flight.member.name for flight in self.flights.values()]
        waiting = board.waiting_groups if going else set()
        spent = {
            member.name
            for member in self.crew.members.values()
            if member.ends is not None
            and waiting
            and not self.crew.loads[member.address]
            and not any(self._in_time(member, group) for group in waiting)
        }
        batches = len(board.flying) + (board.waiting + bool(board.retrying)) * going
        seals = len(self.sealing.queue) + len(self.board.sealing)
        return Demand(batches, seals, frozenset(flying), frozenset(spent))

    def _look_at_budget(self, now: float) -> None:
        """End the run where what it may hold of its machines is held: what is in flight ends first."""
        found = self._spent(now)
        if self.stop.reason or self.board.finished or all(one["spent"] < one["limit"] for one in found.values()):
            return
        self.stop.reason = BUDGET
        limits, spent = ({unit: one[word] for unit, one in found.items()} for word in ("limit", "spent"))
        self.chronicle.note({"event": "budget_reached", "budget": limits, "spent": spent})

    def _spent(self, now: float) -> dict[str, dict[str, float]]:
        return spent_of(dict(self.config.execution.budget), self.ledger.books, now)

    # Requests and reports

    def figures(self) -> dict[str, Any]:
        """The run in numbers, for the summary and whoever watches."""
        now, settled = self.clock(), self._settled_trials()
        rate, asked = self._rate.at(now, settled), self.refill.facts()
        outcomes = {word: count for word, count in sorted(self.board.outcomes.items()) if count}
        return {
            "trials": self.plan.trials,
            "settled": settled,
            "outcomes": outcomes,
            **self._standing.at(now, asked.get("asked", self.plan.trials), outcomes),
            "rate": round(rate, 3),
            "eta": round((self.plan.trials - settled) / rate, 1) if rate else None,
            "batches": self.plan.batches,
            **asked,
            "flying": len(self.board.flying),
            "waiting": self.board.waiting,
            "retrying": self.board.retrying,
            "workers": len(self.crew.members),
            "parts": len(self.plan.parts),
            "sealed": len(self.sealing.archive.sealed),
            "pools": self.pool.facts(),
            "dashboard": self.pool.dashboard,
            "budget": self._spent(now),
            "lagging": self.watch.facts(self.flights.values(), now),
            "paused": self.chronicle.paused,
            "stopping": self.stop.reason,
        }

    def _settled_trials(self) -> int:
        return sum(self.board.outcomes.values())

    def _end(self) -> Ended:
        if self.stop.reason:
            return self._ended(self.stop.reason)
        if self.config.archive.every != "off":
            self.chronicle.insist(self._closed)
            self.sealing.archive.complain()
        self.chronicle.close()
        swept(self.workspace)
        return self._ended("finished")

    def _ended(self, reason: str) -> Ended:
        self._standing.forget()
        self.chronicle.insist(self.refill.close)
        self._tick()
        outcomes = {word: count for word, count in self.board.outcomes.items() if count}
        return Ended(reason, outcomes, self.ledger.books.words["quarantined"], self.clock() - self._started)
