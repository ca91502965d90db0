"""The one loop: issue a window, take receipts, retry, seal, stop.

Everything the loop knows is either in the stores, in the ledger or can be found again: the
process may die at any line. Dask is disposable; what it returns are receipts.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Plan
from staffa.errors import ClusterError, StaffaError
from staffa.execution.board import Batch, Board, Next, Retries
from staffa.execution.chronicle import Chronicle, Listener
from staffa.execution.cluster import Member, Pool
from staffa.execution.consolidate import Consolidation, Due
from staffa.execution.ending import Ended, Stop
from staffa.execution.graph import batch_graph, reduce_graph
from staffa.execution.marks import read_mark
from staffa.execution.tally import Rate, batch_counts, batch_key, failed_lanes, failed_now, lane_messages
from staffa.execution.work import TOPIC, Order, mark_name
from staffa.storage import control
from staffa.storage.files import DISK, sweep_partials
from staffa.storage.hot import HotStore
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace

POLL_SECONDS = 0.5
CONTROL_SECONDS = 2.0
UNTOLD = "failed; its worker died before it could say why"
"""Message of a trial that was committed as failed, where the receipt that told why was lost."""
FAULTS = 3
"""Errors of the machinery a batch may have before the run gives up."""
RECEIPT_SECONDS = 30.0
"""How long a receipt may be on its way; its worker may have died before it was sent."""
SEALS_PER_WORKER = 2
"""Parts sealed at a time: one is read and written while the other waits for the disk's sync."""


@dataclass(frozen=True)
class Flight:
    """A batch, or a seal, that was handed to a worker."""

    member: Member
    future: Any
    issued: float
    batch: Batch | None = None
    next: Next | None = None
    part: int = -1


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
        stop: Stop | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.workspace, self.plan, self.digest, self.config = workspace, plan, digest, config
        self.ledger, self.stores, self.pool = ledger, stores, pool
        self.stop, self.clock = stop or Stop(), clock
        self.chronicle = Chronicle(ledger, listeners, config.execution.patience, workspace.root, clock)
        retries, backoff = config.execution.retries, config.execution.retries.backoff
        rules = Retries(retries.limit, backoff.initial, backoff.factor, backoff.jitter, backoff.maximum)
        self.board = Board(plan, rules, clock, random.Random(config.seeds.pack().channel("retry")))
        self.archive = Consolidation(workspace, plan, digest, stores)
        self.flights: dict[str, Flight] = {}
        self.nodes: dict[Batch, str] = {}
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._warm: set[str] = set()
        self._warming: dict[str, str] = {}
        self._issues: Counter[Any] = Counter()
        self._seal_queue: list[int] = []
        self._seal_errors: Counter[int] = Counter()
        self._due = Due(config.archive.every)
        self._empty_since: float | None = None
        self._polled = self._controlled = 0.0
        self._members: dict[str, Member] = {}
        self._rate = Rate()
        self._started = clock()

    def run(self) -> Ended:
        """Issue everything that has no data yet, to the end (or until stopped)."""
        self._take_over()
        self.pool.client.subscribe_topic(TOPIC, self._hear)
        try:
            while not self._over():
                self._poll()
                self._seal_ripe()
                self._fill()
                self._listen()
                self._tick()
            return self._end()
        finally:
            with contextlib.suppress(Exception):
                self.pool.client.unsubscribe_topic(TOPIC)
            for flight in self.flights.values():
                with contextlib.suppress(Exception):
                    flight.future.cancel()

    def seal(self) -> Ended:
        """Seal what is ripe and end; no batch is issued."""
        self._take_over()
        self._ask_for_seals()
        self.stop.reason = "consolidated"
        while self.flights or self._seal_queue:
            self._poll()
            self._seal_ripe()
            self._listen()
            self._tick()
        self.chronicle.insist(lambda: self.archive.failed(self.ledger.books))
        return self._ended("finished")

    # What stands already

    def _take_over(self) -> None:
        books = self.ledger.books
        self.board.load(batch_counts(self.plan, self.stores))
        for number, store in self.stores.items():
            self._resume_failed(number, store)
        for batch, attempts in books.charged.items():
            trouble = self.board.troubles.get(batch_key(batch))
            if trouble is not None and attempts:
                trouble.attempts = max(attempts)
        self._forget_checkpoints()
        self._due.reset(self._settled_trials(), self.clock())

    def _resume_failed(self, number: int, store: HotStore) -> None:
        """Failed trials of an earlier driver: tried again, unless they were given up."""
        books = self.ledger.books
        for batch, lanes in failed_lanes(store):
            digests = store.digests(batch)
            again = {lane: books.tries(digests[lane]) for lane in lanes if digests[lane] not in books.states}
            again = {lane: tries for lane, tries in again.items() if tries <= self.board.retries.limit}
            if again:
                self.board.reopen((number, batch), tuple(again))
                self.board.troubles[number, batch].tries.update(again)

    def _forget_checkpoints(self) -> None:
        """Checkpoints that outlived their batch: its worker died between the mark and their removal."""
        saved = list(self.workspace.state.glob("*.safetensors"))
        if not saved:
            return
        generation, board = self.plan.generation, self.board
        stale = {
            self.workspace.checkpoint(generation, f"g{group}", batch)
            for group, batch in board.settled_batches() - board.troubles.keys()
        }
        for path in stale.intersection(saved):
            path.unlink(missing_ok=True)

    # The loop's five steps

    def _over(self) -> bool:
        if self.stop.reason:
            return not self.flights
        idle = self.board.finished and not self.flights and not self._seal_queue
        if idle and self._due.every != "off" and self._ask_for_seals():
            return False
        return idle

    def _poll(self) -> None:
        now = self.clock()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            self._members = self.pool.members()
            for key, flight in list(self.flights.items()):
                if flight.member.address not in self._members:
                    self._lost(key, flight, "the worker left")
            self._check_workers(now)
        if now - self._controlled >= CONTROL_SECONDS:
            self._controlled = now
            for request in control.pending(self.workspace):
                self._obey(request)

    def _fill(self) -> None:
        if self.stop.reason or self.chronicle.waiting:
            return
        for member in self._by_load():
            while self._load(member) < self.config.execution.window:
                chosen = self.board.take(functools.partial(self._may_take, member))
                if chosen is None:
                    break
                self._issue(member, chosen)

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
        self.chronicle.tick(self.figures())

    # Issuing

    def _by_load(self) -> list[Member]:
        return sorted(self._members.values(), key=self._load)

    def _load(self, member: Member) -> int:
        return sum(1 for f in self.flights.values() if f.member.address == member.address and f.batch is not None)

    def _may_take(self, member: Member, group: int) -> bool:
        """One worker compiles a program; the others start it when it stands in the cache."""
        program = self.board.program(group)
        return program in self._warm or self._warming.get(program, member.address) == member.address

    def _issue(self, member: Member, chosen: Next) -> None:
        group, batch = chosen.batch
        self._issues[chosen.batch] += 1
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
        )
        program = self.board.program(group)
        if program not in self._warm:
            self._warming[program] = member.address
        self.chronicle.note(
            {
                "event": "batch_issued",
                "batch": order.batch_id,
                "attempt": order.attempt,
                "worker": member.address,
            }
        )
        future = self.pool.client.compute(batch_graph(order, self.plan.sampling, member.address))
        self._launch(Flight(member, future, self.clock(), chosen.batch, chosen))

    def _launch(self, flight: Flight) -> None:
        self.flights[flight.future.key] = flight
        flight.future.add_done_callback(self._landed)

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
            self._news.put(("ready", message["ready"]))

    # Receipts

    def _take(self, kind: str, what: Any) -> None:
        if kind == "ready":
            self._ready(self.board.program(what))
            return
        key, receipt, error = what
        flight = self.flights.get(key)
        if flight is None:
            return
        if receipt is not None:
            del self.flights[key]
            self._sealed(flight, receipt) if flight.batch is None else self._settled(flight, receipt)
        elif error is None or type(error).__name__ == "KilledWorker":
            self._lost(key, flight, "the worker died")
        else:
            del self.flights[key]
            self._failed(flight, error)

    def _ready(self, program: str) -> None:
        self._warm.add(program)
        self._warming.pop(program, None)

    def _settled(self, flight: Flight, receipt: Mapping[str, Any]) -> None:
        assert flight.batch is not None and flight.next is not None
        group, batch = flight.batch
        self._ready(self.board.program(group))
        self.nodes[flight.batch] = receipt["node"]
        store = self.stores[group]
        failed = failed_now(store, batch, receipt)
        digests = store.digests(batch) if failed or receipt["outcomes"].get("nan") else []
        messages = lane_messages(receipt)
        tried = range(self.plan.groups[group].size(batch)) if flight.next.lanes is None else flight.next.lanes
        charged = set(tried)
        if receipt["duplicate"]:
            # Another task has committed it. If that one's receipt never came, these failures are news.
            charged = {lane for lane in failed if digests[lane] not in self.ledger.books.failures}
            messages = {lane: messages.get(lane, UNTOLD) for lane in charged}
        verdict = self.board.settled(flight.batch, receipt["outcomes"], failed, charged)
        self.chronicle.note(
            {
                "event": "batch_settled",
                "batch": f"g{group}/{batch}",
                "attempt": flight.next.attempt,
                "worker": flight.member.address,
                "node": receipt["node"],
                "outcomes": receipt["outcomes"],
                "failed": [
                    {
                        "lane": lane,
                        "trial": digests[lane],
                        "outcome": outcome.word,
                        "message": messages.get(lane, ""),
                    }
                    for lane, outcome in failed.items()
                    if lane in charged
                ],
                "timings": {"queue": max(receipt["started"] - flight.issued, 0.0), **receipt["seconds"]},
                "bytes": receipt["bytes"],
                "width": receipt["width"],
                "device": receipt["device"],
                "compiles": receipt["compiles"],
                "pid": receipt["pid"],
                "duplicate": receipt["duplicate"],
                "cpu": receipt["cpu"],
            }
        )
        if verdict.retried:
            self.chronicle.note(
                {
                    "event": "retry_planned",
                    "batch": f"g{group}/{batch}",
                    "lanes": list(verdict.retried),
                    "attempt": flight.next.attempt + 1,
                    "due": verdict.due,
                }
            )
        for lane in verdict.quarantined:
            self.chronicle.note(
                {
                    "event": "quarantined",
                    "trial": digests[lane],
                    "batch": f"g{group}/{batch}",
                    "lane": lane,
                    "outcome": failed[lane].word,
                    "message": messages.get(lane, ""),
                    "attempts": self.board.troubles[flight.batch].tries[lane],
                }
            )
        self.chronicle.go_on()

    def _lost(self, key: str, flight: Flight, reason: str) -> None:
        """A worker vanished: charge the batch its start mark names, re-issue the others free."""
        self.flights.pop(key, None)
        with contextlib.suppress(Exception):
            flight.future.cancel(force=True)
        self._members.pop(flight.member.address, None)
        for program, address in list(self._warming.items()):
            if address == flight.member.address:
                del self._warming[program]
        if flight.batch is None or flight.next is None:
            self._seal_queue.append(flight.part)
            return
        path = self.workspace.start_mark(mark_name(flight.member.host, flight.member.pid))
        started = read_mark(path)
        charged = self.board.lost(flight.batch, flight.next.lanes, started, flight.next.attempt)
        lanes = [min(started.lanes), max(started.lanes) + 1] if charged and started and started.lanes else None
        why = "ran past execution.timeout" if charged and started and started.timed_out else reason
        self.chronicle.note(
            {
                "event": "batch_lost",
                "batch": f"g{flight.batch[0]}/{flight.batch[1]}",
                "attempt": flight.next.attempt,
                "worker": flight.member.address,
                "reason": why,
                "charged": charged,
                "lanes": lanes,
            }
        )

    def _failed(self, flight: Flight, error: BaseException | None) -> None:
        """The machinery failed: a full disk is waited for, anything else is tried again a few times."""
        full = isinstance(error, OSError) and error.errno in DISK
        if full:
            self.chronicle.pause(f"{error}")
        if flight.batch is None or flight.next is None:
            self._seal_queue.append(flight.part)
            faults = 0 if full else self._seal_faults(flight.part)
        else:
            faults = self.board.returned(flight.batch, flight.next.lanes, fault=not full)
            self.chronicle.note(
                {
                    "event": "batch_lost",
                    "batch": f"g{flight.batch[0]}/{flight.batch[1]}",
                    "attempt": flight.next.attempt,
                    "worker": flight.member.address,
                    "reason": f"{type(error).__name__}: {error}"[:500],
                    "charged": False,
                    "lanes": None,
                }
            )
        if isinstance(error, StaffaError):
            raise error
        if faults > FAULTS:
            raise ClusterError(
                f"a task failed {faults} times: {type(error).__name__}: {error}",
                f"staffa resume {self.workspace.root}",
            )

    def _seal_faults(self, part: int) -> int:
        self._seal_errors[part] += 1
        return self._seal_errors[part]

    # The archive

    def _ask_for_seals(self) -> bool:
        """Queue every ripe part that is not sealed yet; whether there was any."""
        queued = {flight.part for flight in self.flights.values()} | set(self._seal_queue)
        fresh = [
            number
            for number in range(len(self.plan.parts))
            if number not in queued and self.board.ripe(number) and self._unsealed(number)
        ]
        self._seal_queue += fresh
        return bool(fresh)

    def _unsealed(self, number: int) -> bool:
        """Whether a part is missing, or lacks trials that got their data after it was sealed."""
        name = self.plan.parts[number].name
        return name not in self.archive.sealed or self.board.with_data(number) > self.archive.held.get(name, 0)

    def _seal_ripe(self) -> None:
        settled = self._settled_trials()
        if self._due.now(settled, self.clock()) and not self.stop.reason:
            self._due.reset(settled, self.clock())
            self._ask_for_seals()
        if not self._seal_queue or self.chronicle.waiting:
            return
        if self.stop.reason not in ("", "consolidated"):
            self._seal_queue.clear()
            return
        for member in self._by_load():
            busy = sum(1 for f in self.flights.values() if f.batch is None and f.member.address == member.address)
            if busy < SEALS_PER_WORKER and self._seal_queue:
                self._issue_seal(member, self._seal_queue.pop(0))

    def _issue_seal(self, member: Member, number: int) -> None:
        part = self.plan.parts[number]
        seal = self.archive.order(part, self.ledger.books, self.nodes)
        if seal is None:
            self.archive.held[part.name] = self.board.with_data(number)
            return
        self._issues[part.name] += 1
        seal = replace(seal, issue=self._issues[part.name])
        future = self.pool.client.compute(reduce_graph(seal, self.plan.sampling.segments, member.address))
        self._launch(Flight(member, future, self.clock(), part=number))

    def _sealed(self, flight: Flight, receipt: Mapping[str, Any]) -> None:
        part = self.plan.parts[flight.part]
        damaged = receipt.get("damaged")
        if damaged:
            for batch, outputs in damaged.items():
                self.chronicle.note({"event": "batch_damaged", "batch": f"g{part.group}/{batch}", "outputs": outputs})
                self.stores[part.group].reset(int(batch))
                self.board.reopen((part.group, int(batch)), None)
            return
        if receipt["files"] and not self.chronicle.disk(lambda: self.archive.enter(part.name, receipt)):
            self._seal_queue.append(flight.part)
            return
        if not receipt["files"]:
            self.archive.sealed.setdefault(part.name, [])
        self.chronicle.note(
            {
                "event": "part_sealed",
                **{k: receipt[k] for k in ("part", "rows", "trials", "bytes", "seconds")},
            }
        )
        self.chronicle.go_on()

    # Trouble

    def _check_workers(self, now: float) -> None:
        if self._members:
            self._empty_since = None
            return
        self._empty_since = self._empty_since or now
        if now - self._empty_since > max(self.config.execution.patience, 60.0):
            raise ClusterError(
                f"no worker for {now - self._empty_since:.0f} s (execution.patience)",
                f"staffa resume {self.workspace.root}",
            )

    # Requests and reports

    def _obey(self, request: control.Request) -> None:
        reply: dict[str, Any] = {"done": True}
        if request.at < self._started - 1:
            reply = {"done": False, "why": "asked of an earlier driver"}
        elif request.verb == "stop":
            self.stop.reason = "stopped"
        elif request.verb == "retry":
            reply["trials"] = self.retry()
        elif request.verb == "consolidate":
            reply["parts"] = self._ask_for_seals()
        else:
            reply = {"done": False, "why": f"unknown request {request.verb!r}"}
        self.chronicle.disk(lambda: control.answer(self.workspace, request, reply))

    def retry(self) -> int:
        """Try every failed or quarantined trial again; how many there are."""
        count = 0
        for number, store in self.stores.items():
            for batch, lanes in failed_lanes(store):
                digests = store.digests(batch)
                for lane in lanes:
                    self.chronicle.note({"event": "readmitted", "trial": digests[lane]})
                self.board.reopen((number, batch), tuple(lanes))
                count += len(lanes)
        return count

    def figures(self) -> dict[str, Any]:
        """The run in numbers, for the summary and whoever watches."""
        now, settled = self.clock(), self._settled_trials()
        rate = self._rate.at(now, settled)
        outcomes = {word: count for word, count in sorted(self.board.outcomes.items()) if count}
        return {
            "trials": self.plan.trials,
            "settled": settled,
            "outcomes": outcomes,
            "rate": round(rate, 3),
            "eta": round((self.plan.trials - settled) / rate, 1) if rate else None,
            "batches": self.plan.batches,
            "flying": len(self.board.flying),
            "waiting": self.board.waiting,
            "retrying": self.board.retrying,
            "workers": len(self._members),
            "parts": len(self.plan.parts),
            "sealed": len(self.archive.sealed),
            "dashboard": self.pool.dashboard,
            "paused": self.chronicle.paused,
            "stopping": self.stop.reason,
        }

    def _settled_trials(self) -> int:
        return sum(self.board.outcomes.values())

    def _end(self) -> Ended:
        if self.stop.reason:
            return self._ended(self.stop.reason)
        if self.config.archive.every != "off":
            self.chronicle.insist(lambda: self.archive.failed(self.ledger.books))
        self.chronicle.close()
        self._sweep()
        return self._ended("finished")

    def _sweep(self) -> None:
        """Scratch, start marks and what killed writers left aside: no batch is in flight any more."""
        for folder in self.workspace.transient:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in (self.workspace.hot, self.workspace.archive, self.workspace.state):
                sweep_partials(folder, 0.0)

    def _ended(self, reason: str) -> Ended:
        self._tick()
        outcomes = {word: count for word, count in self.board.outcomes.items() if count}
        quarantined = sum(1 for state in self.ledger.books.states.values() if state == "quarantined")
        return Ended(reason, outcomes, quarantined, self.clock() - self._started)
