"""The command line's words about clusters, where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import staffa
from staffa.campaign.config import dump, load, load_frozen
from staffa.cli import main

MODEL = """
import jax, staffa

class Walk(staffa.Experiment):
    def initialize(self, key, params):
        return jax.numpy.zeros(2)
    def step(self, key, state, params):
        return state + params["scale"] * jax.random.normal(key, (2,)), {"x": state}
"""
CAMPAIGN = """
campaign: {name: walk}
experiment: {use: "model.py:Walk"}
space: [{linspace: {scale: [0.1, 1.0, 8]}}]
sampling: {draws: 2}
"""
CLUSTER = """
cluster:
  kind: slurm
  pools:
    gpu: {workers: 3, gpus: 1, partition: "big gpus", walltime: 90min}
    cpu: {work: [reduce], workers: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "slurm.yaml").write_text(CLUSTER)
    (tmp_path / "local.yaml").write_text("cluster: {kind: local, workers: 1, dashboard_port: 0}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_job_scripts_are_printed_for_every_pool_and_the_driver(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["cluster", "script", "campaign.yaml", "--cluster", "slurm.yaml", "--json"]) == 0
    scripts = json.loads(capsys.readouterr().out)
    assert list(scripts) == ["gpu", "cpu", "driver"]
    assert "#SBATCH --partition='big gpus'" in scripts["gpu"] and "#SBATCH -t 01:30:00" in scripts["gpu"]
    assert "staffa.execution.slurm.node" in scripts["gpu"] and "--gpus 1" in scripts["gpu"]
    assert "export JAX_ENABLE_X64=0" in scripts["gpu"], "JAX is told before the process starts"
    assert "-m staffa drive" in scripts["driver"]
    assert not any("PRIVATE KEY" in text for text in scripts.values())
    assert main(["cluster", "script", "campaign.yaml", "--cluster", "slurm.yaml"]) == 0
    assert capsys.readouterr().out.count("#!/bin/bash") == 3
    assert main(["cluster", "script", "campaign.yaml"]) == 2
    assert "cluster.kind: local hands in no jobs" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_a_plan_away_from_the_cluster_says_what_it_could_not_check(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["plan", "campaign.yaml", "--cluster", "slurm.yaml"]) == 0
    said = capsys.readouterr().out
    assert "3 workers in 3 jobs of 1 node with 1 GPU, 01:30:00" in said
    assert "limits not checked: there is no sbatch on this machine" in said
    assert main(["run", "campaign.yaml", "--cluster", "slurm.yaml", "--allow-dirty"]) == 3
    assert "there is no `scontrol` on this machine" in capsys.readouterr().err
    assert not (folder / "runs").exists(), "nothing was written"
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    machine = "cluster: {kind: allocation}\n"
    (folder / "inside.yaml").write_text(machine)
    assert main(["run", "campaign.yaml", "--cluster", "inside.yaml", "--allow-dirty"]) == 3
    assert "SLURM_JOB_ID is not set" in capsys.readouterr().err


def test_a_finished_run_has_usage_pools_and_nothing_to_scale(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "campaign.yaml", "--cluster", "local.yaml", "--allow-dirty", "--json"]) == 0
    capsys.readouterr()
    run = "runs/v1.0_walk"
    assert main(["usage", run, "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]["worker_hours"]
    parts = sum(total[name] for name in ("useful", "compiling", "waiting", "lost", "in_flight"))
    assert total["held"] > 0 and abs(total["held"] - parts) < 5e-6  # each is rounded by itself
    assert main(["usage", run]) == 0 and "node-hours" in capsys.readouterr().out
    assert main(["explain", run, "pool", "gpu"]) == 2
    assert "gpu" in capsys.readouterr().err
    assert main(["scale", run, "gpu=4"]) == 3
    assert "no driver" in capsys.readouterr().err
    assert main(["scale", run, "gpu"]) == 2
    assert "POOL=WORKERS" in capsys.readouterr().err
    assert main(["stop", run]) == 0 and "no driver is running" in capsys.readouterr().out
    assert main(["attach", run]) == 0


def test_a_campaign_moves_to_another_kind_of_machine(folder: Path) -> None:
    declared = load(folder / "campaign.yaml", cluster=folder / "slurm.yaml")
    frozen = folder / "frozen.yaml"
    frozen.write_text(dump(declared))
    assert load_frozen(frozen).campaign.cluster == declared.campaign.cluster
    moved = load_frozen(frozen, cluster=folder / "local.yaml").campaign.cluster
    assert moved.kind == "local" and moved.workers == 1 and not moved.pools
    assert load_frozen(frozen, cluster="local").campaign.cluster.kind == "local"
    again = load_frozen(frozen, cluster=folder / "slurm.yaml", overrides=["cluster.pools.gpu.workers=9"])
    assert again.campaign.cluster.pools["gpu"].workers == 9


def test_detach_needs_a_machine_of_its_own(folder: Path) -> None:
    with pytest.raises(staffa.ConfigError, match="detach: a live client"):
        staffa.run(folder / "campaign.yaml", client=object(), detach=True, allow_dirty=True)
