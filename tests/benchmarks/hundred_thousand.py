"""100,000 trivial trials against 10,000: the cost of a trial, the driver's memory, and looking meanwhile.

    python tests/benchmarks/hundred_thousand.py [--repeats 3]

Both sizes are run in turn, `staffa run` in a process of its own each. The cost of a trial is the time
between the first and the last commit over the trials committed in between, sealing included: starting
a cluster and compiling take the same for both. `cost_ratio` compares the medians (at most 1.1 is asked
for). One more run of the large size is looked at by `staffa status` all the time, and its driver's
resident memory is read. Prints JSON.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

MODEL = '''"""One number a trial."""

import jax

import staffa


class Number(staffa.Experiment):
    def initialize(self, key, params):
        return params["scale"]

    def step(self, key, state, params):
        return state, {"number": state * jax.random.normal(key)}
'''
STAFFA = [sys.executable, "-m", "staffa"]


def declared(folder: Path, name: str, trials: int) -> Path:
    """A campaign file of so many trials."""
    workflow = folder / f"flow-{name}"
    workflow.mkdir(parents=True)
    (workflow / "model.py").write_text(MODEL)
    campaign = {
        "campaign": {"name": name},
        "experiment": {"use": "model.py:Number"},
        "space": [{"linspace": {"scale": [0.1, 1.0, trials]}}],
        "storage": {"root": str(folder)},
        "cluster": {"dashboard_port": 0},
    }
    path = workflow / "campaign.yaml"
    path.write_text(yaml.safe_dump(campaign))
    return path


class Memory(threading.Thread):
    """The most resident memory a process has had, in MB; its workers not included."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.most = psutil.Process(pid), 0.0

    def run(self) -> None:
        while True:
            try:
                self.most = max(self.most, self.process.memory_info().rss / 1e6)
            except psutil.Error:
                return
            time.sleep(0.05)


def run(folder: Path, trials: int, *, look: bool = False) -> dict[str, object]:
    """One run, and what it cost; with `look`, how long `staffa status` took meanwhile."""
    name = f"n{trials}-{time.time_ns()}"
    path, root = declared(folder, name, trials), folder / f"v1.0_{name}"
    began = time.perf_counter()
    process = subprocess.Popen([*STAFFA, "run", str(path), "--json"], stdout=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    memory.start()
    spent = []
    while look and process.poll() is None:
        if (root / "ledger" / "summary.json").exists():
            before = time.perf_counter()
            subprocess.run([*STAFFA, "status", str(root)], check=True, capture_output=True)
            spent.append(time.perf_counter() - before)
        time.sleep(0.1)
    said = json.loads(process.communicate()[0])
    whole = time.perf_counter() - began
    assert process.returncode == 0 and said["outcomes"] == {"ok": trials}, said
    found = {"seconds": whole, "driver_mb": memory.most, **costs(root), "root": root, "status": spent}
    return found


def costs(root: Path) -> dict[str, float]:
    """Milliseconds a trial, from the first commit to the last and to the last seal."""
    journal = next((root / "ledger").glob("events-*.jsonl"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    settled = [event for event in events if event["event"] == "batch_settled"]
    sealed = [event["at"] for event in events if event["event"] == "part_sealed"]
    trials = sum(sum(event["outcomes"].values()) for event in settled[1:])
    first, last = settled[0]["at"], settled[-1]["at"]
    return {
        "ms_to_last_commit": 1000 * (last - first) / trials,
        "ms_to_last_seal": 1000 * (max([last, *sealed]) - first) / trials,
        "batches": len(settled),
        "parts": len(sealed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--keep", help="move the large run's folder here")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hundred-thousand-"))
    try:
        rows = [(size, run(folder, size)) for _ in range(given.repeats) for size in (given.small, given.large)]
        watched = run(folder, given.large, look=True)
        report: dict[str, object] = {}
        for name in ("seconds", "ms_to_last_commit", "ms_to_last_seal", "driver_mb", "batches", "parts"):
            medians = {size: statistics.median(row[name] for s, row in rows if s == size) for size, _ in rows}
            report[name] = {f"{size:,}": round(value, 4) for size, value in medians.items()}
        small, large = (report["ms_to_last_seal"][f"{size:,}"] for size in (given.small, given.large))
        report["cost_ratio"] = round(large / small, 3)
        report["driver_mb_at_most"] = round(max(row["driver_mb"] for _, row in [*rows, (0, watched)]), 1)
        looks = watched["status"]
        report["status"] = {"looks": len(looks), "median": statistics.median(looks), "longest": max(looks)}
        if given.keep:
            shutil.move(str(watched["root"]), given.keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
