"""Campaigns on a real SLURM, from the first job to the sealed archive."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import staffa
from slurm.machine import Machine
from slurm.runs import POOLS, Campaign, workflow
from staffa.api import events as history

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def campaigns() -> Iterator[list[Campaign]]:
    """Campaigns whose drivers are ended with the test."""
    made: list[Campaign] = []
    yield made
    for campaign in made:
        campaign.end()


def made(campaigns: list[Campaign], tmp_path: Path, **shape: Any) -> Campaign:
    campaigns.append(Campaign(workflow(tmp_path / f"flow{len(campaigns)}", **shape)))
    return campaigns[-1]


def test_the_protein_campaign_on_four_gpus_equals_the_local_run(
    machine: Machine, campaigns: list[Campaign], tmp_path: Path
) -> None:
    file = REPOSITORY / "workflows" / "protein" / "campaign.yaml"
    overrides = [
        "replicates=120",
        "execution.batch=8",
        "execution.window=1",
        "sampling.thin=200",
        "cluster.dashboard_port=0",
    ]
    shared = {"profile": "smoke", "allow_dirty": True, "progress": False}
    remote = staffa.run(
        file, cluster="slurm-one-machine", set=[*overrides, f"storage.root={tmp_path / 'remote'}"], **shared
    )
    local = staffa.run(file, set=[*overrides, f"storage.root={tmp_path / 'local'}"], **shared)
    assert remote.ended is not None and remote.ended.exit_code == 0
    assert local.ended is not None and local.ended.outcomes == remote.ended.outcomes
    for table in ("trials", "draws"):
        there, here = (
            pq.read_table(root / "archive" / table).drop_columns(
                [name for name in ("seconds", "node", "attempts") if table == "trials"]
            )
            for root in (remote.root, local.root)
        )
        order = [(name, "ascending") for name in ("trial", "chain", "draw") if name in there.column_names]
        assert there.sort_by(order).equals(here.sort_by(order)), table
    events = list(history(remote.root))
    (started,) = [e for e in events if e["event"] == "run_started"]
    assert started["dashboard"].startswith("http://127.0.0.1:"), "the page has no login, and stays on this host"
    who = {e["address"]: e for e in events if e["event"] == "worker_joined" and e["pool"] == "gpu"}
    shares = Counter(e["worker"] for e in events if e["event"] == "batch_settled")
    total = sum(shares.values())
    assert len(shares) == 4 and min(shares.values()) >= 0.1 * total, shares
    devices = {(who[address]["node"], who[address]["device"]) for address in shares}
    assert devices == {("gpu0", "0"), ("gpu0", "1"), ("gpu1", "0"), ("gpu1", "1")}
    submissions = [e for e in events if e["event"] == "jobs_submitted" and e["pool"] == "gpu"]
    assert [e["jobs"] for e in submissions] == [4], "one sbatch for one scale-up"
    assert not machine.jobs(), "nothing is left in the queue"


def test_a_cancelled_job_costs_nothing(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    campaign = made(campaigns, tmp_path, trials=48, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: len(campaign.present()) == 4 and campaign.settled() >= 4, "four workers at work")
    machine.run(["scancel", campaign.present()[0]["job"]])
    driver.ends(0)
    campaign.whole(48)
    campaign.unspent()
    left = [event for event in campaign.events("worker_left") if event["expected"]]
    assert left and "cancelled or preempted" in left[0]["reason"]


def test_a_node_goes_down_and_comes_back(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    campaign = made(campaigns, tmp_path, trials=80, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: len(campaign.present()) == 4 and campaign.settled() >= 4, "four workers at work")
    machine.down("gpu1")
    campaign.until(lambda: {e["node"] for e in campaign.present()} == {"gpu0"}, "the workers of gpu1 to be gone")
    machine.resume("gpu1")
    driver.ends(0)
    campaign.whole(80)
    campaign.unspent()
    assert not campaign.events("node_excluded")


def test_the_controller_restarts(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    campaign = made(campaigns, tmp_path, trials=400, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: campaign.settled() >= 4, "something to be settled")
    machine.stop_controller()
    settled = campaign.settled()
    campaign.until(lambda: campaign.events("squeue_silent"), "squeue to fail")
    campaign.until(lambda: campaign.settled() > settled, "the work to go on without a controller")
    machine.start_controller()
    driver.ends(0)
    campaign.whole(400)
    campaign.unspent()
    assert len(campaign.events("jobs_submitted")) == 1


def test_a_killed_driver_costs_no_allocation(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    campaign = made(campaigns, tmp_path, trials=96, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: len(campaign.present()) == 4 and campaign.settled() >= 8, "four workers at work")
    jobs = {job.id for job in machine.jobs()}
    driver.kill()
    time.sleep(3)
    assert {job.id for job in machine.jobs() if job.state == "RUNNING"} == jobs
    campaign.resume().ends(0)
    campaign.whole(96)
    campaign.unspent()
    assert len(campaign.events("jobs_submitted")) == 1, "the waiting workers were enough"
    assert {event["job"] for event in campaign.joined()} == jobs


def test_scaling_to_nothing_and_back(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    campaign = made(campaigns, tmp_path, trials=80, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: len(campaign.present()) == 4, "four workers")
    campaign.call("scale", campaign.root, "gpu=1")
    campaign.until(lambda: len(campaign.present()) == 1, "one worker to remain")
    campaign.call("scale", campaign.root, "gpu=0")
    campaign.until(lambda: not campaign.present() and not machine.jobs(), "none to remain")
    refused = campaign.call("scale", campaign.root, "gpus=2", codes=(3,))
    assert "no pool is called 'gpus'" in str(refused)
    campaign.call("scale", campaign.root, "gpu=3")
    campaign.until(lambda: len(campaign.present()) == 3, "three workers")
    driver.ends(0)
    campaign.whole(80)
    campaign.unspent()


def test_two_jobs_of_two_gpus_and_one_death(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    pools = {"gpu": {**POOLS["gpu"], "gpus": 2, "cores": 2}}
    campaign = made(campaigns, tmp_path, trials=80, pause=0.25, pools=pools)
    driver = campaign.run()
    here = campaign.until(lambda: campaign.present() if len(campaign.present()) == 4 else [], "four workers")
    assert len({e["job"] for e in here}) == 2 and len({e["name"] for e in here}) == 4
    assert {(e["node"], e["device"]) for e in here} == {("gpu0", "0"), ("gpu0", "1"), ("gpu1", "0"), ("gpu1", "1")}
    campaign.until(lambda: campaign.settled() >= 8, "something to be settled")
    os.kill(here[0]["pid"], signal.SIGKILL)
    campaign.until(lambda: any(e["name"] == here[0]["name"] + ".2" for e in campaign.joined()), "another in its place")
    driver.ends(0)
    campaign.whole(80)
    assert {e["job"] for e in campaign.joined()} == {e["job"] for e in here}, "the jobs went on"
    charged = [e for e in campaign.events("batch_lost") if e["charged"]]
    assert len(charged) <= 1, "only what was on the device is charged"


def test_what_kills_its_process_is_quarantined_and_nothing_else(
    machine: Machine, campaigns: list[Campaign], tmp_path: Path
) -> None:
    campaign = made(campaigns, tmp_path, trials=16, use="Deadly", execution={"retries": {"limit": 1}})
    campaign.run().ends(1)
    quarantined = campaign.events("quarantined")
    assert len(quarantined) == 1 and quarantined[0]["outcome"] == "killed"
    nodes = {event["node"] for event in campaign.events("batch_lost") if event["charged"]}
    assert nodes == {"gpu0", "gpu1"}, "it was tried on different nodes"
    campaign.whole(15)
    assert not campaign.events("pool_paused", "node_excluded"), "the nodes are not to blame"


def test_a_dask_jobqueue_cluster_of_ones_own(machine: Machine, campaigns: list[Campaign], tmp_path: Path) -> None:
    from dask_jobqueue import SLURMCluster

    file = workflow(tmp_path / "flow", trials=16)
    with SLURMCluster(
        cores=8,
        processes=1,
        memory="1GiB",
        job_cpu=1,
        interface="lo",
        job_extra_directives=["--gres=gpu:1"],
        log_directory=str(tmp_path / "logs"),
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        cluster.scale(jobs=2)
        run = staffa.run(file, cluster=cluster, allow_dirty=True, progress=False)
        assert run.ended is not None and run.ended.outcomes == {"ok": 16}
        reply = staffa.attach(run.root)
        assert reply.status["figures"]["settled"] == 16
