"""Where batches run: a local cluster behind one context manager, or a client that is given.

TLS everywhere, also on loopback: any user of a shared machine reaches it. The dashboard listens
on loopback alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import dask
from distributed import Client, LocalCluster, Nanny, Security

from staffa.errors import ClusterError
from staffa.execution.lanes import THREADS, Lanes
from staffa.execution.pool import Pool
from staffa.execution.settings import SETTINGS
from staffa.storage.credentials import Credentials, credentials
from staffa.storage.workspace import Workspace

MAIN, WORKER = "init_main", "Dask Worker process"
"""What Python tells a new process of the script that started it, and how Dask calls its processes."""
PORTS = 100
"""Ports that are tried for the dashboard, from the wanted one on."""


class Attendant(Nanny):  # type: ignore[misc]
    """Looks after a worker that serves no pages: what draws them takes a second and 60 MB in each process."""

    def __init__(self, *addresses: Any, **options: Any) -> None:
        super().__init__(*addresses, **{**options, "dashboard": False})


@contextlib.contextmanager
def local_pool(
    workspace: Workspace,
    workers: int,
    environment: dict[str, str],
    *,
    memory: int | None = None,
    dashboard: bool = True,
    port: int = 8787,
    lanes: bool = True,
) -> Iterator[Pool]:
    """A cluster of processes on this machine, one for each core unless said otherwise.

    Arguments:
    - `lanes`: workers for batches; otherwise each does one task at a time.
    """
    security = secured(campaign_credentials(workspace))
    # Without a dashboard Dask still serves health and metrics: on a free port, loopback too.
    address = f"127.0.0.1:{free_port(port) if dashboard else 0}"
    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ": environment}
    with _kept(environment), dask.config.set(settings), quiet(workspace), warnings.catch_warnings():
        # Somebody may take it in between: Dask then chooses any other, and its link is shown.
        warnings.filterwarnings("ignore", "Port .* is already in use")
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=THREADS if lanes else 1,
                processes=True,
                host="127.0.0.1",
                protocol="tls://",
                security=security,
                dashboard_address=address,
                scheduler_kwargs={"dashboard": dashboard},
                worker_class=Attendant,
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
                if lanes:
                    client.register_plugin(Lanes())
                yield Pool(client, cluster.dashboard_link if dashboard else "", cluster)
        finally:
            with contextlib.suppress(Exception):
                cluster.close(timeout=10)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes that never see a Ctrl-C: a terminal sends it to all of them.

    They inherit the blocked signal for good (and so do those that replace them: the threads
    that start processes are made here too); ours is delivered when the block ends.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # would unblock the signal when it is started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def main_left_out() -> Iterator[None]:
    """Workers that are started meanwhile do not run this process's script again, so that it needs no guard.

    Of what travels to them nothing may be in need of it. Python has no word for this; only Dask's processes are
    concerned, by their name.
    """
    from multiprocessing import spawn

    before = spawn.get_preparation_data

    def prepared(name: str) -> dict[str, Any]:
        found = before(name)
        return {key: said for key, said in found.items() if not (key.startswith(MAIN) and name.startswith(WORKER))}

    spawn.get_preparation_data = prepared
    try:
        yield
    finally:
        if spawn.get_preparation_data is prepared:
            spawn.get_preparation_data = before


@contextlib.contextmanager
def _kept(names: Iterable[str]) -> Iterator[None]:
    """Give this process its own variables back: a nanny sets those of its worker here, before it spawns it."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def given_pool(client: Client) -> Iterator[Pool]:
    """An existing client; its cluster is left running."""
    client.register_plugin(Lanes())
    yield Pool(client, client.dashboard_link or "")


def campaign_credentials(workspace: Workspace) -> Credentials:
    """The campaign's TLS credentials, made by its first driver and used by all that follow."""
    return credentials(workspace.secrets, _certificates)


def secured(found: Credentials) -> Security:
    """Dask's security settings from the campaign's files."""
    pair = {
        f"tls_{role}_{kind}": str(path)
        for role in ("client", "scheduler", "worker")
        for kind, path in (("cert", found.cert), ("key", found.key))
    }
    return Security(tls_ca_file=str(found.ca), require_encryption=True, **pair)


def free_port(wanted: int) -> int:
    """The wanted port of this host's loopback, or the next that is free; 0 (any) where none of `PORTS` is."""
    for port in range(wanted, min(wanted + PORTS, 1 << 16)) if wanted else ():
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as whoever listens there will do
            with contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", port))
                return port
    return 0


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _certificates() -> tuple[str, str, str]:
    temporary = Security.temporary()
    return temporary.tls_ca_file, temporary.tls_worker_cert, temporary.tls_worker_key


@contextlib.contextmanager
def quiet(workspace: Workspace) -> Iterator[None]:
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
