"""Campaigns that grow by their own results: what is asked and when, what is noted, and being killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from distributed import Client

import staffa
from here import one_worker
from staffa.api.rounds import growth
from staffa.errors import ConfigError, PluginError, WorkspaceError

MODEL = """
import staffa

class Square(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return None

    def step(self, key, state, params):
        return state, {"square": params["x"] ** 2}
"""
CAMPAIGN = """
campaign: {name: root}
experiment: {use: "model.py:Square"}
space: [{list: [{x: 1.0}, {x: 2.0}]}]
execution: {workers: 1}
cluster: {dashboard: false}
"""
ADAPT = '''
import os
import signal
from pathlib import Path

def bisect(results, new):
    """The middle of the narrowest interval that holds the root of x * x = 2, until that is narrower than 0.05."""
    frame = results.query("select x, square from draws")
    below, above = frame["x"][frame["square"] < 2].max(), frame["x"][frame["square"] >= 2].min()
    print("asked", len(results), len(new))
    return [{"x": (below + above) / 2}] if above - below > 0.05 else None

def killed(results, new):
    """As bisect; the second time its driver is killed while it thinks."""
    answer, mark = bisect(results, new), Path(os.environ["MARK"])
    if len(results) == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)
    return answer

def broken(results, new):
    return 1 / 0
'''
POINTS = [1.0, 2.0, 1.5, 1.25, 1.375, 1.4375, 1.40625]
"""What bisecting comes to, in order."""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with one_worker() as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "adapt.py").write_text(ADAPT)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN + f"storage: {{root: '{tmp_path / 'runs'}'}}\n")
    return tmp_path


def bisect(results: Any, new: Any) -> list[dict[str, Any]] | None:
    frame = results.query("select x, square from draws")
    below, above = frame["x"][frame["square"] < 2].max(), frame["x"][frame["square"] >= 2].min()
    # NumPy's numbers, and one that is known already: it is not run again
    return [{"x": np.float64((below + above) / 2)}, {"x": 2.0}] if above - below > 0.05 else None


def tried(root: Path) -> list[float]:
    return [float(x) for x in staffa.attach(root).results.params.to_pandas()["x"]]


def rounds(root: Path) -> list[dict[str, Any]]:
    return [event for event in staffa.attach(root).events() if event["event"] == "round_settled"]


def computed(root: Path) -> int:
    """Trials that were carried out, each time counted."""
    settled = [event for event in staffa.attach(root).events() if event["event"] == "batch_settled"]
    return sum(sum(event["outcomes"].values()) for event in settled if not event["duplicate"])


def staffa_says(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "staffa", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


# --- in Python -------------------------------------------------------------------------------------


def test_a_campaign_grows_until_nothing_more_is_wanted(folder: Path, client: Client) -> None:
    heard: list[tuple[list[float], list[float], int]] = []

    def after(results: Any, new: Any) -> Any:
        xs = [sorted(one.params.to_pandas()["x"]) for one in (results, new)]
        heard.append((xs[0], xs[1], new.trials.to_arrow(["x"]).num_rows))
        return bisect(results, new)

    run = staffa.run(folder / "campaign.yaml", client=client, after=after, progress=False)
    assert run.ended is not None and run.ended.outcomes == {"ok": 7} and not run.resumed
    assert tried(run.root) == POINTS
    assert [found for found, _, _ in heard] == [sorted(POINTS[:count]) for count in range(2, 8)]
    assert [new for _, new, _ in heard] == [[1.0, 2.0], *([x] for x in POINTS[2:])]
    assert [rows for _, _, rows in heard] == [2, 1, 1, 1, 1, 1], "its results are those of the new ones only"

    noted = rounds(run.root)
    assert [event["round"] for event in noted] == [1, 2, 3, 4, 5, 6]
    assert [(event["generation"], event["trials"], event["new"], event["goes_on"]) for event in noted] == [
        (0, 2, 2, True), (1, 3, 1, True), (2, 4, 1, True), (3, 5, 1, True), (4, 6, 1, True), (5, 7, 1, False),
    ]  # fmt: skip
    assert all(event["what"].endswith("after") for event in noted)
    ends = [event["reason"] for event in run.events() if event["event"] == "run_ended"]
    assert ends == ["finished"] * 6

    # The same call again: nothing is run, the same is answered, and that is the same round.
    again = staffa.run(folder / "campaign.yaml", client=client, after=after, progress=False)
    assert again.resumed and tried(run.root) == POINTS and computed(run.root) == 7
    assert [event["round"] for event in rounds(run.root)][-2:] == [6, 6]
    # Without the function it is a campaign that has grown.
    with pytest.raises(WorkspaceError, match="another campaign of this name"):
        staffa.run(folder / "campaign.yaml", client=client, progress=False)


def test_rounds_are_limited_over_all_runs(folder: Path, client: Client) -> None:
    run = staffa.run(folder / "campaign.yaml", client=client, after=bisect, rounds=2, progress=False)
    assert tried(run.root) == POINTS[:4]
    assert "no more than 2 rounds" in rounds(run.root)[-1]["why"] and not rounds(run.root)[-1]["goes_on"]
    staffa.resume(run.root, client=client, after=bisect, rounds=3, progress=False)
    assert tried(run.root) == POINTS[:5] and computed(run.root) == 5


def test_more_replicates_and_frames_are_answers_too(folder: Path, client: Client) -> None:
    def after(results: Any, new: Any) -> Any:
        if len(results) == 2:
            return pandas.DataFrame({"x": [3.0, 4.0]})
        return {"replicates": 3} if len(results) == 4 else {}

    run = staffa.run(folder / "campaign.yaml", client=client, after=after, progress=False)
    counts = run.query("select x, count(*) as n from trials group by 1 order by 1")
    assert counts.to_numpy().tolist() == [[1.0, 3.0], [2.0, 3.0], [3.0, 3.0], [4.0, 3.0]]
    assert run.results.config["space"] == [{"list": [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}, {"x": 4.0}]}]


def test_points_beside_a_product_leave_it_alone(folder: Path, client: Client) -> None:
    campaign = staffa.load(folder / "campaign.yaml", space=[{"grid": {"x": [1.0, 2.0]}}, {"grid": {"y": [1, 2]}}])

    def after(results: Any, new: Any) -> Any:
        found = {4: [{"x": 9.0, "y": 3}], 5: {"points": [{"x": 9.0, "y": 4}], "replicates": 2}}
        return found.get(len(results))

    run = staffa.run(campaign, client=client, after=after, progress=False)
    counts = run.query("select x, y, count(*) as n from trials group by 1, 2 order by 1, 2").to_numpy().tolist()
    assert counts == [[1, 1, 1], [1, 2, 1], [2, 1, 1], [2, 2, 1], [9, 3, 2], [9, 4, 2]]
    again = staffa.run(campaign, client=client, after=after, progress=False)
    assert again.resumed and len(again.results) == 8


def test_an_answer_that_is_known_already_ends_it(folder: Path, client: Client) -> None:
    run = staffa.run(folder / "campaign.yaml", client=client, after=lambda results, new: [{"x": 1.0}], progress=False)
    assert tried(run.root) == [1.0, 2.0] and len(rounds(run.root)) == 1
    assert not (run.root / "metadata" / "plan-1.json").exists()


def test_a_function_that_fails_is_asked_again(folder: Path, client: Client) -> None:
    def broken(results: Any, new: Any) -> Any:
        raise ValueError("no idea")

    with pytest.raises(ValueError, match="no idea"):
        staffa.run(folder / "campaign.yaml", client=client, after=broken, progress=False)
    root = folder / "runs" / "v1.0_root"
    assert rounds(root)[-1]["why"] == "ValueError: no idea" and tried(root) == [1.0, 2.0]
    staffa.resume(root, client=client, after=bisect, progress=False)
    assert tried(root) == POINTS and rounds(root)[1]["round"] == 1


@pytest.mark.parametrize(
    ("answer", "complaint", "hint"),
    [
        (3, "answered '3'", "points"),
        ("x", "answered 'x'", "points"),
        ([1.0], r"answered '\[1.0\]'", "points"),
        ({"replicate": 4}, "'replicate', by which no campaign grows", "replicates"),
        ({"execution": {"workers": 4}}, "'execution'", "known: inputs"),
        ([{"x": object()}], "no parameter's value", "numbers and texts"),
    ],
)
def test_answers_that_are_none(answer: Any, complaint: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        growth(answer, "adapt")
    assert hint in caught.value.hint


def test_answers_are_plain() -> None:
    point = {"x": np.float32(0.5), "n": np.int64(3), "kind": "warm"}
    assert growth([point], "adapt") == {"points": [{"x": 0.5, "n": 3, "kind": "warm"}]}
    assert growth(({"x": 1},), "adapt") == {"points": [{"x": 1}]}
    assert growth({"space": [{"grid": {"x": np.arange(2.0)}}]}, "adapt") == {"space": [{"grid": {"x": [0.0, 1.0]}}]}
    assert growth(None, "adapt") == growth([], "adapt") == growth({}, "adapt") == {}


# --- in the campaign file --------------------------------------------------------------------------


def test_a_driver_that_is_killed_while_it_asks_goes_on_where_it_was(folder: Path) -> None:
    """The function is the campaign's own, in a process of its own; it outlives the driver it kills."""
    words = [str(folder / "campaign.yaml"), "--set", "after={use: adapt.py:killed, rounds: 2}"]
    first = staffa_says("run", *words, MARK=str(folder / "mark"))
    assert first.returncode == -signal.SIGKILL
    root = folder / "runs" / "v1.0_root"
    assert tried(root) == POINTS[:3]
    status = json.loads(staffa_says("status", str(root), "--json").stdout)
    assert not status["live"] and status["figures"]["outcomes"]["ok"] == 3

    # The same command again: the declaration is what it was before the campaign had grown.
    second = staffa_says("run", *words, MARK=str(folder / "mark"))
    assert second.returncode == 0, second.stderr
    assert tried(root) == POINTS[:4] and computed(root) == 4
    assert [(event["round"], event["goes_on"]) for event in rounds(root)] == [(1, True), (2, True), (3, False)]
    asked = [line for line in (root / "logs" / "outside.out").read_text().splitlines() if line.startswith("asked")]
    assert asked == ["asked 2 2", "asked 3 1", "asked 3 1"]


def test_a_driver_that_is_killed_when_it_has_just_grown_goes_on(folder: Path, client: Client) -> None:
    """A real process that dies between a growth and the next round."""
    script = folder / "script.py"
    script.write_text(
        "import os, signal, staffa, staffa.api.driving as driving\n"
        "from adapt import bisect\n"
        "more = driving.more\n"
        "def dying(workspace, asked):\n"
        "    found = more(workspace, asked)\n"
        "    if workspace.generation == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return found\n"
        "driving.more = dying\n"
        "if __name__ == '__main__':\n"
        "    staffa.run('campaign.yaml', after=bisect, progress=False)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL
    root = folder / "runs" / "v1.0_root"
    assert tried(root) == POINTS[:4] and computed(root) == 3
    staffa.run(folder / "campaign.yaml", client=client, after=bisect, progress=False)
    assert tried(root) == POINTS and computed(root) == 7
    assert [event["round"] for event in rounds(root)] == [1, 2, 3, 4, 5, 6]


def test_the_campaigns_own_function_that_fails_is_told_with_its_line(folder: Path, client: Client) -> None:
    after = {"use": "adapt.py:broken"}
    with pytest.raises(PluginError, match=r"after.use: adapt.py:broken: adapt.py:\d+: in broken: ZeroDivisionError"):
        staffa.run(staffa.load(folder / "campaign.yaml", after=after), client=client, progress=False)
    with pytest.raises(PluginError, match="has no function 'bisekt'") as caught:
        root = folder / "runs" / "v1.0_root"
        staffa.resume(root, client=client, progress=False, set=["after.use=adapt.py:bisekt"])
    assert "staffa resume" in caught.value.hint
    staffa.resume(root, client=client, progress=False, set=["after=null"])
    assert len(rounds(root)) == 2


def test_what_is_not_there_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"after.use: 'adept.py:grow': there is no file 'adept.py'") as caught:
        staffa.plan(folder / "campaign.yaml", after={"use": "adept.py:grow"})
    assert "adapt.py" in caught.value.hint
    with pytest.raises(ConfigError, match="ends with this process"):
        staffa.run(folder / "campaign.yaml", after=bisect, detach=True)
    assert not (folder / "runs").exists()
