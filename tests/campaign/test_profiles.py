"""Profiles: found, refused by what they say, listed whatever is wrong with one of them, shown as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from staffa.campaign import config, profiles
from staffa.errors import ConfigError

HERE = Path(__file__).parents[2]

SMOKE = """\
name: smoke
description: Two points, to see that it works.
workload: smoke
tags: [quick, ci]
set:
  sampling: {draws: 2}
  execution:
    timeout: 5s
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "smoke.yaml").write_text(SMOKE)
    (tmp_path / "campaign.yaml").write_text("campaign: {name: walk}\nexperiment: {use: model.py:Walk}\n")
    return folder


def refused(place: Path, text: str, name: str = "bad") -> ConfigError:
    (place / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        profiles.find(name, place)
    return caught.value


def test_a_profile_says_what_it_is_for(place):
    profile = profiles.find("smoke", place)
    assert (profile.name, profile.workload, profile.tags) == ("smoke", "smoke", ("quick", "ci"))
    assert profile.values == {"sampling": {"draws": 2}, "execution": {"timeout": "5s"}}
    assert profiles.described(profile)["set"] == profile.values


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_shown_it_says_the_same(place, form):
    facts = profiles.described(profiles.find("smoke", place))
    text = profiles.shown(facts, form)
    assert (json.loads(text) if form == "json" else yaml.safe_load(text)) == facts
    if form == "yaml":
        lines = [line for line in text.splitlines(keepends=True) if not line.startswith("path:")]
        (place / "again.yaml").write_text("".join(lines).replace("name: smoke", "name: again"))
        assert profiles.find("again", place).values == facts["set"]


def test_oddities_survive_being_shown(place):
    values = (
        "set: {experiment: {'off': 'no', number: '1e3', small: 1e-3, text: 'a: b # c', none: null, many: [1, '010']}}"
    )
    (place / "odd.yaml").write_text(values)
    facts = profiles.described(profiles.find("odd", place))
    (place / "same.yaml").write_text(profiles.shown({"set": facts["set"]}, "yaml"))
    assert profiles.find("same", place).values == facts["set"]
    with pytest.raises(ConfigError, match="--format xml") as caught:
        profiles.shown(facts, "xml")
    assert "yaml" in caught.value.hint


BAD = [
    ("set: {samplng: {draws: 2}}", "bad.yaml:1: samplng: unknown key", "did you mean 'sampling'"),
    ("set:\n  sampling:\n    draw: 2\n", "bad.yaml:3: sampling.draw: unknown key", "did you mean 'draws'?"),
    ("set:\n  seeds: {global: 1}\n", "bad.yaml:2: seeds.global: unknown key", "did you mean 'global_seed'?"),
    ("set: {sampling: {draws: many}}", "bad.yaml:1: sampling.draws: 'many' is not an integer", "Draws kept"),
    ("set: {execution: {x65: true}}", "bad.yaml:1: execution.x65: unknown key", "did you mean 'x64'?"),
    ("sets: {sampling: {draws: 2}}", "bad.yaml:1: sets: unknown key", "did you mean 'set'"),
    ("name: [smoke]", "bad.yaml:1: name: ['smoke'] is not text", ""),
    ("description: hm\nname: smoke", "bad.yaml:2: name: 'smoke' is not the name of its file, 'bad'", "asked for"),
    ("set: [1]", "bad.yaml:1: set: [1] is not a mapping", ""),
    ("", "bad.yaml: is empty", ""),
    ("set: {a: [1", "bad.yaml:1: not valid YAML", "syntax"),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD)
def test_what_no_campaign_could_take_is_refused_with_its_line(place, text, message, hint):
    error = refused(place, text)
    assert message in error.message and hint in error.hint and str(place) in error.message


def test_everything_wrong_is_said_at_once(place):
    error = refused(place, "set:\n  sampling: {draw: 2}\n  execution:\n    window: 0\n")
    assert "bad.yaml:2: sampling.draw" in error.message and "bad.yaml:4: execution.window" in error.message


def test_what_rests_on_other_tiers_is_not_judged_by_itself(place):
    """Missing keys and pairs of fields: the campaign file may hold the other half."""
    (place / "half.yaml").write_text(
        "set:\n  cluster: {pools: {gpu: {gpus: 2}}}\n  execution: {segments: 3}\n  sampling: {draws: 4}\n"
        "  campaign: {version: v2.0}\n"
    )
    assert profiles.find("half", place).values["cluster"] == {"pools": {"gpu": {"gpus": 2}}}
    with pytest.raises(ConfigError, match="does not divide"):
        config.load(place.parent / "campaign.yaml", profile="half", environ={}, overrides=["cluster=null"])


def test_a_profile_that_is_not_there(place):
    with pytest.raises(ConfigError) as caught:
        profiles.find("smok", place)
    assert "--profile smok: no " in caught.value.message and caught.value.hint == "did you mean 'smoke'?"
    with pytest.raises(ConfigError, match="--profile x") as caught:
        profiles.find("x", place.parent / "nowhere")
    assert "write " in caught.value.hint and "set: {…}" in caught.value.hint
    (place / "smoke.yml").write_text(SMOKE)
    with pytest.raises(ConfigError, match=r"smoke\.yml: there is smoke\.yaml, too"):
        profiles.find("smoke", place)


def test_the_list_has_them_all_with_what_is_wrong(place):
    (place / "broken.yaml").write_text("set: {samplng: {}}")
    rows = {row["name"]: row for row in profiles.listed(place)}
    assert list(rows) == ["broken", "smoke"]
    assert rows["smoke"]["flaw"] == "" and rows["smoke"]["tags"] == ["quick", "ci"]
    assert "samplng: unknown key" in rows["broken"]["flaw"]
    assert list(profiles.listed(place.parent / "nothing")) == []


def test_where_they_are_looked_for(place, tmp_path):
    beside = tmp_path
    assert profiles.folder(beside) == profiles.folder(beside / "campaign.yaml") == place
    elsewhere = tmp_path / "other"
    (elsewhere / "profiles").mkdir(parents=True)
    (elsewhere / "profiles" / "smoke.yaml").write_text(SMOKE.replace("draws: 2", "draws: 7"))
    assert profiles.folder(beside, elsewhere) == elsewhere / "profiles"
    path = tmp_path / "campaign.yaml"
    assert config.load(path, profile="smoke", environ={}).campaign.sampling.draws == 2
    assert config.load(path, profile="smoke", workflow=elsewhere, environ={}).campaign.sampling.draws == 7
    with pytest.raises(ConfigError, match="--workflow nowhere: there is no such folder"):
        config.load(path, profile="smoke", workflow="nowhere", environ={})


def test_a_section_of_comments_in_a_profile_erases_nothing(place):
    (place / "quiet.yaml").write_text("set:\n  sampling:\n    # draws: 3\n  execution: {window: 5}\n")
    path = place.parent / "campaign.yaml"
    path.write_text(path.read_text() + "sampling: {draws: 9}\n")
    found = config.load(path, profile="quiet", environ={}).campaign
    assert (found.sampling.draws, found.execution.window) == (9, 5)


def test_the_shipped_ones_are_sound():
    shipped = list(HERE.glob("workflows/*/profiles"))
    assert shipped
    for folder in shipped:
        rows = list(profiles.listed(folder))
        assert rows and all(row["flaw"] == "" and row["description"] and row["tags"] for row in rows)
