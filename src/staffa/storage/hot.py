"""The hot store: one Zarr group for each group of trials, a batch a shard.

Metadata are written once, by the driver, before any worker starts. A worker writes a shard
through a scratch array of the same metadata, syncs it and renames it into place; the last
write of a batch is its commit mark, the batch's chunk of `status`. What has no mark is not
there, whatever else stands on disk. Reading needs nothing of Staffa: `xarray.open_zarr`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.errors import WorkspaceError
from staffa.storage.files import sync_directory
from staffa.trial import DIGEST_BYTES, Outcome

Row = npt.NDArray[Any]

INNER_BYTES = 1 << 20
"""Inner chunks near 1 MiB: one trial reads cheaply, and an index entry costs little."""

PARAMETER_CHUNK = 1 << 16

ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    "threading.max_workers": 1,
    "async.concurrency": 1,
}
"""The Rust pipeline, in one thread: with more, inner chunks land in the shard in random order
and no two writes of the same data are equal."""

_ZARRS_LOCK = threading.Lock()
"""Zarr's settings are global to the process; entering and leaving them must not interleave."""


@dataclass(frozen=True)
class ArrayLayout:
    """One recorded output on disk: dims (trial, [chain,] [draw,] own)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Own shape."""
    dims: tuple[str, ...]
    chains: int = 0
    table: str = ""
    length: str = ""


@dataclass(frozen=True)
class GroupLayout:
    """Everything that decides the metadata of a group's Zarr store."""

    name: str
    trials: int
    batch: int
    """Rows of a shard."""
    segments: int
    draws: int | None
    arrays: tuple[ArrayLayout, ...]
    coords: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    compression: str = "lz4"
    level: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        return math.ceil(self.trials / self.batch)

    @property
    def rows(self) -> int:
        """Length of the trial axis: rounded up to whole shards."""
        return self.batches * self.batch

    @property
    def files(self) -> int:
        """Inodes of the complete store."""
        marks, per_batch = 3, len(self.arrays) * self.segments + 3
        axes = len(self.coords) + (self.draws is not None)
        columns = 2 + len(self.attributes.get("parameters", ()))
        folders = 1 + marks + len(self.arrays) + axes + columns  # each with its zarr.json
        return 2 * folders + axes + columns * math.ceil(self.trials / PARAMETER_CHUNK) + self.batches * per_batch

    def shard(self, array: ArrayLayout) -> tuple[int, ...]:
        """Shape of the shard one batch writes of `array` in one segment."""
        chains = (array.chains,) if array.chains else ()
        draws = () if self.draws is None else (self.draws // self.segments,)
        return (self.batch, *chains, *draws, *array.shape)


class HotStore:
    """One group's store: `create`, `open`, `write`, `commit`, `status`, `read`."""

    def __init__(self, path: Path, layout: GroupLayout) -> None:
        self.path = path
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
            _write_group(aside, layout, identity, digests, columns)
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
        arrays = tuple(
            ArrayLayout(**{**a, "shape": tuple(a["shape"]), "dims": tuple(a["dims"])}) for a in described.pop("arrays")
        )
        coords = {name: tuple(values) for name, values in described.pop("coords").items()}
        return cls(path, GroupLayout(arrays=arrays, coords=coords, **described))

    def write(self, name: str, batch: int, segment: int, data: Row, scratch: Path) -> Path:
        """Write one shard whole: through a scratch array, synced, then renamed into place."""
        array = self._by_name[name]
        source = self._scratch(array, scratch)
        try:
            source[...] = data
        except RuntimeError as error:
            # The Rust pipeline knows no errno: a full disk comes as words.
            raise _system_error(error) or error from None
        written = scratch / self.path.name / name / _chunk((0,) * len(self.layout.shard(array)))
        target = self.chunk(name, batch, segment)
        if not written.exists():
            if not _is_fill(data):
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
        size = min(self.layout.batch, self.layout.trials - batch * self.layout.batch)
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

    def checksums(self, batch: int) -> Row:
        """(segments, outputs) crc32c of each shard's file, as recorded at commit."""
        shape = (self.layout.segments, len(self.layout.arrays))
        return self._get("checksum", f"c.{batch}.0.0", np.dtype("<u4"), math.prod(shape)).reshape(shape)

    def seconds(self, batch: int) -> Row:
        """Device seconds of each row."""
        return self._get("seconds", f"c.{batch}", np.dtype("<f4"), self.layout.batch)

    def checksum(self, name: str, batch: int, segment: int) -> int:
        """crc32c of a shard as it stands on disk; 0 where it is all fill and not stored."""
        import google_crc32c

        try:
            return int(google_crc32c.value(self.chunk(name, batch, segment).read_bytes()))
        except FileNotFoundError:
            return 0

    def read(self, name: str, batch: int, segment: int | None = None) -> Row:
        """One batch of an output, whole or one segment of it."""
        rows = slice(batch * self.layout.batch, (batch + 1) * self.layout.batch)
        where: tuple[Any, ...] = (rows,)
        if segment is not None and self.layout.draws is not None:
            each = self.layout.draws // self.layout.segments
            chain = (slice(None),) if self._by_name[name].chains else ()
            where = (rows, *chain, slice(segment * each, (segment + 1) * each))
        return np.asarray(self._array(name)[where])

    def inputs(self, batch: int) -> tuple[Row, dict[str, Row]]:
        """Key words and parameters of a batch's trials (only as many rows as there are trials)."""
        start = batch * self.layout.batch
        rows = slice(start, min(start + self.layout.batch, self.layout.trials))
        names = self.layout.attributes.get("parameters", ())
        return self._whole("identity")[rows], {name: self._whole(name)[rows] for name in names}

    def digests(self, batch: int) -> list[str]:
        start = batch * self.layout.batch
        words = self._whole("identity")[start : min(start + self.layout.batch, self.layout.trials)]
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
        middle = (0,) * bool(array.chains) + (() if self.layout.draws is None else (segment,))
        return self.path / name / _chunk((batch, *middle, *(0,) * len(array.shape)))

    def _put(self, name: str, chunk: str, data: Row) -> None:
        from staffa.storage.files import write_aside

        write_aside(self.path / name / chunk, data.tobytes())

    def _get(self, name: str, chunk: str, dtype: np.dtype[Any], count: int) -> Row:
        try:
            data = (self.path / name / chunk).read_bytes()
        except FileNotFoundError:
            return np.zeros(count, dtype)
        if len(data) != count * dtype.itemsize:
            # A mark is renamed into place whole; another length means a damaged disk.
            return np.zeros(count, dtype)
        return np.frombuffer(data, dtype).copy()

    def _whole(self, name: str) -> Row:
        """A column of all trials, read once: a few bytes a trial, but a chunk to decode for each look."""
        if name not in self._columns:
            self._columns[name] = np.asarray(self._array(name)[: self.layout.trials])
        return self._columns[name]

    def _array(self, name: str) -> Any:
        with self._lock:
            if name not in self._arrays:
                import zarr

                # The pipeline is chosen when an array is opened; strings stay with Zarr's own.
                settings = ZARRS if name in self._by_name else {}
                with _ZARRS_LOCK, zarr.config.set(settings):
                    self._arrays[name] = zarr.open_array(self.path / name, mode="r")
            return self._arrays[name]

    def _scratch(self, array: ArrayLayout, scratch: Path) -> Any:
        key = f"{scratch}/{array.name}"
        with self._lock:
            if key not in self._arrays or not (scratch / self.path.name / array.name / "zarr.json").exists():
                path = scratch / self.path.name / array.name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._arrays[key] = _create_output(path, self.layout, array, scratch=True)
            return self._arrays[key]


def damaged(store: HotStore, batch: int) -> list[str]:
    """Names of outputs whose shards are not what was committed."""
    recorded = store.checksums(batch)
    return [
        array.name
        for number, array in enumerate(store.layout.arrays)
        for segment in range(store.layout.segments)
        if store.checksum(array.name, batch, segment) != recorded[segment, number]
    ]


def inner_chunks(shard: tuple[int, ...], itemsize: int, has_draws: bool, chained: bool) -> tuple[int, ...]:
    """Divide a shard into inner chunks near 1 MiB: first along trials, then along draws."""
    chunk = list(shard)

    def size() -> int:
        return math.prod(chunk) * itemsize

    for axis in (0, 2 if chained else 1) if has_draws else (0,):
        divisors = [d for d in range(1, chunk[axis] + 1) if chunk[axis] % d == 0]
        for divisor in reversed(divisors):
            if size() * divisor // chunk[axis] <= INNER_BYTES or divisor == 1:
                chunk[axis] = divisor
                break
    return tuple(chunk)


def _write_group(
    path: Path, layout: GroupLayout, identity: Row, digests: Sequence[str], columns: Mapping[str, Row]
) -> None:
    import zarr

    names = list(columns)
    described = asdict(layout)
    described["attributes"] = {**layout.attributes, "parameters": names}
    attributes: dict[str, Any] = {
        **{k: v for k, v in layout.attributes.items() if isinstance(v, str | int | float)},
        "coordinates": " ".join(names),
        "outcomes": {outcome.word: int(outcome) for outcome in Outcome},
        "staffa": described,
    }
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)
    for array in layout.arrays:
        _create_output(path / array.name, layout, array)
    _create_marks(group, layout)
    _fill(group, "trial", np.asarray(digests, dtype=object), layout.rows, ("trial",), "str")
    _fill(group, "identity", identity, layout.rows, ("trial", "identity_word"), "uint32")
    for name, values in columns.items():
        _fill(group, name, values, layout.rows, ("trial",), _zarr_type(values))
    if layout.draws is not None:
        _fill(group, "draw", np.arange(layout.draws), layout.draws, ("draw",), "int64")
    for name, coordinate in layout.coords.items():
        along = np.asarray(coordinate)
        _fill(group, name, along, len(along), (name,), _zarr_type(along))
    with warnings.catch_warnings():
        # Outside the Zarr 3 text so far, but read by xarray in one go; nothing here changes later.
        warnings.simplefilter("ignore", category=zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def _create_marks(group: Any, layout: GroupLayout) -> None:
    flat = {"name": "default", "separator": "."}
    shape = (layout.segments, len(layout.arrays))
    common: dict[str, Any] = {"compressors": None, "chunk_key_encoding": flat, "fill_value": 0}
    for name, dtype in (("status", "uint8"), ("seconds", "float32")):
        group.create_array(
            name,
            shape=(layout.rows,),
            chunks=(layout.batch,),
            dtype=dtype,
            dimension_names=("trial",),
            **common,
        )
    group.create_array(
        "checksum",
        shape=(layout.batches, *shape),
        chunks=(1, *shape),
        dtype="uint32",
        dimension_names=("checksum_batch", "checksum_segment", "checksum_output"),
        **common,
    )


def _create_output(path: Path, layout: GroupLayout, array: ArrayLayout, *, scratch: bool = False) -> Any:
    """Make an output's array, or with `scratch` one of the same metadata that holds one shard."""
    import zarr

    shard = layout.shard(array)
    dtype = np.dtype(array.dtype)
    chains = (array.chains,) if array.chains else ()
    draws = () if layout.draws is None else (layout.draws,)
    names = ("trial", *("chain",) * bool(array.chains), *("draw",) * (layout.draws is not None), *array.dims)
    with _ZARRS_LOCK, zarr.config.set(ZARRS):
        return zarr.create_array(
            path,
            shape=shard if scratch else (layout.rows, *chains, *draws, *array.shape),
            shards=shard,
            chunks=inner_chunks(shard, dtype.itemsize, layout.draws is not None, bool(array.chains)),
            dtype=dtype,
            compressors=_codecs(layout),
            fill_value=np.nan if np.issubdtype(dtype, np.inexact) else (False if dtype.kind == "b" else 0),
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=names,
            overwrite=True,
        )


def _codecs(layout: GroupLayout) -> list[Any] | None:
    """How inner chunks are compressed.

    Of draws of Hamiltonian Monte Carlo, whose lower bits are noise, bitshuffled LZ4 takes 0.05 ms for 37 kB and leaves
    0.83 of them; zstd takes 0.16 ms and leaves 0.80; LZ4 after a shuffle of bytes 0.06 ms and 0.84.
    """
    from zarr.codecs import BloscCodec, ZstdCodec

    if layout.compression == "none":
        return None
    if layout.compression == "zstd":
        return [ZstdCodec(level=layout.level)]
    return [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")]


def _fill(group: Any, name: str, values: Row, rows: int, dims: tuple[str, ...], dtype: str) -> None:
    chunk = min(PARAMETER_CHUNK, max(rows, 1))
    array = group.create_array(
        name,
        shape=(rows, *values.shape[1:]),
        chunks=(chunk, *values.shape[1:]),
        dtype=dtype,
        dimension_names=dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    if len(values):
        array[: len(values)] = values


def _zarr_type(values: Row) -> str:
    return "str" if values.dtype.kind in "OUT" else values.dtype.name


def _is_fill(data: Row) -> bool:
    return bool(np.isnan(data).all()) if np.issubdtype(data.dtype, np.inexact) else not data.any()


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
