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
from staffa.errors import ConfigError
from staffa.execution.board import Batch, Board, Retries
from staffa.execution.exempt import named
from staffa.execution.refilling import ROSTER_SHARE, Searching, refill_of, value_column
from staffa.execution.takeover import unheard
from staffa.execution.tally import batch_counts, counted, word_counts
from staffa.search.answers import Record
from staffa.search.study import Study
from staffa.storage import control
from staffa.storage.files import DISK
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
        self._stop, self._figures, self._count_at = stop, dict[str, Any](), 0.0
        searching = refill_of(workspace, config, plan, stores, ledger.books)
        assert isinstance(searching, Searching)
        self._searching = searching
        self._board = Board(plan, Retries(), time.time, random.Random(0))
        searching.begin(self._board, ledger.append)
        self._group = len(plan.groups) - 1
        """A search that grew goes on in the stores of its last generation."""
        self._first = 0
        """Trials before this one stand in a store."""
        self._begun_with: Batch | None = None
        """A batch that has its seats, and no data yet."""
        self._failed: dict[int, Batch] = {}
        """Trials that stand in a store without data: a late result is taken even so."""
        self._take_stock()
        self._begun = time.time()

    def _take_stock(self) -> None:
        """Find out what a server before this one had written, and say what it was too soon gone to say."""
        for batch, seat in sorted(self._searching.seats.items(), key=lambda item: item[1].places):
            status = self.stores[batch[0]].status(batch[1])[: len(seat.places)]
            if not status.any():
                self._begun_with = batch
                continue
            self._first = seat.places[-1] + 1
            self._failed |= {seat.places[lane]: batch for lane in np.flatnonzero(status == Outcome.RAISED).tolist()}
        found = unheard(self.stores, self.ledger.books, batch_counts(self.plan, self.stores))
        if found is not None:
            self.ledger.append(found)
        for place, batch in self._failed.items():
            lane = self._searching.seats[batch].places.index(place)
            if not self.ledger.books.state(self.stores[batch[0]].digests(batch[1])[lane], named(batch)):
                self._say_given_up(batch, lane, self.study.record(place))

    def turn(self) -> None:
        """Put what is settled where it belongs, and do what is due. Raises `OSError` when the disk is full."""
        with self._lock:
            self._put()
            self._tick(time.time())
            for request in control.pending(self.workspace):
                control.answer(self.workspace, request, self._obey(request))

    def change(self, patch: Mapping[str, Mapping[str, Any]]) -> None:
        """Other objectives: for those who are served, and for those who look at the campaign.

        Raises `ConfigError` for what cannot be.
        """
        with self._lock:
            self._rescore(patch)

    def _rescore(self, patch: Mapping[str, Mapping[str, Any]]) -> None:
        wanted = self.study.objectives.changed(patch)
        # The ledger has the last word when the search is served again.
        self.ledger.append({"event": "objectives_changed", "objectives": wanted.words()})
        self.study.rescore(wanted)

    def close(self) -> None:
        """Bring what readers go by up to date. A full disk is no matter: the next server does it."""
        with self._lock:
            try:
                self._put()
                self._figures = {}
                self._tick(time.time())
                self._searching.close()
            except OSError as error:
                if error.errno not in DISK:
                    raise

    def _put(self) -> None:
        """Write the batches of which everything is settled, and results that came after their batch was written."""
        for place in [place for place in self._failed if self.study.record(place).state == "recorded"]:
            self._mend(self._failed[place])
        size, last = self.plan.groups[self._group].batch, self.study.finished
        if self._searching.owed:  # a full disk kept it from the store
            self._begun_with = self._searching.owed[0]
        while True:
            begun = self._begun_with
            wanted = len(self._searching.seats[begun].places) if begun is not None else size
            # Results that nobody asked for may be more than there is room for: those stand in the journal only.
            records = self.study.trials(self._first, max(min(wanted, self.plan.trials - self._first), 0))
            if not records or any(record.state in OPEN for record in records):
                return
            if len(records) < wanted and not last:
                return
            self._write(records)

    def _tick(self, now: float) -> None:
        """What is due now and then: the journal, the list of trials, figures in at most 2 % of the time."""
        self._searching.tick(now)
        if not self._figures or now >= self._count_at:
            began = time.monotonic()
            self._figures = counted(self.plan, self.stores)
            self._count_at = now + (time.monotonic() - began) / ROSTER_SHARE
        self.ledger.tick(now, self._figures)

    def _obey(self, request: control.Request) -> dict[str, Any]:
        if request.at < self._begun - 1:
            return {"done": False, "why": "asked of an earlier server"}
        if request.verb == "stop":
            self._stop()
            return {"done": True}
        if request.verb == "objectives":
            try:
                self._rescore(request.arguments["patch"])
            except ConfigError as error:
                return {"done": False, "why": error.message}
            return {"done": True}
        return {"done": False, "why": f"a served search has no {request.verb!r}: it is asked and told over HTTP"}

    def _write(self, records: Sequence[Record]) -> None:
        """Have the next trials stand in a store, all of them at once."""
        self._searching.write_seats()
        if self._begun_with is None:
            domain = self._searching.asking.domain
            columns = {name: value_column([record.params[name] for record in records]) for name in domain.names}
            places = tuple(record.trial for record in records)
            self._begun_with = self._searching.seat(self._group, places, columns)
        self._fill(self._begun_with, records)
        self._first, self._begun_with = records[-1].trial + 1, None

    def _mend(self, batch: Batch) -> None:
        """Write a batch anew, of which a result came after it was written."""
        places = self._searching.seats[batch].places
        records = self.study.trials(places[0], len(places))
        digests = self.stores[batch[0]].digests(batch[1])
        for lane, record in enumerate(records):
            if record.trial in self._failed and record.state == "recorded":
                said = {"trial": digests[lane], "batch": named(batch), "lane": lane}
                self.ledger.append({"event": "readmitted", **said})
        self._fill(batch, records)

    def _fill(self, batch: Batch, records: Sequence[Record]) -> None:
        store, number = self.stores[batch[0]], batch[1]
        values = self._values(records, store.layout.batch)
        sums = [self._output(store, place, number, values) for place in range(values.shape[1])]
        status = np.full(store.layout.batch, Outcome.PADDING, np.uint8)
        status[: len(records)] = [_outcome(record) for record in records]
        seconds = np.zeros(store.layout.batch, np.float32)
        store.score(number, values)
        store.commit(number, status, np.array([sums], np.uint32), seconds)
        self.ledger.append(self._settled(batch, status, records))
        for lane, record in enumerate(records):
            known = self._failed.pop(record.trial, None)
            if _outcome(record) is Outcome.RAISED:
                self._failed[record.trial] = batch
                if known is None:
                    self._say_given_up(batch, lane, record)

    def _say_given_up(self, batch: Batch, lane: int, record: Record) -> None:
        said = {"lane": lane, "trial": self.stores[batch[0]].digests(batch[1])[lane], "batch": named(batch)}
        said |= {"outcome": Outcome.RAISED.word, "message": record.why, "attempts": record.attempt}
        self.ledger.append({"event": "quarantined", **said})

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
            "batch": named(batch),
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
