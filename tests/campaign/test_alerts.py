"""What may be said of alerts, hooks and trackers in a campaign file, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from staffa.campaign.alerts import AlertConfig, HooksConfig, TrackerConfig
from staffa.campaign.config import difference, dump, load, load_frozen
from staffa.campaign.identity import is_free
from staffa.errors import ConfigError

HEAD = "campaign: {name: walk}\nexperiment: {use: model.py:Walk}\n"
ALL = """
alerts:
  - {on: finished, command: [mail, -s, done, me]}
  - on: failure_rate
    above: 0.05
    for: 10min
    webhook: $SLACK_WEBHOOK
    every: 5min
hooks:
  pre_run: [[bash, stage.sh], hooks.py:prepare]
  post_run: hooks.py:tidy
  post_trial: hooks.py:settled
trackers:
  - {use: tracker.py:Diary, colour: red}
execution: {telemetry: false}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(HEAD + text)
    return path


def test_all_of_it(tmp_path: Path) -> None:
    found = load(written(tmp_path, ALL), environ={}).campaign
    first, second = found.alerts
    assert (first.on, first.command, first.every) == ("finished", ("mail", "-s", "done", "me"), 3600.0)
    assert (second.above, second.lasting, second.every, second.webhook) == (0.05, 600.0, 300.0, "$SLACK_WEBHOOK")
    assert found.hooks.pre_run == (("bash", "stage.sh"), "hooks.py:prepare")
    assert found.hooks.post_run == ("hooks.py:tidy",) and found.hooks.pre_trial is None
    assert found.trackers[0].model_dump() == {"use": "tracker.py:Diary", "colour": "red"}
    assert found.execution.telemetry is False


def test_what_is_frozen_is_read_back(tmp_path: Path) -> None:
    declared = load(written(tmp_path, ALL), environ={})
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text(dump(declared))
    assert load_frozen(frozen).campaign == declared.campaign
    plain = yaml.safe_load(frozen.read_text())
    assert plain["alerts"][1]["for"] == 600.0 and plain["alerts"][0]["on"] == "finished", "by any reader of YAML"


def test_who_is_told_may_change_while_a_campaign_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = load(written(tmp_path, ""), environ={}), load(written(tmp_path / "other", ALL), environ={})
    changed = [path for path, _, _ in difference(one, two)]
    assert changed and all(is_free(path) for path in changed), changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alerts: [{on: finished}]", "alerts[0]: {'on': 'finished'} needs either a command or a webhook"),
        ("alerts: [{on: finnished, command: [x]}]", "alerts[0].on: 'finnished' is not"),
        ("alerts: [{on: stalled, above: 0.1, command: [x]}]", "has no use for `above`"),
        ("alerts: [{on: failure_rate, command: [x]}]", "needs `above`, such as 0.05"),
        ("alerts: [{on: failure_rate, above: 5, command: [x]}]", "alerts[0].above: 5"),
        ("alerts: [{on: finished, for: 1h, command: [x]}]", "has no use for `for`: it happens once"),
        ("alerts: [{on: stalled, outcomes: [nan], command: [x]}]", "has no use for `outcomes`"),
        ("alerts: [{on: stalled, for: soon, command: [x]}]", "alerts[0].for: 'soon' is not a duration"),
        ("alerts: [{on: paused, every: 0, command: [x]}]", "alerts[0].every: 0"),
        ("alerts: [{on: paused, command: []}]", "alerts[0].command"),
        ("alerts: [{on: paused, command: mail}]", "alerts[0].command: 'mail' is not a list"),
        ("alerts: [{on: paused, webhook: 'ftp://x/y'}]", "is neither an http(s) URL nor a variable"),
        ("alerts: [{on: paused, webhook: 'http://x:port/'}]", "is neither an http(s) URL nor a variable"),
        ("alerts: [{on: paused, command: [x], webhok: y}]", "alerts[0].webhok: unknown key"),
        ("hooks: {pre_run: [bash, stage.sh]}", "hooks.pre_run[0]: 'bash' is not module.py:function; a command is a"),
        ("hooks: {pre_run: [[]]}", "hooks.pre_run[0]: [] is neither module.py:function nor a command"),
        ("hooks: {post_trial: [x]}", "hooks.post_trial: ['x'] is not text"),
        ("hooks: {post_trail: hooks.py:f}", "hooks.post_trail: unknown key"),
        ("trackers: [{colour: red}]", "trackers[0].use: is missing"),
        ("execution: {telemetry: 1}", "execution.telemetry: 1"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), environ={})
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{tmp_path}/campaign.yaml:3")


def test_the_word_on_is_a_word(tmp_path: Path) -> None:
    """YAML 1.1 takes it for a truth value; nowhere else it is let through."""
    said = load(written(tmp_path, ""), overrides=["alerts=[{on: paused, command: [x]}]"], environ={})
    assert said.campaign.alerts[0].on == "paused"
    with pytest.raises(ConfigError, match="key 'on' is not text"):
        load(written(tmp_path, "seeds: {pinned: {on: 1}}"), environ={})


def test_the_schema_for_editors_says_what_is_written() -> None:
    assert "for" in AlertConfig.model_json_schema()["properties"]
    assert set(HooksConfig.model_fields) == {"pre_run", "post_run", "pre_trial", "post_trial", "timeout"}
    kinds: list[dict[str, Any]] = HooksConfig.model_json_schema()["properties"]["pre_run"]["anyOf"]
    assert {"type": "string"} in kinds
    with pytest.raises(ValidationError):
        TrackerConfig.model_validate({"use": ""})
