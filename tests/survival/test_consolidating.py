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
from survival.accidents import PATIENCE

FOLDER = Path(__file__).parents[1] / "views" / "mixed"
HELD = """
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

class Held:
    "Once a part is sealed, answers for no batch as long as the file `held` stands in the campaign's folder."
    def map(self, outputs, params):
        while (ROOT / "held").exists() and any(ROOT.glob("archive/trials/part-*.parquet")):
            time.sleep(0.05)
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
    (folder / "own.py").write_text(HELD)
    settings = [f"storage.root={folder.parent / 'runs'}", "execution.batch=2", "archive.every=off"]
    run = staffa.run(folder / "campaign.yaml", set=[*settings, "reduce.trials.use=own.py:Held"], progress=False)
    assert not run.results.sealed
    return run.root


@pytest.fixture
def root(unsealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unsealed, tmp_path / unsealed.name))


@pytest.fixture
def begun(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`staffa consolidate` in a process of its own that has sealed a part and stands still until it is released."""
    (root / "held").touch()
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
    ends = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < ends
        time.sleep(0.05)


def tasks(link: str) -> int:
    """What Dask's scheduler has to do, as it says beside its dashboard."""
    with urllib.request.urlopen(urljoin(link, "/json/counts.json"), timeout=PATIENCE) as page:
        return int(json.load(page)["tasks"])


def parts(root: Path) -> list[Path]:
    return sorted((root / "archive").rglob("part-*.parquet"))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in parts(root)}


def test_it_is_seen_in_a_dashboard_of_its_own_and_takes_orders(root: Path, begun: subprocess.Popen[bytes]) -> None:
    link = staffa.status(root)["figures"]["dashboard"]
    assert link.startswith("http://127.0.0.1:")
    until(lambda: tasks(link) > 0, begun)
    assert staffa.consolidate(root)["done"], "another one asks it"
    with pytest.raises(WorkspaceError, match=r"cluster.workers=1: the driver of .* seals as it was told"):
        staffa.consolidate(root, set=["cluster.workers=1"])
    (root / "held").unlink()
    assert begun.wait(PATIENCE) == 0
    found = staffa.attach(root).results
    assert len(found.trials) == 44 and found.reduced.trials["trials"] == 44
    assert staffa.archive_verify(root)["sound"]


def test_killed_and_begun_again_it_ends_with_the_same_bytes(
    root: Path, begun: subprocess.Popen[bytes], unsealed: Path, tmp_path: Path
) -> None:
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    (root / "held").unlink()
    before = bytes_of(root)
    staffa.consolidate(root)
    whole = bytes_of(root)
    assert len(whole) > len(before) and before.items() <= whole.items()
    undisturbed = Path(shutil.copytree(unsealed, tmp_path / "undisturbed"))
    staffa.consolidate(undisturbed)
    assert bytes_of(undisturbed) == whole
    assert staffa.attach(root).results.reduced.trials["trials"] == 44
