"""Job scripts on a real SLURM: it takes those of every shipped config, and reads in them what we mean."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.machine import Machine
from staffa.campaign import config
from staffa.campaign.machine import JobShape, Stage, allocation_shape, driver_shape, shapes
from staffa.execution.slurm.script import Launch, allocation_script, driver_script, job_script

pytestmark = pytest.mark.slurm

CONFIGS = Path(__file__).parents[2] / "cluster_configs"

HERE_INSTEAD = {
    "slurm-one-machine": [],
    "slurm-gpu": ["cluster.driver.partition=cpu"],
    "perlmutter": [
        "cluster.defaults.directives={account: null, qos: null, constraint: null}",
        "cluster.driver.directives={qos: null, constraint: null}",
        "cluster.driver.partition=cpu",
        "cluster.pools.gpu.directives={account: null, qos: null, constraint: null, mem: null, gpus-per-node: 2}",
        "cluster.pools.gpu.walltime=4h",
        "cluster.pools.gpu.gpus=2",
        "cluster.pools.gpu.cores=16",
        "cluster.pools.cpu.directives={qos: null, constraint: null}",
    ],
}
"""What the test cluster has under other names, or less of, than the site a config is for."""

PROGRAM = """#!/bin/bash
exec >> "$STAFFA_TOLD.$SLURM_ARRAY_TASK_ID.$SLURMD_NODENAME.$SLURM_LOCALID" 2>&1
echo "$0"
printf '%s\\n' "$@"
echo "devices $CUDA_VISIBLE_DEVICES"
"""


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A workspace and an interpreter that are hard to quote; the interpreter writes down how it was called."""
    folder = tmp_path / 'it\'s 100% "a" $folder #1'
    (folder / "logs").mkdir(parents=True)
    (folder / "env" / "bin").mkdir(parents=True)
    python = folder / "env" / "bin" / "python"
    python.write_text(PROGRAM)
    python.chmod(0o755)
    return Launch(folder, "v1.0_x", str(python), {"STAFFA_TOLD": str(folder / "told")}, 60.0)


@pytest.fixture
def told(machine: Machine, launch: Launch) -> Callable[..., dict[str, list[str]]]:
    """Submits a script, waits for its end, and gives what each process was told, by `task.node.process`."""

    def _told(script: str, *options: str, tasks: int = 1) -> dict[str, list[str]]:
        array = machine.submit(script, f"--array=0-{tasks - 1}", *options)
        for task in range(tasks):
            ended = machine.wait_state(f"{array}_{task}", "COMPLETED", "FAILED")
            log = launch.root / "logs" / f"gpu-{array}_{task}.log"
            assert ended.state == "COMPLETED", log.read_text()
        return {path.name.removeprefix("told."): path.read_text().splitlines() for path in launch.root.glob("told.*")}

    return _told


SHAPE = JobShape(
    pool="gpu",
    work=("sample",),
    workers=4,
    nodes=1,
    gpus=1,
    workers_per_gpu=1,
    workers_per_node=1,
    cores=1,
    memory=1024**3,
    walltime=600.0,
)


@pytest.mark.parametrize("name", HERE_INSTEAD)
def test_slurm_takes_the_scripts_of_every_shipped_config(machine: Machine, launch: Launch, tmp_path: Path, name: str):
    path = tmp_path / "campaign.yaml"
    path.write_text("campaign: {name: x}\nexperiment: {use: model.py:X}\n")
    said = config.load(path, cluster=CONFIGS / f"{name}.yaml", environ={}, overrides=HERE_INSTEAD[name])
    cluster = said.campaign.cluster
    scripts = {pool: job_script(shape, launch) for pool, shape in shapes(cluster).items()}
    assert scripts.keys() == {"gpu", "cpu"}
    for script in scripts.values():
        machine.submit(script, "--test-only", "--array=0-3%2")
    machine.submit(
        driver_script(driver_shape(cluster), launch, ("-m", "staffa", "resume", str(launch.root))), "--test-only"
    )


def test_every_shipped_config_for_slurm_is_tried_here():
    files = {path.stem: path.read_text() for path in CONFIGS.glob("*.yaml")}
    assert HERE_INSTEAD.keys() == {name for name, text in files.items() if "kind: slurm" in text}


VALUES = [
    "a b",
    "it's",
    'say "no"',
    "a\\",
    "\\\\b\\'",
    "# no comment",
    "$HOME `id` $(id)",
    "a;b|c&d",
    "%A",
    "ü",
    "=",
    "'",
    "",
]


@pytest.mark.parametrize("value", VALUES)
def test_slurm_reads_a_directive_as_it_was_said(machine: Machine, launch: Launch, value: str):
    script = job_script(dataclasses.replace(SHAPE, directives={"comment": value, "begin": "now+1hour"}), launch)
    job = machine.submit(script)
    shown = machine.run(["squeue", "-h", "-j", job, "-O", "Comment:100,Name:100"]).stdout
    name = re.search(r"staffa-v1\.0_x-gpu-\w{6}", shown)
    assert name and shown[: name.start()].rstrip() == value.rstrip()


def test_a_worker_is_told_what_it_needs_and_the_log_stands_where_it_should(machine, launch, told):
    found = told(job_script(SHAPE, launch), tasks=2)
    assert sorted(name.split(".")[0] for name in found) == ["0", "1"]
    for name, lines in found.items():
        words = lines[1:-1]
        assert lines[0] == launch.python
        assert words[:3] == ["-m", "staffa.execution.slurm.node", str(launch.root)]
        assert re.fullmatch(r"\d+-" + name.split(".")[0], words[words.index("--name") + 1])
        assert re.fullmatch(r"devices [01]", lines[-1])
    logs = sorted(path.name for path in (launch.root / "logs").iterdir())
    assert [re.sub(r"\d+_", "N_", name) for name in logs] == ["gpu-N_0.log", "gpu-N_1.log"]


def _packed(launch: Launch, folder: Path) -> str:
    archive = folder / "the env.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(launch.root / "env", ".")
    return str(archive)


@pytest.mark.parametrize("staged", [False, True])
def test_a_job_over_two_nodes_runs_once_on_each(machine: Machine, launch: Launch, told, tmp_path: Path, staged: bool):
    # Both nodes are one host here and share its disk, so that the stage is brought there by two at a time.
    stage = Stage(_packed(launch, tmp_path), str(tmp_path / "disk" / "env")) if staged else None
    shape = dataclasses.replace(SHAPE, nodes=2, gpus=2, workers_per_node=2, cores=4, stage=stage)
    found = told(job_script(shape, launch))
    assert sorted(found) == ["0.gpu0.0", "0.gpu1.0"]
    assert [lines[-1] for lines in found.values()] == ["devices 0,1"] * 2
    pythons = {lines[0] for lines in found.values()}
    if staged:
        assert len(pythons) == 1 and re.fullmatch(rf"{tmp_path}/disk/env-\d+/bin/python", pythons.pop())
        assert list((tmp_path / "disk").iterdir()) == []
    else:
        assert pythons == {launch.python}


def test_inside_an_allocation_every_node_gets_its_workers(machine: Machine, launch: Launch, tmp_path: Path):
    mapping = {"campaign": {"name": "x"}, "experiment": {"use": "x"}, "cluster": {"kind": "allocation"}}
    cluster = config.from_mapping(mapping, directory=".").campaign.cluster
    shape = allocation_shape(cluster, nodes=2, gpus=2, cores=4, memory=1024**3)
    script = tmp_path / "inside.sh"
    script.write_text(allocation_script(shape, launch))
    # The driver's own step is there already and holds everything: the workers' is laid over it.
    driver = f"srun --nodes=1 --ntasks=1 --overlap sleep 600 & bash {script}; kill %1"
    job = machine.submit(driver, "--nodes=2", "--gpus-per-node=2", "--cpus-per-task=4", "--ntasks-per-node=1")
    machine.wait_state(job, "COMPLETED", "FAILED")
    found = {path.name: path.read_text().splitlines() for path in launch.root.glob("told.*")}
    assert sorted(found) == ["told..gpu0.0", "told..gpu1.0"]
    for lines in found.values():
        assert lines[lines.index("--name") + 1] == f"{job}-0"
        assert lines[lines.index("--workers") + 1] == "2"
        assert lines[-1] == "devices 0,1"


def test_the_driver_job_runs_its_command(machine: Machine, launch: Launch, tmp_path: Path):
    mapping = {"campaign": {"name": "x"}, "experiment": {"use": "x"}, "cluster": {"kind": "allocation"}}
    shape = driver_shape(config.from_mapping(mapping, directory=".").campaign.cluster)
    shape = dataclasses.replace(shape, walltime=600.0, environment={"STAFFA_TOLD": str(launch.root / "told")})
    job = machine.submit(driver_script(shape, launch, ("-m", "staffa", "it's")))
    machine.wait_state(job, "COMPLETED")
    (path,) = launch.root.glob("told.*")
    assert path.read_text().splitlines() == [launch.python, "-m", "staffa", "it's", "devices "]
    assert (launch.root / "logs" / f"driver-{job}.log").exists()
