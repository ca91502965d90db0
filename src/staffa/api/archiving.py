"""The archive after it was sealed: what it holds, whether it is whole, copies of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from staffa.errors import WorkspaceError
from staffa.storage.holdings import Entry, archive_at, copied, examined, listed
from staffa.storage.workspace import Workspace

LOOK_SECONDS = 10.0


def archive_list(path: str | Path) -> dict[str, Any]:
    """The sealed parts of a campaign's archive, or of a copy of one.

    Returns `archive`, `parts`: by name `trials`, `rows`, `files`, `bytes`, and the totals of each; `tables`: by name
    their rows, those included that reducers made.
    """
    archive = archive_at(path)
    parts: dict[str, dict[str, int]] = {}
    tables: Counter[str] = Counter()
    for entry in listed(archive):
        part = parts.setdefault(entry.part, {"trials": 0, "rows": 0, "files": 0, "bytes": 0})
        tables[entry.table] += entry.rows
        part["files"] += 1
        part["bytes"] += entry.bytes
        part["trials"] += entry.rows * (entry.table == "trials")
        part["rows"] += entry.rows * (entry.table == "draws")
    totals = {name: sum(part[name] for part in parts.values()) for name in ("trials", "rows", "files", "bytes")}
    return {"archive": str(archive), "parts": parts, **totals, "tables": dict(tables)}


def archive_verify(path: str | Path, *, quick: bool = False) -> dict[str, Any]:
    """Whether an archive (or a copy of one) is whole: see `staffa.storage.holdings.examined`.

    Arguments:
    - `quick`: sizes and footers only.
    """
    return examined(archive_at(path), every=not quick)


def archive_copy(
    path: str | Path,
    to: str | Path,
    *,
    watch: bool = False,
    every: float = LOOK_SECONDS,
    tell: Callable[[Entry], None] = lambda entry: None,
) -> dict[str, Any]:
    """Copy an archive to another file system, with its manifest, checksums and what explains it.

    Arguments:
    - `watch`: go on, each part as it is sealed, until the campaign's driver has ended.
    - `every`: seconds between two looks.
    - `tell`: called after each file.
    """
    target = Path(to)
    workspace = Workspace.open(path) if (Path(path) / "campaign.yaml").exists() else None
    if workspace is not None and target.resolve().is_relative_to(workspace.archive.resolve()):
        raise WorkspaceError(f"'{to}' is within the archive itself", "name a folder elsewhere")
    total: dict[str, Any] = {"to": str(target), "parts": 0, "files": 0, "bytes": 0, "total": 0}
    for last in _looks(workspace, watch, every):
        try:
            archive = archive_at(path)
        except WorkspaceError:
            if last:
                raise
            continue
        found = copied(archive, target, dict(_beside(workspace)), tell)
        total |= {name: total[name] + found[name] for name in ("parts", "files", "bytes")} | {"total": found["total"]}
    return total


def _looks(workspace: Workspace | None, watch: bool, every: float) -> Iterator[bool]:
    """When to look, and whether it is the last time: once nobody drives the campaign any more."""
    from staffa.api.looking import status

    while watch and workspace is not None and status(workspace.root)["live"]:
        yield False
        time.sleep(every)
    yield True


def _beside(workspace: Workspace | None) -> Iterator[tuple[str, Path]]:
    """What explains an archive: the declaration, where it came from, the lists of trials, the model's code.

    Of these some may not be there.
    """
    if workspace is None:
        return
    yield "campaign.yaml", workspace.frozen
    yield "metadata/provenance.json", workspace.provenance
    yield from ((f"metadata/{path.name}", path) for path in (*workspace.rosters, workspace.merge, workspace.origins))
    for path in sorted(workspace.code.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"code/{path.relative_to(workspace.code)}", path
