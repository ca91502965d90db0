"""Faults of a cluster, real ones: time that runs out, nodes that break, requests that are refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.machine import Machine
from slurm.runs import POOLS, Campaign, Campaigns, same
from staffa.storage.lease import read_lease

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
    subprocess.run([sys.executable, "-m", "staffa", *words], check=True, capture_output=True, timeout=600)
    return folder / campaign.root.name


def gpu(**more: Any) -> dict[str, Any]:
    return {"gpu": {**POOLS["gpu"], **more}}


def test_trials_longer_than_a_job_are_carried_over(machine: Machine, campaigns: Campaigns) -> None:
    """Three minutes each, in jobs of one minute."""
    pools = gpu(partition="short", walltime="1min", workers=2, environment={"WALK_PAUSE": "12"})
    campaign = campaigns(trials=8, batch=4, draws=15, segments=15, pause=0.001, pools=pools)
    driver = campaign.run()
    here = local(campaign)
    driver.ends(0, within=900)
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


def interpreter(folder: Path, broken: str) -> Path:
    """An interpreter that does not start on the nodes that its file `broken` lists."""
    (folder / "broken").write_text(broken)
    wrapper = folder / "python"
    wrapper.write_text(
        "#!/bin/bash\n"
        f'if grep -qw "$SLURMD_NODENAME" {folder}/broken; then\n'
        '    echo "libcudart.so.12: cannot open shared object file" >&2\n'
        "    exit 1\n"
        "fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    return wrapper


def test_a_node_with_a_broken_interpreter_is_left_out(machine: Machine, campaigns: Campaigns, tmp_path: Path) -> None:
    pools = gpu(python=str(interpreter(tmp_path, "gpu1")))
    campaign = campaigns(trials=48, pause=0.25, pools=pools)
    campaign.run().ends(0)
    campaign.whole(48)
    campaign.unspent()
    excluded = campaign.events("node_excluded")
    assert [event["node"] for event in excluded] == ["gpu1"]
    assert "libcudart.so.12" in excluded[0]["words"]
    assert {event["node"] for event in campaign.events("batch_settled")} == {"gpu0"}
    assert not campaign.events("pool_paused")


def test_a_pool_that_cannot_start_pauses_until_it_is_mended(
    machine: Machine, campaigns: Campaigns, tmp_path: Path
) -> None:
    pools = gpu(workers=2, python=str(interpreter(tmp_path, "gpu0 gpu1")))
    campaign = campaigns(trials=16, pools=pools, machine={"failures": 3})
    driver = campaign.run()
    campaign.until(lambda: campaign.pool().get("paused"), "the pool to pause")
    facts = campaign.pool()
    assert "libcudart.so.12: cannot open shared object file" in facts["paused"]
    assert "staffa scale RUN gpu=2" in facts["hint"]
    campaign.until(lambda: not machine.jobs(), "no job to be handed in any more")
    told = campaign.call("explain", campaign.root, "pool", "gpu")
    assert "libcudart.so.12" in str(told)
    (tmp_path / "broken").write_text("")
    campaign.call("scale", campaign.root, "gpu=2")
    driver.ends(0)
    campaign.whole(16)
    campaign.unspent()


def test_a_job_held_after_its_prolog_failed_is_replaced(machine: Machine, campaigns: Campaigns) -> None:
    machine.set_prolog("gpu0", failing=True)
    campaign = campaigns(trials=48, pause=0.25)
    campaign.run().ends(0)
    campaign.whole(48)
    campaign.unspent()
    held = campaign.events("job_held")
    assert held and {event["reason"] for event in held} <= {"launch_failed_requeued_held", "JobHeldAdmin"}
    assert {event["node"] for event in campaign.events("batch_settled")} == {"gpu1"}
    assert not campaign.events("pool_paused")
    assert not machine.jobs(), "no held job is left behind"


def test_with_accounting(machine_with_accounting: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=16, pools=gpu(account="staffa"))
    campaign.run().ends(0)
    campaign.whole(16)
    campaign.unspent()


def test_an_account_that_does_not_exist_is_refused(machine_with_accounting: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=160, pause=0.25)
    cluster = ("--cluster", campaign.folder / "cluster.yaml")
    wrong = ("--set", "cluster.pools.gpu.account=nobody")
    for words in (("plan", campaign.file), ("run", campaign.file, "--allow-dirty")):
        said = campaign.call(*words, *cluster, *wrong, codes=(3,))
        assert "cluster.pools.gpu.account" in said["error"]
        assert "Invalid account or account/partition combination specified" in said["error"]
        assert "sacctmgr show assoc" in said["hint"]
        assert not campaign.root.exists(), "nothing is written"
    driver = campaign.run()
    campaign.until(campaign.settled, "something to be settled")
    campaign.call("stop", campaign.root)
    driver.ends(130)
    settled = campaign.settled()
    campaign.call("resume", campaign.root, *wrong, codes=(3,))
    assert not machine_with_accounting.jobs()
    campaign.resume().ends(0)
    assert 0 < settled < 160
    campaign.whole(160)
    campaign.unspent()


@pytest.mark.parametrize(
    ("wrong", "code", "words", "hint"),
    [
        ("partition=gpus", 3, "partition: sbatch: invalid partition specified: gpus", "did you mean 'gpu'"),
        ("gpus=3 cores=3", 2, "gpus: 3 is more than a node of partition 'gpu' has: 2", "lower it"),
        ("walltime=5h", 2, "walltime: 05:00:00 is more than partition 'gpu' allows: 04:00:00", "lower it"),
        ("memory=1TiB", 2, "memory: 1024GiB is more than a node of partition 'gpu' has: 62.5GiB", "lower it"),
    ],
)
def test_what_no_node_can_give_is_refused(
    machine: Machine, campaigns: Campaigns, wrong: str, code: int, words: str, hint: str
) -> None:
    campaign = campaigns(trials=8)
    options = ["--cluster", campaign.folder / "cluster.yaml"]
    options += [word for text in wrong.split() for word in ("--set", f"cluster.pools.gpu.{text}")]
    for command in (("plan", campaign.file), ("run", campaign.file, "--allow-dirty")):
        said = campaign.call(*command, *options, codes=(code,))
        assert f"cluster.pools.gpu.{words}" in said["error"]
        assert hint in said["hint"]
    assert not campaign.root.exists(), "nothing is written"


def test_where_there_is_no_slurm(campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = campaigns(trials=8)
    options = ("--cluster", campaign.folder / "cluster.yaml")
    monkeypatch.setenv("PATH", "/nowhere")
    said = campaign.call("run", campaign.file, "--allow-dirty", *options, codes=(3,))
    assert "there is no `scontrol` on this machine" in said["error"] and "cluster.kind: local" in said["hint"]
    assert not campaign.root.exists(), "nothing is written"
    campaign.call("plan", campaign.file, *options)


ALLOCATION = "cluster: {kind: allocation, interface: lo, dashboard_port: 0}\n"


@pytest.mark.parametrize("command", ["sbatch", "salloc"])
def test_everything_inside_one_allocation(machine: Machine, campaigns: Campaigns, command: str) -> None:
    campaign = campaigns(trials=96, pause=0.25)
    (campaign.folder / "allocation.yaml").write_text(ALLOCATION)
    words = [sys.executable, "-m", "staffa", "run", str(campaign.file), "--allow-dirty"]
    words += ["--cluster", str(campaign.folder / "allocation.yaml")]
    options = ["--nodes=2", "--gpus-per-node=2", "--mem=8G", "--time=10"]
    if command == "salloc":
        done = machine.run(["salloc", *options, *words], timeout=600)
        assert "finished" in done.stdout
    else:
        job = machine.submit(" ".join(words), *options, f"--output={campaign.folder}/job.txt")
        machine.wait_state(job, "COMPLETED", patience=600)
    campaign.whole(96)
    campaign.unspent()
    who = {event["address"]: (event["node"], event["device"]) for event in campaign.joined()}
    at_work = {who[event["worker"]] for event in campaign.events("batch_settled")}
    assert at_work == {("gpu0", "0"), ("gpu0", "1"), ("gpu1", "0"), ("gpu1", "1")}


def test_a_driver_that_is_killed_is_resumed_in_its_allocation(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=128, pause=0.25)
    (campaign.folder / "allocation.yaml").write_text(ALLOCATION)
    staffa = f"{sys.executable} -m staffa"
    run = f"{staffa} run {campaign.file} --allow-dirty --cluster {campaign.folder}/allocation.yaml"
    options = ("--nodes=2", "--gpus-per-node=2", "--mem=8G", "--time=10", f"--output={campaign.folder}/job.txt")
    job = machine.submit(f"{run}\n{staffa} resume {campaign.root}", *options)
    campaign.until(lambda: len(campaign.present()) == 4 and campaign.settled() >= 8, "four workers at work")
    holder = read_lease(campaign.workspace.lease)
    assert holder is not None and holder.job == job
    os.kill(holder.pid, signal.SIGKILL)
    machine.wait_state(job, "COMPLETED", patience=600)
    campaign.whole(128)
    campaign.unspent()
    second = campaign.events("run_started")[1]
    joined = [event for event in campaign.joined() if event["at"] > second["at"]]
    assert sorted((event["node"], event["device"]) for event in joined) == [
        (node, device) for node in ("gpu0", "gpu1") for device in "01"
    ], "one worker on each GPU, and no more"


def test_an_environment_is_staged_and_cleared_away(machine: Machine, campaigns: Campaigns, tmp_path: Path) -> None:
    made, disk, notes = tmp_path / "made", tmp_path / "disk", tmp_path / "notes"
    notes.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--copies", made], check=True)
    (site,) = made.glob("lib/python*/site-packages")
    (site / "real.pth").write_text("\n".join(path for path in sys.path if path.endswith(("site-packages", "src"))))
    subprocess.run(["tar", "-C", made, "-czf", tmp_path / "made.tar.gz", "."], check=True)
    shutil.rmtree(made)
    stage = {"from": str(tmp_path / "made.tar.gz"), "to": f"{disk}/$SLURMD_NODENAME/staffa"}
    pools = gpu(stage=stage, environment={"WALK_NOTES": str(notes)})
    campaign = campaigns(trials=48, pause=0.25, pools=pools)
    campaign.run().ends(0)
    campaign.whole(48)
    campaign.unspent()
    prefixes = {note.read_text() for note in notes.iterdir()}
    assert len(list(notes.iterdir())) == 4
    jobs = {event["job"] for event in campaign.joined()}
    assert len(prefixes) == len(jobs) == 4, "a folder for each job"
    assert {Path(prefix).parent for prefix in prefixes} == {disk / "gpu0", disk / "gpu1"}
    machine.wait_idle()
    assert not [*disk.glob("*/*")], "nothing is left on the nodes' disks"


def test_a_node_vanishes(machine: Machine, campaigns: Campaigns) -> None:
    campaign = campaigns(trials=160, pause=0.25)
    driver = campaign.run()
    campaign.until(lambda: len(campaign.present()) == 4 and campaign.settled() >= 8, "four workers at work")
    machine.kill_node("gpu1")
    driver.ends(0)
    campaign.whole(160)
    assert not [event for event in campaign.events("batch_lost") if event["charged"]]
    assert not campaign.events("retry_planned", "quarantined", "node_excluded", "pool_paused")
    lost = {event["node"] for event in campaign.events("batch_lost")}
    assert lost == {"gpu1"}
    left = [event for event in campaign.events("worker_left") if event["node"] == "gpu1"]
    assert {event["reason"].partition(" or job")[0] for event in left} == {"its node gpu1"}
