"""`sobol`: a scrambled Sobol sequence, which fills the domain evenly, whatever is told.

Sobol 1967; scrambled as Matoušek 1998, by scipy. Any stretch of a power of two in length is even in itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Domain
from staffa.search.strategies import Points, Told


class Sequence:
    """Rows of one scrambled sequence by their number; reading on from where the last reading ended is quick."""

    def __init__(self, dimension: int, *seed: int) -> None:
        self._dimension, self._seed = dimension, seed
        self._engine: Any = None

    def rows(self, first: int, count: int) -> npt.NDArray[np.float64]:
        """(count, dimension) numbers of [0, 1), from the row number `first` on."""
        if count <= 0:
            return np.empty((0, self._dimension))
        if self._engine is None or self._engine.num_generated > first:
            self._engine = self._new()
        if self._engine.num_generated < first:
            self._engine.fast_forward(first - self._engine.num_generated)
        if self._engine.num_generated:
            return np.asarray(self._engine.random(count))
        # scipy warns of a first reading that is no power of two: whoever reads by number knows what he does
        one = self._engine.random(1)
        return np.concatenate([one, self._engine.random(count - 1)]) if count > 1 else np.asarray(one)

    def _new(self) -> Any:
        from scipy.stats import qmc

        generator = np.random.default_rng(np.random.SeedSequence(self._seed))
        return qmc.Sobol(self._dimension, scramble=True, seed=generator)


class Sobol:
    """Trial i has the i-th point of the sequence."""

    def __init__(self, *, domain: Domain, budget: int | None, seed: int) -> None:
        self._sequence = Sequence(domain.dimension, seed)

    def suggest(self, first: int, count: int, told: Told) -> Points:
        return self._sequence.rows(first, count)
