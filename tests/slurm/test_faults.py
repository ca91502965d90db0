"""Faults of a cluster, real ones: time that runs out, nodes that break, requests that are refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.machine import Machine
from slurm.runs import POOLS, Campaign, Campaigns, same

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def campaigns(tmp_path: Path) -> Iterator[Campaigns]:
    made = Campaigns(tmp_path)
    yield made
    made.end()


def local(campaign: Campaign) -> Path:
    """The same campaign on this host, without a pause; its folder."""
    folder = campaign.folder / "local"
    words = ["run", str(campaign.file), "--allow-dirty", "--json", "--set", f"storage.root={folder}"]
    words += ["--set", "execution.workers=1", "--set", "cluster.dashboard_port=0"]
    subprocess.run([sys.executable, "-m", "staffa", *words], check=True, capture_output=True, timeout=240)
    return folder / campaign.root.name


def gpu(**more: Any) -> dict[str, Any]:
    return {"gpu": {**POOLS["gpu"], **more}}


def test_trials_longer_than_a_job_are_carried_over(machine: Machine, campaigns: Campaigns) -> None:
    """Three minutes each, in jobs of one minute."""
    pools = gpu(partition="short", walltime="1min", workers=2, environment={"WALK_PAUSE": "12"})
    campaign = campaigns(trials=8, batch=4, draws=15, segments=15, pause=0.001, pools=pools)
    driver = campaign.run()
    here = local(campaign)
    driver.ends(0, within=400)
    campaign.whole(8)
    campaign.unspent()
    same(campaign.root, here)
    yields = campaign.events("batch_yielded")
    assert {event["batch"] for event in yields} == {"g0/0", "g0/1"}
    assert len({event["segment"] for event in yields}) >= 3
    assert not campaign.events("batch_lost"), "each job ended between two segments"
    settled = campaign.events("batch_settled")
    computed = sum(event["computed"] for event in [*yields, *settled])
    assert computed == 2 * 15, "no segment was computed twice"
    assert len({event["job"] for event in campaign.joined()}) >= 6
