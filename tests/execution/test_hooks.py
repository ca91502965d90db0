"""Hooks: real commands and functions, in real processes; whatever they do, the run goes on."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from execution.listening import eventually, finished, scene
from staffa.campaign.alerts import HooksConfig
from staffa.execution.aside import Aside
from staffa.execution.guest import Guest, NotLoaded
from staffa.execution.hooks import FUNCTION, GIVE_UP, RunHooks, TrialHooks
from staffa.execution.outside import Failed, Scene
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

FUNCTIONS = """
import ctypes, os, sys, time
from pathlib import Path

import neighbour

HERE = Path(__file__).parent
calls = []

def note(facts):
    calls.append(facts)
    with (HERE / "noted").open("a") as file:
        file.write(f"{len(calls)} {os.getpid()} {facts!r}\\n")

def bad(facts):
    raise ValueError("not today")

def leave(facts):
    sys.exit(3)

def die(facts):
    os._exit(7)

def crash(facts):
    ctypes.string_at(0)

def hang(facts):
    (HERE / "hanging").write_text(str(os.getpid()))
    while True:
        pass

def speak(facts):
    print("said on standard output")
    os.write(1, b"and below it\\n")
    print("and on standard error", file=sys.stderr)

def second(facts):
    if facts["trial"][0] in "01234567":
        raise ValueError("half of them")
    note(facts["trial"])
"""


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    found = scene(tmp_path)
    (found.code / "hooks.py").write_text(FUNCTIONS)
    (found.code / "neighbour.py").write_text("")
    return found


def config(**fields: Any) -> HooksConfig:
    return HooksConfig.model_validate(fields)


def around(place: Scene, **fields: Any) -> list[dict[str, Any]]:
    """What hooks around a run had to say."""
    companion = RunHooks(config(**fields), place)
    companion({"event": "run_started", "run_id": place.run_id})
    eventually(lambda: not companion.holds)
    companion({"event": "run_ended", "reason": "finished", "exit_code": 0})
    return finished(companion)


def test_commands_before_and_after_a_run(place: Scene) -> None:
    script = 'cat >> facts; echo >> facts; echo "$STAFFA_EVENT $STAFFA_RUN_ID $STAFFA_RUN $STAFFA_REASON" >> told'
    news = around(place, pre_run=[["bash", "-c", script]], post_run=[["bash", "-c", script], ["true"]])
    assert [(event["event"], event["hook"], event["what"]) for event in news] == [
        ("hook_ended", "pre_run", "bash"),
        ("hook_ended", "post_run", "bash"),
        ("hook_ended", "post_run", "true"),
    ]
    before, after = (json.loads(line) for line in (place.source / "facts").read_text().splitlines())
    assert (before["hook"], before["run_id"], before["run"]) == ("pre_run", place.run_id, str(place.root))
    assert (after["hook"], after["reason"], after["exit_code"]) == ("post_run", "finished", 0)
    assert (place.source / "told").read_text().splitlines() == [
        f"pre_run {place.run_id} {place.root} ",
        f"post_run {place.run_id} {place.root} finished",
    ]


def test_functions_of_the_workflow(place: Scene) -> None:
    news = around(place, pre_run=["hooks.py:note", "hooks.py:speak"], post_run="hooks.py:note")
    assert [event["event"] for event in news] == ["hook_ended"] * 3
    first, last = (place.code / "noted").read_text().splitlines()
    assert "'hook': 'pre_run'" in first and "'hook': 'post_run'" in last
    assert int(first.split()[1]) != os.getpid(), "not in the driver's process"
    said = place.log.read_text()
    assert all(text in said for text in ("said on standard output", "and below it", "and on standard error"))


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("hooks.py:bad", "hooks.py:16: in bad: ValueError: not today"),
        ("hooks.py:leave", "SystemExit: 3"),
        ("hooks.py:die", "its process ended (exit code 7)"),
        ("hooks.py:crash", "its process ended (signal 11)"),
        ("hooks.py:hang", "ran past 3 s"),
        ("hooks.py:lacking", "hooks.pre_run: 'hooks.py:lacking': hooks.py has no function 'lacking'"),
        ("gone.py:note", "hooks.pre_run: 'gone.py:note': there is no file 'gone.py' in "),
        (["false"], "exit code 1"),
        (["sleep", "1000"], "ran past 3 s"),
        (["no-such-command"], "cannot be started: No such file or directory"),
    ],
)
def test_a_hook_that_fails_is_noted_and_the_next_one_called(place: Scene, hook: Any, why: str) -> None:
    news = around(place, pre_run=[hook, ["touch", "next"]], timeout=3 if "3 s" in why else 240)
    assert [event["event"] for event in news] == ["hook_failed", "hook_ended"]
    assert news[0]["why"].startswith(why), news[0]
    assert (place.source / "next").exists()


def test_the_run_waits_for_what_is_to_be_done_before_it(place: Scene) -> None:
    companion = RunHooks(config(pre_run=[["bash", "-c", "while [ ! -e go ]; do sleep 0.02; done"]]), place)
    companion({"event": "run_started"})
    assert companion.holds and companion.busy
    (place.source / "go").touch()
    eventually(lambda: not companion.holds)
    companion.kill()


def test_who_is_interrupted_does_not_wait(place: Scene) -> None:
    companion = RunHooks(config(pre_run=["hooks.py:hang"], timeout="1h"), place)
    companion({"event": "run_started"})
    number = int(eventually(lambda: _text(place.code / "hanging")))
    assert companion.holds
    companion.kill()
    assert not companion.holds
    eventually(lambda: _ended(number))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _ended(number: int) -> bool:
    try:
        os.kill(number, signal.SIG_DFL)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# --- a guest's process -----------------------------------------------------------------------------


def guest(place: Scene, use: str) -> Guest:
    return Guest(FUNCTION, {"use": use, "directory": str(place.code), "field": "hooks.x"}, {"MINE": "1"}, place.log)


def test_a_guest_keeps_its_process_and_gets_a_new_one_after_it_died(place: Scene) -> None:
    never, one = threading.Event(), guest(place, "hooks.py:note")
    one.call("call", {"n": 1}, 60.0, never)
    one.call("call", {"n": "ü" * 100_000}, 60.0, never)
    first, second = (line.split()[:2] for line in (place.code / "noted").read_text().splitlines())
    assert first[0] == "1" and second[0] == "2" and first[1] == second[1]
    os.kill(int(first[1]), signal.SIGKILL)
    with pytest.raises(Failed, match=r"its process ended \(signal 9\)"):
        one.call("call", {}, 60.0, never)
    assert not one.here
    one.call("call", {}, 60.0, never)
    assert (place.code / "noted").read_text().splitlines()[-1].split()[1] != first[1]
    one.end()
    one.end()


def test_what_cannot_be_loaded_is_told_apart(place: Scene) -> None:
    never = threading.Event()
    (place.code / "broken.py").write_text("import no_such_module\n")
    one = guest(place, "broken.py:note")
    with pytest.raises(NotLoaded, match=r"broken\.py:1: in <module>: ModuleNotFoundError: No module named"):
        one.call("call", {}, 60.0, never)
    assert not one.here


def test_a_guest_goes_when_its_driver_is_killed(place: Scene) -> None:
    """Also one that hangs: nobody would ever end it."""
    script = (
        "import threading; from pathlib import Path; from staffa.execution.guest import Guest\n"
        f"said = {{'use': 'hooks.py:hang', 'directory': {str(place.code)!r}, 'field': 'x'}}\n"
        f"Guest({FUNCTION!r}, said, {{}}, Path({str(place.log)!r})).call('call', {{}}, 1e6, threading.Event())"
    )
    driver = subprocess.Popen([sys.executable, "-c", script])
    number = int(eventually(lambda: _text(place.code / "hanging")))
    driver.kill()
    driver.wait()
    eventually(lambda: _ended(number))


# --- trials ----------------------------------------------------------------------------------------


def told(place: Scene, name: str, function: str, events: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """What a trial's hook had to say of some events."""
    hooks = config(**{name: function}, **fields)
    companion = Aside(name, TrialHooks(name, function, hooks, place))
    for event in events:
        companion(event)
    return finished(companion)


def noted(place: Scene) -> list[dict[str, Any]]:
    lines = (place.code / "noted").read_text().splitlines()
    return [ast.literal_eval(line.split(" ", 2)[2]) for line in lines]


@pytest.fixture
def of_mixed(place: Scene, mixed: Any) -> tuple[Scene, list[dict[str, Any]]]:
    """The place of a run that took place, and its events."""
    there = Scene(mixed.root, place.source, place.code, place.log, place.run_id)
    return there, list(history(Workspace.open(mixed.root)))


def test_every_settled_trial_is_told_once(of_mixed: Any, mixed: Any) -> None:
    place, events = of_mixed
    assert told(place, "post_trial", "hooks.py:note", events) == []
    found = {facts["trial"]: facts for facts in noted(place)}
    assert len(found) == len(noted(place)) == mixed.status["figures"]["trials"]
    table = mixed.query("select trial, outcome, replicate, kind, population, scale from trials").set_index("trial")
    counts: dict[str, int] = {}
    for trial, facts in found.items():
        counts[facts["outcome"]] = counts.get(facts["outcome"], 0) + 1
        if facts["outcome"] in ("ok", "nan"):
            row = table.loc[trial]
            assert facts["parameters"]["kind"] == row["kind"] and facts["replicate"] == row["replicate"]
            assert facts["parameters"]["population"] == row["population"]
            assert facts["parameters"]["scale"] == pytest.approx(row["scale"])
            assert facts["message"] == "" and facts["seconds"] >= 0
        else:
            assert "no value at scale" in facts["message"]
    assert counts == {word: count for word, count in mixed.status["figures"]["outcomes"].items() if count}


def test_a_late_twin_tells_nothing_twice_and_a_retry_only_what_it_tried(of_mixed: Any) -> None:
    place, events = of_mixed
    event = next(event for event in events if event["event"] == "batch_settled" and sum(event["outcomes"].values()) > 1)
    again = {**event, "attempt": 2, "lanes": "1"}
    assert told(place, "post_trial", "hooks.py:note", [event, {**event, "duplicate": True}, again]) == []
    lanes = [(facts["attempt"], facts["lane"]) for facts in noted(place)]
    size = sum(event["outcomes"].values())
    assert lanes == [*((1, lane) for lane in range(size)), (2, 1)]


def test_a_twin_whose_batch_nobody_heard_of_is_told(of_mixed: Any) -> None:
    place, events = of_mixed
    event = next(event for event in events if event["event"] == "batch_settled")
    assert told(place, "post_trial", "hooks.py:note", [{**event, "duplicate": True}]) == []
    assert len(noted(place)) == sum(event["outcomes"].values())


def test_a_batch_that_is_written_before_its_issue_is_heard_of_is_told_whole(of_mixed: Any) -> None:
    place, events = of_mixed
    issued = next(event for event in events if event["event"] == "batch_issued" and not event.get("lanes"))
    settled = next(event for event in events if event["event"] == "batch_settled" and event["batch"] == issued["batch"])
    assert told(place, "pre_trial", "hooks.py:note", [issued]) == []
    assert len(noted(place)) == sum(settled["outcomes"].values())


def test_trials_handed_out(of_mixed: Any) -> None:
    place, events = of_mixed
    issued = next(event for event in events if event["event"] == "batch_issued")
    assert told(place, "pre_trial", "hooks.py:note", [{**issued, "lanes": "0"}]) == []
    facts = noted(place)
    assert len(facts) == 1 and "outcome" not in facts[0]
    assert facts[0]["worker"] == issued["worker"] and set(facts[0]["parameters"]) >= {"kind", "scale"}


def test_one_trial_that_fails_keeps_no_other_from_being_told(of_mixed: Any) -> None:
    place, events = of_mixed
    settled = [event for event in events if event["event"] == "batch_settled"]
    news = told(place, "post_trial", "hooks.py:second", settled)
    trials: list[Any] = noted(place)
    assert trials and all(trial[0] not in "01234567" for trial in trials)
    failed = [event for event in news if event["event"] == "hook_failed"]
    assert failed and all("in second: ValueError: half of them (" in event["why"] for event in failed)
    assert len(failed) <= len(settled)


def test_a_hook_that_always_fails_is_left_alone(of_mixed: Any) -> None:
    place, events = of_mixed
    settled = [event for event in events if event["event"] == "batch_settled"] * 3
    news = told(place, "post_trial", "hooks.py:die", settled)
    assert len(news) == GIVE_UP and news[-1]["why"].endswith("(it is not called any more)")
    news = told(place, "post_trial", "hooks.py:lacking", settled)
    assert len(news) == 1 and "has no function 'lacking'" in news[0]["why"]
