"""A batch that yields between segments goes on elsewhere, to the same bytes, and costs no try."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import staffa
from staffa.campaign.plan import Plan
from staffa.execution import work
from staffa.execution.bench import Order
from staffa.execution.graph import batch_graph
from staffa.execution.pace import Expected, Pace
from staffa.execution.prepare import load_plan, open_stores, plan_digest
from staffa.storage.workspace import Workspace

MODEL = """
import jax, staffa

class Walk(staffa.Experiment):
    def initialize(self, key, params):
        return jax.numpy.zeros(2)
    def adapt(self, key, state, params):
        return state + params["drift"]
    def step(self, key, state, params):
        state = state + jax.random.normal(key, (2,)) + params["drift"]
        return state, {"x": state}
"""

PLAIN = """
import time, staffa

class Slow(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0
    def step(self, key, state, params):
        time.sleep(0.05)
        return state, {"y": params["drift"] * 2}
"""


def campaign(folder: Path, model: str, use: str, **more: object) -> staffa.Campaign:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(model)
    (folder / "campaign.yaml").write_text(
        f"campaign: {{name: walk}}\nexperiment: {{use: 'model.py:{use}'}}\n"
        "space:\n  - grid: {drift: [0.0, 0.5, 1.0]}\nreplicates: 2\n"
    )
    return staffa.load(folder / "campaign.yaml", storage={"root": str(folder / "runs")}, **more)


def planned(declared: staffa.Campaign) -> tuple[Workspace, Plan, Order]:
    staffa.graph(declared, batch=0)
    workspace = Workspace.open(declared.root)
    plan = load_plan(workspace)
    return workspace, plan, Order(str(workspace.root), plan_digest(plan), plan.generation, 0, 0)


def compute(order: Order, plan: Plan) -> dict:
    return batch_graph(order, plan.sampling).compute(scheduler="synchronous")


def data(workspace: Workspace, plan: Plan, name: str) -> np.ndarray:
    store = open_stores(workspace, plan)[0]
    return np.concatenate([store.read(name, 0, s) for s in range(plan.sampling.segments)], axis=1)


def test_segments_carry_over_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"sampling": {"draws": 12}, "execution": {"segments": 4}}
    whole, plan, order = planned(campaign(tmp_path / "whole", MODEL, "Walk", **shape))
    assert compute(order, plan)["yielded"] is None

    workspace, plan, order = planned(campaign(tmp_path / "pieces", MODEL, "Walk", **shape))
    left = iter([100.0] * 3 + [0.0] * 20)  # asked before the batch, then before each segment
    monkeypatch.setattr(work, "seconds_left", lambda: next(left))
    receipt = compute(order, plan)
    assert (receipt["yielded"], receipt["computed"], receipt["outcomes"]) == (2, 2, {})
    assert list(workspace.state.glob("*.safetensors")), "another worker needs the state"
    monkeypatch.setattr(work, "seconds_left", lambda: 100.0)
    receipt = compute(replace(order, issue=2), plan)
    assert (receipt["yielded"], receipt["computed"]) == (None, 2)
    assert receipt["outcomes"] == {"ok": 6}
    np.testing.assert_array_equal(data(workspace, plan, "x"), data(whole, plan, "x"))
    assert not list(workspace.state.glob("*.safetensors"))


def test_the_warm_up_carries_over_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"sampling": {"draws": 4, "warmup": 40}, "execution": {"segments": 4}}
    whole, plan, order = planned(campaign(tmp_path / "whole", MODEL, "Walk", **shape))
    pieces = plan.sampling.warm_segments
    assert pieces > 2 and compute(order, plan)["yielded"] is None

    workspace, plan, order = planned(campaign(tmp_path / "pieces", MODEL, "Walk", **shape))
    left = iter([100.0] * 3 + [0.0] * 20)
    monkeypatch.setattr(work, "seconds_left", lambda: next(left))
    receipt = compute(order, plan)
    assert (receipt["yielded"], receipt["computed"]) == (0, 0)
    monkeypatch.setattr(work, "seconds_left", lambda: 100.0)
    calls = []
    original = work.Performer.warm
    monkeypatch.setattr(
        work.Performer, "warm", lambda self, carried, *rest: (calls.append(rest), original(self, carried, *rest))[1]
    )
    assert compute(replace(order, issue=2), plan)["yielded"] is None
    begun = [first for phase, first, last in calls if phase == "adapt" and first < last]
    assert begun and min(begun) >= 20, "what was warmed up is not warmed up again"
    np.testing.assert_array_equal(data(workspace, plan, "x"), data(whole, plan, "x"))


def test_nothing_is_begun_that_cannot_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"sampling": {"draws": 12}, "execution": {"segments": 4}}
    workspace, plan, order = planned(campaign(tmp_path, MODEL, "Walk", **shape))
    monkeypatch.setenv("STAFFA_ENDS", str(time.time() + 8))
    receipt = compute(replace(order, begin=4.0, segment=4.0), plan)
    assert receipt["yielded"] == 0 and receipt["computed"] == 0 and receipt["compiles"] == 0
    assert not list(workspace.state.glob("*.safetensors"))
    receipt = compute(replace(order, begin=0.5, segment=0.5, issue=2), plan)
    assert receipt["yielded"] is None


def test_plain_python_trials_yield_between_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, plan, order = planned(campaign(tmp_path, PLAIN, "Slow"))
    monkeypatch.setenv("STAFFA_ENDS", str(time.time() + 3.2))
    first = compute(order, plan)
    assert first["yielded"] == 0 and list(workspace.state.glob("*.safetensors"))
    monkeypatch.delenv("STAFFA_ENDS")
    trials = open_stores(workspace, plan)[0].seconds(0)
    second = compute(replace(order, issue=2), plan)
    assert second["yielded"] is None and second["outcomes"] == {"ok": 6}
    assert (trials == 0).all()


def test_pace_is_learned_for_each_device_kind() -> None:
    pace = Pace(SimpleNamespace(sampling=SimpleNamespace(segments=3)), {0: "a", 1: "a", 2: "b"})
    assert pace.expect(0, "gpu") is None
    assert pace.fits(0, "gpu", left=21.0, ahead=0) and not pace.fits(0, "gpu", left=19.0, ahead=0)
    assert not pace.fits(0, "gpu", left=21.0, ahead=1), "of what is not known yet, one is enough"
    pace.note(0, "gpu", "A100", 3, {"compile": 4.0, "initialize": 1.0, "sample": 30.0, "write": 9.0})
    assert pace.expect(1, "gpu") == Expected(5.0, 10.0), "groups of one program share its pace"
    assert pace.expect(2, "gpu") is None
    assert pace.fits(1, "gpu", left=20.0, ahead=0) and not pace.fits(1, "gpu", left=19.0, ahead=0)
    assert pace.fits(1, "gpu", left=62.0, ahead=1) and not pace.fits(1, "gpu", left=60.0, ahead=1)
    pace.note(0, "old", "V100", 1, {"sample": 60.0})
    assert pace.expect(0, "old") == Expected(0.0, 60.0) and pace.expect(0, "gpu") == Expected(5.0, 10.0)
    pace.note(0, "gpu", "A100", 0, {})
    assert pace.expect(0, "gpu") == Expected(5.0, 10.0), "a receipt that computed nothing teaches nothing"
