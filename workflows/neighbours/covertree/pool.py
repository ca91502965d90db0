"""Where the nodes of all versions of a tree stand.

A record describes a node and never changes. A version of a tree is the record of its root: a change appends new
records for the nodes on the paths from the root to what changed, and they share every other record with the version
before (path copying: Driscoll, Sarnak, Sleator & Tarjan, J. Comput. Syst. Sci. 38:86, 1989).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .growing import Array, Growing, spread

TWIN = -32768
"""The level of a point that lies exactly on its parent: below every level, since nothing separates the two."""

NOWHERE = np.iinfo(np.int64).max


def scales(levels: Array) -> Array:
    """2^level; for twins a number below every distance, so that nothing is near enough to them."""
    return np.where(levels == TWIN, -1.0, np.ldexp(1.0, levels))


def levels_over(distances: Array) -> Array:
    """The smallest i with distance <= 2^i, exactly; `TWIN` + 1 for a distance of 0."""
    mantissa, exponent = np.frexp(distances)
    return np.where(distances == 0, TWIN + 1, exponent - (mantissa == 0.5)).astype(np.int64)


class Pool:
    """Points and records of all versions of a tree.

    Columns of `records`:
    - `point`: which point it is; `level`; `gap`: distance to its parent (0 for a root).
    - `radius`: no descendant is farther than this.
    - `first`, `count`: its children in `children`.
    - `size`: points of its subtree, itself among them; `least`: the smallest of their numbers.
    """

    def __init__(self, features: int) -> None:
        self.points = Growing(features=(np.float64, (features,)))
        whole, real = (np.int64, ()), (np.float64, ())
        self.records = Growing(
            point=whole, level=whole, gap=real, radius=real, first=whole, count=whole, size=whole, least=whole
        )
        self.children = Growing(record=whole)
        self.blocks: tuple[int, Any] | None = None
        """The version that was last searched in blocks, and these (`blocks.blocks_of`)."""

    def leaves(self, points: Array, levels: Array, gaps: Array) -> Array:
        """Records of nodes without children."""
        none = np.zeros(len(points), np.int64)
        return self.records.append(
            point=points, level=levels, gap=gaps, radius=np.zeros(len(points)),
            first=none, count=none, size=none + 1, least=points,
        )  # fmt: skip

    def of(self, records: Array) -> Array:
        """Features of the points of records, (records, features)."""
        return self.points["features"].take(self.records["point"].take(records), axis=0)

    def families(self, records: Array) -> tuple[Array, Array]:
        """Children of records: which of the records each is a child of, and its own record."""
        owner, place = spread(self.records["first"].take(records), self.records["count"].take(records))
        return owner, self.children["record"].take(place)

    def below(self, root: int) -> tuple[Array, Array]:
        """All records of a version, generation by generation, and the place of each one's parent in that list."""
        records, parents, start = [np.array([root])], [np.array([-1])], 0
        while len(records[-1]):
            owner, found = self.families(records[-1])
            parents.append(owner + start)
            start += len(records[-1])
            records.append(found)
        return np.concatenate(records), np.concatenate(parents)


def generations(parent: Array) -> Iterator[slice]:
    """Where each generation below the root stands in a list as `Pool.below` gives it."""
    begin = 1
    while begin < len(parent):
        end = int(np.searchsorted(parent, begin))
        yield slice(begin, end)
        begin = end
