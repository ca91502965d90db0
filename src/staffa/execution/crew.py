"""Who is there, what each worker has to do, and who left: the driver's roll of its workers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from staffa.execution.chronicle import Chronicle
from staffa.execution.lanes import Lanes
from staffa.execution.pool import Departure, Member, Pool


class Crew:
    """The workers of a run.

    Arguments:
    - `pool`: where they come from, and who knows why one left.
    """

    def __init__(self, pool: Pool, chronicle: Chronicle) -> None:
        self.members: dict[str, Member] = {}
        """Those present, by address."""
        self.loads: Counter[str] = Counter()
        """Batches each has, by address."""
        self._pool, self._chronicle = pool, chronicle
        self._left: dict[str, tuple[Member, float]] = {}
        self._dead: dict[str, Member] = {}
        self._busy_since: dict[str, float] = {}

    def meet(self, found: Mapping[str, Member], now: float) -> None:
        """Take note of who came and who left."""
        self._dead = {address: member for address, member in self._dead.items() if address in found}
        present = {address: member for address, member in found.items() if self._dead.get(address) != member}
        for address in present.keys() - self.members.keys():
            self._chronicle.note({"event": "worker_joined", "at": now, **asdict(present[address])})
        for address in self.members.keys() - present.keys():
            self._left.setdefault(address, (self.members[address], now))
        self.members = present

    def died(self, member: Member, now: float) -> None:
        """Dask says that a worker's process died; it may still list it for a while."""
        self._dead[member.address] = member
        if self.members.pop(member.address, None) is not None:
            self._left.setdefault(member.address, (member, now))

    def gone(self, now: float) -> Iterator[tuple[Member, Departure, float]]:
        """Workers of which it is now known why they left, and since when they have been gone."""
        for address, (member, since) in list(self._left.items()):
            departure = self._pool.departure(member, now - since)
            if departure is not None:
                del self._left[address]
                yield member, departure, since

    def left(self, member: Member) -> bool:
        """Whether a worker has left for reasons still unknown."""
        return member.address in self._left

    def able(self, kind: str) -> list[Member]:
        """Those who do this kind of work, the ones with the least to do first."""
        found = [member for member in self.members.values() if self._pool.does(member, kind)]
        return sorted(found, key=lambda member: self.loads[member.address])

    def ask_to_leave(self, yes: bool = True) -> None:
        """Have what workers do end at its next segment, to go on elsewhere (or take that back)."""
        with contextlib.suppress(Exception):
            self._pool.client.run(leave, yes, on_error="ignore")

    def given(self, member: Member, now: float) -> None:
        """A batch was handed to a worker."""
        self.loads[member.address] += 1
        if self.loads[member.address] == 1:
            self._busy_since[member.address] = now

    def relieved(self, member: Member) -> None:
        """A batch was taken off a worker."""
        self.loads[member.address] -= 1
        if self.loads[member.address] <= 0:
            del self.loads[member.address]

    def told(self, member: Member, now: float) -> None:
        """A receipt came: whatever is lost from now on was begun after it."""
        self._busy_since[member.address] = now

    def busy_since(self, member: Member, otherwise: float) -> float:
        return self._busy_since.pop(member.address, otherwise)


def leave(yes: bool, dask_worker: Any) -> None:
    """Runs on a worker; Dask fills in which. See `lanes.asked_to_leave`."""
    dask_worker.plugins[Lanes.name].leaving = yes
