"""Sealing parts while a run goes on: which are asked for, what was ordered, what came of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from staffa.campaign.plan import Plan
from staffa.execution.board import Batch, Board
from staffa.execution.chronicle import Chronicle
from staffa.execution.consolidate import Consolidation, Due
from staffa.execution.reduce import SealOrder
from staffa.rows import with_data
from staffa.storage.books import Books
from staffa.storage.hot import HotStore


class Sealing:
    """The queue of parts to be sealed.

    Arguments:
    - `due`: when ripe parts are looked for.
    - `mend`: has a damaged batch done again.
    """

    def __init__(
        self,
        archive: Consolidation,
        plan: Plan,
        stores: Mapping[int, HotStore],
        board: Board,
        books: Books,
        chronicle: Chronicle,
        due: Due,
        mend: Callable[[Batch, Sequence[str]], bool],
        prune: bool = False,
    ) -> None:
        self.mend = mend
        self.archive, self.plan, self.stores = archive, plan, stores
        self.board, self.books, self.chronicle, self.due = board, books, chronicle, due
        self.queue: list[int] = []
        self._prune = prune
        self._pruned: set[int] = set()
        """Parts of which no more shards are to be removed."""
        self._answered: set[int] = set()
        """Parts of which every reducer has its answer."""
        self._applies = False
        """Whether what reducers found is being applied to the rows of the archive."""
        self._applied: dict[str, Mapping[str, Any]] = {}
        """By path the files that came of it, as they will be listed."""
        self._run = os.urandom(4).hex()
        self._issues: Counter[str] = Counter()
        self._errors: Counter[int] = Counter()

    def grow(self, plan: Plan, digest: str) -> None:
        """Take up a plan that has grown: its parts go on counting."""
        self.plan = plan
        self.archive.grow(plan, digest)

    def ask(self, flying: Collection[int], *, prune: bool = False) -> bool:
        """Queue every ripe part that is not sealed, answered for and (where that is wanted) pruned; was there any?"""
        self._prune |= prune
        queued = {*flying, *self.queue}
        fresh = [
            number
            for number in range(len(self.plan.parts))
            if number not in queued and self.board.ripe(number) and self._wanting(number)
        ]
        self.queue += fresh
        return bool(fresh)

    def apply(self, flying: Collection[int]) -> bool:
        """Queue every part to whose rows reducers are still to apply what they found; was there any?

        There is none before all is settled and sealed; once it was done everywhere, what they made is listed.
        """
        self._applies = self.archive.applies and all(
            self.board.ripe(number) and not self._unsealed(number) for number in range(len(self.plan.parts))
        )
        if self._applies:
            self.chronicle.insist(self.archive.reduced)
            self._applies = self.ask(flying)
            if not self._applies:
                self.chronicle.insist(lambda: self.archive.applied(self._applied))
                self._applied.clear()
        return self._applies

    def look(self, settled: int, now: float, flying: Collection[int]) -> None:
        """Ask for ripe parts if it is time to."""
        if self.due.now(settled, now):
            self.due.reset(settled, now)
            self.ask(flying)

    def next(self) -> tuple[int, SealOrder] | None:
        """The next part to seal, to answer for or to prune, and what that takes.

        Those that need nothing are passed over.

        So are those that are not ripe any more: of some batch more is to be done, then they are asked for again.
        """
        while self.queue:
            number = self.queue.pop(0)
            if not self.board.ripe(number):
                continue
            part = self.plan.parts[number]
            seal = self.archive.order(part, self.books)
            if seal is None:
                self.archive.held[part.name] = self.board.with_data(number)
                seal = self._further(number)
            if seal is None:
                continue
            self._issues[part.name] += 1
            self.board.sealing.add(number)
            return number, replace(seal, issue=self._issues[part.name], run=self._run)
        return None

    def again(self, number: int, *, fault: bool = False) -> int:
        """Put a part back that was not sealed; returns how often the machinery has failed it."""
        self.board.sealing.discard(number)
        self.queue.append(number)
        self._errors[number] += fault
        return self._errors[number]

    def sealed(self, number: int, worker: str, receipt: Mapping[str, Any]) -> None:
        """A seal came back: enter the part, or do damaged batches again."""
        self.board.sealing.discard(number)
        part = self.plan.parts[number]
        if receipt.get("pruned"):
            self._gone(number, worker, receipt)
            return
        if receipt.get("answered"):
            self._answered.add(number)
            if self._wanting(number):
                self.queue.append(number)
            return
        if "applied" in receipt:
            self._applied |= {one["path"]: one for files in receipt["applied"].values() for one in files.values()}
            if self._wanting(number):
                self.queue.append(number)
            return
        damaged = receipt.get("damaged")
        if damaged:
            for batch, outputs in damaged.items():
                self.mend((part.group, int(batch)), outputs)
            return
        if receipt["files"] and not self.chronicle.disk(lambda: self.archive.enter(part.name, receipt)):
            self.again(number)
            return
        if not receipt["files"]:
            self.archive.sealed.setdefault(part.name, [])
        told = {name: receipt[name] for name in ("part", "rows", "trials", "bytes", "seconds")}
        self.chronicle.note({"event": "part_sealed", "worker": worker, **told})
        self.chronicle.go_on()
        self._pruned.discard(number)
        self._answered.discard(number)
        self._applies = False  # of one trial more there is another answer
        if self._wanting(number):
            self.queue.append(number)

    def archived(self, batch: Batch) -> set[int]:
        """Lanes of a batch whose data stand in the archive: it was done anew."""
        return self.archive.lanes(self.plan.parts[self.board.part(batch)], batch[1])

    def _gone(self, number: int, worker: str, receipt: Mapping[str, Any]) -> None:
        """Shards of a part were removed, but for batches whose rows are not in the archive as they should be."""
        self._pruned.add(number)
        differ = {f"g{self.plan.parts[number].group}/{batch}": names for batch, names in receipt["differ"].items()}
        told = {"part": receipt["part"], "worker": worker, "bytes": receipt["bytes"]}
        kept = {"event": "part_kept", **told, "differ": differ}
        self.chronicle.note(kept if differ else {"event": "part_pruned", **told})

    def _wanting(self, number: int) -> bool:
        """Whether something is to be done about a ripe part."""
        return self._unsealed(number) or self._further(number) is not None

    def _further(self, number: int) -> SealOrder | None:
        """What is still to be done about a part that is sealed."""
        part = self.plan.parts[number]
        if number not in self._answered:
            answering = self.archive.answering(part)
            if answering is not None:
                return answering
            self._answered.add(number)
        if self._unpruned(number):
            return self.archive.pruning(part)
        return self.archive.applying(part) if self._applies else None

    def _unpruned(self, number: int) -> bool:
        """Whether shards of a sealed part are to be removed."""
        part = self.plan.parts[number]
        if not self._prune or number in self._pruned or part.name not in self.archive.sealed:
            return False
        store, group = self.stores[part.group], self.plan.groups[part.group]
        if all(store.pruned(batch)[with_data(store, group, batch)].all() for batch in part.batches()):
            self._pruned.add(number)
        return number not in self._pruned

    def _unsealed(self, number: int) -> bool:
        """Whether a part is missing, or lacks trials that got their data after it was sealed."""
        name = self.plan.parts[number].name
        return name not in self.archive.sealed or self.board.with_data(number) > self.archive.held.get(name, 0)
