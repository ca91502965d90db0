"""Workers that know nothing of Staffa, against a real server of `workflows/external`."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from search.serve import Process

EXTERNAL = Path(__file__).parents[2] / "workflows" / "external"
SEARCH = yaml.safe_load((EXTERNAL / "campaign.yaml").read_text())["search"]


@pytest.mark.skipif(sys.platform == "win32", reason="sh and curl")
def test_workers_in_sh_and_in_python(tmp_path):
    """Two in sh, of which one waits for a server that is killed and comes back, then one in Python does the rest."""
    folder = tmp_path / "run"
    said = {"space": SEARCH["space"], "objectives": SEARCH["objectives"], "trials": 60, "lease": 3.0, "retries": 9}
    server = Process(folder, **said)
    shells = [
        subprocess.Popen(["sh", EXTERNAL / "worker.sh", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    server.wait_until(lambda: server.client().status()["trials"]["recorded"] >= 6)
    shells[0].terminate()
    server.kill()
    with Process(folder, **said) as server:
        before = server.client().status()["trials"]["recorded"]
        server.wait_until(lambda: server.client().status()["trials"]["recorded"] >= before + 4)
        python = subprocess.run(
            [sys.executable, EXTERNAL / "worker.py", folder, "2"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert python.stdout.startswith("told ") and python.stdout.endswith("failed 0, kept 0\n")
        out, _ = shells[1].communicate(timeout=60)
        assert shells[1].returncode == 0 and shells[0].wait(60) == 0, out
        client = server.client()
        assert client.status()["finished"]
        for one in client.trials():
            x, y = one["params"]["x"], one["params"]["y"]
            assert one["values"]["height"] == pytest.approx((1 - x) ** 2 + 100 * (y - x**2) ** 2, rel=1e-12)
        workers = {one["worker"].split("-")[0] for one in client.trials()}
        assert len(workers) == 2 and "sh" in workers
