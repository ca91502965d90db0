"""Resampling: unbiased, within the bounds of each scheme, and never of a particle without weight."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.smc import resampling as blackjax_resampling
from scipy.stats import binom, chisquare

from staffa.errors import PluginError
from staffa.experiment.registry import build
from staffa.samplers.resampling import Multinomial, Residual, Scheme, Stratified, Systematic

SCHEMES = {"systematic": Systematic(), "stratified": Stratified(), "residual": Residual(), "multinomial": Multinomial()}


@partial(jax.jit, static_argnums=0)
def offspring(scheme: Scheme, keys: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jnp.bincount(scheme.ancestors(key, weights), length=weights.size))(keys)


def counts(scheme: Scheme, weights: np.ndarray, blocks: int = 1) -> np.ndarray:
    """Offspring of each particle in some blocks of 500 calls, (calls, particles)."""
    keys = jax.random.split(jax.random.key(0), (blocks, 500))
    return np.concatenate([offspring(scheme, block, jnp.asarray(weights, jnp.float32)) for block in keys])


def dirichlet(particles: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(particles, 0.7))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("particles", [1, 4, 64])
def test_unbiased(name: str, particles: int) -> None:
    """E[count_i] = N W_i: each of 69 means within 4.5 standard errors; false alarm 5e-4 a scheme."""
    weights = dirichlet(particles)
    found = counts(SCHEMES[name], weights, 40)
    assert (found.sum(1) == particles).all()
    error = np.maximum(found.std(0), 1e-3) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - particles * weights) < 4.5 * error + 1e-5 * particles)


@pytest.mark.parametrize("particles", [4, 64, 1000])
def test_bounds(particles: int) -> None:
    weights = dirichlet(particles, 1)
    expected = particles * weights.astype(np.float32).astype(float)
    slack = 1e-6 * particles  # the comb is laid in single precision
    low, high = np.floor(expected + slack), np.ceil(expected - slack)
    low, high = np.minimum(low, np.floor(expected - slack)), np.maximum(high, np.ceil(expected + slack))
    systematic = counts(SCHEMES["systematic"], weights)
    assert ((systematic >= low) & (systematic <= high)).all()
    assert (np.abs(counts(SCHEMES["stratified"], weights) - expected) < 2).all()
    assert (counts(SCHEMES["residual"], weights) >= low).all()


@pytest.mark.parametrize("particles", [49, 64])
def test_equal_weights_leave_everybody_one(particles: int) -> None:
    """1 / 49 is no binary fraction: 49 W is a hair below 1."""
    for name in ("systematic", "residual", "stratified"):
        found = counts(SCHEMES[name], np.full(particles, 1 / particles))
        assert (found == 1).mean() > (0.99 if name != "stratified" else 0.97), name


def test_residual_copies_whole_numbers() -> None:
    assert (counts(Residual(), np.array([0.5, 0.25, 0.125, 0.125] + [0] * 4)) == [4, 2, 1, 1, 0, 0, 0, 0]).all()


def test_multinomial_draws_are_independent() -> None:
    """Counts of one particle are binomial: chi-square, false alarm 1e-3."""
    found = counts(Multinomial(), np.array([0.3, 0.5, 0.1, 0.1]), 40)[:, 0]
    assert chisquare(np.bincount(found, minlength=5), len(found) * binom.pmf(range(5), 4, 0.3)).pvalue > 1e-3


def test_variance_falls_from_multinomial_to_systematic() -> None:
    weights = dirichlet(64, 2)
    spread = {name: counts(scheme, weights, 6).var(0).sum() for name, scheme in SCHEMES.items()}
    assert spread["multinomial"] > 1.2 * spread["residual"]
    assert spread["multinomial"] > 1.2 * spread["stratified"]
    assert spread["stratified"] > spread["systematic"]


@pytest.mark.parametrize("name", SCHEMES)
def test_no_weight_no_offspring(name: str) -> None:
    """First, last and inside, also where the weights add up to less than 1 or to much more."""
    weights = dirichlet(1000, 3)
    weights[[0, 1, 500, 998, 999]] = 0
    for scale in (1 / weights.sum(), 0.999, 1e-20, 1e20):
        found = counts(SCHEMES[name], weights * scale)
        assert not found[:, [0, 1, 500, 998, 999]].any()
        assert (found.sum(1) == 1000).all()


@pytest.mark.parametrize("name", ["systematic", "stratified"])
def test_large_populations(name: str) -> None:
    """100,000 particles, the last without weight: blackjax gives it offspring in 4 of 1,000 calls."""
    weights = dirichlet(100_000, 29)
    weights[-1] = 0
    scheme = jax.jit(SCHEMES[name].ancestors)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    assert all(int(scheme(jax.random.key(seed), weights).max()) < 99_999 for seed in range(100))


@pytest.mark.parametrize("name", ["multinomial"])
def test_a_uniform_of_zero_does_no_harm(name: str) -> None:
    """20 million uniforms: where ln 0 is taken, two or three calls in 20,000 give all to particle 0."""

    def firsts(key: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(SCHEMES[name].ancestors(key, weights) == 0)

    batched = jax.jit(jax.vmap(firsts, (0, None)))
    weights = jnp.asarray(dirichlet(1000, 4), jnp.float32)
    keys = jax.random.split(jax.random.key(5), (20, 1000))
    assert max(int(batched(block, weights).max()) for block in keys) < 50


@pytest.mark.parametrize("name", ["systematic", "stratified"])
def test_same_as_blackjax_where_that_is_right(name: str) -> None:
    weights = jnp.asarray(dirichlet(100, 5), jnp.float32)
    theirs = getattr(blackjax_resampling, name)
    for seed in range(50):
        key = jax.random.key(seed)
        assert (SCHEMES[name].ancestors(key, weights) == theirs(key, weights, 100)).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_double_precision(name: str) -> None:
    with jax.enable_x64(True):
        found = SCHEMES[name].ancestors(jax.random.key(0), jnp.asarray(dirichlet(30)))
    assert found.dtype == jnp.int32


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_threshold_is_refused_by_field_and_value(value: float, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=f"threshold: {value}"):
        build({"use": "systematic", "threshold": value}, tmp_path, "experiment.resampling")
