"""The space: which parameter points a campaign consists of.

A space is a list of blocks that multiply; the first varies slowest.

    - grid: {mutation_rate: [0.01, 0.05], population: [64, 256]}
    - sobol: {temperature: [0.1, 10.0, log]}
      points: 64
    - grid: {width: [1.0, 2.0]}
      when: {population: 64}
    - exclude: [{mutation_rate: 0.05, width: 2.0}]

A block with `when:` applies only to points of the earlier blocks for which the
condition holds; any other point stays one point and lacks its parameters.
`exclude:` drops points. The number of points is known without expanding the
product: only factors tied together by conditions are expanded, among themselves.

Growing: more `points` in a sobol, random or choice block keep the first ones.
A latin hypercube of another size is another hypercube. Blocks added at the end
change nothing in the blocks before them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from staffa.campaign.axes import KINDS, Block, Factor, read_block
from staffa.campaign.conditions import Condition, Declared, Test, read_condition
from staffa.campaign.points import Column, Points
from staffa.campaign.values import LARGEST, check_list, check_mapping, shown
from staffa.errors import ConfigError, near

__all__ = ["Column", "Points", "Space"]

BLOCK_LIKE = "- grid: {population: [64, 256]}"

Picks = dict[int, npt.NDArray[np.int32]]
"""For each factor the point it contributes to each point of the product, -1 where it does not apply."""


class Space:
    """The points of a campaign, as declared.

    Arguments:
    - `blocks`: the blocks, as they stand in YAML.
    - `seed`: the seed of all sampled blocks (`SeedPack.channel("space")`); each
      draws from a generator of its own, derived from the seed, its place and its names.

    Raises `ConfigError`, naming the field, for anything that is not a space.
    `len(space)` is the number of points; `names` are the parameters in the order
    of their declaration, `fields` where each is declared.
    """

    def __init__(self, blocks: Sequence[Mapping[str, object]], seed: int) -> None:
        self._factors, whens, excludes = _read(blocks, seed)
        self._home = {axis.name: at for at, factor in enumerate(self._factors) for axis in factor.axes}
        self._product = _Product(self._factors, self._home, whens, excludes)
        self.names: tuple[str, ...] = tuple(self._home)
        self.fields = {axis.name: axis.field for factor in self._factors for axis in factor.axes}
        self._length = self._count()

    def __len__(self) -> int:
        return self._length

    def expand(self) -> Points:
        """Every point, in order."""
        picks, length = self._product.unfold(range(len(self._factors)))
        columns = []
        for at, factor in enumerate(self._factors):
            pick = picks.pop(at)
            columns += [_spread(column, pick) for column in factor.columns]
        return Points(tuple(columns), length)

    def _count(self) -> int:
        count = math.prod(map(self._product.count, self._product.tied()))
        if count == 0:
            raise ConfigError("space: no point is left, `exclude` drops them all", "loosen a condition of `exclude`")
        if count > sys.maxsize:
            raise ConfigError(f"space: {count:.2e} points", "this is more than anything can hold")
        return count


def _spread(column: Column, pick: npt.NDArray[np.int32]) -> Column:
    """A factor's column over the points of the product."""
    return column.select(pick).compact() if pick.min() >= 0 else _with_gaps(column, pick).compact()


def _with_gaps(column: Column, pick: npt.NDArray[np.int32]) -> Column:
    codes = np.append(column.codes, np.int32(-1))
    return Column(column.name, column.type, column.values, codes[pick], column.continuous)


@dataclass(frozen=True)
class _Product:
    """Factors and what ties them: the condition under which each applies, the points to drop."""

    factors: tuple[Factor, ...]
    home: Mapping[str, int]
    whens: Mapping[int, Condition]
    excludes: tuple[Condition, ...]

    def tied(self) -> list[list[int]]:
        """The factors in sets such that no condition reaches from one set into another."""
        groups = [{at} for at in range(len(self.factors))]
        for members in self._ties():
            joined = set().union(*(group for group in groups if group & members))
            groups = [group for group in groups if not group & members] + [joined]
        return [sorted(group) for group in groups]

    def _ties(self) -> Iterable[set[int]]:
        for at, condition in self.whens.items():
            yield {at, *(self.home[name] for name in condition.names)}
        for condition in self.excludes:
            yield {self.home[name] for name in condition.names}

    def count(self, group: Sequence[int]) -> int:
        """How many points a tied set of factors has."""
        free = len(group) == 1 and not any(self._due(group[0]))
        return self.factors[group[0]].length if free else self.unfold(group)[1]

    def unfold(self, group: Iterable[int]) -> tuple[Picks, int]:
        """Multiply some factors, the first varying slowest; every tied factor must be among them."""
        picks: Picks = {}
        length = 1
        for at in group:
            factor = self.factors[at].length
            applies = self._all_hold(self.whens[at], picks) if at in self.whens else None
            if applies is None:
                _refuse_huge(length * factor)
                picks, length = _times(picks, length, at, factor), length * factor
            else:
                _refuse_huge(length + int(applies.sum()) * (factor - 1))
                picks, length = _times_where(picks, applies, at, factor)
            for condition in self._due(at):
                kept = ~self._all_hold(condition, picks)
                picks, length = {k: pick[kept] for k, pick in picks.items()}, int(kept.sum())
        return picks, length

    def _due(self, at: int) -> Iterable[Condition]:
        """Exclusions that can be decided once this factor has been multiplied in."""
        return (c for c in self.excludes if max(self.home[name] for name in c.names) == at)

    def _all_hold(self, condition: Condition, picks: Picks) -> npt.NDArray[np.bool_]:
        """For each point so far whether the condition holds."""
        held: npt.NDArray[np.bool_]
        held = np.logical_and.reduce([self._holds(test, picks) for test in condition.tests])
        return held

    def _holds(self, test: Test, picks: Picks) -> npt.NDArray[np.bool_]:
        at = self.home[test.name]
        return test.holds(self.factors[at].column(test.name))[picks[at]]


def _times(picks: Picks, length: int, at: int, count: int) -> Picks:
    """Every point so far with every point of another factor."""
    if count > 1:
        picks = {k: np.repeat(pick, count) for k, pick in picks.items()}
    return picks | {at: np.tile(np.arange(count, dtype=np.int32), length)}


def _times_where(picks: Picks, applies: npt.NDArray[np.bool_], at: int, count: int) -> tuple[Picks, int]:
    """Points where the factor applies with every point of it; any other once, without it."""
    counts = np.where(applies, count, 1)
    starts = np.cumsum(counts) - counts
    parents = np.repeat(np.arange(len(counts)), counts)
    pick = np.arange(len(parents)) - starts[parents]
    pick[~applies[parents]] = -1
    spread = {k: earlier[parents] for k, earlier in picks.items()}
    return spread | {at: pick.astype(np.int32)}, len(parents)


def _refuse_huge(length: int) -> None:
    if length > LARGEST:
        raise ConfigError(
            f"space: {length:,} points", f"at most {LARGEST:,} can be expanded; thin the lists or sample them"
        )


def _read(blocks: object, seed: int) -> tuple[tuple[Factor, ...], dict[int, Condition], tuple[Condition, ...]]:
    """Read all blocks: factors, the condition under which each applies, exclusions."""
    if not isinstance(blocks, Sequence) or isinstance(blocks, str):
        raise ConfigError(f"space: {shown(blocks)} must be a list of blocks", f"for example {BLOCK_LIKE}")
    written = [_written(raw, index, seed) for index, raw in enumerate(blocks)]
    read = [() if block.kind == "exclude" else read_block(block) for block, _ in written]
    declared = _declare(read)
    factors: list[Factor] = []
    whens: dict[int, Condition] = {}
    for (block, when), own in zip(written, read, strict=True):
        if when is not None:
            condition = _read_when(when, block, factors, declared)
            whens |= {len(factors) + k: condition for k in range(len(own))}
        factors += own
    excludes = [c for block, _ in written if block.kind == "exclude" for c in _read_excludes(block, declared)]
    return tuple(factors), whens, tuple(excludes)


def _written(raw: object, index: int, seed: int) -> tuple[Block, object]:
    """Take a block apart: its one kind, its points, its `when`."""
    field = f"space[{index}]"
    entries = check_mapping(raw, field, BLOCK_LIKE)
    known = [*KINDS, "exclude", "points", "when"]
    for key in entries:
        if key not in known:
            raise ConfigError(f"{field}: unknown key {shown(key)}", near(str(key), known))
    kinds = [str(key) for key in entries if key not in ("points", "when")]
    if len(kinds) != 1:
        named = " and ".join(kinds) if kinds else "none"
        raise ConfigError(f"{field}: a block has one kind, here {named}", "kinds: " + ", ".join(KINDS))
    for key in entries.keys() - {kinds[0]}:
        if entries[key] is None:
            raise ConfigError(f"{field}.{key} is empty", "give it a value or take it away")
        if kinds[0] == "exclude":
            raise ConfigError(f"{field}.{key} cannot stand beside exclude", "it holds for the whole space")
    return Block(index, kinds[0], entries[kinds[0]], entries.get("points"), seed), entries.get("when")


def _declare(read: Sequence[tuple[Factor, ...]]) -> dict[str, Declared]:
    """All parameters by name; a name that stands twice is refused."""
    declared: dict[str, Declared] = {}
    for factor in (factor for own in read for factor in own):
        for axis in factor.axes:
            if axis.name in declared:
                first = declared[axis.name].axis.field
                raise ConfigError(f"{axis.field}: {axis.name!r} is already declared", f"see {first}")
            declared[axis.name] = Declared(axis, factor)
    return declared


def _read_when(when: object, block: Block, earlier: Sequence[Factor], declared: Mapping[str, Declared]) -> Condition:
    names = {axis.name for factor in earlier for axis in factor.axes}
    visible = {name: parameter for name, parameter in declared.items() if name in names}
    return read_condition(when, f"space[{block.index}].when", visible, declared.keys() - names)


def _read_excludes(block: Block, declared: Mapping[str, Declared]) -> list[Condition]:
    listed = check_list(block.body, block.field, "exclude: [{population: 64, rate: [0.1, 0.2]}]")
    return [read_condition(raw, f"{block.field}[{i}]", declared) for i, raw in enumerate(listed)]
