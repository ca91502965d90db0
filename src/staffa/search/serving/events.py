"""The journal as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import islice

from staffa.search.journal import Journal
from staffa.search.study import Study

LOOK_SECONDS = 0.2
"""How often a stream looks for more: one comparison, so that telling need not know who listens."""

SILENCE_SECONDS = 15.0
"""After so long a comment is sent: it keeps proxies from closing the connection."""

AT_ONCE = 1000
"""Events in one piece."""


async def stream(study: Study, cursor: int, stopping: Callable[[], bool], longest: float) -> AsyncIterator[bytes]:
    """Everything behind a cursor, and what follows, until `stopping` or, once nothing is left, `longest` seconds.

    The id of an event is the cursor behind it: with it as `Last-Event-ID` nothing is missed and nothing comes twice.
    """
    began = spoke = time.monotonic()
    journal = study.journal
    while journal is not None and not stopping():
        pieces = await asyncio.to_thread(_next, journal, cursor) if journal.size > cursor else []
        if pieces:
            cursor = pieces[-1][0]
            yield b"".join(_event(place, line) for place, line in pieces)
            spoke = time.monotonic()
            continue
        now = time.monotonic()
        if now - began >= longest:
            return
        if now - spoke >= SILENCE_SECONDS:
            yield b": still here\n\n"
            spoke = now
        await asyncio.sleep(min(LOOK_SECONDS, longest))


def _next(journal: Journal, cursor: int) -> list[tuple[int, bytes]]:
    return list(islice(journal.lines(cursor), AT_ONCE))


def _event(place: int, line: bytes) -> bytes:
    name = line.split(b'"', 4)[3]
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (place, name, line)
