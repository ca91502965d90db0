"""Which galaxies are chosen: by limits, or by a threshold that leaves as many as wanted in the mean of all boxes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mocks import moments
from mocks.bins import Bins, counted, merged, spread
from mocks.boxes import Boxes
from staffa.errors import StaffaWarning

Arrays = Mapping[str, Any]
Limits = Mapping[str, tuple[float | None, float | None]]


class Threshold:
    """Galaxies within limits, and how many these are.

    Options:
    - `where`: by column [least, most], both included; null for no limit. A galaxy is within all of them.
    - `box`: side of the mocks, comoving Mpc; by default as `shot_noise` (an output, V / rows; null for none) says,
      which it is held against.
    - `length`: how many rows a mock has.

    `apply` gives each galaxy `selected`. Result: `boxes`, `density` (their mean, per comoving Mpc^3), `scatter`
    (standard deviation of a box's density; 0 of fewer than two), `share` of all galaxies, boxes `left_out` (a NaN, or
    more rows than there is room for). A few numbers are in memory.
    """

    applies = "galaxies"

    def __init__(
        self,
        where: dict[str, Any],
        box: float | None = None,
        length: str = "n_galaxies",
        shot_noise: str | None = "shot_noise",
    ) -> None:
        self.where, self.boxes = _limits(where), Boxes(box, length, shot_noise)
        if not self.where:
            raise ValueError("where: no limits")
        self.of = [*self.where, *self.boxes.of]

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        sound, rows = self.boxes.rows(outputs, list(self.where))
        chosen = (rows & within(outputs, self.where)).sum(axis=1)[sound]
        found = moments.of_rows(np.stack([chosen, rows.sum(axis=1)[sound]], axis=1).astype(np.float64))
        return {**found, **self.boxes.counted(outputs, sound)}

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {**moments.joined(one, two), **self.boxes.joined(one, two)}

    def finish(self, whole: Arrays) -> Arrays:
        count, (chosen, rows) = int(whole["count"]), whole["mean"]
        volume = self.boxes.volume(whole) or np.inf  # without any row there is no density
        return {
            "boxes": whole["boxes"],
            "density": np.array(chosen / volume),
            "scatter": np.sqrt(whole["products"][0, 0] / max(count - 1, 1)) / volume,
            "share": np.array(chosen / rows if rows else 0.0),
            "left_out": whole["left_out"],
        }

    def apply(self, whole: Arrays, outputs: Arrays, params: Arrays) -> dict[str, Any]:
        chosen = within(outputs, self.where)
        return {"selected": chosen & self.boxes.there(outputs, chosen.shape[1])}


class NumberDensity:
    """The galaxies with the most of something: one threshold for all boxes, such that they are as many as wanted.

    Values are counted in bins over all boxes, n(> x) = galaxies above x / volume of all boxes; the threshold is the
    edge at which that is nearest to the target. So `density` is exact, and as near to the target as `width` allows. To
    be used with `by: redshift`. One count a bin is in memory.

    Options:
    - `of`: the column whose largest values are chosen.
    - `density`: wanted galaxies per comoving Mpc^3; a number, or several by name.
    - `range`: [low, high] of values that can be told apart, `width` of the bins; `table_width` of the table's.
    - `where`: limits, as in `Threshold`: only galaxies within them are chosen from, and counted.
    - `box`, `length`, `shot_noise`: as in `Threshold`.

    `apply` gives each galaxy a bool for each density: `selected`, or its name.

    Result: `boxes`, `volume` (comoving Mpc^3), boxes `left_out` (a NaN, or more rows than there is room for); by target
    (t,), in the order of names: `target`, `reached`, `threshold`, `density` of galaxies at or above it. Where there are
    not as many galaxies as wanted, or so many lie above the range, `reached` is false, the threshold infinite, none are
    chosen, and a warning says so. The table n(> x): `edges` (b + 1,), `cumulative` (b + 1,) per comoving Mpc^3.
    """

    applies = "galaxies"

    def __init__(
        self,
        of: str,
        density: float | dict[str, float],
        range: tuple[float, float],
        box: float | None = None,
        width: float = 0.0002,
        table_width: float = 0.02,
        where: dict[str, Any] | None = None,
        length: str = "n_galaxies",
        shot_noise: str | None = "shot_noise",
    ) -> None:
        self.column, self.boxes = of, Boxes(box, length, shot_noise)
        self.bins, self.where = Bins(*range, width), _limits(where or {})
        if not table_width >= width:
            raise ValueError(f"table_width: {table_width} is less than the width of the bins, {width}")
        self._step = round(table_width / width)
        self.targets = density if isinstance(density, dict) else {"selected": density}
        for name, target in self.targets.items():
            if not 0 < target < np.inf:
                raise ValueError(f"density: {target!r} ({name}) is no number of galaxies per comoving Mpc^3")
        if not self.targets:
            raise ValueError("density: no targets")
        self.of = list(dict.fromkeys([of, *self.where, *self.boxes.of]))

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        sound, rows = self.boxes.rows(outputs, [self.column, *self.where])
        places = self.bins.places(outputs[self.column][rows & within(outputs, self.where)])
        return {
            **counted(places, self.bins.number + 2),
            **self.boxes.counted(outputs, sound),
        }

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {**merged(one, two), **self.boxes.joined(one, two)}

    def finish(self, whole: Arrays) -> Arrays:
        counts, volume = spread(whole, (self.bins.number + 2,)), float(whole["boxes"]) * self.boxes.volume(whole)
        above = np.cumsum(counts[::-1])[::-1][1:]
        total, places = int(counts.sum()), {}
        for name, target in self.targets.items():
            lacking = self._lacking(above, total, target * volume)
            places[name] = None if lacking else int(np.argmin(np.abs(above - target * volume)))
            if lacking:
                what = f"density: {target:g} ({name}) of the largest {self.column!r} is not to be had: {lacking}"
                warnings.warn(f"{what} in {volume:.3g} comoving Mpc^3; none are chosen", StaffaWarning, stacklevel=2)
        reached = np.array([place is not None for place in places.values()])
        at = [0 if place is None else place for place in places.values()]
        per_volume = above / (volume or np.inf)
        return {
            "boxes": whole["boxes"],
            "left_out": whole["left_out"],
            "volume": np.array(volume),
            "target": np.array(list(self.targets.values())),
            "reached": reached,
            "threshold": np.where(reached, self.bins.edges[at], np.inf),
            "density": np.where(reached, per_volume[at], 0.0),
            "edges": self.bins.edges[:: self._step],
            "cumulative": per_volume[:: self._step],
        }

    def apply(self, whole: Arrays, outputs: Arrays, params: Arrays) -> dict[str, Any]:
        values = outputs[self.column]
        chosen = self.boxes.there(outputs, values.shape[1]) & within(outputs, self.where) & ~np.isnan(values)
        # By bins, as they were counted: an edge is no number of single precision.
        places, edges = self.bins.places(values), self.bins.edges
        first = [np.searchsorted(edges, threshold) + 1 for threshold in whole["threshold"]]
        reached = zip(self.targets, first, whole["reached"], strict=True)
        return {name: chosen & (places >= place) & bool(right) for name, place, right in reached}

    def _lacking(self, above: Any, total: int, wanted: float) -> str:
        """Why no edge has nearly so many above it; empty where one has."""
        if wanted < 0.5:
            return f"that is {wanted:.2g} galaxies"
        if total + 0.5 < wanted:
            return f"there are {total} galaxies"
        if above[-1] > wanted + 0.5:
            return f"{above[-1]} galaxies lie above the range, to {self.bins.high:g},"
        if above[0] + 0.5 < wanted:
            return f"only {above[0]} galaxies lie in the range, from {self.bins.low:g},"
        return ""


def within(outputs: Arrays, where: Limits) -> Any:
    """Galaxies within all limits (trials, room); True where there are none."""
    chosen: Any = np.True_
    for name, (least, most) in where.items():
        values = outputs[name]
        chosen = chosen & (True if least is None else values >= least) & (True if most is None else values <= most)
        chosen = chosen & ~np.isnan(values)
    return chosen


def _limits(where: Mapping[str, Any]) -> Limits:
    for name, limits in where.items():
        if not isinstance(limits, list | tuple) or len(limits) != 2:
            raise ValueError(f"where: {name}: {limits!r} is not [least, most]")
        if None not in limits and not limits[0] <= limits[1]:
            raise ValueError(f"where: {name}: {limits!r} holds nothing")
    return {name: (limits[0], limits[1]) for name, limits in where.items()}
