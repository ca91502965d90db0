"""As many lanes as the device has room for, found once: by what the compiler says, not by running out of memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import staffa
from execution.test_yield import campaign, compute, planned
from staffa.campaign.plan import Group, Plan
from staffa.execution import bench
from staffa.execution.bench import SAFETY, Bench, Order, phases
from staffa.experiment.batch import choose_width

MODEL = """
import jax, staffa

class Wide(staffa.Experiment):
    def initialize(self, key, params):
        return jax.numpy.zeros(8)
    def step(self, key, state, params):
        # What a lane holds meanwhile, 256 KiB, shows neither in its state nor in what it records.
        noise = jax.random.normal(key, (256, 256))
        state = state + jax.numpy.sort(noise @ noise.T, axis=0)[0, :8] * params["drift"]
        return state, {"x": state}
"""


def at_work(folder: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch, **more: object) -> tuple[Bench, Order]:
    """A worker's view of a campaign of 64 lanes a batch, on a device with so much memory."""
    declared = campaign(folder, MODEL, "Wide", sampling={"draws": 2}, **more)
    declared = staffa.load(folder / "campaign.yaml", storage={"root": str(folder / "runs")}, replicates=16, **more)
    _, plan, order = planned(declared)
    assert isinstance(plan, Plan) and plan.groups[0].batch == 64
    bench.programs.cache_clear()
    monkeypatch.setattr(bench, "device_memory", lambda: limit)
    return Bench(order.root, order.plan, order.generation), order


def guessed(one: Bench) -> int:
    return choose_width(64, one.schema(one.group(0)), 2)


def taken(one: Bench, width: int) -> int:
    found = one.program(one.group(0), width).memory(*phases(one.plan.sampling))
    assert found is not None
    return found


def test_lanes_are_as_many_as_fit_with_room_to_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    one, _ = at_work(tmp_path / "one", None, monkeypatch)
    assert one.width(one.group(0)) == guessed(one) == 64, "nobody knows what there is"
    limit = int(taken(one, 16) / SAFETY * 1.2)
    assert taken(one, 64) > limit

    two, order = at_work(tmp_path / "two", limit, monkeypatch)
    width = two.width(two.group(0))
    assert width in (8, 16) and taken(two, width) <= SAFETY * limit < taken(two, 64)
    receipt = compute(order, two.plan)
    assert (receipt["width"], receipt["outcomes"]) == (width, {"ok": 48})

    kept = [json.loads(file.read_text()) for file in (tmp_path / "cache" / "widths").iterdir()]
    assert [(row["width"], row["memory"]) for row in kept] == [(width, limit)]


def test_a_width_is_found_once_for_a_program_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    tried: list[int] = []
    original = Bench._taken

    def taken_at(self: Bench, group: Group, width: int) -> float | None:
        tried.append(width)
        return original(self, group, width)

    monkeypatch.setattr(Bench, "_taken", taken_at)
    one, _ = at_work(tmp_path / "one", 8 << 20, monkeypatch)
    width = one.width(one.group(0))
    assert tried[0] == 64 and tried[-1] == width < 64
    assert one.width(one.group(0)) == width

    known = len(tried)
    again, _ = at_work(tmp_path / "another-campaign", 8 << 20, monkeypatch)
    assert again.width(again.group(0)) == width and len(tried) == known, "another campaign of the same program"
    assert set(bench.programs()._programs) == set(), "nothing was compiled to know it"

    smaller, _ = at_work(tmp_path / "smaller", 4 << 20, monkeypatch)
    assert smaller.width(smaller.group(0)) < width and len(tried) > known, "another device"


def test_what_is_left_after_running_out_of_memory_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    one, _ = at_work(tmp_path / "one", None, monkeypatch)
    one.remember_width(one.group(0), 4)
    assert one.width(one.group(0)) == 4
    two, _ = at_work(tmp_path / "two", None, monkeypatch)
    assert two.width(two.group(0)) == 4
    file = next((tmp_path / "cache" / "widths").iterdir())
    for text in ("{", '{"width": 5}', '{"width": 0}', '{"width": "4"}', "[4]"):
        file.write_text(text)
        three, _ = at_work(tmp_path / f"three{hash(text)}", None, monkeypatch)
        assert three.width(three.group(0)) == 64, text


def test_who_asks_for_a_width_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = at_work(tmp_path, 1, monkeypatch, execution={"width": 32})
    assert one.width(one.group(0)) == 32


def test_states_between_segments_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the program alone is not enough: all slices' states stay on the device."""
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    one, _ = at_work(tmp_path / "one", None, monkeypatch)
    state = one.group(0).state_bytes
    limit = int((taken(one, 32) + 31 * state) / SAFETY)
    two, _ = at_work(tmp_path / "two", limit, monkeypatch)
    assert two.width(two.group(0)) < 32
    assert state == 32
