"""What user code prints, warns and logs while a trial is computed, kept with the trial where that was asked for.

Standard output, standard error and the records of `logging` (as its levels are) of the thread that computes, and of
threads that it starts; not what other programs print that it calls: those write past Python. While it is computed
the text also stands in a file beside the worker's start mark, for the driver to find if the process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.execution.bench import Order, mark_name
from staffa.execution.marks import Started, read_mark
from staffa.execution.pool import Member
from staffa.experiment.simulate import Loop
from staffa.storage.hot import HotStore
from staffa.storage.trial_logs import Line, append_lines
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

KEPT = 1 << 16
"""Characters kept of what is said: the last ones."""
SUFFIX = ".said"


class Heard:
    """What was said so far: `text`, its last `KEPT` characters, and how many before were `dropped`."""

    def __init__(self, beside: Path | None = None) -> None:
        self.text, self.dropped = "", 0
        self._lock = threading.Lock()
        own = threading.get_ident()
        # Threads with a name are somebody's; those that come later, or that Python has not made, work for this one.
        known = (one for one in threading.enumerate() if not isinstance(one, threading._DummyThread))
        self.strangers = frozenset(one.ident for one in known) - {own}
        self._beside, self._file = beside, -1

    def write(self, text: str) -> None:
        with self._lock:
            self.text += text
            if len(self.text) > 2 * KEPT:
                self._cut()
                self._keep(self.text, anew=True)
            else:
                self._keep(text)

    def close(self) -> None:
        with self._lock:
            self._cut()
            if self._file >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, 0)
                os.close(self._file)
                self._file = -1

    def _cut(self) -> None:
        self.dropped += max(len(self.text) - KEPT, 0)
        self.text = self.text[-KEPT:]

    def _keep(self, text: str, anew: bool = False) -> None:
        with contextlib.suppress(OSError):
            if self._file < 0 and self._beside is not None:
                # Only now: a trial that says nothing costs nothing.
                self._beside.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            if self._file < 0:
                return
            if anew:
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, text.encode(errors="replace"))


@contextlib.contextmanager
def heard(beside: Path | None = None) -> Iterator[Heard]:
    """Listen to this thread while the block lasts.

    Arguments:
    - `beside`: the file that holds what is said meanwhile, blank afterwards.
    """
    ear = Heard(beside)
    _open(ear)
    try:
        yield ear
    finally:
        _close()
        ear.close()


class TrialLog:
    """What the trials of a batch of plain Python say, one after another.

    Arguments:
    - `loop`: tells what became of a trial, and where it raised.
    """

    def __init__(self, workspace: Workspace, order: Order, loop: Loop, store: HotStore) -> None:
        self._workspace, self._order, self._loop, self._store = workspace, order, loop, store
        self._lines: list[Line] = []

    @contextlib.contextmanager
    def of(self, lane: int, mark: Path) -> Iterator[None]:
        """Listen to one trial; `mark` is the start mark of this process."""
        if self._order.logs == "none":
            yield
            return
        with heard(said_beside(mark)) as ear:
            yield
        outcome = Outcome(int(self._loop.outcomes[lane]))
        text = ear.text + self._loop.traces.get(lane, "")
        if text and (self._order.logs == "all" or outcome is not Outcome.OK):
            trial = self._store.digests(self._order.batch)[lane]
            self._lines.append(_line(self._order, text, outcome.word, lane, trial, ear.dropped))

    def flush(self) -> None:
        """Write down what was kept since the last time."""
        append_lines(self._workspace.trial_log(self._order.batch_id), self._lines)
        self._lines = []


def batch_said(workspace: Workspace, order: Order, text: str, status: npt.NDArray[np.uint8] | None) -> None:
    """Keep what a batch said as a whole, where that was asked for.

    Arguments:
    - `status`: outcomes of its trials; None where it was put down half done.
    """
    flawed = status is not None and bool((status != Outcome.OK).any())
    if text and (order.logs == "all" or (order.logs == "failed" and flawed)):
        append_lines(workspace.trial_log(order.batch_id), [_line(order, text)])


def left_behind(workspace: Workspace, member: Member, stores: Mapping[int, HotStore]) -> Started | None:
    """What a worker that died had on its device; what that said goes into its log."""
    mark = workspace.start_mark(mark_name(member.host, member.pid))
    started = read_mark(mark)
    if started is not None:
        _last_words(workspace, mark, started, stores)
    return started


def _last_words(workspace: Workspace, mark: Path, started: Started, stores: Mapping[int, HotStore]) -> None:
    with contextlib.suppress(OSError):
        text = said_beside(mark).read_text(errors="replace")
        said_beside(mark).unlink()
        if text:
            group, _, batch = started.batch.removeprefix("g").partition("/")
            order = Order("", "", 0, int(group), int(batch), started.attempt)
            lane = started.lanes[0] if len(started.lanes) == 1 else None
            trial = None if lane is None else stores[order.group].digests(order.batch)[lane]
            outcome = Outcome.TIMEOUT if started.timed_out else Outcome.KILLED
            line = _line(order, text[-KEPT:], outcome.word, lane, trial, max(len(text) - KEPT, 0))
            append_lines(workspace.trial_log(started.batch), [line])


def _line(
    order: Order, text: str, outcome: str = "", lane: int | None = None, trial: str | None = None, dropped: int = 0
) -> Line:
    return {
        "at": time.time(),
        "batch": order.batch_id,
        "attempt": order.attempt,
        "lane": lane,
        "trial": trial,
        "outcome": outcome,
        "dropped": dropped,
        "text": text,
    }


def said_beside(mark: Path) -> Path:
    """Where a process keeps what is said while its start mark is held."""
    return mark.with_suffix(SUFFIX)


# --- listening -------------------------------------------------------------------------------------

_ears: dict[int, Heard] = {}
"""By thread: who is listened to."""
_guard = threading.Lock()
_before: tuple[Any, Any] | None = None


def _open(ear: Heard) -> None:
    global _before
    with _guard:
        _ears[threading.get_ident()] = ear
        if _before is None:
            _before = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
            logging.root.addHandler(_RECORDS)


def _close() -> None:
    global _before
    with _guard:
        del _ears[threading.get_ident()]
        if _ears or _before is None:
            return
        logging.root.removeHandler(_RECORDS)
        # Whoever put another stream there meanwhile keeps it.
        if isinstance(sys.stdout, _Stream):
            sys.stdout = _before[0]
        if isinstance(sys.stderr, _Stream):
            sys.stderr = _before[1]
        _before = None


def _ear() -> Heard | None:
    """Who hears this thread."""
    own = threading.get_ident()
    found = _ears.get(own)
    if found is not None or len(_ears) != 1:
        return found
    with contextlib.suppress(StopIteration):
        only = next(iter(_ears.values()))
        return None if own in only.strangers else only
    return None


class _Stream:
    """A stream that hands on what is written by threads nobody listens to."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        ear = _ear()
        if ear is None:
            return int(self._stream.write(text) or 0)
        ear.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Records(logging.Handler):
    """Records of the threads that are listened to."""

    def emit(self, record: logging.LogRecord) -> None:
        ear = _ear()
        if ear is not None:
            ear.write(self.format(record) + "\n")
        elif logging.root.handlers == [self] and logging.lastResort and record.levelno >= logging.lastResort.level:
            # Without us it would have gone there.
            logging.lastResort.handle(record)


_RECORDS = _Records()
_RECORDS.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
