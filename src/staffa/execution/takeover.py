"""What a driver that takes a campaign over has to find out, decide and say before it goes on.

What is done stands beside the data. Where the driver before was gone before it could say so, the
ledger is made whole: later readers are told how every trial came to be where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from staffa.execution.board import Batch, Board, Retries
from staffa.execution.tally import batch_counts, failed_lanes, half_open
from staffa.storage.books import Books
from staffa.storage.hot import HotStore
from staffa.storage.spans import spans
from staffa.trial import Outcome

Event = dict[str, Any]


def take_stock(board: Board, stores: Mapping[int, HotStore], books: Books, parts: Mapping[str, Any]) -> Iterator[Event]:
    """Have the board know what stands in the stores; what the ledger does not know of it.

    Arguments:
    - `parts`: those that the archive's manifest lists.
    """
    counts = list(batch_counts(board.plan, stores))
    found = unheard(stores, books, counts)
    rest = half_open(board.plan, stores)
    board.load(counts, rest)
    for batch, lanes in rest.items():
        digests = stores[batch[0]].digests(batch[1])
        for lane in lanes:
            if books.tries(digests[lane]):
                board.trouble(batch).tries[lane].update(books.tries_by_class(digests[lane]))
    if found is not None:
        yield found
    yield from unheard_parts(parts, books)


def unheard(
    stores: Mapping[int, HotStore], books: Books, counts: Iterable[tuple[Batch, Mapping[str, int]]]
) -> Event | None:
    """Batches that are committed, which the ledger does not know; None where there are none.

    Arguments:
    - `counts`: every batch with its trials by outcome.
    """
    found = {}
    for (group, number), words in counts:
        name = f"g{group}/{number}"
        told = name in books.settled and name not in books.adrift and not books.open.get(name)
        if told or not any(Outcome[word.upper()].has_data or Outcome[word.upper()].failed for word in words):
            continue
        status = stores[group].status(number)[: stores[group].seats(number)]
        lanes: dict[str, list[int]] = {}
        for lane, code in enumerate(status):
            if code != Outcome.OK:
                lanes.setdefault(Outcome(int(code)).word, []).append(lane)
        found[name] = {word: spans(own) for word, own in lanes.items()}
    return {"event": "batches_found", "batches": found} if found else None


def unheard_parts(parts: Mapping[str, Any], books: Books) -> Iterator[Event]:
    """Parts that were published, which the ledger does not know.

    Arguments:
    - `parts`: the manifest's.
    """
    for name in sorted(parts.keys() - books.parts.keys()):
        files = parts[name]["files"]
        yield {
            "event": "part_sealed",
            "part": name,
            "rows": sum(int(file["rows"]) for file in files if file["table"] == "draws"),
            "trials": int(parts[name]["trials"]),
            "bytes": sum(int(file["bytes"]) for file in files),
            "seconds": 0.0,
            "found": True,
        }


def failures(
    stores: Mapping[int, HotStore], books: Books, retries: Retries
) -> Iterator[tuple[Batch, dict[int, Counter[str]], dict[int, tuple[str, Outcome]]]]:
    """Failed trials of the drivers before: lanes to be tried again with their failed tries by class, and those to be
    given up with digest and outcome."""
    for group, store in stores.items():
        for number, lanes in failed_lanes(store):
            digests, status = store.digests(number), store.status(number)
            again: dict[int, Counter[str]] = {}
            spent: dict[int, tuple[str, Outcome]] = {}
            for lane in lanes:
                outcome = Outcome(int(status[lane]))
                if books.state(digests[lane], f"g{group}/{number}"):
                    continue
                tries = books.tries_by_class(digests[lane])
                if tries[outcome.word] <= retries.allowed(outcome.word):
                    again[lane] = tries
                else:
                    spent[lane] = digests[lane], outcome
            if again or spent:
                yield (group, number), again, spent


def resume_failures(board: Board, stores: Mapping[int, HotStore], books: Books, now: float) -> Iterator[Event]:
    """Have the board try failed trials again, unless they were given up; what is to be noted of it."""
    for batch, again, spent in failures(stores, books, board.retries):
        name = f"g{batch[0]}/{batch[1]}"
        undecided = books.undecided.get(name, set()) & again.keys()
        if again:
            board.reopen(batch, tuple(again))
            for lane, tries in again.items():
                board.trouble(batch).tries[lane].update(tries)
        if undecided:
            attempt = max(books.charged.get(name, (0,))) + 1
            yield {"event": "retry_planned", "batch": name, "lanes": sorted(undecided), "attempt": attempt, "due": now}
        for lane, (trial, outcome) in spent.items():
            yield {
                "event": "quarantined",
                "trial": trial,
                "batch": name,
                "lane": lane,
                "outcome": outcome.word,
                "message": books.failures[trial][-1].message if trial in books.failures else "",
                "attempts": max(books.tries(trial), 1),
            }
