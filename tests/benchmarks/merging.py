"""Merging two campaigns of 50,000 trials: how long `staffa merge` takes, and how its memory grows with them.

    python tests/benchmarks/merging.py [--trials 50000] [--small 5000] [--draws 100] [--repeats 3] [--keep FOLDER]

Three campaigns of an autoregression of 10 dimensions, 4 kB a trial, sealed and pruned, are made of both sizes: one, one
of other points, one of the same points from another seed. Merged are the first two (rows of one are copied, of the
other written anew) and the first with the last (every trial of which is renamed), each by the command in a process of
its own. Time is that of the whole command, memory the most that was ever resident of it. Prints JSON.
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
from typing import Any

import yaml

STAFFA = [sys.executable, "-m", "staffa"]
MODEL = '''"""An autoregression: next to nothing to compute."""

import jax

import staffa


class Noise(staffa.Experiment):
    dims = {"x": ("dimension",)}

    def initialize(self, key, params):
        return jax.random.normal(key, (10,))

    def step(self, key, state, params):
        state = 0.9 * state + params["scale"] * jax.random.normal(key, (10,))
        return state, {"x": state, "energy": 0.5 * (state @ state)}
'''
SIDES = {"first": ([0.1, 1.0], 0), "other": ([1.5, 2.0], 0), "again": ([0.1, 1.0], 1)}
"""Range of the parameter, and seed."""


def campaign(folder: Path, name: str, trials: int, draws: int) -> Path:
    """A campaign that is run, sealed and pruned; its folder."""
    scale, seed = SIDES[name]
    content: dict[str, Any] = {
        "campaign": {"name": f"{name}-{trials}"},
        "experiment": {"use": "model.py:Noise"},
        "space": [{"linspace": {"scale": [*scale, trials]}}],
        "sampling": {"draws": draws},
        "seeds": {"global_seed": seed},
        "storage": {"root": str(folder / "runs")},
        "archive": {"prune": "verified"},
        "cluster": {"dashboard_port": 0},
    }
    (folder / "model.py").write_text(MODEL)
    path = folder / f"{name}-{trials}.yaml"
    path.write_text(yaml.safe_dump(content))
    subprocess.run([*STAFFA, "run", str(path), "--json"], check=True, capture_output=True)
    root = folder / "runs" / f"v1.0_{name}-{trials}"
    subprocess.run([*STAFFA, "consolidate", str(root), "--prune"], check=True, capture_output=True)
    return root


def merged(one: Path, other: Path, into: Path) -> dict[str, float]:
    """Seconds of the command, and the most it had in memory, in MB."""
    began = time.perf_counter()
    process = subprocess.Popen([*STAFFA, "merge", str(one), str(other), "--into", str(into)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return {"seconds": time.perf_counter() - began, "megabytes": used.ru_maxrss / 1024}


def measure(folder: Path, trials: int, draws: int, repeats: int) -> dict[str, Any]:
    roots = {name: campaign(folder, name, trials, draws) for name in SIDES}
    sealed = sum(file.stat().st_size for file in (roots["first"] / "archive").rglob("*.parquet"))
    found: dict[str, Any] = {"archive_megabytes": round(sealed / 1e6, 1)}
    for name in ("other", "again"):
        into, rows = folder / "runs" / "merged", []
        for _ in range(repeats):
            rows.append(merged(roots["first"], roots[name], into))
            shutil.rmtree(into)
        found[name] = {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--small", type=int, default=5_000)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", help="make the campaigns here, and leave them")
    given = parser.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="merging-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sizes = {size: measure(folder, size, given.draws, given.repeats) for size in (given.small, given.trials)}
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    small, large = (max(sizes[size][name]["megabytes"] for name in ("other", "again")) for size in sizes)
    worst = max(sizes[given.trials][name]["seconds"] for name in ("other", "again"))
    said = {f"{size:,}": found for size, found in sizes.items()}
    print(json.dumps({"seconds": worst, "megabytes": large, "growth": round(large / small, 2), "sizes": said}))


if __name__ == "__main__":
    main()
