"""The history of a campaign, as one driver after another wrote it.

The driver, and nobody else, appends one JSON object a line to a journal named
after its lease: `{"event": name, "at": unix time, ...}`, as `staffa.telemetry`
has it. Nothing is ever changed; older versions are brought to the present one on
reading. The fold of all journals is the campaign's books (`staffa.storage.books`).
They are a cache all the same: what is finished stands beside the data, so a
lost journal costs the story, never the results.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from staffa.storage.books import Books, Failure, Loss, fold
from staffa.storage.files import read_json, sync_directory, write_aside
from staffa.storage.lease import BEAT_SECONDS, Clock, Lease
from staffa.storage.lines import Lines
from staffa.storage.workspace import Workspace
from staffa.telemetry import stamped, upgrade

__all__ = ["Books", "Failure", "Ledger", "Loss", "fold", "history", "journal", "read_summary"]

SYNC_SECONDS = 0.5
"""A fact younger than this may be lost in a power cut; it is then only found again."""

SUMMARY_SECONDS = 2.0
"""How often `summary.json` may be rewritten."""


class Ledger:
    """The journal of one driver, open for appending, and the books so far.

    `books` holds everything since the campaign began and is kept up to date by `append`.
    """

    def __init__(self, workspace: Workspace, lease: Lease, clock: Clock, descriptor: int) -> None:
        self.books = fold(history(workspace))
        self._workspace = workspace
        self._lease = lease
        self._clock = clock
        self._descriptor = descriptor
        self._lines = Lines(descriptor)
        self._unsynced = False
        self._changed = True
        self._figures: Mapping[str, Any] = {}
        self._synced_at = self._summed_at = self._beaten_at = -math.inf

    @classmethod
    def open(cls, workspace: Workspace, lease: Lease, clock: Clock = time.time) -> Ledger:
        """Start (or carry on) the journal of a lease; a deleted ledger begins anew."""
        workspace.ledger.mkdir(parents=True, exist_ok=True)
        path = workspace.journal(lease.lease_id)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            sync_directory(workspace.ledger)
            return cls(workspace, lease, clock, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def append(self, event: Mapping[str, Any]) -> None:
        """Record a fact and hand it to the operating system at once.

        Arguments:
        - `event`: `event` names it; `at` is set unless given; the rest must be fit for JSON
          (NumPy numbers, bytes and paths are turned).

        Raises `OSError` (disk full): then the fact is not recorded, the journal is sound, and the
        same call may be made again once there is space.
        """
        entry = {"event": event["event"], "at": self._clock(), **event}
        line = json.dumps(stamped(entry), default=_plain, separators=(",", ":")).encode()
        self._lines.append(line)
        self._unsynced = self._changed = True
        self.books.note(upgrade(json.loads(line)))

    def tick(self, now: float, figures: Mapping[str, Any] | None = None) -> None:
        """What is due now and then: fsync, the lease's heartbeat, `summary.json`. Cheap otherwise.

        Arguments:
        - `now`: the driver's clock.
        - `figures`: what only the driver knows (trials in all, trials/s, ETA), shown in the summary.

        Raises `OSError` when the disk fails, `WorkspaceError` when another driver took over.
        """
        if figures is not None and figures != self._figures:
            self._figures, self._changed = dict(figures), True
        if self._unsynced and _due(now, self._synced_at, SYNC_SECONDS):
            self._sync(now)
        if _due(now, self._beaten_at, BEAT_SECONDS):
            self._lease.beat()
            self._beaten_at = now
        if _due(now, self._summed_at, SUMMARY_SECONDS if self._changed else BEAT_SECONDS):
            self._sum(now)

    def close(self) -> None:
        """Make everything durable, leave a last summary. Twice is harmless."""
        if self._descriptor < 0:
            return
        try:
            self._sync(self._clock())
            self._sum(self._clock())
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The same full disk must not speak over the error that says what to do about it.
        with contextlib.suppress(*[OSError] * (error is not None)):
            self.close()

    def _sync(self, now: float) -> None:
        os.fsync(self._descriptor)
        self._unsynced, self._synced_at = False, now

    def _sum(self, now: float) -> None:
        summary = {
            "at": now,
            "lease_id": self._lease.lease_id,
            "host": self._lease.holder.host,
            "pid": self._lease.holder.pid,
            "figures": self._figures,
            **self.books.summary(),
        }
        write_aside(self._workspace.summary, json.dumps(summary, default=_plain, indent=1), sync=False)
        self._changed, self._summed_at = False, now


def history(workspace: Workspace, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Everything that was recorded, journal after journal in the order they were begun.

    A torn last line is passed over (its fact is found again). Rubbish elsewhere is skipped too, but
    counted: an event `unreadable {journal, lines}` follows the journal. No ledger, no history.

    Arguments:
    - `only`: events of these names; what a line says otherwise is not read at all.
    """
    journals = [_Journal(path) for path in sorted(workspace.ledger.glob("events-*.jsonl"))]
    for found in sorted(journals, key=_Journal.began):
        yield from found.whole(only)


class Tail:
    """The history of a campaign, read on and on: what was read once is not read again."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._read: dict[Path, int] = {}
        """Bytes of each journal that were read, in the order they were begun."""

    def news(self) -> Iterator[dict[str, Any]]:
        """What was recorded since the time before; rubbish, and a last line that is not whole yet, are passed over."""
        found = set(self._workspace.ledger.glob("events-*.jsonl")) - self._read.keys()
        for path in sorted(found, key=lambda path: (_Journal(path).began(), path)):
            self._read[path] = 0
        for path, start in list(self._read.items()):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] += len(line)
                    event = _event(line)
                    if event is not None:
                        yield event


def journal(path: Path) -> Iterator[dict[str, Any]]:
    """Everything in one journal, wherever it lies; rubbish as in `history`. Raises `OSError` where there is none."""
    path.stat()
    yield from _Journal(path).whole()


def read_summary(workspace: Workspace) -> dict[str, Any] | None:
    """The driver's last `summary.json`; None where there is none. Its `at` tells its age."""
    summary = read_json(workspace.summary)
    return summary if isinstance(summary, dict) else None


@dataclass
class _Journal:
    """One journal being read; `rubbish` counts its unreadable lines, `read` the bytes that `news` has told of."""

    path: Path
    rubbish: int = 0
    read: int = 0

    def whole(self, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        """Its events, and last a word on what was none."""
        yield from self.events(only)
        if self.rubbish:
            yield {"event": "unreadable", "journal": self.path.name, "lines": self.rubbish}

    def events(self, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        self.rubbish = 0
        # A line begins with the event's name, as `Ledger.append` writes it.
        heads = tuple(f'{{"event":"{name}",'.encode() for name in only) or (b"",)
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                if not line.startswith(heads):
                    continue
                event = _event(line)
                if event is None:
                    self.rubbish += 1
                else:
                    yield event

    def news(self) -> Iterator[dict[str, Any]]:
        """Its events since the last time."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as lines:
            lines.seek(self.read)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self.read += len(line)
                event = _event(line)
                if event is not None:
                    yield event

    def began(self) -> float:
        """When its first readable line was written; an empty journal comes last."""
        return next((float(event["at"]) for event in self.events()), math.inf)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(event, dict) and isinstance(event.get("event"), str)
    return upgrade(event) if sound and isinstance(event.get("at"), int | float) else None


def _due(now: float, last: float, period: float) -> bool:
    # A clock set back must not put things off until it has caught up.
    return not 0 <= now - last < period


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)
