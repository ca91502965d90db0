"""Sealing while a campaign runs: what it takes from the run, and what of that is its own work.

The walk, made to last 5 ms a trial. Runs with `archive.every: off` and with a look after every 1,000 trials take turns;
both are timed from the first commit to the last. What sealing costs by itself are the CPU seconds, outside of the
threads that sample, that the one run has more than the other.

python tests/benchmarks/beside.py --trials 24576 --rounds 3
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from engine import HERE, Meter

THIN = 260
"""26,000 steps: 5 ms of a core where 1,000 take 0.19 ms."""


def measure(trials: int, every: str, folder: Path) -> dict:
    """One run; seconds and CPU seconds outside of sampling from first to last commit."""
    import staffa

    meter = Meter(trials)
    sealed: list[int] = []

    def count(event) -> None:
        if event["event"] == "part_sealed" and meter.last is None:
            sealed.append(event["trials"])

    settings = [
        f"storage.root={folder}", "execution.workers=2", "cluster.dashboard_port=0",
        f"sampling.thin={THIN}", "archive.part_size=10MiB", f"archive.every={every}",
    ]  # fmt: skip
    campaign = staffa.load(HERE / "walk.yaml", set=settings, space=[{"linspace": {"scale": [0.1, 1.0, trials]}}])
    run = staffa.run(campaign, allow_dirty=True, listeners=[meter, count], progress=False)
    spent = {name: meter.last[1][name] - meter.first[1][name] for name in meter.last[1]}
    shutil.rmtree(run.root)
    return {
        "seconds": meter.last[0] - meter.first[0],
        "trials": meter.trials,
        "outside": sum(spent.values()) - spent["device"],
        "core_ms": 1000 * spent["device"] / meter.trials,
        "sealed": sum(sealed),
    }


def compare(trials: int, rounds: int) -> dict:
    """Medians over pairs of runs, one right after the other."""
    folder = Path(tempfile.mkdtemp(prefix="staffa-bench-"))
    pairs = []
    for turn in range(rounds):
        order = ("off", "{trials: 1000}") if turn % 2 == 0 else ("{trials: 1000}", "off")
        found = {every: measure(trials, every, folder) for every in order}
        pairs.append((found["off"], found["{trials: 1000}"]))
    shutil.rmtree(folder)
    slower = [beside["seconds"] / alone["seconds"] - 1 for alone, beside in pairs]
    own = [(beside["outside"] - alone["outside"]) / 2 / alone["seconds"] for alone, beside in pairs]
    return {
        "core_ms": statistics.median(alone["core_ms"] for alone, _ in pairs),
        "seconds": statistics.median(alone["seconds"] for alone, _ in pairs),
        "sealed": statistics.median(beside["sealed"] / trials for _, beside in pairs),
        "slower": statistics.median(slower),
        "own": statistics.median(own),
        "beyond": statistics.median(one - two for one, two in zip(slower, own, strict=True)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24576)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(compare(given.trials, given.rounds)))
