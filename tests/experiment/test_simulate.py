"""Plain Python experiments (`vectorize: off`): a loop of trials, each with its own fate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiment.lab import SEED, outcomes, words_of
from staffa.errors import PluginError
from staffa.experiment.batch import unguarded
from staffa.experiment.protocol import Sampling, Schema
from staffa.experiment.registry import build
from staffa.experiment.simulate import Loop, pilot
from staffa.trial import Outcome

MODEL = """
import sys, time
import numpy as np
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"
    dims = {"spin": ("chain", "site")}
    def initialize(self, key, params):
        return [np.random.default_rng(key).integers(0, 2**63)]
    def adapt(self, key, state, params):
        return [*state, np.random.default_rng(key).integers(0, 2**63)]
    def step(self, key, state, params):
        draw = np.random.default_rng(key).integers(0, 2**63)
        return [*state, draw], {"first": state[0], "length": len(state), "draw_word": draw, "spin": np.ones((2, 3))}

class Faulty(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return params["mode"]
    def step(self, key, mode, params):
        value = {"count": 1, "x": np.zeros(2), "flag": True}
        if mode == "raise": raise KeyError("no such thing")
        if mode == "exit": sys.exit("enough")
        if mode == "slow": time.sleep(0.2)
        if mode == "nan": value["x"] = np.array([0.0, np.nan])
        if mode == "infinite": value["x"] = np.array([0.0, np.inf])
        if mode == "longer": value["x"] = np.zeros(3)
        if mode == "fraction": value["count"] = 1.5
        if mode == "text": value["count"] = "one"
        if mode == "nothing": value["count"] = None
        if mode == "fewer": del value["flag"]
        if mode == "more": value["extra"] = 1
        if mode == "integers": value["x"] = [3, 4]
        return mode, value
"""
MODES = [
    "plain", "raise", "exit", "slow", "nan", "infinite", "longer", "fraction", "text", "nothing", "fewer", "more",
    "integers",
]  # fmt: skip
FINE = ("plain", "slow", "infinite", "integers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def loop_of(folder: Path, name: str, params: list[dict[str, Any]], sampling: Sampling = Sampling()) -> Loop:  # noqa: B008
    experiment = build({"use": f"model.py:{name}"}, folder)
    schema = pilot(experiment, SEED, np.zeros(4, np.uint32), params[0], sampling, folder)
    return Loop(experiment, SEED, words_of(*range(len(params))), params, sampling, schema, folder)


def run(loop: Loop, lanes: list[int] | None = None) -> Loop:
    loop.run(range(len(loop.words)) if lanes is None else lanes, unguarded, lambda: None)
    return loop


@pytest.fixture
def faulty(folder: Path) -> Loop:
    return run(loop_of(folder, "Faulty", [{"mode": mode} for mode in MODES]))


# ---- each trial by itself


def test_each_trial_has_its_own_outcome(faulty: Loop) -> None:
    expected = dict.fromkeys(MODES, "raised") | dict.fromkeys(FINE, "ok") | {"nan": "nan"}
    assert dict(zip(MODES, outcomes(faulty.outcomes), strict=True)) == expected


def test_messages_say_why(faulty: Loop) -> None:
    said = {MODES[lane]: text for lane, text in faulty.messages.items()}
    assert said["raise"] == "KeyError: 'no such thing'" and said["exit"] == "SystemExit: enough"
    assert "(3,)" in said["longer"] and "(2,)" in said["longer"]
    assert "'count'" in said["fraction"] and "float64" in said["fraction"] and "int64" in said["fraction"]
    assert "'flag'" in said["fewer"] and "'extra'" in said["more"]
    assert set(said) == set(MODES) - {*FINE, "nan"}


def test_what_is_recorded_is_what_was_returned(faulty: Loop) -> None:
    assert faulty.outputs["x"][MODES.index("integers")].tolist() == [3.0, 4.0]
    assert faulty.outputs["count"][MODES.index("fraction")] == 0  # refused, not rounded
    failed = [lane for lane in range(len(MODES)) if faulty.outcomes[lane] == Outcome.RAISED]
    assert np.isnan(faulty.outputs["x"][failed]).all() and not faulty.outputs["flag"][failed].any()


def test_each_trial_has_its_own_time(faulty: Loop) -> None:
    slow = MODES.index("slow")
    assert 0.2 <= faulty.trial_seconds[slow] < 2
    assert (np.delete(faulty.trial_seconds, slow) < 0.2).all() and (faulty.trial_seconds > 0).all()


def test_every_trial_stands_alone_in_the_guard_and_finished_ones_are_not_done_again(folder: Path) -> None:
    loop = loop_of(folder, "Faulty", [{"mode": "plain"}] * 5)
    loop.outcomes[[1, 4]] = Outcome.OK, Outcome.PADDING
    seen: list[list[int]] = []
    counted: list[int] = []

    @contextlib.contextmanager
    def guard(lanes: list[int]) -> Iterator[None]:
        seen.append(list(lanes))
        yield

    def progressed() -> None:
        counted.append(int((loop.outcomes == Outcome.OK).sum()))

    loop.run(range(5), guard, progressed)
    assert seen == [[0], [2], [3]] and counted == [2, 3, 4]
    assert outcomes(loop.outcomes) == ["ok"] * 4 + ["padding"]


# ---- keys


def word(trial: int, stream: int, index: int) -> int:
    key = np.random.SeedSequence([SEED, *map(int, words_of(trial)[0])], spawn_key=(stream, index))
    return int(np.random.default_rng(key).integers(0, 2**63))


def test_keys_come_from_identity_stream_and_step(folder: Path) -> None:
    sampling = Sampling(draws=3, thin=2, discard=1, warmup=2)
    loop = run(loop_of(folder, "Plain", [{}] * 3, sampling))
    for trial in range(3):
        assert (loop.outputs["first"][trial] == word(trial, 0, 0)).all()
        assert loop.outputs["draw_word"][trial].tolist() == [word(trial, 2, step) for step in (3, 5, 7)]
    # 1 from initialize, 2 from the warm-up, then one for each step before this one
    assert loop.outputs["length"][0].tolist() == [3 + 3, 3 + 5, 3 + 7]
    alone = loop_of(folder, "Plain", [{}] * 3, sampling)
    run(alone, [2])
    for name in alone.outputs:  # neither order nor company matters
        assert alone.outputs[name][2].tobytes() == loop.outputs[name][2].tobytes()


def test_one_shot_has_no_draw_axis_and_chains_come_before_draws(folder: Path) -> None:
    once = run(loop_of(folder, "Plain", [{}] * 2))
    assert once.outputs["first"].shape == (2,) and once.outputs["spin"].shape == (2, 2, 3)
    often = run(loop_of(folder, "Plain", [{}] * 2, Sampling(draws=5)))
    assert often.outputs["first"].shape == (2, 5) and often.outputs["spin"].shape == (2, 2, 5, 3)


# ---- the pilot


def described(folder: Path, body: str, sampling: Sampling = Sampling(), extra: str = "") -> Schema:  # noqa: B008
    (folder / "model.py").write_text(
        "import numpy as np\nimport staffa, time\n\nclass One(staffa.Experiment):\n    vectorize = 'off'\n"
        f"    {extra or 'pass'}\n"
        f"    def initialize(self, key, params): return 0\n    def step(self, key, state, params):\n        {body}\n"
    )
    experiment = build({"use": "model.py:One"}, folder)
    return pilot(experiment, SEED, np.zeros(4, np.uint32), {"word": "abc"}, sampling, folder)


def test_the_pilot_finds_shapes_and_takes_the_time(folder: Path) -> None:
    dims = 'dims = {"a.b": ("site",)}'
    body = 'time.sleep(0.05); return 0, {"a": {"b": np.zeros(3, "float32")}, "size": len(params["word"])}'
    for sampling in (Sampling(), Sampling(draws=2)):
        schema = described(folder, body, sampling, dims)
        found = [(o.name, o.dtype, o.shape, o.dims) for o in schema.outputs]
        assert found == [("a.b", "float32", (3,), ("site",)), ("size", "int64", (), ())]
        assert schema.pilot_seconds is not None and 0.05 <= schema.pilot_seconds < 1
    started = time.perf_counter()
    described(folder, body, Sampling(draws=2, thin=2, discard=1))
    assert time.perf_counter() - started >= 6 * 0.05


@pytest.mark.parametrize(
    ("body", "fragments"),
    [
        ("return 0, {'x': 1 / 0}", ["model.py:9: in step", "ZeroDivisionError"]),
        ("return 0, {'x': params['wrod']}", ["model.py:9: in step", "did you mean 'word'?"]),
        ("return 0, {'x': object()}", ["model.py:4: ", "'x' is an object", "text, timedelta; to add a type, see"]),
        ("return 0, {'x': 1j}", ["'x' is a complex", "record .real and .imag"]),
        ("return 0, {'x': 2**80}", ["'x' is an int", "beyond 64 bits"]),
        ("return 0, {'x': ('a', 1)}", ["'x' has a tuple at $", "write list(…)"]),
        ("return 0, {'x': [{1: 2}]}", ["'x' has the key 1 at $[0]", "write str(key)"]),
        ("return 0, {'x': ['\\ud800']}", ["'x' has the lone surrogate '\\ud800' at place 0 of a text at $[0]"]),
        ("return 0, {'x': [float('nan'), 'a']}", ["'x' has nan at $[0]", "write None"]),
        ("return 0, {'x': np.array([1], 'M8[Y]')}", ["'x' is of datetime64[Y]", "D, s, ms, us, ns"]),
        ("return 0, {'x': None}", ["'x' was None in the pilot trial", "encodings = {"]),
        ("return 0, {'x': {'a b': 1}}", ["'x.a b'", 'encodings = {"x": "json"}']),
        ("return 0, {'draw': 1}", ["'draw'", "rename"]),
        ("return 0, {}", ["no outputs"]),
        ("return 0, 1.0", ["dict of outputs"]),
        ("return 0, {'x': np.zeros(0)}", ["'x' is empty"]),
        ("return 0, {'s': 1.0}", ["dims['s'] = ('chain',)", "0"]),
    ],
)
@pytest.mark.parametrize("draws", [None, 2])
def test_the_pilot_refuses_with_the_users_line(
    folder: Path, body: str, fragments: list[str], draws: int | None
) -> None:
    with pytest.raises(PluginError) as caught:
        described(folder, body, Sampling(draws=draws), 'dims = {"s": ("chain",)}')
    for fragment in fragments:
        assert fragment in str(caught.value)
