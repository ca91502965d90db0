"""A campaign with everyone it can tell, from its file to its ledger; and what becomes of bad company."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import staffa
from execution.listening import Server, eventually, serving
from staffa.campaign.config import load
from staffa.errors import ConfigError
from staffa.execution.company import check_company
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.telemetry import EVENTS, parse

MODEL = """
import jax
import jax.numpy as jnp
import staffa


class Walk(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.zeros(())

    def step(self, key, state, params):
        state = state + jax.random.normal(key)
        return state, {"x": jnp.where(params["p"] > 0.8, jnp.nan, state)}
"""
HOOKS = """
import os
from pathlib import Path

RUN = Path(os.environ["STAFFA_RUN"])


def prepare(facts):
    (RUN / "prepared").write_text(facts["run_id"])


def bad(facts):
    raise ValueError("not today")


def settled(trial):
    with (RUN / "settled").open("a") as file:
        file.write(f"{trial['trial']} {trial['outcome']}\\n")


def hang(facts):
    (RUN / "hanging").write_text(str(os.getpid()))
    while True:
        pass


class Diary:
    def run_started(self, config):
        self.told = [config["run"]["run_id"]]

    def batch(self, events):
        self.told += [type(event).__name__ for event in events]

    def run_ended(self, summary):
        (RUN / "diary").write_text("\\n".join([*self.told, summary["reason"]]))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "hooks.py").write_text(HOOKS)
    return tmp_path


def campaign(workflow: Path, **sections: Any) -> Path:
    said = {
        "campaign": {"name": "walk"},
        "experiment": {"use": "model.py:Walk"},
        "space": [{"linspace": {"p": [0.0, 1.0, 40]}}],
        "sampling": {"draws": 4},
        "execution": {"batch": 4, "workers": 1},
        "storage": {"root": str(workflow / "runs")},
        "cluster": {"dashboard": False},
        **sections,
    }
    path = workflow / "campaign.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def events(root: Path, *names: str) -> list[dict[str, Any]]:
    return [event for event in history(Workspace.open(root)) if not names or event["event"] in names]


def test_everyone_is_told_and_nobody_stops_the_run(workflow: Path, server: Server) -> None:
    path = campaign(
        workflow,
        alerts=[
            {"on": "finished", "webhook": f"{server.url}/hook?token=secret"},
            {"on": "failure_rate", "above": 0.1, "outcomes": ["nan"], "command": ["bash", "-c", "cat > told.json"]},
            {"on": "finished", "command": ["no-such-command"]},
            {"on": "stalled", "for": "1h", "webhook": "http://127.0.0.1:9"},
        ],
        hooks={
            "pre_run": [["bash", "-c", "exit 3"], "hooks.py:bad", "hooks.py:prepare"],
            "post_run": [["bash", "-c", 'echo "$STAFFA_REASON" > ended']],
            "post_trial": "hooks.py:settled",
            "pre_trial": "hooks.py:bad",
        },
        trackers=[{"use": "hooks.py:Diary"}, {"use": "hooks.py:Diary", "colour": "red"}],
    )
    run = staffa.run(path, progress=False)
    assert run.ended is not None and run.ended.reason == "finished" and run.ended.outcomes == {"ok": 32, "nan": 8}

    found = events(run.root)
    by_name = {name: [event for event in found if event["event"] == name] for name in {e["event"] for e in found}}
    started, ended = by_name["run_started"][0], by_name["run_ended"][0]
    assert all(event["event"] in EVENTS and parse(event) for event in found)
    # Around the run: in order, before the first batch, and after the last.
    before = [event for event in found if event["event"].startswith("hook_") and event["hook"] == "pre_run"]
    assert [(event["event"], event["what"]) for event in before] == [
        ("hook_failed", "bash"),
        ("hook_failed", "hooks.py:bad"),
        ("hook_ended", "hooks.py:prepare"),
    ]
    assert found.index(before[-1]) < found.index(by_name["batch_issued"][0])
    assert (run.root / "prepared").read_text() == started["run_id"]
    assert (workflow / "ended").read_text() == "finished\n"
    after = [event for event in by_name["hook_ended"] if event["hook"] == "post_run"]
    assert len(after) == 1 and found.index(after[0]) > found.index(ended)
    # Trials.
    told = dict(line.split() for line in (run.root / "settled").read_text().splitlines())
    assert len(told) == 40 and sorted(told.values()).count("nan") == 8
    failed = [event for event in by_name["hook_failed"] if event["hook"] == "pre_trial"]
    assert failed and failed[-1]["why"].endswith("(it is not called any more)")
    # Alerts.
    assert [(event["alert"], event["to"]) for event in by_name["alert_failed"]] == [("finished", "no-such-command")]
    assert {(event["alert"], event["to"]) for event in by_name["alert_sent"]} == {
        ("finished", f"{server.url}/…"),
        ("failure_rate", "bash"),
    }
    assert server.heard[0]["run_id"] == started["run_id"] and server.heard[0]["figures"]["settled"] == 40
    assert "failed (above 10.0%)" in json.loads((workflow / "told.json").read_text())["text"]
    # Trackers.
    diary = (run.root / "diary").read_text().split()
    assert diary[0] == started["run_id"] and diary[-1] == "finished" and diary.count("BatchSettled") == 10
    assert [event["why"] for event in by_name["tracker_failed"]] == [
        "run_started: trackers[1].colour: Diary has no option 'colour' (it is left alone)"
    ]
    ledger = "".join(path.read_text() for path in (run.root / "ledger").iterdir())
    assert "secret" not in ledger
    assert run.status["figures"]["lagging"] == {"slow": 0, "stuck": 0, "batches": []}


def test_nothing_is_started_where_nobody_is_to_be_told(workflow: Path) -> None:
    import threading

    before = {thread.name for thread in threading.enumerate()}
    run = staffa.run(campaign(workflow, execution={"batch": 40, "workers": 1, "telemetry": False}), progress=False)
    settled = events(run.root, "batch_settled")
    assert settled and all("memory" not in event for event in settled), "execution.telemetry: false"
    assert events(run.root, "run_started")[0]["telemetry"] is False
    assert not {thread.name for thread in threading.enumerate()} - before & {"staffa-hooks"}
    assert not (run.root / "logs" / "outside.out").exists()


def test_interrupted_while_something_hangs_before_the_run(workflow: Path) -> None:
    path = campaign(workflow, hooks={"pre_run": ["hooks.py:hang"], "timeout": "1h"})
    driver = subprocess.Popen([sys.executable, "-m", "staffa", "run", str(path)], stdout=subprocess.PIPE, text=True)
    root = workflow / "runs" / "v1.0_walk"
    number = int(eventually(lambda: (root / "hanging").exists() and (root / "hanging").read_text()))
    live = staffa.status(root)
    assert live["live"] and live["figures"]["trials"] == 40, "who looks meanwhile sees the campaign"
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=240)
    assert driver.returncode == 130, said
    assert [event["why"] for event in events(root, "hook_failed")] == ["ended with the run"]
    assert events(root, "run_ended")[0]["reason"] == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert staffa.resume(root, set=["hooks.pre_run=[]"], progress=False).ended.outcomes == {"ok": 32, "nan": 8}


@pytest.mark.parametrize(
    ("sections", "message", "hint"),
    [
        ({"hooks": {"pre_run": ["hook.py:prepare"]}}, "hooks.pre_run[0]: 'hook.py:prepare': there is no file", "hooks"),
        ({"hooks": {"post_trial": "gone.py:f"}}, "hooks.post_trial: 'gone.py:f': there is no file 'gone.py'", ""),
        ({"trackers": [{"use": "hooks.py"}]}, "trackers[0].use: 'hooks.py' is not a reference", "module.py:name"),
        ({"trackers": [{"use": "mlfow"}]}, "trackers[0].use: there is no tracker 'mlfow'", "tracker.py:Class"),
    ],
)
def test_company_that_is_not_there_is_refused_early(
    workflow: Path, sections: dict[str, Any], message: str, hint: str
) -> None:
    declared = load(campaign(workflow, **sections), environ={})
    with pytest.raises(ConfigError) as caught:
        check_company(declared)
    assert message in caught.value.message and hint in caught.value.hint


def test_company_that_is_there_is_not(workflow: Path) -> None:
    hooks = {"pre_run": [["bash"], "hooks.py:prepare"], "post_trial": "hooks.py:settled"}
    check_company(load(campaign(workflow, hooks=hooks, trackers=[{"use": "hooks.py:Diary"}]), environ={}))
