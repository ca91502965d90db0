"""Everyone who listens to a run, from its first word to its last.

The loop tells them what happens (`chronicle`); here they are told that it begins and that it is over,
and those with work of their own are waited for: before the first batch, and after the last.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from staffa.errors import WorkspaceError
from staffa.execution.aside import Companion
from staffa.execution.chronicle import Listener
from staffa.execution.ending import Ended, Stop
from staffa.storage.files import DISK
from staffa.storage.ledger import Ledger
from staffa.telemetry import record
from staffa.telemetry.events import RunEnded, RunStarted

PUMP_SECONDS = 0.02
LEAVE_SECONDS = 5.0
"""For those who were cut short to say so."""
MESSAGE = 500
"""Longest text of an error that is noted, in characters."""


class Audience:
    """The listeners of one driver, and the first and last word it says.

    Arguments:
    - `stop`: asked to end while somebody is waited for, the driver waits no longer.
    """

    def __init__(
        self, ledger: Ledger, listeners: Sequence[Listener], stop: Stop, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger, self._listeners, self._stop, self._clock = ledger, listeners, stop, clock
        self._companions = [listener for listener in listeners if isinstance(listener, Companion)]
        self._last: dict[str, Any] | None = None

    def __enter__(self) -> Audience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell everyone that it is over, and let those with work of their own end it."""
        last = self._last or (record(failed(error)) if error is not None else None)
        if last is not None:
            self._tell({"at": self._clock(), **last})
        for companion in self._companions:
            companion.close()
        try:
            # Whoever interrupts twice wants to leave at once.
            if not isinstance(error, KeyboardInterrupt):
                self._wait(lambda companion: not companion.busy)
        finally:
            for companion in self._companions:
                companion.kill()
            until = time.monotonic() + LEAVE_SECONDS
            for companion in self._companions:
                companion.join(max(until - time.monotonic(), 0.0))
            with contextlib.suppress(OSError):
                self._take_news()

    def begin(self, started: RunStarted, figures: Mapping[str, Any]) -> None:
        """Note and tell that a run begins; returns once nobody holds it up any more.

        Arguments:
        - `figures`: the campaign in numbers, for those who look meanwhile.
        """
        event = {"at": self._clock(), **record(started)}
        self._ledger.append(event)
        self._tell(event)
        self._wait(lambda companion: not companion.holds, figures)
        self._take_news()

    def end(self, ended: RunEnded) -> None:
        """Note how it ended; told when the workers are gone."""
        self._last = {"at": self._clock(), **record(ended)}
        with contextlib.suppress(OSError):
            self._ledger.append(self._last)

    def _tell(self, event: Mapping[str, Any]) -> None:
        for listener in self._listeners:
            listener(event)

    def _wait(self, done: Callable[[Companion], bool], figures: Mapping[str, Any] | None = None) -> None:
        asked = self._stop.reason
        while not all(done(companion) for companion in self._companions):
            if self._stop.reason != asked or not self._beat(figures):
                for companion in self._companions:
                    if not done(companion):
                        companion.kill()
                return
            time.sleep(PUMP_SECONDS)

    def _beat(self, figures: Mapping[str, Any] | None) -> bool:
        """Go on being the driver; False where another one took over."""
        try:
            self._take_news()
            self._ledger.tick(self._clock(), figures)
        except WorkspaceError:
            return False
        except OSError as error:
            if error.errno not in DISK:
                raise
        return True

    def _take_news(self) -> None:
        for companion in self._companions:
            for event in companion.news():
                self._ledger.append(event)
                self._tell({"at": self._clock(), **event})


def settled(ended: Ended) -> RunEnded:
    """How a run ended, as an event."""
    return RunEnded(
        reason=ended.reason,
        exit_code=ended.exit_code,
        outcomes=ended.outcomes,
        quarantined=ended.quarantined,
        seconds=round(ended.seconds, 3),
    )


def failed(error: BaseException) -> RunEnded:
    """The end of a run that an error ended."""
    if isinstance(error, KeyboardInterrupt):
        return RunEnded(reason="interrupted", exit_code=130)
    code = getattr(error, "exit_code", 3)
    return RunEnded(reason=type(error).__name__, exit_code=code, message=str(error)[:MESSAGE])
