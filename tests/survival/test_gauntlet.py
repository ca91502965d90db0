"""The gauntlet on a small scale: what `tests/benchmarks/gauntlet.py` does with 40,000 trials."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gauntlet.py"


@pytest.mark.soak
def test_gauntlet():
    words = ["--trials", "2000", "--worker-kills", "3", "--driver-kills", "2", "--retries", "1", "--backoff", "2s"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=1800)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["passed"], done.stdout + done.stderr
    assert report["interventions"] == report["lost"] == report["doubled"] == report["troubles_left"] == 0
    assert report["healthy_done"] == report["healthy"] == 1960
    assert report["outcomes"] == {"ok": 1960, "nan": 30, "raised": 8, "killed": 1, "timeout": 1}
    assert (report["worker_troubles"], report["driver_troubles"]) == (3, 2)
    assert report["restarts"] == report["exit_codes"]["-9"] == 2
    if os.geteuid() == 0 and report["disk"] != "none":
        assert report["disk_troubles"] == 1 and report["events"]["paused"] >= 1 and report["events"]["continued"] >= 1
        assert report["pauses"] >= 1
