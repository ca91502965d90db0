"""What a campaign's folder is like: whether it can be read, driven and resumed, and what lies about in it.

Looking changes nothing, and may be done while a driver is at work.
"""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from staffa.campaign.config import load_frozen
from staffa.campaign.plan import Plan
from staffa.errors import StaffaError
from staffa.execution.checks import FAILED, OK, WARNING, Check, gibibytes
from staffa.execution.prepare import load_plan, open_stores
from staffa.storage.files import PARTIAL, read_json
from staffa.storage.hot import HotStore, committed_batches
from staffa.storage.lease import SILENCE_SECONDS, read_lease
from staffa.storage.ledger import history
from staffa.storage.provenance import code_digest
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

SAMPLE = 64
"""Batches whose bytes are read again: an even spread over the campaign."""

OLD_SECONDS = 3600.0
"""Younger partials may belong to a writer at work."""

PARQUET = b"PAR1"
"""First and last bytes of a Parquet file that was finished."""

SHOWN = 3


def campaign_folder(workspace: Workspace, clock: float | None = None) -> Iterator[Check]:
    """Every check of a campaign's folder, in an order in which each rests on those before."""
    now = time.time() if clock is None else clock
    yield declaration(workspace)
    yield lease(workspace, now)
    found, check = plan(workspace)
    yield check
    if found is not None:
        yield code(workspace, found)
        yield from stores(workspace, found)
    yield journals(workspace)
    yield secrets(workspace)
    yield archive(workspace)
    yield leftovers(workspace, now)


def declaration(workspace: Workspace) -> Check:
    """The frozen campaign file."""
    try:
        frozen = load_frozen(workspace.frozen, directory=workspace.code)
    except StaffaError as error:
        mend = f"restore {shlex.quote(str(workspace.frozen))} from a copy"
        return _check(workspace, "declaration", FAILED, _first(error), mend)
    title = frozen.campaign.campaign
    return _check(workspace, "declaration", OK, f"{title.name} {title.version}")


def lease(workspace: Workspace, now: float) -> Check:
    """Who drives, and whether it gives signs of life."""
    holder = read_lease(workspace.lease)
    if holder is None:
        return _check(workspace, "driver", OK, "nobody drives")
    who = f"host {holder.host}, pid {holder.pid}"
    silent = max(now - holder.heartbeat, 0.0)
    if not holder.alive(lambda: now):
        words = f"the driver died ({who}, last heard of {silent:,.0f} s ago)"
        return _check(workspace, "driver", WARNING, words, f"staffa resume {_path(workspace)}")
    if silent > SILENCE_SECONDS:
        words = f"{who} is there, and was last heard of {silent:,.0f} s ago"
        return _check(workspace, "driver", WARNING, words, f"staffa stop {_path(workspace)}; kill {holder.pid}")
    return _check(workspace, "driver", OK, f"{who}, heard of {silent:,.0f} s ago")


def plan(workspace: Workspace) -> tuple[Plan | None, Check]:
    """The frozen plan, and what it says in short."""
    try:
        found = load_plan(workspace)
    except StaffaError as error:
        return None, _check(workspace, "plan", FAILED, _first(error), error.hint)
    most = "up to " if found.search is not None else ""
    words = f"{most}{found.trials:,} trials in {most}{found.batches:,} batches, {len(found.groups)} groups"
    return found, _check(workspace, "plan", OK, words)


def code(workspace: Workspace, found: Plan) -> Check:
    """Whether the snapshot is the code the campaign was planned with."""
    if not workspace.code.is_dir():
        return _check(workspace, "code", FAILED, "the snapshot is gone", f"staffa resume {_path(workspace)}")
    if code_digest(workspace.code) != found.code:
        mend = f"undo the change, or staffa resume {_path(workspace)} --accept-code-change"
        return _check(workspace, "code", FAILED, "the snapshot is not what was planned with", mend)
    return _check(workspace, "code", OK, "the snapshot is what was planned with")


def stores(workspace: Workspace, found: Plan) -> Iterator[Check]:
    """Whether the hot stores open, their marks are whole, and a sample of what was committed is unharmed."""
    try:
        opened = open_stores(workspace, found)
    except (StaffaError, OSError, ValueError, KeyError) as error:
        mend = f"restore it from a copy, or move {_path(workspace)} away and run anew"
        yield _check(workspace, "stores", FAILED, f"a store does not open: {_first(error)}", mend)
        return
    torn = [str(path) for store in opened.values() for path in _torn_marks(store)]
    if torn:
        mend = f"rm {' '.join(shlex.quote(path) for path in torn[:SHOWN])}; staffa resume {_path(workspace)}"
        yield _check(workspace, "stores", FAILED, f"torn marks: {_some(torn)}", mend)
        return
    marked = [(store, batch) for store in opened.values() for batch in sorted(committed_batches(store))]
    done = [(store, batch) for store, batch in marked if _has_data(store, batch)]
    looked = done[:: max(len(done) // SAMPLE, 1)][:SAMPLE]
    harmed = [
        f"{store.path.stem}/{batch}: {', '.join(names)}" for store, batch in looked if (names := store.damaged(batch))
    ]
    if harmed:
        words = f"{len(harmed)} of {len(looked)} batches looked at are not what was committed: {_some(harmed)}"
        yield _check(workspace, "stores", FAILED, words, f"staffa resume {_path(workspace)}")
        return
    there = sum(store.seated[0] for store in opened.values()) if found.search is not None else found.batches
    words = f"{len(opened)} open, {len(marked):,} of {there:,} batches marked"
    yield _check(workspace, "stores", OK, f"{words}, {len(looked)} looked at byte for byte")


def journals(workspace: Workspace) -> Check:
    """Whether the history can be read: a last line may be torn, others may not."""
    torn = {event["journal"]: event["lines"] for event in history(workspace) if event["event"] == "unreadable"}
    summary = workspace.summary.exists() and read_json(workspace.summary) is None
    if torn or summary:
        told = [f"{lines} lines of {name} cannot be read" for name, lines in torn.items()]
        told += ["summary.json cannot be read"] if summary else []
        return _check(workspace, "ledger", WARNING, "; ".join(told), f"staffa resume {_path(workspace)}")
    count = len(list(workspace.ledger.glob("events-*.jsonl")))
    return _check(workspace, "ledger", OK, f"{count} journals, every line can be read")


def secrets(workspace: Workspace) -> Check:
    """Credentials and tokens are for their owner's eyes."""
    if not workspace.secrets.is_dir():
        return _check(workspace, "secrets", OK, "none")
    places = [workspace.secrets, *sorted(workspace.secrets.rglob("*"))]
    seen = [path for path in places if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink()]
    mend = f"chmod -R go-rwx {shlex.quote(str(workspace.secrets))}"
    if seen:
        words = f"others may read {_some([str(path) for path in seen])}: whoever has the key runs code as you"
        return _check(workspace, "secrets", FAILED, words, mend)
    foreign = [path for path in places if path.lstat().st_uid != os.getuid()]
    if foreign:
        words = f"{_some([str(path) for path in foreign])} belongs to somebody else"
        return _check(workspace, "secrets", FAILED, words, f"rm -r {shlex.quote(str(workspace.secrets))}")
    return _check(workspace, "secrets", OK, "for their owner alone")


def archive(workspace: Workspace) -> Check:
    """Whether every sealed file is whole, and is what the manifest lists."""
    files = {path for path in workspace.archive.rglob("*.parquet") if path.is_file()}
    manifest = read_json(workspace.manifest)
    if workspace.manifest.exists() and not isinstance(manifest, dict):
        return _check(workspace, "archive", FAILED, "manifest.json cannot be read", _sealed_again(workspace))
    parts = manifest.get("parts", {}) if isinstance(manifest, dict) else {}
    listed = {workspace.archive / file["path"]: file for part in parts.values() for file in part["files"]}
    wrong = [f"{path} is gone" for path in listed if path not in files]
    wrong += [str(path) for path in sorted(files) if not _whole(path, listed.get(path))]
    if wrong:
        return _check(workspace, "archive", FAILED, f"damaged: {_some(wrong)}", _sealed_again(workspace))
    return _check(workspace, "archive", OK, f"{len(files)} files, all whole")


def leftovers(workspace: Workspace, now: float) -> Check:
    """What killed writers left behind; the next driver sweeps when it is done."""
    holder = read_lease(workspace.lease)
    live = holder is not None and holder.alive(lambda: now)
    before = now - (OLD_SECONDS if live else 0.0)
    old = [path for path in _partials(workspace.root) if _changed(path) <= before]
    left = [] if live else [folder for folder in workspace.transient if folder.is_dir() and any(folder.iterdir())]
    asked = list(workspace.control.glob("*.request.json")) if not live else []
    told = [f"{len(old)} unfinished files ({gibibytes(sum(map(_size, old)))})"] if old else []
    told += [f"{', '.join(folder.name for folder in left)} of a run that was cut off"] if left else []
    told += [f"{len(asked)} requests nobody answered"] if asked else []
    if told:
        return _check(workspace, "leftovers", WARNING, "; ".join(told), f"staffa resume {_path(workspace)} clears them")
    return _check(workspace, "leftovers", OK, "none")


def _torn_marks(store: HotStore) -> Iterator[Path]:
    for batch in committed_batches(store):
        path = store.path / "status" / f"c.{batch}"
        if path.stat().st_size != store.layout.batch:
            yield path


def _has_data(store: HotStore, batch: int) -> bool:
    return any(Outcome(int(code)).has_data for code in set(store.status(batch).tolist()))


def _whole(path: Path, listed: Any) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, os.SEEK_END)
            sound = head == file.read() == PARQUET
    except OSError:
        return False
    return sound and (listed is None or path.stat().st_size == listed["bytes"])


def _partials(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        yield from (Path(folder, name) for name in [*names, *folders] if name.endswith(PARTIAL))
        folders[:] = [name for name in folders if not name.endswith(PARTIAL)]


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")  # finished meanwhile


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _sealed_again(workspace: Workspace) -> str:
    return f"staffa consolidate {_path(workspace)}"


def _check(workspace: Workspace, what: str, result: Any, found: str, mend: str = "") -> Check:
    return Check(workspace.root.name, what, result, found, mend)


def _path(workspace: Workspace) -> str:
    return shlex.quote(str(workspace.root))


def _first(error: BaseException) -> str:
    words = str(error).splitlines()
    return words[0] if words else type(error).__name__


def _some(words: list[str]) -> str:
    rest = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
