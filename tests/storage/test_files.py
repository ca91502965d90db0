"""Files are wholly there or not there: under concurrent readers, kills, and on a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from staffa.storage.files import read_json, sweep_partials, sync_directory, write_aside

AWKWARD = ["plain", "with space", 'it\'s "quoted"', "bær-日本", "a$b;c&d", "-dash", "new\nline"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk: " + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", AWKWARD)
def test_write_and_read_back(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.json"
    write_aside(path, '{"å": 1}')
    assert read_json(path) == {"å": 1}
    write_aside(path, b"[2]", sync=False)
    assert read_json(path) == [2]
    assert [path.name for path in folder.iterdir()] == [path.name]


def test_absent_or_rubbish_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "no.json") is None
    for number, data in enumerate([b"", b"{", b"\xff\xfe\x00", b"\0\0\0\0", b"[" * 100_000]):
        path = tmp_path / f"{number}.json"
        path.write_bytes(data)
        assert read_json(path) is None
        assert read_json(path / "below") is None


def test_full_disk_keeps_the_old_file_and_leaves_nothing(small_disk: Path) -> None:
    path = small_disk / "a.json"
    write_aside(path, "[1]")
    with pytest.raises(OSError) as caught:
        write_aside(path, b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir()] == ["a.json"]
    assert read_json(path) == [1]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_failing_sync_propagates_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        write_aside(tmp_path / "a", b"data")
    assert caught.value.errno == number
    with pytest.raises(OSError):
        sync_directory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


WRITER = """
import sys, pathlib
from staffa.storage.files import write_aside
path, number = pathlib.Path(sys.argv[1]), 0
while True:
    number += 1
    write_aside(path, "[" + ",".join([str(number)] * 20_000) + "]", sync=False)
"""


def test_readers_never_see_half_a_file_though_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "busy.json"
    seen = set()
    for run in range(1, 4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        least, most = time.monotonic() + 0.6, time.monotonic() + 120
        # Each writer is seen at work, however busy the machine is.
        while time.monotonic() < least or (len(seen) < 2 * run and time.monotonic() < most):
            if path.exists():
                values = json.loads(path.read_bytes())
                assert len(values) == 20_000 and len(set(values)) == 1
                seen.add(values[0])
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert len(seen) > 5
    sweep_partials(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["busy.json"]


def test_sweep_takes_old_partials_below_and_spares_the_rest(tmp_path: Path) -> None:
    old, young, kept = tmp_path / "a" / "x.partial", tmp_path / "y.partial", tmp_path / "a" / "z.json"
    folder = tmp_path / "group.zarr.1.2.partial"
    (tmp_path / "a").mkdir()
    folder.mkdir()
    for path in (old, young, kept, folder / "inside", folder / "b.partial"):
        path.write_text("")
    for path in (old, kept, folder):
        os.utime(path, (0, 0))
    assert sweep_partials(tmp_path, 3600) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "y.partial", "z.json"]
    assert sweep_partials(tmp_path / "nowhere", 0) == 0
