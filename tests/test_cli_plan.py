"""Words of the command line about what a campaign takes: plan, --pilot, --past, --budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from staffa.cli import main

MODEL = """
import jax, jax.numpy as jnp
import staffa

class Walk(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.zeros(2)
    def step(self, key, state, params):
        state = state + params["scale"] * jax.random.normal(key, (2,))
        return state, {"x": state}
"""

CAMPAIGN = """\
campaign: {name: walk}
experiment: {use: "model.py:Walk"}
space: [{linspace: {scale: [0.1, 1.0, 64]}}]
sampling: {draws: 4}
execution:
  batch: 16
  budget: {gpu_hours: 1}
  workers: 1
cluster: {dashboard: false}
"""

SLURM = """\
cluster:
  kind: slurm
  pools:
    gpu: {work: [sample], workers: 6, gpus: 2, walltime: 30min}
    cpu: {work: [reduce], workers: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "slurm.yaml").write_text(SLURM)
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The exit code of a command, what it wrote and what it complained."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        seen = capsys.readouterr()
        assert "Traceback" not in seen.err
        return code, seen.out, seen.err

    return call


def told(out: str) -> dict[str, str]:
    """The sheet's lines by name."""
    return {line[:20].strip(): line[20:] for line in out.splitlines()}


def test_a_plan_from_shapes_says_so(folder, said):
    code, out, err = said("plan", "campaign.yaml")
    assert (code, err) == (0, "")
    for words in ("hot ", "archived ", "memory "):
        line = next(line for line in out.splitlines() if line.startswith(words))
        assert line.endswith("(an estimate, from shapes alone)"), line
    assert "not known without a pilot (--pilot) or an earlier run (--past RUN): hours, compressed bytes" in out
    assert "warning: campaign.yaml:7: execution.budget.gpu_hours: 1 can never be reached" in out
    found = json.loads(said("plan", "campaign.yaml", "--json")[1])["estimate"]
    assert found["source"] == "shapes" and found["hours"] is None and found["measured"] is False
    assert found["bytes"]["hot"] == {"bytes": 64 * 4 * 2 * 4, "source": "shapes"}
    assert found["warnings"][0]["where"] == "campaign.yaml:7"
    assert found["files"]["inodes"] > 0 and found["room"]["bytes"] > 0
    assert not (folder / "runs").exists()


def test_pilot_run_and_the_next_plan(folder, said):
    words = ["--budget", "hours=0.0000001", "--set", "execution.budget.gpu_hours=null"]
    code, out, err = said("plan", "campaign.yaml", "--pilot", *words)
    assert code == 0 and err == "staffa: measuring 1 of 1 programs\n" and not (folder / "runs").exists()
    assert "(by a pilot)" in out and "archived" in out and "(an estimate from a pilot)" in out
    assert "warning: --set: execution.budget.hours: 1e-07 is reached after some " in out
    assert out.rstrip().endswith(
        "staffa run campaign.yaml --set execution.budget.gpu_hours=null --budget hours=0.0000001"
    )
    code, out, err = said("plan", "campaign.yaml", "--pilot", "--json")
    (program,) = json.loads(out)["estimate"]["programs"]
    assert err == "" and program["source"] == "pilot" and program["width"] == 16 and program["segment_seconds"] > 0
    assert said("run", "campaign.yaml", "--allow-dirty", "--json")[0] == 0
    out = said("plan", "campaign.yaml")[1]
    assert "(by run runs/v1.0_walk)" in out and "hours, compressed bytes" not in out
    double = said("plan", "campaign.yaml", "--past", "runs/v1.0_walk", "--set", "campaign.version=v2.0", "--json")[1]
    found = json.loads(double)["estimate"]
    assert found["source"] == found["hours"]["source"] == found["bytes"]["archive"]["source"] == "run runs/v1.0_walk"
    code, _, err = said("plan", "campaign.yaml", "--past", "runs/v1.0_wlak")
    assert code == 2 and "runs/v1.0_wlak" in err and "v1.0_walk" in err
    assert said("plan", "campaign.yaml", "--past", "runs/v1.0_walk", "--pilot")[0] == 2
    code, out, _ = said("plan", "campaign.yaml", "--cluster", "slurm.yaml")
    assert code == 0 and "pool gpu was not measured: other workers were" in out
    assert "time " in out and "(an estimate from run runs/v1.0_walk)" in out and "3 jobs at once" in out


@pytest.mark.parametrize("words, line, text", [
    (["--set", "cluster.memory=1MiB", "--set", "sampling.draws=1000000"], "", "execution.segments: 1, and one trial"),
    (["--cluster", "tiny.yaml", "--set", "sampling.draws=100000000"], "", "a worker of pool 'small' has 1 MiB"),
    (["--set", "replicates=100000", "--set", "sampling.draws=1000000", "--set", "storage.root=/dev/shm/staffa-plan"],
     "--set: ", "storage.root: '/dev/shm/staffa-plan' has room for"),
    (["--past", "campaign.yaml"], "", "'campaign.yaml' is not a campaign's folder"),
    (["--budget", "gpu_days=3"], "", "execution.budget.gpu_days"),
])  # fmt: skip
def test_what_cannot_fit_is_refused_where_it_is_said(folder, said, monkeypatch, words, line, text):
    monkeypatch.setenv("PATH", "/nowhere")
    (folder / "tiny.yaml").write_text("cluster: {kind: slurm, pools: {small: {workers: 1, gpus: 0, memory: 1MiB}}}\n")
    few = type("Disk", (), {"f_bavail": 1 << 40, "f_frsize": 1, "f_favail": 1000, "f_files": 1 << 20})
    monkeypatch.setattr("os.statvfs", lambda place: few)
    code, out, err = said("plan", "campaign.yaml", *words)
    assert (code, out) == (2, "") and f"staffa: {line}" in err and text in err, err
    assert not (folder / "runs").exists()


def test_walltime_is_refused_at_its_line(folder, said):
    assert said("run", "campaign.yaml", "--allow-dirty", "--json")[0] == 0
    journal = next((folder / "runs" / "v1.0_walk" / "ledger").glob("events-*.jsonl"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in events:
        if event["event"] == "batch_settled":
            event["timings"]["sample"] = 7200.0
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    code, _, err = said("plan", "campaign.yaml", "--cluster", "slurm.yaml")
    assert code == 2 and "slurm.yaml:4: cluster.pools.gpu.walltime: 1800 s, but a batch of 16 trials" in err
    assert "(run runs/v1.0_walk)" in err
