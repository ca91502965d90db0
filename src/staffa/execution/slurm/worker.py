"""A worker process on a compute node: finds the driver through the workspace, and joins it.

The address stands in `scheduler.json`, rewritten by every driver; the credentials are the
campaign's own. A worker whose driver leaves exits, and the one that is started in its place
looks for the next: allocations outlive their driver.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask

from staffa.execution.settings import SETTINGS
from staffa.execution.slurm.node import DRIVER_GONE, NO_DRIVER, UNFIT
from staffa.storage.files import read_json
from staffa.storage.workspace import Workspace

PACKAGES = ("staffa", "dask", "distributed", "numpy", "jax", "zarr")
"""Packages that must be the same everywhere: what travels between processes depends on them."""
LOOK_SECONDS = 0.2
KNOCK_SECONDS = 5.0
JOIN_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Found:
    """A driver's scheduler, as `scheduler.json` has it."""

    address: str
    secure: bool
    versions: Mapping[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    said = _said(arguments)
    _die_with_parent()
    workspace = Workspace(said.root)
    dask.config.set(SETTINGS)  # before distributed is imported: it sets up its logging then
    threading.Thread(target=_import, name="staffa-import", daemon=True).start()
    deadline = time.monotonic() + said.death_timeout
    while time.monotonic() < deadline:
        found = look(workspace.scheduler_file)
        if found is not None and answers(found.address):
            differ = differences(found.versions, versions())
            if differ:
                _say(f"this node's software is not the driver's: {differ}")
                return UNFIT
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                asyncio.run(_serve(workspace, found, said))
                _leave(DRIVER_GONE)
        time.sleep(LOOK_SECONDS)
    _say(f"no driver within {said.death_timeout:.0f} s: the node is given back")
    return NO_DRIVER


def look(path: Path) -> Found | None:
    """The driver's address, if it has one."""
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("address"), str):
        return None
    return Found(facts["address"], bool(facts.get("secure", True)), dict(facts.get("versions") or {}))


def answers(address: str) -> bool:
    """Whether anybody listens there: the file of a driver that was killed outlives it."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def versions() -> dict[str, str]:
    """What has to agree between driver and workers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    return ", ".join(
        f"{name} {here.get(name, 'missing')} here, {there[name]} at the driver"
        for name in there
        if there[name] != here.get(name)
    )


async def _serve(workspace: Workspace, found: Found, said: argparse.Namespace) -> None:
    from distributed import Worker

    from staffa.execution.cluster import secured
    from staffa.storage.credentials import existing

    options: dict[str, Any] = {"interface": said.interface} if said.interface else {}
    if found.secure:
        options["security"] = secured(existing(workspace.secrets))
    # Node-local: what a worker keeps aside has no place on a shared disk.
    with tempfile.TemporaryDirectory(prefix="staffa-", ignore_cleanup_errors=True) as folder:
        worker = Worker(
            found.address,
            name=os.environ.get("STAFFA_WORKER") or None,
            nthreads=said.nthreads,
            memory_limit=said.memory_limit,
            local_directory=folder,
            dashboard_address="127.0.0.1:0",
            death_timeout=f"{JOIN_SECONDS:g}s",  # to be let in; Dask would knock for ever
            **options,
        )
        async with worker:
            _say(f"worker {worker.name} joined {found.address}, device {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
            await worker.finished()


def _import() -> None:
    """Import what the first batch needs while the driver is being looked for."""
    with contextlib.suppress(ImportError):
        import distributed  # noqa: F401

        import staffa.execution.work  # noqa: F401


def _leave(code: int) -> None:
    """End at once: a thread may still compute for a driver that is gone, and cannot be stopped."""
    sys.stdout.flush()
    os._exit(code)


def _die_with_parent() -> None:
    """A worker must not outlive the process that minds it (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _said(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="staffa.execution.slurm.worker", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--nthreads", type=int, default=8)
    parser.add_argument("--memory-limit", default="auto")
    parser.add_argument("--death-timeout", type=float, default=600.0)
    parser.add_argument("--interface")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} staffa: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
