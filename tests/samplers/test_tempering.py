"""`parallel_tempering`: every island's law, barriers, what is recorded, and what is refused."""

import functools

import numpy as np
import pytest
from scipy.special import comb

from samplers.landscapes import FALSE_ALARM, Coupled, Peaks, Wells, chi_square, drawn, law
from staffa.samplers.density import Density, real
from staffa.samplers.metropolis import Metropolis
from staffa.samplers.schedules import Adaptive, Linear
from staffa.samplers.tempering import ParallelTempering
from staffa.testing import check_experiment

TARGET = Coupled()
BETAS = [0.2, 0.6, 1.2]


@pytest.mark.parametrize(
    "options",
    [
        {"exchange": "even_odd"},
        {"exchange": "random", "attempts": 2, "exchange_frequency": 3, "kernel": "gibbs"},
        {"exchange": "random", "population": 2, "mutation_rate": 0.3, "moves": 2},
    ],
    ids=["even_odd", "random", "population"],
)
def test_every_island_draws_from_its_own_law(options):
    """The last step of independent ladders, long after a uniform start, against all 27 sequences."""
    outputs = drawn(ParallelTempering(TARGET, BETAS, keep="all", chains=5_000, **options), steps=40)
    for island, beta in enumerate(BETAS):
        sequences = outputs["sequence"][:, island].reshape(-1, TARGET.length)
        assert chi_square(TARGET, sequences, law(TARGET, beta)) > FALSE_ALARM, beta
        assert chi_square(TARGET, sequences, law(TARGET, beta + 0.2)) < FALSE_ALARM, beta


def test_the_scheme_of_proteinsmc_draws_from_other_laws():
    """As its docstring says; were it right, all islands would pass."""
    options = {"exchange": "origin", "meta_beta": 0.5, "keep": "all", "chains": 5_000}
    outputs = drawn(ParallelTempering(TARGET, BETAS, **options), steps=25)
    fits = [chi_square(TARGET, outputs["sequence"][:, i], law(TARGET, beta)) for i, beta in enumerate(BETAS)]
    assert min(fits) < FALSE_ALARM


def test_it_crosses_a_barrier_that_single_chains_do_not():
    target, chains = Wells(), 48
    ones = np.arange(target.length + 1)
    weights = comb(target.length, ones) * np.exp(4 * np.abs(ones - 8) + (ones > 8))
    other_well = weights[ones > 8].sum() / weights.sum()

    alone = drawn(Metropolis(target, proposals=16, chains=chains), steps=400, every=1)
    assert (alone["sequence"].sum(axis=-1) < 8).all()

    ladder = ParallelTempering(target, islands=9, beta_min=0.03, moves=16, chains=chains)
    outputs = drawn(ladder, steps=400, every=1)
    crossed = (outputs["sequence"][100:].sum(axis=-1) > 8).mean(axis=0)
    assert abs(crossed.mean() - other_well) < 4 * crossed.std(ddof=1) / np.sqrt(chains)
    assert (crossed > 0).mean() > 0.9


@functools.cache
def truth(beta):
    """Mean log-likelihood, and the share above zero, of `Peaks` at beta: by the trapezoidal rule."""
    x = np.linspace(-20, 20, 40_001)
    prior = -0.5 * x**2 / 9
    likelihood = np.logaddexp(np.log(0.3) - 0.5 * ((x + 4) / 0.4) ** 2, np.log(0.7) - 0.5 * ((x - 4) / 0.4) ** 2)
    likelihood += 0.5 * x**2 / 9
    weights = np.exp(prior + beta * likelihood)
    weights /= weights.sum()
    return (weights * likelihood).sum(), weights[x > 0].sum()


@pytest.mark.parametrize(
    ("kernel", "step_size"),
    [
        ("random_walk", [4.0, 2.0, 1.5, 0.8, 0.5]),
        ("mala", [2.0, 1.0, 0.5, 0.2, 0.08]),
        ("hmc", [0.6, 0.6, 0.4, 0.25, 0.15]),
    ],
    ids=["random_walk", "mala", "hmc"],
)
def test_positions_at_every_island_are_of_their_law(kernel, step_size):
    """All begin in the lesser peak; hot islands start where the prior alone counts (beta 0)."""
    betas, chains = [0.0, 0.02, 0.08, 0.3, 1.0], 800
    options = {"kernel": kernel, "step_size": step_size, "moves": 3 if kernel == "hmc" else 12, "keep": "all"}
    outputs = drawn(ParallelTempering(Peaks(), betas, chains=chains, **options), steps=100)
    for island, beta in enumerate(betas):
        mean, above = truth(beta)
        found, x = outputs["log_likelihood"][:, island], outputs["x"][:, island, 0]
        # two numbers of five islands and three kernels: beyond 4.5 standard errors in one seed of 5,000
        assert abs(found.mean() - mean) < 4.5 * found.std() / np.sqrt(chains), beta
        assert abs((x > 0).mean() - above) < 4.5 * np.sqrt(above * (1 - above) / chains), beta


def test_positions_that_do_not_exchange_stay_in_their_peak():
    ladder = ParallelTempering(Peaks(), [0.5, 1.0], step_size=0.3, exchange_frequency=10**6, chains=200)
    outputs = drawn(ladder, steps=500)
    assert (outputs["x"] < 0).all()
    assert outputs["swaps_attempted"].sum() == 0


def test_rounds_come_as_often_as_asked_and_swaps_are_those_of_the_replicas():
    ladder = ParallelTempering(TARGET, [0.1, 0.4, 0.7, 1.0], exchange_frequency=3, keep="all", chains=20)
    outputs = drawn(ladder, steps=24, every=1)
    attempted, accepted = outputs["swaps_attempted"], outputs["swaps_accepted"]
    even, odd, none = [1, 0, 1], [0, 1, 0], [0, 0, 0]
    assert attempted[:, 0].tolist() == [none, none, even, none, none, odd] * 4
    replicas = np.concatenate([np.broadcast_to(np.arange(4), (1, 20, 4)), outputs["replica"]])
    moved = (np.diff(replicas, axis=0) != 0).sum(axis=2)
    np.testing.assert_array_equal(moved, 2 * accepted.sum(axis=2))
    assert 0 < accepted.sum() < attempted.sum()
    assert (np.sort(outputs["replica"], axis=2) == np.arange(4)).all()


def test_what_is_recorded_of_the_coldest_island_is_its_part_of_all():
    options = {"betas": BETAS, "population": 2, "chains": 3}
    every, cold = (drawn(ParallelTempering(TARGET, keep=keep, **options), 7) for keep in ("all", "coldest"))
    for name in ("sequence", "fitness", "fitness.field", "replica"):
        np.testing.assert_array_equal(every[name][:, -1], cold[name])
    np.testing.assert_allclose(every["mean_fitness"], every["fitness"].mean(axis=2), rtol=1e-6)
    np.testing.assert_allclose(every["max_fitness"], every["fitness"].max(axis=2), rtol=1e-6)
    assert cold["sequence"].shape == (3, 2, 3)
    assert cold["acceptance"].shape == cold["mean_fitness"].shape == (3, 3)
    np.testing.assert_allclose(cold["beta"], BETAS, rtol=1e-6)


def test_the_ladder_is_geometric_unless_said_otherwise():
    ladder = ParallelTempering(TARGET, islands=3, beta_min=0.01, beta_max=1.0)
    np.testing.assert_allclose(ladder.betas, [0.01, 0.1, 1.0])
    swept = drawn(ladder, 1, {"beta_min": 0.04, "beta_max": 4.0})
    np.testing.assert_allclose(swept["beta"], [0.04, 0.4, 4.0], rtol=1e-5)
    scheduled = ParallelTempering(TARGET, schedule=Linear(0.0, 1.0, steps=5))
    np.testing.assert_allclose(scheduled.betas, [0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)


class Pair(Density):
    parameters = {"scalar": real(), "vector": real(2).named("item")}

    def prior(self, values, params):
        return -0.5 * (values["scalar"] ** 2 + (values["vector"] ** 2).sum())

    def likelihood(self, values, params):
        return params["scale"] * -0.5 * (values["scalar"] - 1.0) ** 2


@pytest.mark.parametrize(
    "options",
    [
        {"target": TARGET, "chains": 2},
        {"target": TARGET, "population": 2, "keep": "all", "exchange": "origin", "attempts": 2},
        {"target": Pair(), "population": 2, "keep": "all", "exchange": "random", "exchange_frequency": 2},
    ],
    ids=["sequences", "populations", "positions"],
)
def test_it_conforms(options):
    rows = [{"beta_min": beta, "scale": 1.0} for beta in (0.1, 0.5)]
    nan = {"beta_min": 0.1, "scale": np.nan}
    wide = options["target"] is not TARGET
    check_experiment(ParallelTempering, rows, options={**options, "islands": 3}, x64=(wide,), nan=nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": [1.0]}, "betas: .*two islands"),
        ({"betas": [0.1, -1.0]}, "betas: -1.0"),
        ({"betas": [1.0, 0.5]}, "betas: .*do not increase"),
        ({"betas": [0.1, float("nan")]}, "betas: nan"),
        ({"betas": [0.1, 1.0], "islands": 2}, "islands: betas already say"),
        ({"betas": [0.1, 1.0], "schedule": Linear()}, "schedule: betas already say"),
        ({"schedule": Linear(steps=4), "islands": 3}, "islands: 3, but the schedule has 4"),
        ({"schedule": Adaptive()}, "schedule: Adaptive"),
        ({"islands": 1}, "islands: 1"),
        ({"islands": 0}, "islands: 0"),
        ({"beta_min": 0.0}, "beta_min: 0.0"),
        ({"beta_min": 1.0, "beta_max": 0.5}, "do not increase"),
        ({"population": 0}, "population: 0"),
        ({"chains": 0}, "chains: 0"),
        ({"moves": 0}, "moves: 0"),
        ({"attempts": 0}, "attempts: 0"),
        ({"exchange_frequency": 0}, "exchange_frequency: 0"),
        ({"exchange": "oddeven"}, "exchange: 'oddeven'"),
        ({"keep": "cold"}, "keep: 'cold'.*'coldest'"),
        ({"meta_beta": -1.0}, "meta_beta: -1.0"),
        ({"kernel": "mala"}, "kernel: 'mala' is no kernel over sequences"),
        ({"scan": "sytematic"}, "scan: 'sytematic'"),
        ({"mutation_rate": 2.0}, "mutation_rate: 2.0"),
        ({"target": object()}, "target: object is neither"),
        ({"target": Peaks(), "kernel": "gibbs"}, "kernel: 'gibbs' is no kernel over positions"),
        ({"target": Peaks(), "beta_max": 2.0}, "betas: 2.0"),
        ({"target": Peaks(), "step_size": 0.0}, "step_size: 0.0"),
        ({"target": Peaks(), "step_size": [0.1, 0.2]}, "step_size: 2 numbers for 4 islands"),
        ({"target": Peaks(), "kernel": "hmc", "num_integration_steps": 0}, "num_integration_steps: 0"),
    ],
)
def test_nonsense_is_refused_with_option_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        ParallelTempering(**{"target": TARGET, **options})
