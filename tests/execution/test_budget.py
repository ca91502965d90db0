"""What a campaign may hold of its machines: counted over all its runs, and kept to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import staffa
from staffa import api
from staffa.cli import app
from staffa.storage.spending import Spending

MODEL = """
import time
import numpy as np
import staffa

class Slow(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0
    def step(self, key, state, params):
        time.sleep(0.05)
        return state, {"x": np.float64(params["scale"])}
"""
CAMPAIGN = """
campaign: {name: slow}
experiment: {use: "model.py:Slow"}
space: [{linspace: {scale: [0, 1, 120]}}]
execution: {workers: 1, batch: 4}
cluster: {dashboard: false}
"""


def joined(at: float, worker: str, **more: Any) -> dict[str, Any]:
    return {"event": "worker_joined", "at": at, "address": worker, "host": "n1", **more}


def spent(*events: dict[str, Any], now: float) -> dict[str, float]:
    spending = Spending()
    for event in events:
        spending.note(event)
    return {unit: hours * 3600 for unit, hours in spending.hours(now).items()}


def test_devices_nodes_and_the_clock() -> None:
    start = {"event": "run_started", "at": 0.0}
    one = joined(10.0, "a", job="7", node="gpu1", device="0")
    two = joined(10.0, "b", job="7", node="gpu1", device="1,2")
    same = joined(20.0, "c", job="7", node="gpu1", device="1")
    other = joined(20.0, "d", job="8", node="gpu1", device="0")
    found = spent(start, one, two, same, other, now=30.0)
    assert found == {"gpu_hours": 20 * 3 + 10, "node_hours": 20 + 10, "hours": 20}
    gone = {"event": "worker_left", "at": 25.0, "address": "d"}
    assert spent(start, one, two, same, other, gone, now=30.0)["gpu_hours"] == 20 * 3 + 5
    assert spent(start, joined(0.0, "a", device="-1"), now=9.0) == {"gpu_hours": 0, "node_hours": 9, "hours": 9}


def test_nothing_is_held_between_two_drivers() -> None:
    events = [
        {"event": "run_started", "at": 0.0},
        joined(0.0, "a"),
        {"event": "batch_settled", "at": 5.0},
        {"event": "cancelled", "at": 1000.0},
        {"event": "run_started", "at": 2000.0},
        joined(2001.0, "a"),
        {"event": "run_ended", "at": 2003.0},
    ]
    # The first was killed: known is what it had held until it was last heard of.
    assert spent(*events, now=9000.0)["hours"] == 5 + 2


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from("abc"), st.booleans()), max_size=12))
def test_the_clock_is_never_ahead_of_the_nodes(story: list[tuple[float, str, bool]]) -> None:
    at, events = 0.0, [{"event": "run_started", "at": 0.0}]
    for step, worker, comes in story:
        at += step
        event = joined(at, worker, device=worker, node=worker)
        events.append(event if comes else {"event": "worker_left", "at": at, "address": worker})
    found = spent(*events, now=at)
    assert 0 <= found["hours"] <= found["node_hours"] + 1e-6 and found["hours"] <= at + 1e-6
    assert found["gpu_hours"] == pytest.approx(found["node_hours"])


def test_a_budget_is_kept_over_several_runs(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text(CAMPAIGN)
    words = ["run", str(campaign), "--set", f"storage.root={tmp_path}", "--budget", "hours=0.001", "--json"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 130, found.output
    root = tmp_path / "v1.0_slow"
    first = api.status(root)
    figures = first["figures"]
    assert 0 < figures["settled"] < 120 and first["run"]["reason"] == "budget"
    assert figures["budget"]["hours"]["spent"] >= 0.001
    assert figures["outcomes"] == {"ok": figures["settled"]}, "what was in flight was committed"
    said = CliRunner().invoke(app, ["status", str(root)]).output
    assert "of 0.001 hours" in said and "staffa resume" in said
    # What was spent stays spent: with the frozen budget nothing more is issued.
    assert api.resume(root, progress=False).ended.reason == "budget"
    events = list(api.events(root))
    assert api.status(root)["figures"]["settled"] == figures["settled"]
    assert sum(event["event"] == "budget_reached" for event in events) == 2
    ended = staffa.resume(root, set=["execution.budget.hours=1"], progress=False).ended
    assert ended.reason == "finished" and ended.outcomes == {"ok": 120}


def test_a_budget_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    for word in ("gpu_hours=0", "gpu_hours=-1", "gpu_hours=many", "gpu_days=1"):
        found = CliRunner().invoke(app, ["run", str(tmp_path / "campaign.yaml"), "--budget", word])
        assert isinstance(found.exception, staffa.ConfigError) and "execution.budget" in str(found.exception)
    assert not (tmp_path / "runs").exists()
