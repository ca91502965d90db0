"""Noting facts and telling them, also while the disk is full.

What happened goes to the ledger and to whoever listens. A full disk pauses the run instead of
ending it: facts wait in memory, work is tried again, until `execution.patience` is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from staffa.errors import ClusterError
from staffa.execution.aside import Companion
from staffa.storage.files import DISK
from staffa.storage.ledger import Ledger

Listener = Callable[[Mapping[str, Any]], None]
RETRY_SECONDS = 5.0


class Chronicle:
    """The ledger and the listeners of a run, and its patience with the disk.

    Arguments:
    - `patience`: seconds the disk may be full before the run gives up.
    - `root`: the campaign's folder, for the command that helps.
    """

    def __init__(
        self, ledger: Ledger, listeners: Iterable[Listener], patience: float, root: Path, clock: Callable[[], float]
    ) -> None:
        self.ledger = ledger
        self._listeners, self._patience, self._root, self._clock = list(listeners), patience, root, clock
        self._companions = [listener for listener in self._listeners if isinstance(listener, Companion)]
        self._unwritten: list[dict[str, Any]] = []
        self._paused_at: float | None = None
        self._retry_at = 0.0

    def note(self, event: dict[str, Any]) -> None:
        """Record a fact and tell it."""
        event.setdefault("at", self._clock())
        full = None if self._unwritten else _full(lambda: self.ledger.append(event))
        if self._unwritten or full is not None:
            # The fact is kept in memory and written later; whatever is lost can be found again.
            self._unwritten.append(event)
        self.tell(event)
        if full is not None:
            self._rest(str(full))

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell the listeners something that is not recorded."""
        for listener in self._listeners:
            listener(event)

    def tick(self, figures: Mapping[str, Any]) -> None:
        """What is due in the ledger, what a full disk kept from being noted, and what listeners have to say."""
        self.disk(self._write_behind)
        self.disk(lambda: self.ledger.tick(self._clock(), figures))
        for companion in self._companions:
            for event in companion.news():
                self.note(event)
        self.tell({"event": "figures", **figures})

    def close(self) -> None:
        """Note everything that still waits; as long as patience lasts."""
        while self._unwritten:
            self.insist(self._write_behind)

    def disk(self, action: Callable[[], Any]) -> bool:
        """Do something that may find the disk full; whether it went through."""
        full = _full(action)
        if full is not None:
            self.pause(str(full))
        return full is None

    def went_well(self, action: Callable[[], bool]) -> bool:
        """What an action that may find the disk full says of itself; False, and it is not tried, while that is full."""
        said: list[bool] = []
        return not self.waiting and self.disk(lambda: said.append(action())) and any(said)

    def insist(self, action: Callable[[], Any]) -> None:
        """Do something that must be done before the run may end, as long as patience lasts."""
        while not self.disk(action):
            time.sleep(min(1.0, self._patience / 4))

    def pause(self, reason: str) -> None:
        """Issue nothing for a while. Raises `ClusterError` when patience is over."""
        waited = self._rest(reason)
        if waited > self._patience:
            raise ClusterError(
                f"{reason}; waited {waited:.0f} s (execution.patience)",
                f"make room, then: staffa resume {self._root}",
            )

    def go_on(self) -> None:
        """Something was written: the disk has room again."""
        if self._paused_at is not None:
            self._paused_at = None
            self.note({"event": "continued"})

    @property
    def paused(self) -> bool:
        """Whether the disk was full when last tried."""
        return self._paused_at is not None

    @property
    def waiting(self) -> bool:
        """Whether it is too early to try again."""
        return self.paused and self._clock() < self._retry_at

    def _rest(self, reason: str) -> float:
        """Be paused for a while longer, and say so the first time; the seconds since then."""
        now = self._clock()
        self._retry_at = now + min(RETRY_SECONDS, self._patience / 4)
        if self._paused_at is None:
            self._paused_at = now
            self.note({"event": "paused", "reason": reason})
        return now - self._paused_at

    def _write_behind(self) -> None:
        while self._unwritten:
            self.ledger.append(self._unwritten[0])
            self._unwritten.pop(0)


def _full(action: Callable[[], Any]) -> OSError | None:
    """Do something; what it met, where that is a full disk."""
    try:
        action()
    except OSError as error:
        if error.errno not in DISK:
            raise
        return error
    return None
