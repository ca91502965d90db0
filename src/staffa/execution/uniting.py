"""Writing a merged campaign: made aside, it appears by one rename, and the campaigns it is made of are only read.

All data go into its archive; of the hot stores it has parameters and marks, so trials that have no data yet can be run
in it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.campaign.config import dump
from staffa.campaign.identity import run_facts
from staffa.campaign.joining import alike, constants
from staffa.campaign.plan import Group, Part
from staffa.execution.ensemble import Blocks, blocks_in, joined, mapped, reducers, write_part
from staffa.execution.inheriting import write_ledger, write_logs, write_record
from staffa.execution.merging import Merger
from staffa.execution.prepare import group_layout
from staffa.execution.recasting import Taking
from staffa.execution.sources import Source, check_archive, typed
from staffa.rows import archive_layout
from staffa.seeds import key_words
from staffa.storage.archive import Archive, SealedFile, SealedPart
from staffa.storage.files import aside, read_json, sync_directory, write_aside
from staffa.storage.holdings import copied_file
from staffa.storage.hot import HotStore
from staffa.storage.provenance import snapshot_code
from staffa.storage.roster import hexadecimal, write_roster
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

Row = npt.NDArray[Any]
Tell = Callable[[str], None]

WRITERS = 2
"""Parts that are written at a time."""
TELL_SECONDS = 5.0
ABANDONED_SECONDS = 86_400.0
"""A campaign in the making that is older belongs to nobody any more."""


def write(merger: Merger, tell: Tell = lambda text: None) -> None:
    """Write the whole aside, and rename it. Whatever is cut short leaves no campaign behind.

    Arguments:
    - `tell`: told now and then how far it is.
    """
    merger.root.parent.mkdir(parents=True, exist_ok=True)
    _sweep(merger.root)
    partial = aside(merger.root)
    try:
        _write(merger, Workspace.create(partial), tell)
        # Once for all of it: of small batches there are thousands of marks.
        os.sync()
        partial.rename(merger.root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(merger.root.parent)


def _sweep(root: Path) -> None:
    """Take away what merges that were killed left of this very folder."""
    for left in root.parent.glob(f"{root.name}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _write(merger: Merger, workspace: Workspace, tell: Tell) -> None:
    first = merger.sources[0].workspace
    snapshot_code(first.code, workspace.code)
    for source in merger.sources:
        for path in source.workspace.metadata.glob("backend-*.json"):
            write_aside(workspace.metadata / path.name, path.read_bytes())
    facts = read_json(first.provenance)
    facts = {**(facts if isinstance(facts, dict) else {}), "trials": merger.matched.trials}
    facts |= {**run_facts(merger.declaration, merger.plan.code), "merged": str(workspace.merge.name)}
    write_aside(workspace.provenance, json.dumps(facts, indent=1, default=str))
    _write_trials(merger, workspace)
    write_logs(merger, workspace)
    _write_archive(merger, workspace, tell)
    write_record(merger, workspace)
    write_aside(workspace.plan(0), merger.plan.dumps())
    write_aside(workspace.campaign_yaml, dump(merger.declaration))
    write_ledger(merger, workspace, _blocks(merger))


def _write_trials(merger: Merger, workspace: Workspace) -> None:
    """The list of trials, and the hot stores with parameters and marks."""
    columns: dict[str, tuple[str, Any]] = {
        "group": ("int", merger.group),
        "row": ("int", merger.row),
        "replicate": ("int", merger.matched.replicates),
    }
    columns |= {name: (kind, merger.columns[name]) for name, kind in merger.plan.parameters}
    write_roster(workspace.trials(0), merger.matched.names, columns)
    (workspace.hot / "0").mkdir()
    seconds = _seconds(merger)
    for number, group in enumerate(merger.plan.groups):
        _write_store(merger, workspace, number, group, seconds)


def _seconds(merger: Merger) -> Row:
    """(trials,): what each took on a device."""
    found = np.zeros(merger.matched.trials, np.float32)
    for number, source in enumerate(merger.sources):
        given = np.flatnonzero(merger.matched.giver == number)
        place = merger.matched.given[given]
        for group, store in source.stores.items():
            own = source.group[place] == group
            if own.any():
                whole = np.concatenate([store.seconds(batch) for batch in range(store.layout.batches)])
                found[given[own]] = whole[source.row[place[own]]]
    return found


def _write_store(merger: Merger, workspace: Workspace, number: int, group: Group, seconds: Row) -> None:
    index = merger.index[number]
    names = merger.matched.names[index]
    columns: dict[str, Row] = {}
    for name, kind in merger.plan.parameters:
        values = merger.columns[name][index]
        if values.dtype != object or values[0] is not None:
            columns[name] = typed(values, kind)
    columns["replicate"] = merger.matched.replicates[index]
    own = merger.sources[int(merger.matched.source[index[0]])].plan
    # Trials that were sampled otherwise are never run here: their store is for marks, and to be read.
    sampling = merger.plan.sampling if alike(own, merger.plan) else replace(own.sampling, segments=1)
    layout = group_layout(replace(merger.plan, sampling=sampling), group)
    path = workspace.hot / "0" / f"{group.name}.zarr"
    texts = [text.decode() for text in hexadecimal(names)]
    store = HotStore.create(path, layout, key_words(names), texts, columns)
    for batch in range(group.batches):
        lanes = index[batch * group.batch : (batch + 1) * group.batch]
        if merger.marks[lanes].any():
            store.restore(
                batch,
                _padded(merger.marks[lanes], group.batch, Outcome.PADDING),
                _padded(seconds[lanes], group.batch, 0),
                _padded(merger.matched.giver[lanes] >= 0, group.batch, False),
            )


def _padded(values: Row, size: int, fill: Any) -> Row:
    return np.concatenate([values, np.full(size - len(values), fill, values.dtype)])


# --- the archive -------------------------------------------------------------------------------------


def _write_archive(merger: Merger, workspace: Workspace, tell: Tell) -> None:
    """All rows there are, part by part: copied where they are as they were, otherwise written anew."""
    plan = merger.plan
    archive = Archive(workspace.archive, archive_layout(plan), plan.compression, plan.level)
    for source in merger.sources:
        # What is copied is checked as it is copied.
        if not _copies(merger, source):
            check_archive(source.name, source.workspace, every=True)
    sealed: list[SealedPart] = []
    told = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as writers:
        try:
            for done, found in enumerate(writers.map(lambda part: list(_sealed(merger, archive, part)), plan.parts), 1):
                sealed += found
                if time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    tell(f"{done:,} of {len(plan.parts):,} parts")
        except BaseException:
            writers.shutdown(cancel_futures=True)
            raise
    archive.enter(*sealed)


def _sealed(merger: Merger, archive: Archive, part: Part) -> Iterator[SealedPart]:
    """Write everything there is of a part."""
    group = merger.plan.groups[part.group]
    index = merger.index[part.group][part.first * group.batch : part.last * group.batch]
    index = index[merger.matched.giver[index] >= 0]
    copied = list(_copied(merger, archive, part))
    yield from copied
    if copied:
        given = merger.matched.given[index]
        index = index[(merger.matched.giver[index] != 0) | ~merger.sources[0].sealed[given]]
    if not len(index):
        return
    name = f"{part.name}-s{len(copied)}" if copied else part.name
    takings = list(_takings(merger, part.group, index))

    def tables(name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        return (table for taking in takings for table in taking.tables(name, schema))

    _answer(merger, archive, name, takings)
    layout = archive.layout
    rows = {"draws": tables("draws", layout.draws())}
    rows |= {name: tables(name, layout.items(name)) for name in layout.tables}
    yield archive.seal(name, group.partition, rows, pa.concat_tables(tables("trials", layout.trials())))


def _copies(merger: Merger, source: Source) -> bool:
    """Whether a campaign's files are copied: its groups are the whole's, and no row of them has a new column."""
    return source is merger.sources[0] and merger.plan.parameters == source.plan.parameters


def _copied(merger: Merger, archive: Archive, part: Part) -> Iterator[SealedPart]:
    """Copy the files of a part of the first campaign, where that can be done."""
    first = merger.sources[0]
    if part not in first.plan.parts or not _copies(merger, first):
        return
    for name in first.files.get(part.name, ()):
        files = [entry for entry in first.entries[name] if entry.table in archive.tables]
        for entry in files:
            copied_file(first.workspace.archive / entry.path, archive.path / entry.path, entry)
        for answer in first.workspace.reduced.glob(f"*/*/{name}.npz"):
            target = archive.path / answer.relative_to(first.workspace.archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_aside(target, answer.read_bytes())
        trials = next(entry.rows for entry in files if entry.table == "trials")
        listed = [SealedFile(one.path, one.table, one.rows, one.bytes, one.sha256) for one in files]
        yield SealedPart(name, trials, tuple(listed))


def _answer(merger: Merger, archive: Archive, name: str, takings: Sequence[Taking]) -> None:
    """What the campaign's reducers make of a part."""
    blocks = _blocks(merger)
    found = reducers(blocks, merger.sources[0].workspace.code)
    if found:
        answers = (mapped(block, found) for taking in takings for block in taking.blocks())
        write_part(archive.path, blocks, name, joined(answers, found))


def _blocks(merger: Merger) -> Blocks:
    first = merger.sources[0]
    return blocks_in(first.workspace, merger.declaration.campaign.reduce, first.plan.code)


def _takings(merger: Merger, group: int, index: Row) -> Iterator[Taking]:
    """Some trials of a group of the whole, by whose data they have: first those of the group's own campaign."""
    matched = merger.matched
    owner = int(matched.source[merger.index[group][0]])
    givers = np.unique(matched.giver[index]).tolist()
    for number in sorted(givers, key=lambda giver: giver != owner):
        source, own = merger.sources[number], index[matched.giver[index] == number]
        there = matched.given[own]
        for old in np.unique(source.group[there]).tolist():
            chosen = np.flatnonzero(source.group[there] == old)
            chosen = chosen[np.argsort(source.row[there[chosen]])]
            yield Taking(
                source,
                old,
                source.row[there[chosen]],
                hexadecimal(matched.names[own[chosen]]),
                matched.replicates[own[chosen]],
                constants(merger.plan.parameters, source.plan, source.plan.groups[old]),
            )
