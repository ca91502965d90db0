"""Whether a tree is what it has to be: every node looked at, every distance computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .distances import pairs, tiles
from .growing import Array
from .metrics import Fitted
from .pool import TWIN, Pool, generations, scales

SHOWN = 5
"""Faults of a kind that are told one by one."""


@dataclass(frozen=True)
class Report:
    """What is wrong with a tree.

    Arguments:
    - `nodes`: how many were looked at.
    - `faults`: how many there are of each kind: `nesting`, `covering`, `separation`, `radius`, `sums`, `twins`.
    - `told`: the first of each in words.
    """

    nodes: int
    faults: dict[str, int]
    told: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.faults.values())


@dataclass(frozen=True)
class _Nodes:
    point: Array
    parent: Array
    level: Array
    gap: Array
    radius: Array
    size: Array
    least: Array


def validated(pool: Pool, root: int, fitted: Fitted) -> Report:
    """Look at all nodes of a version. Takes all distances: n² of them."""
    record, parent = pool.below(root)
    names = ("point", "level", "gap", "radius", "size", "least")
    nodes = _Nodes(parent=parent, **{name: pool.records[name].take(record) for name in names})
    features = pool.points["features"].take(nodes.point, axis=0)
    found = {
        "nesting": _nesting(nodes),
        "covering": _covering(nodes, features, fitted),
        "separation": _separation(nodes, features, fitted),
        "radius": _radius(nodes, features, fitted),
        "sums": _sums(nodes),
        "twins": _twins(nodes),
    }
    told = tuple(
        f"{kind}: point {nodes.point[place]} at level {nodes.level[place]}"
        for kind, places in found.items()
        for place in places[:SHOWN].tolist()
    )
    return Report(len(record), {kind: len(places) for kind, places in found.items()}, told)


def _nesting(nodes: _Nodes) -> Array:
    """Nodes that are not below their parent's level, and points that are there twice."""
    _, first = np.unique(nodes.point, return_index=True)
    twice = np.setdiff1d(np.arange(len(nodes.point)), first)
    below = np.flatnonzero(nodes.level[1:] >= nodes.level[nodes.parent[1:]]) + 1
    return np.union1d(twice, below)


def _covering(nodes: _Nodes, features: Array, fitted: Fitted) -> Array:
    """Nodes farther from their parent than 2^(level + 1), or than it is written."""
    every = np.arange(1, len(nodes.point))
    distance = pairs(fitted.form, features, every, features, nodes.parent[1:])
    slack = fitted.relative * distance + fitted.absolute
    far = distance - slack > scales(np.where(nodes.level[1:] == TWIN, TWIN + 1, nodes.level[1:] + 1))
    return every[far | (np.abs(distance - nodes.gap[1:]) > slack)]


def _separation(nodes: _Nodes, features: Array, fitted: Fitted) -> Array:
    """Nodes with another one, of their level or a higher one, within 2^level."""
    wrong: list[Array] = []
    scale = scales(nodes.level)
    for row, column, distance in tiles(fitted.form, features, features):
        high, wide = distance.shape
        rows, columns = np.arange(row, row + high), np.arange(column, column + wide)
        near = distance + fitted.relative * distance + fitted.absolute <= scale[rows, None]
        near &= nodes.level[None, columns] >= nodes.level[rows, None]
        near &= rows[:, None] != columns[None, :]
        wrong.append(rows[near.any(axis=1)])
    return np.unique(np.concatenate(wrong))


def _radius(nodes: _Nodes, features: Array, fitted: Fitted) -> Array:
    """Nodes with a descendant beyond their radius."""
    wrong: list[Array] = []
    every = np.arange(len(nodes.point))
    below, above = every, nodes.parent
    while len(below := below[above >= 0]):
        above = above[above >= 0]
        distance = pairs(fitted.form, features, below, features, above)
        far = distance - 2 * (fitted.relative * distance + fitted.absolute) > nodes.radius[above]
        wrong.append(above[far])
        above = nodes.parent[above]
    return np.unique(np.concatenate(wrong)) if wrong else every[:0]


def _sums(nodes: _Nodes) -> Array:
    """Nodes that are wrong about how many points are below them, or which is the first."""
    size, least = np.ones(len(nodes.point), np.int64), nodes.point.copy()
    for some in reversed(list(generations(nodes.parent))):
        np.add.at(size, nodes.parent[some], size[some])
        np.minimum.at(least, nodes.parent[some], least[some])
    return np.flatnonzero((size != nodes.size) | (least != nodes.least))


def _twins(nodes: _Nodes) -> Array:
    """Twins away from their parents, and such as have children."""
    twin = nodes.level == TWIN
    away = np.flatnonzero(twin & (nodes.gap > 0))
    return np.union1d(away, nodes.parent[1:][twin[nodes.parent[1:]]])
