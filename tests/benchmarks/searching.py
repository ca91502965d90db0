"""Our own searches against Sobol and Optuna's TPE, on functions whose best is known, at equal trials.

    python tests/benchmarks/searching.py [--seeds 20] [--problems branin zdt1] [--against sobol tpe] [--lag 0]

Branin (2 parameters), Hartmann (6) and Ackley (10, off the middle of its range: -15 to 30) with 200 trials each: the
regret, how far the best of a search is above the true minimum. ZDT1 (8 parameters, two objectives) with 500 trials: the
hypervolume up to (1.1, 1.1), of at most 0.8767. One trial after another; `--lag` trials are always under way besides,
as they are with that many workers more. Prints JSON: medians over seeds, and ratios to TPE.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from staffa.campaign.domain import Domain
from staffa.search.fronts import hypervolume
from staffa.search.strategies import Told
from staffa.search.strategies.explore import Explore
from staffa.search.strategies.mixture import Mixture
from staffa.search.strategies.sobol import Sobol

Params = dict[str, Any]
OWN = {"explore": Explore, "sobol": Sobol, "mixture": Mixture}
MOST = 1.1
"""Of TPE's median regret, which `explore` may have, and …"""
BESIDES = 1e-3
LEAST = 0.95
"""Of TPE's median hypervolume, which `explore` must have."""


@dataclass(frozen=True)
class Problem:
    """`of(x)` gives the scores of one trial, `judged(scores)` says how well all of a search did."""

    space: dict[str, tuple[float, float]]
    of: Callable[[np.ndarray], list[float]]
    trials: int
    judged: Callable[[np.ndarray], float]
    groups: int = 1

    def scores(self, params: Params) -> list[float]:
        return self.of(np.array([params[name] for name in self.space]))


def branin(x: np.ndarray) -> list[float]:
    bent = x[1] - 5.1 * x[0] ** 2 / (4 * math.pi**2) + 5 * x[0] / math.pi - 6
    return [bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10]


HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(x: np.ndarray) -> list[float]:
    return [float(-np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(HARTMANN_A * (x - HARTMANN_P) ** 2).sum(axis=1)))]


def ackley(x: np.ndarray) -> list[float]:
    far = 20 * math.exp(-0.2 * math.sqrt(float((x**2).mean())))
    return [20 + math.e - far - math.exp(float(np.cos(2 * math.pi * x).mean()))]


def zdt1(x: np.ndarray) -> list[float]:
    g = 1 + 9 * float(x[1:].mean())
    return [float(x[0]), g * (1 - math.sqrt(float(x[0]) / g))]


def _regret(least: float) -> Callable[[np.ndarray], float]:
    return lambda scores: float(scores.min()) - least


def _space(dimension: int, low: float, high: float) -> dict[str, tuple[float, float]]:
    return {f"x{i}": (low, high) for i in range(dimension)}


PROBLEMS = {
    "branin": Problem({"x0": (-5.0, 10.0), "x1": (0.0, 15.0)}, branin, 200, _regret(0.39788735772973816)),
    "hartmann": Problem(_space(6, 0.0, 1.0), hartmann, 200, _regret(-3.3223680114155147)),
    "ackley": Problem(_space(10, -15.0, 30.0), ackley, 200, _regret(0.0)),
    "zdt1": Problem(_space(8, 0.0, 1.0), zdt1, 500, lambda scores: hypervolume(scores, (1.1, 1.1)), groups=2),
}


def searched(
    problem: Problem, strategy: str, seed: int, lag: int = 0, trials: int | None = None, **options: Any
) -> float:
    """How well one search of our own does."""
    domain, budget = Domain.read(problem.space), trials or problem.trials
    asks = OWN[strategy](domain=domain, budget=budget, seed=seed, **options)
    points, scores = np.empty((budget, domain.dimension)), np.empty((budget, problem.groups))
    for trial in range(budget):
        known = max(trial - lag, 0)
        params = domain.decode(asks.suggest(trial, 1, Told(points[:known], scores[:known])))
        points[trial], scores[trial] = domain.encode(params)[0], problem.scores(params[0])
    return problem.judged(scores)


def tpe(problem: Problem, seed: int) -> float:
    """How well Optuna's TPE does, with what it does by itself."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * problem.groups, sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: Any) -> list[float]:
        return problem.scores({name: trial.suggest_float(name, *ends) for name, ends in problem.space.items()})

    study.optimize(objective, n_trials=problem.trials)
    return problem.judged(np.array([trial.values for trial in study.trials]))


def told(problems: list[str], against: list[str], seeds: int, lag: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in problems:
        problem, found = PROBLEMS[name], dict[str, Any]()
        for way in ("explore", *against):
            began = time.perf_counter()
            every = [tpe(problem, seed) if way == "tpe" else searched(problem, way, seed, lag) for seed in range(seeds)]
            found[way] = {
                "median": statistics.median(every),
                "worst": max(every) if problem.groups == 1 else min(every),
                "ms a trial": 1e3 * (time.perf_counter() - began) / seeds / problem.trials,
            }
        yield name, {**found, **_verdict(problem, {way: one["median"] for way, one in found.items()})}


def _verdict(problem: Problem, medians: dict[str, float]) -> dict[str, Any]:
    own, sense = medians["explore"], 1 if problem.groups == 1 else -1
    verdict: dict[str, Any] = {}
    if "tpe" in medians:
        verdict["ratio"] = own / medians["tpe"]
        enough = own <= MOST * medians["tpe"] + BESIDES if problem.groups == 1 else own >= LEAST * medians["tpe"]
        verdict["reached"] = bool(enough)
    if "sobol" in medians:
        verdict["beats sobol"] = bool(sense * own < sense * medians["sobol"])
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    others = ["sobol", "mixture", "tpe"]
    parser.add_argument("--against", nargs="*", choices=others, default=others)
    parser.add_argument("--lag", type=int, default=0, help="trials under way besides")
    given = parser.parse_args()
    print(json.dumps(dict(told(given.problems, given.against, given.seeds, given.lag))))


if __name__ == "__main__":
    main()
