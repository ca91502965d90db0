"""A scheduler in the driver's process that workers of other machines find through the workspace."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
import warnings
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client, Scheduler
from distributed.deploy.spec import SpecCluster

from staffa.campaign.machine import ClusterConfig
from staffa.errors import ClusterError
from staffa.execution.cluster import campaign_credentials, free_port, quiet, secured
from staffa.execution.lanes import Lanes
from staffa.execution.settings import SETTINGS
from staffa.execution.slurm.worker import versions
from staffa.storage.files import read_json, write_aside
from staffa.storage.workspace import Workspace


@contextlib.contextmanager
def served(workspace: Workspace, machine: ClusterConfig) -> Iterator[tuple[Client, Any]]:
    """A client of a scheduler that listens to the cluster's network; its address stands in `scheduler.json`.

    TLS with the campaign's own credentials, the same for every driver, so that workers which lost
    theirs are let in by the next.
    """
    security = None if machine.insecure else secured(campaign_credentials(workspace))
    options: dict[str, Any] = {
        "protocol": "tcp://" if security is None else "tls://",
        "security": security,
        "interface": machine.interface,
        "port": 0,
        "dashboard": machine.dashboard,
        # The page has no login: it stays on this host, and is reached through ssh.
        "dashboard_address": f"127.0.0.1:{free_port(machine.dashboard_port) if machine.dashboard else 0}",
    }
    with dask.config.set(SETTINGS), quiet(workspace), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Port .* is already in use")
        try:
            cluster = SpecCluster(
                workers={},
                scheduler={"cls": Scheduler, "options": options},
                security=security,
                name="staffa",
                silence_logs=logging.CRITICAL,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(f"the scheduler did not start: {error}", _network_hint(machine)) from error
        address = cluster.scheduler_address
        try:
            with Client(cluster, security=security, set_as_default=False) as client:
                client.register_plugin(Lanes())
                _publish(workspace, address, secure=security is not None)
                yield client, cluster
        finally:
            _withdraw(workspace, address)
            with contextlib.suppress(Exception):
                cluster.close(timeout=10)


def _publish(workspace: Workspace, address: str, *, secure: bool) -> None:
    facts = {"address": address, "secure": secure, "versions": versions(), "at": time.time()}
    write_aside(workspace.scheduler_file, json.dumps(facts, indent=1))


def _withdraw(workspace: Workspace, address: str) -> None:
    """Workers need not knock where nobody is; a successor's file is left alone."""
    facts = read_json(workspace.scheduler_file)
    if isinstance(facts, dict) and facts.get("address") == address:
        with contextlib.suppress(OSError):
            workspace.scheduler_file.unlink(missing_ok=True)


def _network_hint(machine: ClusterConfig) -> str:
    try:
        known = ", ".join(name for _, name in socket.if_nameindex())
    except OSError:
        known = "see `ip link`"
    return f"cluster.interface: {machine.interface!r}; this host has: {known}"
