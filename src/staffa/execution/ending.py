"""How a run ends, and how it is asked to."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from staffa.storage.files import sweep_partials
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

HANDOVER = "handover"
LEAVE_SECONDS = 20.0
"""A driver whose job is cancelled or preempted leaves within this time: most sites kill it after 30 s."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    reason: str
    """`finished`, `stopped`, `budget`, `interrupted`, `handover`."""
    outcomes: dict[str, int]
    quarantined: int
    seconds: float

    @property
    def exit_code(self) -> int:
        if self.reason != "finished":
            return 130
        # Nobody misses what was cancelled; what waits for its input is missed.
        well = (Outcome.OK, Outcome.CANCELLED, Outcome.HOPELESS)
        healthy = sum(self.outcomes.get(outcome.word, 0) for outcome in well)
        return 0 if healthy == sum(self.outcomes.values()) else 1


@dataclass
class Stop:
    """Asked from outside the loop: a signal handler, a request of another shell, a job that ends.

    Arguments:
    - `hand_over_at`: Unix time at which the driver makes room for the next; None if it need not.
    - `leave_at`: Unix time at which it goes even if batches are in flight.
    """

    reason: str = ""
    hand_over_at: float | None = None
    leave_at: float | None = None

    def look(self, now: float) -> None:
        if self.hand_over_at is not None and now >= self.hand_over_at and not self.reason:
            self.reason = HANDOVER


def swept(workspace: Workspace) -> None:
    """Remove scratch, start marks and what killed writers left aside: no batch is in flight any more."""
    for folder in workspace.transient:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        for folder in (workspace.hot, workspace.archive, workspace.state):
            sweep_partials(folder, 0.0)


@contextlib.contextmanager
def interruptible(
    request: Stop, *, as_job: bool = False, numbers: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[None]:
    """Ctrl-C once: let batches in flight commit; twice: leave at once. Both can be resumed.

    A driver that is a job itself, and is told to go, leaves its workers to its heir.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        if request.reason:
            raise KeyboardInterrupt
        request.reason = HANDOVER if as_job else "interrupted"
        if as_job:
            request.leave_at = time.time() + LEAVE_SECONDS

    before = {number: signal.signal(number, interrupted) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
