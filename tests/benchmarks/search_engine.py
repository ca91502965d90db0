"""How long workers wait for a search: `staffa.minimize` with trials that sleep.

    python tests/benchmarks/search_engine.py [--workers 8] [--trials 400] [--sleep 1.0] [--strategy explore]

Prints JSON. `idle`: of the time of all workers from the first trial's begin to the last one's end, the share in which
they slept no trial's sleep; `gap`: median and largest seconds between two trials of a worker; `start`: seconds from
the call to the first trial. Must be: idle under 0.03 with 8 workers and trials of 1 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

import staffa

MOST = 0.03


def measure(workers: int, trials: int, sleep: float, strategy: str) -> dict[str, object]:
    def slow(params: dict[str, float]) -> float:
        time.sleep(sleep)
        return (params["x"] - 0.3) ** 2 + (params["y"] + 1) ** 2

    space = {"x": (-5.0, 5.0), "y": (-5.0, 5.0)}
    called = time.time()
    found = staffa.minimize(slow, space, trials=trials, workers=workers, strategy=strategy, progress=False)
    course = found._course
    spans: dict[str, list[tuple[float, float]]] = {}
    for trial, begun in course.begun.items():
        spans.setdefault(course.workers[trial], []).append((begun, begun + course.tried[trial].seconds))
    ordered = [sorted(one) for one in spans.values()]
    gaps = [later[0] - earlier[1] for one in ordered for earlier, later in itertools.pairwise(one)]
    first, last = min(one[0][0] for one in ordered), max(one[-1][1] for one in ordered)
    idle = 1 - len(course.begun) * sleep / (workers * (last - first))
    return {
        "workers": len(ordered), "trials": len(course.begun), "sleep": sleep, "strategy": strategy,
        "idle": round(idle, 4), "most": MOST, "reached": idle < MOST, "start": round(first - called, 2),
        "gap": [round(statistics.median(gaps), 4), round(max(gaps), 4)],
        "best": found.best.objectives,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--sleep", type=float, default=1.0)
    parser.add_argument("--strategy", default="explore")
    given = parser.parse_args()
    print(json.dumps(measure(given.workers, given.trials, given.sleep, given.strategy)))


if __name__ == "__main__":
    main()
