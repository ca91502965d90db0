"""The conformance suites: what is sound passes, and every way to be unsound is found by its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer

import staffa
from staffa.errors import PluginError
from staffa.testing import Faulty, NotConforming, PlainFaulty, check_experiment, check_family, experiments, faults

# What is asked is asked whatever XLA makes of it; it optimises where everything is asked at once.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

# --- experiments that conform ----------------------------------------------------------------------


class Sound(staffa.Experiment):
    """Everything at once: chains, a warm-up, a static size, a key in the state."""

    static = ("size",)
    dims = {"x": ("chain", "place")}

    def __init__(self, power: float = 1.0):
        self.power = power

    def initialize(self, key, params):
        first, kept = jax.random.split(key)
        return {"x": jax.random.normal(first, (2, params["size"])), "own": kept, "n": 0}

    def adapt(self, key, state, params):
        return {**state, "x": state["x"] * 0.5}

    def step(self, key, state, params):
        own, used = jax.random.split(state["own"])
        jump = jax.random.normal(key, state["x"].shape) + jax.random.normal(used, state["x"].shape)
        x = state["x"] + params["scale"] * jump
        root = jnp.sqrt(params["scale"]) ** self.power
        return {**state, "x": x, "own": own, "n": state["n"] + 1}, {"x": x, "n": state["n"], "root": root}


class SoundPlain(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return np.random.default_rng(key).normal()

    def step(self, key, state, params):
        with np.errstate(invalid="ignore"):
            return state, {"x": state + np.random.default_rng(key).normal() * np.sqrt(params["scale"])}


PARAMS = {"scale": 0.5, "size": 3}


def test_a_sound_experiment_passes_everything(fully_compiled):
    found = check_experiment(
        Sound, PARAMS, options={"power": 2.0}, thin=2, discard=1, warmup=3, nan={"scale": -1.0, "size": 3}
    )
    asked = [one.what for one in found]
    for what in (
        "pure",
        "keys",
        "segments",
        "side by side",
        "float64",
        "shapes",
        "NaN is flagged",
        "stays in its lane",
    ):
        assert any(what in one for one in asked), what
    assert all(one.holds for one in found)
    assert {one.rpartition("x64: ")[2] for one in asked if "x64" in one} == {"true)", "false)"}


def test_one_shot_and_several_rows():
    rows = [{"scale": 0.1 * number, "size": 3} for number in range(1, 4)]
    assert all(one.holds for one in check_experiment(Sound, rows, draws=None, x64=(False,)))


def test_a_sound_plain_experiment_passes():
    found = check_experiment(SoundPlain, {"scale": 1.0}, nan={"scale": -1.0})
    assert all(one.holds for one in found) and any("own key alone" in one.what for one in found)


# --- and those that do not -------------------------------------------------------------------------


class Base(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.zeros(2)

    def step(self, key, state, params):
        state = state + params["scale"] * jax.random.normal(key, (2,))
        return state, {"x": state}


class Counts(Base):
    """Keeps something on the instance."""

    calls = 0

    def step(self, key, state, params):
        self.calls += 1
        return super().step(key, state, params)


class Collects(Base):
    """… in place."""

    def __init__(self):
        self.seen: list[Any] = []

    def step(self, key, state, params):
        self.seen.append(1)
        return super().step(key, state, params)


class Leaks(Base):
    def __init__(self):
        self.state = None

    def step(self, key, state, params):
        self.state = state
        return super().step(key, state, params)


class Baked(Base):
    """Random numbers of Python's own are baked into the program."""

    def step(self, key, state, params):
        state, _ = super().step(key, state, params)
        return state, {"x": state + np.random.default_rng().normal()}


class Branches(Base):
    def step(self, key, state, params):
        return super().step(key, state, params) if params["scale"] > 0 else (state, {"x": state})


class Deaf(Base):
    """Does not listen to its key."""

    def step(self, key, state, params):
        return super().step(jax.random.key(0), state, params)


class Twice(Base):
    """Uses one key for two things."""

    def step(self, key, state, params):
        state, outputs = super().step(key, state, params)
        return state, {**outputs, "again": jax.random.uniform(key)}


class TwiceAtStart(Base):
    def initialize(self, key, params):
        return jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))


class Grows(Base):
    def step(self, key, state, params):
        return jnp.concatenate([state, state]), {"x": state}


class Wide(Base):
    """Asks for doubles by name."""

    def step(self, key, state, params):
        state, outputs = super().step(key, state, params)
        return state, {"x": outputs["x"].astype("float64")}


class Narrow(Base):
    """Works in single precision only: the state's type changes with `x64`."""

    def initialize(self, key, params):
        return jnp.zeros(2, "float32")


class Crowd(Base):
    """Lanes see one another: a callback looks at all of them."""

    def step(self, key, state, params):
        state, _ = super().step(key, state, params)
        shape = jax.ShapeDtypeStruct((), state.dtype)
        mean = jax.pure_callback(
            lambda x: np.full(np.shape(x), np.mean(x), x.dtype), shape, state[0], vmap_method="broadcast_all"
        )
        return state, {"x": state + mean}


class Ticks(Base):
    """Asks the host for something that changes between calls."""

    def step(self, key, state, params):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        tick = jax.pure_callback(tick_of, shape, state[0], vmap_method="sequential")
        return state, {"x": state + tick + jax.random.normal(key, (2,))}


class Raises(Base):
    def step(self, key, state, params):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return state, {"x": jax.pure_callback(lambda x: 1 / 0, shape, state[0], vmap_method="sequential")}


class Hides(Base):
    """Swallows the NaN of its parameters."""

    def step(self, key, state, params):
        state, outputs = super().step(key, state, params)
        return jnp.nan_to_num(state), {"x": jnp.nan_to_num(outputs["x"])}


class NeedsMore(Base):
    def __init__(self, rate: float):
        self.rate = rate


TICKS = iter(range(10**9))


def tick_of(x):
    return np.asarray(next(TICKS) + 0 * np.asarray(x), "float32")


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        (Counts, "keeps nothing between trials: it writes to self.calls"),
        (Collects, "keeps nothing between trials: it writes to self.seen"),
        (Leaks, "pure: keeps no traced value"),
        (Baked, "pure: traced anew, it gives the same"),
        (Branches, "can be traced (x64: false): PluginError"),
        (Deaf, "keys are used (x64: false): trials with other keys give the same"),
        (Twice, "no key is used twice (x64: false): KeyReuseError"),
        (TwiceAtStart, "no key is used twice (x64: false): KeyReuseError"),
        (Grows, "can be traced (x64: false): PluginError"),
        (Wide, "no float64 leaks (x64: false): Explicitly requested dtype float64"),
        (Narrow, "can be traced (x64: true): PluginError"),
        (Crowd, "lanes side by side give what one alone gives (x64: false): x differs by"),
        (Ticks, "pure: traced anew, it gives the same (x64: false): x differ bit for bit"),
        (Raises, "runs (x64: false): JaxRuntimeError"),
        (NeedsMore, "can be made from its options: TypeError"),
    ],
)
def test_what_is_wrong_is_found(cls, what):
    with pytest.raises(NotConforming) as caught:
        check_experiment(cls, {"scale": 0.5}, x64=(cls is Narrow,))
    assert what in str(caught.value) and str(caught.value).startswith(f"{cls.__name__} does not conform:")


def test_a_nan_that_is_hidden_or_not_expected():
    with pytest.raises(NotConforming, match=r"a NaN is flagged .*none is recorded at"):
        check_experiment(Hides, {"scale": 0.5}, nan={"scale": float("nan")}, x64=(False,))
    with pytest.raises(NotConforming, match=r"no NaN at these parameters .*lanes \[0, 1, 2, 3\]"):
        check_experiment(Base, {"scale": float("nan")}, x64=(False,))


def test_a_nan_that_spreads():
    with pytest.raises(NotConforming, match="a NaN stays in its lane"):
        check_experiment(Crowd, {"scale": 0.5}, nan={"scale": float("nan")}, tolerance=1e9, x64=(False,))


def test_segments_that_do_not_continue(monkeypatch):
    """Nothing a pure experiment does could break them: the engine has to be broken for this test."""
    real = experiments._sampled

    def off_by_a_bit(begin, program, sampling, words, params):
        outputs, flags = real(begin, program, sampling, words, params)
        return {n: np.nextafter(v, 1) if sampling.segments > 1 else v for n, v in outputs.items()}, flags

    monkeypatch.setattr(experiments, "_sampled", off_by_a_bit)
    with pytest.raises(NotConforming, match=r"segments continue exactly .*: x differ bit for bit"):
        check_experiment(Base, {"scale": 0.5}, x64=(False,))


def test_an_experiment_without_chance():
    check_experiment(Deaf, {"scale": 0.5}, stochastic=False, x64=(False,))
    with pytest.raises(NotConforming, match="keys are not used"):
        check_experiment(Base, {"scale": 0.5}, stochastic=False, x64=(False,))


class PlainBase(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return np.random.default_rng(key).normal()

    def step(self, key, state, params):
        return state, {"x": np.float64(state) * params["scale"]}


class PlainGlobal(PlainBase):
    def step(self, key, state, params):
        return state, {"x": np.random.normal()}


class PlainRagged(PlainBase):
    def step(self, key, state, params):
        return state, {"x": np.zeros(int(params["scale"]))}


class PlainDeaf(PlainBase):
    def initialize(self, key, params):
        return 1.0


class PlainRaises(PlainBase):
    def step(self, key, state, params):
        raise OSError("no such table")


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        (PlainGlobal, "draws from its own key alone: it draws from random"),
        (PlainRagged, "every trial records what the first does: PluginError: output 'x' has shape (6, 2)"),
        (PlainDeaf, "keys are used: trials with other keys give the same"),
        (PlainRaises, "runs: PilotError: PlainRaises: OSError: no such table"),
    ],
)
def test_what_is_wrong_in_plain_python_is_found(cls, what):
    with pytest.raises(NotConforming) as caught:
        check_experiment(cls, [{"scale": 1.0}, {"scale": 2.0}, {"scale": 3.0}])
    assert what in str(caught.value)


# --- other families --------------------------------------------------------------------------------


def org(columns, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [columns, *rows])


def mute(columns, rows):
    return None


def forgetful(columns, rows):
    return " ".join(columns)


def hello(name: str = "world"):
    """Say hello."""
    typer.echo(f"hello {name}")


def test_families():
    assert all(one.holds for one in check_family("renderers", org))
    assert all(one.holds for one in check_family("commands", hello))
    assert all(one.holds for one in check_family("schedules", Sound))
    found = check_family("experiments", Base, params={"scale": 0.5}, x64=(False,))
    assert any("segments" in one.what for one in found)


@pytest.mark.parametrize(
    ("family", "factory", "what"),
    [
        ("renderers", mute, "renders a table: --format asked: its renderer returned NoneType"),
        ("renderers", forgetful, "renders a table: ['sample', '1.5'] does not stand in what it returns"),
        ("renderers", 3, "fits its family: 3 cannot be called"),
        ("experiments", org, "fits its family: org is not a subclass of staffa.Experiment"),
        ("commands", Base, "fits its family: Base is neither a function nor a typer.Typer"),
    ],
)
def test_a_plug_in_that_does_not_fit(family, factory, what):
    with pytest.raises(NotConforming) as caught:
        check_family(family, factory)
    assert what in str(caught.value)


def test_a_plug_in_other_processes_cannot_import():
    class Local(Base):
        pass

    with pytest.raises(NotConforming, match="other processes can import it"):
        check_family("samplers", Local)
    with pytest.raises(NotConforming, match=r"can be traced"):
        check_family("experiments", Branches, params={"scale": 0.5})
    with pytest.raises(PluginError, match="no family of plug-ins"):
        check_family("sampler", Base)


# --- faults ----------------------------------------------------------------------------------------

CAMPAIGN = """
campaign: {name: faults}
experiment: {use: model.py:Faulty}
space: [{grid: {fault: CODES}}]
sampling: {draws: 3}
execution: {batch: 8, workers: 1, timeout: 3s, retries: {limit: 0}}
cluster: {dashboard: false}
archive: {every: off}
"""


@pytest.mark.parametrize("experiment", [pytest.param("Faulty", marks=pytest.mark.slow), "PlainFaulty"])
def test_every_fault_ends_as_the_table_says(tmp_path: Path, experiment: str):
    table = faults()
    codes = [fault.code for fault in table.values()]
    (tmp_path / "model.py").write_text("from staffa.testing import Faulty, PlainFaulty\n")
    text = CAMPAIGN.replace("CODES", str(codes)).replace("model.py:Faulty", f"model.py:{experiment}")
    (tmp_path / "campaign.yaml").write_text(text)
    run = staffa.run(tmp_path / "campaign.yaml", set=[f"storage.root={tmp_path / 'runs'}"], progress=False)
    expected: dict[str, int] = {}
    for fault in table.values():
        expected[fault.outcome] = expected.get(fault.outcome, 0) + 1
    assert run.ended.outcomes == expected


def test_a_trial_that_kills_spares_the_process_of_a_test():
    with pytest.raises(NotConforming, match=r"this is no worker's"):
        check_experiment(PlainFaulty, {"fault": faults()["kill"].code})
    script = "from staffa.testing.faulty import _misbehave\n_misbehave([6])\n"
    environment = {**os.environ, "STAFFA_WORKER": "w0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_healthy_faulty_experiment_conforms():
    assert all(one.holds for one in check_experiment(Faulty, {"fault": 0}, nan={"fault": 1}, x64=(False,)))
    assert all(one.holds for one in check_experiment(PlainFaulty, {"fault": 0}, nan={"fault": 1}))
