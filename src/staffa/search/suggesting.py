"""What a strategy says next: when it is asked, or ahead of time, so that nobody waits while it thinks."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from staffa.campaign.domain import Domain
from staffa.search.strategies import Strategy, Told
from staffa.trial import Scalar

Params = dict[str, Scalar]

LEAST, MOST_AHEAD = 4, 64
"""Suggestions made ahead: as many as trials are under way, within these bounds. More would know less."""


class Suggesting:
    """A strategy, the suggestions it made ahead, and what it was last prepared for.

    `thinking` is held while the strategy makes suggestions: they are numbered, so they come one after another. Whoever
    changes `ready` holds the study's lock, too; with `thinking` held it does not grow.
    """

    def __init__(self, domain: Domain, strategy: Strategy) -> None:
        self.thinking = threading.Lock()
        self.ready: deque[Params] = deque()
        self._domain, self._strategy = domain, strategy
        self._prepared: Told | None = None

    def known(self, told: Told) -> Told:
        """What the strategy is to go by: what it was prepared for, if it ever was, or all that was told."""
        return told if self._prepared is None else self._prepared

    def make(self, first: int, count: int, known: Told) -> list[Params]:
        """The trials number `first`, `first` + 1 …; the caller holds `thinking`."""
        return self._domain.decode(self._strategy.suggest(first, count, known)) if count else []

    def level(self, pending: int, left: int) -> int:
        """How many are to be ready."""
        return min(max(pending, LEAST), MOST_AHEAD, left)

    def prepare(self, told: Told) -> bool:
        """Let the strategy refit if enough was told since; says whether it did. One thread at a time.

        Until the first time is over, suggestions wait for it: they would have to refit themselves.
        """
        ahead: Callable[[Told], object] | None = getattr(self._strategy, "prepare", None)
        refits_at: Callable[[int], int] | None = getattr(self._strategy, "refits_at", None)
        if ahead is None or refits_at is None:
            return False
        due, before = told.until(refits_at(len(told))), self._prepared
        if before is not None and (before.version, len(before)) == (due.version, len(due)):
            return False
        with self.thinking if before is None else contextlib.nullcontext():
            ahead(due)
            self._prepared = due
        return True
