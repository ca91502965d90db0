"""`mixture`: normal distributions where the best trials are, cut off at the ends of the domain.

A mixture of normal distributions is fitted to the elite in the unit cube; a draw takes a component by its *weight*,
a point of it through the normal quantiles of a scrambled Sobol sequence, and pulls what lies outside to the nearest
wall. It is what HOLA calls a clipped Gaussian mixture with Gauss-Sobol draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Domain
from staffa.search.fronts import top
from staffa.search.strategies import Points, Told, check_count, check_share
from staffa.search.strategies.epochs import Epochs, due
from staffa.search.strategies.sobol import Sequence
from staffa.search.strategies.threads import one_thread

Array = npt.NDArray[np.float64]

MOST_FITTED = 4096
"""Trials of the elite a mixture is fitted to; more tell it nothing new."""
GUARD = 2.0**-53
"""Quantiles are taken this far from 0 and 1, where they are infinite."""
ROUNDS = 100
ENOUGH = 1e-4
"""Of the mean log-likelihood: a round of the fit that gains less is the last."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A mixture of k normal distributions in d dimensions.

    Arguments:
    - `weights`: (k,) that add up to 1.
    - `means`: (k, d).
    - `roots`: (k, d, d) lower Cholesky factors of the covariances.
    """

    weights: Array
    means: Array
    roots: Array

    @classmethod
    def fit(cls, points: Array, components: int, regularisation: float, seed: int) -> Gaussians:
        """Expectation maximisation on (n, d) points, from centres chosen far apart (k-means++).

        `regularisation` is added to the variances: below its root nothing is told apart. Of fewer than two points a
        component there are fewer components.
        """
        count = max(1, min(components, len(points) // 2))
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        shares = _nearest(points, _centres(points, count, generator))
        found, before = cls._of(points, shares, regularisation), -np.inf
        for _ in range(ROUNDS if count > 1 else 0):
            joint = found._joint(points)
            likelihood = np.logaddexp.reduce(joint, axis=1)
            found = cls._of(points, np.exp(joint - likelihood[:, None]), regularisation)
            if likelihood.mean() - before < ENOUGH:
                break
            before = likelihood.mean()
        return found

    @classmethod
    def _of(cls, points: Array, shares: Array, regularisation: float) -> Gaussians:
        """The most likely mixture where (n, k) shares of each point are each component's."""
        mass = shares.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = (shares.T @ points) / mass[:, None]
        apart = points[None, :, :] - means[:, None, :]
        spread = np.einsum("nk,kni,knj->kij", shares, apart, apart, optimize=True) / mass[:, None, None]
        roots = np.linalg.cholesky(spread + regularisation * np.eye(points.shape[1]))
        return cls(mass / mass.sum(), means, roots)

    def _joint(self, points: Array) -> Array:
        """(n, k) log of weight times density."""
        dimension = points.shape[1]
        apart = points[None, :, :] - self.means[:, None, :]
        scaled = np.linalg.solve(self.roots, apart.transpose(0, 2, 1))
        logs = np.log(np.diagonal(self.roots, axis1=1, axis2=2)).sum(axis=1) + dimension / 2 * np.log(2 * np.pi)
        return np.asarray(np.log(self.weights) - logs - 0.5 * (scaled**2).sum(axis=1).T)

    def log_density(self, points: Array) -> Array:
        """(n,) log density at (n, d) points, before anything is cut off."""
        return np.asarray(np.logaddexp.reduce(self._joint(points), axis=1))

    def draw(self, uniform: Array) -> Array:
        """(n, d) points of the unit cube for (n, d + 1) uniform numbers: the first chooses the component."""
        from scipy.special import ndtri

        edges = np.cumsum(self.weights)[:-1]
        chosen = np.searchsorted(edges, uniform[:, 0], side="right")
        normal = ndtri(np.clip(uniform[:, 1:], GUARD, 1 - GUARD))
        drawn = self.means[chosen] + np.einsum("nij,nj->ni", self.roots[chosen], normal)
        return np.asarray(np.clip(drawn, 0.0, 1.0))


def _centres(points: Array, count: int, generator: np.random.Generator) -> Array:
    """Some of the points, each chosen as likely as it is far (squared) from those before (Arthur & Vassilvitskii)."""
    chosen = [int(generator.integers(len(points)))]
    while len(chosen) < count:
        apart = ((points[:, None, :] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        total = apart.sum()
        chosen.append(int(generator.choice(len(points), p=apart / total if total > 0 else None)))
    return np.asarray(points[chosen])


def _nearest(points: Array, centres: Array) -> Array:
    """(n, k) all of each point to its nearest centre."""
    apart = ((points[:, None, :] - centres) ** 2).sum(axis=2)
    return np.asarray(np.eye(len(centres))[apart.argmin(axis=1)])


def elite(told: Told, fraction: float, least: int) -> npt.NDArray[np.intp]:
    """Indices of the best share of the trials that have a finite score, the best first; none where they are too few.

    With several groups the best are those of the first fronts, and of the last one the most lonely.
    """
    ranked = int((told.scores < np.inf).all(axis=1).sum())
    wanted = max(least, int(fraction * ranked))
    return top(told.scores, min(wanted, MOST_FITTED)) if ranked >= least else np.empty(0, np.intp)


class Mixture:
    """A Sobol sequence until the elite is large enough, then draws from a mixture fitted to it.

    Arguments:
    - `elite_fraction`: share of the trials with a finite score that the mixture is fitted to. Smaller is greedier.
    - `fit_from`: size of the elite at which the first mixture is fitted.
    - `components`: normal distributions; more follow several optima.
    - `regularisation`: least variance, in units of the cube: the mixture never gets narrower.
    - `refit_every`: so many results later it is fitted anew, and the draws are scrambled anew.
    """

    def __init__(
        self,
        *,
        domain: Domain,
        budget: int | None,
        seed: int,
        elite_fraction: float = 0.2,
        fit_from: int = 20,
        components: int = 3,
        regularisation: float = 5e-4,
        refit_every: int = 20,
    ) -> None:
        check_share("elite_fraction", elite_fraction)
        for option, value in (("fit_from", fit_from), ("components", components), ("refit_every", refit_every)):
            check_count(option, value)
        check_share("regularisation", regularisation)
        self._domain, self._seed = domain, seed
        self._fraction, self._fit_from = elite_fraction, fit_from
        self._components, self._regularisation, self._every = components, regularisation, refit_every
        self._exploring = Sequence(domain.dimension, seed)
        self._epochs = Epochs(self._learn)

    def refits_at(self, told: int) -> int:
        return due(told, self._every)

    def prepare(self, told: Told) -> None:
        self._at(told)

    def suggest(self, first: int, count: int, told: Told) -> Points:
        learnt = self._at(told)
        if learnt is None:
            return self._exploring.rows(first, count)
        fitted, draws = learnt
        return fitted.draw(draws.rows(first, count))

    def _at(self, told: Told) -> tuple[Gaussians, Sequence] | None:
        return self._epochs.at(told.until(self.refits_at(len(told))))

    def _learn(self, told: Told) -> tuple[Gaussians, Sequence] | None:
        """A mixture, and the sequence its draws are made of in this epoch; None while the elite is too small."""
        ranked = int((told.scores < np.inf).all(axis=1).sum())
        if self._fraction * ranked < self._fit_from:
            return None
        best = told.points[elite(told, self._fraction, self._fit_from)]
        with one_thread():
            fitted = Gaussians.fit(best, self._components, self._regularisation, self._seed)
        return fitted, Sequence(self._domain.dimension + 1, self._seed, 1, len(told))
