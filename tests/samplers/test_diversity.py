"""Entropies and divergences of populations against SciPy, one site at a time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from staffa.errors import PluginError
from staffa.experiment.plugins import load
from staffa.experiment.registry import build
from staffa.samplers.diversity import (
    Jeffreys,
    JensenShannon,
    KullbackLeibler,
    along,
    frequencies,
    jensen_shannon,
    kullback_leibler,
    site_entropy,
)
from staffa.testing import check_family

STATES, SITES = 4, 6
METRICS = {"kullback_leibler": KullbackLeibler, "jeffreys": Jeffreys, "jensen_shannon": JensenShannon}


def population(seed: int, particles: int = 50) -> Any:
    """Sites from nearly fixed to nearly uniform."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(STATES), SITES)
    return np.stack([random.choice(STATES, particles, p=row) for row in shares], axis=1).astype(np.int32)


def counted(values: Any, weights: Any, pseudocount: float) -> Any:
    """Frequencies with a loop."""
    total = np.full((SITES, STATES), pseudocount)
    for row, weight in zip(values, weights, strict=True):
        for site, state in enumerate(row):
            if 0 <= state < STATES:
                total[site, state] += weight * len(values) / sum(weights)
    return total / total.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("pseudocount", [0.0, 0.5])
def test_frequencies_are_counts(pseudocount: float) -> None:
    values = population(1)
    values[3, 2] = -1
    values[4, 2] = STATES
    weights = np.random.default_rng(2).gamma(1.0, size=len(values))
    for given in (None, weights):
        expected = counted(values, np.ones(len(values)) if given is None else given, pseudocount)
        np.testing.assert_allclose(frequencies(values, STATES, given, pseudocount), expected, rtol=1e-5)
    counts = Counter(population(1)[:, 0].tolist())
    np.testing.assert_allclose(frequencies(population(1), STATES)[0], [counts[s] / 50 for s in range(STATES)])


def test_a_site_where_nothing_counts_says_nothing() -> None:
    values = population(1)
    values[:, 0] = -1
    assert frequencies(values, STATES)[0].tolist() == [1 / STATES] * STATES
    assert site_entropy(values, STATES)[0] == pytest.approx(math.log(STATES))


def test_entropy_is_scipys_at_each_site() -> None:
    values = population(3)
    expected = scipy_entropy(counted(values, np.ones(50), 0.0), axis=1)
    np.testing.assert_allclose(site_entropy(values, STATES), expected, rtol=1e-5)
    assert site_entropy(np.zeros((5, 2), int), STATES).tolist() == [0, 0]
    everything = np.tile(np.arange(STATES)[:, None], (3, SITES))
    np.testing.assert_allclose(site_entropy(everything, STATES), math.log(STATES), rtol=1e-6)


def test_divergences_are_scipys() -> None:
    first, second = population(4), population(5, 80)
    p, q = (counted(one, np.ones(len(one)), 0.5) for one in (first, second))
    forth, back = scipy_entropy(p, q, axis=1).mean(), scipy_entropy(q, p, axis=1).mean()
    assert KullbackLeibler(STATES)(first, second) == pytest.approx(forth, rel=1e-4)
    assert KullbackLeibler(STATES)(second, first) == pytest.approx(back, rel=1e-4)
    assert Jeffreys(STATES)(first, second) == pytest.approx(forth + back, rel=1e-4)
    p, q = (counted(one, np.ones(len(one)), 0.0) for one in (first, second))
    expected = (jensenshannon(p, q, axis=1) ** 2).mean()
    assert JensenShannon(STATES)(first, second) == pytest.approx(expected, rel=1e-4)


def test_extremes_of_divergences() -> None:
    zeros, ones = np.zeros((5, 2), int), np.ones((7, 2), int)
    for metric in METRICS.values():
        assert metric(STATES, pseudocount=0.0)(zeros, zeros[:3]) == 0.0
    assert JensenShannon(STATES)(zeros, ones) == pytest.approx(math.log(2))
    p, q = frequencies(zeros, STATES), frequencies(ones, STATES)
    assert jnp.isinf(kullback_leibler(p, q)).all() and (jensen_shannon(p, q) <= math.log(2) + 1e-6).all()
    assert jnp.isfinite(KullbackLeibler(STATES)(zeros, ones))


def test_weights_are_like_copies() -> None:
    values = population(6, 20)
    weights = np.random.default_rng(7).integers(1, 5, 20)
    copies = np.repeat(values, weights, axis=0)
    other = population(8)
    np.testing.assert_allclose(site_entropy(values, STATES, weights), site_entropy(copies, STATES), rtol=1e-5)
    found = JensenShannon(STATES)(values, other, jnp.asarray(weights))
    assert found == pytest.approx(float(JensenShannon(STATES)(copies, other)), rel=1e-4)


def test_generations_are_compared_with_the_first_or_any_other() -> None:
    record, weights = (
        np.stack([population(seed) for seed in range(9, 12)]),
        np.random.default_rng(3).gamma(2, size=(3, 50)),
    )
    for origin in (None, population(20)):
        for given in (None, weights):
            found = along(record, STATES, given, origin)
            for number, one in enumerate(record):
                own = None if given is None else given[number]
                begin, begun = (record[0], None if given is None else given[0]) if origin is None else (origin, None)
                assert found["site_entropy"][number] == pytest.approx(
                    float(site_entropy(one, STATES, own).mean()), rel=1e-5
                )
                for name, metric in METRICS.items():
                    expected = float(metric(STATES)(one, begin, own, begun))
                    assert float(found[name][number]) == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_they_are_traced_over_islands_and_trials() -> None:
    islands = jnp.stack([population(seed) for seed in (1, 2, 3)])
    found = jax.jit(jax.vmap(lambda one: along(one[None], STATES)["site_entropy"][0]))(islands)
    np.testing.assert_allclose(found, [site_entropy(one, STATES).mean() for one in islands], rtol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_they_are_plug_ins(name: str, tmp_path: Path) -> None:
    check_family("metrics", METRICS[name])
    assert load("metrics", name) is METRICS[name]
    assert build({"use": name, "states": 20}, tmp_path, "experiment.metric") == METRICS[name](20)
    with pytest.raises(PluginError, match="states: 0 is not 1 or more"):
        build({"use": name, "states": 0}, tmp_path, "experiment.metric")
    with pytest.raises(PluginError, match=r"pseudocount: -1\.0 is not"):
        build({"use": name, "states": 4, "pseudocount": -1}, tmp_path, "experiment.metric")


def test_populations_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(6,\) and \(5,\) sites"):
        JensenShannon(STATES)(population(1), population(1)[:, :5])
