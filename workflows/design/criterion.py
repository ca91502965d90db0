"""Which design tells most: a Gaussian process per output, and the determinant of the information in its slopes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

STEP = 0.02
"""Of finite differences, in the unit cube of designs."""
PRIOR = 1e-3
"""Information about each direction before anything is known: keeps the determinant from being 0."""

Design = dict[str, Any]


@dataclass(frozen=True)
class Variable:
    """One number of a design, and where it is looked for. Refuses bounds between which there is nothing."""

    name: str
    low: float
    high: float
    whole: bool = False
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            positive = " above 0" if self.log else ""
            raise ValueError(f"{self.name}: from {self.low} to {self.high} is no range{positive}")

    def value(self, place: float) -> int | float:
        """The value at a place in [0, 1]."""
        low, high = (np.log(self.low), np.log(self.high)) if self.log else (self.low, self.high)
        found = low + place * (high - low)
        found = float(np.exp(found)) if self.log else float(found)
        # Seven digits tell designs apart, and are the same when they are read back.
        return int(np.clip(round(found), self.low, self.high)) if self.whole else float(f"{found:.7g}")

    def place(self, value: float) -> float:
        """Where a value stands in [0, 1]."""
        low, high, at = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        return float((at - low) / (high - low))


def read_bounds(path: Path) -> tuple[Variable, ...]:
    """The variables of a bounds file. Raises `ValueError` for what they cannot be."""
    found = yaml.safe_load(path.read_text())
    if not isinstance(found, Mapping) or not all(isinstance(entry, Mapping) for entry in found.values()):
        raise ValueError(f"{path}: a mapping such as length: {{low: 10, high: 60, whole: true}} is needed")
    unknown = {word for entry in found.values() for word in entry} - {"low", "high", "whole", "log"}
    if unknown:
        raise ValueError(f"{path}: {sorted(unknown)[0]!r} is none of low, high, whole, log")
    return tuple(Variable(name, **entry) for name, entry in found.items())


def random_designs(variables: Sequence[Variable], random: np.random.Generator) -> Iterator[Design]:
    """Designs anywhere in the bounds, for ever."""
    while True:
        places = random.random(len(variables))
        yield {one.name: one.value(place) for one, place in zip(variables, places, strict=True)}


def places(variables: Sequence[Variable], designs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(designs, variables): designs as points of the unit cube."""
    return np.array([[one.place(design[one.name]) for one in variables] for design in designs])


def surrogates(points: np.ndarray, outputs: np.ndarray) -> list[GaussianProcessRegressor]:
    """One Gaussian process with an RBF kernel for each column of (designs, outputs), each scaled to variance 1."""
    models = []
    for column in outputs.T:
        scales = np.ones(points.shape[1])
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(scales, (5e-2, 1e2)) + WhiteKernel(1e-2, (1e-6, 1.0))
        spread = column.std() or 1.0
        with warnings.catch_warnings():
            # An output that a variable does not touch has a scale at its bound: no trouble here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            models.append(
                GaussianProcessRegressor(kernel, random_state=0).fit(points, (column - column.mean()) / spread)
            )
    return models


def information(models: Sequence[GaussianProcessRegressor], points: np.ndarray) -> np.ndarray:
    """(points, variables, variables): Fisher information about a design's variables in what it gives.

    For outputs y_o ~ Normal(m_o(x), s_o^2(x)) it is the sum over o of m_o' m_o'^T / s_o^2, with slopes by central
    differences of the processes' means (Atkinson, Donev & Tobias, Optimum Experimental Designs, 2007, ch. 9-11).
    """
    count, size = points.shape
    shifts = STEP * np.eye(size)
    near = np.concatenate([points[:, None] + shifts, points[:, None] - shifts]).reshape(-1, size)
    found = np.zeros((count, size, size))
    for model in models:
        above, below = model.predict(near).reshape(2, count, size)
        slopes = (above - below) / (2 * STEP)
        _, sd = model.predict(points, return_std=True)
        found += slopes[:, :, None] * slopes[:, None, :] / (sd**2)[:, None, None]
    return found


def best(models: Sequence[GaussianProcessRegressor], known: np.ndarray, candidates: np.ndarray) -> int:
    """The candidate with which the designs' information has the largest determinant (D-optimality)."""
    sum_of_known = information(models, known).sum(axis=0) + PRIOR * np.eye(known.shape[1])
    return int(np.argmax(np.linalg.slogdet(sum_of_known + information(models, candidates))[1]))
