"""Going down a tree with many questions at once.

A frontier is a list of pairs (question, node), each with its distance, in the order of the questions. All nodes of it
are replaced by their children together, but for those that nobody needs: a node of radius r at distance d from a
question has nothing nearer than d - r; and a child at distance g from a parent at distance d, nothing nearer than
|d - g| less its own radius, which costs no distance at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from .distances import pairs
from .growing import Array
from .metrics import Fitted
from .pool import Pool

MOST = 1 << 22
"""Pairs of one frontier; a longer one is walked in two halves."""


@dataclass(frozen=True)
class Frontier:
    """Pairs of questions and nodes.

    Arguments:
    - `before`, `back`: the frontier these are children of, and the place there of each one's parent.
    """

    row: Array
    record: Array
    distance: Array
    before: Frontier | None = None
    back: Array | None = None

    def __len__(self) -> int:
        return len(self.row)

    def only(self, chosen: Array) -> Frontier:
        """Some of the pairs: a mask, or places in order."""
        back = None if self.back is None else self.back[chosen]
        return Frontier(self.row[chosen], self.record[chosen], self.distance[chosen], self.before, back)


class Question(Protocol):
    """What is asked of a tree by a walk.

    Arguments:
    - `narrows`: whether bounds differ between the nodes of one question.
    """

    narrows: bool

    def bound(self, row: Array, record: Array) -> Array:
        """Distances beyond which nothing of a subtree matters to a question; -infinity where nothing does."""
        ...

    def see(self, frontier: Frontier) -> None:
        """Take notice of nodes and their distances."""
        ...


@dataclass(frozen=True)
class Walker:
    """A version of a tree, to be gone down with queries (rows of features)."""

    pool: Pool
    root: int
    fitted: Fitted
    queries: Array

    def start(self) -> Frontier:
        """Every question at the root."""
        count = len(self.queries)
        return self._reached(np.arange(count), np.full(count, self.root), None, None)

    def walk(self, question: Question) -> None:
        """Show the question all nodes that matter to it."""
        frontier = self.start()
        question.see(frontier)
        self._down(frontier, question)

    def walk_inside_first(self, question: Question) -> None:
        """The same, but first only to nodes that have the query within their radius.

        What is found there is near, so that most of what was put off need not be looked at. Ways up are lost.
        """
        frontier = self.start()
        question.see(frontier)
        later: list[Frontier] = []
        self._down(frontier, question, later)
        rest = [self._open(one, question)[0] for one in later]
        if sum(map(len, rest)):
            row, record, distance = (
                np.concatenate([getattr(one, name) for one in rest]) for name in ("row", "record", "distance")
            )
            self._down(Frontier(row, record, distance).only(np.argsort(row, kind="stable")), question)

    def _down(self, frontier: Frontier, question: Question, later: list[Frontier] | None = None) -> None:
        """From a frontier down; with a list for what comes `later`, nodes that the query is outside of are put off."""
        waiting = [frontier]
        while waiting:
            for piece, bound in self._pieces(*self._open(waiting.pop(), question)):
                found = self._children(piece, bound, question)
                if not len(found):
                    continue
                question.see(found)
                found = found.only(np.flatnonzero(self.pool.records["count"].take(found.record)))
                if later is not None:
                    inside = found.distance <= self.pool.records["radius"].take(found.record)
                    later.append(found.only(np.flatnonzero(~inside)))
                    found = found.only(np.flatnonzero(inside))
                waiting.append(found)

    def slack(self, distance: Array) -> Array:
        """How far rounding may put a bound off that three distances up to this one go into."""
        return 4 * (self.fitted.relative * distance + self.fitted.absolute)

    @cached_property
    def _reach(self) -> tuple[Array, Array]:
        """How near and how far from its parent the subtree of each record may be."""
        gap, radius = self.pool.records["gap"], self.pool.records["radius"]
        slack = self.slack(gap + radius)
        return gap - radius - slack, gap + radius + slack

    def _open(self, frontier: Frontier, question: Question) -> tuple[Frontier, Array]:
        """Those of some inner nodes whose descendants may matter, and the bounds of their questions."""
        records = self.pool.records
        bound = question.bound(frontier.row, frontier.record)
        radius = records["radius"].take(frontier.record)
        low = frontier.distance - radius - self.slack(frontier.distance + radius)
        keep = np.flatnonzero(low <= bound)
        return frontier.only(keep), bound[keep]

    def _pieces(self, frontier: Frontier, bound: Array) -> Iterator[tuple[Frontier, Array]]:
        ends = np.cumsum(self.pool.records["count"].take(frontier.record))
        while len(frontier):
            size = max(int(np.searchsorted(ends, MOST, side="right")), 1)
            some, rest = slice(None, size), slice(size, None)
            yield frontier.only(some), bound[some]
            frontier, bound, ends = frontier.only(rest), bound[rest], ends[rest] - ends[size - 1]

    def _children(self, frontier: Frontier, bound: Array, question: Question) -> Frontier:
        """The children of nodes that may matter, with their distances."""
        owner, record = self.pool.families(frontier.record)
        near, far = self._reach
        slack = self.slack(frontier.distance + bound)
        low, high = frontier.distance - bound - slack, frontier.distance + bound + slack
        places = np.flatnonzero((far.take(record) >= low.take(owner)) & (near.take(record) <= high.take(owner)))
        owner, record = owner.take(places), record.take(places)
        if question.narrows:
            places = self._narrowed(frontier, owner, record, question)
            owner, record = owner.take(places), record.take(places)
        return self._reached(frontier.row.take(owner), record, frontier, owner)

    def _narrowed(self, frontier: Frontier, owner: Array, record: Array, question: Question) -> Array:
        """Those children that may matter by their own bounds, too."""
        gap, radius = self.pool.records["gap"].take(record), self.pool.records["radius"].take(record)
        above = frontier.distance.take(owner)
        low = np.abs(above - gap) - radius - self.slack(above + gap + radius)
        return np.flatnonzero(low <= question.bound(frontier.row.take(owner), record))

    def _reached(self, row: Array, record: Array, before: Frontier | None, back: Array | None) -> Frontier:
        points = self.pool.records["point"].take(record)
        distance = pairs(self.fitted.form, self.queries, row, self.pool.points["features"], points)
        return Frontier(row, record, distance, before, back)


def nearest_of_each(row: Array, distance: Array, tie: Array) -> Array:
    """For each question the place of its nearest pair, of equally near ones that with the smallest `tie`.

    Rows have to be in order; questions without a pair are left out.
    """
    if not len(row):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    counts = np.diff(np.r_[starts, len(row)])
    least = np.repeat(np.minimum.reduceat(distance, starts), counts)
    ties = np.where(distance == least, tie, np.iinfo(np.int64).max)
    first = np.repeat(np.minimum.reduceat(ties, starts), counts)
    places = np.flatnonzero((distance == least) & (tie == first))
    return places[np.r_[True, row[places][1:] != row[places][:-1]]]
