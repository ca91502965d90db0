"""Several campaigns as one: what has to be alike, what is explored where they differ, how the whole is declared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.blocks import trial_names
from staffa.campaign.config import ABSENT, Declaration, difference, plain
from staffa.campaign.declared import Offer
from staffa.campaign.identity import FREE
from staffa.campaign.layers import Origin
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan
from staffa.campaign.space import Space
from staffa.errors import ConfigError, WorkspaceError
from staffa.experiment.protocol import SUMMARIES, Output
from staffa.trial import Scalar, canonical

Row = npt.NDArray[Any]

SAMPLING = "sampling."
"""Parameters of this prefix are values of section `sampling` that differ between campaigns that were merged."""
SAMPLED = ("draws", "thin", "discard", "warmup")
USE = "experiment.use"
"""Never a column of its own: the column `sampler` says it."""
OWN = (
    *FREE, "campaign", "space", "parameters", "replicates", "duplicates", "seeds", "experiment", "sampling", "storage",
    "execution.batch", "execution.width", "execution.segments", "execution.timeout", "execution.vectorize",
    "archive.part_size", "archive.summaries", "archive.diagnosed",
)  # fmt: skip
"""Values that may differ between campaigns that are merged, or are compared by themselves."""
LISTED = 10_000
"""Values that a space may list which no product of blocks says."""
MERGED = Origin("merged")
TYPES = {bool: "bool", int: "int", float: "float", str: "str"}


@dataclass(frozen=True)
class Kin:
    """A campaign that is to be merged with others; `name` is what the user calls it."""

    name: str
    declaration: Declaration
    plan: Plan


@dataclass(frozen=True)
class Setting:
    """A parameter of a campaign: explored, or one value for all trials.

    Arguments:
    - `type`: its declared type; empty for a list, or nothing at all.
    """

    type: str
    value: Any = None
    explored: bool = False

    def __str__(self) -> str:
        return f"explored ({self.type})" if self.explored else repr(self.value)


def settings(kin: Kin) -> dict[str, Setting]:
    """Every parameter of a campaign by its path: those of its space, options of the experiment, `sampling`."""
    constant = kin.plan.constants
    found = {
        name: Setting(kind, constant.get(name), explored=name not in constant) for name, kind in kin.plan.parameters
    }
    said = plain(kin.declaration)
    for path, value in _leaves(said["experiment"], "experiment"):
        if path != USE:
            found.setdefault(path, Setting(TYPES.get(type(value), ""), value))
    for name in SAMPLED:
        value = said["sampling"][name]
        found.setdefault(SAMPLING + name, Setting(TYPES.get(type(value), ""), value))
    return found


def joined_parameters(kin: Sequence[Kin]) -> tuple[tuple[str, str], ...]:
    """Parameters of the campaigns as one: those of the first, then every value of all trials that differs.

    Raises `WorkspaceError` with both sides where they have not the same parameters of the same types, or differ in
    what one campaign can have but once.
    """
    known = {one.name: settings(one) for one in kin}
    complaints, found = [], dict(kin[0].plan.parameters)
    for path in dict.fromkeys(path for own in known.values() for path in own):
        sides = {name: own.get(path) for name, own in known.items()}
        there = [side for side in sides.values() if side is not None]
        explored = any(side.explored for side in there)
        if len(there) == len(sides) and not explored and len({canonical(side.value) for side in there}) == 1:
            continue
        if len(there) < len(sides) or len({side.type for side in there}) > 1 or not there[0].type:
            complaints.append(
                _sides(path, {name: ABSENT if side is None else str(side) for name, side in sides.items()})
            )
        found.setdefault(path, there[0].type)
    complaints += [row for other in kin[1:] for row in _unlike(kin[0], other)]
    if complaints:
        names = " and ".join(f"'{one.name}'" for one in kin)
        raise WorkspaceError(
            f"{names} cannot be merged, since they are not of the same parameters and types:\n" + "\n".join(complaints),
            f"staffa diff {shlex.quote(kin[0].name)} {shlex.quote(kin[1].name)}",
        )
    return tuple(found.items())


def _unlike(one: Kin, other: Kin) -> Iterator[str]:
    """Values and outputs in which two campaigns differ and must not."""
    for path, here, there in difference(one.declaration, other.declaration):
        if not any(path == name or path.startswith(name.rstrip(".") + ".") for name in OWN):
            yield _sides(path, {one.name: repr(here), other.name: repr(there)})
    formulas = one.plan.formulas, other.plan.formulas
    for name in sorted({*formulas[0], *formulas[1]}):
        here, there = (own.get(name, ABSENT) for own in formulas)
        if here != there:
            yield _sides(f"{name}, derived", {one.name: here, other.name: there})
    outputs = {output.name: output for output in one.plan.outputs()}
    for output in other.plan.outputs():
        known = outputs.get(output.name, output)
        kinds = [_kind(one) for one in (known, output)]
        if kinds[0] != kinds[1]:
            yield _sides(f"output {output.name}", {one.name: kinds[0], other.name: kinds[1]})
    outside = {name for name, _ in (*one.plan.parameters, *other.plan.parameters)}
    for name in sorted(outside & {output.name for plan in (one.plan, other.plan) for output in plan.outputs()}):
        yield f"  {name}: a parameter in one, an output in the other"


def _kind(output: Output) -> str:
    """What an output has to agree in."""
    axes = f"with {len(output.shape)} axes" + f" in table {output.table}" * bool(output.table)
    return f"{output.dtype} {axes}" + f", encoded as {output.encoding}" * bool(output.encoding)


def _sides(path: str, sides: Mapping[str, str]) -> str:
    return f"  {path}: " + ", ".join(f"{text} in '{name}'" for name, text in sides.items())


def _leaves(block: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def constants(parameters: Sequence[tuple[str, str]], plan: Plan, group: Group) -> dict[str, Scalar]:
    """Of parameters that are columns of the whole and not of one of its campaigns: their values in a group of that."""
    own = {name for name, _ in plan.parameters}
    leaves = dict(_leaves(group.experiment, "experiment"))
    leaves |= {SAMPLING + name: getattr(plan.sampling, name) for name in SAMPLED}
    return {name: leaves[name] for name, _ in parameters if name not in own and name in leaves}


# --- how the whole is declared -----------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """All trials of a merged campaign.

    Arguments:
    - `names`: (trials, 16) digests; `replicates`: (trials,).
    - `columns`: parameters, with `experiment.use` where trials differ in it; None where a trial has none.
    """

    names: Row
    replicates: Row
    columns: Mapping[str, Row]


def declared(kin: Sequence[Kin], root: Path, whole: Whole, offer: Offer) -> tuple[Declaration, bool]:
    """The declaration of campaigns that are merged at a folder, and whether its space names all trials and no other.

    Where no product of blocks says what the campaigns have together, points are listed; where these are too many (or
    trials differ in how they were sampled, which no space says), the space stays that of the first campaign.

    Arguments:
    - `offer`: for an experiment block what its experiment declares of its parameters.
    """
    first = kin[0].declaration
    archive = first.campaign.archive
    words = {word for one in kin for word in one.declaration.campaign.archive.summaries}
    archive = archive.model_copy(
        update={
            "summaries": tuple(word for word in SUMMARIES if word in words),
            "diagnosed": max(one.declaration.campaign.archive.diagnosed for one in kin),
        }
    )
    changes: dict[str, Any] = {
        "campaign": first.campaign.campaign.model_copy(update=_title(root)),
        "storage": first.campaign.storage.model_copy(update={"root": str(root.parent)}),
        "archive": archive,
    }
    base = first.campaign.model_copy(update=changes)
    config = next(_sayings(base, kin, whole, offer), None)
    origins = {path: one for path, one in first.origins.items() if re.split(r"[.\[]", path)[0] not in _REPLACED}
    origins |= dict.fromkeys(("space", "replicates", "campaign.name", "campaign.version", "storage.root"), MERGED)
    return Declaration(config or base, origins, first.directory), config is not None


_REPLACED = ("space", "replicates")


def _title(root: Path) -> dict[str, str]:
    """Name and version, from the folder where it tells them."""
    found = re.fullmatch(r"(?:(v\d+(?:\.\d+)*)_)?([A-Za-z][A-Za-z0-9._-]*)", root.name)
    told = {"version": found[1], "name": found[2]} if found else {}
    return {key: value for key, value in told.items() if value}


def _sayings(base: CampaignConfig, kin: Sequence[Kin], whole: Whole, offer: Offer) -> Iterator[CampaignConfig]:
    """Declarations that name exactly the trials there are, the simplest first."""
    if any(name.startswith(SAMPLING) for name in whole.columns):
        return
    replicates = int(whole.replicates.max()) + 1
    seed = base.seeds.pack().channel("space")
    for blocks in _spaces(kin, whole, replicates):
        config = base.model_copy(update={"space": tuple(blocks), "replicates": replicates})
        try:
            if len(Space(blocks, seed)) * replicates == len(whole.names) and _same(
                trial_names(config, offer), whole.names
            ):
                yield config
        except ConfigError:  # two blocks of one name, or a condition on a value that is gone
            continue


def _same(one: Row, two: Row) -> bool:
    first, second = (np.sort(np.ascontiguousarray(names).view("S16").reshape(-1)) for names in (one, two))
    return bool(np.array_equal(first, second))


def _spaces(kin: Sequence[Kin], whole: Whole, replicates: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    spaces = [plain(one.declaration)["space"] for one in kin]
    apart = list(_apart(kin, whole))
    for space in spaces:
        yield [*space, *apart]
    united = _united(spaces)
    if united is not None:
        yield [*united, *apart]
    listed = _listed(whole)
    if listed is not None:
        yield [listed]


def _apart(kin: Sequence[Kin], whole: Whole) -> Iterator[dict[str, Any]]:
    """A block of the parameters and options that each campaign has one value of, and not the same."""
    known = [settings(one) | {USE: Setting("str", one.declaration.campaign.experiment.use)} for one in kin]
    paths = [
        name
        for name in whole.columns
        if not any(own[name].explored for own in known if name in own)
        and len({canonical(own[name].value) for own in known}) > 1
    ]
    rows = list(dict.fromkeys(tuple(own[path].value for path in paths) for own in known))
    if paths and len(rows) > 1:
        kind = "grid" if len(paths) == 1 else "zip"
        yield {kind: {path: list(values) for path, values in zip(paths, zip(*rows, strict=True), strict=True)}}


def _united(spaces: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]] | None:
    """Spaces of the same blocks, in each of which the values of all are listed; None where they are not so alike."""
    if len({len(space) for space in spaces}) > 1:
        return None
    found = []
    for blocks in zip(*spaces, strict=True):
        first = blocks[0]
        if any(block != first for block in blocks[1:]):
            grids = [block.get("grid") for block in blocks]
            if any(not isinstance(grid, Mapping) or grid.keys() != grids[0].keys() for grid in grids):
                return None
            first = {**first, "grid": {name: _each_once(grid[name] for grid in grids) for name in grids[0]}}
        found.append(dict(first))
    return found


def _each_once(lists: Iterator[Any]) -> list[Any]:
    return list({canonical(value): value for values in lists for value in values}.values())


def _listed(whole: Whole) -> dict[str, Any] | None:
    """All points, one by one; None where they are many, or not all of the same parameters."""
    if not whole.columns or len(whole.names) * len(whole.columns) > LISTED:
        return None
    lists = [values.tolist() for values in whole.columns.values()]
    points = list(dict.fromkeys(zip(*lists, strict=True)))
    if any(value is None for point in points for value in point):
        return None
    return {"zip": {name: list(values) for name, values in zip(whole.columns, zip(*points, strict=True), strict=True)}}


def alike(one: Plan, other: Plan) -> bool:
    """Whether trials of two plans are sampled alike."""
    return replace(one.sampling, segments=1) == replace(other.sampling, segments=1)
