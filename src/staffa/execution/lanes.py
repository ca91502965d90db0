"""Two lanes on a worker, and a third for the archive.

`device` is one thread: initialize, adapt, sample. `disk` is two: write, commit. `archive` is two
as well, so that one part is read while another is synced; a seal of seconds must never stand in
front of a commit. distributed counts every executor
against `nthreads`, so workers have 8 of them and the lanes do the limiting.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed import WorkerPlugin

LANES = {"device": 1, "disk": 2, "archive": 2}
THREADS = 8
"""`--nthreads` of a worker: with less, tasks waiting for the device keep writes from starting."""


PR_SET_NAME = 15


class Lanes(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Gives any Dask worker the lanes; idempotent, so an existing cluster may be used again."""

    name = "staffa-lanes"
    idempotent = True

    def setup(self, worker: Any) -> None:
        for name, threads in LANES.items():
            if name not in worker.executors:
                worker.executors[name] = ThreadPoolExecutor(
                    threads, f"staffa-{name}", initializer=_name_thread, initargs=(f"staffa-{name}",)
                )


def _name_thread(name: str) -> None:
    """Show the lane's name to `top -H` and to whoever counts CPU seconds (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def whereabouts() -> tuple[str, int]:
    """Host and process of the worker that runs this: where its start mark is found."""
    return socket.gethostname(), os.getpid()
