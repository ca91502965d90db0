"""The same 2,000 results stored by `staffa run`, and by pypet in its one process: results a second of both.

    python tests/benchmarks/pypet_store.py [--results 2000] [--repeats 3]

A result is 1,000 double-precision numbers drawn by NumPy and their mean, for one of so many scales: plain Python in
both, so what is compared is what storing costs. pypet's rate is that of `Environment.run` (HDF5 with its own settings);
ours is from the first to the last commit, two workers, all synced, as in the other benchmarks. `ratio_driver` counts
from the driver's first event, when workers have imported nothing yet, to the last commit, `ratio_sealed` to the last
part of the archive, `ratio_whole` the whole command. Needs `make pypet-env`. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PYPET = os.environ.get("STAFFA_PYPET", str(ROOT / ".venv-pypet" / "bin" / "python"))
STAFFA = [sys.executable, "-m", "staffa"]
MODEL = '''"""Numbers that cost nothing to compute."""

import numpy as np

import staffa


class Draws(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return np.random.default_rng(key)

    def step(self, key, state, params):
        x = params["scale"] * state.normal(size=1000)
        return state, {"x": x, "mean": x.mean()}
'''
THEIRS = """
import json, logging, sys, time, warnings
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import numpy as np
from pypet import Environment

def draw(traj):
    x = traj.scale * np.random.default_rng(traj.v_idx).normal(size=1000)
    traj.f_add_result("x", x)
    traj.f_add_result("mean", x.mean())

folder, results = sys.argv[1], int(sys.argv[2])
env = Environment(trajectory="draws", filename=folder + "/draws.hdf5", log_config=None)
env.traj.f_add_parameter("scale", 1.0)
env.traj.f_explore({"scale": np.linspace(0.1, 1.0, results).tolist()})
began = time.perf_counter()
env.run(draw)
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def theirs(results: int) -> float:
    """Seconds pypet takes."""
    with tempfile.TemporaryDirectory(prefix="pypet-") as folder:
        command = [PYPET, "-c", THEIRS, folder, str(results)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
        return float(json.loads(said.strip().splitlines()[-1])["seconds"])


def ours(results: int) -> dict[str, float]:
    """Results a second: between first and last commit, from the driver's first event, to the last seal, in all."""
    folder = Path(tempfile.mkdtemp(prefix="storing-"))
    try:
        (folder / "model.py").write_text(MODEL)
        content = {
            "campaign": {"name": "draws"},
            "experiment": {"use": "model.py:Draws"},
            "space": [{"linspace": {"scale": [0.1, 1.0, results]}}],
            "storage": {"root": str(folder / "runs")},
            "execution": {"workers": 2},
            "cluster": {"dashboard_port": 0},
        }
        (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
        began = time.perf_counter()
        subprocess.run([*STAFFA, "run", str(folder / "campaign.yaml"), "--json"], check=True, capture_output=True)
        whole = time.perf_counter() - began
        journal = next((folder / "runs" / "v1.0_draws" / "ledger").glob("events-*.jsonl"))
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        first = events[0]["at"]
        settled = [event for event in events if event["event"] == "batch_settled"]
        sealed = max(event["at"] for event in events if event["event"] == "part_sealed")
        later = sum(sum(event["outcomes"].values()) for event in settled[1:])
        return {
            "steady": later / (settled[-1]["at"] - settled[0]["at"]),
            "driver": results / (settled[-1]["at"] - first),
            "sealed": results / (sealed - first),
            "whole": results / whole,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if not Path(PYPET).exists():
        print(json.dumps({"skipped": f"no pypet in {PYPET}: make pypet-env"}))
        return
    rows = [(theirs(given.results), ours(given.results)) for _ in range(given.repeats)]
    other = given.results / statistics.median(row[0] for row in rows)
    own = {key: statistics.median(row[1][key] for row in rows) for key in rows[0][1]}
    report = {"pypet": round(other, 1), "ours": round(own["steady"], 1), "ratio": round(own["steady"] / other, 1)}
    print(json.dumps(report | {f"ratio_{key}": round(own[key] / other, 1) for key in ("driver", "sealed", "whole")}))


if __name__ == "__main__":
    main()
