"""A reducer that comes late, over an archive, against a plain pyarrow read of the column that it wants.

    python tests/benchmarks/ensemble.py [--trials 40960] [--times 9] [--root RUN]

A synthetic campaign: `power` (40 doubles), `counts` (20 integers), and a ragged table of up to 256 items of 4 numbers,
in which most bytes are; it must not be read. Both sides are two processes that have imported what they need and have
read one part before, and share the parts; each has the threads that a worker has for this (`LANES["archive"]`).

- plain: `pq.read_table(file, columns=["power"])` of each file of draws, into memory.
- ours: the engine's own task for a part (`reduce.answer`): which rows are whose, mean and products of deviations of
  `power`, batch by batch, the answer synced and renamed.

Medians of interleaved repeats; `command` is `staffa consolidate RUN --set reduce.late…` as typed, the start of its
workers included. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PROCESSES = 2
BLAS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
REDUCER = {"use": "covariance", "of": "power"}
MODEL = """
import jax
import jax.numpy as jnp
import staffa

class Spectrum(staffa.Experiment):
    ragged = {"items": "n"}
    def initialize(self, key, params):
        return ()
    def step(self, key, state, params):
        one, two, three, four = jax.random.split(key, 4)
        power = jnp.exp(params["tilt"] * jnp.linspace(0, 1, 40) + 0.1 * jax.random.normal(one, (40,)))
        place = jax.random.uniform(two, (256, 3), dtype="float32")
        return state, {
            "power": power,
            "counts": jax.random.randint(three, (20,), 0, 1000),
            "n": jax.random.randint(four, (), 100, 257, dtype="int32"),
            "items": {"place": place, "mass": place.sum(axis=1)},
        }
"""


def campaign(folder: Path, trials: int) -> Path:
    """Run it, with everything sealed."""
    import staffa

    (folder / "model.py").write_text(MODEL)
    content = {
        "campaign": {"name": "spectrum"},
        "experiment": {"use": "model.py:Spectrum"},
        "space": [{"linspace": {"tilt": [0.0, 1.0, 20]}}],
        "replicates": trials // 20,
        "execution": {"workers": 2, "x64": True},
        "storage": {"root": str(folder)},
        "cluster": {"dashboard_port": 0},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    return staffa.run(folder / "campaign.yaml", allow_dirty=True, progress=False).root


def _plain(root: str, number: int, start: Any, done: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow.parquet as pq

    from staffa.execution.lanes import LANES

    files = sorted(Path(root).glob("archive/draws/**/*.parquet"))[number::PROCESSES]

    def read(file: Path) -> Any:
        return pq.read_table(file, columns=["power"])

    read(files[0])
    start.wait()
    began = time.time()
    with ThreadPoolExecutor(LANES["archive"]) as readers:
        tables = list(readers.map(read, files))
    done.put((began, time.time(), sum(table.num_rows for table in tables), sum(table.nbytes for table in tables)))


def _ours(root: str, number: int, start: Any, done: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from staffa.campaign.model import ReduceConfig
    from staffa.execution import reduce
    from staffa.execution.consolidate import Consolidation
    from staffa.execution.ensemble import blocks_of
    from staffa.execution.lanes import LANES
    from staffa.execution.prepare import load_plan, open_stores, plan_digest
    from staffa.storage.workspace import Workspace

    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    stores = open_stores(workspace, plan)
    blocks = blocks_of({f"timed{number}": ReduceConfig(**REDUCER)})
    archive = Consolidation(workspace, plan, plan_digest(plan), stores, blocks)
    orders = [archive.answering(part) for part in plan.parts[number::PROCESSES]]
    reduce.answer(orders[0])
    start.wait()
    began = time.time()
    with ThreadPoolExecutor(LANES["archive"]) as lanes:
        list(lanes.map(reduce.answer, orders))
    ended = time.time()
    rows = sum(archive.held[part.name] for part in plan.parts[number::PROCESSES])
    for path in workspace.reduced.glob(f"timed{number}/*/*.npz"):
        path.unlink()
    done.put((began, ended, rows, 0))


def together(target: Any, root: Path) -> tuple[float, int, int]:
    """Seconds from the first to begin to the last to end; rows and bytes."""
    os.environ |= BLAS  # as Staffa's own workers have it
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(PROCESSES), context.Queue()
    workers = [context.Process(target=target, args=(str(root), n, start, done)) for n in range(PROCESSES)]
    for process in workers:
        process.start()
    found = [done.get(timeout=600) for _ in workers]
    for process in workers:
        process.join()
    seconds = max(one[1] for one in found) - min(one[0] for one in found)
    return seconds, sum(one[2] for one in found), sum(one[3] for one in found)


def command(root: Path) -> float:
    """Seconds of the command as typed; what it answered is checked, and taken away."""
    import numpy as np
    import pyarrow.parquet as pq

    sets = [word for name, value in REDUCER.items() for word in ("--set", f"reduce.late.{name}={value}")]
    staffa = str(Path(sys.executable).with_name("staffa"))
    began = time.perf_counter()
    subprocess.run([staffa, "consolidate", str(root), *sets], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    with np.load(root / "archive" / "reduced" / "late.npz") as found:
        rows = pq.read_table(root / "archive" / "draws", columns=["power"])["power"].combine_chunks()
        power = rows.flatten().to_numpy().reshape(-1, 40)
        np.testing.assert_allclose(found["covariance"], np.cov(power.T), rtol=1e-9, atol=1e-12)
    for path in (*root.glob("archive/reduced/late/*/*.npz"), *root.glob("archive/reduced/late.*")):
        path.unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40960)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--root", type=Path, help="a campaign made before")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staffa-bench-") as folder:
        root = given.root or campaign(Path(folder), given.trials)
        took: dict[str, list[float]] = {"plain": [], "ours": []}
        rows = wanted = 0
        for _ in range(given.times):
            for name, target in (("plain", _plain), ("ours", _ours)):
                seconds, rows, size = together(target, root)
                took[name].append(seconds)
                wanted = size or wanted
        middle = {name: statistics.median(seconds) for name, seconds in took.items()}
        told = {
            "rows": rows,
            "megabytes": wanted / 1e6,
            "archive_megabytes": sum(path.stat().st_size for path in root.glob("archive/**/*.parquet")) / 1e6,
            "parts": len(list(root.glob("archive/trials/*.parquet"))),
            **middle,
            "ratio": middle["plain"] / middle["ours"],
            "rows_per_second": {name: rows / seconds for name, seconds in middle.items()},
            "megabytes_per_second": {name: wanted / 1e6 / seconds for name, seconds in middle.items()},
            "command": statistics.median(command(root) for _ in range(3)),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
