"""Strategies: functions of what was told, right distributions, and better than not looking."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from scipy.stats import kstest, multivariate_normal, qmc
from sklearn.mixture import GaussianMixture

import staffa
from benchmarks.searching import PROBLEMS, searched, told
from staffa.campaign.domain import Domain
from staffa.errors import ConfigError, PluginError
from staffa.search.strategies import Strategy, Told, build
from staffa.search.strategies.explore import Explore, exploration
from staffa.search.strategies.mixture import Gaussians, Mixture, elite
from staffa.search.strategies.optuna import Optuna
from staffa.search.strategies.random import Random
from staffa.search.strategies.sobol import Sobol
from staffa.search.strategies.surface import Surface
from staffa.search.strategies.threads import one_thread
from staffa.testing import NotConforming, check_family

SPACE = {
    "rate": [0.001, 1.0, "log"],
    "shift": [-1.0, 1.0],
    "leaps": [1, 32, "int"],
    "mass": {"choice": ["unit", "diagonal", "dense"]},
}
NUMBERS = {name: SPACE[name] for name in ("rate", "shift", "leaps")}
DOMAIN = Domain.read(SPACE)

EVERY: dict[str, tuple[Callable[..., Strategy], Mapping[str, Any], dict[str, Any]]] = {
    "random": (Random, SPACE, {}),
    "sobol": (Sobol, SPACE, {}),
    "mixture": (Mixture, SPACE, {"fit_from": 5}),
    "explore": (Explore, SPACE, {}),
    "explore in three": (Explore, SPACE, {"components": 3, "explore_every": 0}),
    "tpe": (Optuna, SPACE, {"sampler": "tpe"}),
    "cmaes": (Optuna, NUMBERS, {"sampler": "cmaes"}),
    "nsgaii": (Optuna, SPACE, {"sampler": "nsgaii", "population": 8}),
}


def some(domain: Domain, count: int, groups: int = 1, failed: int = 5) -> Told:
    """Results of trials anywhere; every so many is of no use."""
    points = domain.snapped(np.random.default_rng(5).random((count, domain.dimension)))
    centres = np.linspace(0.2, 0.7, groups)[:, None]
    scores = ((points[:, None, :] - centres) ** 2).sum(axis=2)
    scores[::failed] = np.inf
    return Told(points, scores)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_strategy_is_a_function(name: str, groups: int) -> None:
    make, space, options = EVERY[name]
    domain = Domain.read(space)
    every = some(domain, 70, groups)
    one, other = (make(domain=domain, budget=90, seed=3, **options) for _ in range(2))
    together = one.suggest(70, 3, every)
    assert together.shape == (3, domain.dimension) and ((together >= 0) & (together <= 1)).all()
    other.suggest(0, 1, Told.nothing(domain.dimension))
    for told_until in (0, 1, 30):  # what was asked before, and of what, changes nothing
        other.suggest(told_until, 2, every.until(told_until))
    alone = [other.suggest(trial, 1, every) for trial in (72, 70, 71)]
    assert (np.concatenate([alone[1], alone[2], alone[0]]) == together).all()
    another = make(domain=domain, budget=90, seed=4, **options)
    assert not (another.suggest(70, 3, every) == together).all()
    rescored = Told(every.points, every.scores[::-1].copy(), version=1)
    fresh = make(domain=domain, budget=90, seed=3, **options)
    assert (one.suggest(70, 2, rescored) == fresh.suggest(70, 2, rescored)).all(), "as if it had never known another"


@pytest.mark.parametrize("name", EVERY)
def test_nothing_told_and_nothing_of_use(name: str) -> None:
    make, space, options = EVERY[name]
    domain = Domain.read(space)
    asks = make(domain=domain, budget=None, seed=0, **options)
    first = asks.suggest(0, 20, Told.nothing(domain.dimension))
    assert len(np.unique(first, axis=0)) == 20
    useless = Told(first, np.full((20, 1), np.inf))
    assert np.isfinite(asks.suggest(200, 2, useless)).all()


def test_sobol_fills_evenly_and_random_does_not() -> None:
    nothing = Told.nothing(4)
    sobol, random = (make(domain=DOMAIN, budget=256, seed=1).suggest(0, 256, nothing) for make in (Sobol, Random))
    for column in sobol.T:
        assert (np.bincount((column * 256).astype(int), minlength=256) == 1).all()
    assert qmc.discrepancy(sobol) < 0.2 * qmc.discrepancy(random)
    assert all(kstest(column, "uniform").pvalue > 1e-3 for column in random.T)
    rows = qmc.Sobol(4, scramble=True, seed=np.random.default_rng(np.random.SeedSequence((1,)))).random(256)
    assert (sobol == rows).all()


MIXED = Gaussians(
    weights=np.array([0.7, 0.2, 0.1]),
    means=np.array([[0.3, 0.4], [0.7, 0.6], [0.5, 0.15]]),
    roots=np.linalg.cholesky(
        0.002 * np.array([[[1.0, 0.6], [0.6, 1.0]], [[2.0, 0], [0, 0.5]], [[1.0, -0.5], [-0.5, 1.0]]])
    ),
)


def test_draws_have_the_density_they_say() -> None:
    drawn = MIXED.draw(qmc.Sobol(3, seed=1).random_base2(16))
    edges = np.linspace(0, 1, 41)
    counts, _, _ = np.histogram2d(*drawn.T, bins=(edges, edges))
    fine = (np.arange(400) + 0.5) / 400
    grid = np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=2).reshape(-1, 2)
    mass = np.exp(MIXED.log_density(grid)).reshape(40, 10, 40, 10).mean(axis=(1, 3)) / 1600
    assert mass.sum() == pytest.approx(1.0, abs=2e-3)
    assert np.abs(counts / len(drawn) - mass).sum() < 0.02
    # HOLA drew components evenly: a third of the draws each
    places = np.linalg.norm(drawn[:, None] - MIXED.means, axis=2).argmin(axis=1)
    assert np.bincount(places) / len(drawn) == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_density_and_walls() -> None:
    points = np.random.default_rng(0).random((50, 2))
    parts = zip(MIXED.weights, MIXED.means, MIXED.roots, strict=True)
    expected = sum(weight * multivariate_normal(mean, root @ root.T).pdf(points) for weight, mean, root in parts)
    assert np.exp(MIXED.log_density(points)) == pytest.approx(expected)
    corner = Gaussians(np.ones(1), np.zeros((1, 2)), 0.1 * np.eye(2)[None])
    drawn = corner.draw(np.array([[0.0, 0.0, 1.0], [1.0, 0.5, 0.9]]))
    assert np.isfinite(drawn).all() and drawn[0].tolist() == [0.0, pytest.approx(0.1 * 8.2, abs=0.02)]
    assert ((corner.draw(np.random.default_rng(0).random((100, 3))) == 0).any(axis=1)).mean() == pytest.approx(
        0.75, abs=0.15
    )


def test_a_mixture_is_found_again() -> None:
    drawn = MIXED.draw(np.random.default_rng(2).random((1500, 3)))
    fitted = Gaussians.fit(drawn, 3, 1e-6, seed=0)
    match = np.linalg.norm(fitted.means[:, None] - MIXED.means, axis=2).argmin(axis=0)
    assert sorted(match) == [0, 1, 2]
    assert fitted.weights[match] == pytest.approx(MIXED.weights, abs=0.02)
    assert fitted.means[match] == pytest.approx(MIXED.means, abs=0.01)
    theirs = GaussianMixture(3, reg_covar=1e-6, n_init=3, random_state=0).fit(drawn)
    assert fitted.log_density(drawn).mean() > theirs.score(drawn) - 1e-3
    alike = Gaussians.fit(np.full((9, 2), 0.5), 3, 5e-4, seed=0)
    assert np.allclose(alike.draw(np.full((1, 3), 0.5)), 0.5) and alike.weights.sum() == pytest.approx(1)


def test_the_elite() -> None:
    scores = np.array([[5.0], [np.inf], [1.0], [3.0], [2.0], [4.0]])
    every = Told(np.zeros((6, 2)), scores)
    assert elite(every, 0.4, 1).tolist() == [2, 4] and elite(every, 0.1, 3).tolist() == [2, 4, 3]
    assert elite(every, 0.4, 6).tolist() == []
    front = np.array([[0.0, 4.0], [1.0, 3.9], [2.0, 2.0], [4.0, 0.0], [4.0, 4.0]])
    assert sorted(elite(Told(np.zeros((5, 2)), front), 0.4, 3)) == [0, 2, 3], "the most lonely of the front"


def test_a_surface_goes_through_what_it_was_told() -> None:
    generator = np.random.default_rng(0)
    points, elsewhere = generator.random((80, 3)), generator.random((50, 3))

    def smooth(at: np.ndarray) -> np.ndarray:
        return np.sin(3 * at[:, 0]) + at[:, 1] * at[:, 2]

    fitted = Surface.fit(points, smooth(points))
    means, deviations = fitted.predict(points)
    assert means == pytest.approx(smooth(points), abs=1e-3) and deviations.max() < 0.01
    means, deviations = fitted.predict(elsewhere)
    error = np.abs(means - smooth(elsewhere))
    assert error.max() < 0.1 and (error < 3 * deviations).mean() > 0.9
    plane = Surface.fit(points, 2 + points @ [1.0, -2.0, 3.0])
    far = np.array([[5.0, -3.0, 2.0]])
    assert plane.predict(far)[0] == pytest.approx(2 + far @ [1.0, -2.0, 3.0])


def test_noise_is_smoothed() -> None:
    generator = np.random.default_rng(1)
    points, elsewhere = generator.random((150, 2)), generator.random((50, 2))
    noisy = (points**2).sum(axis=1) + 0.3 * generator.normal(size=150)
    means, _ = Surface.fit(points, noisy).predict(elsewhere)
    assert np.abs(means - (elsewhere**2).sum(axis=1)).mean() < 0.12, "an interpolation is off by 0.25"


def test_a_surface_of_equals_and_constants() -> None:
    points = np.repeat(np.random.default_rng(0).random((10, 2)), 3, axis=0)
    points[:, 1] = 0.5
    means, deviations = Surface.fit(points, points[:, 0]).predict(points)
    assert means == pytest.approx(points[:, 0], abs=1e-6) and np.isfinite(deviations).all()
    assert Surface.fit(points, np.ones(30)).predict(points)[0] == pytest.approx(np.ones(30))


@pytest.mark.parametrize(
    ("budget", "dimension", "expected"),
    [
        (200, 2, 64),
        (200, 10, 64),
        (None, 3, 64),
        (40, 2, 16),
        (1000, 1, 64),
        (1000, 10, 128),
        (10_000, 100, 256),
        (4, 2, 1),
    ],
)
def test_exploration_is_that_of_hola(budget: int | None, dimension: int, expected: int) -> None:
    assert exploration(budget, dimension) == expected


def test_explore_explores_first_and_then_now_and_again() -> None:
    every, sobol = some(DOMAIN, 150), Sobol(domain=DOMAIN, budget=200, seed=2)
    asks = Explore(domain=DOMAIN, budget=200, seed=2).suggest(0, 150, every)
    same = (asks == sobol.suggest(0, 150, every)).all(axis=1)
    assert same[:64].all() and np.flatnonzero(same[64:]).tolist() == [6 + 10 * i for i in range(8)]
    never = Explore(domain=DOMAIN, budget=200, seed=2, exploration=0, explore_every=0)
    assert not (never.suggest(0, 40, every) == asks[:40]).all(axis=1).any()


def test_explore_asks_for_nothing_twice_and_keeps_off_what_fails() -> None:
    domain = Domain.read({"a": [0.0, 1.0], "n": [1, 8, "int"], "c": {"choice": ["x", "y", "z"]}})
    asks = Explore(domain=domain, budget=80, seed=0, explore_every=0)
    points, scores = np.empty((80, 3)), np.empty((80, 1))
    for trial in range(80):
        params = domain.decode(asks.suggest(trial, 1, Told(points[:trial], scores[:trial])))
        (one,) = params
        assert isinstance(one["a"], float) and isinstance(one["n"], int)
        points[trial] = domain.encode(params)
        score = (one["a"] - 0.5) ** 2 + abs(one["n"] - 5) + (one["c"] != "y")
        scores[trial] = math.inf if one["a"] > 0.5 else score
    assert len(np.unique(points, axis=0)) == 80
    assert scores.min() < 1e-3 and np.isinf(scores[40:]).mean() < 0.5 < np.isinf(scores[40:]).sum()
    small = Domain.read({"c": {"choice": ["x", "y"]}})
    again = Explore(domain=small, budget=20, seed=0).suggest(15, 3, some(small, 15))
    assert set(again.ravel()) <= {0.25, 0.75}, "all values are known: they may come again"


def test_refits() -> None:
    asks = Explore(domain=DOMAIN, budget=None, seed=0)
    due = [asks.refits_at(told) for told in range(3000)]
    assert due[:256] == list(range(256)) and due[-1] == 2980
    assert all(asks.refits_at(row) == row <= told for told, row in enumerate(due)) and due == sorted(due)
    late = [asks.refits_at(told) for told in range(99_900, 100_500)]
    assert sorted(set(late)) == [99_898, 100_000, 100_200, 100_400] and all(asks.refits_at(row) == row for row in late)
    mixture = Mixture(domain=DOMAIN, budget=None, seed=0)
    assert [mixture.refits_at(told) for told in (0, 19, 20, 39)] == [0, 0, 20, 20]
    every = some(DOMAIN, 139)
    assert (mixture.suggest(139, 2, every) == mixture.suggest(139, 2, every.until(120))).all()


def test_what_was_prepared_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    every = some(DOMAIN, 120)
    for asks in (Explore(domain=DOMAIN, budget=None, seed=0), Mixture(domain=DOMAIN, budget=None, seed=0)):
        asks.prepare(every.until(100))
        asks.prepare(every)
        with monkeypatch.context() as patched:
            patched.setattr(Gaussians, "fit", None)
            assert len(asks.suggest(121, 1, every.until(100))) == len(asks.suggest(121, 1, every)) == 1


def test_many_dimensions_and_few_results() -> None:
    wide = Domain.read({f"x{i}": [0.0, 1.0] for i in range(120)})
    every = some(wide, 150)
    assert np.isfinite(Explore(domain=wide, budget=200, seed=0).suggest(151, 2, every)).all()
    few = Domain.read({f"x{i}": [0.0, 1.0] for i in range(20)})
    drawn = Explore(domain=few, budget=20, seed=0).suggest(15, 3, some(few, 15))
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_linear_algebra_has_its_threads_back() -> None:
    def threads() -> set[int]:
        return {one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"}

    def hold() -> None:
        for _ in range(50):
            with one_thread():
                np.linalg.qr(np.ones((20, 20)))

    with threadpoolctl.threadpool_limits(2, "blas"):
        before, others = threads(), [threading.Thread(target=hold) for _ in range(3)]
        with one_thread():
            assert threads() == {1}
        assert threads() == before == {2}
    for other in others:
        other.start()
    hold()
    for other in others:
        other.join()
    with threadpoolctl.threadpool_limits(2, "blas"):
        assert threads() == {2}, "nobody holds it any longer"


def test_strategies_are_built_by_name() -> None:
    class Corner:
        def __init__(self, *, domain: Domain, budget: int | None, seed: int, at: float = 0.0) -> None:
            if at > 1:
                raise ValueError(f"at: {at!r} is outside")
            self.at = np.full(domain.dimension, at)

        def suggest(self, first: int, count: int, told: Told) -> np.ndarray:
            return np.tile(self.at, (count, 1))

    with staffa.register("strategies", "corner", Corner), staffa.register("strategies", "explore", Explore):
        assert isinstance(build("explore", DOMAIN, 100, 1), Explore)
        assert isinstance(build({"near": 0.3}, DOMAIN, None, 1), Explore) and isinstance(
            build(None, DOMAIN, 9, 1), Explore
        )
        corner = build({"use": "corner", "at": 1}, DOMAIN, None, 1)
        assert isinstance(corner, Strategy) and corner.suggest(0, 2, Told.nothing(4)).tolist() == [[1.0] * 4] * 2
        for words, message, hint in (
            ({"use": "corner", "att": 1}, "search.strategy.att: Corner has no option 'att'", "'at'"),
            ({"use": "corner", "at": "x"}, "search.strategy.at: 'x'", ""),
            ({"use": "corner", "at": 2}, "search.strategy.at: 2.0 is outside", ""),
            ({"use": "explore", "elite_fraction": 2}, "search.strategy.elite_fraction: 2.0 is not above 0", ""),
            ({"use": "explore", "near": -1}, "search.strategy.near: -1.0 is not a share", ""),
            ({"use": "corner", "seed": 3}, "search.strategy.seed", "the search has a word for it"),
            (["corner"], "search.strategy: ['corner'] is not a strategy", "explore"),
            ({"use": 3}, "is not a strategy", ""),
        ):
            with pytest.raises(ConfigError) as caught:
                build(words, DOMAIN, 10, 1)
            assert message in caught.value.message and hint in caught.value.hint
        with pytest.raises(PluginError, match=r"search.strategy.use: there is no plug-in 'cornr'") as unknown:
            build("cornr", DOMAIN, 10, 1)
        assert "'corner'" in unknown.value.hint


class Forgetful:
    """Not a function: it counts how often it was asked."""

    def __init__(self, *, domain: Domain, budget: int | None, seed: int, above: float = 0.0) -> None:
        self.dimension, self.asked, self.above = domain.dimension, 100 * seed, above

    def suggest(self, first: int, count: int, told: Told) -> np.ndarray:
        self.asked += 1
        return np.random.default_rng(self.asked).random((count, self.dimension)) + self.above


def test_what_every_strategy_is_asked() -> None:
    for make in (Random, Sobol, Mixture, Explore, Optuna):
        assert all(finding.holds for finding in check_family("strategies", make))
    check_family("strategies", Optuna, sampler="cmaes", domain={"x": [0.0, 1.0], "y": [0.0, 1.0]})
    with pytest.raises(NotConforming) as caught:
        check_family("strategies", Forgetful, above=0.5)
    failed = {finding.what for finding in caught.value.findings if not finding.holds}
    assert failed == {"stays in the unit cube", "is a function"}
    with pytest.raises(NotConforming, match="suggests points"):
        check_family("strategies", Forgetful, below=1)


def test_what_the_bridge_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'cmaes' knows no choices, and 'mass' is one"):
        Optuna(domain=DOMAIN, budget=10, seed=0, sampler="cmaes")
    with pytest.raises(ConfigError, match="two parameters"):
        Optuna(domain=Domain.read({"x": [0, 1]}), budget=10, seed=0, sampler="cmaes")
    with pytest.raises(ValueError, match="population: 2"):
        Optuna(domain=DOMAIN, budget=10, seed=0, sampler="nsgaii", population=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'optuna' is not installed") as caught:
        Optuna(domain=DOMAIN, budget=10, seed=0)
    assert "staffa[optuna]" in caught.value.hint


def test_the_bridge_learns() -> None:
    sphere = some(Domain.read(NUMBERS), 60, failed=60)
    best = sphere.points[sphere.scores[:, 0].argsort()[:10]].mean(axis=0)
    for sampler in ("tpe", "cmaes"):
        asks = Optuna(domain=Domain.read(NUMBERS), budget=90, seed=0, sampler=sampler)  # type: ignore[arg-type]
        apart = np.linalg.norm(asks.suggest(60, 12, sphere) - best, axis=1).mean()
        assert apart < 0.75 * np.linalg.norm(np.random.default_rng(0).random((500, 3)) - best, axis=1).mean(), sampler


@pytest.mark.parametrize("name", PROBLEMS)
def test_explore_is_better_than_not_looking(name: str) -> None:
    problem = PROBLEMS[name]
    sense = 1 if problem.groups == 1 else -1
    for seed in range(2):
        own, sobol = (sense * searched(problem, way, seed, trials=100) for way in ("explore", "sobol"))
        assert own < sobol


@pytest.mark.soak
@pytest.mark.slow
def test_explore_is_as_good_as_tpe() -> None:
    for name, found in told(["branin", "hartmann", "ackley"], ["sobol", "tpe"], seeds=20, lag=0):
        assert found["reached"] and found["beats sobol"], (name, found)
    ((_, found),) = told(["zdt1"], ["tpe"], seeds=3, lag=0)
    assert found["reached"], found


def test_naming_a_strategy_loads_nothing_heavy() -> None:
    modules = ", ".join(
        f"staffa.search.strategies.{name}" for name in ("explore", "mixture", "optuna", "random", "sobol")
    )
    heavy = {"scipy", "sklearn", "optuna", "cmaes", "jax", "dask"}
    script = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
