"""A worker of a served search: a loop that asks, computes and tells until nothing is left.

    work("http://127.0.0.1:8787", token, lambda params: {"loss": (params["x"] - 1) ** 2}, threads=4)

Nobody waits for the network: trials are asked for before they are needed and results are told by a thread of their
own, while others are computed. A heartbeat keeps the trials; one that the server gave to somebody else before it was
begun is dropped. SIGTERM or Ctrl-C stops gracefully: what runs is finished and told, what was not begun is handed back
and costs no try.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from staffa.errors import ClusterError, ConfigError, StaffaError
from staffa.search.answers import Asked, ConflictError
from staffa.search.client import PATIENCE, Client
from staffa.trial import Scalar

Function = Callable[[dict[str, Scalar]], Mapping[str, float | None] | float]
"""From a trial's parameters to its objectives; a number where there is only one objective."""

IDLE_SECONDS = 0.5
"""How long one waits before asking again when all trials are with others."""

BEATS = 5
"""Heartbeats in one lease."""

LAST_PATIENCE = 10.0
"""Seconds a server that does not answer is waited for by a worker that was told to stop."""

IN_A_ROW = 5
"""So many failures one after another are this worker's fault rather than the trials'."""


@dataclass(frozen=True)
class Worked:
    """What a worker did: results told, tries that failed, and results that wait in the outbox."""

    told: int
    failed: int
    kept: int


class BrokenWorkerError(StaffaError):
    """One trial after another failed here: the worker stopped before it used up everybody's tries."""


def work(
    url: str,
    token: str,
    function: Function,
    *,
    threads: int = 1,
    ahead: int = 1,
    name: str = "",
    outbox: Path | None = None,
    ca: Path | None = None,
    patience: float = PATIENCE,
    folder: Path | None = None,
    stop: threading.Event | None = None,
) -> Worked:
    """Do trials until the search is finished, `stop` is set, or a signal comes.

    Arguments:
    - `threads`: trials at a time; `function` is called in as many threads.
    - `ahead`: trials that wait here for each thread. More hide a slower network; fewer are chosen with more knowledge.
    - `name`: of this worker; by default one that nobody else has.
    - the others: as `Client` has them.

    Raises `ClusterError` when the server did not answer for `patience` seconds, `BrokenWorkerError` after 5 failures in
    a row, `ConfigError` for a wrong token.
    """
    if threads < 1 or ahead < 0:
        raise ConfigError(f"threads: {threads!r}, ahead: {ahead!r} make no worker", "at least one thread, 0 ahead")
    name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    client = Client(url, token, worker=name, outbox=outbox, ca=ca, patience=patience, folder=folder)
    worker = _Worker(client, function, threads, ahead, stop or threading.Event())
    with _stopped_by_signals(worker.stop):
        return worker.run()


class _Worker:
    """One worker at work. `_state` guards what its threads share."""

    def __init__(
        self, client: Client, function: Function, threads: int, ahead: int, stop: threading.Event
    ) -> None:  # fmt: skip
        self.stop = stop
        self._client, self._function = client, function
        self._threads, self._room = threads, threads * (1 + ahead)
        self._state = threading.Condition()
        self._waiting: dict[int, Asked] = {}
        self._running: dict[int, Asked] = {}
        self._telling: dict[int, Asked] = {}
        self._untold: queue.SimpleQueue[tuple[Asked, Mapping[str, float | None] | None, str] | None]
        self._untold = queue.SimpleQueue()
        self._over = False
        """Whether no more trials will come."""
        self._told = self._failed = self._kept = self._in_a_row = 0
        self._error: BaseException | None = None

    def run(self) -> Worked:
        status = self._client.status()
        self._objectives = tuple(status["objectives"])
        self._client.deliver()
        ended = threading.Event()
        others = [
            threading.Thread(target=self._minding(call), name=call.__name__, daemon=True)
            for call in (self._ask, self._tell, *[self._compute] * self._threads)
        ]
        beating = threading.Thread(target=self._beat, args=(ended, status["lease"]), daemon=True)
        for thread in (*others, beating):
            thread.start()
        try:
            self._wait(others)
        finally:
            ended.set()
        beating.join()
        if self._error is not None:
            raise self._error
        return Worked(self._told, self._failed, self._kept)

    def _wait(self, others: list[threading.Thread]) -> None:
        asking, telling, *computing = others
        for thread in (asking, *computing):
            # In steps: a join that never returns keeps signals from being handled.
            while thread.is_alive():
                thread.join(0.2)
                if self.stop.is_set():
                    self._client.patience = min(self._client.patience, LAST_PATIENCE)
                    self._end()
        self._untold.put(None)
        telling.join()
        self._hand_back()

    def _minding(self, call: Callable[[], None]) -> Callable[[], None]:
        def minded() -> None:
            try:
                call()
            except BaseException as error:
                self._error = self._error or error
                self._end()

        minded.__name__ = call.__name__
        return minded

    def _end(self) -> None:
        with self._state:
            self._over = True
            self._state.notify_all()

    def _ask(self) -> None:
        while not (self._over or self.stop.is_set()):
            with self._state:
                room = self._room - len(self._waiting) - len(self._running)
                if room <= 0:
                    self._state.wait(1.0)
                    continue
            given = self._client.ask(min(room, 1000))
            with self._state:
                self._waiting.update((asked.trial, asked) for asked in given.trials)
                self._over = self._over or given.finished
                self._state.notify_all()
                if not given.trials and not self._over:
                    self._state.wait(IDLE_SECONDS)

    def _compute(self) -> None:
        while (asked := self._next()) is not None:
            try:
                values, failed = self._read(self._function(dict(asked.params))), ""
            except Exception:
                values, failed = None, traceback.format_exc(limit=-5)
            with self._state:
                self._running.pop(asked.trial, None)
                self._telling[asked.trial] = asked
                self._in_a_row = self._in_a_row + 1 if failed else 0
                self._state.notify_all()
            self._untold.put((asked, values, failed))
            if self._in_a_row >= IN_A_ROW:
                raise BrokenWorkerError(
                    f"{IN_A_ROW} trials in a row failed in this worker, the last one with\n{failed}",
                    "mend the function, then start the worker again",
                )

    def _next(self) -> Asked | None:
        with self._state:
            while not self.stop.is_set():
                if self._waiting and self._error is None:
                    trial = next(iter(self._waiting))
                    self._running[trial] = asked = self._waiting.pop(trial)
                    self._state.notify_all()
                    return asked
                if self._over:
                    return None
                self._state.wait(1.0)
            return None

    def _read(self, said: Any) -> Mapping[str, float | None]:
        """What a function returned, as values of objectives."""
        if isinstance(said, Mapping):
            return {str(name): None if value is None else float(value) for name, value in said.items()}
        if len(self._objectives) > 1:
            raise TypeError(f"the function returned {said!r}; the search has objectives {', '.join(self._objectives)}")
        return {self._objectives[0]: float(said)}

    def _tell(self) -> None:
        while (one := self._untold.get()) is not None:
            asked, values, failed = one
            try:
                verdict = self._client.tell(asked, values, failed=failed)
            except ConflictError:
                continue  # somebody else was given the trial, and their result came first
            except ConfigError:
                self._untold.put(one)
                raise
            finally:
                with self._state:
                    self._telling.pop(asked.trial, None)
            if verdict is None:
                self._kept += 1
            elif failed:
                self._failed += 1
            else:
                self._told += 1

    def _hand_back(self) -> None:
        with self._state:
            trials, self._waiting = list(self._waiting), {}
        while not self._untold.empty():
            one = self._untold.get()
            trials += [one[0].trial] if one is not None else []
        if trials:
            with contextlib.suppress(StaffaError):  # a server that is gone finds out by their leases
                self._client.cancel(trials, again=True, own=True)

    def _beat(self, ended: threading.Event, lease: float | None) -> None:
        pause = min(30.0, (lease or 300.0) / BEATS)
        while not ended.wait(pause):
            with self._state:
                held = list({**self._waiting, **self._running, **self._telling})
            try:
                heard = self._client.beat(held, patience=pause) if held else None
            except ClusterError:
                continue  # whoever asks and tells sees it, too, and has more patience
            except StaffaError as error:
                self._error = self._error or error
                self._end()
                return
            with self._state:
                for trial in heard.lost if heard else ():
                    self._waiting.pop(trial, None)


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `stop`; the second one ends the process as ever. Only the main thread may listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def told(number: int, frame: FrameType | None) -> None:
        restore()
        stop.set()

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    for one in (signal.SIGTERM, signal.SIGINT):
        before[one] = signal.signal(one, told)
    try:
        yield
    finally:
        restore()
