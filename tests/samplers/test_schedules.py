"""Schedules against NumPy, traced and not; the adaptive one against what it is to solve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.errors import PluginError
from staffa.experiment.registry import build
from staffa.samplers.schedules import Adaptive, Cosine, Exponential, Linear, Schedule, Static

SHARES = {
    "linear": lambda x: x,
    "exponential": lambda x: (np.exp(5 * x) - 1) / (np.exp(5) - 1),
    "exponential-down": lambda x: (np.exp(-3 * x) - 1) / (np.exp(-3) - 1),
    "exponential-flat": lambda x: x,
    "cosine": lambda x: (1 - np.cos(np.pi * x)) / 2,
}


def schedules(start: float, stop: float, steps: int) -> dict[str, Any]:
    return {
        "linear": Linear(start, stop, steps),
        "exponential": Exponential(start, stop, steps),
        "exponential-down": Exponential(start, stop, steps, rate=-3),
        "exponential-flat": Exponential(start, stop, steps, rate=0),
        "cosine": Cosine(start, stop, steps),
    }


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize(("start", "stop", "steps"), [(0.1, 1.0, 1000), (0.0, 1.0, 7), (0.25, 0.75, 2)])
def test_traced_equals_numpy(name: str, start: float, stop: float, steps: int) -> None:
    schedule = schedules(start, stop, steps)[name]
    x = (np.arange(1, steps + 1) - 1) / (steps - 1)
    wanted = start + (stop - start) * SHARES[name](x)
    found = jax.jit(jax.vmap(schedule))(jnp.arange(1, steps + 1))
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7)
    alone = np.array([jax.jit(schedule)(step) for step in (1, 2, steps)])
    np.testing.assert_allclose(alone, wanted[[0, 1, -1]], rtol=2e-6, atol=2e-7)
    assert float(found[-1]) == stop, "rounding must not leave the last one short"
    assert bool(jnp.all((found >= start) & (found <= stop)))


@pytest.mark.parametrize("name", SHARES)
def test_one_step_is_the_last(name: str) -> None:
    schedule = schedules(0.1, 1.0, 1)[name]
    assert [float(jax.jit(schedule)(step)) for step in (1, 2)] == [1.0, 1.0]


@pytest.mark.parametrize("name", SHARES)
def test_outside_its_steps_it_stays_at_its_ends(name: str) -> None:
    schedule = schedules(0.1, 0.9, 5)[name]
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(50)) == pytest.approx(0.9)
    assert isinstance(schedule, Schedule)


def test_a_steep_rate_does_not_overflow() -> None:
    found = jax.vmap(Exponential(0, 1, 11, rate=500))(jnp.arange(1, 12))
    assert bool(jnp.all(jnp.isfinite(found)))
    assert float(found[0]) == 0
    assert float(found[-2]) == pytest.approx(np.exp(-50), rel=1e-4)


def test_static() -> None:
    assert jax.jit(Static(0.3))(jnp.arange(4)).tolist() == pytest.approx([0.3] * 4)


def test_double_precision_is_kept() -> None:
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(Exponential(0.1, 1, 50)))(jnp.arange(1, 51))
        wanted = 0.1 + 0.9 * SHARES["exponential"](np.arange(50) / 49)
        np.testing.assert_allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("linear", {"start": -0.1}, r"start: -0\.1"),
        ("linear", {"stop": 1.5}, r"stop: 1\.5"),
        ("cosine", {"start": float("nan")}, "start: nan"),
        ("exponential", {"stop": 2}, r"stop: 2\.0"),
        ("exponential", {"rate": float("inf")}, "rate: inf"),
        ("linear", {"steps": 0}, "steps: 0"),
        ("linear", {"start": 0.8, "stop": 0.4}, r"start: 0\.8 is above stop, 0\.4"),
        ("static", {"stop": -1}, r"stop: -1\.0"),
        ("adaptive", {"target_ess": 0}, r"target_ess: 0\.0"),
        ("adaptive", {"target_ess": 1}, r"target_ess: 1\.0"),
        ("adaptive", {"stop": 1.01}, r"stop: 1\.01"),
    ],
)
def test_refused_by_field_and_value(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=words):
        build({"use": name, **options}, tmp_path, "experiment.schedule")


# --- adaptive -------------------------------------------------------------------------------------


def share(weights: np.ndarray, increments: np.ndarray) -> float:
    """Conditional effective sample size as a share of the particles that count, in float64."""
    weights = weights / weights.sum()
    change = np.exp(increments - increments.max())
    return float((weights @ change) ** 2 / (weights @ change**2))


def advanced(values: np.ndarray, weights: np.ndarray, beta: float = 0.0, target_ess: float = 0.5) -> float:
    schedule = Adaptive(target_ess)
    values, log_weights = jnp.asarray(values, jnp.float32), jnp.log(jnp.asarray(weights, jnp.float32))
    find = jax.jit(lambda at: schedule.advance(at, log_weights, lambda to: (to - at) * values))
    return float(find(jnp.float32(beta)))


@pytest.mark.parametrize("size", [5.0, 300.0, 1e6])
@pytest.mark.parametrize("target_ess", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("even", [True, False])
def test_adaptive_solves_for_the_effective_sample_size(size: float, target_ess: float, even: bool) -> None:
    rng = np.random.default_rng(0)
    values = size * rng.normal(size=200)
    weights = np.full(200, 1 / 200) if even else rng.dirichlet(np.ones(200))
    beta = advanced(values, weights, 0.0, target_ess)
    assert 0 < beta < 1
    assert share(weights, beta * values) == pytest.approx(target_ess, rel=2e-3)


def test_adaptive_goes_to_the_end_where_particles_bear_it() -> None:
    assert advanced(np.zeros(10), np.full(10, 0.1), 0.4) == 1
    assert advanced(np.array([7.0]), np.ones(1), 0.4) == 1, "one particle has nothing to lose"
    assert advanced(np.full(10, -np.inf), np.full(10, 0.1), 0.4) == 1, "nobody is left to lose"


def test_adaptive_goes_on_though_most_are_dead() -> None:
    values = np.where(np.arange(100) < 90, -np.inf, 50 * np.random.default_rng(1).normal(size=100))
    weights = np.full(100, 0.01)
    beta = advanced(values, weights)
    assert 0 < beta < 1
    assert share(weights[90:], beta * values[90:]) == pytest.approx(0.5, rel=2e-3)


def test_adaptive_lanes_side_by_side() -> None:
    values = jnp.asarray(np.random.default_rng(2).normal(size=(6, 64)) * np.geomspace(1, 1e4, 6)[:, None], jnp.float32)
    even = jnp.full(64, -jnp.log(64.0))

    def one(values: jax.Array) -> jax.Array:
        return Adaptive().advance(jnp.zeros(()), even, lambda to: to * values)

    together = jax.jit(jax.vmap(one))(values)
    np.testing.assert_allclose(together, [one(row) for row in values], rtol=1e-5)
    assert len(set(together.tolist())) >= 5
