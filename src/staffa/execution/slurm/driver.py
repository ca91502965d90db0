"""The driver as a small SLURM job of its own, which hands over to the next before its time is over.

Every driver puts its heir into the queue at once, to start when it ends for whatever reason:
cut off, killed, or by its own will. A driver that has nothing left to do, or cannot go on,
takes its heir out of the queue again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from staffa.campaign.config import Declaration
from staffa.campaign.machine import DRIVER, ClusterConfig, driver_shape
from staffa.execution.ending import HANDOVER, Stop
from staffa.execution.slurm.commands import Slurm, SlurmError
from staffa.execution.slurm.reap import reap
from staffa.execution.slurm.script import Launch, driver_script, job_name
from staffa.storage.files import read_json, write_aside
from staffa.storage.workspace import Workspace

SHARE = 0.2
MARGIN_SECONDS = 15.0, 180.0
"""A driver makes room so long before its time is over: a share of what it had, within these bounds."""
BRAKE_SECONDS = 15, 3600
"""A driver that follows one which died starts so long after that one's start, at first and at most."""
CANCEL_SECONDS = 60.0
"""How long a cancelled driver may take to end."""


def submit_driver(
    workspace: Workspace,
    title: str,
    machine: ClusterConfig,
    command: Sequence[str],
    *,
    after: str = "",
    deaths: int = 0,
    slurm: Slurm | None = None,
) -> str:
    """Put a driver into the queue; returns its job.

    Arguments:
    - `command`: what follows the interpreter.
    - `after`: a job whose end, however it comes, is waited for.
    - `deaths`: drivers before it that will have ended in a row without handing over.
    """
    launch = Launch(workspace.root, title, sys.executable, {}, machine.reconnect)
    workspace.logs.mkdir(parents=True, exist_ok=True)
    shape = driver_shape(machine)
    if deaths:
        # Counted from now: it puts off only heirs of drivers that die soon, the more of them the longer.
        wait = min(BRAKE_SECONDS[0] * 2 ** (deaths - 1), BRAKE_SECONDS[1])
        shape = replace(shape, directives={"begin": f"now+{wait}", **shape.directives})
    script = driver_script(shape, launch, command)
    job = str((slurm or Slurm()).submit(script, 0, dependency=f"afterany:{after}" if after else ""))
    _remember(workspace, job, after, deaths)
    return job


def _remember(workspace: Workspace, job: str, after: str, deaths: int) -> None:
    facts = {"job": job, "after": after, "deaths": deaths, "at": time.time()}
    write_aside(workspace.driver_job, json.dumps(facts))


def drive_command(workspace: Workspace, cluster: str | None, overrides: Sequence[str]) -> list[str]:
    """What a driver's job runs: `staffa drive`, with the machine that was meant when it was handed in."""
    command = ["-m", "staffa", "drive", str(workspace.root), "--cluster", cluster or str(workspace.machine)]
    return [*command, *(word for text in overrides for word in ("--set", text))]


def freeze_machine(workspace: Workspace, declaration: Declaration) -> None:
    """Write down the machine a detached driver is to use, and how: it reads nobody's working folder."""
    sections = declaration.campaign.model_dump(mode="json", by_alias=True, include={"cluster", "execution"})
    write_aside(workspace.machine, json.dumps(sections, indent=1))


def driver_name(workspace: Workspace, title: str) -> str:
    """Name of a campaign's driver jobs in the queue."""
    return job_name(Launch(workspace.root, title, sys.executable), DRIVER)


def queued_driver(workspace: Workspace, title: str, slurm: Slurm | None = None) -> tuple[str, str] | None:
    """The driver in the queue and its state; None where there is none.

    Raises `SlurmError` where SLURM does not answer.
    """
    if not workspace.driver_job.exists():
        return None
    found = (slurm or Slurm()).tasks([driver_name(workspace, title)])
    return next(((task.id, task.state) for task in found if task.state in ("PENDING", "RUNNING", "CONFIGURING")), None)


def awaited(workspace: Workspace, slurm: Slurm | None = None) -> bool:
    """Whether a driver is in the queue that will go on; where SLURM does not answer, that is assumed."""
    try:
        return queued_driver(workspace, workspace.root.name, slurm) is not None
    except SlurmError:
        return True


def cancel_driver(workspace: Workspace, title: str, slurm: Slurm | None = None) -> str:
    """Take a driver, its heirs and the workers that wait for one out of the queue.

    Returns the driver's job, or nothing. Raises `SlurmError` where SLURM does not answer.
    """
    slurm, name, first = slurm or Slurm(), driver_name(workspace, title), ""
    until = time.monotonic() + CANCEL_SECONDS
    # A driver that has just begun may still hand in its heir.
    while (found := [task.id for task in slurm.tasks([name]) if not task.over]) and time.monotonic() < until:
        first = first or found[0]
        slurm.cancel(found)
        time.sleep(0.5)
    workspace.driver_job.unlink(missing_ok=True)
    reap(workspace.root)
    return first


@contextlib.contextmanager
def succession(
    workspace: Workspace,
    title: str,
    machine: ClusterConfig,
    command: Sequence[str],
    stop: Stop,
    slurm: Slurm | None = None,
) -> Iterator[None]:
    """Around a driver that is a job itself: its heir waits in the queue, and is let in in time."""
    slurm, job = slurm or Slurm(), os.environ["SLURM_JOB_ID"]
    facts = read_json(workspace.driver_job)
    deaths = int(facts.get("deaths", 0)) if isinstance(facts, dict) else 0
    heir = submit_driver(workspace, title, machine, command, after=job, deaths=deaths + 1, slurm=slurm)
    with contextlib.suppress(SlurmError):
        watch_end(stop, slurm.end_of(job))
    try:
        yield
    finally:
        with contextlib.suppress(SlurmError, OSError):
            if stop.reason != HANDOVER:
                workspace.driver_job.unlink(missing_ok=True)
                slurm.cancel([heir])
            elif time.time() >= (stop.hand_over_at or math.inf) and slurm.state_of(heir) != "PENDING":
                # It was lost, or taken out by hand: who wants the campaign to end says `staffa stop`.
                submit_driver(workspace, title, machine, command, after=job, slurm=slurm)
            else:
                _remember(workspace, heir, job, 0)


def watch_end(stop: Stop, ends: float | None) -> None:
    """Have a run stop before the job it runs in is cut off."""
    if ends is not None:
        left = ends - time.time()
        margin = min(max(SHARE * left, MARGIN_SECONDS[0]), MARGIN_SECONDS[1])
        stop.hand_over_at, stop.leave_at = ends - margin, ends - margin / 3


def accounted(
    workspace: Workspace, pools: Sequence[str], since: float, slurm: Slurm | None = None
) -> list[dict[str, Any]] | None:
    """What the site's accounting says of the jobs of these pools; None where nobody can tell."""
    launch = Launch(workspace.root, workspace.root.name, sys.executable)
    found = (slurm or Slurm()).history([job_name(launch, pool) for pool in pools], since)
    return None if found is None else [asdict(past) for past in found]


def job_over(job: str, slurm: Slurm | None = None) -> bool:
    """Whether SLURM knows that a job has ended; False where it does not answer."""
    try:
        return (slurm or Slurm()).state_of(job) not in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED")
    except SlurmError:
        return False


def waiting_driver(workspace: Workspace) -> str:
    """The job a detached driver was handed in as, if it has not begun or its heir waits."""
    facts = read_json(workspace.driver_job)
    return str(facts.get("job", "")) if isinstance(facts, dict) else ""
