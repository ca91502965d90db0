"""Telling a run's events to somebody slow: in a thread of its own, so that the run never waits.

What waits to be told is bounded; what does not find room is dropped, counted and noted. Whoever is
told may answer with events of their own, which the driver notes in the ledger: its only writer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from staffa.telemetry import record
from staffa.telemetry.events import EventsDropped

Event = Mapping[str, Any]
News = Iterable[dict[str, Any]]

ROOM = 10_000
"""Events that may wait for one listener."""
TOGETHER = 500
"""Events told at a time."""
COMPLAIN_SECONDS = 60.0
"""How often dropped events are noted."""
FIGURES = "figures"
ESSENTIAL = frozenset({"run_started", "run_ended"})
"""Events that always find room."""


@runtime_checkable
class Companion(Protocol):
    """A listener with a thread of its own, that may have something to say in turn."""

    def __call__(self, event: Event) -> None:
        """Take an event; returns at once, whatever happens."""

    @property
    def holds(self) -> bool:
        """Whether the run is to wait for it before the first batch is issued."""

    @property
    def busy(self) -> bool:
        """Whether it has not dealt with everything it was told; False for good once it ended."""

    def news(self) -> list[dict[str, Any]]:
        """Events to be noted, since this was last asked."""

    def close(self) -> None:
        """Nothing more will come: deal with what waits, within the time that is given to it, and end."""

    def kill(self) -> None:
        """End now."""

    def join(self, seconds: float) -> None:
        """Wait until it has ended, but not longer."""


class Mind(Protocol):
    """What a companion does with what it is told. All of it happens in the companion's thread."""

    def wants(self, event: Event) -> bool:
        """Whether an event concerns it: asked in the driver's thread, so it has to be cheap."""

    def take(self, events: Sequence[Event], halt: threading.Event) -> News:
        """Deal with some events, or with none when it is merely time to look; returns events to be noted.

        Arguments:
        - `halt`: set when it is to stop whatever it does.
        """

    def end(self) -> None:
        """Let go of everything."""


class Aside:
    """A companion that a `Mind` makes out of a thread and a bounded queue.

    Arguments:
    - `name`: for events that were dropped.
    - `every`: seconds after which it looks even if nothing happened; None for never.
    - `drain`: seconds it may take, once the run is over, for what waits.
    """

    def __init__(self, name: str, mind: Mind, *, every: float | None = None, drain: float = 60.0) -> None:
        self._name, self._mind, self._every, self._drain = name, mind, every, drain
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._news: list[dict[str, Any]] = []
        self._dropped, self._complained = 0, -COMPLAIN_SECONDS
        self._until: float | None = None
        self._halt = threading.Event()
        self._at_work = False
        self._thread = threading.Thread(target=self._work, name=f"staffa-{name}", daemon=True)
        """Started by the first event: a run that never begins leaves none behind."""

    def __call__(self, event: Event) -> None:
        if not self._mind.wants(event):
            return
        with self._changed:
            if event["event"] == FIGURES and self._waiting and self._waiting[-1]["event"] == FIGURES:
                self._waiting[-1] = event
            elif len(self._waiting) < ROOM or event["event"] in ESSENTIAL:
                self._waiting.append(event)
            else:
                self._dropped += 1
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()

    @property
    def holds(self) -> bool:
        return False

    @property
    def busy(self) -> bool:
        with self._changed:
            return self._thread.is_alive() and not self._halt.is_set() and bool(self._waiting or self._at_work)

    def news(self) -> list[dict[str, Any]]:
        with self._changed:
            told, self._news = self._news, []
            return told

    def close(self) -> None:
        with self._changed:
            self._until = time.monotonic() + self._drain
            self._at_work = True
            self._changed.notify()

    def kill(self) -> None:
        self._halt.set()
        with self._changed:
            self._until = time.monotonic()
            self._changed.notify()

    def join(self, seconds: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._waiting and self._until is None:
                        self._at_work = False
                        self._changed.wait(self._every)
                    self._at_work = True
                    closing = self._until is not None
                    if closing and time.monotonic() >= (self._until or 0.0):
                        self._give_up()
                    events = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
                if not self._halt.is_set():
                    self._deal(events)
                self._complain(last=closing)
                if closing and not self._waiting:
                    return
        finally:
            self._mind.end()
            self._at_work = False

    def _give_up(self) -> None:
        """Its time is over: only how the run ended is still told."""
        kept = [event for event in self._waiting if event["event"] in ESSENTIAL and not self._halt.is_set()]
        self._dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _deal(self, events: Sequence[Event]) -> None:
        try:
            told = list(self._mind.take(events, self._halt))
        except Exception as error:  # whatever it is, the run goes on
            told = [record(EventsDropped(by=self._name, count=len(events), why=f"{type(error).__name__}: {error}"))]
        with self._changed:
            self._news += told

    def _complain(self, *, last: bool) -> None:
        now = time.monotonic()
        with self._changed:
            if self._dropped and (last or now - self._complained >= COMPLAIN_SECONDS):
                self._news.append(record(EventsDropped(by=self._name, count=self._dropped)))
                self._dropped, self._complained = 0, now
