"""How galaxies lie in the plane of two columns: counts over all boxes, for figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mocks.bins import Bins, counted, merged, spread
from mocks.boxes import Boxes

Arrays = Mapping[str, Any]


class Plane:
    """Counts of galaxies in cells of two columns, those apart that a third marks. To be used with `by: redshift`.

    Options:
    - `x`, `y`: columns. `x_range`, `y_range`: [low, high] of each; `width` of their bins, one for both.
    - `mark`: a column of bools, such as quenched.
    - `length`: how many rows a mock has.

    Result: `x_edges` (a + 1,), `y_edges` (b + 1,), `counts` (2, a, b): unmarked, marked; how many galaxies lie
    `outside`; `boxes`, and boxes `left_out` (a NaN, or more rows than there is room for). Cells that are not empty are
    in memory.
    """

    def __init__(
        self,
        x: str,
        y: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        width: float = 0.05,
        mark: str = "galaxies.quenched",
        length: str = "n_galaxies",
    ) -> None:
        self.x, self.y, self.mark = x, y, mark
        self.bins = Bins(*x_range, width, "x_range"), Bins(*y_range, width, "y_range")
        self.boxes = Boxes(1.0, length)
        self._shape = (2, self.bins[0].number + 2, self.bins[1].number + 2)
        self.of = [x, y, mark, length]

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        sound, rows = self.boxes.rows(outputs, [self.x, self.y])
        marked = outputs[self.mark][rows].astype(np.int64)
        across, up = self.bins[0].places(outputs[self.x][rows]), self.bins[1].places(outputs[self.y][rows])
        cells = (marked * self._shape[1] + across) * self._shape[2] + up
        found = counted(cells, int(np.prod(self._shape)))
        return {**found, **self.boxes.counted(outputs, sound)}

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {**merged(one, two), **self.boxes.joined(one, two)}

    def finish(self, whole: Arrays) -> Arrays:
        cells = spread(whole, self._shape)
        inside = cells[:, 1:-1, 1:-1]
        return {
            "x_edges": self.bins[0].edges,
            "y_edges": self.bins[1].edges,
            "counts": inside,
            "outside": np.array(cells.sum() - inside.sum()),
            "boxes": whole["boxes"],
            "left_out": whole["left_out"],
        }
