"""Trackers: told everything in order, in a process of their own; they may fail as they like."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from execution.listening import finished, scene
from staffa.errors import PluginError
from staffa.execution.aside import Aside
from staffa.execution.outside import Scene
from staffa.execution.trackers import GIVE_UP, Tracker, Tracking, made
from staffa.telemetry import record
from staffa.telemetry.events import BatchSettled, Paused

TRACKERS = """
import json, os
from pathlib import Path

HERE = Path(__file__).parent

class Diary:
    def __init__(self, file: str = "diary", fail: str = "", loud: int = 1):
        self.file, self.fail = file, fail

    def _write(self, what, value):
        with (HERE / self.file).open("a") as file:
            file.write(json.dumps([os.getpid(), what, value]) + "\\n")
        if what == self.fail:
            raise ValueError(f"no {what}")

    def run_started(self, config):
        self._write("run_started", config)

    def batch(self, events):
        self._write("batch", [[type(event).__name__, event.at, getattr(event, "event", "")] for event in events])

    def run_ended(self, summary):
        self._write("run_ended", summary)

class Half:
    def run_started(self, config):
        pass
"""
VALUES = {
    "campaign": {"name": "walk"},
    "sampling": {"draws": 3},
    "alerts": [{"webhook": "http://secret"}],
    "hooks": {},
    "trackers": [{}],
}
SETTLED = record(
    BatchSettled(at=2.0, batch="g0/0", attempt=1, worker="w", outcomes={"ok": 3}, failed=[], timings={"sample": 1.0},
                 bytes=1, width=1, device="cpu", compiles=0, pid=1, duplicate=False)
)  # fmt: skip
STORY = [
    {"event": "run_started", "at": 1.0, "run_id": "walk-1"},
    SETTLED,
    record(Paused(at=3.0, reason="full")),
    {"event": "figures", "settled": 3},
    {"event": "news_of_tomorrow", "at": 4.0},
    {"event": "run_ended", "at": 5.0, "reason": "finished", "exit_code": 0},
]


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    found = scene(tmp_path)
    (found.code / "tracker.py").write_text(TRACKERS)
    return found


def told(place: Scene, *events: dict[str, Any], use: str = "tracker.py:Diary", **options: Any) -> list[dict[str, Any]]:
    companion = Aside("tracker", Tracking({"use": use, **options}, 0, VALUES, place))
    for event in events:
        companion(event)
    return finished(companion)


def diary(place: Scene) -> list[tuple[int, str, Any]]:
    return [tuple(json.loads(line)) for line in (place.code / "diary").read_text().splitlines()]


def test_a_tracker_is_told_the_whole_story(place: Scene) -> None:
    assert told(place, *STORY) == []
    entries = [(what, value) for _, what, value in diary(place)]
    assert [what for what, _ in (entries[0], entries[-1])] == ["run_started", "run_ended"]
    config = entries[0][1]
    assert config["campaign"] == {"name": "walk"} and config["sampling"] == {"draws": 3}
    assert config["run"] == {"at": 1.0, "run_id": "walk-1", "root": str(place.root)}
    assert "secret" not in json.dumps(entries), "who else is told is nobody's business"
    events = [event for what, value in entries if what == "batch" for event in value]
    assert events == [
        ["BatchSettled", 2.0, ""],
        ["Paused", 3.0, ""],
        ["Unknown", 4.0, "news_of_tomorrow"],
    ]
    assert entries[-1][1] == {"at": 5.0, "reason": "finished", "exit_code": 0}


@pytest.mark.parametrize("which", ["run_started", "batch", "run_ended"])
def test_one_that_raises_is_told_the_rest(place: Scene, which: str) -> None:
    news = told(place, *STORY, fail=which)
    assert {event["event"] for event in news} == {"tracker_failed"}
    assert all(event["why"].startswith(f"{which}: tracker.py:") for event in news)
    assert all(f"ValueError: no {which}" in event["why"] for event in news)
    assert {what for _, what, _ in diary(place)} == {"run_started", "batch", "run_ended"}


def test_one_that_always_raises_is_left_alone(place: Scene) -> None:
    tracking = Tracking({"use": "tracker.py:Diary", "fail": "batch"}, 0, VALUES, place)
    news = []
    for _ in range(GIVE_UP + 3):
        from threading import Event

        news += list(tracking.take([SETTLED], Event()))
    tracking.end()
    assert len(news) == GIVE_UP and news[-1]["why"].endswith("(it is left alone)")
    assert not tracking.wants(SETTLED)


def test_a_process_that_died_is_followed_by_one_that_knows(place: Scene) -> None:
    """Otherwise it would be told of batches of a run it has never heard of."""
    from threading import Event

    tracking, never = Tracking({"use": "tracker.py:Diary"}, 0, VALUES, place), Event()
    assert list(tracking.take(STORY[:1], never)) == []
    os.kill(diary(place)[0][0], signal.SIGKILL)
    failed = list(tracking.take([SETTLED], never))
    assert failed[0]["why"] == "batch: its process ended (signal 9)"
    assert list(tracking.take([SETTLED], never)) == []
    tracking.end()
    (first, *_), (second, what, config), (third, last, _) = diary(place)
    assert first != second == third and (what, last) == ("run_started", "batch")
    assert config["run"]["run_id"] == "walk-1"


@pytest.mark.parametrize(
    ("use", "options", "why"),
    [
        ("tracker.py:Diary", {"colour": "red"}, "Diary has no option 'colour'"),
        ("tracker.py:Diary", {"loud": "very"}, "trackers[0].loud: 'very'"),
        ("tracker.py:Half", {}, "is no tracker"),
        ("tracker.py:Lacking", {}, "has no class or function 'Lacking'"),
        ("gone.py:Diary", {}, "there is no file 'gone.py'"),
        ("mlfow", {}, "there is no plug-in 'mlfow'"),
    ],
)
def test_what_is_no_tracker(place: Scene, use: str, options: dict[str, Any], why: str) -> None:
    news = told(place, *STORY, use=use, **options)
    assert len(news) == 1 and news[0]["event"] == "tracker_failed"
    assert why in news[0]["why"] and news[0]["why"].endswith("(it is left alone)")
    with pytest.raises(PluginError) as caught:
        made({"use": use, **options}, place.code, "trackers[0]")
    assert why in str(caught.value)


def test_the_interface(place: Scene) -> None:
    assert isinstance(made({"use": "tracker.py:Diary"}, place.code, "trackers[0]"), Tracker)
