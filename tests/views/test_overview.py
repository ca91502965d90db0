"""A run at a glance: what is summed up of its events, and the verdict on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from distributed.protocol import dumps, loads

from seen import synthetic
from staffa.storage.books import fold
from staffa.views.overview import MESSAGES, POINTS, Overview, Trail, classes
from staffa.views.verdict import BAD, GOOD, LOOK, verdict

ROOT = Path("/data/runs/v1.0_walk")
HEALTHY = {"trials": 100, "settled": 40, "outcomes": {"ok": 40}, "workers": 2, "flying": 3, "states": {"done": 40}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard(clock: Clock) -> Overview:
    found = Overview(ROOT, clock)
    found({"event": "run_started", "at": 1000.0, "run_id": "walk-1", "host": "here", "pid": 1, "driver": "d"})
    found(synthetic.joined(0, 1000.0))
    found({"event": "figures", **HEALTHY})
    return found


def settled(at: float, text: str, trial: str = "a" * 32, **more: Any) -> dict[str, Any]:
    failed = [{"lane": 0, "trial": trial, "outcome": "raised", "message": text}]
    own = {"batch": "g0/1", "attempt": 1, "worker": synthetic.address(0), "node": "nid1", "outcomes": {}, "bytes": 10}
    return {"event": "batch_settled", "at": at, **own, "failed": failed, "timings": {}, **more}


def test_what_a_worker_does_adds_up(heard: Overview, clock: Clock) -> None:
    of = {"batch": "g0/0", "attempt": 1, "worker": synthetic.address(0)}
    heard({"event": "batch_issued", "at": 1000.0, **of})
    clock.now = 1010.0
    (one,) = heard.snapshot()["workers"]
    assert (one["sampling"], one["idle"], one["batches"]) == (10.0, 0.0, 1), "in flight, and nothing heard of it"
    timings = {"compile": 4.0, "sample": 5.0, "write": 3.0, "commit": 1.0}
    memory = {"rss": 10, "device": 20, "device_limit": 40}
    heard({**settled(1010.0, ""), **of, "failed": [], "timings": timings, "memory": memory, "device": "TPU"})
    clock.now = 1020.0
    (one,) = heard.snapshot()["workers"]
    parts = {name: one[name] for name in ("sampling", "compiling", "idle")}
    assert parts == {"sampling": 5.0, "compiling": 4.0, "idle": 11.0} and sum(parts.values()) == one["held"]
    assert (one["writing"], one["batches"], one["rss"], one["device_bytes"]) == (4.0, 0, 10, 20)
    assert (one["kind"], one["device"], one["node"], one["ends"]) == ("TPU", "0", "nid0000", 8200.0)
    heard({"event": "worker_left", "at": 1021.0, "address": synthetic.address(0), "reason": "x", "expected": False})
    assert heard.snapshot()["workers"] == [] and heard.snapshot()["left"] == {"unexpected": 1}


def test_the_latest_messages_of_each_class_are_kept(heard: Overview) -> None:
    for number in range(MESSAGES + 3):
        heard(settled(1001.0 + number, f"ValueError: {number}", trial=f"{number:032x}"))
    heard(settled(1020.0, f"ValueError: {MESSAGES}"))
    heard({**settled(1021.0, ""), "failed": [], "nan": ["b" * 32]})
    heard({"event": "figures", **HEALTHY, "outcomes": {"ok": 30, "raised": 8, "nan": 1, "cancelled": 2}})
    found = {one["outcome"]: one for one in classes(heard.snapshot())}
    assert list(found) == ["raised", "cancelled", "nan"], "the most first"
    raised = found["raised"]
    assert (raised["trials"], raised["tries"]) == (8, MESSAGES + 4)
    texts = [one["text"] for one in raised["messages"]]
    assert len(texts) == MESSAGES and texts[0] == f"ValueError: {MESSAGES}" and "ValueError: 0" not in texts
    assert raised["messages"][0]["count"] == 2 and raised["messages"][0]["trial"] == "a" * 32
    assert found["nan"]["messages"][0]["trial"] == "b" * 32 and found["cancelled"]["messages"] == []


def test_failures_under_earlier_drivers_are_remembered(heard: Overview) -> None:
    late, early = settled(500.0, "ValueError: late"), settled(400.0, "ValueError: early", "b" * 32)
    heard.remember(fold([late, early]))
    heard(settled(1001.0, "ValueError: now", "c" * 32))
    (raised,) = heard.snapshot()["failures"]
    texts = [one["text"] for one in raised["messages"]]
    assert raised["tries"] == 3 and texts == ["ValueError: now", "ValueError: late", "ValueError: early"]


def test_the_trail_covers_the_whole_run_in_few_points() -> None:
    trail = Trail(step=1.0)
    for second in range(10_000):
        trail.note(float(second), second)
    assert POINTS / 2 <= len(trail.at) <= POINTS and trail.at[0] == 0.0 and trail.at[-1] > 10_000 - 2 * trail.step
    assert trail.settled == [int(at) for at in trail.at]


def test_a_large_run_is_a_small_message() -> None:
    heard, _ = synthetic.overview()
    snapshot = heard.snapshot()
    assert len(snapshot["workers"]) == 500 and len(snapshot["figures"]["groups"]) == 345
    frames = dumps({"op": "set_metadata", "value": snapshot})
    assert sum(len(frame) for frame in frames) < 400_000
    assert json.dumps(loads(frames)["value"]) == json.dumps(snapshot), "plain numbers and texts, as Dask sends them"


@pytest.mark.parametrize(
    ("figures", "level", "words"),
    [
        ({}, GOOD, "All is well"),
        ({"settled": 0, "outcomes": {}}, GOOD, "Starting"),
        ({"paused": True}, BAD, "Paused: the disk is full"),
        ({"lagging": {"slow": 1, "stuck": 2, "batches": []}}, BAD, "2 batches seem stuck"),
        ({"lagging": {"slow": 1, "stuck": 0, "batches": []}}, LOOK, "1 batch much slower than usual"),
        ({"outcomes": {"ok": 30, "raised": 6, "killed": 4}}, BAD, "25 % of the settled trials failed"),
        ({"outcomes": {"ok": 39, "raised": 1}, "states": {"quarantined": 1}}, LOOK, "1 trial given up"),
        ({"workers": 0}, BAD, "No worker is there"),
        ({"workers": 0, "pools": {"gpu": {"queued": 4}}}, LOOK, "Waiting for workers"),
        ({"pools": {"gpu": {"paused": "no nodes"}}}, LOOK, "Pool gpu is paused: no nodes"),
        ({"stopping": "stopped"}, LOOK, "Stopping; 3 batches in flight will be kept"),
    ],
)
def test_the_verdict(heard: Overview, clock: Clock, figures: dict[str, Any], level: str, words: str) -> None:
    heard({"event": "figures", **HEALTHY, **figures})
    found = verdict(heard.snapshot(), clock.now)
    assert (found.level, found.words) == (level, words)


def test_the_worst_comes_first_and_silence_is_noticed(heard: Overview, clock: Clock) -> None:
    heard({"event": "figures", **HEALTHY, "paused": True, "states": {"quarantined": 2}})
    found = verdict(heard.snapshot(), clock.now + 32)
    assert (found.level, found.words) == (BAD, "No news of the driver for 32 s")
    assert found.notes == ("Paused: the disk is full", "2 trials given up")


@pytest.mark.parametrize(
    ("figures", "level", "words"),
    [
        ({"settled": 100, "outcomes": {"ok": 100}}, GOOD, "Finished, all trials are ok"),
        ({"settled": 100, "outcomes": {"ok": 97, "nan": 3}}, GOOD, "Finished; 3 trials flagged"),
        ({"settled": 100, "outcomes": {"ok": 99, "raised": 1}}, LOOK, "Finished; 1 trial failed"),
        ({}, LOOK, "The driver has ended with 60 trials to go"),
    ],
)
def test_the_last_word(heard: Overview, clock: Clock, figures: dict[str, Any], level: str, words: str) -> None:
    heard({"event": "figures", **HEALTHY, **figures})
    heard.over = True
    found = verdict(heard.snapshot(), clock.now + 3600)
    assert (found.level, found.words) == (level, words)
    assert bool(found.notes) == ("to go" in words)
