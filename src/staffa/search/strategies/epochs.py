"""What a strategy learnt, kept for as long as it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from staffa.search.strategies import Told

Learnt = TypeVar("Learnt")

SHARE = 500
"""In a long search a fit waits for one result in so many: each looks at all, and would cost more and more."""


def due(told: int, every: int) -> int:
    """Up to which result a fit looks when there are so many, if it is made anew every few results."""
    return told - told % max(every, told // SHARE)


class Epochs(Generic[Learnt]):
    """Learns once for each length of what was told; the last two remain.

    So a thread may prepare the next epoch while others still ask of the one before.
    """

    def __init__(self, learn: Callable[[Told], Learnt]) -> None:
        self._learn = learn
        self._kept: tuple[tuple[tuple[int, int], Learnt], ...] = ()

    def at(self, told: Told) -> Learnt:
        key = (told.version, len(told))
        for known, learnt in self._kept:
            if known == key:
                return learnt
        learnt = self._learn(told)
        self._kept = ((key, learnt), *self._kept[:1])
        return learnt
