"""`optuna`: samplers of others, asked through a bridge: Optuna's TPE and NSGA-II, and CMA-ES of `cmaes`, its engine.

    strategy: {use: optuna, sampler: tpe}

They see the unit cube, with choices as choices. Of what they would remember themselves nothing is kept: what was told
is told them again, in its order, and each trial has a seed of its own, so that this, too, is a function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Categorical, Domain
from staffa.errors import ConfigError
from staffa.search.fronts import order
from staffa.search.strategies import Points, Strategy, Told, check_count
from staffa.search.strategies.epochs import Epochs
from staffa.search.strategies.sobol import Sequence

Array = npt.NDArray[np.float64]
Sampler = Literal["tpe", "cmaes", "nsgaii"]

STEP = 0.3
"""First standard deviation of CMA-ES, in units of the cube."""


class Optuna:
    """Whichever sampler is named; it takes the place of a strategy of ours.

    Arguments:
    - `sampler`: `tpe` for any domain, `cmaes` where all parameters are numbers, `nsgaii` for several groups.
    - `startup`: trials before anything is learnt from them (tpe).
    - `population`: trials of a generation (cmaes: 4 + 3 ln d by default; nsgaii: 50).

    Raises `ConfigError` where the packages are missing.
    """

    def __init__(
        self,
        *,
        domain: Domain,
        budget: int | None,
        seed: int,
        sampler: Sampler = "tpe",
        startup: int = 10,
        population: int | None = None,
    ) -> None:
        check_count("startup", startup, 0)
        check_count("population", 5 if population is None else population, 4)
        self._needed("cmaes" if sampler == "cmaes" else "optuna")
        self._strategy: Strategy
        if sampler == "cmaes":
            self._strategy = _Evolution(domain, seed, population)
        elif sampler == "tpe":
            tpe = partial(_sampler, "TPESampler", n_startup_trials=startup)
            self._strategy = _Study(domain, seed, tpe)
        else:
            genes = partial(_sampler, "NSGAIISampler", population_size=population or 50)
            self._strategy = _Study(domain, seed, genes, generations=True)

    def suggest(self, first: int, count: int, told: Told) -> Points:
        return self._strategy.suggest(first, count, told)

    @staticmethod
    def _needed(package: str) -> None:
        from importlib.util import find_spec

        if find_spec(package) is None:
            hint = "pip install 'staffa[optuna]', or use explore, which needs nothing"
            raise ConfigError(f"search.strategy: {package!r} is not installed", hint)


def _sampler(name: str, **options: Any) -> Any:
    import optuna

    return getattr(optuna.samplers, name)(**options)


class _Study:
    """An Optuna study that hears what is told, and forgets what it was asked.

    `generations`: the sampler counts generations by what it marks trials with when it is asked: so it is asked for
    each that is told as well.
    """

    def __init__(self, domain: Domain, seed: int, sampler: Callable[..., Any], generations: bool = False) -> None:
        self._domain, self._seed, self._sampler, self._generations = domain, seed, sampler, generations
        self._study: Any = None
        self._heard, self._known = 0, (0, 0)

    def suggest(self, first: int, count: int, told: Told) -> Points:
        known = (told.version, told.scores.shape[1])
        if self._study is None or self._known != known or self._heard > len(told):
            self._new(told.scores.shape[1])
            self._heard, self._known = 0, known
        for row in range(self._heard, len(told)):
            self._hear(row, told)
        self._heard = len(told)
        return np.array([self._ask(trial) for trial in range(first, first + count)])

    def _new(self, groups: int) -> None:
        import optuna

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
        self._study = optuna.create_study(directions=["minimize"] * groups)
        optuna.logging.set_verbosity(verbosity)

    def _hear(self, row: int, told: Told) -> None:
        import optuna

        states, space = optuna.trial.TrialState, self._space()
        values, given = told.scores[row].tolist(), self._given(told.points[row])
        useful = bool((told.scores[row] < np.inf).all())
        if self._generations:
            self._study.sampler = self._sampler(seed=self._one(2, row))
            self._study.enqueue_trial(given)
            self._study.tell(self._study.ask(space), values)
        elif useful:
            self._study.add_trial(optuna.trial.create_trial(params=given, distributions=space, values=values))
        else:
            # worse than any that ended, and yet not forgotten
            self._study.add_trial(optuna.trial.create_trial(params=given, distributions=space, state=states.PRUNED))

    def _ask(self, trial: int) -> Array:
        import optuna

        self._study.sampler = self._sampler(seed=self._one(1, trial))
        asked = self._study.ask(self._space())
        found = [self._side(axis, asked.params[name]) for name, axis in self._domain.axes.items()]
        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return np.array(found)

    def _one(self, purpose: int, trial: int) -> int:
        return int(np.random.SeedSequence((self._seed, purpose, trial)).generate_state(1)[0])

    def _space(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            name: CategoricalDistribution(range(len(axis.values)))
            if isinstance(axis, Categorical)
            else FloatDistribution(0.0, 1.0)
            for name, axis in self._domain.axes.items()
        }

    def _given(self, point: Array) -> dict[str, Any]:
        """A point as parameters of the study."""
        found = {}
        for (name, axis), side in zip(self._domain.axes.items(), point.tolist(), strict=True):
            bins = len(axis.values) if isinstance(axis, Categorical) else 0
            found[name] = min(int(side * bins), bins - 1) if bins else min(max(side, 0.0), 1.0)
        return found

    @staticmethod
    def _side(axis: Any, given: Any) -> float:
        return (given + 0.5) / len(axis.values) if isinstance(axis, Categorical) else float(given)


class _Evolution:
    """CMA-ES (Hansen & Ostermeier 2001): a generation is as many trials as came back one after another.

    It only asks which is better, so fronts and crowding order several groups, and failures come last. Where it has
    converged it starts anew from anywhere, twice as many to a generation (IPOP: Auger & Hansen 2005).
    """

    def __init__(self, domain: Domain, seed: int, population: int | None) -> None:
        words = [name for name, axis in domain.axes.items() if isinstance(axis, Categorical)]
        if words:
            hint = "use explore, or sampler: tpe"
            raise ConfigError(f"search.strategy.sampler: 'cmaes' knows no choices, and {words[0]!r} is one", hint)
        if domain.dimension < 2:
            raise ConfigError("search.strategy.sampler: 'cmaes' takes two parameters or more", "use explore")
        self._domain, self._seed = domain, seed
        self._population = population or 4 + int(3 * np.log(domain.dimension))
        self._anywhere = Sequence(domain.dimension, seed, 1)
        self._epochs = Epochs(self._learn)

    def suggest(self, first: int, count: int, told: Told) -> Points:
        engine = self._epochs.at(told)
        return np.array([self._ask(engine, trial) for trial in range(first, first + count)])

    def _ask(self, engine: Any, trial: int) -> Array:
        state = np.random.SeedSequence((self._seed, 2, trial)).generate_state(1)
        engine.reseed_rng(int(state[0]))
        return np.asarray(engine.ask())

    def _learn(self, told: Told) -> Any:
        """The engine after every whole generation that was told."""
        start, number = 0, 0
        engine = self._engine(number)
        while start + engine.population_size <= len(told):
            rows = slice(start, start + engine.population_size)
            places = np.argsort(order(told.scores[rows]), kind="stable")
            engine.tell(list(zip(told.points[rows], places.astype(float).tolist(), strict=True)))
            start += engine.population_size
            if engine.should_stop():
                number += 1
                engine = self._engine(number)
        return engine

    def _engine(self, number: int) -> Any:
        import cmaes

        sides = np.tile([0.0, 1.0], (self._domain.dimension, 1))
        mean = np.full(self._domain.dimension, 0.5) if number == 0 else self._anywhere.rows(number, 1)[0]
        size = self._population * 2 ** min(number, 6)
        return cmaes.CMA(mean=mean, sigma=STEP, bounds=sides, seed=self._seed, population_size=size)
