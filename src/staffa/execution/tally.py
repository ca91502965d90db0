"""Counting what stands in the hot stores, and reading what a receipt says of single lanes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.plan import Plan
from staffa.execution.board import Batch, group_facts
from staffa.storage.hot import HotStore
from staffa.storage.spans import unspan
from staffa.trial import Outcome

RATE_SECONDS = 30.0


class Rate:
    """Trials per second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, settled: int) -> float:
        self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (settled - before) / (now - since) if now - since > 1 else 0.0


def failed_trials(stores: Mapping[int, HotStore]) -> Iterable[str]:
    """Digests of all trials that were committed without data."""
    for store in stores.values():
        for batch, lanes in failed_lanes(store):
            digests = store.digests(batch)
            yield from (digests[lane] for lane in lanes)


def failed_lanes(store: HotStore) -> Iterable[tuple[int, list[int]]]:
    """Batches of a store with the lanes that were committed without data."""
    status, size = store.status(), store.layout.batch
    failed = np.flatnonzero((status == Outcome.RAISED) | (status == Outcome.TIMEOUT) | (status == Outcome.KILLED))
    for batch in np.unique(failed // size):
        yield int(batch), [int(lane) for lane in failed[failed // size == batch] - batch * size]


def counted(plan: Plan, stores: Mapping[int, HotStore]) -> dict[str, Any]:
    """The campaign in numbers, from the stores alone."""
    groups: list[Counter[str]] = [Counter() for _ in plan.groups]
    for (number, _), counts in batch_counts(plan, stores):
        groups[number].update(counts)
    for found in groups:
        del found[Outcome.MISSING.word]
    outcomes = sum(groups, Counter[str]())
    return {
        "trials": plan.trials,
        "settled": outcomes.total(),
        "outcomes": dict(outcomes),
        "batches": plan.batches,
        **(_seated(stores) if plan.search is not None else {}),
        "parts": len(plan.parts),
        "groups": [group_facts(group, found) for group, found in zip(plan.groups, groups, strict=True)],
    }


def _seated(stores: Mapping[int, HotStore]) -> dict[str, int]:
    """What of a search was asked for."""
    found = [store.seated for store in stores.values()]
    return {"asked": sum(trials for _, trials in found), "batches": sum(batches for batches, _ in found)}


def batch_counts(plan: Plan, stores: Mapping[int, HotStore]) -> Iterable[tuple[Batch, Mapping[str, int]]]:
    """Trials of every batch by outcome, as the hot stores have it."""
    for number, group in enumerate(plan.groups):
        whole = stores[number].status()
        table = whole.reshape(group.batches, group.batch)
        for batch in range(group.batches):
            yield (number, batch), word_counts(table[batch, : group.size(batch)])


def word_counts(status: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Trials of a batch by outcome."""
    codes, counts = np.unique(status, return_counts=True)
    return {Outcome(int(c)).word: int(n) for c, n in zip(codes, counts, strict=True) if c != Outcome.PADDING}


def flawed(status: npt.NDArray[np.uint8]) -> dict[int, Outcome]:
    """Lanes of a batch that failed, or hold a NaN."""
    codes = np.flatnonzero((status >= Outcome.NAN) & (status <= Outcome.KILLED))
    return {int(lane): Outcome(int(status[lane])) for lane in codes}


def half_open(plan: Plan, stores: Mapping[int, HotStore]) -> dict[Batch, tuple[int, ...]]:
    """Batches that were tried and have lanes that are still (or again) to be run, with these lanes."""
    found = {}
    for number, group in enumerate(plan.groups):
        table = stores[number].status().reshape(group.batches, group.batch)
        tried = (table >= Outcome.OK) & (table <= Outcome.KILLED)
        missing = table == Outcome.MISSING
        missing[-1, group.size(group.batches - 1) :] = False
        for batch in np.flatnonzero(tried.any(axis=1) & missing.any(axis=1)):
            found[number, int(batch)] = tuple(int(lane) for lane in np.flatnonzero(missing[batch]))
    return found


def lane_messages(receipt: Mapping[str, Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text, lanes in receipt["messages"]:
        whole = lanes if len(lanes) < 200 else lanes.rpartition(",")[0]
        found |= dict.fromkeys(unspan(whole), text)
    return found


def batch_key(batch: str) -> Batch:
    """The batch that the ledger calls `g0/3`."""
    group, _, number = batch[1:].partition("/")
    return int(group), int(number)
