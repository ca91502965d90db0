"""Where results come from: code, packages, machine.

The workflow's own code is copied into the campaign's folder before anything
runs, and workers import it from there: editing a model never changes a
campaign that is under way. Nothing here fails for lack of git, and nothing
secret is kept: of the environment only what changes numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from staffa.errors import ConfigError
from staffa.storage.files import aside, read_json, sync_directory, write_aside

PACKAGES = (
    "staffa", "dask", "distributed", "dask-jobqueue", "jax", "jaxlib", "numpy",
    "zarr", "zarrs", "xarray", "pyarrow",
)  # fmt: skip
"""Packages whose version may change results or files."""

VARIABLES = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
PREFIXES = ("JAX_", "XLA_")
"""With `VARIABLES`: all of the environment that is recorded. The rest may hold secrets."""

SUFFIXES = (
    ".py", ".yaml", ".yml", ".json", ".csv", ".txt", ".fasta", ".pdb", ".cif", ".npz",
)  # fmt: skip
"""Files that count as a workflow's own."""

FILE_BYTES = 10 * 2**20
"""Larger files are data, not code, and stay where they are."""

MOST_FILES = 2_000
MOST_BYTES = 256 * 2**20
MOST_FOLDERS = 10_000
"""A workflow's folder beyond this was not meant as one (a home folder, a data store)."""

_GIT_SECONDS = 20


def gather(code_directory: Path) -> dict[str, Any]:
    """What a reader needs to know to believe, and repeat, a campaign. Never fails.

    Arguments:
    - `code_directory`: the workflow's folder. `git.outside` says that no repository keeps it;
      `git.dirty` that a file of the snapshot differs from the commit.
    """
    return {
        "git": _git_state(code_directory),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "machine": _machine(),
        "environment": _environment(),
    }


def amend(path: Path, **facts: Any) -> None:
    """Say more, or say otherwise, in a campaign's `provenance.json`; in one step."""
    known = read_json(path)
    write_aside(path, json.dumps({**(known if isinstance(known, dict) else {}), **facts}, indent=1, default=str))


def known_backends(metadata_folder: Path) -> dict[str, dict[str, str]]:
    """What the workers of a campaign computed with, as each wrote it down, by name."""
    found = {path.stem.removeprefix("backend-"): read_json(path) for path in metadata_folder.glob("backend-*.json")}
    return {name: facts for name, facts in found.items() if isinstance(facts, dict)}


def snapshot_code(source: Path, target: Path) -> str:
    """Copy a workflow's own files and return the digest of its code.

    An existing `target` is replaced as a whole. Raises `ConfigError` for a folder too big to be a
    workflow's, `OSError` as the disk gave it.
    """
    files = list(own_files(source, leave_out=target))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = aside(target)
    try:
        partial.mkdir()
        for name in files:
            _write(partial / name, (source / name).read_bytes())
        for folder in {partial, *((partial / name).parent for name in files)}:
            sync_directory(folder)
        _exchange(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_directory(target.parent)
    return code_digest(target)


def code_digest(directory: Path) -> str:
    """The sha256 of a folder's `*.py` files, names and contents, in order."""
    code = hashlib.sha256()
    for name in own_files(directory):
        if name.endswith(".py"):
            data = (directory / name).read_bytes()
            code.update(name.encode(errors="surrogateescape") + b"\0%d\0" % len(data) + data)
    return code.hexdigest()


def changed_files(a: Path, b: Path) -> list[str]:
    """Names of the files (data too, not only `*.py`) that differ between two folders or lack in one."""
    before, after = _contents(a), _contents(b)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def dirty_files(source: Path) -> list[str] | None:
    """Files of the snapshot that differ from their commit, or were never committed.

    Files that git is told to ignore are left out. None for a folder outside git (or without git).
    """
    prefix = _prefix(source)
    if prefix is None:
        return None
    listing = _git(source, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--", ".")
    if listing is None:
        return None
    changed = {entry[3:].removeprefix(prefix) for entry in listing.split("\0") if entry}
    return sorted(changed & _snapshot_names(source, changed))


def own_files(source: Path, leave_out: Path | None = None) -> Iterator[str]:
    """Relative names, in order, of the files that count as a workflow's own.

    Left out: hidden files, caches, environments, `runs` and other campaigns' folders, links to
    folders, other kinds of file and files above `FILE_BYTES`.
    """
    return iter(sorted(_walk(source, leave_out)))


def _walk(source: Path, leave_out: Path | None) -> Iterator[str]:
    count, size, apart = 0, 0, leave_out.resolve() if leave_out else None
    for visited, (folder, folders, names) in enumerate(os.walk(source)):
        here = Path(folder)
        folders[:] = [name for name in folders if (here / name).resolve() != apart and _is_own_folder(here / name)]
        for name in names:
            length = _own_bytes(here / name)
            if length is None:
                continue
            count, size = count + 1, size + length
            yield (here / name).relative_to(source).as_posix()
        if count > MOST_FILES or size > MOST_BYTES or visited > MOST_FOLDERS:
            raise ConfigError(
                f"'{source}' is too big for a workflow's folder: {count:,} files, {size >> 20:,} MiB so far",
                "put campaign.yaml and the code it needs in a folder of their own",
            )


def _is_own_folder(path: Path) -> bool:
    name = path.name
    if name.startswith(".") or name in ("__pycache__", "runs", "site-packages"):
        return False
    return not ((path / "pyvenv.cfg").exists() or _is_campaign(path))


def _is_campaign(path: Path) -> bool:
    # One of the two alone may be a package of the user's that happens to be called so.
    traces = [(path / name).exists() for name in ("campaign.yaml", "ledger", "hot")]
    return sum(traces) >= 2


def _own_bytes(path: Path) -> int | None:
    """The size of a file that counts as the workflow's own; None for any other."""
    if path.name.startswith(".") or path.suffix not in SUFFIXES:
        return None
    try:
        size = path.stat().st_size
    except OSError:
        return None
    return size if path.is_file() and size <= FILE_BYTES else None


def _snapshot_names(source: Path, names: Iterable[str]) -> set[str]:
    """Of `names` those that are, or before their deletion were, files of the snapshot."""
    present = set(own_files(source))
    return {name for name in names if name in present or _was_own(source, name)}


def _was_own(source: Path, name: str) -> bool:
    parents = [source / parent for parent in Path(name).parents][:-1]
    hidden = any(part.startswith(".") for part in Path(name).parts)
    deleted = not os.path.lexists(source / name) and Path(name).suffix in SUFFIXES
    return deleted and not hidden and all(_is_own_folder(parent) for parent in parents)


def _contents(directory: Path) -> dict[str, bytes]:
    return {name: hashlib.sha256((directory / name).read_bytes()).digest() for name in own_files(directory)}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _exchange(partial: Path, target: Path) -> None:
    """Put a finished folder in the place of another; no rename does so in one step."""
    if not target.exists():
        partial.rename(target)
        return
    former = aside(target)
    target.rename(former)
    partial.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def _git_state(directory: Path) -> dict[str, Any]:
    if _prefix(directory) is None:
        return {"outside": True, "commit": None, "dirty": None}
    commit = (_git(directory, "rev-parse", "--verify", "HEAD") or "").strip()
    try:
        dirty = dirty_files(directory)
    except (ConfigError, OSError):
        dirty = None
    return {"outside": False, "commit": commit or None, "dirty": None if dirty is None else bool(dirty)}


def _prefix(directory: Path) -> str | None:
    """The folder's name below the root of its repository; None outside git or where git ignores it."""
    prefix = _git(directory, "rev-parse", "--show-prefix")
    if prefix is None:
        return None
    ignored = _git(directory, "check-ignore", "-q", ".") is not None
    if ignored and not _git(directory, "ls-files", "-z", "--", "."):
        return None
    return prefix.removesuffix("\n")


def _git(directory: Path, *words: str) -> str | None:
    """What a git command prints; None where it fails, takes too long, or git is missing."""
    try:
        done = run_git(directory, *words)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def run_git(directory: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a git command in a folder, with `text` for its input.

    Raises `OSError` where git is missing, `subprocess.SubprocessError` where it takes too long.
    """
    # A hook's GIT_DIR would point at another repository; monitors and locks have side effects.
    kept = ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE")
    environment = {name: value for name, value in os.environ.items() if name in kept or not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-c", "core.fsmonitor=false", *words],
        cwd=directory,
        env={**environment, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        input=os.fsencode(text),
        capture_output=True,
        timeout=_GIT_SECONDS,
        check=False,
    )


def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import psutil

    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "memory": int(psutil.virtual_memory().total),
    }


def _environment() -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name in VARIABLES or name.startswith(PREFIXES)}
