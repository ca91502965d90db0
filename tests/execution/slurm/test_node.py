"""The processes of a job, without SLURM: real workers, killed, cut off, left by their driver, kept out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.security import Security

from staffa.campaign.machine import ClusterConfig
from staffa.execution.cluster import campaign_credentials, secured
from staffa.execution.pool import Departure, Member, Pool
from staffa.execution.slurm import node
from staffa.execution.slurm.departures import departure
from staffa.execution.slurm.served import served
from staffa.execution.slurm.worker import differences, look, versions
from staffa.storage.workspace import Workspace

MACHINE = ClusterConfig(kind="slurm", interface="lo", dashboard_port=0, pools={"gpu": {"workers": 2, "gpus": 2}})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "v1.0_walk")


@contextlib.contextmanager
def job(workspace: Workspace, *more: str, devices: str = "0,1", gpus: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """A job's node with two workers, as its script would start it."""
    command = [sys.executable, "-m", "staffa.execution.slurm.node", str(workspace.root), "--name", "77-0"]
    command += ["--pool", "gpu", "--workers", "2", "--gpus", str(gpus), "--interface", "lo", *more]
    own = {"CUDA_VISIBLE_DEVICES": devices, "SLURM_JOB_ID": "77", "SLURMD_NODENAME": "nodeA"}
    with (workspace.logs / "gpu-77.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def joined(pool: Pool, count: int = 2) -> list[Member]:
    wait(lambda: len(pool.members()) == count)
    return sorted(pool.members().values(), key=lambda member: member.name)


def test_each_worker_has_its_own_device_and_a_death_does_not_end_the_job(workspace: Workspace) -> None:
    with served(workspace, MACHINE) as (client, _), job(workspace, "--walltime", "3600") as process:
        pool = Pool(client)
        first, second = joined(pool)
        assert (first.name, second.name) == ("77-0-0", "77-0-1")
        assert (first.device, second.device) == ("0", "1")
        assert {first.node, second.node} == {"nodeA"} and first.job == "77" and first.pool == "gpu"
        assert first.ends is not None and 3500 < first.ends - time.time() <= 3600
        os.kill(first.pid, signal.SIGKILL)
        wait(lambda: {m.name for m in pool.members().values()} == {"77-0-0.2", "77-0-1"})
        assert departure(workspace, first, 0.0) == Departure("the worker process died on nodeA (code -9)")
        assert departure(workspace, second, 0.0) is None, "nothing is known of a worker that lives"
        assert process.poll() is None


def test_workers_find_the_next_driver_by_themselves(workspace: Workspace) -> None:
    with job(workspace, "--death-timeout", "60") as process:
        with served(workspace, MACHINE) as (client, _):
            before = joined(Pool(client))
        assert not workspace.scheduler_file.exists()
        with served(workspace, MACHINE) as (client, _):
            after = joined(Pool(client))
            assert {m.device for m in after} == {m.device for m in before}
            assert {m.pid for m in after}.isdisjoint({m.pid for m in before})
        assert process.poll() is None


def test_without_a_driver_the_node_is_given_back(workspace: Workspace) -> None:
    workspace.scheduler_file.write_text(json.dumps({"address": "tls://127.0.0.1:1", "secure": True}))
    campaign_credentials(workspace)
    with job(workspace, "--death-timeout", "2") as process:
        assert process.wait(240) == 0
    assert "no driver within 2 s" in (workspace.logs / "gpu-77.log").read_text()


def test_sigterm_is_an_expected_stop(workspace: Workspace) -> None:
    with served(workspace, MACHINE) as (client, _), job(workspace) as process:
        members = joined(Pool(client))
        process.terminate()
        assert process.wait(240) == 0
        for member in members:
            found = departure(workspace, member, 0.0)
            assert found is not None and found.expected and "cancelled or preempted" in found.reason


def test_the_end_of_the_walltime_is_an_expected_stop(workspace: Workspace) -> None:
    with served(workspace, MACHINE) as (client, _), job(workspace, "--walltime", "30") as process:
        members = joined(Pool(client))
        assert process.wait(240) == 0
        for member in members:
            found = departure(workspace, member, 0.0)
            assert found is not None and found.expected and "time of job 77 was over" in found.reason


def test_a_node_without_a_word_is_nobodys_fault(workspace: Workspace) -> None:
    member = Member("tls://1", "77-0-0", "host", 1, node="nodeA", job="77")
    assert departure(workspace, member, 5.0) is None
    found = departure(workspace, member, 11.0)
    assert found is not None and not found.certain and not found.expected


def test_other_gpus_than_asked_for_are_reported(workspace: Workspace) -> None:
    with job(workspace, devices="0", gpus=2) as process:
        assert process.wait(240) == node.UNFIT
    text = (workspace.logs / "gpu-77.log").read_text()
    assert "CUDA_VISIBLE_DEVICES='0' on nodeA" in text and "cluster.pools.gpu.gpus wants 2" in text


def test_shared_gpus_get_equal_fractions(workspace: Workspace) -> None:
    terms = node.Terms(workspace.root, "7-0", "gpu", 4, 2, 2, 8, "auto", 60.0, None, None)
    devices = node.assigned(terms, {"CUDA_VISIBLE_DEVICES": "3,5"})
    assert devices == ["3", "3", "5", "5"]
    place = node.Node(terms, devices)
    own = place.environment(place.slots[2])
    assert own["CUDA_VISIBLE_DEVICES"] == "5"
    assert own["XLA_CLIENT_MEM_FRACTION"] == own["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"
    alone = node.Node(node.Terms(workspace.root, "7-0", "cpu", 1, 0, 1, 8, "auto", 60.0, None, None), [None])
    own = alone.environment(alone.slots[0])
    assert own["CUDA_VISIBLE_DEVICES"] == "", "a worker without a GPU must not take one it happens to see"
    assert "XLA_CLIENT_MEM_FRACTION" not in own


def test_software_that_differs_is_refused_with_both_versions(workspace: Workspace) -> None:
    with served(workspace, MACHINE), job(workspace) as process:
        facts = json.loads(workspace.scheduler_file.read_text())
        assert differences(facts["versions"], versions()) == ""
        process.kill()
        facts["versions"]["jax"] = "0.0.1"
        workspace.scheduler_file.write_text(json.dumps(facts))
        with job(workspace) as late:
            assert late.wait(240) == 1
    text = (workspace.logs / "gpu-77.log").read_text()
    assert f"jax {versions()['jax']} here, 0.0.1 at the driver" in text


def test_the_address_is_nowhere_but_in_the_workspace(workspace: Workspace) -> None:
    assert look(workspace.scheduler_file) is None
    with served(workspace, MACHINE) as (_, cluster):
        found = look(workspace.scheduler_file)
        assert found is not None and found.address == cluster.scheduler_address and found.secure
        assert cluster.scheduler_address.startswith("tls://")
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    assert not workspace.scheduler_file.exists()
    assert all(path.stat().st_mode & 0o077 == 0 for path in workspace.secrets.iterdir())


async def _knock(address: str, security: Security | None) -> None:
    client = await Client(address, security=security, asynchronous=True, timeout="3s", set_as_default=False)
    await client.close()


async def _talk(address: str, security: Security, patience: float = 3.0) -> None:
    """Speak to any Dask server, a worker too; who is refused may just hear nothing."""
    from distributed.core import rpc

    async with rpc(address, connection_args=security.get_connection_args("client"), timeout=patience) as other:
        await asyncio.wait_for(other.identity(), patience)


def test_strangers_are_refused_by_scheduler_and_workers(workspace: Workspace, tmp_path: Path) -> None:
    with served(workspace, MACHINE) as (client, cluster), job(workspace):
        worker = joined(Pool(client))[0].address
        scheduler = cluster.scheduler_address
        own = secured(campaign_credentials(workspace))
        asyncio.run(_talk(scheduler, own, 240))
        asyncio.run(_talk(worker, own, 240))
        other = secured(campaign_credentials(Workspace.create(tmp_path / "other")))
        for address in (scheduler, worker):
            with pytest.raises((OSError, asyncio.TimeoutError)):
                asyncio.run(_talk(address, other))
            with pytest.raises((OSError, asyncio.TimeoutError)):
                asyncio.run(_talk(address.replace("tls://", "tcp://"), Security()))
        with pytest.raises((OSError, asyncio.TimeoutError)):
            asyncio.run(_knock(scheduler.replace("tls://", "tcp://"), None))
        assert client.submit(lambda: 7).result(timeout=240) == 7, "the campaign's own client is still served"


def test_insecure_has_to_be_said_and_is_then_plain(workspace: Workspace) -> None:
    machine = MACHINE.model_copy(update={"insecure": True})
    with served(workspace, machine) as (client, cluster), job(workspace):
        assert cluster.scheduler_address.startswith("tcp://")
        assert len(joined(Pool(client))) == 2
