"""Dask and Zarr as one first writes them: three tasks and one Zarr store for every trial.

    python tests/benchmarks/naive.py --trials 1024

Written with care all the same: the functions are importable and jitted once for each process (what
travels by value would be compiled again in every task), the graph of all trials is handed over in
one call, workers have one thread and one core each, every worker has compiled before the clock runs,
and only paths come back.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import jax
import numpy as np
import zarr
from distributed import Client, LocalCluster

sys.path.insert(0, str(Path(__file__).parent))
import raw

STARTED = jax.jit(raw.start)
SAMPLED = jax.jit(raw.sample)


def initialize(index: int) -> tuple[Any, Any]:
    """Initial state of a trial, and the data of the key its steps are folded from."""
    state, stream = STARTED(np.uint32(index))
    return np.asarray(state), np.asarray(jax.random.key_data(stream))


def sample(started: tuple[Any, Any], scale: float) -> np.ndarray:
    """All draws of a trial."""
    state, stream = started
    return np.asarray(SAMPLED(state, jax.random.wrap_key_data(stream), np.float32(scale)))


def write(draws: np.ndarray, index: int, scale: float, folder: str) -> str:
    """Store a trial by itself: its draws and its parameter."""
    path = f"{folder}/trial-{index:06d}.zarr"
    store = zarr.open_group(path, mode="w", attributes={"index": index, "scale": scale})
    store.create_array("x", data=draws, dimension_names=("draw", "dimension"))
    return path


def graph(index: int, scale: float, folder: str) -> Any:
    """The three tasks of a trial."""
    started = dask.delayed(initialize)(index)
    draws = dask.delayed(sample)(started, scale)
    return dask.delayed(write)(draws, index, scale, folder)


def warm(folder: str) -> None:
    """Compile, and import what writing needs."""
    write(sample(initialize(0), raw.SCALE), 0, raw.SCALE, tempfile.mkdtemp(dir=folder))


def measure(trials: int = 1024, processes: int = 2, folder: Path | None = None) -> dict[str, Any]:
    """Trials per second from the call that hands the graph over to its last result."""
    with tempfile.TemporaryDirectory(prefix="naive-", dir=folder) as target:
        with _cluster(processes) as cluster, Client(cluster) as client:
            client.run(warm, target)
            before, began = raw.cpu_seconds(), time.monotonic()
            client.gather(client.compute([graph(n, raw.SCALE, target) for n in range(trials)]))
            seconds, spent = time.monotonic() - began, raw.cpu_seconds() - before
        stores = sorted(Path(target).glob("trial-*.zarr"))
        assert len(stores) == trials
        inodes = sum(1 + sum(1 for _ in store.rglob("*")) for store in stores)
    return {
        "trials": trials,
        "seconds": seconds,
        "trials_per_second": trials / seconds,
        "cpu_seconds": spent,
        "inodes_per_1000": 1000 * inodes / trials,
    }


def _cluster(processes: int) -> LocalCluster:
    return LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address=None,
        silence_logs=logging.ERROR,
        env=raw.ONE_THREAD,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1024)
    parser.add_argument("--processes", type=int, default=2)
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    # Imported under its name: functions of `__main__` would travel by value and be compiled in each task.
    import naive

    naive.main()
