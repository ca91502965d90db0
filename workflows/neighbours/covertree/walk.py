"""Going down a tree with many questions at once.

A frontier is a list of pairs (question, node), each with its distance, in the order of the questions. All nodes of it
are replaced by their children together, but for those that nobody needs: a node of radius r at distance d from a
question has nothing nearer than d - r; and a child at distance g from a parent at distance d, nothing nearer than
|d - g| less its own radius, which costs no distance at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    """What is asked of a tree by a walk."""

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
        waiting = [self.start()]
        question.see(waiting[0])
        while waiting:
            frontier = self._open(waiting.pop(), question)
            for piece in self._pieces(frontier):
                found = self._children(piece, question)
                if len(found):
                    question.see(found)
                    waiting.append(found)

    def greedy(self, question: Question) -> None:
        """Follow the nearest child from the root down, and show the question all children on that way."""
        frontier = self.start()
        question.see(frontier)
        while len(frontier):
            found = self._children(frontier, question, all_of_them=True)
            if len(found):
                question.see(found)
            frontier = found.only(nearest_of_each(found.row, found.distance, found.record))

    def slack(self, distance: Array) -> Array:
        """How far rounding may put a bound off that three distances up to this one go into."""
        return 4 * (self.fitted.relative * distance + self.fitted.absolute)

    def _open(self, frontier: Frontier, question: Question) -> Frontier:
        """Nodes that have descendants which may matter."""
        records = self.pool.records
        radius = records["radius"].take(frontier.record)
        low = frontier.distance - radius - self.slack(frontier.distance + radius)
        keep = (low <= question.bound(frontier.row, frontier.record)) & (records["count"].take(frontier.record) > 0)
        return frontier.only(np.flatnonzero(keep))

    def _pieces(self, frontier: Frontier) -> Iterator[Frontier]:
        ends = np.cumsum(self.pool.records["count"].take(frontier.record))
        while len(frontier):
            size = max(int(np.searchsorted(ends, MOST, side="right")), 1)
            yield frontier.only(slice(None, size))
            frontier, ends = frontier.only(slice(size, None)), ends[size:] - ends[size - 1]

    def _children(self, frontier: Frontier, question: Question, all_of_them: bool = False) -> Frontier:
        """The children of all nodes that may matter, with their distances."""
        owner, record = self.pool.families(frontier.record)
        row = frontier.row.take(owner)
        if not all_of_them:
            above, gap = frontier.distance.take(owner), self.pool.records["gap"].take(record)
            radius = self.pool.records["radius"].take(record)
            low = np.abs(above - gap) - radius - self.slack(above + gap + radius)
            keep = np.flatnonzero(low <= question.bound(row, record))
            owner, record, row = owner[keep], record[keep], row[keep]
        return self._reached(row, record, frontier, owner)

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
