"""The machine behaves as a cluster does, in all that the tests of SLURM rest on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm.leftovers import PATIENCE, belonging
from slurm.machine import ACCOUNT, MachineError

pytestmark = pytest.mark.slurm


def states(machine, array):
    return sorted(job.state for job in machine.jobs() if job.id.startswith(f"{array}_"))


def test_jobs_have_gpus_of_their_own(machine):
    devices = machine.folder / "devices"
    array = machine.submit(f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >> {devices}; sleep 600", "--array=0-3", "-G1")
    machine.until(lambda: devices.exists() and len(devices.read_text().splitlines()) == 4, f"four tasks of {array}")
    assert sorted(devices.read_text().splitlines()) == ["gpu0 0", "gpu0 1", "gpu1 0", "gpu1 1"]


def test_an_arrays_throttle_holds_and_can_be_moved(machine):
    array = machine.submit("sleep 600", "--array=0-3%1", "--gpus=1")
    machine.wait_state(f"{array}_0", "RUNNING")
    assert {job.reason for job in machine.jobs() if job.state == "PENDING"} == {"JobArrayTaskLimit"}
    machine.run(["scontrol", "update", f"JobId={array}", "ArrayTaskThrottle=3"])
    machine.wait_state(f"{array}_2", "RUNNING")
    assert states(machine, array) == ["PENDING", "RUNNING", "RUNNING", "RUNNING"]


def test_a_job_over_two_nodes_has_a_task_on_each(machine):
    nodes = machine.folder / "nodes"
    job = machine.submit(f"srun sh -c 'echo $SLURMD_NODENAME >> {nodes}'", "--nodes=2", "--gpus-per-node=1")
    machine.wait_state(job, "COMPLETED")
    assert sorted(nodes.read_text().split()) == ["gpu0", "gpu1"]


def test_impossible_requests_are_refused(machine):
    for option, words in {
        "--partition=nowhere": "invalid partition specified: nowhere",
        "--gpus-per-node=3": "Requested node configuration is not available",
        "--time=5:00:00": "Requested time limit is invalid",
    }.items():
        with pytest.raises(MachineError, match=words):
            machine.submit("true", "--test-only", option)


def test_jobs_outlive_the_controller(machine):
    job = machine.submit("sleep 600", "--gpus=1")
    machine.wait_state(job, "RUNNING")
    machine.stop_controller()
    assert machine.run(["scontrol", "ping"], check=False).returncode == 1
    machine.start_controller()
    assert machine.job(job)["JobState"] == "RUNNING"
    machine.stop_controller(hard=True)
    machine.restart_controller()
    assert machine.job(job)["JobState"] == "RUNNING"


def test_a_node_goes_down_and_comes_back(machine):
    job = machine.submit("sleep 600", "--nodelist=gpu0", "--no-requeue")
    machine.wait_state(job, "RUNNING")
    machine.down("gpu0")
    assert machine.wait_state(job, "NODE_FAIL").reason == "NodeDown"
    assert machine.node_states()["gpu0"] == "down"
    other = machine.submit("sleep 600")
    assert machine.wait_state(other, "RUNNING").node == "gpu1"
    machine.resume("gpu0")
    machine.until(lambda: machine.node_states()["gpu0"] == "idle", "gpu0")


def test_a_killed_node_takes_its_jobs_along(machine):
    jobs = [machine.submit("sleep 600", f"--nodelist={node}", "--no-requeue") for node in machine.nodes]
    for job, node in zip(jobs, machine.nodes, strict=True):
        machine.wait_state(job, "RUNNING")
        machine.until(lambda node=node: list(belonging(machine.folder, node)), f"processes on {node}")
    machine.kill_node("gpu0")
    assert not list(belonging(machine.folder, "gpu0"))
    assert list(belonging(machine.folder, "gpu1"))
    machine.down("gpu0")
    machine.wait_state(jobs[0], "NODE_FAIL")
    machine.start_node("gpu0")
    machine.resume("gpu0")
    machine.wait_state(machine.submit("sleep 600", "--nodelist=gpu0"), "RUNNING")
    assert machine.job(jobs[1])["JobState"] == "RUNNING"


def test_a_failing_prolog_drains_the_node_and_holds_the_job(machine):
    machine.set_prolog("gpu0", failing=True)
    job = machine.submit("sleep 600", "--nodelist=gpu0")
    machine.until(lambda: machine.job(job)["Reason"] == "launch_failed_requeued_held", "the held job")
    assert machine.node_states()["gpu0"] in ("draining", "drained")
    assert "gpu0|Prolog error" in machine.run(["sinfo", "-R", "-h", "-o", "%N|%E"]).stdout
    machine.reset()
    machine.wait_state(machine.submit("sleep 600", "--nodelist=gpu0"), "RUNNING")


def test_accounting_knows_what_ran(machine_with_accounting):
    machine = machine_with_accounting
    array = machine.submit("true", "--array=0-1%1", "--gpus=1", f"--account={ACCOUNT}")
    asked = ["sacct", "-X", "-P", "-n", "-j", array, "-o", "JobID,State,AllocTRES"]
    told = f"{array}_0|COMPLETED|billing=1,cpu=1,gres/gpu=1", f"{array}_1|COMPLETED|billing=1,cpu=1,gres/gpu=1"
    machine.until(lambda: all(words in machine.run(asked).stdout for words in told), "sacct")
    with pytest.raises(MachineError, match="Invalid account"):
        machine.submit("true", "--account=nobody")
    machine.stop_accounting()
    assert machine.run(asked, check=False).returncode == 1
    machine.wait_state(machine.submit("sleep 600"), "RUNNING")


def test_nothing_is_left_of_a_machine_whose_process_is_killed(tmp_path):
    words = [sys.executable, "-m", "slurm.machine", "up"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            name, _, value = process.stdout.readline().removeprefix("export ").strip().partition("=")
            folder = Path(value).parents[1]
            subprocess.run(["sbatch", "--wrap", "sleep 600"], env={**os.environ, name: value}, cwd=tmp_path, check=True)
            assert len(list(belonging(folder))) >= 4
        finally:
            process.kill()
    deadline = time.monotonic() + PATIENCE
    while folder.exists() or list(belonging(folder)):
        assert time.monotonic() < deadline, list(belonging(folder))
        time.sleep(0.05)
