"""Where batches run: a local cluster behind one context manager, or a client that is given.

TLS everywhere, also on loopback: any user of a shared machine reaches it. The dashboard listens
on loopback alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
from distributed import Client, LocalCluster, Security

from staffa.errors import ClusterError
from staffa.execution.lanes import THREADS, Lanes, whereabouts
from staffa.storage.credentials import Credentials, credentials
from staffa.storage.workspace import Workspace

SETTINGS: dict[str, Any] = {
    # A lost batch is re-issued by the driver, which knows what it was charged for.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "30 minutes",
    # Nannies bring dead workers back. A cluster that looks after 15 s and finds one dead once more
    # (several trials that kill their process) would give that worker up for good.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.scheduler.active-memory-manager.start": False,
    # Outputs wait in memory for their write and are never big enough to spill; a paused worker
    # would stall the campaign in silence.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    # Watching every 10 ms costs more than all bookkeeping of a batch.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.log-length": 600,
    "distributed.admin.log-length": 1000,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.tick.limit": "30s",
    "distributed.comm.timeouts.connect": "30s",
    "distributed.diagnostics.nvml": False,
    "distributed.logging": {
        "distributed": "error",
        "distributed.nanny": "critical",
        "bokeh": "error",
        "tornado": "error",
    },
}


@dataclass(frozen=True)
class Member:
    """A worker process."""

    address: str
    name: str
    host: str
    pid: int


@dataclass
class Pool:
    """A Dask client and what the driver needs to know of its workers."""

    client: Client
    dashboard: str = ""
    cluster: Any = None
    _members: dict[str, Member] = field(default_factory=dict)

    def members(self) -> dict[str, Member]:
        """The workers that are there now, with the host and process of each."""
        addresses = set(self.client.scheduler_info(n_workers=-1)["workers"])
        for gone in set(self._members) - addresses:
            del self._members[gone]
        fresh = sorted(addresses - set(self._members))
        if fresh:
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = self.client.run(whereabouts, workers=fresh, on_error="ignore")
                for address, (host, pid) in found.items():
                    self._members[address] = Member(address, address, host, pid)
        return dict(self._members)


@contextlib.contextmanager
def local_pool(
    workspace: Workspace,
    workers: int,
    environment: dict[str, str],
    *,
    memory: int | None = None,
    dashboard: bool = True,
    port: int = 8787,
) -> Iterator[Pool]:
    """A cluster of processes on this machine, one for each core unless said otherwise."""
    security = secured(credentials(workspace.secrets, _certificates))
    # Without a dashboard Dask still serves health and metrics: on a free port, loopback too.
    address = f"127.0.0.1:{port if dashboard else 0}"
    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ": environment}
    with dask.config.set(settings), _quiet(workspace), warnings.catch_warnings():
        # A taken port is not worth a warning: the next free one is used, and its link is shown.
        warnings.filterwarnings("ignore", "Port .* is already in use")
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=THREADS,
                processes=True,
                host="127.0.0.1",
                protocol="tls://",
                security=security,
                dashboard_address=address,
                worker_dashboard_address="127.0.0.1:0",
                memory_limit=memory or "auto",
                silence_logs=logging.CRITICAL,
                env=environment,
            )
        except RuntimeError as error:
            # What Dask says when a worker's process ends at once: most often it imported a script
            # that starts a run itself.
            raise ClusterError(
                f"the local cluster did not start: {error}",
                'in a script, put the call below `if __name__ == "__main__":`; otherwise see the traceback above',
            ) from error
        except OSError as error:
            raise ClusterError(
                f"the local cluster did not start: {error}", "staffa run … --set cluster.dashboard_port=0"
            ) from error
        try:
            with Client(cluster, security=security, set_as_default=False) as client:
                client.register_plugin(Lanes())
                yield Pool(client, cluster.dashboard_link if dashboard else "", cluster)
        finally:
            with contextlib.suppress(Exception):
                cluster.close(timeout=10)


@contextlib.contextmanager
def given_pool(client: Client) -> Iterator[Pool]:
    """An existing client; its cluster is left running."""
    client.register_plugin(Lanes())
    yield Pool(client, client.dashboard_link or "")


def secured(found: Credentials) -> Security:
    """Dask's security settings from the campaign's files."""
    pair = {
        f"tls_{role}_{kind}": str(path)
        for role in ("client", "scheduler", "worker")
        for kind, path in (("cert", found.cert), ("key", found.key))
    }
    return Security(tls_ca_file=str(found.ca), require_encryption=True, **pair)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _certificates() -> tuple[str, str, str]:
    temporary = Security.temporary()
    return temporary.tls_ca_file, temporary.tls_worker_cert, temporary.tls_worker_key


@contextlib.contextmanager
def _quiet(workspace: Workspace) -> Iterator[None]:
    """Send what distributed logs in the driver to `logs/driver.log`: a lost worker is told by us."""
    logger = logging.getLogger("distributed")
    workspace.logs.mkdir(exist_ok=True)
    handler = logging.FileHandler(workspace.logs / "driver.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    before, propagate = list(logger.handlers), logger.propagate
    logger.handlers[:] = [handler]
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before, propagate
        handler.close()
