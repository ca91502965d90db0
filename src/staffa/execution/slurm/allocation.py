"""Everything inside one allocation: the driver on its first node, a worker on every GPU."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed import Client

from staffa.campaign.machine import ClusterConfig, JobShape, allocation_shape
from staffa.errors import ClusterError
from staffa.execution.ending import Stop
from staffa.execution.pool import Demand, Departure, Member, Pool
from staffa.execution.slurm.commands import Slurm, SlurmError
from staffa.execution.slurm.departures import departure
from staffa.execution.slurm.driver import watch_end
from staffa.execution.slurm.script import Launch, allocation_script
from staffa.execution.slurm.served import served
from staffa.storage.workspace import Workspace

MINDED = """\
exec 3<&0
{ read -r <&3; kill 0; } &
bash -c "$1" 3<&- < /dev/null
"""
"""The script's shell, and beside it one that ends all of them when the driver, at the other end of
its input, is no more: a driver that is resumed here brings workers of its own."""

WORDS = 8
"""Last lines of the workers' log that are told where none of them is left."""


@contextlib.contextmanager
def allocation_pool(
    workspace: Workspace, title: str, machine: ClusterConfig, environment: Mapping[str, str], stop: Stop
) -> Iterator[AllocationPool]:
    """Workers on all nodes of the allocation this process runs in.

    Raises `ClusterError` outside of one.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        raise ClusterError(
            "cluster.kind: allocation, but SLURM_JOB_ID is not set: this is no job of SLURM",
            "salloc --nodes=1 --gpus-per-node=4 staffa run … (or in a script for sbatch), or use cluster.kind: slurm",
        )
    launch = Launch(workspace.root, title, sys.executable, environment, machine.reconnect)
    ends, gpus = None, 0
    with contextlib.suppress(SlurmError):
        ends, gpus = Slurm().end_of(job), Slurm().gpus_per_node(job)
        watch_end(stop, ends)
    script = allocation_script(given(machine, os.environ, gpus), launch)
    own = {**os.environ, **({"SLURM_JOB_END_TIME": f"{ends:.0f}"} if ends else {})}
    with served(workspace, machine) as (client, cluster):
        log = workspace.logs / f"allocation-{job}.log"
        with log.open("ab") as out:
            command = ["bash", "-c", MINDED, "staffa-workers", script]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=own, start_new_session=True
            )
        link = cluster.dashboard_link if machine.dashboard else ""
        try:
            yield AllocationPool(client, link, cluster, workspace, process, log)
        finally:
            _end(process)


class AllocationPool(Pool):
    """Workers that are there as long as the allocation is.

    Arguments:
    - `process`: what started them, and waits for them; `log`: what it says.
    """

    def __init__(
        self,
        client: Client,
        dashboard: str,
        cluster: Any,
        workspace: Workspace,
        process: subprocess.Popen[bytes],
        log: Path,
    ) -> None:
        super().__init__(client, dashboard, cluster)
        self.workspace, self._process, self._log = workspace, process, log

    def departure(self, member: Member, since: float) -> Departure | None:
        return departure(self.workspace, member, since)

    def turn(self, demand: Demand) -> list[dict[str, Any]]:
        """Nothing brings these workers back: without them there is no reason to wait.

        Raises `ClusterError` with the last they said.
        """
        code = self._process.poll()
        if code is not None and not self._members:
            words = "\n".join(self._log.read_text(errors="replace").splitlines()[-WORDS:])
            raise ClusterError(
                f"no worker is left in this allocation (code {code}); {self._log} ends with:\n{words}",
                f"staffa resume {self.workspace.root}",
            )
        return []

    def expects(self) -> bool:
        return self._process.poll() is None

    def scale(self, wanted: Mapping[str, int]) -> dict[str, Any]:
        return {"done": False, "why": "an allocation has the size it has: every GPU has its worker"}


def given(machine: ClusterConfig, environ: Mapping[str, str], gpus: int) -> JobShape:
    """The shape of the allocation, as SLURM tells a job in its environment.

    Arguments:
    - `gpus`: on each node, which the shell of salloc is not told.
    """

    def number(name: str, otherwise: int) -> int:
        text = environ.get(name, "")
        return int(text) if text.isdecimal() else otherwise

    # `16(x2),8`; the shell that salloc starts has nothing else. A step asks for the same of all nodes.
    cores = [int(count) for count in re.findall(r"(?:^|,)(\d+)", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))]
    devices = [device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    memory = number("SLURM_MEM_PER_NODE", 0) << 20
    return allocation_shape(
        machine,
        nodes=number("SLURM_JOB_NUM_NODES", 1),
        gpus=number("SLURM_GPUS_ON_NODE", len(devices) or gpus),
        cores=min(cores, default=number("SLURM_CPUS_ON_NODE", os.cpu_count() or 1)),
        memory=memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the workers go; SLURM would only end them with the allocation."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # srun hands it on to the nodes
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
            return
