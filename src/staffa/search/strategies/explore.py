"""`explore`: the whole domain first, then where it is promising; the default.

1. **Exploring.** The first trials are a scrambled Sobol sequence, as many as HOLA would: the largest power of two that
   is no more than 2 min(S // 5, 50 + 2 d), where S is the budget and d the dimension. Later every tenth trial goes on
   with that sequence, whatever is known.
2. **Exploiting.** Each of the others is the best of a few hundred candidates by what a smooth surface through the
   results (`surface`) says of them: its mean less some of its standard deviations (0 to 2, by lot), so that some
   trials look where the surface is low and some where little is known. Half of them look

   * *far*: candidates are drawn from a mixture of normal distributions fitted to the elite (HOLA's clipped mixture,
     Gauss-Sobol draws, scrambled anew with each fit), from steps of all lengths around good trials, and from anywhere;
     the best of them is refined twice;
   * *near*: candidates lie in a box around the best trial, its size drawn anew each time, and the surface goes through
     the nearest results only. Where the whole is too rugged for one surface its neighbourhood is not.

Beyond HOLA are the surfaces: a mixture alone knows where good trials are, not whence they get better. (Measured over
20 seeds at equal trials: tests/benchmarks/searching.py.) The lower confidence bound is that of Cox & John 1992, boxes
around the best that of trust regions (Eriksson et al. 2019) without their counting of successes: sizes by lot need no
memory, and many workers at once do not all look at one spot.

With several groups each trial draws weights of its own and goes for the least of the largest weighted score
(augmented Tchebycheff: Knowles 2006), scores in units of the front's width. What failed or is of no use counts as
badly as the worst result, so that its neighbourhood is avoided.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Categorical, Continuous, Domain
from staffa.search.fronts import ranks, top
from staffa.search.strategies import Points, Told, check_count, check_share
from staffa.search.strategies.epochs import Epochs, due
from staffa.search.strategies.mixture import Gaussians, elite
from staffa.search.strategies.sobol import Sequence
from staffa.search.strategies.surface import Surface
from staffa.search.strategies.threads import one_thread

Array = npt.NDArray[np.float64]
Generator = np.random.Generator

BUDGET = 200
"""Trials that are reckoned with where a search has no end."""
WINDOW = 256
"""Results a surface goes through: the best half, and the latest."""
NEAR = 4
"""Results a surface of a neighbourhood goes through, for each of its coefficients of the linear part."""
MOST_FEATURES = 100
"""Beyond so many dimensions no surface is fitted: draws of the mixture are all there is."""
CANDIDATES = 200
REFINED = 100
BOLDNESS = (0.0, 0.5, 1.0, 2.0)
"""Standard deviations that a candidate's mean is lessened by, one by lot for each trial."""
BOX = (0.02, 0.4)
"""Least and greatest half side of a box around the best, in units of the cube; its logarithm is drawn evenly."""
STEPS = (1e-3, 0.22)
"""… and least and greatest standard deviation of a step."""
FEW = 3
"""Coordinates that half of all candidates differ in, on average; the others differ in all."""
STEADY = 256
"""Up to so many results each counts at once."""


def exploration(budget: int | None, dimension: int) -> int:
    """Trials of the exploring phase: HOLA's power of two."""
    most = max(2 * min((budget or BUDGET) // 5, 50 + 2 * dimension), 1)
    return 1 << (most.bit_length() - 1)


class Explore:
    """Explore, then exploit.

    Arguments:
    - `exploration`: trials of the first phase; by default as said above. More where the function is rugged.
    - `explore_every`: one of so many later trials goes on exploring; 0 for none.
    - `elite_fraction`, `least_elite`: share of the results the mixture is fitted to, and how many at least.
    - `components`: normal distributions of the mixture.
    - `near`: share of the later trials that look near the best. More where there is one optimum, less where many.
    - `refit_every`: results between two fits in a long search; the first few hundred count one by one.
    """

    def __init__(
        self,
        *,
        domain: Domain,
        budget: int | None,
        seed: int,
        exploration: int | None = None,
        explore_every: int = 10,
        elite_fraction: float = 0.125,
        least_elite: int = 5,
        components: int = 1,
        near: float = 0.5,
        refit_every: int = 20,
    ) -> None:
        check_count("explore_every", explore_every, 0)
        for option, value in (("least_elite", least_elite), ("components", components), ("refit_every", refit_every)):
            check_count(option, value)
        check_share("elite_fraction", elite_fraction)
        if not 0 <= near <= 1:
            raise ValueError(f"near: {near!r} is not a share of 0 to 1")
        self._domain, self._seed = domain, seed
        self._exploration = _exploration(exploration, budget, domain.dimension)
        self._explore_every, self._near, self._refit_every = explore_every, near, refit_every
        self._elite, self._components = (elite_fraction, least_elite), components
        self._exploring = Sequence(domain.dimension, seed)
        self._epochs = Epochs(self._learn)

    def refits_at(self, told: int) -> int:
        every = 1 if told < STEADY else min(self._refit_every, told // (STEADY // 4))
        return due(told, every)

    def prepare(self, told: Told) -> None:
        with one_thread():
            known = self._knowledge(told)
            if known is not None and known.surfaces:
                known.neighbourhood(int(known.values.sum(axis=1).argmin()))

    def suggest(self, first: int, count: int, told: Told) -> Points:
        if first + count <= self._exploration:
            return self._exploring.rows(first, count)
        with one_thread():
            known = self._knowledge(told)
            return np.concatenate([self._one(trial, known) for trial in range(first, first + count)])

    def _one(self, trial: int, known: _Knowledge | None) -> Points:
        exploring = self._explore_every and trial % self._explore_every == 0
        if known is None or trial < self._exploration or exploring:
            return self._exploring.rows(trial, 1)
        generator = np.random.default_rng(np.random.SeedSequence((self._seed, 1, trial)))
        return known.choose(trial, generator, self._near)

    def _knowledge(self, told: Told) -> _Knowledge | None:
        return self._epochs.at(told.until(self.refits_at(len(told))))

    def _learn(self, told: Told) -> _Knowledge | None:
        best = elite(told, *self._elite)
        if not len(best):
            return None
        few = min(self._components, len(best) // (self._domain.dimension + 1))
        mixture = Gaussians.fit(told.points[best], max(few, 1), 5e-4, self._seed)
        draws = Sequence(self._domain.dimension + 1, self._seed, 2, len(told))
        return _Knowledge.of(told, self._domain, mixture, draws)


def _exploration(said: int | None, budget: int | None, dimension: int) -> int:
    if said is None:
        return exploration(budget, dimension)
    check_count("exploration", said, 0)
    return said


@dataclass(frozen=True, eq=False)
class _Knowledge:
    """What is made of the results of one epoch.

    Arguments:
    - `points`, `values`: (n, d) and (n, groups) of the window; values run from 0, the best, to 1, the worst.
    - `ideal`, `width`: (groups,) of the first front, in these values.
    - `surfaces`: one a group through the whole window; none where there are too few results for the dimension.
    - `nearby`: surfaces of neighbourhoods, by the row in their midst, from when they were needed first.
    """

    domain: Domain
    features: _Features
    mixture: Gaussians
    draws: Sequence
    points: Array
    values: Array
    ideal: Array
    width: Array
    surfaces: tuple[Surface, ...]
    nearby: dict[int, tuple[Surface, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Told, domain: Domain, mixture: Gaussians, draws: Sequence) -> _Knowledge:
        rows = _window(told.scores)
        points, values = domain.snapped(told.points[rows]), _levelled(told.scores[rows])
        front = values[ranks(told.scores[rows]) == 0]
        width = np.ptp(front, axis=0)
        features = _Features(domain)
        enough = features.count + 2 < len(rows) and features.count <= MOST_FEATURES
        # what is worse than most need not be told apart: a cliff elsewhere would bend the whole surface
        capped = np.minimum(values, np.median(values, axis=0))
        seen = features(points) if enough else points
        surfaces = tuple(Surface.fit(seen, one) for one in capped.T) if enough else ()
        # one group, or one best trial: nothing to weigh against one another
        width = width if (width > 0).all() else np.ones_like(width)
        return cls(domain, features, mixture, draws, points, values, front.min(axis=0), width, surfaces)

    def choose(self, trial: int, generator: Generator, near: float) -> Points:
        """The most promising candidate for one trial, as (1, d)."""
        if not self.surfaces:
            return self.domain.snapped(self.mixture.draw(self.draws.rows(trial, 1)))
        aim = _Aim(generator, self.ideal, self.width)
        order = np.argsort(aim(self.values), kind="stable")
        if generator.random() < near:
            row = int(order[0])
            return self._best(self._around(self.points[row], generator), self.neighbourhood(row), aim)
        centre = self.points[order[min(int(generator.geometric(0.7)), len(order)) - 1]]
        best = self._best(self._far(centre, generator, trial), self.surfaces, aim)
        for longest in (0.1, 0.025):
            steps = generator.normal(size=(REFINED, self.domain.dimension))
            steps *= _between(generator, (1e-4, longest), REFINED)[:, None]
            best = self._best(np.concatenate([best, best + steps]), self.surfaces, aim)
        return best

    def _best(self, candidates: Array, surfaces: tuple[Surface, ...], aim: _Aim) -> Array:
        """The candidate of the least bound that is no result yet, if any is not."""
        snapped = self.domain.snapped(candidates)
        predicted = [surface.predict(self.features(snapped)) for surface in surfaces]
        means, deviations = (np.stack(columns, axis=1) for columns in zip(*predicted, strict=True))
        bounds = aim(means - aim.boldness * deviations)
        order = np.argsort(bounds, kind="stable").tolist()
        fresh = (at for at in order if not (self.points == snapped[at]).all(axis=1).any())
        return np.asarray(snapped[[next(fresh, order[0])]])

    def neighbourhood(self, centre: int) -> tuple[Surface, ...]:
        """Surfaces through the results that are nearest to one of them."""
        if centre not in self.nearby:
            seen = self.features(self.points)
            apart = ((seen - seen[centre]) ** 2).sum(axis=1)
            chosen = np.argsort(apart, kind="stable")[: NEAR * (self.features.count + 1)]
            self.nearby[centre] = tuple(Surface.fit(seen[chosen], values) for values in self.values[chosen].T)
        return self.nearby[centre]

    def _around(self, centre: Array, generator: Generator) -> Array:
        half = _between(generator, BOX, 1)
        return self._moved(centre, half * generator.uniform(-1, 1, size=(CANDIDATES, len(centre))), generator)

    def _far(self, centre: Array, generator: Generator, trial: int) -> Array:
        many, dimension = CANDIDATES, len(centre)
        lengths = _between(generator, STEPS, 2 * many // 3)[:, None]
        steps = self._moved(centre, lengths * generator.normal(size=(2 * many // 3, dimension)), generator)
        drawn = self.mixture.draw(self.draws.rows(trial * (many // 4), many // 4))
        return np.concatenate([steps, drawn, generator.random((many // 12, dimension))])

    def _moved(self, centre: Array, steps: Array, generator: Generator) -> Array:
        """Candidates a step from a point; half of them in few coordinates, and each in one at least."""
        many, dimension = steps.shape
        all_move = generator.random((many, 1)) < 0.5
        moves = all_move | (generator.random((many, dimension)) < FEW / dimension)
        moves[np.arange(many), generator.integers(dimension, size=many)] = True
        moved = np.where(moves, centre + self.features.widened(steps), centre)
        # there is no near and far among choices: another one is any other, and seldom
        other = self.features.choices & (generator.random((many, dimension)) < min(0.3, FEW / dimension))
        moved = np.where(self.features.choices, centre, moved)
        return np.clip(np.where(other, generator.random((many, dimension)), moved), 0.0, 1.0)


class _Aim:
    """What one trial goes for: (n, groups) values as (n,) numbers, small is good."""

    def __init__(self, generator: Generator, ideal: Array, width: Array) -> None:
        groups = len(ideal)
        self._weights = generator.dirichlet(np.ones(groups)) if groups > 1 else np.ones(1)
        self._ideal, self._width = ideal, width
        self.boldness = float(generator.choice(BOLDNESS))

    def __call__(self, values: Array) -> Array:
        weighted = self._weights * (values - self._ideal) / self._width
        return np.asarray(weighted.max(axis=1) + 0.05 * weighted.sum(axis=1))


class _Features:
    """Points as a surface sees them: a choice of k values in k coordinates, so that all are equally far apart."""

    def __init__(self, domain: Domain) -> None:
        axes = tuple(domain.axes.values())
        self._sides = [len(axis.values) if isinstance(axis, Categorical) else 0 for axis in axes]
        self.choices = np.array([bool(side) for side in self._sides])
        self._steps = np.array([0.0 if isinstance(axis, Continuous) else _bin(axis) for axis in axes])
        self.count = sum(side or 1 for side in self._sides)

    def __call__(self, points: Array) -> Array:
        if not self.choices.any():
            return points
        sides = zip(points.T, self._sides, strict=True)
        columns = [_corner(column, side) if side else column[:, None] for column, side in sides]
        return np.concatenate(columns, axis=1)

    def widened(self, steps: Array) -> Array:
        """Steps of a discrete axis that reach the next bin at least."""
        return np.where(np.abs(steps) < self._steps, np.sign(steps) * self._steps, steps)


def _corner(column: Array, values: int) -> Array:
    """(n, values): corners of a simplex, one apart from each other."""
    return np.asarray(np.eye(values)[np.minimum((column * values).astype(np.intp), values - 1)] / np.sqrt(2))


def _bin(axis: object) -> float:
    """About the width of a bin."""
    values = getattr(axis, "values", None)
    return 1.0 / (len(values) if values is not None else getattr(axis, "high") - getattr(axis, "low") + 1)  # noqa: B009


def _window(scores: Array) -> npt.NDArray[np.intp]:
    """Rows that count: all, or the best half of the window and the latest of the others."""
    if len(scores) <= WINDOW:
        return np.arange(len(scores))
    best = top(scores, WINDOW // 2)
    others = np.setdiff1d(np.arange(len(scores)), best)
    return np.sort(np.concatenate([best, others[-(WINDOW - len(best)) :]]))


def _levelled(scores: Array) -> Array:
    """(n, groups) scores from 0 to 1; whatever is of no use in any group is worst in all."""
    useful = (scores < np.inf).all(axis=1)
    # -inf is as good as can be; differences of what is larger would overflow
    kept = np.clip(scores[useful], -1e300, 1e300) / 2
    least, most = kept.min(axis=0), kept.max(axis=0)
    values = np.ones_like(scores)
    values[useful] = (kept - least) / np.where(most > least, most - least, 1.0)
    return values


def _between(generator: Generator, ends: tuple[float, float], count: int) -> Array:
    """(count,) numbers whose logarithm is uniform."""
    low, high = np.log(ends)
    return np.exp(generator.uniform(low, high, size=count))
