"""`staffa doctor --cluster` on a real SLURM: what is well is found well, what is broken is named."""

import os
import signal
import subprocess
import sys
import time

import pytest

from signals import interruptible
from staffa import doctor
from staffa.campaign.machine import ClusterConfig
from staffa.execution.slurm.reap import reap
from staffa.experiment.environment import worker_environment

pytestmark = pytest.mark.slurm

COMMON = {"cores": 1, "memory": "1GiB"}
ENVIRONMENT = worker_environment(False, "threefry2x32")
DRIVER = {"cores": 1, "memory": "1GiB", "partition": "cpu"}


def test_healthy_pools(machine, tmp_path):
    told = []
    container = executable(tmp_path / "container", f'touch {tmp_path}/contained; exec "$@"')
    staged = executable(
        tmp_path / "environment" / "bin" / "python", f'touch {tmp_path}/staged; exec {sys.executable} "$@"'
    )
    gpu = {
        "gpus": 1,
        "prologue": [f"touch {tmp_path}/prologue"],
        "container": str(container),
        "stage": {"from": str(staged.parents[1]), "to": f"{tmp_path}/node disk"},
    }
    checks = examined(config(gpu=gpu, cpu={"nodes": 2}), tmp_path / "runs", told)
    assert all((tmp_path / name).exists() for name in ("prologue", "contained", "staged"))
    failed = [(check.where, check.what) for check in checks.values() if check.result == "failed"]
    # These nodes have GPUs as far as SLURM goes, and no further.
    (gpu,) = {where for where, what in checks if what == "devices" and where.startswith("pool gpu on")}
    assert failed == [(gpu, "devices")]
    words = checks[gpu, "devices"].found
    assert "SLURM gave CUDA_VISIBLE_DEVICES=" in words and "but JAX sees no GPU, only cpu" in words
    assert "jax[cuda12]" in checks[gpu, "devices"].mend

    for node in machine.nodes:  # the second pool's job has both
        where = f"pool cpu on {node}"
        seen = {what: check for (place, what), check in checks.items() if place == where}
        assert set(seen) == {"packages", "devices", "node to driver", "driver to node", "workspace", "clock",
                             "temporary folder", "compile cache"}  # fmt: skip
        assert "packages as at the driver" in seen["packages"].found
        assert seen["node to driver"].found.startswith("tls://127.0.0.1:")
        assert seen["driver to node"].found.startswith("tls://127.0.0.1:")
        assert "none of them half done" in seen["workspace"].found
    assert checks["the cluster", "limits"].found.startswith("arrays of up to 500 (MaxArraySize 1,001)")
    assert any("probe job" in line and "runs on" in line for line in told)
    assert nothing_left(machine, tmp_path / "runs")


def test_broken_pools(machine, tmp_path):
    """Each pool has its own ailment; one does not hide the other."""
    late = tmp_path / "late"
    (late / "zarr-0.0.1.dist-info").mkdir(parents=True)
    (late / "zarr-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: zarr\nVersion: 0.0.1\n")
    (late / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 7\n")
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    pools = {
        "late": {"environment": {"PYTHONPATH": str(late), "JAX_COMPILATION_CACHE_DIR": str(loose)}},
        "broken": {"python": "/nowhere/python"},
        "island": {"container": "unshare --net", "environment": {"TMPDIR": "/proc"}},
        "huge": {"gpus": 8, "cores": 8},
        "long": {"partition": "short"},
        "away": {"interface": "hsn9"},
        "lost": {"partition": "gpux"},
    }
    checks = examined(config(**pools), tmp_path / "runs")
    late_node, island = (f"pool {pool} on {node_of(checks, pool)}" for pool in ("late", "island"))

    packages = checks[late_node, "packages"]
    assert packages.result == "failed" and "zarr 0.0.1 here" in packages.found
    assert packages.mend.startswith(sys.executable) and "-m pip install zarr==" in packages.mend
    clock = checks[late_node, "clock"]
    assert clock.result == "warning" and clock.found.startswith("7.0 s ahead of this machine's")
    cache = checks[late_node, "compile cache"]
    assert cache.result == "failed" and cache.mend == f"chmod 700 {loose}"
    assert checks[late_node, "node to driver"].result == "ok"

    broken = checks["pool broken", "probe job"]
    assert broken.result == "failed" and "/nowhere/python: No such file" in broken.found
    assert "cluster.pools.broken: python" in broken.mend

    assert "Network is unreachable" in checks[island, "node to driver"].found
    assert checks[island, "driver to node"].result == "failed"
    assert "cluster.pools.island.interface" in checks[island, "driver to node"].mend
    assert checks[island, "workspace"].result == "ok"

    away = f"pool away on {node_of(checks, 'away')}"
    assert "hsn9" in checks[away, "driver to node"].found and checks[away, "node to driver"].result == "ok"

    assert "cluster.pools.huge.gpus: 8" in checks["pool huge", "request"].found
    assert "cluster.pools.long.walltime" in checks["pool long", "request"].found
    assert (
        "cluster.pools.lost.partition: sbatch: invalid partition specified: gpux"
        in checks["pool lost", "request"].found
    )
    assert "did you mean 'gpu'" in checks["pool lost", "request"].mend
    assert ("pool huge", "probe job") not in checks
    assert nothing_left(machine, tmp_path / "runs")


def test_a_queue_that_is_full(machine, tmp_path):
    for node in machine.nodes:
        machine.drain(node)
    told = []
    checks = examined(config(cpu={}), tmp_path / "runs", told, patience=3)
    probe = checks["pool cpu", "probe job"]
    assert probe.result == "warning" and "still waits in the queue (PENDING" in probe.found
    assert any("waits in the queue" in line for line in told)
    assert nothing_left(machine, tmp_path / "runs")


def test_refused_by_sbatch(machine, tmp_path):
    checks = examined(config(cpu={"account": "nobody", "constraint": "quantum"}), tmp_path / "runs")
    request = checks["pool cpu", "request"]
    assert request.result == "failed" and "feature" in request.found.lower() and "constraint" in request.mend
    assert checks["the cluster", "probe jobs"].found.startswith("none handed in")


def test_the_controller_is_down(machine, tmp_path):
    machine.stop_controller()
    checks = examined(config(cpu={}), tmp_path / "runs")
    slurm = checks["the cluster", "SLURM"]
    assert slurm.result == "failed" and "slurm" in slurm.found.lower() and slurm.mend == "scontrol ping"
    assert list(checks)[-1] == ("the cluster", "SLURM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(machine, tmp_path, number):
    """Ctrl-C while the job waits: it is cancelled, and no file remains."""
    process = waiting_doctor(machine, tmp_path / "runs")
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0 and b"KeyboardInterrupt" in err
    assert nothing_left(machine, tmp_path / "runs")


def test_killed(machine, tmp_path):
    """What a doctor could not clear away itself is found by `reap`, and cleared by the next."""
    process = waiting_doctor(machine, tmp_path / "runs")
    process.kill()
    process.wait()
    (found,) = reap(dry_run=True)["campaigns"]
    assert (found["title"], found["orphan"], list(found["pools"])) == ("doctor", True, ["cpu"])
    (left,) = (tmp_path / "runs").iterdir()
    assert str(left) == found["root"]
    examined(config(cpu={}), tmp_path / "runs", patience=1)
    assert not left.exists()
    assert [one["cancelled"] for one in reap()["campaigns"]] == [True]
    machine.wait_idle()


def waiting_doctor(machine, storage):
    """A doctor in a process of its own, whose probe job waits for a node."""
    for node in machine.nodes:
        machine.drain(node)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from staffa import doctor\n"
        "from staffa.campaign.machine import ClusterConfig\n"
        f"machine = ClusterConfig.model_validate({config(cpu={})!r})\n"
        "list(doctor.the_cluster(machine, Path(sys.argv[1]), {}, patience=300, tell=print))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(storage)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=machine.environment,
        preexec_fn=interruptible,
    )
    machine.until(lambda: any(job.name.startswith("staffa-doctor-cpu-") for job in machine.jobs()), "the probe job")
    time.sleep(0.5)
    return process


def config(**pools):
    return {
        "kind": "slurm",
        "interface": "lo",
        "driver": DRIVER,
        "defaults": COMMON,
        "pools": {name: {"workers": 1, **pool} for name, pool in pools.items()},
    }


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def examined(said, storage, told=None, patience=60.0):
    """All that the doctor says of the cluster, by place and thing."""
    tell = (told if told is not None else []).append
    checks = list(
        doctor.the_cluster(ClusterConfig.model_validate(said), storage, ENVIRONMENT, patience=patience, tell=tell)
    )
    found = {(check.where, check.what): check for check in checks}
    assert len(found) == len(checks)
    return found


def node_of(checks, pool):
    (where,) = {where for where, _ in checks if where.startswith(f"pool {pool} on ")}
    return where.rpartition(" ")[2]


def nothing_left(machine, storage):
    machine.wait_idle()
    return not os.path.lexists(storage)
