"""An archive as it lies on a disk, with or without its campaign around it: what it lists, whether it is whole, copies.

Its layout, so that it can be read in ten years without us, is written into the archive itself (`README.md`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from staffa.errors import WorkspaceError
from staffa.storage.files import aside, read_json, sync_directory, write_aside

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
READERS = 4
BLOCK = 1 << 22
IDENTITY = b"staffa.campaign"
"""Key of a Parquet file's metadata: names the campaign that it is a part of."""
WHOLE = b"staffa.whole"
"""… and of one that was made of others: which answer was applied to their rows (`staffa.storage.derived`)."""

GUIDE = """# An archive of sampling experiments

Everything here is Apache Parquet (format 2.6, Zstandard), which any reader of that format understands; nothing needs
the software that wrote it.

    trials/part-*.parquet                    one row per trial: parameters, outcome, timings, summaries of its outputs
    draws/<column>=<value>/part-*.parquet    one row per trial x chain x draw: parameters and outputs
    <other>/<column>=<value>/part-*.parquet  one row per item of an output whose length differs from draw to draw
    <other>/part-*-<whole>.parquet           one row per row of such a table, or per trial: made of them afterwards
    failed.parquet                           trials without data: outcome, message, attempts
    manifest.json                            every file with its rows, bytes and SHA-256
    SHA256SUMS                               the same for `sha256sum -c SHA256SUMS`, in a copy

`trial` names a trial in every table (32 hexadecimal characters: the first half of the SHA-256 of its experiment,
parameters and replicate in canonical JSON). `chain` and `draw` count from 0. Columns that stand in a folder's name
(`<column>=<value>`) are not repeated inside the files. An output that is an array is a list in row-major order; its
shape and the names of its axes stand in the column's metadata (`shape`, `dims`). So does what was said of a parameter:
`unit`, `comment`, the formula it was `derived` by, and as JSON its `range`, `choices` and `annotations`. Null means
that a trial's group has no such parameter or output. A file is complete if it is there; no row stands twice. Of
tables made afterwards those files count that the manifest lists (`<whole>` names the answer they were made of).

In Python: `pyarrow.dataset.dataset("draws", format="parquet", partitioning="hive")`. In DuckDB:
`from read_parquet('draws/**/*.parquet', hive_partitioning = true)`.
"""


@dataclass(frozen=True)
class Entry:
    """A file of an archive, as its manifest lists it."""

    part: str
    path: str
    table: str
    rows: int
    bytes: int
    sha256: str


def archive_at(path: Path | str) -> Path:
    """The archive meant by a campaign's folder, or by an archive's own (a copy).

    Raises `WorkspaceError` where there is neither.
    """
    for folder in (Path(path), Path(path) / "archive"):
        if (folder / MANIFEST).is_file():
            return folder
    raise WorkspaceError(f"'{path}' has no archive: no {MANIFEST} in it", f"staffa consolidate {path}")


def listed(archive: Path) -> list[Entry]:
    """All files of the manifest.

    Raises `WorkspaceError` for one that cannot be read.
    """
    manifest = read_json(archive / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("parts"), dict):
        raise WorkspaceError(f"'{archive / MANIFEST}' cannot be read", f"staffa archive verify {archive}")
    return [
        Entry(part, str(f["path"]), str(f["table"]), int(f["rows"]), int(f["bytes"]), str(f["sha256"]))
        for part, found in sorted(manifest["parts"].items())
        for f in found["files"]
    ]


def examined(archive: Path, *, every: bool = True) -> dict[str, Any]:
    """Whether an archive is whole: each file as listed, of this campaign, in its tables' columns; no other files.

    Arguments:
    - `every`: read every file whole and compare its SHA-256; otherwise sizes and footers only.

    Returns `files`, `bytes`, `flaws`: `{file, why}` each, and `sound`.
    """
    entries = listed(archive)
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda entry: _flaw(archive, entry, every), entries))
    flaws = [{"file": entry.path, "why": why} for entry, why in zip(entries, found, strict=True) if why]
    bad = {flaw["file"] for flaw in flaws}
    flaws += _strange(archive, [entry for entry in entries if entry.path not in bad])
    known = {entry.path for entry in entries} | {"failed.parquet"}
    # What explains a copy stands in these.
    others = sorted(
        str(path.relative_to(archive))
        for path in archive.rglob("*.parquet")
        if path.relative_to(archive).parts[0] not in ("metadata", "code")
    )
    # What was made of the rows is listed all at once: what is not listed yet, or no longer, harms nobody.
    strange = [path for path in others if path not in known and not is_derived(archive / path)]
    flaws += [{"file": path, "why": "it is not in the manifest"} for path in strange]
    return {
        "archive": str(archive),
        "files": len(entries),
        "bytes": sum(entry.bytes for entry in entries),
        "read": "whole" if every else "sizes and footers",
        "flaws": flaws,
        "sound": not flaws,
    }


def _flaw(archive: Path, entry: Entry, every: bool) -> str:
    path = archive / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"it has {size:,} bytes, the manifest says {entry.bytes:,}"
        rows = pq.read_metadata(path).num_rows
        if rows != entry.rows:
            return f"it has {rows:,} rows, the manifest says {entry.rows:,}"
        if every and sha256(path) != entry.sha256:
            return "its SHA-256 is not the manifest's"
    except FileNotFoundError:
        return "it is not there"
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {error}"
    return ""


def _strange(archive: Path, entries: list[Entry]) -> Iterator[dict[str, str]]:
    """Files of another campaign, or whose columns contradict those of the table's others."""
    own: str | None = None
    kinds: dict[tuple[str, str], tuple[pa.DataType, str]] = {}
    for entry in entries:
        schema = pq.read_schema(archive / entry.path)
        name = (schema.metadata or {}).get(IDENTITY, b"").decode()
        own = own if own is not None else name
        if name != own:
            yield {"file": entry.path, "why": f"it belongs to another campaign ({name or 'unnamed'}, not {own})"}
            continue
        for field in schema:
            kind, first = kinds.setdefault((entry.table, field.name), (field.type, entry.path))
            if kind != field.type:
                why = f"its column {field.name!r} is {field.type}, that of {first} is {kind}"
                yield {"file": entry.path, "why": why}


def copied(archive: Path, to: Path, beside: Mapping[str, Path], tell: Callable[[Entry], None]) -> dict[str, Any]:
    """Bring a copy of an archive up to date: every sealed part that is not there yet, checked as it is read.

    A file is written aside, synced and renamed; the copy's manifest lists what is there. What was copied once is not
    read again. Two copies at once write the same.

    Arguments:
    - `beside`: further files, by their name in the copy.
    - `tell`: called after each file.

    Returns `parts` and `files` copied now, their `bytes`, and `total` parts.
    """
    to.mkdir(parents=True, exist_ok=True)
    there = read_json(to / MANIFEST) if (to / MANIFEST).exists() else None
    done = dict(there["parts"]) if isinstance(there, dict) else {}
    before = {entry.path: entry for entry in listed(to)} if done else {}
    parts = read_json(archive / MANIFEST)["parts"]
    fresh = {part: found for part, found in parts.items() if done.get(part) != found}
    entries = [entry for entry in listed(archive) if entry.part in fresh and before.get(entry.path) != entry]
    size = 0
    for part in fresh:
        for entry in (one for one in entries if one.part == part):
            try:
                copied_file(archive / entry.path, to / entry.path, entry)
            except FileNotFoundError:
                if read_json(archive / MANIFEST)["parts"].get(part) == fresh[part]:
                    raise
                return copied(archive, to, beside, tell)  # it was made anew meanwhile, of another answer
            size += entry.bytes
            tell(entry)
        done[part] = fresh[part]
        write_aside(to / MANIFEST, _manifest(done))
    # Tables that were made anew, of another answer, have files of other names.
    for left in before.keys() - {entry.path for entry in listed(to)} if fresh else ():
        (to / left).unlink(missing_ok=True)
    for name, path in {"failed.parquet": archive / "failed.parquet", **beside}.items():
        if path.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            write_aside(to / name, path.read_bytes())
    write_aside(to / "README.md", GUIDE)
    write_aside(to / SUMS, "".join(f"{entry.sha256}  {entry.path}\n" for entry in listed(to)) if done else "")
    return {"to": str(to), "parts": len(fresh), "files": len(entries), "bytes": size, "total": len(done)}


def _manifest(parts: Mapping[str, Any]) -> str:
    return json.dumps({"manifest": 1, "parts": dict(sorted(parts.items()))}, indent=1)


def copied_file(source: Path, target: Path, entry: Entry) -> None:
    """Copy a file of an archive: written aside, synced, renamed. Raises `WorkspaceError` if it is not as listed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, data = aside(target), hashlib.sha256()
    try:
        with source.open("rb") as reading, partial.open("xb") as writing:
            while block := reading.read(BLOCK):
                data.update(block)
                writing.write(block)
            writing.flush()
            os.fsync(writing.fileno())
        if data.hexdigest() != entry.sha256:
            raise WorkspaceError(
                f"'{source}' is not what its manifest lists: nothing of it was copied",
                f"staffa archive verify {source.parents[len(Path(entry.path).parts) - 1]}",
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(target.parent)


def is_derived(path: Path) -> bool:
    """Whether a Parquet file says of itself that it was made of others."""
    try:
        return WHOLE in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def sha256(path: Path) -> str:
    """Of a whole file, as hexadecimal text."""
    data = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            data.update(block)
    return data.hexdigest()
