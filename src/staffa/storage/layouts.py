"""How outputs stand in a group's store: shapes, axes, element types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.cells import CELLS

PARAMETER_CHUNK = 1 << 16


@dataclass(frozen=True)
class ArrayLayout:
    """One recorded output on disk: dims (trial, [chain,] [draw,] own)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Own shape."""
    dims: tuple[str, ...]
    chains: int = 0
    table: str = ""
    length: str = ""
    encoding: str = ""
    """How values that are no numbers are encoded: JSON."""
    type: str = ""
    """… and the Arrow type of their column (`cells.type_text`)."""
    categories: tuple[Any, ...] = ()
    """… and what codes stand for, from 1 on."""
    cell: float = 0.0
    """Bytes an element of variable length may be expected to have."""

    @property
    def numeric(self) -> bool:
        """Whether its elements are numbers or bools."""
        return not self.encoding

    @property
    def whole(self) -> bool:
        """Whether all values of a trial stand in one cell: there is no draw axis."""
        return self.dtype == CELLS


@dataclass(frozen=True)
class GroupLayout:
    """Everything that decides the metadata of a group's Zarr store."""

    name: str
    trials: int
    batch: int
    """Rows of a shard."""
    segments: int
    draws: int | None
    arrays: tuple[ArrayLayout, ...]
    coords: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    compression: str = "lz4"
    level: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    seated: bool = False
    """Whether trials come to their rows a batch at a time, as a search asks for them (`HotStore.seat`)."""
    objectives: tuple[str, ...] = ()
    """What a search scores trials by: columns of the array `objectives`."""
    rungs: tuple[int, ...] = ()
    """Segments after which it compares them, by the same: array `rungs`."""

    @property
    def parameter_chunk(self) -> int:
        """Trials in a chunk of the parameters: a batch where they are written batch by batch."""
        return self.batch if self.seated else min(PARAMETER_CHUNK, max(self.rows, 1))

    @property
    def batches(self) -> int:
        return math.ceil(self.trials / self.batch)

    @property
    def rows(self) -> int:
        """Length of the trial axis: rounded up to whole shards."""
        return self.batches * self.batch

    @property
    def files(self) -> int:
        """Inodes of the complete store."""
        scored, rungs = bool(self.objectives), len(self.rungs)
        marks, per_batch = 3 + scored + bool(rungs), len(self.arrays) * self.segments + 3 + scored + rungs
        axes = len(self.coords) + (self.draws is not None)
        columns = 2 + len(self.attributes.get("parameters", ()))
        folders = 1 + marks + len(self.arrays) + axes + columns  # each with its zarr.json
        return 2 * folders + axes + columns * math.ceil(self.trials / self.parameter_chunk) + self.batches * per_batch

    def shard(self, array: ArrayLayout) -> tuple[int, ...]:
        """Shape of the shard one batch writes of `array` in one segment."""
        return self._shape(array, self.batch, 1 if self.draws is None else self.draws // self.segments)

    def shape(self, array: ArrayLayout) -> tuple[int, ...]:
        """Shape of an output's whole array."""
        return self._shape(array, self.rows, self.draws or 1)

    def axes(self, array: ArrayLayout) -> tuple[str, ...]:
        """Names of the axes of an output's array."""
        if array.whole:
            return ("trial",)
        return ("trial", *["chain"] * bool(array.chains), *["draw"] * (self.draws is not None), *array.dims)

    def _shape(self, array: ArrayLayout, rows: int, draws: int) -> tuple[int, ...]:
        if array.whole:
            return (rows,)
        chains = (array.chains,) if array.chains else ()
        return (rows, *chains, *([draws] if self.draws is not None else []), *array.shape)
