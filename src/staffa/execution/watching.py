"""A search that its driver runs, as a study that follows it: for those who look at it over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.plan import Plan
from staffa.execution.board import Batch
from staffa.execution.tally import batch_key
from staffa.search.study import Study
from staffa.storage.hot import HotStore
from staffa.storage.spans import unspan
from staffa.trial import Outcome

Row = npt.NDArray[np.uint8]
GONE, TOLD = 1, 2


class Watching:
    """Tells a study what the ledger of a campaign says.

    A trial's number there is its place among those that the search asked for. Batches of several groups have theirs
    mixed: what is said of a trial waits for all before it.
    """

    def __init__(self, plan: Plan, stores: Mapping[int, HotStore], study: Study) -> None:
        assert plan.search is not None
        self._names = [name for name, _ in plan.search.objectives]
        self._stores, self._study = stores, study
        self._count = 0
        """Trials the study knows: all places before this one."""
        self._ahead: dict[int, tuple[dict[str, Any], str]] = {}
        """Parameters and batches of places behind one that is not known yet."""
        self._places: dict[Batch, list[int]] = {}
        self._waiting: list[tuple[Batch, Mapping[str, Any], float]] = []
        self._over: dict[Batch, Row] = {}
        """Of each batch the lanes that have ended: `GONE` without a result, which may still come; `TOLD` with one."""

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
        batch, places = batch_key(event["batch"]), unspan(event["places"])
        self._places[batch], self._over[batch] = places, np.zeros(len(places), np.uint8)
        for row, place in enumerate(places):
            params = {name: values[row] for name, values in event["points"].items()}
            self._ahead[place] = params, event["batch"]
        while self._count in self._ahead:
            params, worker = self._ahead.pop(self._count)
            said = {"event": "asked", "trials": [self._count], "params": [params], "worker": worker}
            self._study.hear({**said, "at": at})
            self._count += 1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._settled(*one)

    def _settled(self, batch: Batch, event: Mapping[str, Any], at: float) -> None:
        """Compare with the batch's marks: they are what counts."""
        if batch not in self._places:
            return
        if max(self._places[batch]) >= self._count:
            self._waiting.append((batch, event, at))
            return
        store, over, places = self._stores[batch[0]], self._over[batch], self._places[batch]
        status = store.status(batch[1])[: len(over)]
        given_up = {event["lane"]} if event["event"] == "quarantined" else set()
        scores = store.scores(batch[1])
        for lane in np.flatnonzero(over != TOLD).tolist():
            outcome, place = Outcome(int(status[lane])), places[lane]
            if outcome.has_data and scores is not None:
                values = dict(zip(self._names, map(_plain, scores[lane].tolist()), strict=True))
                over[lane] = TOLD
                self._study.hear({"event": "told", "at": at, "trial": place, "attempt": 1, "values": values})
            elif over[lane] == GONE:
                continue
            elif outcome.exempt:
                over[lane] = GONE
                self._study.hear({"event": "cancelled", "at": at, "trials": [place], "again": False})
            elif lane in given_up:
                over[lane] = GONE
                why = str(event.get("message", ""))
                self._study.hear({"event": "failed", "at": at, "trial": place, "attempt": 1, "why": why})


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
