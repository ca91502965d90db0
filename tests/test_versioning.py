"""A production under git: refused before anything is written, tagged once, named by its hash, kept as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import staffa
from staffa import api
from staffa.cli import app
from staffa.errors import ConfigError, WorkspaceError

MODEL = """
import jax, staffa

class Walk(staffa.Experiment):
    def initialize(self, key, params):
        return params["scale"]
    def step(self, key, state, params):
        state = state + jax.random.normal(key)
        return state, {"x": state}
"""
CAMPAIGN = """campaign: {name: walk}
experiment: {use: "model.py:Walk"}
space: [{linspace: {scale: [0.1, 0.9, 8]}}]
sampling: {draws: 4}
execution: {workers: 1}
storage: {root: ROOT}
cluster: {dashboard: false}
"""
TAG = "staffa/v1.0_walk"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def written(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(CAMPAIGN.replace("ROOT", str(folder.parent / "runs")))
    return folder / "campaign.yaml"


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A campaign file in a repository, all committed."""
    path = written(tmp_path / "flow")
    git(path.parent, "init", "-q")
    git(path.parent, "config", "user.name", "Ada")
    git(path.parent, "config", "user.email", "ada@example.org")
    git(path.parent, "add", "-A")
    git(path.parent, "commit", "-qm", "all")
    return path


def refused(path: Path, *words: str) -> str:
    """What the command line says; nothing is written."""
    found = CliRunner().invoke(app, ["run", str(path), *words])
    assert isinstance(found.exception, ConfigError | WorkspaceError) and found.exception.exit_code == 2
    assert not (path.parents[1] / "runs").exists()
    return str(found.exception)


def test_refused_before_anything_is_written(tmp_path: Path, campaign: Path) -> None:
    git(campaign.parent, "tag", "--no-sign", TAG)
    assert "exists already" in refused(campaign, "--tag")
    (campaign.parent / "model.py").write_text(MODEL + "# more\n")
    assert "differ from their git commit: model.py" in refused(campaign, "--tag-suffix", "other")
    git(campaign.parent, "checkout", "-q", "model.py")
    campaign.write_text(campaign.read_text().replace("{name: walk}", "{name: walk, tag: true}"))
    git(campaign.parent, "commit", "-qam", "tagged")
    assert refused(campaign).startswith(f"{campaign}:1: campaign.tag: the tag {TAG} exists already")
    assert "campaign.tag" in refused(campaign, "--tag-suffix", "no good")
    (tmp_path / "more").mkdir()
    assert "in no git repository" in refused(written(tmp_path / "more" / "outside"), "--tag")


def test_a_production_from_tag_to_refusals(campaign: Path) -> None:
    planned = json.loads(CliRunner().invoke(app, ["plan", str(campaign), "--json"]).output)
    found = CliRunner().invoke(app, ["run", str(campaign), "--tag", "--json"])
    assert found.exit_code == 0, found.output
    root = campaign.parents[1] / "runs" / "v1.0_walk"

    commit = git(campaign.parent, "rev-parse", "HEAD")
    assert git(campaign.parent, "rev-parse", f"{TAG}^{{commit}}") == commit
    message = git(campaign.parent, "for-each-ref", "--format=%(contents)", f"refs/tags/{TAG}")
    provenance = json.loads((root / "metadata" / "provenance.json").read_text())
    assert f"run_hash: {provenance['run_hash']}" in message and "trials: 8" in message
    assert provenance["tags"][TAG]["commit"] == commit

    # One hash wherever a run is named.
    started = next(event for event in api.events(root) if event["event"] == "run_started")
    status = api.status(root)
    assert provenance["run_hash"] == started["run_hash"] == status["run_hash"] == planned["run_hash"]
    assert status["tags"] == [TAG] and started["seeds"] == provenance["seeds"]
    said = CliRunner().invoke(app, ["status", str(root)]).output
    assert provenance["run_hash"] in said and TAG in said

    # The version is taken, and what is frozen stays so.
    with pytest.raises(WorkspaceError, match="another campaign of this name and version") as caught:
        staffa.run(campaign, sampling={"draws": 6}, allow_dirty=True, progress=False)
    assert "sampling.draws: 4 there, 6 here" in caught.value.message and "raise campaign.version" in caught.value.hint
    with pytest.raises(WorkspaceError, match=r"sampling\.thin: 1 there, 2 here"):
        api.resume(root, set=["sampling.thin=2"], progress=False)
    with pytest.raises(WorkspaceError, match=r"seeds\.global_seed"):
        api.resume(root, set=["seeds.global_seed=9"], progress=False)
