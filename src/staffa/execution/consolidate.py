"""Which parts are ripe, what a seal has to hold, and what is noted of it.

A part is sealed once all its batches are settled. Trials that get their data later (retried
after the seal) go to supplements of their own; nothing ever stands twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from staffa.campaign.inputs import missing_of
from staffa.campaign.model import EveryConfig
from staffa.campaign.plan import Part, Plan
from staffa.errors import StaffaError
from staffa.execution.ensemble import Blocks, applies, applying, finish, reducers, unanswered, wholes
from staffa.execution.reduce import SealOrder
from staffa.rows import archive_layout, tries_of
from staffa.storage.archive import Archive, SealedFile, SealedPart, part_of, sealed_names
from staffa.storage.books import Books, Failure
from staffa.storage.derived import check_alike, derived, derived_file
from staffa.storage.derived import described as derived_entry
from staffa.storage.hot import HotStore
from staffa.storage.states import standing
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome


@dataclass
class Due:
    """When the archive is next looked at."""

    every: EveryConfig | str
    trials: int = 0
    since: float = 0.0

    def now(self, settled: int, clock: float) -> bool:
        if not isinstance(self.every, EveryConfig):
            return False
        ripe_trials = self.every.trials is not None and settled - self.trials >= self.every.trials
        ripe_time = self.every.minutes is not None and clock - self.since >= 60 * self.every.minutes
        return ripe_trials or ripe_time

    def reset(self, settled: int, clock: float) -> None:
        self.trials, self.since = settled, clock


class Consolidation:
    """The archive as the driver sees it: which parts stand, and what is still to be sealed."""

    def __init__(
        self, workspace: Workspace, plan: Plan, digest: str, stores: Mapping[int, HotStore], reducers: Blocks = ()
    ) -> None:
        self.workspace, self.plan, self.digest = workspace, plan, digest
        self.reducers = reducers
        self.stores = stores
        self.archive = Archive(workspace.archive, archive_layout(plan), plan.compression, plan.level)
        self.sealed: dict[str, list[str]] = {}
        """Part -> names of its published trials files (the part's own, then supplements)."""
        self.held: dict[str, int] = {}
        """Part -> trials in them."""
        self.wholes: dict[str, str] = {}
        """Reducers that apply what they found -> name of the answer that stands now; known once all is put together."""
        self._refused: StaffaError | None = None
        self._look()

    def grow(self, plan: Plan, digest: str) -> None:
        """Take up a plan that has grown; from here on files have the columns that came with it."""
        self.plan, self.digest = plan, digest
        self.archive = Archive(self.workspace.archive, archive_layout(plan), plan.compression, plan.level)

    def order(self, part: Part, books: Books, *, again: bool = False) -> SealOrder | None:
        """What sealing `part` now would take; None where nothing is missing from the archive.

        Arguments:
        - `again`: seal the part as if it were not there; the same bytes come out.
        """
        files = self.sealed.get(part.name, [])
        if not files or again:
            return self._order(part, part.name, None, books)
        lanes = self._unsealed(part, files)
        return self._order(part, f"{part.name}-s{len(files)}", lanes, books) if lanes else None

    def pruning(self, part: Part) -> SealOrder:
        """What removing a sealed part's shards takes."""
        return replace(self._plain(part, part.name), task="prune")

    def answering(self, part: Part) -> SealOrder | None:
        """What asking reducers takes that came after a part was sealed; None where all of them have answered."""
        if not self.reducers or not self.sealed.get(part.name):
            return None
        layout = self.stores[part.group].layout
        late, files = unanswered(self.workspace, self.reducers, layout, self.sealed[part.name])
        return replace(self._plain(part, part.name), task="answer", files=files, reducers=late) if files else None

    def applying(self, part: Part) -> SealOrder | None:
        """What it takes to apply what reducers found to a part's rows; None where that was done."""
        lacking = [(name, file) for name, file, path in self._derived(part) if not path.exists()]
        wholes = tuple((name, self.wholes[name]) for name in dict(lacking))
        files = tuple(dict.fromkeys(file for _, file in lacking))
        return replace(self._plain(part, part.name), task="apply", files=files, wholes=wholes) if files else None

    @property
    def applies(self) -> bool:
        """Whether there are reducers that apply what they found to the rows of the archive."""
        return bool(self.reducers) and any(
            applies(one) is not None for one in reducers(self.reducers, self.workspace.code).values()
        )

    def lanes(self, part: Part, batch: int) -> set[int]:
        """Lanes of a batch of a part that stand in its files."""
        files = self.sealed.get(part.name)
        return _lanes(self.stores[part.group], batch, _trials(self.workspace, files)) if files else set()

    def enter(self, part: str, receipt: Mapping[str, Any]) -> None:
        """Note a published part."""
        files = tuple(SealedFile(**file) for file in receipt["files"])
        self.archive.enter(SealedPart(receipt["part"], int(receipt["trials"]), files))
        self.sealed.setdefault(part, []).append(receipt["part"])
        self.held[part] = self.held.get(part, 0) + int(receipt["trials"])

    def failed(self, books: Books) -> int:
        """Rewrite `failed.parquet`; returns how many trials it lists: what stands in the archive is not among them."""
        rows: dict[str, list[Any]] = {field.name: [] for field in self.archive.layout.failed()}
        sealed = Sealed(self.workspace, self.plan)
        for number, store in self.stores.items():
            for batch, lanes, status in _failed_lanes(store):
                there = sealed.lanes((number, batch), store)
                self._list(rows, number, store, batch, [n for n in lanes if n not in there], status, books)
        self.archive.failed(_columns(rows, self.archive.layout.failed()))
        return len(rows["trial"])

    def reduced(self) -> None:
        """Put the reducers' answers to all parts together; what others have applied is no table any more.

        What one of them refuses keeps nobody from the rest: `complain` raises it.
        """
        self._refused = None
        try:
            finish(self.workspace, self.reducers, [name for names in self.sealed.values() for name in names])
        except StaffaError as error:
            self._refused = error
        self.wholes = wholes(self.workspace, self.reducers)
        there = derived(self.workspace.archive, self.archive.tables)
        gone = there.keys() - {told.name for told in self.reducers}
        if gone:
            self.archive.replace({name: {} for name in gone}, self.wholes)

    def complain(self) -> None:
        """Raise what the first reducer refused to say of all parts, if one did."""
        if self._refused is not None:
            raise self._refused

    def applied(self, receipts: Mapping[str, Mapping[str, Any]]) -> None:
        """List what was applied to the rows of all parts, each reducer's table at once, in place of an earlier one's.

        Arguments:
        - `receipts`: by path files that were described when they were written.

        Raises `PluginError` where columns are not the same everywhere.
        """
        archive, there = self.workspace.archive, derived(self.workspace.archive, self.archive.tables)
        made: dict[str, dict[str, Path]] = {name: {} for name in self.wholes}
        for part in self.plan.parts:
            for name, file, path in self._derived(part):
                made[name][file] = path
        fresh: dict[str, dict[str, Any]] = {}
        for name, files in made.items():
            if files and files != there.get(name) and all(path.exists() for path in files.values()):
                schemas = [pq.read_schema(path) for path in files.values()]
                for schema in schemas:
                    check_alike(name, schemas[0], schema)
                fresh[name] = {
                    file: receipts.get(str(path.relative_to(archive))) or derived_entry(archive, path)
                    for file, path in files.items()
                }
        # Whoever was killed may have left what was listed before.
        self.archive.replace(fresh, self.wholes)

    def _derived(self, part: Part) -> Iterator[tuple[str, str, Path]]:
        """Reducers, sealed files, and where what the one applies to the rows of the other has to stand."""
        files = self.sealed.get(part.name, ())
        if not (self.wholes and files):
            return
        for name in applying(self.reducers, self.workspace.code, self.stores[part.group].layout):
            for file in files if name in self.wholes else ():
                yield name, file, derived_file(self.workspace.archive, name, file, self.wholes[name])

    def _list(
        self,
        rows: dict[str, list[Any]],
        number: int,
        store: HotStore,
        batch: int,
        lanes: Any,
        status: Any,
        books: Books,
    ) -> None:
        digests, name = store.digests(batch), f"g{number}/{batch}"
        _, columns = store.inputs(batch)
        for lane in lanes:
            trial, outcome = digests[lane], Outcome(int(status[lane]))
            failures = books.failures.get(trial, [])
            values = {name: column[lane] for name, column in columns.items()}
            row: dict[str, Any] = {
                "trial": trial,
                "sampler": self.plan.groups[number].sampler,
                "outcome": outcome.word,
                "message": self._message(outcome, failures, values, books.why.get(trial) or books.why.get(name, "")),
                "attempts": len(failures) if outcome.exempt else max(len(failures), 1),
                "state": str(standing(outcome, books.state(trial, name))),
                **{column: values.get(column) for column in ("replicate", *(n for n, _ in self.plan.parameters))},
            }
            for column, found in rows.items():
                value = row.get(column)
                found.append(value.item() if isinstance(value, np.generic) else value)

    def _message(self, outcome: Outcome, failures: Sequence[Failure], values: Mapping[str, Any], why: str) -> str:
        if outcome is Outcome.MISSING_INPUT:
            gone = missing_of(self.plan.inputs, values)
            return f"not there: {gone[0]}" if gone else "an input of another trial of its realization is not there"
        return failures[-1].message if failures else why

    def _look(self) -> None:
        folder = self.workspace.archive / "trials"
        names = sorted(file.stem for file in folder.glob("part-*.parquet")) if folder.is_dir() else []
        self._mend_manifest(names)
        listed = self.archive.manifest()["parts"]
        for name in names:
            part = part_of(name)
            self.sealed.setdefault(part, []).append(name)
            self.held[part] = self.held.get(part, 0) + int(listed[name]["trials"])

    def _mend_manifest(self, names: list[str]) -> None:
        """Enter parts that were published just before a driver died."""
        known = self.archive.manifest()["parts"]
        for name in names:
            if name not in known:
                self.archive.enter(described(self.workspace.archive, name))

    def _order(self, part: Part, name: str, lanes: Any, books: Books) -> SealOrder:
        store = self.stores[part.group]
        tries = tuple((batch, tries_of(books, store, (part.group, batch))) for batch in part.batches())
        return replace(self._plain(part, name), lanes=lanes, tries=tries)

    def _plain(self, part: Part, name: str) -> SealOrder:
        return SealOrder(
            str(self.workspace.root),
            self.digest,
            self.plan.generation,
            name,
            part.group,
            part.first,
            part.last,
            reducers=self.reducers,
        )

    def _unsealed(self, part: Part, files: list[str]) -> tuple[tuple[int, tuple[int, ...]], ...]:
        there = _trials(self.workspace, files)
        store = self.stores[part.group]
        missing = []
        for batch in part.batches():
            status = store.status(batch)
            digests = store.digests(batch)
            lanes = tuple(
                lane
                for lane, trial in enumerate(digests)
                if status[lane] in (Outcome.OK, Outcome.NAN) and trial not in there
            )
            if lanes:
                missing.append((batch, lanes))
        return tuple(missing)


class Sealed:
    """Which trials stand in the archive, whatever their marks say: a damaged batch's mark is taken back.

    It knows the files that are there when it is made.
    """

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._workspace = workspace
        files = {part: list(names) for part, names in sealed_names(workspace.archive).items()}
        self._files = {(p.group, n): files[p.name] for p in plan.parts if p.name in files for n in p.batches()}
        self._read: tuple[list[str], set[str]] = [], set()
        """The files of one part and the trials in them: batches mostly come part by part."""

    def lanes(self, batch: tuple[int, int], store: HotStore) -> set[int]:
        """Lanes of a batch whose data stand in the archive."""
        files = self._files.get(batch)
        if files is None:
            return set()
        if self._read[0] is not files:
            self._read = files, _trials(self._workspace, files)
        return _lanes(store, batch[1], self._read[1])


def _lanes(store: HotStore, batch: int, trials: Collection[str]) -> set[int]:
    """Lanes of a batch whose trials are among these."""
    return {lane for lane, trial in enumerate(store.digests(batch)) if trial in trials}


def _trials(workspace: Workspace, files: Iterable[str]) -> set[str]:
    """The trials that published files hold."""
    paths = [workspace.trials_archive / f"{name}.parquet" for name in files]
    return {trial for path in paths for trial in pq.read_table(path, columns=["trial"])["trial"].to_pylist()}


def described(archive: Path, name: str) -> SealedPart:
    """A published part as the manifest would list it, from its files."""
    import hashlib

    files = []
    for path in sorted(archive.glob(f"**/{name}.parquet")):
        table = path.relative_to(archive).parts[0]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows = pq.read_metadata(path).num_rows
        files.append(SealedFile(str(path.relative_to(archive)), table, rows, path.stat().st_size, digest))
    trials = next(file.rows for file in files if file.table == "trials")
    return SealedPart(name, trials, tuple(files))


def _failed_lanes(store: HotStore) -> Iterator[tuple[int, Any, Any]]:
    status = store.status()
    size = store.layout.batch
    failed = np.isin(status, [outcome for outcome in Outcome if outcome.failed or outcome.exempt])
    for batch in np.unique(np.flatnonzero(failed) // size):
        piece = slice(int(batch) * size, (int(batch) + 1) * size)
        yield int(batch), np.flatnonzero(failed[piece]), status[piece]


def _columns(rows: Mapping[str, list[Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([pa.array(rows[field.name], field.type) for field in schema], schema=schema)
