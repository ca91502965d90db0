"""Done is what the scheduler says ended well and whose data are what was committed.

Every receipt is held against the mark it speaks of, as it stands on disk; of every few batches a
shard is read back at once, of every batch all of them before it is sealed. `staffa verify` reads
back as much as is asked for at any other time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.plan import Plan
from staffa.execution.board import Batch
from staffa.execution.tally import batch_key, word_counts
from staffa.execution.wishes import Wishes
from staffa.storage.archive import Archive
from staffa.storage.hot import HotStore
from staffa.trial import Outcome

EVERY = 32
"""One in so many batches has a shard read back as soon as it is settled; so has the first of a run."""
UNSEEN_SECONDS = 60.0
"""A mark may be seen so much later than its receipt: network file systems remember that a file was not there."""
READERS = 4
SAMPLE = 64
"""Batches that `staffa verify` looks at unless told to look at all of them."""
LARGEST = 64 << 20
"""Larger shards would keep the loop waiting: they are read back when they are sealed."""
BLOCK = 1 << 22


class Scrutiny:
    """Whether receipts are to be believed.

    Arguments:
    - `chance`: which batches are looked into.
    """

    def __init__(self, plan: Callable[[], Plan], stores: Mapping[int, HotStore], chance: random.Random) -> None:
        self._plan, self._stores, self._chance = plan, stores, chance
        self._next = 0
        """Batches until the next is looked into."""

    def mark(self, batch: Batch, outcomes: Mapping[str, int]) -> npt.NDArray[np.uint8] | None:
        """A batch's mark, one code a trial; None where it does not say what the receipt says."""
        group, number = batch
        status = self._stores[group].status(number)[: self._plan().groups[group].size(number)]
        return status if word_counts(status) == {word: count for word, count in outcomes.items() if count} else None

    def damage(self, batch: Batch) -> list[str]:
        """The output of which a shard, chosen by chance, is not what was committed; mostly nobody looks."""
        if self._next:
            self._next -= 1
            return []
        self._next = self._chance.randrange(2 * EVERY)
        group, number = batch
        store = self._stores[group]
        segment = self._chance.randrange(store.layout.segments)
        place = self._chance.randrange(len(store.layout.arrays))
        name = store.layout.arrays[place].name
        if _size(store.chunk(name, number, segment)) > LARGEST:
            return []
        sound = store.checksum(name, number, segment) == store.checksums(number)[segment, place]
        return [] if sound else [name]

    def read_back(self, batch: Batch) -> list[str]:
        """The outputs of a batch that was marked which are not what was committed."""
        group, number = batch
        store = self._stores[group]
        status = store.status(number)
        return store.damaged(number) if status.any() else []


def read_back(
    plan: Plan, stores: Mapping[int, HotStore], *, every: bool, chance: random.Random, flying: Iterable[str] = ()
) -> dict[str, Any]:
    """Read shards of committed batches back and compare them with their checksums.

    Arguments:
    - `every`: all batches, not a sample.
    - `flying`: batches that are being written.

    Returns `batches`, `shards`, `bytes` that were read, `committed` (how many there are), and
    `damaged`: by batch the outputs.
    """
    busy = set(flying)
    committed = [batch for batch in _committed(plan, stores) if f"g{batch[0]}/{batch[1]}" not in busy]
    chosen: Sequence[Batch] = committed
    if not every and len(committed) > SAMPLE:
        chosen = sorted(chance.sample(committed, SAMPLE))
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda batch: stores[batch[0]].damaged(batch[1]), chosen))
    sizes = [_shards(stores[group], number) for group, number in chosen]
    return {
        "committed": len(committed),
        "batches": len(chosen),
        "shards": sum(count for count, _ in sizes),
        "bytes": sum(size for _, size in sizes),
        "damaged": {f"g{g}/{n}": bad for (g, n), bad in zip(chosen, found, strict=True) if bad},
    }


def read_archive(archive: Archive, *, every: bool) -> dict[str, Any]:
    """Compare the archive's files with its manifest: their size, and with `every` their checksum.

    Returns `files`, `bytes` and `damaged`: by part the files that are not as listed, or not there.
    """
    parts = archive.manifest()["parts"]
    files = [(part, file) for part in sorted(parts) for file in parts[part]["files"]]
    with ThreadPoolExecutor(READERS) as readers:
        sound = list(readers.map(lambda entry: _is_sound(archive.path, entry[1], every), files))
    bad: dict[str, list[str]] = {}
    for (part, file), well in zip(files, sound, strict=True):
        if not well:
            bad.setdefault(part, []).append(file["path"])
    return {"files": len(files), "bytes": sum(int(file["bytes"]) for _, file in files), "damaged": bad}


def reopen(wishes: Wishes, batches: Iterable[str]) -> list[str]:
    """Have damaged batches done again; those in flight, and those that are sound after all, are left alone."""
    again = []
    for name in batches:
        group, number = batch_key(name)
        bad = wishes.desk.stores[group].damaged(number)
        if bad and wishes.mend((group, number), bad):
            again.append(name)
    return again


def _committed(plan: Plan, stores: Mapping[int, HotStore]) -> Iterator[Batch]:
    for number, group in enumerate(plan.groups):
        table = stores[number].status().reshape(group.batches, group.batch)
        tried = ((table >= Outcome.OK) & (table <= Outcome.KILLED)).any(axis=1)
        missing = table == Outcome.MISSING
        missing[-1, group.size(group.batches - 1) :] = False
        yield from ((number, int(batch)) for batch in np.flatnonzero(tried & ~missing.any(axis=1)))


def _shards(store: HotStore, batch: int) -> tuple[int, int]:
    sizes = []
    for array in store.layout.arrays:
        for segment in range(store.layout.segments):
            sizes.append(_size(store.chunk(array.name, batch, segment)))
    return sum(1 for size in sizes if size), sum(sizes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_sound(root: Path, file: Mapping[str, Any], whole: bool) -> bool:
    path = root / file["path"]
    try:
        if path.stat().st_size != int(file["bytes"]):
            return False
        return not whole or _sha256(path) == file["sha256"]
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    data = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            data.update(block)
    return data.hexdigest()
