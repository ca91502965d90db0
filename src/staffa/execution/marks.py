"""Start marks and time limits: what a worker has on its device, readable after its death.

Each worker process keeps one small file. While the device computes it names the batch and the
lanes; otherwise it is blank. When the process dies, the driver reads who was on the device:
only that batch is charged, and its lanes are the suspects. The mark lives in the page cache,
which survives `kill -9`; a dead node takes it along, and then nobody is charged.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from staffa.storage.files import read_json
from staffa.storage.spans import spans, unspan

SPACE = 4096
"""Bytes of a mark, taken when it is made: writing it must not depend on room on the disk."""


@dataclass(frozen=True)
class Started:
    """What was on the device when the mark was read."""

    batch: str
    attempt: int
    lanes: tuple[int, ...]
    timed_out: bool


class StartMark:
    """The start mark of this process, with the watchdog of `execution.timeout`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._deadline: float | None = None
        self._open = b""
        self._size = 0
        self._changed = threading.Condition()
        self._watching = False

    @contextlib.contextmanager
    def on(self, batch: str, attempt: int, lanes: Sequence[int], timeout: float | None) -> Iterator[None]:
        """Hold the mark while the device computes `lanes` of a batch."""
        self._ensure()
        content = {"batch": batch, "attempt": attempt, "lanes": spans(lanes), "timed_out": False}
        self._write(json.dumps(content).encode())
        self._arm(timeout)
        try:
            yield
        finally:
            self._arm(None)
            self._write(b"")

    def _ensure(self) -> None:
        """Open the file; again if a finished run has swept it away under a worker that lives on."""
        if self._file >= 0 and os.fstat(self._file).st_nlink:
            return
        if self._file >= 0:
            os.close(self._file)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._write(b"")

    def _write(self, data: bytes) -> None:
        self._open = data
        # Padded to the longest so far, so that the file's size, and with it the disk's books, rarely change.
        self._size = max(self._size, len(data), SPACE)
        os.pwrite(self._file, data.ljust(self._size), 0)

    def _arm(self, timeout: float | None) -> None:
        if timeout is None and self._deadline is None:
            return
        with self._changed:
            self._deadline = None if timeout is None else time.monotonic() + timeout
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="staffa-timeout", daemon=True).start()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            # A thread cannot be stopped from outside, so the process goes, and says why. The lock is
            # kept: a computation that ends this very moment must not blank the mark before that.
            self._write(self._open.replace(b'"timed_out": false', b'"timed_out": true'))
            os.kill(os.getpid(), signal.SIGKILL)


def read_mark(path: Path) -> Started | None:
    """What a dead worker had on its device; None where nothing was."""
    found = read_json(path)
    if not isinstance(found, dict) or "batch" not in found:
        return None
    return Started(found["batch"], found["attempt"], tuple(unspan(found["lanes"])), found["timed_out"])
