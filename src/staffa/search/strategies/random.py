"""`random`: every trial uniformly from the whole domain. For a baseline, or where nothing can be learnt."""

from __future__ import annotations

import numpy as np

from staffa.campaign.domain import Domain
from staffa.search.strategies import Points, Told

BLOCK = 4
"""Numbers the generator makes at a time; it can be set to any block."""


class Random:
    """Trial i has the i-th row of one stream of random numbers."""

    def __init__(self, *, domain: Domain, budget: int | None, seed: int) -> None:
        self._dimension, self._seed = domain.dimension, seed

    def suggest(self, first: int, count: int, told: Told) -> Points:
        blocks = -(-self._dimension // BLOCK)
        generator = np.random.Philox(np.random.SeedSequence(self._seed))
        generator.advance(first * blocks)
        rows = np.random.Generator(generator).random((count, blocks * BLOCK))
        return rows[:, : self._dimension]
