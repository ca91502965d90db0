"""The report of 100,000 trials: how long it takes from the command to the file, and how large it is.

    python tests/benchmarks/reporting.py [--root RUN] [--trials 100000] [--draws 40] [--repeats 3]

The campaign is that of `reading.py`, run, sealed and pruned, unless one is given. Prints JSON: medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reading import archive


def reported(root: Path, page: Path, repeats: int) -> dict[str, Any]:
    """The whole command, imports included."""
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "staffa", "report", str(root), "--to", str(page), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        spent.append(time.perf_counter() - began)
    told = json.loads(done.stdout)
    return {
        "seconds": statistics.median(spent),
        "slowest_seconds": max(spent),
        "inside_seconds": told["seconds"],
        "megabytes": (page.stat().st_size + page.with_suffix(".json").stat().st_size) / 1e6,
        "trials": told["sections"]["completeness"]["trials"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root", type=Path, help="a campaign made before")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staffa-bench-") as folder:
        root = given.root or archive(Path(folder), given.trials, given.draws)
        print(json.dumps(reported(root, Path(folder) / "report.html", given.repeats)))


if __name__ == "__main__":
    main()
