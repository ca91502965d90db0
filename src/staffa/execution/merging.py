"""Several campaigns as one: what their trials come to side by side, in a campaign of its own.

The whole begins with the groups, trials and parts of the first campaign as they are; what the others add stands in
groups and parts behind. Nothing is written here (`staffa.execution.uniting` does that).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.config import Declaration
from staffa.campaign.joining import USE, Whole, constants, declared, joined_parameters, settings
from staffa.campaign.plan import Group, Plan
from staffa.campaign.unfolding import parts_of
from staffa.errors import WorkspaceError
from staffa.execution.matching import Matched, match
from staffa.execution.prepare import Built
from staffa.execution.sources import Source, seats, typed
from staffa.storage.provenance import changed_files
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

Row = npt.NDArray[Any]


def check_sources(folders: Mapping[str, Workspace], into: Path) -> None:
    """Refuse what cannot be merged whatever it holds: too few campaigns, one twice, a folder that is there."""
    if len(folders) < 2:
        raise WorkspaceError("one campaign alone is not merged with anything", "staffa merge A B --into C")
    names = list(folders)
    for place, name in enumerate(names):
        for other in names[:place]:
            if folders[name].root.resolve() == folders[other].root.resolve():
                raise WorkspaceError(f"'{other}' and '{name}' are the same campaign", "name each of them once")
        if folders[name].root.resolve() in into.resolve().parents:
            raise WorkspaceError(f"'{into}' lies in '{name}', which is only read", "name a folder beside it")
    if into.exists():
        raise WorkspaceError(f"'{into}' is there already", "name a folder that is not: --into FOLDER")


@dataclass(frozen=True, eq=False)
class Merger:
    """What several campaigns come to.

    Arguments:
    - `root`: the folder it will stand in.
    - `group`, `row`: (trials,) where each trial stands.
    - `columns`: parameters, by index.
    - `said`: whether the declaration names all trials and no other.
    """

    sources: tuple[Source, ...]
    root: Path
    matched: Matched
    plan: Plan
    declaration: Declaration
    said: bool
    group: Row
    row: Row
    columns: Mapping[str, Row]

    @cached_property
    def index(self) -> Mapping[int, Row]:
        """By group the indices of its trials, by row."""
        return seats(self.plan, self.group, self.row)

    @cached_property
    def marks(self) -> Row:
        """(trials,): outcome codes: of the data that there are, or of the trial's own campaign."""
        matched, found = self.matched, np.zeros(self.matched.trials, np.uint8)
        for number, source in enumerate(self.sources):
            given, without = matched.giver == number, (matched.source == number) & (matched.giver < 0)
            found[given] = source.marks[matched.given[given]]
            found[without] = source.marks[matched.place[without]]
        return found

    def seat(self, index: int) -> tuple[str, int]:
        """The batch, as the ledger calls it, and the lane of a trial."""
        group = int(self.group[index])
        batch, lane = divmod(int(self.row[index]), self.plan.groups[group].batch)
        return f"g{group}/{batch}", lane

    @property
    def facts(self) -> dict[str, Any]:
        """What it comes to, in numbers."""
        data = int((self.matched.giver >= 0).sum())
        return {
            "root": str(self.root),
            "trials": self.matched.trials,
            "with_data": data,
            "to_run": int((self.marks == Outcome.MISSING).sum()),
            "sources": [
                {"name": source.name, "root": str(source.workspace.root), **asdict(count)}
                for source, count in zip(self.sources, self.matched.counts, strict=True)
            ],
            "explored": explored(self.sources, self.plan),
            "declared": self.said,
        }


def explored(sources: Sequence[Source], plan: Plan) -> dict[str, dict[str, Any]]:
    """Parameters that are explored only since the campaigns are one: the value in each of them."""
    known = {source.name: settings(source) for source in sources}
    found = {path: {name: own[path] for name, own in known.items()} for path, _ in plan.parameters}
    return {
        path: {name: side.value for name, side in sides.items()}
        for path, sides in found.items()
        if len(set(sides.values())) > 1 and not any(side.explored for side in sides.values())
    }


# --- what it comes to --------------------------------------------------------------------------------


def propose(sources: Sequence[Source], root: Path, *, accept_code_change: bool = False) -> Merger:
    """Compare campaigns, and see what they come to together. Nothing is written.

    Raises `WorkspaceError` where they are too unlike, with both sides, or where nothing would come of it.
    """
    _check_listed(sources)
    parameters = joined_parameters(sources)
    _check_code(sources, accept_code_change)
    matched = match(sources)
    if not any(count.taken or count.filled for count in matched.counts[1:]):
        others = " and ".join(f"'{source.name}'" for source in sources[1:])
        raise WorkspaceError(
            f"every trial of {others} stands in '{sources[0].name}' already", "there is nothing to merge"
        )
    plan, group, row = _planned(sources, matched, parameters)
    columns = {name: _column(sources, matched, plan, name) for name, _ in parameters}
    given = {name: values for name, values in columns.items() if name not in plan.formulas}
    whole = Whole(matched.names, matched.replicates, given | _uses(sources, matched))
    declaration, said = declared(sources, root, whole, Built(sources[0].workspace.code).offer)
    archive = declaration.campaign.archive
    plan = replace(
        plan, summaries=archive.summaries, diagnosed=archive.diagnosed,
        explored=tuple(dict.fromkeys([*plan.explored, *explored(sources, plan)])),
    )  # fmt: skip
    return Merger(tuple(sources), root, matched, plan, declaration, said, group, row, columns)


def _check_listed(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.plan.search is not None:
            name = shlex.quote(source.name)
            raise WorkspaceError(
                f"'{source.name}' is a search: merged, nobody could say what it was to ask for next",
                f"staffa expand {name} --set search.trials=N has it ask for more; to read several at once, in SQL: "
                f"read_parquet('{source.workspace.archive}/trials/**/*.parquet')",
            )


def _check_code(sources: Sequence[Source], accept: bool) -> None:
    first = sources[0]
    for other in sources[1:]:
        if other.plan.code != first.plan.code and not accept:
            files = changed_files(first.workspace.code, other.workspace.code)
            files = [name for name in files if name.endswith(".py")]
            raise WorkspaceError(
                f"'{first.name}' and '{other.name}' were not computed by the same code: {', '.join(files)} differ",
                f"staffa diff {shlex.quote(first.name)} {shlex.quote(other.name)}; "
                "to merge them all the same: --accept-code-change",
            )


def _planned(
    sources: Sequence[Source], matched: Matched, parameters: tuple[tuple[str, str], ...]
) -> tuple[Plan, Row, Row]:
    """The plan of the whole, and where each trial stands in it."""
    first = sources[0].plan
    groups = [replace(group, generation=0) for group in first.groups]
    parts = list(first.parts)
    group, row = np.empty(matched.trials, np.int64), np.empty(matched.trials, np.int64)
    own = matched.source == 0
    group[own], row[own] = sources[0].group, sources[0].row
    for number, source in enumerate(sources[1:], 1):
        members = np.flatnonzero(matched.source == number)
        there = source.group[matched.place[members]]
        for old in np.unique(there).tolist():
            ours = members[there == old]
            ours = ours[np.argsort(source.row[matched.place[ours]])]
            group[ours], row[ours] = len(groups), np.arange(len(ours))
            groups.append(_continued(source.plan.groups[old], len(groups), len(ours), first.width))
            size = sources[0].declaration.campaign.archive.part_size
            parts += parts_of(size, groups[-1:], source.plan.sampling.draws, len(groups) - 1, len(parts))
    plan = replace(
        first,
        generation=0,
        trials=matched.trials,
        parameters=parameters,
        about={name: said for source in reversed(sources) for name, said in source.plan.about.items()},
        explored=tuple(dict.fromkeys(name for source in sources for name in source.plan.explored)),
        groups=tuple(groups),
        parts=tuple(parts),
    )
    return plan, group, row


def _continued(group: Group, number: int, trials: int, width: str | int) -> Group:
    """A group as it stands in the whole, with so many of its trials."""
    size = min(group.batch, 1 << max(trials - 1, 0).bit_length())
    if width != "auto":
        size = math.ceil(size / int(width)) * int(width)
    return replace(group, name=f"g{number}", trials=trials, batch=size, generation=0)


def _column(sources: Sequence[Source], matched: Matched, plan: Plan, name: str) -> Row:
    """A parameter of all trials; None, in an array of objects, where one has none."""
    found = np.full(matched.trials, None, object)
    for number, source in enumerate(sources):
        own = np.flatnonzero(matched.source == number)
        place = matched.place[own]
        if any(name == known for known, _ in source.plan.parameters):
            found[own] = source.column(name, place).astype(object)
            continue
        values = [constants(plan.parameters, source.plan, group).get(name) for group in source.plan.groups]
        found[own] = np.array([*values, None], object)[source.group[place]]
    return found if any(value is None for value in found) else typed(found, dict(plan.parameters)[name])


def _uses(sources: Sequence[Source], matched: Matched) -> dict[str, Row]:
    """The experiment of each trial, where they are not all of one."""
    found = np.empty(matched.trials, object)
    for number, source in enumerate(sources):
        own = np.flatnonzero(matched.source == number)
        names = np.array([*(group.sampler for group in source.plan.groups), None], object)
        found[own] = names[source.group[matched.place[own]]]
    return {USE: found} if len(set(found)) > 1 else {}
