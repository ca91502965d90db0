"""Rows of many mocks side by side: which of them count, and the volume they are from.

A mock that holds a NaN in a column that is asked for, tells of more rows than it has, or lost some (its shot noise is
then NaN) cannot be counted in part: it is left out as a whole, with its volume, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from staffa.errors import ConfigError

Arrays = Mapping[str, Any]


class Boxes:
    """Periodic cubes of one size.

    Arguments:
    - `box`: their side, comoving Mpc.
    - `length`: the output that says how many rows a mock has.
    - `shot_noise`: an output that is V / rows, to hold `box` against; None: not held against anything.
    """

    def __init__(self, box: float, length: str, shot_noise: str | None = None) -> None:
        if not 0 < box < np.inf:
            raise ValueError(f"box: {box!r} is not the side of a cube in comoving Mpc")
        self.box, self.length, self.shot_noise = box, length, shot_noise

    @property
    def of(self) -> list[str]:
        return [self.length] if self.shot_noise is None else [self.length, self.shot_noise]

    @property
    def volume(self) -> float:
        """Of one, comoving Mpc^3."""
        return self.box**3

    def rows(self, outputs: Arrays, columns: Sequence[str]) -> tuple[Any, Any]:
        """Which mocks count (trials,), and which rows of those that do (trials, room).

        Raises `ConfigError` where the mocks are of another size.
        """
        self._check(outputs)
        lengths = np.asarray(outputs[self.length])
        room = outputs[columns[0]].shape[1]
        there = self.there(outputs, room)
        sound = (lengths <= room) & ~self._lost(outputs)
        for name in columns:
            values = outputs[name]
            if values.dtype.kind == "f":
                sound = sound & ~(np.isnan(values) & there).any(axis=1)
        return sound, there & sound[:, None]

    def there(self, outputs: Arrays, room: int) -> Any:
        """Rows that are filled, (trials, room)."""
        return np.arange(room) < np.asarray(outputs[self.length])[:, None]

    def _lost(self, outputs: Arrays) -> Any:
        """Mocks that have rows, and no shot noise."""
        if self.shot_noise is None:
            return np.False_
        return np.isnan(outputs[self.shot_noise]) & (np.asarray(outputs[self.length]) > 0)

    def _check(self, outputs: Arrays) -> None:
        if self.shot_noise is None:
            return
        rows = np.asarray(outputs[self.length], np.float64)
        told = np.asarray(outputs[self.shot_noise], np.float64) * rows
        known = np.isfinite(told) & (rows > 0)
        wrong = known & (np.abs(told / self.volume - 1) > 1e-3)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise ConfigError(
                f"box: {self.box!r} is not the side of these mocks, by {self.shot_noise!r}",
                f"box: {told[first] ** (1 / 3):.6g}",
            )
