"""The hot store: one Zarr group for each group of trials, a batch a shard.

Metadata are written once, by the driver, before any worker starts. A worker writes a shard
through a scratch array of the same metadata, syncs it and renames it into place; the last
write of a batch is its commit mark, the batch's chunk of `status`. What has no mark is not
there, whatever else stands on disk. Reading needs nothing of Staffa: `xarray.open_zarr`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.cells import CELLS, TEXT, is_blank
from staffa.errors import WorkspaceError
from staffa.storage.creation import ZARRS, ZARRS_LOCK, create_output, quiet, write_group
from staffa.storage.files import sync_directory, write_aside
from staffa.storage.layouts import ArrayLayout, GroupLayout
from staffa.trial import DIGEST_BYTES, Outcome, tupled

Row = npt.NDArray[Any]

PRUNED = "pruned"
"""Folder of a store with a file for each batch whose shards were removed on purpose."""


class HotStore:
    """One group's store: `create`, `open`, `write`, `commit`, `status`, `read`."""

    def __init__(self, path: Path, layout: GroupLayout) -> None:
        self.path, self._folder = path, str(path)
        self.layout = layout
        self._arrays: dict[str, Any] = {}
        self._columns: dict[str, Row] = {}
        self._by_name = {array.name: array for array in layout.arrays}
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        path: Path,
        layout: GroupLayout,
        identity: Row,
        digests: Sequence[str],
        columns: Mapping[str, Row],
    ) -> HotStore:
        """Write the metadata and the parameters of all trials; built aside and renamed.

        Arguments:
        - `identity`: (trials, words) uint32, the words folded into keys.
        - `digests`: the trials' names.
        - `columns`: parameters and `replicate`, one value a trial.
        """
        aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            write_group(aside, layout, identity, digests, columns)
            for folder in (aside, *[p for p in aside.iterdir() if p.is_dir()]):
                sync_directory(folder)
            if path.exists():
                shutil.rmtree(path)
            aside.rename(path)
            sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return cls(path, layout)

    @classmethod
    def open(cls, path: Path) -> HotStore:
        """Open an existing store; its layout stands in its own attributes."""
        try:
            metadata = json.loads((path / "zarr.json").read_text())
            described = metadata["attributes"]["staffa"]
        except (OSError, ValueError, KeyError) as error:
            raise WorkspaceError(f"{path} is not a hot store of Staffa: {error}", "staffa plan") from None
        arrays = tuple(ArrayLayout(**tupled(array)) for array in described.pop("arrays"))
        coords = {name: tuple(values) for name, values in described.pop("coords").items()}
        lists: dict[str, Any] = {name: tuple(described.pop(name, ())) for name in ("objectives", "rungs")}
        return cls(path, GroupLayout(arrays=arrays, coords=coords, **lists, **described))

    def write(self, name: str, batch: int, segment: int, data: Row, scratch: Path) -> Path:
        """Write one shard whole: through a scratch array, synced, then renamed into place."""
        array = self._by_name[name]
        source = self._scratch(array, scratch)
        try:
            source[...] = data.view(np.int64) if data.dtype.kind in "mM" else data
        except RuntimeError as error:
            # The Rust pipeline knows no errno: a full disk comes as words.
            raise _system_error(error) or error from None
        written = scratch / self.path.name / name / _chunk((0,) * len(self.layout.shard(array)))
        target = self.chunk(name, batch, segment)
        if not written.exists():
            if not is_blank(data):
                # Swept away under a late twin: what others committed meanwhile must not suffer.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(written))
            # Nothing but the fill value: Zarr stores no such shard, and reads it back as fill.
            target.unlink(missing_ok=True)
            return target
        _sync_file(written)
        written.replace(target)
        sync_directory(target.parent)
        return target

    def commit(self, batch: int, status: Row, checksums: Row, seconds: Row) -> None:
        """Mark a batch: checksums and timings first, then, last of all, its chunk of `status`."""
        self._put("checksum", f"c.{batch}.0.0", checksums.astype("<u4"))
        self._put("seconds", f"c.{batch}", seconds.astype("<f4"))
        self._put("status", f"c.{batch}", status.astype("u1"))

    def restore(self, batch: int, status: Row, seconds: Row, archived: Row) -> None:
        """Mark a batch whose data never stood here. Nothing is synced: the store is in the making.

        Arguments:
        - `archived`: (batch,) lanes whose data are to be asked of the archive.
        """
        if archived.any():
            (self.path / PRUNED).mkdir(exist_ok=True)
            self._put(PRUNED, f"c.{batch}", archived.astype(bool), sync=False)
        none = np.zeros((self.layout.segments, len(self.layout.arrays)), "<u4")
        self._put("checksum", f"c.{batch}.0.0", none, sync=False)
        self._put("seconds", f"c.{batch}", seconds.astype("<f4"), sync=False)
        self._put("status", f"c.{batch}", status.astype("u1"), sync=False)

    def status(self, batch: int | None = None) -> Row:
        """Outcome codes of one batch, or of all rows; 0 where there is no mark."""
        size = self.layout.batch
        if batch is not None:
            return self._get("status", f"c.{batch}", np.dtype("u1"), size)
        whole = np.zeros(self.layout.rows, np.uint8)
        for entry in os.scandir(self.path / "status"):
            head, _, number = entry.name.rpartition(".")
            if head == "c" and number.isdigit():
                start = int(number) * size
                whole[start : start + size] = self._get("status", entry.name, np.dtype("u1"), size)
        return whole

    def mark(self, batch: int, outcomes: Mapping[int, Outcome]) -> Row:
        """Note of lanes that were not tried whether they are to be; returns what stands there then.

        Arguments:
        - `outcomes`: by lane: an exempt one, or `MISSING` for a lane that is to be run after all.
        """
        status = self.status(batch)
        size = self.seats(batch)
        status[size:] = Outcome.PADDING
        for lane, outcome in outcomes.items():
            status[lane] = outcome
        if (status[:size] == Outcome.MISSING).all():
            self.reset(batch)
            return np.zeros_like(status)
        self._put("status", f"c.{batch}", status)
        return status

    def reset(self, batch: int) -> None:
        """Take back a mark: the batch is to be done (again: its data turned out to be damaged)."""
        (self.path / "status" / f"c.{batch}").unlink(missing_ok=True)
        sync_directory(self.path / "status")

    def seat(self, batch: int, identity: Row, digests: Sequence[str], columns: Mapping[str, Row]) -> None:
        """Give the first rows of a batch to trials that were asked for; arguments as for `create`.

        Doing it again with the same trials changes nothing.
        """
        size = self.layout.batch
        for name, values in {**columns, "trial": np.asarray(digests, object)}.items():
            if values.dtype == object:
                self._put(name, f"c.{batch}", _texts(values, size), sync=False)
            else:
                self._put(name, f"c.{batch}", _filled(values.astype(self._array(name).dtype), size), sync=False)
        # Last: it says how many rows are taken.
        self._put("identity", f"c.{batch}.0", _filled(identity.astype("<u4"), size), sync=False)

    def identity(self, batch: int) -> Row:
        """(trials, words) what is folded into the keys of a batch's trials."""
        return self._rows("identity", batch)[: self.seats(batch)]

    def seats(self, batch: int) -> int:
        """Rows of a batch that belong to a trial."""
        return int(self._rows("identity", batch).any(axis=1).sum()) if self.layout.seated else self._end(batch)

    def score(self, batch: int, objectives: Row) -> None:
        """Write down what a search scores the trials of a batch by: (batch, objectives), NaN where there is nothing."""
        self._put("objectives", f"c.{batch}.0", objectives.astype("<f8"))

    def scores(self, batch: int) -> Row | None:
        """The same as it stands; None where nobody has written it."""
        if not (self.path / "objectives" / f"c.{batch}.0").exists():
            return None
        return self._scores(batch)

    def all_scores(self) -> tuple[Row, Row]:
        """The same of all rows, (rows, objectives), and of which batches somebody has written it, (batches,)."""
        size = self.layout.batch
        whole = np.full((self.layout.rows, len(self.layout.objectives)), np.nan)
        written = np.zeros(self.layout.batches, bool)
        for entry in os.scandir(self.path / "objectives"):
            number = entry.name.removeprefix("c.").removesuffix(".0")
            if number.isdigit():
                written[int(number)] = True
                whole[int(number) * size : (int(number) + 1) * size] = self._scores(int(number))
        return whole, written

    def _scores(self, batch: int) -> Row:
        shape = self.layout.batch, len(self.layout.objectives)
        with contextlib.suppress(
            ValueError, FileNotFoundError
        ):  # a damaged disk's length; zeros would be the best of all
            return np.frombuffer((self.path / "objectives" / f"c.{batch}.0").read_bytes(), "<f8").reshape(shape).copy()
        return np.full(shape, np.nan)

    @property
    def seated(self) -> tuple[int, int]:
        """How many batches and trials of a search have a seat."""
        names = (entry.name.removeprefix("c.").removesuffix(".0") for entry in os.scandir(self.path / "identity"))
        taken = [self.seats(int(name)) for name in names if name.isdigit()]
        return sum(map(bool, taken)), sum(taken)

    def compare(self, batch: int, segments: int, objectives: Row) -> None:
        """Write down the same after some segments, where a search compares its trials."""
        self._put("rungs", f"c.{batch}.{self.layout.rungs.index(segments)}.0", objectives.astype("<f8"))

    def compared(self, batch: int, segments: int) -> Row:
        """What `compare` wrote of a batch; NaN where there is nothing."""
        rung, shape = self.layout.rungs.index(segments), (self.layout.batch, len(self.layout.objectives))
        if not (self.path / "rungs" / f"c.{batch}.{rung}.0").exists():
            return np.full(shape, np.nan)
        return self._get("rungs", f"c.{batch}.{rung}.0", np.dtype("<f8"), math.prod(shape)).reshape(shape)

    def checksums(self, batch: int) -> Row:
        """(segments, outputs) crc32c of each shard's file, as recorded at commit."""
        shape = (self.layout.segments, len(self.layout.arrays))
        return self._get("checksum", f"c.{batch}.0.0", np.dtype("<u4"), math.prod(shape)).reshape(shape)

    def seconds(self, batch: int) -> Row:
        """Device seconds of each row."""
        return self._get("seconds", f"c.{batch}", np.dtype("<f4"), self.layout.batch)

    def checksum(self, name: str, batch: int, segment: int) -> int:
        """crc32c of a shard as it stands on disk; 0 where it is all fill and not stored."""
        return _crc32c(self.chunk(name, batch, segment))

    def read(self, name: str, batch: int, segment: int | None = None) -> Row:
        """One batch of an output, whole or one segment of it."""
        rows = slice(batch * self.layout.batch, (batch + 1) * self.layout.batch)
        where: tuple[Any, ...] = (rows,)
        if segment is not None and self.layout.draws is not None and not self._by_name[name].whole:
            each = self.layout.draws // self.layout.segments
            chain = (slice(None),) if self._by_name[name].chains else ()
            where = (rows, *chain, slice(segment * each, (segment + 1) * each))
        return self._elements(name, self._array(name)[where])

    def select(self, name: str, key: tuple[Any, ...]) -> Row:
        """Some of an output of all trials, by a slice or places along each axis: only those chunks are read."""
        return self._elements(name, self._array(name).oindex[key])

    def _elements(self, name: str, found: Any) -> Row:
        """What Zarr read as it was written: texts as objects, times as times."""
        word = self._by_name[name].dtype
        if word in (TEXT, CELLS):
            return np.asarray(found, object)
        return np.asarray(found).view(word) if np.dtype(word).kind in "mM" else np.asarray(found)

    def prune(self, batch: int, lanes: Row) -> int:
        """Remove a batch's shards, and say first which lanes' data stand elsewhere; returns the bytes they took.

        Its mark, its checksums and the parameters of its trials stay.
        """
        left = self.pruned(batch)
        left[lanes] = True
        (self.path / PRUNED).mkdir(exist_ok=True)
        write_aside(self.path / PRUNED / f"c.{batch}", left.tobytes())
        size = 0
        for _, path, _ in self._shards(batch):
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
                path.unlink()
        return size

    def pruned(self, batch: int) -> Row:
        """(batch,): lanes whose data were pruned: they are to be asked of the archive."""
        return self._get(PRUNED, f"c.{batch}", np.dtype(bool), self.layout.batch)

    def gone(self, batch: int) -> Row:
        """(batch,): lanes whose data are not here: pruned, or, where somebody removed the shards of a batch, all."""
        recorded = [path for _, path, checksum in self._shards(batch) if checksum]
        if recorded and not any(path.exists() for path in recorded):
            return np.ones(self.layout.batch, bool)
        return self.pruned(batch)

    def damaged(self, batch: int) -> list[str]:
        """Names of outputs whose shards are not what was committed; those of a pruned batch need not be there."""
        found = dict.fromkeys(
            name
            for name, path, checksum in self._shards(batch)
            if _crc32c(path) != checksum and (path.exists() or not self.pruned(batch).any())
        )
        return list(found)

    def _shards(self, batch: int) -> Iterator[tuple[str, Path, int]]:
        """Output, file and recorded checksum of each shard; of one that is all fill, and not stored, that is 0."""
        recorded = self.checksums(batch)
        for number, array in enumerate(self.layout.arrays):
            for segment in range(self.layout.segments):
                yield array.name, self.chunk(array.name, batch, segment), int(recorded[segment, number])

    def inputs(self, batch: int) -> tuple[Row, dict[str, Row]]:
        """Key words and parameters of a batch's trials (only as many rows as there are trials)."""
        identity = self.identity(batch)
        size, names = len(identity), self.layout.attributes.get("parameters", ())
        return identity, {name: self._rows(name, batch)[:size] for name in names}

    def digests(self, batch: int) -> list[str]:
        words = self.identity(batch)
        text = words.astype(">u4").tobytes().hex()
        return [text[i : i + 2 * DIGEST_BYTES] for i in range(0, len(text), 2 * DIGEST_BYTES)]

    @property
    def names(self) -> Row:
        """Digests of all trials, (trials, 16) bytes."""
        words = np.ascontiguousarray(self._whole("identity").astype(">u4"))
        return words.view(np.uint8).reshape(-1, DIGEST_BYTES)

    def column(self, name: str) -> Row:
        """A parameter or `replicate` of all trials."""
        return self._whole(name)

    def chunk(self, name: str, batch: int, segment: int) -> Path:
        """The file of one shard."""
        array = self._by_name[name]
        drawn = self.layout.draws is not None and not array.whole
        middle = (0,) * bool(array.chains) + ((segment,) if drawn else ())
        return self.path / name / _chunk((batch, *middle, *(0,) * len(array.shape)))

    def _put(self, name: str, chunk: str, data: Row, *, sync: bool = True) -> None:
        write_aside(self.path / name / chunk, data.tobytes(), sync=sync)

    def _get(self, name: str, chunk: str, dtype: np.dtype[Any], count: int) -> Row:
        try:
            with open(f"{self._folder}/{name}/{chunk}", "rb") as file:  # noqa: PTH123  (thousands of them at a start)
                data = file.read()
        except FileNotFoundError:
            return np.zeros(count, dtype)
        if len(data) != count * dtype.itemsize:
            # A mark is renamed into place whole; another length means a damaged disk.
            return np.zeros(count, dtype)
        return np.frombuffer(data, dtype).copy()

    def _whole(self, name: str) -> Row:
        """A column of all trials, read once: a few bytes a trial, but a chunk to decode for each look."""
        if self.layout.seated:  # more may have come
            return np.asarray(self._array(name)[: self.layout.trials])
        if name not in self._columns:
            self._columns[name] = np.asarray(self._array(name)[: self.layout.trials])
        return self._columns[name]

    def _rows(self, name: str, batch: int) -> Row:
        """A column of one batch; of a search, padding included."""
        size = self.layout.batch
        if not self.layout.seated:
            return self._whole(name)[batch * size : self._end(batch) + batch * size]
        array = self._array(name)
        if array.dtype.kind not in "biufc":
            return np.asarray(array[batch * size : (batch + 1) * size])
        shape = (size, *array.shape[1:])
        chunk = f"c.{batch}" + ".0" * (len(shape) - 1)
        return self._get(name, chunk, array.dtype, math.prod(shape)).reshape(shape)

    def _end(self, batch: int) -> int:
        """Rows of a batch, but for those that only fill it up."""
        return min(self.layout.batch, self.layout.trials - batch * self.layout.batch)

    def _array(self, name: str) -> Any:
        with self._lock:
            if name not in self._arrays:
                import zarr

                # The pipeline is chosen when an array is opened; strings stay with Zarr's own.
                settings = ZARRS if name in self._by_name else {}
                with ZARRS_LOCK, zarr.config.set(settings), quiet():
                    self._arrays[name] = zarr.open_array(self.path / name, mode="r")
            return self._arrays[name]

    def _scratch(self, array: ArrayLayout, scratch: Path) -> Any:
        key = f"{scratch}/{array.name}"
        with self._lock:
            if key not in self._arrays or not (scratch / self.path.name / array.name / "zarr.json").exists():
                path = scratch / self.path.name / array.name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._arrays[key] = create_output(path, self.layout, array, scratch=True)
            return self._arrays[key]


def _filled(values: Row, rows: int) -> Row:
    """The values, and zeros for the rest of the rows."""
    whole = np.zeros((rows, *values.shape[1:]), values.dtype)
    whole[: len(values)] = values
    return whole


def _texts(values: Row, rows: int) -> Row:
    """Texts as Zarr has them on disk, with empty ones for the rest of the rows."""
    from numcodecs.vlen import VLenUTF8

    whole = np.full(rows, "", object)
    whole[: len(values)] = values
    return np.frombuffer(VLenUTF8().encode(whole), np.uint8)


def _crc32c(path: Path) -> int:
    import google_crc32c

    try:
        return int(google_crc32c.value(path.read_bytes()))
    except FileNotFoundError:
        return 0


def _system_error(error: RuntimeError) -> OSError | None:
    """`No space left on device (os error 28)` as the `OSError` it was."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), str(error)) if found else None


def _chunk(indices: Sequence[int]) -> str:
    return "c." + ".".join(str(i) for i in indices)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def committed_batches(store: HotStore) -> Iterator[int]:
    """Numbers of the batches that have a mark."""
    for entry in os.scandir(store.path / "status"):
        head, _, number = entry.name.rpartition(".")
        if head == "c" and number.isdigit():
            yield int(number)
