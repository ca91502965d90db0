"""Points to look for neighbours among, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from staffa.errors import ConfigError, near

Array = npt.NDArray[np.float64]


def normal(random: np.random.Generator, points: int, dimension: int) -> Array:
    """One cloud."""
    return random.normal(size=(points, dimension))


def uniform(random: np.random.Generator, points: int, dimension: int) -> Array:
    """The unit cube."""
    return random.random((points, dimension))


def clusters(random: np.random.Generator, points: int, dimension: int) -> Array:
    """A hundred tight clouds."""
    centres = random.normal(size=(100, dimension))
    return centres[random.integers(0, 100, points)] + 0.05 * random.normal(size=(points, dimension))


def curve(random: np.random.Generator, points: int, dimension: int) -> Array:
    """A closed curve through all dimensions, a little blurred: of dimension one, wherever it lies."""
    angle = random.uniform(0, 2 * np.pi, (points, 1))
    frequency = 1 + np.arange(dimension) // 2
    phase = np.pi / 2 * (np.arange(dimension) % 2)
    return np.cos(angle * frequency + phase) + 1e-3 * random.normal(size=(points, dimension))


def duplicates(random: np.random.Generator, points: int, dimension: int) -> Array:
    """Every point about ten times."""
    places = random.normal(size=(max(points // 10, 2), dimension))
    return places[random.integers(0, len(places), points)]


DATASETS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "normal": normal,
    "uniform": uniform,
    "clusters": clusters,
    "curve": curve,
    "duplicates": duplicates,
}


def drawn(name: str, random: np.random.Generator, points: int, dimension: int) -> Array:
    """(points, dimension) of a data set. Raises `ConfigError` for one that is not there."""
    if name not in DATASETS:
        raise ConfigError(f"dataset: there is no {name!r}", near(name, DATASETS))
    return DATASETS[name](random, points, dimension)
