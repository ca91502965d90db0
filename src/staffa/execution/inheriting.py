"""What a merged campaign is told of those it is made of: who computed what, what came of trials without data, logs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from staffa.campaign.identity import run_facts
from staffa.execution.consolidate import Consolidation
from staffa.execution.ensemble import Blocks
from staffa.execution.exempt import named
from staffa.execution.matching import origins
from staffa.execution.merging import Merger, explored
from staffa.execution.prepare import open_stores, plan_digest
from staffa.execution.sources import Source
from staffa.execution.takeover import unheard, unheard_parts
from staffa.execution.tally import batch_counts, batch_key
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger
from staffa.storage.merged import read_merge, write_origins
from staffa.storage.provenance import version_of
from staffa.storage.states import State
from staffa.storage.trial_logs import Line, append_lines, every_line
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome


def write_record(merger: Merger, workspace: Workspace) -> None:
    """Of which campaigns the whole was merged, and who computed each trial."""
    sources: list[dict[str, Any]] = []
    for source, count in zip(merger.sources, merger.matched.counts, strict=True):
        known = run_facts(source.declaration, source.plan.code)
        title = source.declaration.campaign.campaign
        sources.append(
            {
                "root": str(source.workspace.root),
                "campaign": f"{title.name} {title.version}",
                **known,
                "code": source.plan.code,
                **asdict(count),
                "first": int(np.argmax(merger.matched.source == len(sources))) if count.taken else None,
                "merged": read_merge(source.workspace),
            }
        )
    facts = {
        "at": time.time(),
        "staffa": version_of("staffa"),
        "trials": merger.matched.trials,
        "explored": explored(merger.sources, merger.plan),
        "declared": merger.said,
        "sources": sources,
    }
    write_origins(workspace, facts, origins(merger.sources, merger.matched))


def write_ledger(merger: Merger, workspace: Workspace, reducers: Blocks) -> None:
    """A history that begins with the merge, and tells of trials without data why they have none."""
    plan, stores = merger.plan, open_stores(workspace, merger.plan)
    with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
        counts = {source.name: count.taken for source, count in zip(merger.sources, merger.matched.counts, strict=True)}
        ledger.append({"event": "merged", "trials": plan.trials, "sources": counts})
        found = unheard(stores, ledger.books, batch_counts(plan, stores))
        if found is not None:
            ledger.append(found)
        for event in _fates(merger):
            ledger.append(event)
        archive = Consolidation(workspace, plan, plan_digest(plan), stores, reducers)
        for event in unheard_parts(archive.archive.manifest()["parts"], ledger.books):
            ledger.append(event)
        archive.failed(ledger.books)
        archive.reduced()
        archive.complain()


def _fates(merger: Merger) -> Iterator[dict[str, Any]]:
    """What the campaigns' ledgers say of trials without data: failures, and decisions about them."""
    without = np.flatnonzero((merger.matched.giver < 0) & (merger.marks != Outcome.MISSING))
    for index in without.tolist():
        source = merger.sources[int(merger.matched.source[index])]
        place = int(merger.matched.place[index])
        there = source.plan.groups[int(source.group[place])]
        trial = source.names[place].tobytes().hex()
        batch = named((int(source.group[place]), int(source.row[place]) // there.batch))
        own, lane = merger.seat(index)
        known = {"trial": merger.matched.names[index].tobytes().hex(), "batch": own, "lane": lane}
        yield from _fate(source, trial, batch, Outcome(int(merger.marks[index])), known)


def _fate(
    source: Source, trial: str, batch: str, outcome: Outcome, known: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Arguments: `trial`, `batch` as the campaign calls them; `known` are the same as the whole does."""
    state = source.books.state(trial, batch)
    failures = source.books.failures.get(trial, [])
    if outcome is Outcome.CANCELLED:
        yield {"event": "cancelled", **known, "why": source.books.why.get(trial) or source.books.why.get(batch, "")}
    elif outcome.failed:
        message = failures[-1].message if failures else ""
        event = "quarantined" if state == State.QUARANTINED else "failed_before"
        attempts = max(len(failures), 1)
        yield {"event": event, **known, "outcome": outcome.word, "message": message, "attempts": attempts}


def write_logs(merger: Merger, workspace: Workspace) -> None:
    """What trials printed, under the batches and names they have now."""
    matched = merger.matched
    for number, source in enumerate(merger.sources):
        here = np.full(source.trials, -1, np.int64)
        own, given = np.flatnonzero(matched.source == number), np.flatnonzero(matched.giver == number)
        here[matched.place[own]], here[matched.given[given]] = own, given
        for path in sorted((source.workspace.logs / "trials").glob("g*-*.jsonl")):
            group, batch = batch_key(path.stem.replace("-", "/"))
            size = source.plan.groups[group].batch
            indices = here[source.index[group][batch * size : (batch + 1) * size]]
            for name, lines in _retold(merger, path, indices).items():
                append_lines(workspace.trial_log(name), lines)


def _retold(merger: Merger, path: Path, indices: Any) -> dict[str, list[Line]]:
    """The lines of a campaign's log of a batch, by the batches its trials are in now.

    Arguments:
    - `indices`: of each trial of the batch the index in the whole, or -1.
    """
    found: dict[str, list[Line]] = {}
    for line in every_line(path):
        about = indices if line["lane"] is None else indices[line["lane"] : line["lane"] + 1]
        for name, index in {merger.seat(index)[0]: index for index in about[about >= 0].tolist()}.items():
            own = {"lane": merger.seat(index)[1], "trial": merger.matched.names[index].tobytes().hex()}
            found.setdefault(name, []).append({**line, "batch": name, **(own if line["lane"] is not None else {})})
    return found
