"""What happened in a search, one fact a line, in one file that only grows.

A line is a JSON object with `event` and `at`; a place in the file (the byte behind a line) is a cursor from which
somebody else reads on. A fact is with the operating system before anybody is told of it, so a process that is killed
loses nothing; the disk is asked to keep it at most half a second later, from a thread of its own.

JSON knows no infinities and no NaN: they stand as text, "Infinity", "-Infinity" and "NaN".
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic_core import from_json, to_json

from staffa.errors import WorkspaceError
from staffa.storage.files import sync_directory
from staffa.storage.lines import Lines

SYNC_SECONDS = 0.5
"""A fact younger than this may be lost in a power cut."""

CHUNK = 1 << 22
"""Bytes that are parsed at once."""

Event = dict[str, Any]


class Journal:
    """A journal, open for appending. One process at a time: a second one is refused."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.rubbish = 0
        """Lines that `read` could make nothing of."""
        self._descriptor = descriptor
        self._lines = Lines(descriptor)
        self._failed: OSError | None = None
        self._dirty, self._closed = threading.Event(), threading.Event()
        self._syncing = threading.Thread(target=self._sync_often, name="journal", daemon=True)
        self._syncing.start()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Start the journal at `path`, or go on with it.

        Raises `WorkspaceError` while another process holds it, `OSError` as the disk gave it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _hold(descriptor, path)
            sync_directory(path.parent)
            return cls(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def size(self) -> int:
        """Bytes so far: the cursor behind the last fact."""
        return self._lines.size

    def append(self, event: Mapping[str, Any]) -> None:
        """Record a fact. Once this returns it outlives the process.

        Raises `OSError` (disk full): then the fact is not recorded, the journal is sound, and the same call may be made
        again once there is space.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        self._lines.append(to_json(event, inf_nan_mode="strings"))
        self._dirty.set()

    def read(self) -> Iterator[Event]:
        """Everything recorded so far, oldest first. Torn lines are passed over and counted in `rubbish`."""
        self.rubbish = 0
        for lines, _ in _pieces(self.path, 0, self.size):
            yield from self._events(lines)

    def lines(self, cursor: int) -> Iterator[tuple[int, bytes]]:
        """Every whole line behind a cursor, as it stands, with the cursor behind it; others may append meanwhile.

        Arguments:
        - `cursor`: 0, or one that was given; one in the midst of a line counts for the next line's start.
        """
        if cursor > 0 and os.pread(self._descriptor, 1, cursor - 1) not in (b"\n", b""):
            cursor -= 1
            start = next((end for _, end in _pieces(self.path, cursor, self.size, first=True)), self.size)
            cursor = start
        for lines, end in _pieces(self.path, cursor, self.size):
            place = end - sum(len(line) + 1 for line in lines)
            for line in lines:
                place += len(line) + 1
                if line.endswith(b"}"):
                    yield place, line

    def close(self) -> None:
        """Make everything durable and let the file go. Twice is harmless. Raises `OSError` if the disk fails."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._dirty.set()
        self._syncing.join()
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _events(self, lines: list[bytes]) -> list[Event]:
        try:
            # One call for many lines: half the time of one for each.
            found: list[Event] = from_json(b"[" + b",".join(lines) + b"]")
        except ValueError:
            found = [event for event in map(_event, lines) if event is not None]
            self.rubbish += len(lines) - len(found)
        return found

    def _sync_often(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # Whoever records the next fact is told: a thread has nobody to tell.
                self._failed = error
            self._closed.wait(SYNC_SECONDS)


def _hold(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkspaceError(
            f"'{path}' is held by another process: a search has one server, or one driver, at a time",
            f"who it is: `fuser {path}`; it lets go when it ends",
        ) from None
    except OSError as error:
        # Some network file systems have no locks; there the campaign's lease alone keeps a second one out.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _pieces(path: Path, begin: int, end: int, *, first: bool = False) -> Iterator[tuple[list[bytes], int]]:
    """Whole lines between two places, many at a time, with the place behind them. `first`: only one line."""
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end:
            data = file.read(min(CHUNK, end - begin))
            # The longest line there is may be longer than a piece.
            data += file.readline() if not data.endswith(b"\n") else b""
            if first:
                data = data[: data.index(b"\n") + 1] if b"\n" in data else data
            if not data.endswith(b"\n"):
                whole, _, _ = data.rpartition(b"\n")
                if whole:
                    yield whole.split(b"\n"), begin + len(whole) + 1
                return
            begin += len(data)
            yield data[:-1].split(b"\n"), begin
            if first:
                return


def _event(line: bytes) -> Event | None:
    try:
        event = from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
