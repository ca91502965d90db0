"""Consolidation by itself: on workers of its own, with a dashboard of its own, beside another, and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

import staffa
from staffa.errors import WorkspaceError

FOLDER = Path(__file__).parents[1] / "views" / "mixed"
SLOW = """
import time

class Slow:
    "Takes its time over each batch, so that others can look on."
    def map(self, outputs, params):
        time.sleep(0.3)
        return {"trials": len(params["replicate"])}
    def reduce(self, one, two):
        return {"trials": one["trials"] + two["trials"]}
    def finish(self, whole):
        return whole
"""


@pytest.fixture(scope="module")
def unsealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consolidating") / "mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "own.py").write_text(SLOW)
    settings = [f"storage.root={folder.parent / 'runs'}", "execution.batch=2", "archive.every=off"]
    run = staffa.run(folder / "campaign.yaml", set=[*settings, "reduce.trials.use=own.py:Slow"], progress=False)
    assert not run.results.sealed
    return run.root


@pytest.fixture
def root(unsealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unsealed, tmp_path / unsealed.name))


@pytest.fixture
def begun(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`staffa consolidate` in a process of its own, once some parts are sealed."""
    command = [sys.executable, "-m", "staffa", "consolidate", str(root)]
    command += ["--set", "cluster.dashboard=true", "--set", "cluster.dashboard_port=0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: len(parts(root)) > 1 and staffa.status(root)["live"], process)
        yield process
    finally:
        process.kill()
        process.wait()


def until(there: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 60
    while not there():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < ends
        time.sleep(0.05)


def parts(root: Path) -> list[Path]:
    return sorted((root / "archive").rglob("part-*.parquet"))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in parts(root)}


def test_it_is_seen_in_a_dashboard_of_its_own_and_takes_orders(root: Path, begun: subprocess.Popen[bytes]) -> None:
    link = staffa.status(root)["figures"]["dashboard"]
    assert link.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(urljoin(link, "/json/counts.json"), timeout=10) as page:
        assert json.load(page)["tasks"] > 0
    assert staffa.consolidate(root)["done"], "another one asks it"
    with pytest.raises(WorkspaceError, match=r"cluster.workers=1: the driver of .* seals as it was told"):
        staffa.consolidate(root, set=["cluster.workers=1"])
    assert begun.wait() == 0
    found = staffa.attach(root).results
    assert len(found.trials) == 44 and found.reduced.trials["trials"] == 44
    assert staffa.archive_verify(root)["sound"]


def test_killed_and_begun_again_it_ends_with_the_same_bytes(
    root: Path, begun: subprocess.Popen[bytes], unsealed: Path, tmp_path: Path
) -> None:
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    before = bytes_of(root)
    staffa.consolidate(root)
    whole = bytes_of(root)
    assert len(whole) > len(before) and before.items() <= whole.items()
    undisturbed = Path(shutil.copytree(unsealed, tmp_path / "undisturbed"))
    staffa.consolidate(undisturbed)
    assert bytes_of(undisturbed) == whole
    assert staffa.attach(root).results.reduced.trials["trials"] == 44
