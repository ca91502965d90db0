"""Two lanes on a worker, and a third for the archive.

`device` is one thread: initialize, adapt, sample. `disk` is two: write, commit. `archive` is two
as well, so that one part is read while another is synced; a seal of seconds must never stand in
front of a commit. distributed counts every executor
against `nthreads`, so workers have 8 of them and the lanes do the limiting.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from distributed import WorkerPlugin, get_worker

LANES = {"device": 1, "disk": 2, "archive": 2}
THREADS = 8
"""`--nthreads` of a worker: with less, tasks waiting for the device keep writes from starting."""


PR_SET_NAME = 15


class Lanes(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Gives any Dask worker the lanes; idempotent, so an existing cluster may be used again."""

    name = "staffa-lanes"
    idempotent = True
    leaving = False
    """Whether the worker was asked to end what it does at the next segment."""

    def setup(self, worker: Any) -> None:
        # Arrow loads pandas for its first array: a third of a second, which would be the first commits'. Not in a
        # thread, while tasks import what they need: two imports at once can meet modules that are half there.
        import_module("pandas")
        for name, threads in LANES.items():
            if name not in worker.executors:
                worker.executors[name] = ThreadPoolExecutor(
                    threads, f"staffa-{name}", initializer=_name_thread, initargs=(f"staffa-{name}",)
                )


def _name_thread(name: str) -> None:
    """Show the lane's name to `top -H` and to whoever counts CPU seconds (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def asked_to_leave() -> bool:
    """Whether this task's worker is to end what it does; without a worker nobody can ask."""
    try:
        plugin = get_worker().plugins.get(Lanes.name)
    except ValueError:
        return False
    return plugin is not None and plugin.leaving


def seconds_left() -> float:
    """Until this process's job is cut off; infinite where nothing will."""
    ends = os.environ.get("STAFFA_ENDS")
    return float(ends) - time.time() if ends else math.inf


def whereabouts() -> dict[str, Any]:
    """Who the worker that runs this is: its process, and what its job script said (`slurm/node.py`)."""
    ends = os.environ.get("STAFFA_ENDS")
    own = {"name": os.environ["STAFFA_WORKER"]} if "STAFFA_WORKER" in os.environ else {}
    return own | {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "node": os.environ.get("STAFFA_NODE") or socket.gethostname(),
        "pool": os.environ.get("STAFFA_POOL", ""),
        "job": os.environ.get("STAFFA_JOB", ""),
        "ends": float(ends) if ends else None,
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
