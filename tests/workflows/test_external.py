"""Workers that know nothing of Staffa, and a campaign that is served to them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import staffa
from here import one_worker
from staffa import api
from staffa.errors import ConfigError
from staffa.search.client import Client

EXTERNAL = Path(__file__).parents[2] / "workflows" / "external"


class Served:
    """`staffa serve` in a process of its own."""

    def __init__(self, campaign, root):
        self.root, self.log = root, root.parent.parent / "server.log"
        (root / "serving.json").unlink(missing_ok=True)
        words = [sys.executable, "-m", "staffa", "serve", campaign, "--port", "0", "--lease", "3s"]
        settings = ["search.trials=40", f"storage.root={root.parent}", "execution.retries.limit=9"]
        words += [word for one in settings for word in ("--set", one)] if campaign != root else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        self.until((root / "serving.json").exists)

    def until(self, condition):
        end = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    @property
    def recorded(self):
        return Client.of(self.root).status()["trials"]["recorded"]


def test_what_workers_tell_comes_to_stand_in_the_archive(tmp_path):
    """Two workers in sh, of which one is ended; the server is killed and comes back; one in Python does the rest."""
    workflow, root = tmp_path / "external", tmp_path / "runs" / "v1.0_external"
    shutil.copytree(EXTERNAL, workflow)
    root.parent.mkdir()
    server = Served(workflow / "campaign.yaml", root)
    shells = [
        subprocess.Popen(["sh", EXTERNAL / "worker.sh", root], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    server.until(lambda: server.recorded >= 6)
    shells[0].terminate()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server = Served(workflow / "campaign.yaml", root)
    before = server.recorded
    assert before >= 6
    server.until(lambda: server.recorded >= before + 4)
    words = [sys.executable, EXTERNAL / "worker.py", root, "2"]
    python = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert python.stdout.startswith("told ") and python.stdout.endswith("failed 0, kept 0\n")
    out, _ = shells[1].communicate(timeout=60)
    assert shells[1].returncode == 0 and shells[0].wait(60) == 0, out
    assert len({one["worker"].split("-")[0] for one in Client.of(root).trials()}) == 2
    assert api.stop(root)["done"] and server.process.wait(60) == 0

    (workflow / "worker.py").write_text("# computes nothing here")
    with pytest.raises(ConfigError, match="done by those who ask a server"):
        staffa.resume(root)
    assert api.expand(root, set=["search.trials=45"])["added"] == 5
    server = Served(root, root)
    subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    told = {one["trial"]: one for one in Client.of(root).trials()}
    assert api.stop(root)["done"] and server.process.wait(60) == 0

    with one_worker() as client:
        api.consolidate(root, client=client)
    run = staffa.attach(root)
    trials = run.results.trials.to_pandas()
    heights = {(one["params"]["x"], one["params"]["y"]): one["values"]["height"] for one in told.values()}
    assert len(trials) == trials["trial"].nunique() == len(heights) == 45
    assert {(row.x, row.y): row["height.mean"] for _, row in trials.iterrows()} == heights
    for (x, y), height in heights.items():
        assert height == pytest.approx((1 - x) ** 2 + 100 * (y - x**2) ** 2, rel=1e-12)
    assert run.search.top(1)["height"].iloc[0] == min(heights.values())
    assert json.loads(json.dumps(staffa.status(root)["figures"]["outcomes"])) == {"ok": 45}
