"""Trees of neighbours in tests: data that are hard for them, and neighbours found without any tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist


def data_sets(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """So many data sets of different kinds, always the same ones."""
    kinds = list(KINDS)
    for number in range(count):
        name = kinds[number % len(kinds)]
        yield f"{name}-{number}", KINDS[name](np.random.default_rng([number, 17]), 1 + number // len(kinds))


def _normal(random, turn):
    return random.normal(size=(300 * turn, 3))


def _lattice(random, turn):
    return random.integers(0, 5 + turn, (400, 3)).astype(float)


def _duplicates(random, turn):
    return random.normal(size=(20 * turn, 2))[random.integers(0, 20 * turn, 300)]


def _same(random, turn):
    return np.full((40 * turn, 2), 1.25)


def _line(random, turn):
    return np.outer(random.permutation(250 * turn), [1.0, -2.0, 0.5])


def _scales(random, turn):
    """Clusters within clusters over twelve decades."""
    centres = random.normal(size=(300, 2))
    return centres * 10.0 ** random.integers(-9, 4, (300, 1)) + random.integers(0, 2, (300, 1)) * 1e-3


def _high(random, turn):
    return random.normal(size=(150 + 50 * turn, 20))


def _circle(random, turn):
    """All as far from the middle; neighbours of the middle are ties but for rounding."""
    angle = random.uniform(0, 2 * np.pi, 200 * turn)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _far(random, turn):
    """Close together, far from the origin."""
    return 1e6 + random.normal(size=(250, 3))


def _one_dimension(random, turn):
    return random.exponential(size=(300, 1)).round(2)


KINDS = {
    "normal": _normal, "lattice": _lattice, "duplicates": _duplicates, "same": _same, "line": _line,
    "scales": _scales, "high": _high, "circle": _circle, "far": _far, "one": _one_dimension,
}  # fmt: skip


def queries_for(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A third of the points themselves, a third between two of them, a third far off."""
    random = np.random.default_rng([seed, 3])
    one, other = points[random.integers(0, len(points), (2, count))]
    share = np.arange(count)[:, None] % 3
    away = one + random.normal(size=one.shape) * 3 * (np.ptp(points, axis=0) + 1)
    return np.where(share == 0, one, np.where(share == 1, (one + other) / 2, away))


def nearest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all distances (queries, points) the k smallest, of equal ones those of smaller number."""
    numbers = np.broadcast_to(np.arange(distances.shape[1]), distances.shape)
    order = np.lexsort((numbers, distances))[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def same_neighbours(found, distances: np.ndarray, exact: bool = False, rounding: float = 1e-12) -> None:
    """Fail unless `found` are the nearest by all distances.

    Distances that differ by less than `rounding` may change places, unless they are `exact`: then ties go by number.
    """
    numbers, found_distances = found
    expected, expected_distances = nearest(distances, numbers.shape[1])
    slack = rounding * (1 + expected_distances)
    assert (np.abs(found_distances - expected_distances) <= slack).all()
    if exact:
        assert np.array_equal(numbers, expected)
    own = np.take_along_axis(distances, numbers, axis=1)
    assert (np.abs(own - expected_distances) <= slack).all()
    assert (np.diff(np.sort(numbers, axis=1)) > 0).all(), "a point stands twice"


def straight(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Euclidean distances, by another's code."""
    return cdist(queries, points)
