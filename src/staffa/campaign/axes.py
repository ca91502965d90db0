"""The kinds of block: how each turns what was written into factors of the space.

    grid, zip, list           values as given
    integers                  whole numbers, both ends included
    linspace, logspace        values spaced evenly, both ends included
    sobol, latin, random      `points` samples of ranges
    choice                    `points` draws of given values, with replacement

A factor is what the product multiplies: parameters that change together. A
grid of three names is three factors, a zip of three names is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from staffa.campaign.points import Column, Kind, distinct
from staffa.campaign.values import (
    check_count,
    check_list,
    check_mapping,
    check_name,
    check_positive,
    check_scalar,
    read_ends,
    read_interval,
    shown,
    unify,
)
from staffa.errors import ConfigError, near
from staffa.trial import Scalar

Codes = npt.NDArray[np.int32]
Filling = tuple[tuple[Scalar, ...], Codes]
"""What fills an axis: its values and, for each point of the factor, the place of its value."""


@dataclass(frozen=True)
class Axis:
    """One parameter as declared.

    Attributes:
    - `field`: where it stands, for messages: `space[2].sobol.temperature`.
    - `listed`: its values can be read from the declaration; a condition that
      names another value is a mistake.
    - `continuous`: floats sampled from a range.
    """

    name: str
    field: str
    type: Kind
    listed: bool = True
    continuous: bool = False


@dataclass(frozen=True, eq=False)
class Factor:
    """Parameters that change together: `length` points, filled only when they are needed."""

    axes: tuple[Axis, ...]
    length: int
    fill: Callable[[], Sequence[Filling]]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(
            Column(axis.name, axis.type, values, codes, axis.continuous)
            for axis, (values, codes) in zip(self.axes, self.fill(), strict=True)
        )

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Block:
    """One block as written: the body under its kind, and `points` where it has them."""

    index: int
    kind: str
    body: object
    points: object
    seed: int

    @property
    def field(self) -> str:
        return f"space[{self.index}].{self.kind}"

    def place(self, name: object) -> str:
        return f"{self.field}.{name}"

    def entries(self, like: str) -> dict[str, object]:
        """What is written for each parameter; the names are checked."""
        body = check_mapping(self.body, self.field, like)
        return {check_name(name, self.field): entry for name, entry in body.items()}

    def count(self) -> int:
        return check_count(self.points, f"space[{self.index}].points")

    def generator(self, names: Sequence[str]) -> np.random.Generator:
        """The block's own randomness: blocks added behind it change nothing."""
        text = f"{self.seed}/{self.index}/{' '.join(names)}"
        words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=">u4")
        return np.random.default_rng(words.astype(np.uint32))


def _grid(block: Block) -> tuple[Factor, ...]:
    """Every combination of the named values."""
    entries = block.entries("grid: {population: [64, 256]}")
    return tuple(_together([_as_given(block, name, entry)]) for name, entry in entries.items())


def _zip(block: Block) -> tuple[Factor, ...]:
    """The first of each list together, then the second of each."""
    entries = block.entries("zip: {low: [1, 2], high: [10, 20]}")
    given = [_as_given(block, name, entry) for name, entry in entries.items()]
    lengths = {axis.name: len(values) for axis, values in given}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ConfigError(f"{block.field}: lists of different lengths: {counted}", "for all combinations use grid")
    return (_together(given),)


def _list(block: Block) -> tuple[Factor, ...]:
    """Points written out one by one."""
    like = "list: [{width: 1.0, depth: 2}, {width: 3.0, depth: 4}]"
    rows = [
        check_mapping(row, f"{block.field}[{i}]", like)
        for i, row in enumerate(check_list(block.body, block.field, like))
    ]
    names = [check_name(name, block.field) for name in rows[0]]
    for i, row in enumerate(rows):
        _same_names(names, row, f"{block.field}[{i}]")
    given = []
    for name in names:
        values = [check_scalar(row[name], f"{block.field}[{i}].{name}") for i, row in enumerate(rows)]
        kind, values = unify(values, block.place(name))
        given.append((Axis(name, block.place(name), kind), values))
    return (_together(given),)


def _same_names(names: Sequence[str], row: Mapping[object, object], field: str) -> None:
    """Refuse a listed point whose parameters are not those of the first."""
    missing = [name for name in names if name not in row]
    unknown = [name for name in row if name not in names]
    if missing or unknown:
        named = ", ".join(map(str, missing or unknown))
        verb = "lacks" if missing else "has the unknown"
        hint = near(str(unknown[0]), names) if unknown else "all points of a list have the same parameters"
        raise ConfigError(f"{field} {verb} {named}", hint)


def _as_given(block: Block, name: str, entry: object) -> tuple[Axis, list[Scalar]]:
    """A parameter and its values; a single value is a list of one."""
    field = block.place(name)
    alone = isinstance(entry, str) or not isinstance(entry, Sequence)
    entries = [entry] if alone else check_list(entry, field, "[1, 2]")
    places = [field] if alone else [f"{field}[{i}]" for i in range(len(entries))]
    values = [check_scalar(value, place) for value, place in zip(entries, places, strict=True)]
    kind, values = unify(values, field)
    return Axis(name, field, kind), values


def _together(given: Sequence[tuple[Axis, list[Scalar]]]) -> Factor:
    """One factor of parameters with equally many values."""
    axes = tuple(axis for axis, _ in given)
    return Factor(axes, len(given[0][1]), lambda: [distinct(values) for _, values in given])


def _integers(block: Block) -> tuple[Factor, ...]:
    """All whole numbers between two ends, or every so many."""
    entries = block.entries("integers: {run: [0, 99]}")
    return tuple(_counted(block, name, entry) for name, entry in entries.items())


def _counted(block: Block, name: str, entry: object) -> Factor:
    field = block.place(name)
    parts = check_list(entry, field, "[0, 99]")
    if len(parts) not in (2, 3):
        raise ConfigError(f"{field}: {shown(entry)} must be [low, high] or [low, high, step]")
    low, high = read_ends(parts, field)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{field}: {shown(entry)}: the ends must be whole numbers")
    step = check_count(parts[2], field) if len(parts) == 3 else 1
    length = check_count((high - low) // step + 1, field)
    return Factor((Axis(name, field, "int"),), length, lambda: [distinct(list(range(low, high + 1, step)))])


def _linspace(block: Block) -> tuple[Factor, ...]:
    """Values evenly spaced between two ends."""
    entries = block.entries("linspace: {temperature: [0.5, 2.0, 4]}")
    return tuple(_spaced(block, name, entry, np.linspace) for name, entry in entries.items())


def _logspace(block: Block) -> tuple[Factor, ...]:
    """Values with a constant ratio between two positive ends."""
    entries = block.entries("logspace: {rate: [0.001, 1.0, 4]}")
    return tuple(_spaced(block, name, entry, np.geomspace) for name, entry in entries.items())


def _spaced(
    block: Block, name: str, entry: object, space: Callable[[float, float, int], npt.NDArray[np.float64]]
) -> Factor:
    field = block.place(name)
    parts = check_list(entry, field, "[0.5, 2.0, 4]")
    if len(parts) != 3:
        raise ConfigError(f"{field}: {shown(entry)} must be [low, high, number of points]")
    low, high = map(float, read_ends(parts, field))
    if block.kind == "logspace":
        check_positive(low, parts, field)
    count = check_count(parts[2], field, least=2)

    def fill() -> list[Filling]:
        return [distinct((space(low, high, count) + 0.0).tolist())]

    return Factor((Axis(name, field, "float"),), count, fill)


Uniform = Callable[[np.random.Generator, int, int], npt.NDArray[np.float64]]
"""(generator, points, dimensions) -> (points, dimensions) numbers of [0, 1)."""


def _sobol_cube(generator: np.random.Generator, points: int, dimensions: int) -> npt.NDArray[np.float64]:
    # a whole power of two is drawn and cut: the same sequence, without scipy's warning
    from scipy.stats import qmc

    cube: npt.NDArray[np.float64] = qmc.Sobol(dimensions, scramble=True, seed=generator).random_base2(
        (points - 1).bit_length()
    )
    return cube[:points]


def _latin_cube(generator: np.random.Generator, points: int, dimensions: int) -> npt.NDArray[np.float64]:
    from scipy.stats import qmc

    cube: npt.NDArray[np.float64] = qmc.LatinHypercube(dimensions, seed=generator).random(points)
    return cube


def _uniform_cube(generator: np.random.Generator, points: int, dimensions: int) -> npt.NDArray[np.float64]:
    return generator.random((points, dimensions))


def _sampled(cube: Uniform) -> Callable[[Block], tuple[Factor, ...]]:
    """A block whose ranges are sampled by `cube`."""

    def read(block: Block) -> tuple[Factor, ...]:
        entries = block.entries(f"{block.kind}: {{temperature: [0.1, 10.0, log]}}")
        intervals = {name: read_interval(entry, block.place(name)) for name, entry in entries.items()}
        names, points = tuple(intervals), block.count()
        axes = [
            Axis(name, block.place(name), "int", listed=False)
            if interval.scale == "int"
            else Axis(name, block.place(name), "float", listed=False, continuous=True)
            for name, interval in intervals.items()
        ]

        def fill() -> list[Filling]:
            uniform = cube(block.generator(names), points, len(names))
            spread = [interval.spread(u) for interval, u in zip(intervals.values(), uniform.T, strict=True)]
            return [_filling(axis, values) for axis, values in zip(axes, spread, strict=True)]

        return (Factor(tuple(axes), points, fill),)

    return read


def _filling(axis: Axis, values: npt.NDArray[np.float64]) -> Filling:
    """Sampled whole numbers repeat and are coded; sampled floats stand one per point."""
    if axis.type == "int":
        return distinct(values.astype(np.int64).tolist())
    return tuple(values.tolist()), np.arange(len(values), dtype=np.int32)


def _choice(block: Block) -> tuple[Factor, ...]:
    """Values drawn with replacement, each as likely as often as it is listed."""
    entries = block.entries("choice: {organism: [human, yeast]}")
    given = [_as_given(block, name, entry) for name, entry in entries.items()]
    names, points = tuple(entries), block.count()

    def fill() -> list[Filling]:
        uniform = block.generator(names).random((points, len(names)))
        fillings = []
        for (_, listed), u in zip(given, uniform.T, strict=True):
            values, codes = distinct(listed)
            fillings.append((values, codes[(u * len(listed)).astype(np.intp)]))
        return fillings

    return (Factor(tuple(axis for axis, _ in given), points, fill),)


KINDS: Mapping[str, Callable[[Block], tuple[Factor, ...]]] = {
    "grid": _grid,
    "zip": _zip,
    "list": _list,
    "integers": _integers,
    "linspace": _linspace,
    "logspace": _logspace,
    "sobol": _sampled(_sobol_cube),
    "latin": _sampled(_latin_cube),
    "random": _sampled(_uniform_cube),
    "choice": _choice,
}

SAMPLED = ("sobol", "latin", "random", "choice")
"""Kinds that need `points`."""


def read_block(block: Block) -> tuple[Factor, ...]:
    """The factors of a block, everything about it checked; nothing is drawn yet."""
    if block.kind in SAMPLED and block.points is None:
        raise ConfigError(f"space[{block.index}]: {block.kind} needs `points`", "for example points: 64, beside it")
    if block.kind not in SAMPLED and block.points is not None:
        raise ConfigError(
            f"space[{block.index}].points: {block.kind} has as many points as it lists",
            "`points` goes with " + ", ".join(SAMPLED),
        )
    return KINDS[block.kind](block)
