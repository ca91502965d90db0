"""What trials printed and logged, where that was asked for (`execution.logs`): one file a batch, a line a try.

Lines are JSON: `at`, `batch`, `attempt`, `lane` and `trial` (null where the whole batch is meant), `outcome`, `dropped`
(characters at the beginning that were not kept), `text`. They are appended, each in one piece: a try that was cut off
and done again stands there twice, under its attempts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


def append_lines(path: Path, lines: Iterable[Line]) -> None:
    """Add what some tries said. A disk that takes no more costs nothing but these lines."""
    text = "".join(json.dumps(dict(line)) + "\n" for line in lines)
    if not text:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode(errors="replace"))
        finally:
            os.close(file)


def read_lines(path: Path, lane: int) -> list[dict[str, Any]]:
    """What concerns a trial, oldest first: its own lines, and those of its whole batch."""
    return [line for line in every_line(path) if line["lane"] in (None, lane)]


def every_line(path: Path) -> list[dict[str, Any]]:
    """All that was said of a batch and its trials, oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for text in path.read_text(errors="replace").splitlines():
            # The last one may have been cut off.
            with contextlib.suppress(ValueError):
                found.append(json.loads(text))
    return found


def as_text(lines: Iterable[Line]) -> str:
    """Lines of a log as people read them, each try under a heading."""
    return "\n".join(f"{_heading(line)}\n{line['text'].rstrip()}\n" for line in lines)


def _heading(line: Line) -> str:
    whose = f"batch {line['batch']}" if line["lane"] is None else f"trial {line['trial'][:12]}"
    outcome = f", {line['outcome']}" if line["outcome"] else ""
    dropped = f" (the first {line['dropped']:,} characters are not kept)" if line["dropped"] else ""
    return f"--- {whose}, attempt {line['attempt']}{outcome}{dropped}"
