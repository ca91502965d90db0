"""`make soak`: 1,000,000 trials in one run, memory of driver and workers watched.

Prints resident memory at minute 1 and its range from then on; it must stay flat within 10 %.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs"


class Watch(threading.Thread):
    """Reads resident memory of this process and of its workers every second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[float, float, float]] = []
        self.began = time.time()
        self.over = threading.Event()

    def run(self) -> None:
        driver = psutil.Process()
        while not self.over.wait(1.0):
            workers = 0.0
            for child in driver.children(recursive=True):
                try:
                    if any("staffa-device" in line for line in _threads(child.pid)):
                        workers = max(workers, child.memory_info().rss / 2**20)
                except psutil.Error:
                    continue
            self.rows.append((time.time() - self.began, driver.memory_info().rss / 2**20, workers))


def _threads(pid: int) -> list[str]:
    names = []
    for task in Path(f"/proc/{pid}/task").glob("*/comm"):
        try:
            names.append(task.read_text().strip())
        except OSError:
            continue
    return names


def spread(values: list[float]) -> dict[str, float]:
    first = values[0]
    return {"at_first": first, "low": min(values), "high": max(values), "growth": max(values) / first - 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1_000_000)
    given = parser.parse_args()
    import staffa

    RUNS.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(prefix="soak-", dir=RUNS)
    settings = [f"storage.root={folder}", "cluster.dashboard_port=0"]
    space = [{"linspace": {"scale": [0.1, 1.0, given.trials // 10]}}]
    campaign = staffa.load(HERE / "walk.yaml", set=settings, space=space, replicates=10)
    watch = Watch()
    watch.start()
    began = time.time()
    run = staffa.run(campaign, allow_dirty=True, progress=False)
    watch.over.set()
    later = [row for row in watch.rows if row[0] >= 60] or watch.rows[len(watch.rows) // 2 :]
    report = {
        "trials": given.trials,
        "minutes": (time.time() - began) / 60,
        "driver_mb_from_minute_1": spread([row[1] for row in later]),
        "worker_mb_from_minute_1": spread([row[2] for row in later]),
        "inodes": sum(1 for _ in run.root.rglob("*")) + 1,
        "exit_code": run.ended.exit_code,
    }
    shutil.rmtree(folder)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
