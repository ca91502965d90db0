"""`staffa cluster reap` on a real SLURM: jobs nobody drives are found by campaign and cancelled, no others."""

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from staffa.campaign.machine import ClusterConfig, driver_shape, shapes
from staffa.execution.slurm.commands import Slurm, SlurmError, run_command
from staffa.execution.slurm.reap import Listed, holdings, reap
from staffa.execution.slurm.script import Launch, driver_script, job_name, job_script
from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace
from staffa.views.checks import reap_sheet
from staffa.views.sheet import plain

MACHINE = ClusterConfig.model_validate(
    {
        "kind": "slurm",
        "driver": {"cores": 1, "memory": "100MiB", "partition": "cpu"},
        # Workers that find no driver wait; these wait without a worker.
        "defaults": {"cores": 1, "memory": "100MiB", "prologue": ["exec sleep 600"]},
        "pools": {"gpu": {"workers": 2, "partition": "cpu"}, "cpu-2": {"workers": 1, "partition": "cpu"}},
    }
)


class Runs:
    """Campaigns' folders, and jobs as their drivers would hand them in."""

    def __init__(self, folder):
        self.folder = folder
        self.slurm = Slurm()

    def campaign(self, name, *pools, title=None):
        workspace = Workspace.create(self.folder / name)
        launch = Launch(workspace.root, title or name, sys.executable)
        ids = []
        for pool in pools:
            shape = shapes(MACHINE)[pool]
            ids.append(str(self.slurm.submit(job_script(shape, launch), shape.workers)))
        return workspace, ids

    def driver(self, workspace):
        launch = Launch(workspace.root, workspace.root.name, sys.executable)
        script = driver_script(driver_shape(MACHINE), launch, ("-c", "import time; time.sleep(600)"))
        return str(self.slurm.submit(script, 0))

    def begun(self, machine, workspace, ids):
        """Wait until the jobs have their logs open: without its folder a job does not even begin."""
        machine.until(lambda: all(list(workspace.logs.glob(f"*-{id}_0.log")) for id in ids), "the logs")


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs of 100 %")


@pytest.mark.slurm
def test_only_orphans_go(machine, runs):
    alone, alone_jobs = runs.campaign("v1.0_alone", "gpu", "cpu-2")
    driven, driven_jobs = runs.campaign("v1.0_driven", "gpu")
    detached, detached_jobs = runs.campaign("v1.0_detached", "cpu-2")
    detached_jobs.append(runs.driver(detached))
    gone, gone_jobs = runs.campaign("v1.0_gone", "cpu-2")
    elsewhere, elsewhere_jobs = runs.campaign("v1.0_elsewhere", "cpu-2")
    silent, silent_jobs = runs.campaign("v1.0_silent", "cpu-2")
    # Names like ours, and none of ours: another log, another folder's log, no such name at all.
    spared = [
        machine.submit("sleep 600", "--job-name=staffa-v1.0_alone-gpu-0a1b2c", "--mem=10"),
        machine.submit("sleep 600", f"--job-name={job_name(Launch(driven.root, 'x', ''), 'gpu')}",
                       f"--output={alone.root}/logs/gpu-%j.log".replace("100 %", "100 %%"), "--mem=10"),
        machine.submit("sleep 600", f"--output={alone.root}/logs/gpu-%j.log".replace("100 %", "100 %%"), "--mem=10"),
    ]  # fmt: skip
    Lease.acquire(elsewhere.lease, host="login7")  # a driver on another machine, heard of just now
    Lease.acquire(silent.lease, host="login7", clock=lambda: time.time() - 300)
    runs.begun(machine, gone, gone_jobs)
    shutil.rmtree(gone.root)
    with Lease.acquire(driven.lease):
        looked = by_name(reap(dry_run=True))
        orphans = {name for name, found in looked.items() if found["orphan"]}
        assert orphans == {"v1.0_alone", "v1.0_gone", "v1.0_silent"}
        everyone = {*alone_jobs, *driven_jobs, *detached_jobs, *gone_jobs, *elsewhere_jobs, *silent_jobs, *spared}
        assert living(machine) == everyone  # nothing was done
        assert looked["v1.0_alone"]["why"] == "it has no driver"
        assert set(looked["v1.0_alone"]["pools"]) == {"gpu", "cpu-2"}
        assert sum(looked["v1.0_alone"]["pools"]["gpu"].values()) == 2
        assert looked["v1.0_gone"]["why"] == "its folder is gone"
        assert looked["v1.0_silent"]["why"].startswith("its driver died: host login7")
        assert looked["v1.0_driven"]["why"].startswith("its driver is alive: host")
        assert looked["v1.0_elsewhere"]["why"].startswith("its driver is alive: host login7")
        assert looked["v1.0_detached"]["why"].startswith(f"its driver is job {detached_jobs[-1]}")

        named = reap(driven.root)
        assert [found["cancelled"] for found in named["campaigns"]] == [False]
        named = reap(silent.root)
        assert [found["title"] for found in named["campaigns"]] == ["v1.0_silent"]

        facts = reap()
        assert {name for name, found in by_name(facts).items() if found["cancelled"]} == {"v1.0_alone", "v1.0_gone"}
        assert len(facts["foreign"]) == 2
    kept = {*driven_jobs, *detached_jobs, *elsewhere_jobs, *spared}
    machine.until(lambda: living(machine) == kept, f"the jobs {kept}")
    assert not alone.lease.exists()
    lines = list(plain(reap_sheet(facts)))
    assert any(line.startswith("cancelled") and str(alone.root) in line for line in lines)
    assert json.loads(json.dumps(facts)) == facts

    # The driver is gone: now this one is an orphan, too.
    assert by_name(reap(driven.root))["v1.0_driven"]["cancelled"]
    machine.until(lambda: living(machine) == kept - {*driven_jobs}, "the end of its jobs")


@pytest.mark.slurm
def test_a_driver_that_ran_in_a_job_that_is_over(machine, runs):
    """Its last sign of life is young, but SLURM knows better."""
    workspace, _ = runs.campaign("v1.0_cut", "cpu-2")
    lease = Lease.acquire(workspace.lease, host="gpu7")
    lease.holder = dataclasses.replace(lease.holder, job="4000000")
    lease.beat()
    assert by_name(reap())["v1.0_cut"]["cancelled"]
    machine.until(lambda: not living(machine), "the end of its jobs")


@pytest.mark.slurm
def test_a_storage_that_is_not_mounted_here(machine, runs):
    """Gone, or somewhere else? Only whoever names the campaign decides."""
    workspace, ids = runs.campaign("v1.0_far", "cpu-2")
    runs.begun(machine, workspace, ids)
    shutil.rmtree(runs.folder)
    found = by_name(reap())["v1.0_far"]
    assert not found["orphan"] and "is not to be seen from here" in found["why"]
    assert living(machine) == set(ids)
    assert by_name(reap(workspace.root))["v1.0_far"]["cancelled"]
    machine.until(lambda: not living(machine), "the end of its jobs")


@pytest.mark.slurm
def test_nobody_answers(machine, runs):
    machine.stop_controller()
    with pytest.raises(SlurmError, match="squeue"):
        reap(dry_run=True)


@pytest.mark.slurm
def test_one_question_for_all(machine, runs):
    for name in ("v1.0_one", "v1.0_two"):
        runs.campaign(name, "gpu")
    asked = []

    def call(argv, stdin):
        asked.append(argv[0])
        return run_command(argv, stdin)

    reap(call=call)
    assert asked == ["squeue", "scancel", "scancel"]


def test_logs_as_other_releases_tell_them():
    """SLURM 22.05 answers with the pattern, newer ones with the path it stands for."""
    root = Path("/scratch/100% of it/runs/v1.0_a-b")
    name = job_name(Launch(root, "v1.0_a-b", ""), "gpu-big")
    for output in (f"{root}/logs/gpu-big-%A_%a.log".replace("100%", "100%%"), f"{root}/logs/gpu-big-12_3.log"):
        found, foreign = holdings([Listed("12_3", "15", "RUNNING", name, output)])
        assert [(one.root, one.title, set(one.jobs)) for one in found] == [(root, "v1.0_a-b", {"gpu-big"})]
        assert not foreign
    for output in ("", "/dev/null", f"{root}/gpu-big-12_3.log", f"{root}x/logs/gpu-big-12_3.log",
                   f"{root}/logs/gpu-12_3.log"):  # fmt: skip
        assert holdings([Listed("12_3", "15", "RUNNING", name, output)]) == ([], [name])


def by_name(facts):
    return {found["title"]: found for found in facts["campaigns"]}


def living(machine):
    """Ids of jobs that run or wait; arrays by their number."""
    return {job.id.partition("_")[0] for job in machine.jobs() if job.state in ("RUNNING", "PENDING")}
