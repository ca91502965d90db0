"""One driver's life: the ledger, the workers, the loop, and how it is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from staffa.campaign.config import Declaration
from staffa.campaign.identity import run_facts
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.execution.audience import Audience, failed, settled
from staffa.execution.chronicle import Listener
from staffa.execution.cluster import cores, given_pool, interrupts_held, local_pool
from staffa.execution.ending import Ended, Stop, interruptible
from staffa.execution.pool import Pool
from staffa.execution.posting import Poster
from staffa.execution.prepare import adopt_code, current_plan, open_stores, plan_digest
from staffa.execution.refilling import refill_of
from staffa.execution.runner import Runner
from staffa.execution.tally import batch_counts, counted
from staffa.experiment.environment import worker_environment
from staffa.experiment.plugins import exported
from staffa.storage.lease import SILENCE_SECONDS, Lease, read_lease
from staffa.storage.ledger import Ledger
from staffa.storage.provenance import amend
from staffa.storage.workspace import Workspace
from staffa.telemetry import run_id
from staffa.telemetry.events import RunStarted

DETACHED_SECONDS = 30.0
"""How long a process of one's own may take to become the driver."""


def drive(
    workspace: Workspace,
    declaration: Declaration,
    lease: Lease,
    client: Any,
    accept: bool,
    listeners: Iterable[Listener],
    *,
    seal: bool,
    heirs: Sequence[str] = (),
) -> Ended:
    """Drive a planned campaign until it is done or stopped.

    Arguments:
    - `client`: an existing Dask client; None for the workers the declaration asks for.
    - `accept`: go on although the model's code has changed.
    - `seal`: only seal what is ripe.
    - `heirs`: this driver is a SLURM job; the command its successors run.
    """
    found, change = current_plan(workspace, accept_code_change=accept)
    stores = open_stores(workspace, found)
    stop, heard = Stop(), list(listeners)
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(workspace, lease))
        if change is not None:
            ledger.append({"event": "code_change_accepted", "old": change[0], "new": change[1]})
            adopt_code(workspace, found)
            amend(workspace.provenance, code=found.code, **run_facts(declaration, found.code))
        stack.enter_context(interruptible(stop, as_job=bool(heirs)))
        # Entered before the workers are there: whoever is told that it is over is told after they went.
        audience = stack.enter_context(Audience(ledger, heard, stop))
        if heirs:
            from staffa.execution.slurm.driver import succession

            machine = declaration.campaign.cluster
            stack.enter_context(succession(workspace, workspace.root.name, machine, heirs, stop))
        figures = counted(found, stores)
        batches = 0 if seal else sum("missing" in counts for _, counts in batch_counts(found, stores))
        pool = stack.enter_context(workers_of(workspace, declaration, client, stop, batches))
        for listener in heard:
            if isinstance(listener, Poster):
                stack.enter_context(listener.posted(pool, ledger.books))
        digest, config = plan_digest(found), declaration.campaign
        refill = refill_of(workspace, config, found, stores, ledger.books)
        runner = Runner(
            workspace, found, digest, config, ledger, stores, pool, listeners=heard, refill=refill, stop=stop
        )
        audience.begin(_header(workspace, declaration, lease, found.code, ledger, pool), figures)
        return _told(audience, runner.seal if seal else runner.run)


def _header(
    workspace: Workspace, declaration: Declaration, lease: Lease, code: str, ledger: Ledger, pool: Pool
) -> RunStarted:
    """What is true of the whole run: the first word in its journal."""
    return RunStarted(
        driver=lease.lease_id,
        run_id=run_id(declaration.campaign.campaign.name, lease.lease_id),
        campaign=workspace.root.name,
        host=lease.holder.host,
        pid=lease.holder.pid,
        job=lease.holder.job,
        workers=len(pool.members()),
        resumed=bool(ledger.books.runs),
        dashboard=pool.dashboard,
        port_taken=_port_taken(declaration, pool),
        code=code,
        staffa=_version(),
        telemetry=declaration.campaign.execution.telemetry,
        **run_facts(declaration, code),
    )


def _port_taken(declaration: Declaration, pool: Pool) -> int:
    """The port the dashboard was to have, where somebody else has it; 0 where all is as it was to be."""
    machine, scheduler = declaration.campaign.cluster, getattr(pool.cluster, "scheduler", None)
    if scheduler is None or not pool.dashboard or machine.kind not in ("local", "slurm", "allocation"):
        return 0
    return machine.dashboard_port if scheduler.http_server.port != machine.dashboard_port else 0


def _version() -> str:
    try:
        return version("staffa")
    except PackageNotFoundError:  # a checkout that was never installed
        return ""


def _told(audience: Audience, run: Callable[[], Ended]) -> Ended:
    """Run, and write down how it ended."""
    try:
        ended = run()
    except BaseException as error:
        audience.end(failed(error))
        raise
    audience.end(settled(ended))
    return ended


def detach(workspace: Workspace, declaration: Declaration, accept: bool) -> str:
    """Start a driver that does not need this process; returns its SLURM job, or its process.

    Raises `ClusterError` where it did not come up.
    """
    from staffa.execution.slurm.driver import drive_command, freeze_machine, queued_driver, submit_driver

    machine = declaration.campaign.cluster
    if machine.kind == "slurm":
        waiting = queued_driver(workspace, workspace.root.name)
        if waiting is not None:
            raise ClusterError(
                f"the driver of {workspace.root} is in the queue already: job {waiting[0]} ({waiting[1]})",
                f"staffa status {workspace.root}",
            )
    freeze_machine(workspace, declaration)
    accepted = ["--accept-code-change"] * accept
    if machine.kind == "slurm":
        command = [*drive_command(workspace, None, ()), *accepted]
        return submit_driver(workspace, workspace.root.name, machine, command)
    words = ["resume", str(workspace.root), "--cluster", str(workspace.machine), *accepted]
    return _without_terminal(workspace, [sys.executable, "-m", "staffa", *words])


def _without_terminal(workspace: Workspace, command: Sequence[str]) -> str:
    log = workspace.logs / "driver.out"
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    until = time.monotonic() + DETACHED_SECONDS
    while time.monotonic() < until:
        holder = read_lease(workspace.lease)
        if holder is not None and holder.alive():
            return str(process.pid)
        if process.poll() is not None:
            if process.returncode in (0, 1):
                return str(process.pid)
            raise ClusterError(
                f"the driver ended at once (exit code {process.returncode}): {log.read_text()[-500:]}",
                f"staffa resume {workspace.root}",
            )
        time.sleep(0.1)
    return str(process.pid)


def job_scripts(workspace: Workspace, declaration: Declaration) -> dict[str, str]:
    """What would be handed in to SLURM, as text, by pool. Raises `ConfigError` for other kinds of machines."""
    from staffa.campaign.machine import DRIVER, driver_shape, shapes
    from staffa.execution.slurm.driver import drive_command
    from staffa.execution.slurm.pool import launch_of
    from staffa.execution.slurm.script import driver_script, job_script

    config = declaration.campaign
    if config.cluster.kind != "slurm":
        raise ConfigError(
            f"cluster.kind: {config.cluster.kind} hands in no jobs", "--cluster with a config of kind slurm"
        )
    environment = worker_environment(config.execution.x64, config.execution.prng)
    launch = launch_of(workspace, workspace.root.name, config.cluster, environment)
    scripts = {name: job_script(shape, launch) for name, shape in shapes(config.cluster).items()}
    scripts[DRIVER] = driver_script(driver_shape(config.cluster), launch, drive_command(workspace, None, ()))
    return scripts


def preflight(workspace: Workspace, declaration: Declaration, detached: bool) -> dict[str, Any]:
    """Have SLURM judge what would be handed in. See `staffa.execution.slurm.preflight`."""
    from staffa.execution.slurm.preflight import preflight as judge

    scripts = job_scripts(workspace, declaration)
    return judge(declaration.campaign.cluster, scripts.__getitem__, detached=detached)


def considered(workspace: Workspace, declaration: Declaration) -> dict[str, Any]:
    """The same where there may be no SLURM."""
    from staffa.execution.slurm.preflight import considered as consider

    return consider(declaration.campaign.cluster, job_scripts(workspace, declaration).__getitem__)


def wait_for_lease(workspace: Workspace) -> None:
    """Give the driver before, on another host, the time after which its silence counts."""
    until = time.time() + SILENCE_SECONDS + 10
    while time.time() < until:
        holder = read_lease(workspace.lease)
        if holder is None or not holder.alive() or not holder.job:
            return
        from staffa.execution.slurm.driver import job_over

        if job_over(holder.job):
            return
        time.sleep(1.0)


@contextlib.contextmanager
def workers_of(workspace: Workspace, declaration: Declaration, client: Any, stop: Stop, batches: int) -> Iterator[Pool]:
    """The workers a declaration asks for, or those of a given client, until the block ends."""
    config, registered = declaration.campaign, exported()
    if client is not None:
        if registered:
            raise PluginError(
                "plug-ins that are registered by hand do not reach the workers of a given client",
                "install them, write `use: model.py:Class`, or leave out client=",
            )
        with given_pool(client) as pool:
            yield pool
        return
    environment = worker_environment(config.execution.x64, config.execution.prng) | registered
    if config.cluster.kind == "slurm":
        from staffa.execution.slurm.pool import slurm_pool

        with slurm_pool(workspace, workspace.root.name, config.cluster, environment, batches) as pool:
            yield pool
        return
    if config.cluster.kind == "allocation":
        from staffa.execution.slurm.allocation import allocation_pool

        with allocation_pool(workspace, workspace.root.name, config.cluster, environment, stop) as pool:
            yield pool
        return
    if config.cluster.kind != "local":
        from staffa.execution.extension import plugin_pool

        with plugin_pool(workspace, config.cluster, environment) as pool:
            yield pool
        return
    workers = config.cluster.workers or config.execution.workers or cores()
    with contextlib.ExitStack() as stack:
        with interrupts_held():
            pool = stack.enter_context(
                local_pool(
                    workspace,
                    workers,
                    environment,
                    memory=config.cluster.memory,
                    dashboard=config.cluster.dashboard,
                    port=config.cluster.dashboard_port,
                )
            )
        try:
            yield pool
        except KeyboardInterrupt:
            # Leaving at once: closing would wait for what is being computed.
            for member in pool.members().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
            raise
