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

SAME = 1.001
"""Volumes that differ by less are one: they are told in single precision."""


class Boxes:
    """Periodic cubes of one size.

    Arguments:
    - `box`: their side, comoving Mpc; None: as `shot_noise` says.
    - `length`: the output that says how many rows a mock has.
    - `shot_noise`: an output that is V / rows, and NaN where rows were lost; None: no mock tells.
    """

    def __init__(self, box: float | None, length: str, shot_noise: str | None = None) -> None:
        if box is None and shot_noise is None:
            raise ValueError("box: neither it nor shot_noise tells of the volume")
        if box is not None and not 0 < box < np.inf:
            raise ValueError(f"box: {box!r} is not the side of a cube in comoving Mpc")
        self.box, self.length, self.shot_noise = box, length, shot_noise

    @property
    def of(self) -> list[str]:
        return [self.length] if self.shot_noise is None else [self.length, self.shot_noise]

    def counted(self, outputs: Arrays, sound: Any) -> dict[str, Any]:
        """Mocks that count, those that do not, and the least and the largest volume they tell of."""
        told = self._told(outputs)
        return {
            "boxes": np.array(sound.sum()),
            "left_out": np.array((~sound).sum()),
            "volumes": np.array([told.min(initial=np.inf), told.max(initial=0.0)]),
        }

    def joined(self, one: Arrays, two: Arrays) -> dict[str, Any]:
        """Those of two sets of mocks."""
        (least, most), (less, more) = one["volumes"], two["volumes"]
        counts = {name: one[name] + two[name] for name in ("boxes", "left_out")}
        return {**counts, "volumes": np.array([min(least, less), max(most, more)])}

    def volume(self, whole: Arrays) -> float:
        """Of one mock, comoving Mpc^3; 0 where nothing tells. Raises `ConfigError` for mocks of several sizes."""
        least, most = whole["volumes"]
        if most > least * SAME:
            sides = " to ".join(f"{volume ** (1 / 3):.6g}" for volume in (least, most))
            raise ConfigError(f"box: mocks of {sides} comoving Mpc are reduced as one", "by: experiment.box")
        return float(most) if self.box is None else self.box**3

    def rows(self, outputs: Arrays, columns: Sequence[str]) -> tuple[Any, Any]:
        """Which mocks count (trials,), and which rows of those that do (trials, room)."""
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

    def _told(self, outputs: Arrays) -> Any:
        """Volumes, of those mocks that tell. Raises `ConfigError` where that is not the box's."""
        if self.shot_noise is None:
            return np.zeros(0)
        rows = np.asarray(outputs[self.length], np.float64)
        told = np.asarray(outputs[self.shot_noise], np.float64) * rows
        told = told[np.isfinite(told) & (rows > 0)]
        if self.box is not None:
            wrong = told[(told > self.box**3 * SAME) | (told * SAME < self.box**3)]
            if len(wrong):
                what = f"box: {self.box!r} is not the side of these mocks, by {self.shot_noise!r}"
                raise ConfigError(what, f"box: {wrong[0] ** (1 / 3):.6g}")
        return told
