"""How long a campaign takes to plan, in memory, and how much memory that needs."""

import argparse
import json
import resource
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100_000)
    given = parser.parse_args()
    import staffa

    began = time.perf_counter()
    space = [
        {"grid": {"population": [64, 256], "rate": [0.01, 0.02, 0.05, 0.1, 0.2]}},
        {"sobol": {"scale": [0.1, 1.0, "log"]}, "points": given.trials // 100},
    ]
    prepared = staffa.plan(staffa.load(HERE / "walk.yaml", space=space, replicates=10))
    assert prepared.plan.trials == given.trials
    print(
        json.dumps(
            {
                "trials": given.trials,
                "seconds": time.perf_counter() - began,
                "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
