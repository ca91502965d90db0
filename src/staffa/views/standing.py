"""Which trials' data stand where: in sealed files, or only in the hot stores.

A view that asks once sees one state: parts that are sealed meanwhile are read where they were found.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from staffa.campaign.plan import Part, Plan
from staffa.errors import WorkspaceError
from staffa.rows import with_data
from staffa.storage.archive import partition_path
from staffa.storage.derived import derived_in
from staffa.storage.files import read_json
from staffa.storage.hot import HotStore
from staffa.storage.workspace import Workspace
from staffa.views.stored import group_store

Lanes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """What there is of a part.

    Arguments:
    - `files`: names of its sealed files, its own first, then supplements.
    - `hot`: by batch the lanes that have data and do not stand in those files.
    """

    part: Part
    files: tuple[str, ...]
    hot: Mapping[int, Lanes] = field(default_factory=dict)


class Standing:
    """The state of a campaign's data when it was first looked at."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.workspace, self.plan = workspace, plan
        self._stores: dict[int, HotStore] = {}

    def store(self, group: int) -> HotStore:
        if group not in self._stores:
            self._stores[group] = group_store(self.workspace, self.plan, group)
        return self._stores[group]

    @cached_property
    def sealed(self) -> dict[str, tuple[str, ...]]:
        """By part the names of its sealed files."""
        found: dict[str, list[str]] = {}
        listed = {Path(path).stem for path in self._sizes if path.startswith("trials/")}
        there = {file.stem for file in self.workspace.trials_archive.glob("part-*.parquet")}
        for name in sorted(listed | there):
            found.setdefault("-".join(name.split("-")[:2]), []).append(name)
        return {part: tuple(names) for part, names in found.items()}

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All parts, in the order of the plan."""
        return tuple(self.place(part) for part in self.plan.parts)

    def place(self, part: Part) -> Place:
        """What there is of one part."""
        files = self.sealed.get(part.name, ())
        store, group = self.store(part.group), self.plan.groups[part.group]
        hot = {batch: with_data(store, group, batch) for batch in part.batches()}
        if files:
            sealed = self._trials(files)
            if sealed == sum(len(lanes) for lanes in hot.values()):
                return Place(part, files)
            known = self._names(files)
            hot = {batch: _unknown(store.digests(batch), lanes, known) for batch, lanes in hot.items()}
        return Place(part, files, {batch: lanes for batch, lanes in hot.items() if len(lanes)})

    def rows(self, group: int) -> int:
        """Rows of one of a group's trials in the table of draws."""
        layout = self.store(group).layout
        return max([1, *(array.chains for array in layout.arrays)]) * (1 if layout.draws is None else layout.draws)

    def files(self, table: str, place: Place) -> list[Path]:
        """The sealed files of a part that hold rows of a table."""
        archive = self.workspace.archive
        folder = "." if table == "trials" else partition_path(self.plan.groups[place.part.group].partition)
        paths = [archive / table / folder / f"{name}.parquet" for name in place.files]
        for path in paths:
            self._check(path)
        return [path for path in paths if path.exists()]

    def _check(self, path: Path) -> None:
        """Refuse a file that is not as long as the manifest says, or gone: whatever it holds is not what was sealed."""
        expected = self._sizes.get(str(path.relative_to(self.workspace.archive)))
        try:
            found: int | None = path.stat().st_size
        except FileNotFoundError:
            found = None
        if expected is not None and found != expected:
            what = "is not there" if found is None else f"has {found:,} bytes"
            raise WorkspaceError(
                f"'{path}' {what}; the manifest says {expected:,} bytes",
                f"staffa archive verify {shlex.quote(str(self.workspace.root))}",
            )

    def derived(self, table: str) -> list[Path]:
        """The files of a table that was made of others, in the order of the plan."""
        found = self._derived.get(table, {})
        names = (name for part in self.plan.parts for name in self.sealed.get(part.name, ()))
        paths = [found[name] for name in names if name in found]
        for path in paths:
            self._check(path)
        return paths

    @cached_property
    def _derived(self) -> dict[str, dict[str, Path]]:
        return derived_in(self.workspace.archive, self._parts, ("draws", "trials"))

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """By path what the manifest says; nothing of files that were published a moment ago."""
        return {str(file["path"]): int(file["bytes"]) for part in self._parts.values() for file in part["files"]}

    @cached_property
    def _parts(self) -> dict[str, Any]:
        manifest = read_json(self.workspace.manifest)
        return dict(manifest.get("parts", {})) if isinstance(manifest, dict) else {}

    def _trials(self, files: Sequence[str]) -> int:
        paths = self._trial_files(files)
        return sum(int(pq.read_metadata(path).num_rows) for path in paths)

    def _trial_files(self, files: Sequence[str]) -> list[Path]:
        paths = [self.workspace.trials_archive / f"{name}.parquet" for name in files]
        for path in paths:
            self._check(path)
        return paths

    def _names(self, files: Sequence[str]) -> set[str]:
        paths = self._trial_files(files)
        return {trial for path in paths for trial in pq.read_table(path, columns=["trial"])["trial"].to_pylist()}


def _unknown(digests: Sequence[str], lanes: Any, known: set[str]) -> Lanes:
    return np.array([lane for lane in lanes if digests[lane] not in known], np.int64)
