"""Campaigns that are to be merged, as they are read: their trials, what came of each, where its data stand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.campaign.blocks import identity
from staffa.campaign.config import load_frozen
from staffa.campaign.formulas import read_formula
from staffa.campaign.frozen import recorded
from staffa.campaign.identity import run_hash
from staffa.campaign.joining import SAMPLED, Kin
from staffa.campaign.plan import Plan
from staffa.errors import WorkspaceError
from staffa.execution.prepare import load_plan, open_stores
from staffa.storage.archive import sealed_names
from staffa.storage.books import Books, fold
from staffa.storage.holdings import MANIFEST, Entry, examined, listed
from staffa.storage.hot import HotStore
from staffa.storage.ledger import history
from staffa.storage.merged import OWN, Maker, Origins, read_origins
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace
from staffa.trial import DIGEST_BYTES, Outcome, digests, parameter_texts

Row = npt.NDArray[Any]
DATA = (Outcome.OK, Outcome.NAN)


@dataclass(frozen=True, eq=False)
class Source(Kin):
    """A campaign that is to be merged with others; it is only read.

    Arguments:
    - `roster`: the list of its trials, in the order of their index.
    - `marks`: (trials,) outcome codes, by index.
    - `sealed`: (trials,) whether a trial's rows stand in the archive.
    - `stores`: its hot stores, by group.
    """

    workspace: Workspace
    roster: pa.Table
    marks: Row
    sealed: Row
    stores: Mapping[int, HotStore]

    @property
    def trials(self) -> int:
        return len(self.marks)

    @cached_property
    def group(self) -> Row:
        """(trials,): the number of each trial's group."""
        return np.asarray(self.roster["group"].to_numpy())

    @cached_property
    def row(self) -> Row:
        """(trials,): its place there."""
        return np.asarray(self.roster["row"].to_numpy())

    @cached_property
    def replicates(self) -> Row:
        return np.asarray(self.roster["replicate"].to_numpy())

    @cached_property
    def names(self) -> Row:
        """(trials, 16): digests."""
        return packed(self.roster["trial"])

    @cached_property
    def index(self) -> Mapping[int, Row]:
        """By group the indices of its trials, by row."""
        return seats(self.plan, self.group, self.row)

    @cached_property
    def maker(self) -> Maker:
        sampling = tuple(getattr(self.plan.sampling, name) for name in SAMPLED)
        named = run_hash(self.declaration, self.plan.code)
        return Maker(str(self.workspace.root), named, self.plan.seed, self.plan.code, sampling)

    @cached_property
    def origins(self) -> Origins:
        """Who computed each trial's data: the campaign itself, or one that it was merged of."""
        found = read_origins(self.workspace, self.trials)
        if found is None:
            return Origins((self.maker,), np.zeros(self.trials, np.int32), self.names)
        own = found.of == OWN
        of = np.where(own, len(found.makers), found.of).astype(np.int32)
        return Origins((*found.makers, self.maker), of, np.where(own[:, None], self.names, found.names))

    @cached_property
    def books(self) -> Books:
        return fold(history(self.workspace))

    @cached_property
    def files(self) -> Mapping[str, tuple[str, ...]]:
        """By part the names of its published files."""
        return sealed_names(self.workspace.archive)

    @cached_property
    def entries(self) -> Mapping[str, list[Entry]]:
        """By published name the files that the manifest lists."""
        found: dict[str, list[Entry]] = {}
        for entry in listed(self.workspace.archive) if self.files else ():
            found.setdefault(entry.part, []).append(entry)
        return found

    def column(self, name: str, chosen: Row) -> Row:
        """Values of a parameter of some trials; None, in an array of objects, where one has no such parameter."""
        if name not in self.roster.column_names:
            return np.full(len(chosen), None, object)
        values = self.roster[name].take(pa.array(chosen))
        if values.null_count or pa.types.is_string(values.type):
            return np.array([*values.to_pylist(), None], object)[:-1]
        return np.asarray(values.to_numpy())

    def named(self, chosen: Row, replicates: Row) -> Row:
        """(k, 16): the names that some trials' points have as other replicates.

        Arguments:
        - `chosen`: indices of trials; `replicates`: as which one each is to be named.
        """
        found = np.empty((len(chosen), DIGEST_BYTES), np.uint8)
        for number in np.unique(self.group[chosen]).tolist():
            group, own = self.plan.groups[number], np.flatnonzero(self.group[chosen] == number)
            known = {*group.static, *group.traced}
            formulas = {name: read_formula(text) for name, text in self.plan.formulas.items() if name in known}
            columns = [
                parameter_texts(name, self.column(name, chosen[own]).tolist()) for name in sorted(known - {*formulas})
            ]
            bodies = [b",".join(row) for row in zip(*columns, strict=True)] if columns else [b""] * len(own)
            for replicate in np.unique(replicates[own]).tolist():
                members = np.flatnonzero(replicates[own] == replicate)
                texts = digests(
                    [identity(group.experiment, formulas)],
                    [0] * len(members),
                    [bodies[n] for n in members],
                    [replicate],
                )
                found[own[members]] = np.frombuffer(b"".join(texts), np.uint8).reshape(-1, DIGEST_BYTES)
        return found


def seats(plan: Plan, group: Row, row: Row) -> dict[int, Row]:
    """By group the indices of its trials, by row; from (trials,) groups and rows, by index."""
    found = {}
    for number, own in enumerate(plan.groups):
        members = np.flatnonzero(group == number)
        found[number] = np.empty(own.trials, np.int64)
        found[number][row[members]] = members
    return found


def packed(trials: pa.ChunkedArray) -> Row:
    """Digests as text -> (trials, 16) bytes."""
    data = bytes.fromhex("".join(trials.to_pylist()))
    return np.frombuffer(data, np.uint8).reshape(-1, DIGEST_BYTES)


def read_source(name: str, workspace: Workspace) -> Source:
    """Read what a merge has to know of a campaign.

    Raises `WorkspaceError` naming the file of its archive that is not as long as the manifest says.
    """
    check_archive(name, workspace, every=False)
    frozen = load_frozen(workspace.frozen, directory=workspace.code)
    written = recorded(workspace.frozen.read_text())
    origins = {path: written.get(path, one) if one.tier == "frozen" else one for path, one in frozen.origins.items()}
    plan = load_plan(workspace)
    stores = open_stores(workspace, plan)
    roster = read_rosters(workspace.rosters).combine_chunks()
    group, row = roster["group"].to_numpy(), roster["row"].to_numpy()
    marks = np.zeros(roster.num_rows, np.uint8)
    for number, store in stores.items():
        own = group == number
        marks[own] = store.status()[row[own]]
    sealed = _sealed(workspace, roster, marks)
    declaration = type(frozen)(frozen.campaign, origins, frozen.directory)
    return Source(name, declaration, plan, workspace, roster, marks, sealed, stores)


def _sealed(workspace: Workspace, roster: pa.Table, marks: Row) -> Row:
    """Which trials stand in the archive, whatever their marks say: that of a damaged batch is taken back."""
    sealed = np.zeros(len(marks), bool)
    names = roster["trial"].combine_chunks()
    for files in sealed_names(workspace.archive).values():
        for file in files:
            table = pq.read_table(workspace.trials_archive / f"{file}.parquet", columns=["trial", "outcome"])
            places = pc.index_in(table["trial"], value_set=names).to_numpy()
            sealed[places] = True
            marks[places] = [Outcome[word.upper()] for word in table["outcome"].to_pylist()]
    return sealed


def check_archive(name: str, workspace: Workspace, *, every: bool) -> None:
    """Refuse a campaign whose archive is not what its manifest lists: the flaw would go into another, unseen.

    Arguments:
    - `every`: read every file whole; otherwise sizes and footers only.
    """
    if not (workspace.archive / MANIFEST).exists() and not sealed_names(workspace.archive):
        return
    flaws = examined(workspace.archive, every=every)["flaws"]
    if flaws:
        more = f", and {len(flaws) - 1} more" if len(flaws) > 1 else ""
        raise WorkspaceError(
            f"'{name}' cannot be merged: {flaws[0]['file']}: {flaws[0]['why']}{more}",
            f"staffa archive verify {shlex.quote(str(workspace.root))}",
        )


def typed(values: Row, kind: str) -> Row:
    """A column without gaps, in the type its parameter was declared with."""
    dtypes = {"bool": np.bool_, "int": np.int64, "float": np.float64}
    return values.astype(dtypes[kind]) if kind in dtypes else values.astype(object)
