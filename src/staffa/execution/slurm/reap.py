"""Jobs of campaigns that nobody drives any more.

Workers outlive their driver on purpose, and look for the next one. Where none will come, because
the campaign was given up or its folder removed, they hold nodes for nothing until they lose patience.

A job is ours if its name is that of the folder its log lies in: names alone prove nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from staffa.campaign.machine import DRIVER
from staffa.errors import WorkspaceError
from staffa.execution.slurm.commands import OVER, Call, Slurm, run_command
from staffa.execution.slurm.lists import compressed
from staffa.execution.slurm.refusals import complain
from staffa.execution.slurm.script import Launch, job_name
from staffa.storage.lease import Holder, Lease, read_lease
from staffa.storage.workspace import Workspace

COLUMNS = ("ArrayJobID", "ArrayTaskID", "JobID", "State", "Name", "StdOut")
GOING = OVER | {"COMPLETING"}
"""States of jobs that hold nothing, or soon will not."""
NAME = re.compile(r"staffa-.+-[0-9a-f]{6}")


@dataclass(frozen=True)
class Listed:
    """A job, or a task of an array, in the queue.

    Arguments:
    - `id`: `12` or `12_3`; `number`: as the job itself knows it.
    - `output`: pattern or path of its log.
    """

    id: str
    number: str
    state: str
    name: str
    output: str


@dataclass(frozen=True)
class Holding:
    """What a campaign has in the queue.

    Arguments:
    - `jobs`: by pool; the detached driver's own are under `driver`.
    - `orphan`: nobody drives it, and nobody will by himself.
    - `why`: the same in words.
    """

    root: Path
    title: str
    jobs: Mapping[str, Sequence[Listed]]
    orphan: bool = False
    why: str = ""
    cancelled: bool = False

    @property
    def ids(self) -> list[str]:
        return [job.id for jobs in self.jobs.values() for job in jobs]


def reap(run: Path | str | None = None, *, dry_run: bool = False, call: Call = run_command) -> dict[str, Any]:
    """Find the jobs of all campaigns of this user's, and cancel those that nobody drives.

    Arguments:
    - `run`: only of this campaign; its folder may be gone.
    - `dry_run`: only look.

    Returns `campaigns` (root, title, pools with jobs by state, jobs, orphan, why, cancelled),
    `foreign` (names like ours that are not: left alone), `dry_run`. Raises `SlurmError` where the
    queue cannot be asked: then nothing is known, and nothing was done.
    """
    named = _absolute(run) if run is not None else None
    listed = queue(call)
    found, foreign = holdings(listed)
    if named is not None:
        found = [holding for holding in found if _same(holding.root, named)]
    numbers = {job.number for job in listed}
    judged = [judge(holding, numbers, named=named is not None) for holding in found]
    if not dry_run:
        slurm = Slurm(call)
        judged = [_cancelled(holding, slurm, numbers) if holding.orphan else holding for holding in judged]
    return {"dry_run": dry_run, "campaigns": [_facts(h) for h in judged], "foreign": [] if named else foreign}


def queue(call: Call = run_command) -> list[Listed]:
    """squeue, once: everything of this user's that waits or runs."""
    # No widths: a field that ends in a word of its own is as long as it has to be.
    argv = ["squeue", "--me", "-h", "-r", "-t", "all", "-O", ",".join(f"{name}:|" for name in COLUMNS)]
    answer = call(argv, None)
    if answer.code:
        complain(argv, answer)
    rows = [line.rstrip().removesuffix("|").split("|", len(COLUMNS) - 1) for line in answer.out.splitlines()]
    found = []
    for row in rows:
        if len(row) == len(COLUMNS) and row[3] not in GOING:
            array, task, number, state, name, output = row
            found.append(Listed(f"{array}_{task}" if task.isdigit() else array, number, state, name, output))
    return found


def holdings(listed: Sequence[Listed]) -> tuple[list[Holding], list[str]]:
    """Campaigns with jobs in the queue, and names of jobs that only look like ours."""
    found: dict[tuple[Path, str], dict[str, list[Listed]]] = {}
    foreign: set[str] = set()
    for job in listed:
        if not NAME.fullmatch(job.name):
            continue
        place = _place(job)
        if place is None:
            foreign.add(job.name)
            continue
        root, pool, title = place
        found.setdefault((root, title), {}).setdefault(pool, []).append(job)
    return [Holding(root, title, jobs) for (root, title), jobs in sorted(found.items())], sorted(foreign)


def judge(holding: Holding, numbers: set[str], *, named: bool = False) -> Holding:
    """Say whether anybody drives a campaign, or will.

    Arguments:
    - `numbers`: of all jobs of this user's that wait or run.
    - `named`: the user named this campaign.
    """
    orphan, why = _verdict(holding, numbers, named)
    return replace(holding, orphan=orphan, why=why)


def _verdict(holding: Holding, numbers: set[str], named: bool) -> tuple[bool, str]:
    root = holding.root
    try:
        if not os.path.lexists(root):
            if named or root.parent.is_dir():
                return True, "its folder is gone"
            return False, f"{root.parent} is not to be seen from here; if it is gone for good, name the campaign"
        root.stat()
        holder = read_lease(Workspace(root).lease)
    except OSError as error:
        return False, f"its folder cannot be read: {error.strerror}"
    drivers = holding.jobs.get(DRIVER, ())
    if drivers:
        return False, f"its driver is job {drivers[0].id} ({drivers[0].state})"
    if holder is None:
        return True, "it has no driver"
    if holder.alive() and not _job_over(holder, numbers):
        return False, f"its driver is alive: host {holder.host}, pid {holder.pid}"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(holder.heartbeat, 0.0)))
    return True, f"its driver died: host {holder.host}, pid {holder.pid}, last sign of life {since}"


def _job_over(holder: Holder, numbers: set[str]) -> bool:
    """Whether a driver elsewhere ran in a job that is no longer in the queue."""
    return bool(holder.job) and not holder.is_here and holder.job not in numbers


def _cancelled(holding: Holding, slurm: Slurm, numbers: set[str]) -> Holding:
    """Cancel a campaign's jobs, with its lease in our hands: nobody begins to drive it meanwhile."""
    with contextlib.ExitStack() as stack:
        workspace = Workspace(holding.root)
        # Where nothing can be written (a full disk, a folder that is gone) nobody can begin to drive either.
        with contextlib.suppress(OSError):
            if workspace.ledger.is_dir():
                try:
                    lease = Lease.acquire(workspace.lease, over=lambda holder: _job_over(holder, numbers))
                except WorkspaceError as error:
                    return replace(holding, orphan=False, why=error.message)
                stack.enter_context(lease)
        # Whole arrays: squeue may pass over a task of one (22.05), and all of them are this campaign's.
        slurm.cancel(sorted({job.partition("_")[0] for job in holding.ids}))
    return replace(holding, cancelled=True)


# --- whose job -------------------------------------------------------------------------------------


def _place(job: Listed) -> tuple[Path, str, str] | None:
    """Folder, pool and title of a job; None where name and log do not belong together."""
    folder, slash, file = job.output.rpartition("/logs/")
    pool = re.fullmatch(r"(.+)-(%A_%a|%j|\d+_\d+|\d+)\.log", file)
    if not slash or pool is None:
        return None
    # The title in `staffa-<title>-<pool>-<6 hexadecimal digits>`.
    title = job.name.removeprefix("staffa-")[: -len(f"-{pool[1]}-000000")]
    for root in _candidates(folder):
        if title and job_name(Launch(root, title, ""), pool[1]) == job.name:
            return root, pool[1], title
    return None


def _candidates(folder: str) -> Iterator[Path]:
    """The folder as squeue has it: a pattern, in which `%%` is a `%`, or what newer releases made of it."""
    yield Path(folder)
    yield Path(folder.replace("%%", "%"))


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  resolves `..`, keeps links


def _same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _facts(holding: Holding) -> dict[str, Any]:
    pools = {}
    for pool, jobs in holding.jobs.items():
        states = [job.state for job in jobs]
        pools[pool] = {state: states.count(state) for state in dict.fromkeys(states)}
    return {
        "root": str(holding.root),
        "title": holding.title,
        "pools": pools,
        "jobs": compressed(holding.ids),
        "orphan": holding.orphan,
        "why": holding.why,
        "cancelled": holding.cancelled,
        "next": f"staffa status {shlex.quote(str(holding.root))}",
    }
