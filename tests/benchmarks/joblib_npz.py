"""joblib as one first writes it: a jitted function, a process for each core, one `.npz` for every trial.

    python tests/benchmarks/joblib_npz.py --trials 8192

Written with care all the same: the function is importable and compiled once for each process, before
the clock runs; processes have one core each; joblib chooses how many trials it sends at a time. Files
are not synced to disk, as nobody does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from joblib import Parallel, delayed

sys.path.insert(0, str(Path(__file__).parent))
import raw

TRIAL = jax.jit(raw.trial)

WARM = 64
"""Trials run before the clock: enough for every process to have had one and compiled."""


def run(index: int, scale: float, folder: str) -> str:
    """Sample a trial and store it by itself: its draws and its parameter."""
    draws = np.asarray(TRIAL(np.uint32(index), np.float32(scale)))
    path = f"{folder}/trial-{index:06d}.npz"
    np.savez(path, x=draws, scale=scale)
    return path


def measure(trials: int = 8192, processes: int = 2, folder: Path | None = None) -> dict[str, Any]:
    """Trials per second from the call that hands the trials over to its last result."""
    with (
        tempfile.TemporaryDirectory(prefix="joblib-", dir=folder) as target,
        raw.environment(raw.ONE_THREAD),
        Parallel(n_jobs=processes, backend="loky") as pool,
    ):
        pool(delayed(run)(index, raw.SCALE, target) for index in range(WARM))
        before, began = raw.cpu_seconds(), time.monotonic()
        pool(delayed(run)(index, raw.SCALE, target) for index in range(trials))
        seconds, spent = time.monotonic() - began, raw.cpu_seconds() - before
        assert sum(1 for _ in Path(target).iterdir()) == trials
    return {
        "trials": trials,
        "seconds": seconds,
        "trials_per_second": trials / seconds,
        "cpu_seconds": spent,
        "inodes_per_1000": 1000.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=8192)
    parser.add_argument("--processes", type=int, default=2)
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    # Imported under its name: functions of `__main__` would travel by value and be compiled again.
    import joblib_npz

    joblib_npz.main()
