"""The local cluster: TLS for everyone, loopback only, credentials for the owner's eyes."""

import os
import re
import socket
import stat
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, Security

from staffa.errors import WorkspaceError
from staffa.execution.cluster import local_pool
from staffa.execution.lanes import LANES
from staffa.experiment.environment import worker_environment
from staffa.storage.workspace import Workspace


def listened_on() -> set[tuple[str, int]]:
    """Local addresses and ports that this process and its children listen on."""
    here = psutil.Process()
    found = set()
    for process in (here, *here.children(recursive=True)):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "v1.0 it's a run")


def lane_threads(dask_worker) -> dict[str, int]:
    return {name: dask_worker.executors[name]._max_workers for name in ("device", "disk", "archive")}


def test_only_the_campaigns_own_credentials_are_let_in(workspace: Workspace, tmp_path: Path) -> None:
    environment = worker_environment(False, "threefry2x32", tmp_path / "cache")
    before = listened_on()  # a SLURM that other tests have brought up, say
    with local_pool(workspace, 1, environment, dashboard=False) as pool:
        members = pool.members()
        assert len(members) == 1
        (member,) = members.values()
        assert member.address.startswith("tls://127.0.0.1:")
        assert member.host == socket.gethostname()
        assert psutil.pid_exists(member.pid) and member.pid != os.getpid()
        assert pool.client.run(lane_threads) == {member.address: LANES}
        assert {address for address, _ in listened_on() - before} == {"127.0.0.1"}

        for target in (pool.client.scheduler.address, member.address):
            port = target.rpartition(":")[2]
            with pytest.raises((OSError, TimeoutError)):
                Client(f"tcp://127.0.0.1:{port}", timeout="2s")
        with pytest.raises((OSError, TimeoutError)):
            Client(pool.client.scheduler.address, security=Security.temporary(), timeout="2s")

        for path in workspace.secrets.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(workspace.secrets.stat().st_mode) == 0o700


def test_credentials_survive_a_restart_and_must_be_private(workspace: Workspace, tmp_path: Path) -> None:
    environment = worker_environment(False, "threefry2x32", tmp_path / "cache")
    with local_pool(workspace, 1, environment, dashboard=False):
        before = {path.name: path.read_bytes() for path in workspace.secrets.iterdir()}
    with local_pool(workspace, 1, environment, dashboard=False):
        assert {path.name: path.read_bytes() for path in workspace.secrets.iterdir()} == before
    (workspace.secrets / "key.pem").chmod(0o640)
    refused = pytest.raises(WorkspaceError, match=r"key\.pem can be read by others \(mode 0640\)")
    with refused as caught, local_pool(workspace, 1, environment):
        pass
    assert "chmod" in caught.value.hint


def test_the_dashboards_link_is_written_as_dask_was_told(workspace: Workspace, monkeypatch) -> None:
    """As on a hub whose Dask configuration goes through jupyter-server-proxy."""
    monkeypatch.setenv("STAND_IN_PREFIX", "/user/me/")
    template = {"distributed.dashboard.link": "{STAND_IN_PREFIX}proxy/{port}/status"}
    with dask.config.set(template), local_pool(workspace, 0, {}, port=0) as pool:
        assert re.fullmatch(r"/user/me/proxy/\d+/status", pool.dashboard)


def test_this_process_keeps_its_own_variables(workspace: Workspace, tmp_path: Path, monkeypatch) -> None:
    """A nanny sets its worker's variables where it lives; a notebook must not compute otherwise afterwards."""
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=")
    before = dict(os.environ)
    environment = worker_environment(True, "threefry2x32", tmp_path / "cache")
    with local_pool(workspace, 1, environment, dashboard=False) as pool:
        there = pool.client.submit(os.getenv, "JAX_ENABLE_X64", pure=False).result(timeout=240)
    assert there == "1"
    assert dict(os.environ) == before
