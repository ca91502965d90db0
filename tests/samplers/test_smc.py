"""What `smc` promises of its options, its outputs and its state, whatever the algorithm."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.ambient import register
from staffa.errors import PluginError
from staffa.experiment.perform import Lane, Program, Spec
from staffa.experiment.protocol import Sampling
from staffa.experiment.registry import build
from staffa.samplers.diversity import along
from staffa.samplers.resampling import Multinomial, Systematic
from staffa.samplers.schedules import Adaptive, Linear, Static
from staffa.samplers.smc import HMC, SMC, Gibbs, Metropolis, Mutation, RandomWalk
from staffa.samplers.smc.weights import even, weighed, weighted_mean
from staffa.samplers.target import Continuous, Discrete
from staffa.seeds import KEY_WORDS
from staffa.testing import check_experiment


class Ones(Discrete):
    """Fitness is the number of ones, times the parameter `scale`; the parameter may be NaN."""

    length, states, components = 5, 3, ("zeros",)
    pieces = 5

    def fitness(self, x, params):
        scale = params.get("scale", 1.0)
        return scale * jnp.sum(x == 1), {"zeros": jnp.sum(x == 0)}

    def log_likelihood_pieces(self, x, params):
        return params.get("scale", 1.0) * (x == 1)


class Bell(Continuous):
    """Prior N(0, 1), likelihood N(1, 1) in two dimensions, times the parameter `scale`."""

    dimension, names, pieces = 2, ("x", "radius"), 2

    def log_prior(self, position, params):
        return -0.5 * jnp.sum(position**2)

    def log_likelihood_pieces(self, x, params):
        return -0.5 * params.get("scale", 1.0) * (x - 1) ** 2

    def log_likelihood(self, position, params):
        return jnp.sum(self.log_likelihood_pieces(position, params))

    def sample_prior(self, key, params):
        return jax.random.normal(key, (2,))

    def constrain(self, position, params):
        return {"x": position, "radius": jnp.linalg.norm(position)}


VARIANTS: dict[str, dict[str, Any]] = {
    "tempered": {"target": Ones(), "schedule": Linear(0.2, 1, 4)},
    "annealed": {
        "target": Ones(),
        "algorithm": "annealed",
        "schedule": Linear(0.2, 1, 4),
        "kernel": Gibbs("random"),
        "record": "particles",
    },
    "mutation_selection": {
        "target": Ones(),
        "algorithm": "mutation_selection",
        "record": "particles",
        "diversity": True,
    },
    "partial_posteriors": {"target": Bell(), "algorithm": "partial_posteriors", "kernel": RandomWalk(0.5, 2)},
    "pretuned": {
        "target": Bell(),
        "algorithm": "pretuned",
        "schedule": Adaptive(0.9),
        "kernel": HMC(0.2, 1, num_integration_steps=2),
        "record": "particles",
    },
}


STATICS = {"population": 6, "temperature": 1.5, "threshold": 0.9, "mutation_rate": 0.3}
"""Options that may be parameters of the trial as well."""


@pytest.mark.parametrize("name", VARIANTS)
def test_conforms(name: str) -> None:
    """Determinism, keys, segments, lanes, NaN; the first row in double precision and with all its parameters.

    `adaptive` is not among them: it is `tempered` with the schedule that the last row has.
    """
    first = name == "tempered"
    params = {"scale": 1.0, **(STATICS if first else {})}
    nan = {**params, "scale": float("nan")}
    check_experiment(SMC, params, options={"population": 8, **VARIANTS[name]}, draws=4, nan=nan, x64=(first,))


def run(sampler: SMC, steps: int, **params: float) -> tuple[Any, dict[str, np.ndarray]]:
    """The last state, and outputs of all steps: one program."""
    values = {name: jnp.float32(value) for name, value in params.items()}
    return jax.tree.map(np.asarray, program(sampler, steps)(jax.random.key(0), values))


@functools.cache
def program(sampler: SMC, steps: int) -> Any:
    @jax.jit
    def whole(key: jax.Array, values: dict[str, jax.Array]) -> Any:
        begin, stream = jax.random.split(key)

        def step(state: Any, index: jax.Array) -> Any:
            return sampler.step(jax.random.fold_in(stream, index), state, values)

        return jax.lax.scan(step, sampler.initialize(begin, values), jnp.arange(steps))

    return whole


@pytest.fixture(scope="module")
def tempered() -> SMC:
    return SMC(Ones(), schedule=Linear(0.25, 1, 4), population=16, record="particles", temperature=0.2, diversity=True)


@pytest.fixture(scope="module")
def plain() -> SMC:
    return SMC(Ones(), schedule=Linear(0.25, 1, 4))


# --- outputs ----------------------------------------------------------------------------------------


def test_outputs_of_tempering(tempered: SMC) -> None:
    state, found = run(tempered, 6)
    np.testing.assert_allclose(found["beta"], [0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose(np.cumsum(found["log_z_increment"]), found["log_z"], rtol=1e-5)
    assert (found["log_z_increment"][4:] == 0).all()
    np.testing.assert_array_equal(found["fitness"], (found["sequence"] == 1).sum(2))
    np.testing.assert_array_equal(found["fitness.zeros"], (found["sequence"] == 0).sum(2))
    np.testing.assert_allclose(found["weights"].sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found["mean_fitness"], (found["weights"] * found["fitness"]).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(found["max_fitness"], found["fitness"].max(1))
    np.testing.assert_array_equal((found["best_sequence"] == 1).sum(1), found["max_fitness"])
    assert found["resampled"].any() and not found["resampled"].all()
    np.testing.assert_array_equal(found["resampled"], found["ess"] < 8)
    identity = np.arange(16)
    for step in range(6):
        assert found["resampled"][step] or (found["ancestors"][step] == identity).all()
        if found["resampled"][step]:
            np.testing.assert_allclose(found["weights"][step], 1 / 16, rtol=1e-6)
    assert state.steps == 6


def test_annealing_has_no_ancestors_and_keeps_its_weights() -> None:
    sampler = SMC(Ones(), "annealed", 16, Linear(0.25, 1, 4), record="particles", temperature=0.2)
    _, found = run(sampler, 4)
    assert not {"ancestors", "resampled"} & found.keys()
    assert "ancestors" not in sampler.dims
    assert found["ess"][-1] < 8
    np.testing.assert_allclose(1 / (found["weights"] ** 2).sum(1), found["ess"], rtol=1e-4)


def test_adaptive_steps_use_up_what_particles_bear() -> None:
    _, found = run(SMC(Ones(), "adaptive", 256, Adaptive(0.6), temperature=0.05), 12)
    moving = np.diff(found["beta"], prepend=0) > 0
    last = int(np.flatnonzero(moving)[-1])
    assert 2 < last < 11
    assert found["beta"][last] == 1
    np.testing.assert_allclose(found["ess"][:last], 0.6 * 256, rtol=2e-3)
    assert found["resampled"][: last + 1].all() and not found["resampled"][last + 1 :].any()


def test_lineages_can_be_traced() -> None:
    """With mutations of rate 0 every particle is what its ancestor was."""
    sampler = SMC(Ones(), "mutation_selection", 16, Static(), kernel=Mutation(0.0), record="particles")
    _, found = run(sampler, 5)
    for step in range(1, 5):
        np.testing.assert_array_equal(found["sequence"][step], found["sequence"][step - 1][found["ancestors"][step]])
    assert len(np.unique(found["sequence"][-1], axis=0)) < len(np.unique(found["sequence"][0], axis=0))


def test_diversity_is_told_generation_by_generation(tempered: SMC) -> None:
    """The same as from recorded particles, by hand; compared with the particles that were there first."""
    _, found = run(tempered, 6)
    first = tempered.initialize(jax.random.split(jax.random.key(0))[0], {}).particles.x
    expected = along(jnp.asarray(found["sequence"], jnp.int32), 3, jnp.asarray(found["weights"]), first)
    for name in ("site_entropy", "kullback_leibler", "jeffreys", "jensen_shannon"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
        assert (found[name] > 0).all()
    assert found["sequence"].dtype == np.int8
    with pytest.raises(ValueError, match="diversity: True is of sequences, and Bell has positions"):
        SMC(Bell(), diversity=True)


@pytest.mark.parametrize(("threshold", "resampled"), [(0.0, False), (1.0, True)])
def test_threshold_may_be_a_parameter(threshold: float, resampled: bool, plain: SMC) -> None:
    _, found = run(plain, 4, threshold=threshold, scale=1.0)
    assert (found["resampled"] == resampled).all()


def test_equal_weights_drift_only_where_everybody_is_resampled() -> None:
    """At beta 0 selection is neutral: Wright-Fisher drifts, tempering leaves its particles alone."""
    drift = SMC(Ones(), "mutation_selection", 16, Static(0), Multinomial(), Mutation(0.0))
    assert run(drift, 3)[1]["resampled"].all()
    still = SMC(Ones(), "tempered", 16, Static(0), Systematic(1.0), Metropolis())
    assert not run(still, 3)[1]["resampled"].any()


def test_data_enter_one_after_another() -> None:
    path = SMC(Bell(), "partial_posteriors", schedule=Linear(0, 1, 5)).path
    shares = [path.coefficients(beta, {}).tolist() for beta in (0, 0.25, 0.5, 0.75, 1)]
    assert shares == [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1]]
    assert run(SMC(Bell(), "partial_posteriors"), 2)[1]["beta"].tolist() == [0.5, 1]


def test_positions_are_told_by_the_names_of_their_model() -> None:
    _, found = run(SMC(Bell(), population=8, kernel=RandomWalk(), record="particles"), 2)
    assert found["x"].shape == (2, 8, 2) and found["radius"].shape == (2, 8)
    weights = found["weights"]
    mean = (weights * found["radius"]).sum(1)
    np.testing.assert_allclose(found["mean_radius"], mean, rtol=1e-5)
    variance = (weights * (found["radius"] - mean[:, None]) ** 2).sum(1)
    np.testing.assert_allclose(found["sd_radius"], variance**0.5, rtol=1e-4)
    np.testing.assert_allclose(found["log_likelihood"], -0.5 * ((found["x"] - 1) ** 2).sum(2), rtol=1e-4)


# --- particles without a value ----------------------------------------------------------------------


class Holes(Ones):
    """NaN where the first site is 0, infinite where it is 2."""

    def fitness(self, x, params):
        value, components = super().fitness(x, params)
        return jnp.where(x[0] == 0, jnp.nan, jnp.where(x[0] == 2, jnp.inf, value)), components


def test_particles_without_a_value_die_and_are_told() -> None:
    _, found = run(SMC(Holes(), schedule=Linear(0.25, 1, 4), population=64, record="particles"), 4)
    assert 30 < found["invalid"][0] < 55, "two in three, on average 43"
    assert (found["invalid"][1:] == 0).all()
    assert np.isfinite(found["mean_fitness"]).all() and np.isfinite(found["log_z"]).all()
    alive = found["weights"] > 0
    assert np.isfinite(found["fitness"][alive]).all()
    assert (found["sequence"][..., 0][alive] == 1).all()


def test_where_everybody_dies_the_trial_is_flagged(plain: SMC) -> None:
    _, found = run(plain, 4, threshold=0.5, scale=np.nan)
    assert found["ess"].tolist() == [0, 0, 0, 0]
    assert np.isneginf(found["log_z"]).all() and np.isnan(found["mean_fitness"]).all()
    assert (found["invalid"] == 64).all()


def test_weights() -> None:
    log_weights, change = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.log(jnp.array([2.0, 0.0, 4.0]))
    after = weighed(log_weights, change)
    assert float(after.log_z_increment) == pytest.approx(np.log(2))
    np.testing.assert_allclose(jnp.exp(after.log_weights), [0.5, 0, 0.5], rtol=1e-6)
    assert float(after.ess) == pytest.approx(2)
    assert float(weighted_mean(after.log_weights, jnp.array([1.0, jnp.nan, 3.0]))) == pytest.approx(2)
    assert float(weighed(even(4), jnp.full(4, -1e30)).ess) == pytest.approx(4), "far below what exp can hold"


# --- by name, and refused -----------------------------------------------------------------------------


@pytest.fixture
def by_name() -> Any:
    """Two targets of this file under names that a campaign file may give."""
    with register("fitness", "ones", Ones) | register("fitness", "bell", Bell) as runtime:
        yield runtime


def test_made_from_a_block_and_run_in_segments(by_name: Any, tmp_path: Path) -> None:
    block = {
        "use": "smc",
        "algorithm": "tempered",
        "population": 8,
        "target": {"use": "ones"},
        "schedule": {"use": "linear", "start": 0.2, "steps": 4},
        "resampling": {"use": "multinomial", "threshold": 0.7},
        "kernel": {"use": "gibbs", "scan": "random", "steps": 2},
    }
    sampler = build(block, tmp_path)
    assert (sampler.choices.kernel, sampler.choices.resampling) == (Gibbs("random", 2), Multinomial(0.7))
    spec = Spec("smc", "", (), (), Sampling(draws=4, segments=2), False, vectorize="vmap")
    program = Program(Lane(sampler, spec), 2, tmp_path)
    words = np.arange(2 * KEY_WORDS, dtype=np.uint32).reshape(2, -1)
    state = program.initialize(1, words, {})
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    state, first, _ = program.sample(1, words, {}, state, 0)
    _, second, _ = program.sample(1, words, {}, state, 2)
    np.testing.assert_allclose(np.concatenate([first["beta"], second["beta"]], 1)[0], np.linspace(0.2, 1, 4), rtol=1e-6)


ONES, BELL = {"use": "ones"}, {"use": "bell"}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"target": ONES, "population": 0}, "population: 0"),
        ({"target": ONES, "temperature": 0}, r"temperature: 0\.0"),
        ({"target": ONES, "algorithm": "temperred"}, "algorithm: 'temperred'"),
        ({"target": ONES, "record": "all"}, "record: 'all'"),
        ({"target": ONES, "begin": "here"}, "begin: 'here'"),
        ({"target": {"use": "linear"}}, "target: "),
        ({"target": ONES, "schedule": {"use": "linear", "stop": 1.2}}, r"stop: 1\.2"),
        ({"target": ONES, "schedule": {"use": "adaptive"}}, "schedule: adaptive"),
        ({"target": ONES, "algorithm": "adaptive", "schedule": {"use": "linear"}}, "schedule: Linear"),
        ({"target": ONES, "algorithm": "annealed", "resampling": {"use": "systematic"}}, "resampling: annealed"),
        ({"target": ONES, "kernel": {"use": "hmc"}}, "kernel: HMC moves positions"),
        ({"target": BELL, "kernel": {"use": "gibbs"}}, "kernel: Gibbs moves sequences"),
        ({"target": ONES, "kernel": {"use": "mutation"}}, "kernel: Mutation"),
        ({"target": ONES, "kernel": {"use": "metropolis", "mutation_rate": 1.5}}, r"mutation_rate: 1\.5"),
        ({"target": BELL, "kernel": {"use": "hmc", "step_size": -1}}, r"step_size: -1\.0"),
        ({"target": ONES, "algorithm": "mutation_selection", "kernel": {"use": "gibbs"}}, "kernel: Gibbs"),
        ({"target": BELL, "algorithm": "mutation_selection"}, "target: mutation_selection evolves sequences"),
        ({"target": ONES, "algorithm": "pretuned", "kernel": {"use": "gibbs"}}, "kernel: Gibbs has no number"),
        ({"target": ONES, "algorithm": "pretuned", "kernel": {"use": "metropolis"}}, "mutation_rate: pretuning"),
        (
            {"target": ONES, "algorithm": "mutation_selection", "kernel": {"use": "mutation", "keep_codons": True}},
            "keep_codons: ",
        ),
    ],
)
def test_refused_by_field_and_value(block: dict[str, Any], words: str, by_name: Any, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=words):
        build({"use": "smc", **block}, tmp_path)


class Wild:
    """Somebody's schedule, not within bounds."""

    steps = 3

    def __init__(self, *betas: float) -> None:
        self.betas = betas

    def __call__(self, step: Any) -> jax.Array:
        return jnp.asarray(self.betas)[step - 1]


def test_schedules_of_others_are_looked_at() -> None:
    with pytest.raises(ValueError, match=r"schedule: beta is 1\.5 at step 2"):
        SMC(Ones(), schedule=Wild(0.5, 1.5, 1.0))
    with pytest.raises(ValueError, match=r"schedule: beta goes down at step 3, from 1\.0 to 0\.5"):
        SMC(Ones(), schedule=Wild(0.5, 1.0, 0.5))
    SMC(Ones(), "mutation_selection", schedule=Wild(0.5, 1.0, 0.5))


def test_names_of_the_sampler_are_its_own() -> None:
    class Namesake(Bell):
        names = ("weights",)

    with pytest.raises(ValueError, match="target: it records 'weights'"):
        SMC(Namesake())


def test_targets_without_pieces_are_refused() -> None:
    class Whole(Discrete):
        length, states = 2, 2

    with pytest.raises(ValueError, match="Whole does not say what each datum contributes"):
        SMC(Whole(), "partial_posteriors")


def test_population_of_nobody_as_a_parameter() -> None:
    with pytest.raises(ValueError, match="population: 0"):
        jax.eval_shape(lambda key: SMC(Ones()).initialize(key, {"population": 0}), jax.random.key(0))
