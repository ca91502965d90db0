"""A batch came back: whose try was that, what comes of the trials that failed, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.execution import notes
from staffa.execution.board import Batch, Board
from staffa.execution.chronicle import Chronicle
from staffa.execution.notes import Flight
from staffa.execution.tally import flawed, lane_messages
from staffa.execution.wishes import Wishes
from staffa.storage.hot import HotStore
from staffa.storage.spans import spans
from staffa.trial import Outcome

UNTOLD = "failed; its worker died before it could say why"
"""Message of a trial that was committed as failed, where the receipt that told why was lost."""
A_NAN = "an output holds a NaN"


def charge(
    flight: Flight,
    receipt: Mapping[str, Any],
    status: npt.NDArray[np.uint8],
    store: HotStore,
    board: Board,
    wishes: Wishes,
    chronicle: Chronicle,
    archived: Callable[[Batch], Collection[int]],
) -> None:
    """Settle a batch on the board, and note it with what becomes of its failed trials.

    Arguments:
    - `status`: its mark, one code a trial.
    - `archived`: tells the lanes of a batch whose data stand in the archive: a NaN there is answer enough.
    """
    flaws, batch, books = flawed(status), flight.batch[1], chronicle.ledger.books
    left = {*np.flatnonzero(status == Outcome.MISSING).tolist(), *wishes.readmitted(flight.batch)}
    whole = np.flatnonzero(status != Outcome.PADDING).tolist() if flight.lanes is None else flight.lanes
    tried = set(whole) - left - wishes.cancelled(flight.batch)
    again = board.retries.allowed(Outcome.NAN.word) > 0
    final = archived(flight.batch) if again and Outcome.NAN in flaws.values() else ()
    failed = {lane: outcome for lane, outcome in flaws.items() if outcome.failed or (again and lane not in final)}
    nan = {lane for lane in tried if flaws.get(lane) is Outcome.NAN}
    digests = store.digests(batch) if flaws or again else []
    messages = {**dict.fromkeys(nan, A_NAN), **lane_messages(receipt)}
    if receipt["duplicate"]:  # another task has committed it, and its receipt never came
        messages = {lane: messages.get(lane, UNTOLD) for lane in failed}
    mended = [digests[lane] for lane in sorted(tried - nan) if digests and digests[lane] in books.nan]
    verdict = board.settled(flight.batch, receipt["outcomes"], failed, tried)
    told = notes.settled(flight, receipt, failed, tried, digests, messages)
    told |= {"nan": [digests[lane] for lane in sorted(nan)]} if nan else {}
    told |= {"left": spans(left)} if left else {}
    chronicle.note(told | ({"mended": mended} if mended else {}))
    if verdict.retried:
        board.failed_on(flight.batch, flight.member.node)
        chronicle.note(notes.retry_planned(flight, verdict.retried, verdict.due))
        blank = {lane: Outcome.MISSING for lane in verdict.retried if lane in nan}
        chronicle.disk(lambda: store.mark(batch, blank) if blank else None)
    for lane in verdict.quarantined:
        tries = board.trouble(flight.batch).tried(lane)
        message = messages.get(lane, "")
        chronicle.note(notes.quarantined(flight, lane, digests[lane], failed[lane], message, tries))
