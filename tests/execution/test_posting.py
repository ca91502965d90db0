"""A run on somebody else's scheduler: one that cannot show our page, and then one that can."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

import staffa
from staffa.execution.posting import KEY

MODEL = """
import numpy as np
import staffa


class Plain(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return 0.0

    def step(self, key, state, params):
        return state, {"x": np.float32(params["scale"])}
"""
CAMPAIGN = """
campaign: {name: %s}
experiment: {use: "model.py:Plain"}
space: [{grid: {scale: [1.0, 2.0, 3.0]}}]
"""
BARE = "import sys; sys.modules['bokeh'] = None; from distributed.cli.dask_scheduler import main; main()"
WORKER = "from distributed.cli.dask_worker import main; main()"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a scheduler and a worker in processes of their own; that scheduler has no Bokeh."""
    file = tmp_path / "scheduler.json"
    own = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    commands = [
        [sys.executable, "-c", BARE, *own, "--port", "0", "--dashboard-address", "127.0.0.1:0"],
        [sys.executable, "-c", WORKER, *own, "--nthreads", "8", "--no-dashboard"],
    ]
    with (tmp_path / "dask.log").open("w") as log, contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            until = time.monotonic() + 240
            while not file.exists() and time.monotonic() < until:
                time.sleep(0.1)
        with Client(scheduler_file=str(file), set_as_default=False) as found:
            found.wait_for_workers(1, timeout=240)
            yield found


def run(client: Client, folder: Path, name: str) -> str:
    """A small run on it; where it said the dashboard is."""
    (folder / name).mkdir()
    (folder / name / "model.py").write_text(MODEL)
    (folder / name / "campaign.yaml").write_text(CAMPAIGN % name)
    events: list[dict[str, object]] = []
    done = staffa.run(
        folder / name / "campaign.yaml",
        client=client,
        set=[f"storage.root={folder / 'runs'}"],
        progress=False,
        allow_dirty=True,
        listeners=[lambda event: events.append(dict(event))],
    )
    assert done.ended is not None and done.ended.outcomes == {"ok": 3}
    return next(str(event["dashboard"]) for event in events if event["event"] == "run_started")


def test_somebody_elses_scheduler(client: Client, tmp_path: Path) -> None:
    link = run(client, tmp_path, "unknown")
    assert link == client.dashboard_link and link.endswith("/status")
    assert client.get_metadata([KEY], None) is None, "nothing is posted where nobody looks"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(link.replace("/status", "/staffa"), timeout=240)

    client.run_on_scheduler(lambda: __import__("sys").modules.pop("bokeh"))
    link = run(client, tmp_path, "known")
    assert link == client.dashboard_link.replace("/status", "/staffa")
    left = client.get_metadata([KEY])[str(tmp_path / "runs" / "v1.0_known")]
    assert left["over"] and left["figures"]["settled"] == 3, "how it ended stays to be seen"
    with urllib.request.urlopen(link, timeout=240) as page:
        assert "Staffa" in page.read().decode()
