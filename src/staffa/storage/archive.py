"""The archive: sealed Parquet parts that any reader understands.

A part is written aside, synced and renamed, so every visible `*.parquet` is complete. Names
come from the part's number: sealing twice gives the same bytes in the same place. The manifest
lists what was sealed; only the driver writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.errors import ConfigError
from staffa.storage.derived import check_alike, derived_file, unlisted
from staffa.storage.files import read_json, sync_directory, write_aside
from staffa.storage.holdings import IDENTITY, WHOLE
from staffa.storage.tables import KEYS, ArchiveLayout
from staffa.trial import Scalar

PAGE_BYTES = 4 << 20
"""Pages of a Parquet column: larger than Arrow's 1 MiB, since a part is read by the row group."""
GROUP_BYTES = 2 << 20
"""Row groups of a batch's rows, before compression: small enough that one trial reads cheaply, large enough that a
scan of all of them is as fast as of larger ones."""
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
LONGEST_NAME = 255
DATE = re.compile(r"\d+([-/.])\d+\1\d+([t ].*)?|\d{1,2}:\d.*|\d{6,8}t\d+.*|epoch")
HEXADECIMAL = re.compile(r"[-+]?0[xb][0-9a-f]+")


@dataclass(frozen=True)
class SealedFile:
    """One file of a part, as the manifest lists it."""

    path: str
    """Relative to `archive/`."""
    table: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SealedPart:
    """All files of a part; the `trials` file is published last and makes the part visible."""

    part: str
    trials: int
    files: tuple[SealedFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files if file.table == "draws")

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.files)


class Archive:
    """A campaign's archive folder: `seal`, `derive`, `manifest`, `enter`, `replace`, `failed`."""

    def __init__(self, path: Path, layout: ArchiveLayout, compression: str = "zstd", level: int = 1) -> None:
        self.path = path
        self.layout = layout
        self._compression = compression
        self._level = level

    def seal(
        self,
        part: str,
        partition: Mapping[str, Scalar | None],
        tables: Mapping[str, Iterable[pa.Table]],
        trials: pa.Table,
    ) -> SealedPart:
        """Write a part's files aside, sync them, rename them; the trials file last.

        Arguments:
        - `part`: the part's name, `part-00007` or `part-00007-s1` for a supplement.
        - `tables`: for `draws` and each ragged output the Arrow tables, a row group each.
        - `trials`: the warm rows.
        """
        folder = partition_path(partition)
        written: list[tuple[Path, Path, str, int]] = []
        try:
            for name, pieces in tables.items():
                target = self.path / name / folder / f"{part}.parquet"
                schema = self.layout.draws() if name == "draws" else self.layout.items(name)
                written.append(self._write(target, name, schema, pieces))
            target = self.path / "trials" / f"{part}.parquet"
            written.append(self._write(target, "trials", self.layout.trials(), [trials]))
            files = [self._described(aside, target, name, rows) for aside, target, name, rows in written]
            for aside, target, _, _ in written:
                aside.rename(target)
                sync_directory(target.parent)
        finally:
            for aside, _, _, _ in written:
                aside.unlink(missing_ok=True)
        return SealedPart(part, trials.num_rows, tuple(files))

    def derive(self, table: str, part: str, whole: str, pieces: Iterable[pa.Table]) -> SealedFile:
        """Write what was made of the rows of a sealed file, aside, synced, renamed (`staffa.storage.derived`).

        Arguments:
        - `whole`: names the answer that was applied.
        - `pieces`: tables of the same columns, one at least; no more than one is in memory.

        Raises `PluginError` for pieces whose columns differ.
        """
        pieces = iter(pieces)
        first = next(pieces)
        target = derived_file(self.path, table, part, whole)
        schema = first.schema.with_metadata({WHOLE: whole})
        aside, _, _, rows = self._write(target, table, schema, _alike(table, first, pieces))
        try:
            file = self._described(aside, target, table, rows)
            aside.rename(target)
        finally:
            aside.unlink(missing_ok=True)
        sync_directory(target.parent)
        return file

    def replace(self, tables: Mapping[str, Mapping[str, Mapping[str, Any]]], wholes: Mapping[str, str]) -> None:
        """List the files of some derived tables, by table and sealed file, in place of those that are listed of them.

        All in one step; files that nothing lists are removed then.

        Arguments:
        - `wholes`: by table the answer that stands: files that were made of it are kept, listed or not.
        """
        manifest, own = self.manifest(), self.tables
        before = json.dumps(manifest)
        for part, said in manifest["parts"].items():
            kept = [file for file in said["files"] if file["table"] not in tables]
            said["files"] = [*kept, *(files[part] for files in tables.values() if part in files)]
        if json.dumps(manifest) != before:
            write_aside(self.path / "manifest.json", json.dumps(manifest, indent=1))
        for path in unlisted(self.path, own, manifest["parts"]):
            if path.stem.rpartition("-")[2] != wholes.get(path.parent.name):
                path.unlink(missing_ok=True)

    @property
    def tables(self) -> tuple[str, ...]:
        """What is sealed; other tables in the archive were made of these."""
        return ("draws", "trials", *self.layout.tables)

    def failed(self, table: pa.Table) -> None:
        """Rewrite the list of trials without data, whole."""
        target = self.path / "failed.parquet"
        aside, *_ = self._write(target, "failed", self.layout.failed(), [table])
        aside.rename(target)
        sync_directory(self.path)

    def enter(self, *parts: SealedPart) -> None:
        """Note sealed parts in the manifest."""
        manifest = self.manifest()
        for sealed in parts:
            manifest["parts"][sealed.part] = {"trials": sealed.trials, "files": [asdict(f) for f in sealed.files]}
        manifest["parts"] = dict(sorted(manifest["parts"].items()))
        write_aside(self.path / "manifest.json", json.dumps(manifest, indent=1))

    def manifest(self) -> dict[str, Any]:
        """What was sealed: parts, files, rows, checksums."""
        found = read_json(self.path / "manifest.json")
        return found if isinstance(found, dict) and "parts" in found else {"manifest": 1, "parts": {}}

    def _write(
        self, target: Path, name: str, schema: pa.Schema, pieces: Iterable[pa.Table]
    ) -> tuple[Path, Path, str, int]:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
        rows = 0
        try:
            about = {**(schema.metadata or {}), **({IDENTITY: self.layout.identity} if self.layout.identity else {})}
            own = schema.with_metadata(about or None)
            with pq.ParquetWriter(aside, own, **self._options(schema)) as writer:
                for table in pieces:
                    writer.write_table(table, row_group_size=_rows_together(table))
                    rows += table.num_rows
            descriptor = os.open(aside, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise
        return aside, target, name, rows

    def _options(self, schema: pa.Schema) -> dict[str, Any]:
        # Dictionaries pay for what repeats over a trial's draws; trying one on each output
        # costs time and is given up half-way.
        # Text and labels repeat themselves, too.
        outputs = {output.name for output in self.layout.outputs if output.numeric}
        if WHOLE in (schema.metadata or {}):
            outputs = {field.name for field in schema if field.name not in KEYS}
        words = [field.name for field in schema if field.name not in outputs]
        # Extremes of a list's elements help no reader to skip anything.
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
        options = {"use_dictionary": words, "write_statistics": flat, "data_page_size": PAGE_BYTES}
        if self._compression == "none":
            return {"compression": "none", **options}
        return {"compression": "zstd", "compression_level": self._level, **options}

    def _described(self, aside: Path, target: Path, name: str, rows: int) -> SealedFile:
        data = hashlib.sha256()
        with aside.open("rb") as file:
            while block := file.read(1 << 22):
                data.update(block)
        return SealedFile(str(target.relative_to(self.path)), name, rows, aside.stat().st_size, data.hexdigest())


def _alike(name: str, first: pa.Table, others: Iterable[pa.Table]) -> Iterator[pa.Table]:
    yield first
    for one in others:
        check_alike(name, first.schema, one.schema)
        yield one


class SealedRows:
    """The rows of a part's files of one table, a few trials at a time.

    Arguments:
    - `part`: the part's name; its supplements are read, too.
    """

    def __init__(self, archive: Path, table: str, part: str, partition: Mapping[str, Scalar | None]) -> None:
        folder = archive / table / ("." if table == "trials" else partition_path(partition))
        paths = (folder / f"{part}.parquet", *sorted(folder.glob(f"{part}-s*.parquet")))
        self._files = [pq.ParquetFile(path) for path in paths if path.exists()]
        self._latest: tuple[tuple[int, int], pa.Table] | None = None
        """The row group that was read last: it may have rows of the trials that are asked for next, too."""

    def of(self, trials: Sequence[str]) -> pa.Table:
        """All rows of some trials; a table without columns where no file of the part has the table."""
        wanted = pa.array(list(trials), pa.string())
        found = [file.schema_arrow.empty_table() for file in self._files[:1]]
        for place, known in enumerate(self._trials):
            for number, names in enumerate(known):
                own = pc.is_in(names, wanted)
                if pc.any(own).as_py():
                    table = self._group(place, number)
                    found.append(table if pc.all(own).as_py() else table.filter(pc.is_in(table["trial"], wanted)))
        return pa.concat_tables(found, promote_options="default") if found else pa.table({})

    def _group(self, file: int, number: int) -> pa.Table:
        """A row group of one of the files."""
        if self._latest is None or self._latest[0] != (file, number):
            self._latest = (file, number), self._files[file].read_row_group(number)
        return self._latest[1]

    @cached_property
    def _trials(self) -> list[list[pa.Array]]:
        """Of each file, of each row group: the trials it has rows of."""
        return [
            [
                file.read_row_group(number, columns=["trial"])["trial"].unique()
                for number in range(file.metadata.num_row_groups)
            ]
            for file in self._files
        ]


def _rows_together(table: pa.Table) -> int:
    """Rows of a row group: a batch's rows divided evenly."""
    pieces = max(math.ceil(int(table.nbytes) / GROUP_BYTES), 1)
    return max(math.ceil(int(table.num_rows) / pieces), 1)


def partition_path(partition: Mapping[str, Scalar | None]) -> str:
    """`population=64/sampler=smc`: values written so that hive readers restore their type."""
    return "/".join(f"{name}={quote(partition_text(value), safe='')}" for name, value in partition.items()) or "."


def partition_text(value: Scalar | None) -> str:
    if value is None:
        return HIVE_NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def check_partition_text(column: str, value: Scalar | None) -> None:
    """Refuse a text that some hive reader would take for a number, a bool, a date or nothing.

    Tried with DuckDB, Polars and pyarrow: each guesses types of its own.
    """
    if not isinstance(value, str):
        return
    lowered = value.strip().lower()
    looks = "nothing" if lowered in ("", "null", "none", HIVE_NULL.lower()) else ""
    looks = "a bool" if lowered in ("true", "false") else looks
    looks = "a date or time" if DATE.fullmatch(lowered) else looks
    looks = "a number" if HEXADECIMAL.fullmatch(lowered) else looks
    with contextlib.suppress(ValueError):
        float(lowered)
        looks = "a number"
    if len(partition_path({column: value})) > LONGEST_NAME:
        raise ConfigError(
            f"archive.partition_by: {column}={value[:40]!r}… makes a folder's name longer than a file name may be",
            f"use a shorter value, or leave {column} out of archive.partition_by",
        )
    if looks:
        raise ConfigError(
            f"archive.partition_by: {column}={value!r} would be read back from the path as {looks}",
            f"use another value, or leave {column} out of archive.partition_by",
        )


def part_of(file: str) -> str:
    """The part that a published file belongs to: its own, or a supplement."""
    return "-".join(file.split("-")[:2])


def sealed_names(path: Path) -> dict[str, tuple[str, ...]]:
    """By part the names of its published files, its own first, then supplements in the order of their sealing."""
    found: dict[str, list[str]] = {}
    for file in (path / "trials").glob("part-*.parquet"):
        found.setdefault(part_of(file.stem), []).append(file.stem)
    return {part: tuple(sorted(names, key=lambda name: (len(name), name))) for part, names in sorted(found.items())}


def sealed_trials(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each trials file's part name and the trials it holds."""
    folder = path / "trials"
    if folder.is_dir():
        for file in sorted(folder.glob("part-*.parquet")):
            yield file.stem, pq.read_table(file, columns=["trial"])["trial"].to_pylist()
