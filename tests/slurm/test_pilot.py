"""A pilot on a real SLURM: a job for each pool that samples, gone with its folder when it has told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import staffa
from signals import interruptible
from slurm.machine import Machine
from slurm.runs import POOLS, workflow
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def free_again(machine: Machine) -> None:
    until = time.monotonic() + 240
    while machine.jobs() and time.monotonic() < until:
        time.sleep(0.2)
    assert not machine.jobs(), "nothing is left in the queue"


def test_each_pool_is_measured_on_its_own_workers(machine: Machine, tmp_path: Path) -> None:
    """Device seconds by a factor of 2: nearly all of them are spent asleep."""
    slow = {"work": ["sample"], "gpus": 0, "workers": 1, "environment": {"WALK_PAUSE": "0.4"}}
    pools = {**POOLS, "slow": {**POOLS["gpu"], **slow, "partition": "cpu"}}
    file = workflow(tmp_path / "flow", trials=32, pause=0.1, pools=pools)
    told: list[str] = []
    plan = staffa.plan(file, cluster=str(tmp_path / "flow" / "cluster.yaml"), pilot=True, tell=told.append)
    free_again(machine)
    assert not (tmp_path / "flow" / "runs").exists()
    assert told[0] == "measuring 1 of 1 programs"
    by_pool = {cost.pool: cost for cost in plan.costs}
    assert set(by_pool) == {"gpu", "slow"}
    assert by_pool["slow"].segment > 3 * by_pool["gpu"].segment >= 3 * 8 * 0.1
    found = plan.estimate
    assert found["foreign"] == [] and {row["pool"]: row["source"] for row in found["memory"]} == {
        "gpu": "pilot",
        "slow": "pilot",
    }
    assert found["hours"]["workers"] == 5 and found["jobs"]["gpu"]["jobs"] == 4 and found["hours"]["gpu"] > 0
    run = staffa.run(
        file, cluster=str(tmp_path / "flow" / "cluster.yaml"), set=["cluster.pools.slow.workers=0"], progress=False
    )
    batches = [e for e in history(Workspace(run.root)) if e["event"] == "batch_settled"]
    device = sum(e["timings"].get("sample", 0.0) + e["timings"].get("initialize", 0.0) for e in batches)
    alone = staffa.plan(file, cluster=str(tmp_path / "flow" / "cluster.yaml")).estimate
    assert alone["source"].startswith("run ") and alone["foreign"] == ["slow"]
    gpu = by_pool["gpu"]
    assert device / 2 < len(batches) * gpu.device_seconds(4, 1) < device * 2


def test_an_interrupted_pilot_takes_its_jobs_back(machine: Machine, tmp_path: Path) -> None:
    file = workflow(tmp_path / "flow", trials=8, pause=5.0)
    command = [sys.executable, "-m", "staffa", "plan", str(file), "--cluster", str(tmp_path / "flow" / "cluster.yaml")]
    process = subprocess.Popen(
        [*command, "--pilot"], stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=interruptible
    )
    until = time.monotonic() + 240
    while not any((tmp_path / "flow" / "runs").glob(".pilot-*/state/started/*.json")):
        assert process.poll() is None and time.monotonic() < until, "the pilot never began"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not (tmp_path / "flow" / "runs").exists()
    free_again(machine)


def test_no_worker_comes(machine: Machine, tmp_path: Path) -> None:
    """The one node of the partition is down: the pilot gives up after execution.patience."""
    machine.down("gpu0")
    machine.down("gpu1")
    file = workflow(tmp_path / "flow", trials=8, execution={"patience": "5s"})
    command = [sys.executable, "-m", "staffa", "plan", str(file), "--cluster", str(tmp_path / "flow" / "cluster.yaml")]
    done = subprocess.run([*command, "--pilot", "--json"], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 3, done.stderr
    assert "no worker of pool 'gpu' came within 5 s" in json.loads(done.stderr)["error"]
    assert not (tmp_path / "flow" / "runs").exists()
    free_again(machine)
