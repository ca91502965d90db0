"""What is asked for single trials: cancel, try again, do damaged batches again.

The same with a live driver and without one: facts go to the ledger, marks to the stores, and the
board, where there is one, is told. A mark is never touched while its batch is in flight: its task
would take itself for a late twin. What is asked for then is done when the batch has landed.

A trial that is cancelled has no results, whenever that was asked before they were committed: its
batch is not interrupted, and what it brings for that trial is not kept. What has data, in its hot
store or in the archive, stays done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from staffa.campaign.identity import stand_in
from staffa.execution.board import Batch, Board
from staffa.execution.consolidate import Sealed
from staffa.execution.exempt import Desk, named
from staffa.execution.tally import batch_key, word_counts
from staffa.storage.states import OUT, State
from staffa.trial import DIGEST_BYTES, Outcome

Lanes = npt.NDArray[np.int64]

SLICE_SECONDS = 0.5
"""Marks of thousands of batches take a while on a shared disk: the loop goes on in between."""
UNTRIED = (Outcome.MISSING, Outcome.MISSING_INPUT)
FAILED = (Outcome.RAISED, Outcome.TIMEOUT, Outcome.KILLED)


class Wishes:
    """Where requests for single trials are dealt with.

    Arguments:
    - `desk`: the campaign's plan, stores and books, and who takes notes.
    - `board`: the live driver's; without one nothing is in flight.
    """

    def __init__(self, desk: Desk, board: Board | None = None) -> None:
        self.desk, self.board = desk, board
        self._cancelled: dict[Batch, set[int]] = {}
        self._readmitted: dict[Batch, set[int]] = {}
        """What is noted and not done yet."""

    # Requests

    def cancel(self, trials: Collection[str] | None, why: str = "") -> dict[str, int]:
        """Trials that are never to be run; None: all that have no data.

        Returns `trials`: how many are cancelled now; `flying`: how many of them are in flight;
        `kept`: how many were named and have data already.
        """
        told = {"trials": 0, "flying": 0, "kept": 0}
        sealed = Sealed(self.desk.workspace, self.desk.plan)
        for batch, lanes, status in self._named(trials):
            has_data = (status == Outcome.OK) | (status == Outcome.NAN)
            already = self._cancelled.get(batch, set())
            fresh = {int(n) for n in lanes[~has_data & (status != Outcome.CANCELLED)]} - already
            fresh |= {int(n) for n in lanes} & self._readmitted.get(batch, set())
            # What is archived has data, even where those in the hot store were damaged and are made anew.
            kept = fresh & sealed.lanes(batch, self.desk.stores[batch[0]]) if fresh else set()
            fresh -= kept
            told["kept"] += int(has_data.sum()) + len(kept) if trials is not None else 0
            if fresh:
                self._say_cancelled(batch, fresh, why)
                self._readmitted[batch] = self._readmitted.get(batch, set()) - fresh
                self._cancelled.setdefault(batch, set()).update(fresh)
                told["trials"] += len(fresh)
                told["flying"] += len(self._tried_now(batch, fresh))
        self._hold()
        return told

    def retry(self, trials: Collection[str] | None) -> int:
        """Trials to be tried again with a clean record; returns how many.

        Arguments:
        - `trials`: those that failed, were quarantined or cancelled; None: all that failed or were
          quarantined. The others of those named are passed over, and so are those being tried now.
        """
        wanted = FAILED if trials is None else (*FAILED, Outcome.CANCELLED)
        count = 0
        for batch, lanes, status in self._named(trials):
            struck, out = self._cancelled.get(batch, set()), {int(lane) for lane in lanes[status == Outcome.CANCELLED]}
            chosen = {int(lane) for lane in lanes[np.isin(status, wanted)]} - (struck - out)
            # Those are being tried already, or will be as soon as their batch has landed.
            chosen -= self._tried_now(batch, chosen) | self.readmitted(batch)
            # What was cancelled and is not marked yet was never out of it.
            back = {int(lane) for lane in lanes} & (struck - out) if trials is not None else set()
            if chosen or back:
                self._say_readmitted(batch, chosen | back)
                self._cancelled[batch] = struck - back - chosen
                self._readmitted.setdefault(batch, set()).update(chosen)
                count += len(chosen) + len(back)
        self._hold()
        return count

    def mend(self, batch: Batch, outputs: Iterable[str]) -> bool:
        """Do a damaged batch again: all of its trials but those that are out of the race.

        Returns False, and does nothing, while it is being written, or read to be sealed: that will find it damaged.
        """
        if self.board is not None and self.board.busy(batch):
            return False
        group, number = batch
        store, outputs = self.desk.stores[group], list(outputs)
        status = store.status(number)[: self._size(batch)]
        digests = store.digests(number)
        name = named(batch)
        self.desk.note({"event": "batch_damaged", "batch": name, "outputs": outputs})
        out = {
            lane
            for lane, code in enumerate(status)
            if Outcome(int(code)).exempt
            or (Outcome(int(code)).failed and self.desk.books.state(digests[lane], name) in OUT)
        }
        if out:
            # Their mark stays, so what is computed is merged with what stands: which cannot be read.
            for output in outputs:
                for segment in range(store.layout.segments):
                    store.chunk(output, number, segment).unlink(missing_ok=True)
            store.mark(number, {lane: Outcome.MISSING for lane in range(len(status)) if lane not in out})
        else:
            store.reset(number)
        if self.board is not None:
            rest = tuple(lane for lane in range(len(status)) if lane not in out)
            self.board.reopen(batch, rest if out else None)
        return True

    # What follows from them

    @property
    def pending(self) -> bool:
        """Whether marks are still to be set."""
        return bool(self._cancelled or self._readmitted)

    def cancelled(self, batch: Batch) -> set[int]:
        """Lanes of a batch in flight whose results are not kept."""
        return self._cancelled.get(batch, set())

    def readmitted(self, batch: Batch) -> set[int]:
        """Lanes of a batch in flight that are to be tried when it has landed."""
        return self._readmitted.get(batch, set())

    def settle(self, seconds: float = SLICE_SECONDS) -> None:
        """Set the marks of batches that are not under way, as many as the time allows; tell the board.

        Raises `OSError` where the disk does not take them; then it is to be asked again.
        """
        if not (self._cancelled or self._readmitted):
            return
        until = time.monotonic() + seconds
        taken: dict[Batch, tuple[Collection[int], Mapping[str, int]]] = {}
        try:
            for batch in [*self._cancelled.keys() | self._readmitted.keys()]:
                if not self._under_way(batch):
                    self._settle(batch, taken)
                if time.monotonic() > until:
                    break
        finally:
            if self.board is not None and taken:
                self.board.withdraw(taken)
            self._hold()

    def enforce(self) -> None:
        """Cancel again what the ledger calls cancelled and the marks do not: its driver was gone too soon."""
        names = {name for name, word in self.desk.books.states.items() if word == State.CANCELLED}
        digests = {name for name in names if "/" not in name}
        for batch, lanes, status in self._named(digests):
            self._claim(batch, lanes, status)
        for batch in map(batch_key, names - digests):
            if batch[0] in self.desk.stores:
                # None of it had data when it was cancelled.
                lanes = np.arange(self._size(batch))
                self._claim(batch, lanes, self.desk.stores[batch[0]].status(batch[1])[: len(lanes)])
        self.settle(math.inf)

    def _claim(self, batch: Batch, lanes: Lanes, status: npt.NDArray[np.uint8]) -> None:
        # What goes on from a checkpoint will bring the results of lanes that were in it.
        chosen = lanes if named(batch) in self.desk.books.segments else lanes[status != Outcome.CANCELLED]
        if len(chosen):
            self._cancelled.setdefault(batch, set()).update(int(lane) for lane in chosen)

    def _settle(self, batch: Batch, taken: dict[Batch, tuple[Collection[int], Mapping[str, int]]]) -> None:
        cancelled, readmitted = self._cancelled.get(batch, set()), self._readmitted.get(batch, set())
        store, number = self.desk.stores[batch[0]], batch[1]
        status = store.status(number)
        outcomes = dict.fromkeys(cancelled, Outcome.CANCELLED)
        outcomes |= {lane: Outcome.MISSING for lane in readmitted if status[lane] == Outcome.CANCELLED}
        if outcomes:
            status = store.mark(number, outcomes)
        taken[batch] = cancelled, word_counts(status[: self._size(batch)])
        if readmitted and self.board is not None:
            # Some may have come back with data: a worker finds that out at once.
            self.board.reopen(batch, tuple(sorted(readmitted)))
        self._cancelled.pop(batch, None)
        self._readmitted.pop(batch, None)

    def _under_way(self, batch: Batch) -> bool:
        """Whether what is to be done with a batch's mark has to wait until the batch is settled."""
        return self.board is not None and (batch in self.board.flying or self._goes_on(batch))

    def _goes_on(self, batch: Batch) -> bool:
        """Whether a batch waits to go on from a checkpoint, with trials that are still wanted."""
        if named(batch) not in self.desk.books.segments:
            return False
        status = self.desk.stores[batch[0]].status(batch[1])[: self._size(batch)]
        return not self._cancelled.get(batch, set()).issuperset(np.flatnonzero(status == Outcome.MISSING).tolist())

    def _hold(self) -> None:
        for wanted in (self._cancelled, self._readmitted):
            for batch in [batch for batch, lanes in wanted.items() if not lanes]:
                del wanted[batch]
        if self.board is not None:
            flying, asked = self.board.flying, {*self._cancelled, *self._readmitted}
            self.board.held = {batch for batch in asked if batch in flying or not self._goes_on(batch)}

    def _say_cancelled(self, batch: Batch, lanes: set[int], why: str) -> None:
        group, number = batch
        name = named(batch)
        digests = self.desk.stores[group].digests(number)
        untried = np.isin(self.desk.stores[group].status(number)[: len(digests)], UNTRIED).all()
        flying = self.board is not None and batch in self.board.flying
        if len(lanes) == len(digests) and untried and not flying:
            self.desk.note({"event": "cancelled", "batch": name, "trials": len(lanes), "why": why})
            return
        for lane in sorted(lanes):
            self.desk.note({"event": "cancelled", "trial": digests[lane], "batch": name, "lane": lane, "why": why})

    def _say_readmitted(self, batch: Batch, lanes: set[int]) -> None:
        group, number = batch
        name = named(batch)
        digests = self.desk.stores[group].digests(number)
        if self.desk.books.states.get(name) == State.CANCELLED:
            # It was cancelled whole: what is not readmitted is cancelled by itself from now on.
            why = self.desk.books.why.get(name, "")
            self.desk.note({"event": "readmitted", "batch": name})
            status = self.desk.stores[group].status(number)
            rest = {n for n in range(self._size(batch)) if status[n] == Outcome.CANCELLED}
            for lane in sorted((rest | self._cancelled.get(batch, set())) - lanes):
                self.desk.note({"event": "cancelled", "trial": digests[lane], "batch": name, "lane": lane, "why": why})
        flying = self._tried_now(batch, lanes)
        for lane in sorted(lanes):
            event = {"event": "readmitted", "trial": digests[lane], "batch": name, "lane": lane}
            self.desk.note(event | ({"flying": True} if lane in flying else {}))

    def _tried_now(self, batch: Batch, lanes: set[int]) -> set[int]:
        """Which of these lanes are being tried: those of a batch in flight whose marks do not keep them out of it."""
        if self.board is None or batch not in self.board.flying:
            return set()
        status, board = self.desk.stores[batch[0]].status(batch[1]), self.board
        return {lane for lane in lanes if board.tried_now(batch, lane) and not Outcome(int(status[lane])).exempt}

    def _size(self, batch: Batch) -> int:
        return self.desk.stores[batch[0]].seats(batch[1])

    def _named(self, trials: Collection[str] | None) -> Iterator[tuple[Batch, Lanes, npt.NDArray[np.uint8]]]:
        """Batches with the lanes that are meant, and what their marks say."""
        if trials is not None and not trials:
            return
        wanted = None
        if trials is not None:
            wanted = np.frombuffer(bytes.fromhex("".join(trials)), np.uint8).reshape(-1, DIGEST_BYTES)
        for number, store in self.desk.stores.items():
            size, names = store.layout.batch, store.names
            # Of a search not every row is a trial's yet.
            rows = np.flatnonzero(names.any(axis=1) if wanted is None else stand_in(names, wanted))
            if not len(rows):
                continue
            whole = store.status()
            batches, starts = np.unique(rows // size, return_index=True)
            for batch, own in zip(batches, np.split(rows, starts[1:]), strict=True):
                yield (number, int(batch)), own - batch * size, whole[own]
