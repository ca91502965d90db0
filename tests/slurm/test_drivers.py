"""Detached drivers on a real SLURM: small jobs of their own that hand over to one another."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.machine import Job, Machine
from slurm.runs import POOLS, Campaign, Campaigns

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DRIVER = {"driver": {"walltime": "2min", "partition": "short", "memory": "1GiB"}}


@pytest.fixture
def campaigns(tmp_path: Path) -> Iterator[Campaigns]:
    made = Campaigns(tmp_path)
    yield made
    made.end()


def drivers(machine: Machine) -> list[Job]:
    """Drivers in the queue, running or waiting."""
    return [job for job in machine.jobs() if "-driver-" in job.name]


def at_work(campaign: Campaign, workers: int = 4) -> None:
    campaign.until(lambda: len(campaign.present()) == workers and campaign.settled() >= 8, "workers at work")


def over(campaign: Campaign, machine: Machine, within: float = 600.0) -> dict[str, Any]:
    """How the campaign ended; by then nothing of it may be in the queue."""
    machine.wait_idle(within)
    assert campaign.holder() is None
    return campaign.events("run_ended")[-1]


def test_three_drivers_hand_over_to_one_another(machine: Machine, campaigns: Campaigns) -> None:
    pools = {"gpu": {**POOLS["gpu"], "workers": 2}}
    campaign = campaigns(trials=230, segments=4, pause=1.0, machine=DRIVER, pools=pools)
    said = campaign.detach()
    assert said["live"] or said["driver_job"]
    watching = campaign.aside("watch", campaign.root, "--json", "--interval", "5")
    attached = campaign.aside("attach", campaign.root)
    at_work(campaign, 2)
    status = campaign.status()
    assert status["live"] and status["run"]["job"] in {job.id for job in drivers(machine)}
    (heir,) = [job for job in drivers(machine) if job.state == "PENDING"]
    machine.run(["scancel", heir.id])  # an heir that gets lost is replaced before it is needed
    ended = over(campaign, machine, 900)
    assert (ended["reason"], ended["exit_code"]) == ("finished", 0)
    starts, ends = campaign.events("run_started"), campaign.events("run_ended")
    assert len(starts) >= 3 and [event["reason"] for event in ends] == ["handover"] * (len(starts) - 1) + ["finished"]
    assert len({event["job"] for event in starts} - {heir.id}) == len(starts)
    campaign.whole(230)
    campaign.unspent()
    assert len(campaign.events("jobs_submitted")) == 1, "the workers' jobs outlive their drivers"
    watching.ends(0)
    attached.ends(0)
    assert '"settled": 230' in watching.said.splitlines()[-1]


def test_a_killed_driver_is_followed_by_its_heir(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=160, pause=0.25)
    campaign.detach()
    at_work(campaign)
    holder = campaign.holder()
    assert holder is not None and holder.job
    os.kill(holder.pid, signal.SIGKILL)
    campaign.until(lambda: len(campaign.events("run_started")) == 2, "its heir")
    assert json.loads(campaign.workspace.driver_job.read_text())["deaths"] == 2, "the next would be put off longer"
    assert over(campaign, machine)["reason"] == "finished"
    starts = campaign.events("run_started")
    assert len(starts) == 2 and starts[0]["job"] != starts[1]["job"]
    campaign.whole(160)
    campaign.unspent()
    assert len(campaign.events("jobs_submitted")) == 1


def test_a_cancelled_driver_leaves_the_workers_to_its_heir(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=160, segments=4, pause=0.25)
    campaign.detach()
    at_work(campaign)
    holder = campaign.holder()
    assert holder is not None
    machine.run(["scancel", holder.job])
    assert over(campaign, machine)["reason"] == "finished"
    assert [event["reason"] for event in campaign.events("run_ended")] == ["handover", "finished"]
    campaign.whole(160)
    campaign.unspent()
    assert len(campaign.events("jobs_submitted")) == 1


def test_stopping_ends_driver_heir_and_workers(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=320, pause=0.25)
    campaign.detach()
    at_work(campaign)
    refused = campaign.call("run", campaign.file, "--cluster", campaign.folder / "cluster.yaml", "--detach", codes=(2,))
    assert "already has a driver" in refused["error"]
    assert campaign.call("stop", campaign.root)["done"]
    ended = over(campaign, machine)
    assert (ended["reason"], ended["exit_code"]) == ("stopped", 130)
    assert 0 < campaign.settled() < 320
    assert campaign.status()["driver_job"] is None
    campaign.resume().ends(0)
    campaign.whole(320)
    campaign.unspent()


def test_stopping_between_two_drivers(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=160, pause=0.25)
    campaign.detach()
    at_work(campaign)
    (heir,) = [job for job in drivers(machine) if job.state == "PENDING"]
    machine.run(["scontrol", "hold", heir.id])
    holder = campaign.holder()
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    campaign.until(lambda: [job.id for job in drivers(machine)] == [heir.id], "the driver's job to end")
    assert campaign.status()["driver_job"] == heir.id
    refused = campaign.call("resume", campaign.root, "--detach", codes=(3,))
    assert heir.id in refused["error"]
    assert heir.id in campaign.call("stop", campaign.root)["why"]
    machine.wait_idle()
    campaign.resume("--detach").ends(0)
    assert over(campaign, machine)["reason"] == "finished"
    campaign.whole(160)
    campaign.unspent()


def test_without_slurm_a_process_of_its_own_goes_on(campaigns: Campaigns) -> None:
    campaign = campaigns(trials=64, pause=0.25)
    words = ("--allow-dirty", "--detach", "--set", "execution.workers=1", "--set", "cluster.dashboard_port=0")
    said = campaign.call("run", campaign.file, *words)
    assert said["live"]
    holder = campaign.holder()
    assert holder is not None and os.getsid(holder.pid) != os.getsid(0), "no terminal can end it"
    campaign.until(campaign.settled, "something to be settled")
    campaign.call("stop", campaign.root)
    campaign.until(lambda: campaign.holder() is None, "the driver to end")
    assert 0 < campaign.settled() < 64
    campaign.call("resume", campaign.root, "--detach", "--set", "execution.workers=2")
    campaign.aside("attach", campaign.root).ends(0)
    campaign.whole(64)
    assert campaign.events("run_started")[-1]["workers"] == 2
