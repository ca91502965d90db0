"""SMC against truths that can be computed: all states of small spaces, all paths of mutations, conjugate Gaussians.

Estimates of Z are compared as Z-hat / Z over 200 seeds, whose mean is 1 (log Z-hat itself is biased): within 3
standard errors, so one right variant in 370 would fail at another seed. Seeds are fixed.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.samplers.resampling import Multinomial, Residual, Stratified, Systematic
from staffa.samplers.schedules import Adaptive, Cosine, Exponential, Linear, Static
from staffa.samplers.smc import HMC, MALA, NUTS, SMC, Gibbs, Metropolis, Mutation, RandomWalk
from staffa.samplers.target import Continuous, Discrete

SEEDS = 200
SITES, STATES = 4, 3
SHAPE = (STATES,) * SITES
PIECES = np.random.default_rng(1).normal(size=(5, *SHAPE)).astype(np.float32)
TABLE = PIECES.sum(0)


class Table(Discrete):
    """Any fitness at all: a number for each of 81 sequences, a sum of five pieces; some may be NaN."""

    length, states, components = SITES, STATES, ("double",)
    pieces = 5

    def __init__(self, holes: int = 0) -> None:
        self.table = TABLE.copy()
        self.table.flat[:holes] = np.nan

    def fitness(self, x, params):
        value = jnp.asarray(self.table)[tuple(x)]
        return value, {"double": 2 * value}

    def log_likelihood_pieces(self, x, params):
        return jnp.asarray(PIECES)[(slice(None), *x)]


def runs(sampler: SMC, steps: int, params: Any = None) -> dict[str, np.ndarray]:
    """Outputs of all steps for all seeds, (seeds, steps, …): one program."""
    values = params or {}

    def one(key: jax.Array) -> dict[str, jax.Array]:
        begin, stream = jax.random.split(key)

        def step(state: Any, index: jax.Array) -> Any:
            return sampler.step(jax.random.fold_in(stream, index), state, values)

        return jax.lax.scan(step, sampler.initialize(begin, values), jnp.arange(steps))[1]

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(11), SEEDS))
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), found)


def off(estimates: np.ndarray, truth: float) -> float:
    """How many standard errors the mean is away."""
    return float((estimates.mean() - truth) / (estimates.std(ddof=1) / np.sqrt(len(estimates))))


def check_z(found: dict[str, np.ndarray], log_z: float) -> None:
    ratios = np.exp(found["log_z"][:, -1] - log_z)
    assert ratios.std() < 0.7, "an estimate that says something"
    assert abs(off(ratios, 1.0)) < 3


def log_mean_exp(values: np.ndarray) -> float:
    return float(np.log(np.mean(np.exp(values.astype(float)))))


LINEAR = Linear(0.1, 1, 10)
VARIANTS: dict[str, dict[str, Any]] = {
    "tempered": {"schedule": LINEAR},
    "tempered-gibbs-residual": {"schedule": Cosine(0.05, 1, 6), "resampling": Residual(0.8), "kernel": Gibbs()},
    "tempered-at-once": {"schedule": Static(), "population": 512},
    "adaptive": {"algorithm": "adaptive", "population": 256, "kernel": Metropolis(0.3, steps=2)},
    "annealed": {"algorithm": "annealed", "schedule": Exponential(0.02, 1, 12), "kernel": Metropolis(0.4)},
    "pretuned": {"algorithm": "pretuned", "schedule": LINEAR, "population": 128, "kernel": Metropolis(0.01, steps=2)},
    "partial_posteriors": {"algorithm": "partial_posteriors", "resampling": Stratified()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_log_z_of_sequences(name: str) -> None:
    """Z is the mean of exp(F) over all 81 sequences."""
    found = runs(SMC(Table(), **VARIANTS[name]), 12)
    check_z(found, log_mean_exp(TABLE))
    assert (found["beta"][:, -1] == 1).all()
    # Particles follow exp(F): times Z-hat, their mean is unbiased (by itself it is not).
    law = np.exp(TABLE - TABLE.max(), dtype=float) / np.exp(TABLE - TABLE.max(), dtype=float).sum()
    ratios = np.exp(found["log_z"][:, -1] - log_mean_exp(TABLE))
    assert abs(off(ratios * found["mean_fitness"][:, -1], float((law * TABLE).sum()))) < 3
    np.testing.assert_allclose(found["mean_fitness.double"], 2 * found["mean_fitness"], rtol=1e-5, atol=1e-4)
    # Once there, log_z stays as it is.
    arrived = found["beta"] == 1
    after = arrived & np.roll(arrived, 1, 1)
    after[:, 0] = False
    assert (found["log_z_increment"][after] == 0).all()


def test_temperature_and_a_schedule_that_stops_early() -> None:
    """At beta 0.5 and temperature 2 it is the mean of exp(F / 4)."""
    found = runs(SMC(Table(), schedule=Linear(0.1, 0.5, 4)), 5, {"temperature": jnp.float32(2)})
    check_z(found, log_mean_exp(TABLE / 4))


def test_sequences_without_a_value_count_nothing() -> None:
    """20 of 81 are NaN: Z is the sum over the others, still divided by 81."""
    found = runs(SMC(Table(holes=20), schedule=LINEAR), 10)
    check_z(found, float(np.log(np.exp(TABLE.ravel()[20:].astype(float)).sum() / 81)))
    assert np.isfinite(found["mean_fitness"]).all()


# --- mutation and selection -----------------------------------------------------------------------


def mutations(states: int, sites: int, rate: float) -> np.ndarray:
    """Probability of every sequence to become any other, of independent sites."""
    site = np.full((states, states), rate / (states - 1))
    np.fill_diagonal(site, 1 - rate)
    return reduce(np.kron, [site] * sites)


def log_z_of_paths(matrix: np.ndarray, fitness: np.ndarray, betas: np.ndarray) -> float:
    """ln E[prod over t of exp(beta_t F(x_t))], x_0 uniform: forward recursion over all sequences."""
    mass, log_z = np.full(len(fitness), 1 / len(fitness)), 0.0
    for beta in betas:
        mass = (mass @ matrix) * np.exp(beta * fitness)
        log_z, mass = log_z + np.log(mass.sum()), mass / mass.sum()
    return log_z


@pytest.mark.parametrize(
    ("resampling", "schedule"),
    [(None, Linear(0.1, 1, 6)), (Multinomial(), Static(0.5)), (Systematic(threshold=0.7), Linear(0.1, 1, 6))],
    ids=["always", "wright-fisher", "below-a-share"],
)
def test_log_z_of_mutation_and_selection(resampling: Any, schedule: Any) -> None:
    sampler = SMC(
        Table(), "mutation_selection", 256, schedule=schedule, resampling=resampling, kernel=Mutation(mutation_rate=0.2)
    )
    betas = np.asarray(jax.vmap(schedule)(jnp.arange(1, 7)), float)
    check_z(runs(sampler, 6), log_z_of_paths(mutations(STATES, SITES, 0.2), TABLE.ravel().astype(float), betas))


class Gene(Discrete):
    """Two codons; the fitness likes T and A, so that stops would be common."""

    length, states, alphabet = 6, 4, "ACGT"

    def fitness(self, x, params):
        return 0.4 * jnp.sum((x == 3) + 0.5 * (x == 0)), {}

    def initial(self, key, params):
        return jnp.zeros(6, jnp.int32)


def test_codons_that_became_stops_are_taken_back() -> None:
    """Per codon, what would have gone to TAA, TAG or TGA stays; ln Z of paths by recursion over 64 codons."""
    codons = list(product("ACGT", repeat=3))
    stops = [codons.index(tuple(stop)) for stop in ("TAA", "TAG", "TGA")]
    matrix = mutations(4, 3, 0.3)
    lost = matrix[:, stops].sum(1)
    matrix[:, stops] = 0
    matrix += np.diag(lost)
    fitness = np.array([0.4 * sum({"T": 1, "A": 0.5}.get(letter, 0) for letter in codon) for codon in codons])
    mass, log_z = np.eye(64)[0], 0.0  # both codons begin at AAA, and are alike
    for _ in range(5):
        mass = (mass @ matrix) * np.exp(fitness)
        log_z, mass = log_z + 2 * np.log(mass.sum()), mass / mass.sum()
    kernel = Mutation(0.3, keep_codons=True)
    found = runs(SMC(Gene(), "mutation_selection", schedule=Static(), kernel=kernel, record="particles"), 5)
    check_z(found, log_z)
    spelled = found["sequence"].reshape(-1, 3).astype(int) @ [16, 4, 1]
    assert not np.isin(spelled, stops).any()


# --- positions ------------------------------------------------------------------------------------


class Conjugate(Continuous):
    """Prior N(0, 2²) in each of two dimensions, eight data N(x, 1.5²): evidence and posterior in closed form."""

    dimension, names, pieces = 2, ("x",), 8
    data = np.random.default_rng(3).normal([1.0, -2.0], 1.5, (8, 2)).astype(np.float32)

    def log_prior(self, position, params):
        return jnp.sum(jax.scipy.stats.norm.logpdf(position, 0, 2))

    def log_likelihood_pieces(self, x, params):
        return jnp.sum(jax.scipy.stats.norm.logpdf(self.data, x, 1.5), 1)

    def log_likelihood(self, position, params):
        return jnp.sum(self.log_likelihood_pieces(position, params))

    def sample_prior(self, key, params):
        return 2 * jax.random.normal(key, (2,))

    def truth(self) -> tuple[float, np.ndarray, float]:
        """ln evidence, posterior mean and standard deviation along each dimension."""
        count, data = len(self.data), self.data.astype(float)
        covariance = 1.5**2 * np.eye(count) + 4.0
        log_z = sum(
            -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]) for y in data.T
        )
        variance = 1 / (1 / 4 + count / 1.5**2)
        return float(log_z), variance * data.sum(0) / 1.5**2, variance**0.5


POSITIONS: dict[str, dict[str, Any]] = {
    "tempered-hmc": {"schedule": Exponential(0.01, 1, 8), "kernel": HMC(0.3, 1, num_integration_steps=5)},
    "annealed-mala": {"algorithm": "annealed", "schedule": Exponential(0.01, 1, 8), "kernel": MALA(0.2, 4)},
    "adaptive-nuts": {"algorithm": "adaptive", "population": 128, "kernel": NUTS(0.4, 1, max_num_doublings=4)},
    "partial_posteriors-random_walk": {"algorithm": "partial_posteriors", "kernel": RandomWalk(0.7, 4)},
    "pretuned-random_walk": {
        "algorithm": "pretuned", "schedule": Adaptive(), "population": 128, "kernel": RandomWalk(0.01, 4)
    },
    "pretuned-hmc": {
        "algorithm": "pretuned", "schedule": Exponential(0.01, 1, 8),
        "population": 128, "kernel": HMC(0.01, 1, num_integration_steps=5),
    },
}  # fmt: skip


@cache
def positions(name: str, steps: int = 25) -> dict[str, np.ndarray]:
    return runs(SMC(Conjugate(), **POSITIONS[name]), steps)


@pytest.mark.parametrize("name", POSITIONS)
def test_evidence_and_posterior_of_positions(name: str) -> None:
    found = positions(name) if name == "pretuned-random_walk" else positions(name, 10)
    log_z, mean, deviation = Conjugate().truth()
    check_z(found, log_z)
    assert (found["beta"][:, -1] == 1).all()
    # Self-normalised means are biased by one part in the number of particles: 1/64 of a deviation is allowed.
    means, deviations = found["mean_x"][:, -1].mean(0), found["sd_x"][:, -1].mean(0)
    np.testing.assert_allclose(means, mean, atol=3 * deviation / np.sqrt(SEEDS * 20) + deviation / 64)
    np.testing.assert_allclose(deviations, deviation, rtol=0.06)


def test_pretuning_finds_a_step_size_that_moves() -> None:
    """From a thousandth of what is good: acceptance falls from nearly 1, particles begin to move."""
    found = positions("pretuned-random_walk")
    assert found["step_size"][:, 0].mean() < 0.1
    assert 0.5 < found["step_size"][:, -1].mean() < 5
    assert 0.2 < found["acceptance"][:, -1].mean() < 0.7
