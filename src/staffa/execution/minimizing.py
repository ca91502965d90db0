"""A search over a plain function on Dask: what `staffa.minimize` starts.

Nobody waits for a generation to end: whatever comes back is told, and whoever has room is given the next trial. Each
worker has one trial more than it can run, so that it never waits for the driver.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client

from staffa.campaign.objectives import Objectives
from staffa.errors import ConfigError, PluginError
from staffa.execution.chronicle import Listener
from staffa.execution.cluster import cores, interrupts_held, local_pool, main_left_out
from staffa.execution.ending import Stop, interruptible
from staffa.execution.function import ALONE, Call, Function, called, packed
from staffa.execution.pool import Member, Pool
from staffa.experiment.environment import worker_environment
from staffa.search.answers import Asked
from staffa.search.study import MOST, Study
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

POLL_SECONDS = 0.25
SHOW_SECONDS = 0.25
PATIENCE_SECONDS = 300.0
"""How long a search goes without any worker before it is given up."""
STOPPED = "interrupted"
WORKERLESS = "no workers"
ONE = "loss"
"""What the number is called that a function returns alone."""


@dataclass
class Tried:
    """What a search by function knows of a trial besides what its study does.

    Arguments:
    - `seconds`: of its last try, as measured where it ran; NaN for one that did not come back.
    - `tries`: that came to something, or are held against it.
    - `message`, `trace`: what was raised last.
    """

    outcome: Outcome = Outcome.MISSING
    seconds: float = math.nan
    message: str = ""
    trace: str = ""
    tries: int = 0


@dataclass(eq=False)
class Flight:
    """A trial that a worker has.

    Arguments:
    - `over`: its try is accounted for, but it still keeps a thread busy.
    """

    key: str
    asked: Asked
    member: Member
    issued: float
    future: Any
    over: bool = False


@dataclass
class Course:
    """How a search went: `finished`, `interrupted`, `no workers`; seconds from the first trial's issue to the end."""

    reason: str = ""
    seconds: float = 0.0
    tried: dict[int, Tried] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    """When each trial that came back began (Unix time), on its worker's clock."""
    workers: dict[int, str] = field(default_factory=dict)


def minimize(
    call: Call,
    study: Study,
    *,
    workers: int | None,
    client: Client | None,
    timeout: float,
    free: bool,
    rehearse: Callable[[], object],
    listeners: Sequence[Listener] = (),
) -> Course:
    """Have workers do the trials of a study, to its end or until Ctrl-C.

    Arguments:
    - `workers`: processes on this machine, one for each core by default; not with a `client`, whose workers are used.
    - `timeout`: seconds a trial may take; 0 for no end.
    - `free`: the objectives are those that come back first.
    - `rehearse`: has a strategy import what it needs, while workers start and not while they wait.

    Raises `ConfigError` for a function that cannot travel or does not answer with numbers, `ClusterError` where no
    workers come up.
    """
    code, stop = packed(call), Stop()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="staffa-", ignore_cleanup_errors=True)))
        stack.enter_context(interruptible(stop, numbers=(signal.SIGINT,)))
        rehearsal = threading.Thread(target=_quietly, args=(rehearse,), daemon=True)
        rehearsal.start()
        pool = Pool(client) if client is not None else stack.enter_context(_local(folder, workers, stop))
        name = f"staffa-{hashlib.sha256(code).hexdigest()[:12]}-{uuid.uuid4().hex[:8]}"
        marks = folder / "running"
        marks.mkdir()
        stack.enter_context(_installed(pool.client, Function(code, name, str(marks))))
        rehearsal.join()
        search = _Search(study, pool, name, marks, timeout, free, stop, listeners, own=client is None)
        return search.run()


@contextlib.contextmanager
def _local(folder: Path, workers: int | None, stop: Stop) -> Iterator[Pool]:
    """Processes of this machine that do one trial at a time."""
    environment = worker_environment(*_precision())
    with contextlib.ExitStack() as stack:
        stack.enter_context(main_left_out())
        with interrupts_held():
            pool = stack.enter_context(
                local_pool(Workspace(folder), workers or cores(), environment, dashboard=False, lanes=False)
            )
        try:
            yield pool
        except BaseException:
            _kill(pool)
            raise
        if stop.reason:
            _kill(pool)


def _precision() -> tuple[bool, str]:
    """Whether JAX computes in double precision here, and its generator: workers do as this process does."""
    jax = sys.modules.get("jax")
    if jax is not None:
        return bool(jax.config.jax_enable_x64), str(jax.config.jax_default_prng_impl)
    x64 = os.environ.get("JAX_ENABLE_X64", "0").lower() in ("1", "true")
    return x64, os.environ.get("JAX_DEFAULT_PRNG_IMPL", "threefry2x32")


def _kill(pool: Pool) -> None:
    """End workers at once: closing them would wait for what is being computed."""
    for member in pool.members().values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)


@contextlib.contextmanager
def _installed(client: Client, function: Function) -> Iterator[None]:
    try:
        client.register_plugin(function)
    except PluginError:
        with contextlib.suppress(Exception):
            client.unregister_worker_plugin(function.name)
        raise
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            client.unregister_worker_plugin(function.name)


class _Search:
    """The loop: hear what came back, tell it, hand out what is asked for next."""

    def __init__(
        self,
        study: Study,
        pool: Pool,
        name: str,
        marks: Path,
        timeout: float,
        free: bool,
        stop: Stop,
        listeners: Sequence[Listener],
        *,
        own: bool,
    ) -> None:
        self.study, self.pool, self.name, self.marks = study, pool, name, marks
        self.timeout, self.free, self.stop, self.listeners, self.own = timeout, free, stop, listeners, own
        self.course = Course()
        self.flights: dict[str, Flight] = {}
        self.members: dict[str, Member] = {}
        self.threads: dict[str, int] = {}
        self._dead: dict[str, Member] = {}
        self._ended: set[Member] = set()
        """Workers that were ended because of a time-out: whatever else they had is not to blame."""
        self._landed: dict[str, float] = {}
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._polled = self._shown = -math.inf
        self._started = self._peopled = time.monotonic()

    def run(self) -> Course:
        self.pool.client.subscribe_topic(self.name, self._hear)
        try:
            while not self._over():
                self._poll()
                self._fill()
                self._listen()
                self._show()
        finally:
            self.course.seconds = time.monotonic() - self._started
            self._show(last=True)
            with contextlib.suppress(Exception):
                self.pool.client.unsubscribe_topic(self.name)
            with contextlib.suppress(Exception):
                self.pool.client.cancel([flight.future for flight in self.flights.values()])
        return self.course

    def _over(self) -> bool:
        if self.stop.reason:
            self.course.reason = STOPPED
        elif not self.members and time.monotonic() - self._peopled > PATIENCE_SECONDS:
            self.course.reason = WORKERLESS
        elif self.study.finished and all(flight.over for flight in self.flights.values()):
            self.course.reason = "finished"
        return bool(self.course.reason)

    # --- workers ---

    def _poll(self) -> None:
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return
        self._polled = now
        found = self.pool.members()
        self._dead = {address: member for address, member in self._dead.items() if found.get(address) == member}
        present = {address: member for address, member in found.items() if address not in self._dead}
        gone = [member for address, member in self.members.items() if present.get(address) != member]
        if present.keys() - self.threads.keys():
            self.threads.update(self.pool.client.nthreads())
        self.members = {address: member for address, member in present.items() if address in self.threads}
        for member in gone:
            self._lost(member)
        if self.members:
            self._peopled = now
        self._look_at_time()

    def _lost(self, member: Member) -> None:
        """A worker's process is gone: what it ran costs a try, what waited there does not."""
        self.members.pop(member.address, None)
        had = [flight for flight in self.flights.values() if flight.member == member]
        running = self._running(member, had)
        self._tell({"event": "worker_left", "name": member.name, "reason": "its process died"})
        for flight in had:
            self._drop(flight)
            if flight.over:
                continue
            if flight in running and member not in self._ended:
                self._failed(flight, Outcome.KILLED, "it took its worker down, or its worker was killed")
            else:
                self.study.cancel(flight.asked.trial, again=True)

    def _running(self, member: Member, had: Sequence[Flight]) -> list[Flight]:
        """Of what a worker has, that which it is at; the first ones where its files cannot be seen from here."""
        if member.host != socket.gethostname():
            return list(had[: self.threads.get(member.address, 1)])
        return [flight for flight in had if (self.marks / flight.key).exists()]

    def _look_at_time(self) -> None:
        if not self.timeout:
            return
        now = time.time()
        for member in list(self.members.values()):
            had = [flight for flight in self.flights.values() if flight.member == member]
            late = [
                flight
                for flight in self._running(member, had)
                if not flight.over and now - self._since(flight) > self.timeout
            ]
            for flight in late:
                flight.over, why = True, f"it took longer than {self.timeout:g} s"
                self._failed(flight, Outcome.TIMEOUT, why, now - self._since(flight))
            if late:
                self._end(member)

    def _since(self, flight: Flight) -> float:
        with contextlib.suppress(OSError):
            return (self.marks / flight.key).stat().st_mtime
        return max(flight.issued, self._landed.get(flight.member.address, 0.0))

    def _end(self, member: Member) -> None:
        """Have a worker's process replaced: what runs in a thread cannot be stopped otherwise."""
        if member.pid == os.getpid() and member.host == socket.gethostname():
            return
        self._ended.add(member)
        if self.own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
            return
        client = self.pool.client
        restart = functools.partial(client.restart_workers, [member.address], timeout=30, raise_for_error=False)
        threading.Thread(target=_quietly, args=(restart,), daemon=True).start()

    # --- trials ---

    def _fill(self) -> None:
        if self.stop.reason:
            return
        loads = Counter(flight.member.address for flight in self.flights.values())
        room = {address: _places(self.threads[address]) - loads[address] for address in self.members}
        wanted = sum(max(free, 0) for free in room.values())
        while wanted > 0:
            asked = self.study.ask(min(wanted, MOST), worker=self.name)
            if not asked:
                return
            for trial in asked:
                address = min((one for one in room if room[one] > 0), key=lambda one: loads[one] / self.threads[one])
                loads[address] += 1
                room[address] -= 1
                self._issue(trial, self.members[address])
            wanted -= len(asked)

    def _issue(self, asked: Asked, member: Member) -> None:
        key = f"trial-{asked.trial}-{asked.attempt}-{self.name[-8:]}"
        self.course.tried.setdefault(asked.trial, Tried())
        future = self.pool.client.submit(
            called, self.name, key, asked.params, key=key, workers=[member.address], pure=False
        )
        self.flights[key] = Flight(key, asked, member, time.time(), future)
        future.add_done_callback(self._done)

    def _drop(self, flight: Flight) -> None:
        del self.flights[flight.key]
        with contextlib.suppress(OSError):
            (self.marks / flight.key).unlink()
        with contextlib.suppress(Exception):
            flight.future.release()

    # --- news ---

    def _hear(self, event: Any) -> None:
        message = event[1] if isinstance(event, tuple) else event
        self._news.put(("answer", message))

    def _done(self, future: Any) -> None:
        error = future.exception() if future.status == "error" else None
        self._news.put(("done", (future.key, error)))

    def _listen(self) -> None:
        """Wait for news. One at a time where one worker does all: then a seed gives the same trials each time."""
        with contextlib.suppress(queue.Empty):
            self._take(*self._news.get(timeout=POLL_SECONDS))
            while sum(self.threads[address] for address in self.members) > 1:
                self._take(*self._news.get_nowait())

    def _take(self, kind: str, what: Any) -> None:
        if kind == "answer":
            self._answered(what)
            return
        key, error = what
        flight = self.flights.get(key)
        if flight is None:
            return
        if type(error).__name__ == "KilledWorker":
            self._dead[flight.member.address] = flight.member
            self._lost(flight.member)
            return
        self._drop(flight)
        if flight.over:
            return
        if error is not None:
            self._failed(flight, Outcome.RAISED, f"{type(error).__name__}: {error}")
        else:  # its answer would have come first: Dask lost it on the way
            self.study.cancel(flight.asked.trial, again=True)

    def _answered(self, answer: Mapping[str, Any]) -> None:
        flight = self.flights.get(answer["key"])
        if flight is None:
            return
        self._drop(flight)
        self._landed[flight.member.address] = time.time()
        if flight.over:
            return
        trial = flight.asked.trial
        self.course.begun[trial], self.course.workers[trial] = answer["begun"], flight.member.address
        if "values" not in answer:
            self._refuse(answer)
            self._failed(flight, Outcome.RAISED, answer["message"], answer["seconds"], answer["trace"])
            return
        try:
            values = self._named(answer["values"])
            self.study.tell(trial, values, attempt=flight.asked.attempt)
        except ConfigError as error:
            self._refuse({"odd": True, "message": error.message, "hint": error.hint})
            self._failed(flight, Outcome.RAISED, error.message, answer["seconds"])
            return
        tries = self.course.tried[trial].tries + 1
        self.course.tried[trial] = Tried(_outcome(answer, self.study.objectives), answer["seconds"], tries=tries)

    def _named(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Values by the names of objectives, which the first ones are, unless they were given."""
        if self.free:
            if ALONE in values:
                found = Objectives.read({ONE: "minimize"}, "objectives")
            else:
                words = {name: {"group": group} for group, name in enumerate(values)}
                found = Objectives.read(words, "fn returned")
            _check_apart(found, self.study)
            self.study.rescore(found)
            self.free = False
        names = self.study.objectives.names
        if ALONE in values and len(names) > 1:
            raise ConfigError(
                f"fn returned one number, {values[ALONE]!r}, but there are {len(names)} objectives",
                "return a mapping of " + ", ".join(names),
            )
        return {names[0]: values[ALONE]} if ALONE in values else dict(values)

    def _refuse(self, answer: Mapping[str, Any]) -> None:
        """An answer that is no answer is a mistake in the function while no other came before it."""
        none = all(tried.outcome not in (Outcome.OK, Outcome.NAN) for tried in self.course.tried.values())
        if answer.get("odd") and none:
            hint = answer.get("hint") or "return a number, or a mapping of objectives to numbers"
            raise ConfigError(answer["message"], hint)

    def _failed(self, flight: Flight, outcome: Outcome, why: str, seconds: float = math.nan, trace: str = "") -> None:
        trial = flight.asked.trial
        self.course.tried[trial] = Tried(outcome, seconds, why, trace, self.course.tried[trial].tries + 1)
        self.study.tell(trial, None, attempt=flight.asked.attempt, failed=why)
        self._tell({"event": "trial_failed", "trial": trial, "why": why})

    # --- telling ---

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if not self.listeners or (now - self._shown < SHOW_SECONDS and not last):
            return
        self._shown = now
        counts = Counter(tried.outcome.word for tried in self.course.tried.values())
        counts.pop(Outcome.MISSING.word, None)
        settled, total = sum(counts.values()), self.study.budget or 0
        rate = settled / (now - self._started) if settled else None
        figures = {"trials": total, "settled": settled, "outcomes": dict(counts), "rate": rate, "best": self._best()}
        figures |= {"eta": (total - settled) / rate if rate else None, "stopping": self.course.reason == STOPPED}
        self._tell({"event": "figures", **figures})

    def _best(self) -> str:
        best = self.study.best
        values = best.objectives.items() if best is not None else ()
        return ", ".join(f"{name} {value:.4g}" for name, value in values if value is not None)

    def _tell(self, event: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(event)


def _places(threads: int) -> int:
    """Trials a worker is given at once."""
    return threads + max(1, threads // 4)


def _outcome(answer: Mapping[str, Any], objectives: Objectives) -> Outcome:
    missing = len(answer["values"]) < len(objectives.names)
    return Outcome.NAN if missing or answer["outcome"] == Outcome.NAN.word else Outcome.OK


def _check_apart(objectives: Objectives, study: Study) -> None:
    for name in objectives.names:
        if name in study.domain.names:
            raise ConfigError(f"fn returned {name!r}, which is a parameter's name", "call the objective something else")


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        call()
