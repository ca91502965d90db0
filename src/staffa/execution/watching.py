"""A search that its driver runs, as a study that follows it: for those who look at it over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from staffa.campaign.plan import Plan
from staffa.execution.board import Batch
from staffa.execution.tally import batch_key
from staffa.search.study import Study
from staffa.storage.hot import HotStore
from staffa.storage.spans import unspan
from staffa.trial import Outcome


class Watching:
    """Tells a study what the ledger of a campaign says.

    A trial's number there is its index in the list of the campaign's trials.
    """

    def __init__(self, plan: Plan, stores: Mapping[int, HotStore], study: Study) -> None:
        assert plan.search is not None
        self._names = [name for name, _ in plan.search.objectives]
        self._stores, self._study = stores, study
        self._count = 0
        self._first: dict[Batch, int] = {}
        self._over: dict[Batch, np.ndarray[Any, Any]] = {}
        """Of each batch the lanes that have ended."""

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in the next event of the ledger."""
        name, at = event["event"], event.get("at", 0.0)
        if name == "trials_asked":
            self._asked(event, at)
        elif name in ("batch_settled", "trials_judged", "cancelled", "quarantined") and event.get("batch"):
            self._settled(batch_key(event["batch"]), event, at)
        elif name == "batches_found":
            for batch in event["batches"]:
                self._settled(batch_key(batch), event, at)
        elif name == "objectives_changed":
            self._study.hear({"event": "objectives", "at": at, "objectives": event["objectives"]})

    def _asked(self, event: Mapping[str, Any], at: float) -> None:
        count = len(unspan(event["places"]))
        batch, trials = batch_key(event["batch"]), list(range(self._count, self._count + count))
        params = [{name: values[row] for name, values in event["points"].items()} for row in range(count)]
        self._first[batch], self._over[batch] = self._count, np.zeros(count, bool)
        self._count += count
        self._study.hear({"event": "asked", "at": at, "trials": trials, "params": params, "worker": event["batch"]})

    def _settled(self, batch: Batch, event: Mapping[str, Any], at: float) -> None:
        """Compare with the batch's marks: they are what counts."""
        if batch not in self._first:
            return
        store, over, first = self._stores[batch[0]], self._over[batch], self._first[batch]
        status = store.status(batch[1])[: len(over)]
        given_up = {event["lane"]} if event["event"] == "quarantined" else set()
        scores = store.scores(batch[1])
        for lane in np.flatnonzero(~over).tolist():
            outcome = Outcome(int(status[lane]))
            if outcome.has_data and scores is not None:
                values = dict(zip(self._names, map(_plain, scores[lane].tolist()), strict=True))
                self._say(lane, over, {"event": "told", "trial": first + lane, "attempt": 1, "values": values}, at)
            elif outcome.exempt:
                self._say(lane, over, {"event": "cancelled", "trials": [first + lane], "again": False}, at)
            elif lane in given_up:
                why = str(event.get("message", ""))
                self._say(lane, over, {"event": "failed", "trial": first + lane, "attempt": 1, "why": why}, at)

    def _say(self, lane: int, over: Any, event: dict[str, Any], at: float) -> None:
        over[lane] = True
        self._study.hear({**event, "at": at})


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
