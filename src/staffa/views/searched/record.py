"""What a search asked for and what came back, read once: the journal, the list of trials, the hot stores.

The journal says what was asked for and in which order; the list of trials, which may be some seconds old, what they
are called; the stores how they ended and what they are scored by. Any of them may be behind, or lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.rows.objective import values
from staffa.storage.hot import HotStore
from staffa.storage.ledger import history
from staffa.storage.roster import read_rosters
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from staffa.views.stored import group_store

Row = npt.NDArray[Any]

ASKED, JUDGED, CHANGED = "trials_asked", "trials_judged", "objectives_changed"
SETTLED, QUARANTINED, CANCELLED = "batch_settled", "quarantined", "cancelled"


@dataclass(frozen=True)
class Record:
    """All trials that a search asked for, in the order of asking.

    Arguments:
    - `trial`: (n,) digests as texts; `group`, `row`: where each of them stands.
    - `params`: by name what the search varies, (n,) each.
    - `outcome`: (n,) how they ended, as in the store.
    - `values`: (n, objectives) what they are scored by, as declared; NaN where there is nothing.
    - `changed`: what the search is after, in words, where that was changed; else empty.
    """

    workspace: Workspace
    plan: Plan
    trial: Row
    group: Row
    row: Row
    params: Mapping[str, Row]
    outcome: Row
    values: Row
    changed: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.trial)

    @cached_property
    def with_data(self) -> Row:
        """(n,) whether a trial's data are committed."""
        return np.isin(self.outcome, (Outcome.OK, Outcome.NAN))

    @cached_property
    def said(self) -> Mapping[str, str]:
        """By digest why a trial has no data, as far as the journal tells: what it raised, why it was cancelled."""
        found, judged = dict[str, str](), dict[tuple[int, int], int]()
        for event in history(self.workspace, (JUDGED, SETTLED, QUARANTINED, CANCELLED)):
            if event["event"] == SETTLED:
                found |= {lane["trial"]: str(lane.get("message", "")) for lane in event.get("failed", ())}
            elif event["event"] == JUDGED:
                group, batch = _batch(event["batch"])
                first = batch * self.plan.groups[group].batch
                judged |= {(group, first + lane): int(event["segment"]) for lane in unspan(event["hopeless"])}
            elif "trial" in event:
                found[event["trial"]] = str(event.get("message") or event.get("why") or found.get(event["trial"], ""))
        for place in np.flatnonzero(self.outcome == Outcome.HOPELESS).tolist():
            segment = judged.get((int(self.group[place]), int(self.row[place])))
            after = f" after {segment} of {self.plan.sampling.segments} segments" if segment else ""
            found[str(self.trial[place])] = f"given up{after}: others were better by then"
        return found


def read(workspace: Workspace, plan: Plan, names: tuple[str, ...]) -> Record:
    """Read whatever there is of a search.

    Arguments:
    - `names`: of the parameters it varies.
    """
    asked, changed = _asked(workspace, plan, names)
    listed = _listed(workspace, names)
    found = _together(asked, listed, names)
    stores = [group_store(workspace, plan, number) for number in range(len(plan.groups))]
    _name(found, plan, stores)
    outcome, scored = np.zeros(len(found.trial), np.uint8), np.full((len(found.trial), _objectives(plan)), np.nan)
    for number, store in enumerate(stores):
        own, status = found.group == number, store.status()
        outcome[own] = status[found.row[own]]
        scored[own] = _scores(plan, number, store, status)[found.row[own]]
    scored[~np.isin(outcome, (Outcome.OK, Outcome.NAN))] = np.nan  # a batch that was damaged, and is made anew
    return Record(workspace, plan, found.trial, found.group, found.row, found.params, outcome, scored, changed)


@dataclass
class _Trials:
    """Some trials: (n,) where they stand and what they are called (empty where that is not known)."""

    group: Row
    row: Row
    trial: Row
    params: dict[str, Row] = field(default_factory=dict)
    places: Row = field(default_factory=lambda: np.empty(0, np.int64))


def _asked(workspace: Workspace, plan: Plan, names: tuple[str, ...]) -> tuple[_Trials, Mapping[str, Any]]:
    """What the journal says was asked for, and what the search is after, where that was changed."""
    batches: dict[str, Mapping[str, Any]] = {}
    changed: Mapping[str, Any] = {}
    for event in history(workspace, (ASKED, CHANGED)):
        if event["event"] == CHANGED:
            changed = event["objectives"]
        else:
            batches[event["batch"]] = event
    groups, rows, places = list[Row](), list[Row](), list[int]()
    for name, said in batches.items():
        group, batch = _batch(name)
        own = unspan(said["places"])
        places += own
        groups.append(np.full(len(own), group))
        rows.append(batch * plan.groups[group].batch + np.arange(len(own)))
    params = {name: _column([value for event in batches.values() for value in event["points"][name]]) for name in names}
    unnamed = np.full(len(places), "", object)
    return _Trials(_joined(groups), _joined(rows), unnamed, params, np.array(places, np.int64)), changed


def _listed(workspace: Workspace, names: tuple[str, ...]) -> _Trials:
    """What the list of trials has of them."""
    table = read_rosters(workspace.rosters, ["trial", "group", "row", *names])
    nothing = pa.chunked_array([pa.nulls(table.num_rows)])  # `experiment.use` stands there as the group alone
    params = {name: _arrow(table[name] if name in table.column_names else nothing) for name in names}
    group, row = table["group"].to_numpy(), table["row"].to_numpy()
    return _Trials(group, row, _arrow(table["trial"]), params, np.arange(len(group)))


def _together(asked: _Trials, listed: _Trials, names: tuple[str, ...]) -> _Trials:
    """Both in the order of asking: those in the list alone, of which the journal was lost, come last."""
    width = 1 + max(int(trials.row.max(initial=0)) for trials in (asked, listed))
    ours, theirs = (trials.group * width + trials.row for trials in (asked, listed))
    order = np.argsort(ours, kind="stable")
    at = np.searchsorted(ours, theirs, sorter=order)
    there = order[np.minimum(at, max(len(ours) - 1, 0))] if len(ours) else np.zeros(len(theirs), np.int64)
    known = ours[there] == theirs if len(ours) else np.zeros(len(theirs), bool)
    asked.trial[there[known]] = listed.trial[known]
    rest = np.flatnonzero(~known)
    first = int(asked.places.max(initial=-1)) + 1
    places = np.concatenate([asked.places, first + np.arange(len(rest))])
    by_place = np.argsort(places, kind="stable")
    joined = {
        name: np.concatenate([getattr(asked, name), getattr(listed, name)[rest]])[by_place]
        for name in ("group", "row", "trial")
    }
    params = {name: _column([*asked.params[name].tolist(), *listed.params[name][rest].tolist()]) for name in names}
    return _Trials(**joined, params={name: own[by_place] for name, own in params.items()}, places=places[by_place])


def _name(found: _Trials, plan: Plan, stores: list[HotStore]) -> None:
    """Ask the stores what those are called that came too late for the list."""
    unnamed = np.flatnonzero(found.trial == "")
    sizes = np.array([group.batch for group in plan.groups])[found.group[unnamed]]
    batches = zip(found.group[unnamed].tolist(), (found.row[unnamed] // sizes).tolist(), strict=True)
    digests = {key: stores[key[0]].digests(key[1]) for key in set(batches)}
    for place, size in zip(unnamed.tolist(), sizes.tolist(), strict=True):
        batch, lane = divmod(int(found.row[place]), size)
        own = digests[int(found.group[place]), batch]
        # It is said before it is seated.
        found.trial[place] = own[lane] if lane < len(own) else ""


def _scores(plan: Plan, number: int, store: HotStore, status: Row) -> Row:
    """(rows, objectives) of a group; of batches that were committed a moment ago they are made here."""
    whole, written = store.all_scores()
    size = plan.groups[number].batch
    marked = np.isin(status, (Outcome.OK, Outcome.NAN)).reshape(-1, size).any(axis=1)
    for batch in np.flatnonzero(marked & ~written).tolist():
        whole[batch * size : (batch + 1) * size] = values(plan, plan.groups[number], store, batch)
    return whole


def _objectives(plan: Plan) -> int:
    return len(plan.search.objectives) if plan.search is not None else 0


def _batch(name: str) -> tuple[int, int]:
    """Group and number of the batch that the journal calls `g0/3`."""
    group, _, number = name[1:].partition("/")
    return int(group), int(number)


def _joined(pieces: list[Row]) -> Row:
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _column(values: list[Any]) -> Row:
    """Values of a parameter, texts as objects."""
    return np.array(values, object) if values and isinstance(values[0], str) else np.array(values)


def _arrow(column: pa.ChunkedArray) -> Row:
    return np.asarray(column.to_numpy())
