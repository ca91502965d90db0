"""What a served search was told, as batches of the campaign's hot store.

The study's journal has every fact at once; here they come to stand where all results stand, a batch at a time, as soon
as nothing of it is open any more. What is not there yet when the server ends comes there when it is served again.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Plan
from staffa.execution.board import Batch, Board, Retries
from staffa.execution.refilling import Searching, refill_of
from staffa.execution.tally import counted, word_counts
from staffa.search.answers import Record
from staffa.search.study import Study
from staffa.storage import control
from staffa.storage.hot import HotStore
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

OPEN = ("pending", "waiting")
"""States of a study's trials that may still change."""


class Shelf:
    """The driver of a campaign whose trials others do.

    Arguments:
    - `stop`: ends the server.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: CampaignConfig,
        plan: Plan,
        stores: Mapping[int, HotStore],
        ledger: Ledger,
        study: Study,
        stop: Callable[[], None],
    ) -> None:
        self.workspace, self.plan, self.stores, self.ledger, self.study = workspace, plan, stores, ledger, study
        self._lock = threading.Lock()
        self._stop, self._figures = stop, dict[str, Any]()
        searching = refill_of(workspace, config, plan, stores, ledger.books)
        assert isinstance(searching, Searching)
        self._searching = searching
        self._board = Board(plan, Retries(), time.time, random.Random(0))
        searching.begin(self._board, ledger.append)
        self._full = 0
        """Trials before this one stand in the store, or are of a batch that is not over."""
        self._begun = time.time()

    def turn(self) -> None:
        """Put what is settled where it belongs, and do what is due."""
        with self._lock:
            put = self.put(self.study.trials(self.first), last=self.study.finished)
            self._tick(time.time(), changed=bool(put))

    def change(self, patch: Mapping[str, Mapping[str, Any]]) -> None:
        """Other objectives: those who look at the campaign go by them, too."""
        with self._lock:
            words = self.study.objectives.changed(patch).words()
            self.ledger.append({"event": "objectives_changed", "objectives": words})

    def put(self, records: Sequence[Record], *, last: bool) -> int:
        """Write the batches of which everything is settled; returns how many.

        Arguments:
        - `records`: all trials of the study from `first` on, by number.
        - `last`: nothing more will be asked for: what is left is a batch, too.
        """
        put = 0
        # Results that nobody asked for may be more than there is room for: those stand in the journal only.
        records = records[: max(self.plan.trials - self._full, 0)]
        while records:
            batch, size = self._batch(self._full)
            own, records = records[:size], records[size:]
            if any(record.state in OPEN for record in own) or (len(own) < size and not last):
                break
            self._write(batch, own)
            self._full += size
            put += 1
        return put

    @property
    def first(self) -> int:
        """The first trial that does not stand in the store."""
        while self._full < self.plan.trials:
            (group, number), size = self._batch(self._full)
            if (group, number) not in self._searching.seats or not self.stores[group].status(number).any():
                break
            self._full += size
        return self._full

    def _tick(self, now: float, *, changed: bool) -> None:
        """What is due now and then: the journal, the list of trials, what other shells ask."""
        self._searching.tick(now)
        if changed or not self._figures:
            self._figures = counted(self.plan, self.stores)
        self.ledger.tick(now, self._figures)
        for request in control.pending(self.workspace):
            control.answer(self.workspace, request, self._obey(request))

    def _obey(self, request: control.Request) -> dict[str, Any]:
        if request.at < self._begun - 1:
            return {"done": False, "why": "asked of an earlier server"}
        if request.verb == "stop":
            self._stop()
            return {"done": True}
        if request.verb == "objectives":
            wanted = self.study.objectives.changed(request.arguments["patch"])
            self.ledger.append({"event": "objectives_changed", "objectives": wanted.words()})
            self.study.rescore(wanted)
            return {"done": True}
        return {"done": False, "why": f"a served search has no {request.verb!r}: it is asked and told over HTTP"}

    def close(self) -> None:
        """Bring what readers go by up to date."""
        self._searching.close()

    def _batch(self, place: int) -> tuple[Batch, int]:
        """The batch that begins with a trial, and how many it takes: each generation has a store for its own."""
        first = 0
        for number, group in enumerate(self.plan.groups):
            start = place - first
            if start < group.trials:
                return (number, start // group.batch), min(group.batch, group.trials - start)
            first += group.trials
        raise IndexError(f"{place} of {self.plan.trials} trials")

    def _write(self, batch: Batch, records: Sequence[Record]) -> None:
        if batch not in self._searching.seats:
            domain = self._searching.asking.domain
            columns = {name: _column([record.params[name] for record in records]) for name in domain.names}
            seated = self._searching.seat(batch[0], tuple(record.trial for record in records), columns)
            assert seated == batch, (seated, batch)
        store, number = self.stores[batch[0]], batch[1]
        values = self._values(records, store.layout.batch)
        sums = [self._output(store, place, number, values) for place in range(values.shape[1])]
        status = np.full(store.layout.batch, Outcome.PADDING, np.uint8)
        status[: len(records)] = [_outcome(record) for record in records]
        seconds = np.zeros(store.layout.batch, np.float32)
        store.commit(number, status, np.array([sums], np.uint32), seconds)
        store.score(number, values)
        settled = self._settled(batch, status, records)
        self.ledger.append(settled)
        for lane in settled["failed"]:
            attempts = records[lane["lane"]].attempt
            self.ledger.append({"event": "quarantined", **lane, "batch": settled["batch"], "attempts": attempts})

    def _values(self, records: Sequence[Record], batch: int) -> Any:
        """(batch, objectives) what was told; NaN for nothing."""
        assert self.plan.search is not None
        names = [name for name, _ in self.plan.search.objectives]
        values = np.full((batch, len(names)), np.nan)
        for lane, record in enumerate(records):
            told = [record.objectives.get(name) for name in names]
            values[lane] = [np.nan if value is None else value for value in told]
        return values

    def _output(self, store: HotStore, place: int, batch: int, values: Any) -> int:
        array = store.layout.arrays[place]
        assert self.plan.search is not None
        column = [name for name, _ in self.plan.search.objectives].index(array.name)
        scratch = self.workspace.scratch(f"{socket.gethostname()}-{os.getpid()}-shelf")
        store.write(array.name, batch, 0, values[:, column].astype(array.dtype), scratch)
        return store.checksum(array.name, batch, 0)

    def _settled(self, batch: Batch, status: Any, records: Sequence[Record]) -> dict[str, Any]:
        store = self.stores[batch[0]]
        digests = store.digests(batch[1])
        chunks = [store.chunk(array.name, batch[1], 0) for array in store.layout.arrays]
        failed = [
            {"lane": lane, "trial": digests[lane], "outcome": Outcome.RAISED.word, "message": record.why}
            for lane, record in enumerate(records)
            if _outcome(record) is Outcome.RAISED
        ]
        return {
            "event": "batch_settled",
            "batch": f"g{batch[0]}/{batch[1]}",
            "attempt": 1,
            "worker": "",
            "node": "",
            "outcomes": word_counts(status),
            "failed": failed,
            "timings": {},
            "bytes": sum(path.stat().st_size for path in chunks if path.exists()),
            "width": 1,
            "device": "",
            "compiles": 0,
            "pid": os.getpid(),
            "duplicate": False,
        }


def _outcome(record: Record) -> Outcome:
    """What a trial of a study is in the store: told numbers are data, also where one of them is missing."""
    if record.state == "recorded":
        told = record.objectives.values()
        return Outcome.NAN if any(value is None or value != value for value in told) else Outcome.OK
    return Outcome.CANCELLED if record.state == "cancelled" else Outcome.RAISED


def _column(values: list[Any]) -> Any:
    return np.array(values, object if isinstance(values[0], str) else None)
