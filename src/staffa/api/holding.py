"""Holding a campaign by its lease, or asking whoever holds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from staffa.errors import ClusterError
from staffa.storage import control
from staffa.storage.files import DISK
from staffa.storage.lease import Holder, Lease, read_lease
from staffa.storage.workspace import Workspace

ANSWER_SECONDS = 30.0


@contextlib.contextmanager
def driven(workspace: Workspace) -> Iterator[Lease]:
    """Hold the lease of a workspace. A first plan is checked before: here folders are made."""
    with disk_told(workspace):
        Workspace.create(workspace.root)
        with Lease.acquire(workspace.lease, over=_over) as lease:
            yield lease


def _over(holder: Holder) -> bool:
    """Whether a driver that ran as a job has ended, as SLURM knows."""
    if not holder.job:
        return False
    from staffa.execution.slurm.driver import job_over

    return job_over(holder.job)


@contextlib.contextmanager
def disk_told(workspace: Workspace) -> Iterator[None]:
    """Turn a full or broken disk, where nobody waits for room, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        again = f"staffa resume {workspace.root}" if workspace.is_planned else "the same command again"
        raise ClusterError(f"the disk fails: {error}", f"make room, then: {again}") from error


def alive(workspace: Workspace) -> bool:
    """Whether a driver is at work."""
    holder = read_lease(workspace.lease)
    return holder is not None and holder.alive()


def ask(workspace: Workspace, verb: str, **arguments: Any) -> dict[str, Any]:
    request = control.ask(workspace, verb, **arguments)
    reply = control.wait_answer(workspace, request, ANSWER_SECONDS)
    if reply is None:
        control.withdraw(workspace, request)
        return {"done": False, "why": f"the driver did not answer within {ANSWER_SECONDS:.0f} s"}
    return reply
