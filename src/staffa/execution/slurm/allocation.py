"""Everything inside one allocation: the driver on its first node, a worker on every GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from distributed import Client

from staffa.campaign.machine import ClusterConfig, JobShape, allocation_shape
from staffa.errors import ClusterError
from staffa.execution.ending import Stop
from staffa.execution.pool import Departure, Member, Pool
from staffa.execution.slurm.commands import Slurm, SlurmError
from staffa.execution.slurm.departures import departure
from staffa.execution.slurm.driver import watch_end
from staffa.execution.slurm.script import Launch, allocation_script
from staffa.execution.slurm.served import served
from staffa.storage.workspace import Workspace


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
        log = (workspace.logs / f"allocation-{job}.log").open("ab")
        process = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=log, stderr=log, env=own, start_new_session=True
        )
        log.close()
        assert process.stdin is not None
        process.stdin.write(script.encode())
        process.stdin.close()
        try:
            yield AllocationPool(
                client, cluster.dashboard_link if machine.dashboard else "", cluster, workspace, process
            )
        finally:
            _end(process)


class AllocationPool(Pool):
    """Workers that are there as long as the allocation is."""

    def __init__(
        self, client: Client, dashboard: str, cluster: Any, workspace: Workspace, process: subprocess.Popen[bytes]
    ) -> None:
        super().__init__(client, dashboard, cluster)
        self.workspace, self._process = workspace, process

    def departure(self, member: Member, since: float) -> Departure | None:
        return departure(self.workspace, member, since)

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

    devices = [device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    memory = number("SLURM_MEM_PER_NODE", 0) << 20
    return allocation_shape(
        machine,
        nodes=number("SLURM_JOB_NUM_NODES", 1),
        gpus=number("SLURM_GPUS_ON_NODE", len(devices) or gpus),
        cores=number("SLURM_CPUS_ON_NODE", os.cpu_count() or 1),
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
