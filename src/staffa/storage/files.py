"""Files that are either wholly there or not there.

Everything another process may read is written aside and renamed: a reader
never sees half a file, and a killed writer leaves only a `*.partial` behind,
which `sweep_partials` takes away. A full or broken disk (ENOSPC, EDQUOT, EIO)
is an `OSError` for the caller to act upon: it may pass, so nothing here hides it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""What a full or broken disk says. Somebody may make room: worth waiting for."""

PARTIAL = ".partial"
"""Ending of files that are not finished; readers never look at them."""


def aside(path: Path) -> Path:
    """A name beside `path` that no other writer, of any process, will choose."""
    return path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(6).hex()}{PARTIAL}")


def write_aside(path: Path, data: bytes | str, *, sync: bool = True) -> None:
    """Put `data` at `path` in one step: write beside it, fsync, rename, fsync the directory.

    Arguments:
    - `data`: text is written as UTF-8.
    - `sync`: False for caches and heartbeats, which are rewritten anyway and need not outlive
      a power cut.

    Raises `OSError` as the disk gave it; then `path` is as it was and nothing lies beside it.
    """
    partial = aside(path)
    try:
        with partial.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (new files and renames)."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot fsync a directory; they order renames themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes | None:
    """A small file that others replace while we look; None where there is none."""
    for last in (False, True):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # NFS answers ESTALE when the file was replaced between opening and reading it.
            if last or error.errno != errno.ESTALE:
                raise
    return None


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no file or it is not JSON."""
    data = read_bytes(path)
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None


def sweep_partials(directory: Path, older_than_seconds: float) -> int:
    """Remove the files and folders that killed writers left in a directory and below; say how many.

    Arguments:
    - `older_than_seconds`: younger ones may belong to a writer at work, here or on another node.
    """
    before = time.time() - older_than_seconds
    swept = 0
    for path in _partials(directory):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mtime <= before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                swept += 1
    return swept


def _partials(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        yield from (Path(folder, name) for name in [*folders, *names] if name.endswith(PARTIAL))
        folders[:] = [name for name in folders if not name.endswith(PARTIAL)]
