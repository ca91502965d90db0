"""Suggestions that were not made before, as far as a domain has any left.

A strategy knows what was told, not what is under way: of several trials that are asked for by the same knowledge more
than one may be the same corner of the domain. Such a one is suggested anew, as another trial's; where that does not
help either, as among a few choices, it stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from staffa.campaign.domain import Domain
from staffa.campaign.sides import Column
from staffa.search.strategies import Points, Strategy, Told
from staffa.trial import Scalar

TRIES = 4
STRIDE = 1 << 20
"""A trial is suggested again as the one so much later: nobody asks for that one."""


class Fresh:
    """A strategy, and the points it was asked for so far.

    Which points count is said by their parameters' coordinates (`Domain.encode_columns`), so that it does not matter
    whether they were just suggested or read from a journal.
    """

    def __init__(self, domain: Domain, strategy: Strategy) -> None:
        self._domain, self._strategy = domain, strategy
        self._given: set[bytes] = set()

    def add(self, points: Points) -> None:
        """These were suggested before; (n, dimension) coordinates."""
        self._given.update(map(bytes, np.ascontiguousarray(points)))

    def suggest(self, first: int, count: int, told: Told) -> dict[str, Column]:
        """The trials number `first`, `first` + 1, …, as a column for each parameter."""
        columns = self._domain.decode_columns(self._strategy.suggest(first, count, told))
        for row, point in enumerate(map(bytes, self._domain.encode_columns(columns))):
            again = 1
            while point in self._given and again <= TRIES:
                other = self._domain.decode_columns(self._strategy.suggest(first + row + again * STRIDE, 1, told))
                point = bytes(self._domain.encode_columns(other)[0])
                if point not in self._given:
                    _put(columns, row, other)
                again += 1
            self._given.add(point)
        return columns

    def params(self, columns: dict[str, Column]) -> Iterator[dict[str, Scalar]]:
        """The rows of columns, one a trial."""
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        return (dict(zip(columns, row, strict=True)) for row in rows)


def _put(columns: dict[str, Column], row: int, other: dict[str, Column]) -> None:
    for name, values in other.items():
        if columns[name].dtype != values.dtype:  # texts of another length
            columns[name] = columns[name].astype(np.promote_types(columns[name].dtype, values.dtype))
        columns[name][row] = values[0]
