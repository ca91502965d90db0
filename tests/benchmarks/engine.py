"""Staffa on the walk: everything stored, synced and recorded; CPU seconds by who spent them.

python tests/benchmarks/engine.py --trials 40960 --batch auto
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


class Meter:
    """A listener that reads the clocks of driver and workers at the first and at the last commit."""

    def __init__(self, trials: int) -> None:
        self.all = trials
        self.began = time.time()
        self.first = self.last = None
        self.trials = 0
        self.settled = 0
        self.tasks: dict[str, float] = {}
        self.compiles: dict[int, int] = {}

    def __call__(self, event) -> None:
        if event["event"] != "batch_settled":
            return
        self.compiles[event["pid"]] = self.compiles.get(event["pid"], 0) + event["compiles"]
        count = sum(event["outcomes"].values())
        self.settled += count
        if self.first is None:
            self.first = (time.time(), cpu_seconds())
            return
        self.trials += count
        for kind, seconds in event["cpu"].items():
            self.tasks[kind] = self.tasks.get(kind, 0.0) + seconds
        if self.settled == self.all:
            self.last = (time.time(), cpu_seconds())


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of this process and its workers; a worker's by lane (threads carry the lane's name)."""
    import psutil

    driver = psutil.Process()
    spent = {"driver": sum(driver.cpu_times()[:2]), "device": 0.0, "disk": 0.0, "worker": 0.0}
    for child in driver.children(recursive=True):
        for task in Path(f"/proc/{child.pid}/task").glob("*"):
            try:
                name = (task / "comm").read_text().strip()
                fields = (task / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            seconds = (int(fields[11]) + int(fields[12])) / 100
            lane = name.removeprefix("staffa-") if name.startswith("staffa-") else ""
            compiler = name.startswith(("tf_", "llvm", "XLA", "pjrt"))
            spent[lane if lane in spent else "device" if compiler else "worker"] += seconds
    return spent


def measure(trials: int, batch: str = "auto", workers: int = 2, keep: Path | None = None) -> dict:
    """One run from first to last commit, `archive.every: off`."""
    import staffa

    folder = keep or Path(tempfile.mkdtemp(prefix="staffa-bench-", dir=HERE.parents[1] / "runs"))
    meter = Meter(trials)
    settings = [
        f"storage.root={folder}",
        f"execution.batch={batch}",
        f"execution.workers={workers}",
        "cluster.dashboard_port=0",
    ]
    campaign = staffa.load(HERE / "walk.yaml", set=settings, space=[{"linspace": {"scale": [0.1, 1.0, trials]}}])
    began = time.time()
    run = staffa.run(campaign, allow_dirty=True, listeners=[meter], progress=False)
    inodes = sum(1 for _ in run.root.rglob("*")) + 1
    seconds = meter.last[0] - meter.first[0]
    spent = {name: meter.last[1][name] - meter.first[1][name] for name in meter.last[1]}
    outside = spent["driver"] + spent["disk"] + spent["worker"]
    result = {
        "batch": batch,
        "trials": meter.trials,
        "seconds": seconds,
        "trials_per_second": meter.trials / seconds,
        "first_commit": meter.first[0] - began,
        "inodes": inodes,
        "inodes_per_1000": 1000 * inodes / trials,
        "outside_ms": 1000 * outside / meter.trials,
        "cpu_ms": {name: 1000 * value / meter.trials for name, value in {**spent, **meter.tasks}.items()},
        "compiles": list(meter.compiles.values()),
        "exit_code": run.ended.exit_code,
    }
    if keep is None:
        shutil.rmtree(folder)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=40960)
    parser.add_argument("--batch", default="auto")
    parser.add_argument("--keep", type=Path, help="leave the run here")
    given = parser.parse_args()
    (HERE.parents[1] / "runs").mkdir(exist_ok=True)
    print(json.dumps(measure(given.trials, given.batch, keep=given.keep)))
