"""The report of `validate`: every complaint at once, with its place, and what would only surprise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from staffa.execution import validation as room
from staffa.execution.validation import validation, value_at
from staffa.views.declared import validation_sheet
from staffa.views.sheet import plain

MODEL = """\
import jax, jax.numpy as jnp
import staffa

class Walk(staffa.Experiment):
    dims = {"x": ("place",)}

    def __init__(self, size: int = 2, rate: float = 1.0):
        self.size = size

    def initialize(self, key, params):
        return jnp.zeros(self.size)

    def step(self, key, state, params):
        state = state + params["scale"] * jax.random.normal(key, (self.size,))
        return state, {"x": state}

class Misnamed(Walk):
    dims = {"xx": ("place",)}

class Plain(Walk):
    vectorize = "off"
    def initialize(self, key, params):
        return 0.0
    def step(self, key, state, params):
        return state, {"x": [params["scale"]]}
"""

SOUND = """\
campaign: {name: walk, version: v1.0}
experiment: {use: "model.py:Walk", size: 3}
space:
  - linspace: {scale: [0.1, 1.0, 5]}
sampling: {draws: 20}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def report(text: str, *overrides: str, **options: Any) -> dict[str, Any]:
    Path("campaign.yaml").write_text(text)
    found = validation("campaign.yaml", overrides=overrides, **{"environ": {}, **options})
    assert json.loads(json.dumps(found)) == found
    return found


def places(found: dict[str, Any], level: str = "error") -> list[tuple[Any, ...]]:
    return [(one["file"], one["line"], one["field"]) for one in found["complaints"] if one["level"] == level]


def test_a_sound_campaign(folder):
    found = report(SOUND)
    assert found["valid"] and found["complaints"] == [] and found["errors"] == found["warnings"] == 0
    assert found["plan"]["trials"] == 5 and found["plan"]["bytes"] == 5 * 20 * 3 * 4
    assert sorted(path.name for path in folder.iterdir()) == ["campaign.yaml", "model.py"], "nothing is written"


def test_everything_is_said_at_once(folder):
    found = report(
        """\
campaign: {name: walk, version: v1.0}
experiment:
  use: "model.py:Walk"
  size: three
  rte: 4
space:
  - grid: {kind: []}
  - linspace: {scale: [0.1, 1.0]}
  - grid: {more: [1]}
    when: {kind: 2}
  - grid: {last: [1, one]}
sampling: {draw: 2}
seeds: {global_seed: 4}
""",
        "execution.window=none",
        environ={"STAFFA_EXECUTON__WINDOW": "3"},
    )
    assert not found["valid"] and (found["errors"], found["warnings"]) == (7, 1) and found["plan"] is None
    assert places(found) == [
        (None, None, "execution.window"),
        ("campaign.yaml", 12, "sampling.draw"),
        ("campaign.yaml", 7, "space[0].grid.kind"),
        ("campaign.yaml", 8, "space[1].linspace.scale"),
        ("campaign.yaml", 11, "space[3].grid.last"),
        ("campaign.yaml", 5, "experiment.rte"),
        ("campaign.yaml", 4, "experiment.size"),
    ]
    by_field = {one["field"]: one for one in found["complaints"]}
    assert by_field["space[1].linspace.scale"]["value"] == [0.1, 1.0]
    assert by_field["experiment.rte"]["value"] == 4 and "'rate'" in by_field["experiment.rte"]["hint"]
    assert by_field["sampling.draw"]["hint"] == "did you mean 'draws'?"
    assert by_field["execution.window"]["tier"] == "set"
    assert places(found, "warning") == [("STAFFA_EXECUTON__WINDOW", None, "executon")]


@pytest.mark.parametrize(
    ("override", "field", "text"),
    [
        ("seeds.global=1", "seeds.global", "unknown key"),
        ("experiment.use=model.py:Wlak", "experiment.use", "has no class or function 'Wlak'"),
        ("experiment={use: model.py:Misnamed}", "", "dims['xx']: step records no output 'xx'"),
        ("archive.partition_by=[sclae]", "archive.partition_by", "'sclae' is not a parameter"),
        ("space=[{grid: {scale: [1.0, 1.0]}}]", "space", "point 1 repeats point 0"),
        ("space=[{grid: {x: [1.0]}}]", "", "params['scale']"),
        ("execution.prng=rbg", "execution.prng", "'rbg' gives other keys under vmap"),
        ("execution={segments: 3}", "execution.segments", "3 does not divide sampling.draws: 20"),
        ("sampling.warmup=3", "sampling.warmup", "has no method 'adapt'"),
    ],
)
def test_what_plan_refuses_is_a_complaint(folder, override, field, text):
    found = report(SOUND, override)
    complaints = found["complaints"]
    assert len(complaints) == 1 and found["plan"] is None and complaints[0]["level"] == "error"
    assert complaints[0]["field"] == field and text in complaints[0]["text"]


def test_a_line_of_code_is_a_place(folder):
    complaint = report(SOUND, "experiment={use: model.py:Misnamed}")["complaints"][0]
    assert (complaint["tier"], complaint["file"], complaint["line"]) == ("code", "model.py", 17)
    assert "did you mean 'x'?" in complaint["hint"]


def test_a_file_that_is_not_there_or_not_yaml(folder):
    assert validation("nowhere.yaml", environ={})["complaints"][0]["text"] == "no such file"
    found = report(SOUND + "a: [1\n")
    assert places(found) == [("campaign.yaml", 7, "")] and not found["valid"]


def test_profiles_and_machines_are_looked_at_too(folder):
    (folder / "profiles").mkdir()
    (folder / "profiles" / "bad.yaml").write_text("set:\n  samplng: {draws: 2}\n")
    (folder / "site.yaml").write_text("cluster: {workrs: 2}\nspace: []\n")
    found = report(SOUND, profile="bad", cluster="site.yaml")
    assert ("profiles/bad.yaml", 2, "samplng") in places(found) and ("site.yaml", 2, "space") in places(found)
    assert report(SOUND, profile="bda")["complaints"][0]["hint"] == "did you mean 'bad'?"


def test_settings_that_say_nothing(folder):
    found = report(SOUND.replace("draws: 20", "thin: 5, discard: 2"), "execution.segments=2")
    assert found["valid"] and found["warnings"] == 3
    fields = ["sampling.thin", "sampling.discard", "execution.segments"]
    assert [field for _, _, field in places(found, "warning")] == fields
    assert all("says nothing without sampling.draws" in one["text"] for one in found["complaints"])


def test_sizes_that_may_not_fit(folder):
    found = report(SOUND, "space=[{linspace: {scale: [0.1, 1.0, 50000]}}]", "sampling.draws=100000000")
    texts = [one["text"] for one in found["complaints"]]
    assert found["valid"] and any("before compression" in text and "GiB free" in text for text in texts)


def test_sizes_that_never_fit(folder, monkeypatch):
    found = report(SOUND, "experiment.size=2000000000", "sampling.draws=1000")
    errors = [one for one in found["complaints"] if one["level"] == "error"]
    assert [one["field"] for one in errors] == ["sampling.draws"] and "one trial of model.py:Walk" in errors[0]["text"]
    real = room.os.statvfs

    class Full:
        def __init__(self, place):
            self.real = real(place)

        def __getattr__(self, name):
            return {"f_favail": 10, "f_files": 100}.get(name, getattr(self.real, name))

    monkeypatch.setattr(room.os, "statvfs", Full)
    found = report(SOUND)
    assert not found["valid"] and "has room for 10" in found["complaints"][0]["text"] and found["plan"] is None


def test_batches_that_fill_the_memory(folder):
    """One trial fits, what is in flight does not."""
    found = report(SOUND, "sampling.draws=100000", "execution={window: 1000000, batch: 5}")
    assert [one["field"] for one in found["complaints"]] == ["execution.batch"] and found["valid"]


def test_an_experiment_that_is_swept_is_judged_by_the_plan(folder):
    swept = SOUND.replace("space:\n", "space:\n  - grid: {experiment.size: [2, three]}\n")
    assert not report(swept)["valid"]
    swept = SOUND.replace("space:\n", "space:\n  - grid: {experiment.size: [2, 4]}\n")
    assert report(swept)["valid"]


def test_values_by_their_path():
    values = {"a": {"b": [{"c": 3}]}}
    assert value_at(values, "a.b[0].c") == 3 and value_at(values, "a.b[1].c") is None
    assert value_at(values, "") is None and value_at(values, "a.x") is None


def test_the_sheet(folder):
    found = report(SOUND, "seeds.global=1", "execution.window=none")
    lines = list(plain(validation_sheet(found)))
    assert lines[0] == "campaign.yaml cannot run (2 errors)"
    assert any("--set" in line and "seeds.global" in line and "global_seed" in line for line in lines)
    assert next(iter(plain(validation_sheet(report(SOUND))))) == "campaign.yaml is sound: 5 trials, 1 batch"
