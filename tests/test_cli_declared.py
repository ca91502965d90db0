"""Words of the command line about declarations: validate, profile, config schema, doctor RUN."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import staffa
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
space: [{linspace: {scale: [0.1, 1.0, 4]}}]
sampling: {draws: 4}
"""

SMOKE = "description: Few draws.\nworkload: smoke\ntags: [ci]\nset: {sampling: {draws: 2}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "smoke.yaml").write_text(SMOKE)
    (tmp_path / "more" / "profiles").mkdir(parents=True)
    (tmp_path / "more" / "profiles" / "long.yaml").write_text(SMOKE.replace("draws: 2", "draws: 8"))
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


def test_validate(folder, said):
    assert said("validate", "campaign.yaml")[:2] == (0, "campaign.yaml is sound: 4 trials, 1 batch\n")
    code, out, err = said("validate", "campaign.yaml", "--set", "seeds.global=1", "--set", "sampling.draw=3", "--json")
    told = json.loads(out)
    assert (code, err, told["errors"]) == (2, "", 2)
    assert {one["field"]: one["hint"] for one in told["complaints"]}["seeds.global"] == "did you mean 'global_seed'?"
    code, out, _ = said("validate", "campaign.yaml", "--set", "sampling={draws: null, thin: 3}")
    assert code == 0 and "warning" in out and "says nothing without sampling.draws" in out
    assert sorted(path.name for path in folder.iterdir()) == ["campaign.yaml", "model.py", "more", "profiles"]


def test_profiles(folder, said):
    code, out, _ = said("profile", "list", "campaign.yaml")
    assert code == 0 and out.startswith("1 profile in profiles") and "smoke" in out and "Few draws." in out
    told = json.loads(said("profile", "list", "--workflow", "more", "--json")[1])
    assert [row["name"] for row in told["profiles"]] == ["long"]
    assert yaml.safe_load(said("profile", "describe", "smoke")[1])["set"] == {"sampling": {"draws": 2}}
    for words in (["--format", "json"], ["--json"]):
        assert json.loads(said("profile", "describe", "long", "--workflow", "more", *words)[1])["workload"] == "smoke"
    code, _, err = said("profile", "describe", "smok")
    assert code == 2 and "--profile smok" in err and "did you mean 'smoke'?" in err
    assert said("profile", "describe", "smoke", "--format", "toml")[0] == 2
    (folder / "profiles" / "bad.yaml").write_text("set:\n  samplng: {}\n")
    code, out, _ = said("profile", "list")
    assert code == 0 and "profiles/bad.yaml:2: samplng: unknown key" in out
    code, _, err = said("plan", "campaign.yaml", "--profile", "bad")
    assert code == 2 and "profiles/bad.yaml:2: samplng: unknown key" in err and "'sampling'" in err
    assert "no profiles in" in said("profile", "list", "more/profiles")[1]


def test_profiles_of_another_folder_reach_the_plan(folder, said):
    code, out, _ = said("plan", "campaign.yaml", "--profile", "long", "--workflow", "more", "--json")
    assert code == 0 and json.loads(out)["next"].endswith("--profile long --workflow more")
    out = said("config", "explain", "campaign.yaml", "--profile", "long", "--workflow", "more")[1]
    row = next(line for line in out.splitlines() if "sampling.draws" in line)
    assert "8" in row and "more/profiles/long.yaml:4" in row
    with staffa.runtime(profile="long", workflow="more"):
        assert staffa.load("campaign.yaml").declaration.campaign.sampling.draws == 8


def test_schemas(said):
    assert json.loads(said("config", "schema")[1])["title"] == "CampaignConfig"
    assert json.loads(said("config", "schema", "profile")[1])["title"] == "ProfileConfig"
    assert said("config", "schema", "clutser")[0] == 2


def test_the_doctor_of_a_campaign(mixed, tmp_path, said):
    root = tmp_path / "run"
    shutil.copytree(mixed.root, root)
    (root / "secrets").chmod(0o700)
    code, out, _ = said("doctor", str(root), "--fail-on-warning", "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == 0 and told["failed"] == told["warnings"] == 0
    (root / "hot" / "x.partial").touch()
    assert said("doctor", str(root))[0] == 0
    code, out, _ = said("doctor", str(root), "--fail-on-warning")
    assert code == 1 and f"mend: run, leftovers: staffa resume {root} clears them" in out
    next((root / "secrets").glob("*.pem")).chmod(0o644)
    assert said("doctor", str(root), "--fail-on-warning")[0] == 3
    assert said("doctor", str(tmp_path / "nothing"))[0] == 2
