"""Tables that were made of an archive: what reducers applied to each of its rows.

    archive/NAME/PART-WHOLE.parquet     of the rows in the files of PART; WHOLE names the answer that was applied

A file is made for each sealed file, aside and renamed, and nobody sees it before the manifest lists it; that lists the
files of another answer all at once, and only then those it listed before are removed. So whoever is killed leaves the
one or the other, and files that are not listed: complete, to be listed by the next, or to be removed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from staffa.errors import PluginError
from staffa.storage.files import PARTIAL, read_json
from staffa.storage.holdings import MANIFEST, is_derived, sha256

RESERVED = ("draws", "trials", "failed", "params", "config", "reduced", "metadata", "code")
"""What stands beside an archive's tables, or among results, under names of its own."""


def derived_file(archive: Path, table: str, part: str, whole: str) -> Path:
    """Where the rows stand that were made of those of a sealed file."""
    return archive / table / f"{part}-{whole}.parquet"


def derived(archive: Path, own: Collection[str]) -> dict[str, dict[str, Path]]:
    """By table, by sealed file: the files that the manifest lists of tables that were made of others.

    Arguments:
    - `own`: the tables of the archive itself.
    """
    if not _folders(archive, own):
        return {}  # a manifest of many parts takes its time
    manifest = read_json(archive / MANIFEST)
    parts = manifest.get("parts", {}) if isinstance(manifest, dict) else {}
    return derived_in(archive, parts, own)


def derived_in(archive: Path, parts: Mapping[str, Any], own: Collection[str]) -> dict[str, dict[str, Path]]:
    """The same of a manifest that was read."""
    found: dict[str, dict[str, Path]] = {}
    for part, said in parts.items():
        for file in said["files"]:
            if file["table"] not in own:
                found.setdefault(file["table"], {})[part] = archive / file["path"]
    return found


def described(archive: Path, path: Path) -> dict[str, Any]:
    """A file as the manifest lists it, from the file."""
    rows, size = int(pq.read_metadata(path).num_rows), path.stat().st_size
    name = str(path.relative_to(archive))
    return {"path": name, "table": path.parent.name, "rows": rows, "bytes": size, "sha256": sha256(path)}


def unlisted(archive: Path, own: Collection[str], parts: Mapping[str, Any]) -> list[Path]:
    """Files of derived tables that the manifest does not list."""
    listed = {path for files in derived_in(archive, parts, own).values() for path in files.values()}
    there = (path for folder in _folders(archive, own) for path in folder.glob("part-*.parquet"))
    return [path for path in there if path not in listed and is_derived(path)]


def check_alike(table: str, one: pa.Schema, two: pa.Schema) -> None:
    """Refuse rows of one table that have different columns. Raises `PluginError`."""
    if not one.equals(two) or any(a.metadata != b.metadata for a, b in zip(one, two, strict=True)):
        was, now = (", ".join(map(_said, schema)) for schema in (one, two))
        raise PluginError(f"reduce.{table}: apply: of one batch there are the columns {now}; of another, {was}")


def _said(field: pa.Field) -> str:
    shape = (field.metadata or {}).get(b"shape", b"").decode()
    return f"{field.name} ({field.type}{', ' * bool(shape)}{shape})"


def _folders(archive: Path, own: Collection[str]) -> list[Path]:
    known = {*own, *RESERVED}
    with os.scandir(archive) as entries:
        return [
            Path(one.path)
            for one in entries
            if one.name not in known and not one.name.endswith(PARTIAL) and one.is_dir()
        ]
