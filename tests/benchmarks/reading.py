"""An archive of 100,000 trials: open it and read one, and average an output over 4 million rows.

    python tests/benchmarks/reading.py [--trials 100000] [--draws 40] [--keep FOLDER]

The campaign is run, sealed and pruned, so that the archive is all there is. One trial: a fresh process attaches, finds
a trial by the beginning of its digest and reads all its draws; time is from the call to the values (imports done
before), bytes are what the process read by its own count (`rchar` of /proc/self/io). The average: of `energy` by two
parameters, by `results.query` and by DuckDB over one flat Parquet file of the same rows, the connection included in
both; medians of interleaved repeats. Prints JSON.
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

import yaml

HERE = Path(__file__).parent
MODEL = """
import jax
import staffa
from walk import Walk as Plain

class Walk(Plain):
    def step(self, key, state, params):
        state, found = super().step(key, state, params)
        return state, {**found, "energy": 0.5 * (state @ state)}
"""
ONE = """
import sys, time, json
import dask.array, duckdb, numpy, pyarrow.dataset, pyarrow.parquet, xarray, zarr, zarrs
import staffa
from staffa.views import arrays, one, results
def read():
    return int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1])
before, began = read(), time.perf_counter()
trial = staffa.attach(sys.argv[1]).results.trial(sys.argv[2])
values = trial.draws.load()
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "bytes": read() - before, "draws": int(values.sizes["draw"])}))
"""


def archive(folder: Path, trials: int, draws: int) -> Path:
    """A campaign that is sealed and pruned."""
    import staffa

    (folder / "model.py").write_text(MODEL)
    (folder / "walk.py").write_text((HERE / "walk.py").read_text())
    content: dict[str, Any] = {
        "campaign": {"name": "walk"},
        "experiment": {"use": "model.py:Walk"},
        "space": [{"linspace": {"scale": [0.5, 2.0, 50]}}, {"grid": {"place": list(range(trials // 5000))}}],
        "replicates": 100,
        "sampling": {"draws": draws},
        "execution": {"workers": 2},
        "storage": {"root": str(folder)},
        "cluster": {"dashboard_port": 0},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    run = staffa.run(folder / "campaign.yaml", allow_dirty=True, progress=False)
    staffa.consolidate(run.root, prune=True)
    return run.root


def one(root: Path, repeats: int) -> dict[str, Any]:
    import staffa

    names = staffa.attach(root).results.params.scale.index
    places = [len(names) * n // repeats for n in range(repeats)]
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", ONE, str(root), names[place][:16]], capture_output=True, text=True, check=True
            ).stdout
        )
        for place in places
    ]
    return {
        "milliseconds": 1000 * statistics.median(one["seconds"] for one in found),
        "slowest_milliseconds": 1000 * max(one["seconds"] for one in found),
        "megabytes": max(one["bytes"] for one in found) / 1e6,
        "draws": found[0]["draws"],
    }


def average(root: Path, flat: Path, repeats: int) -> dict[str, Any]:
    import duckdb
    import pyarrow.parquet as pq

    import staffa

    results = staffa.attach(root).results
    with pq.ParquetWriter(flat, results.draws.schema) as writer:
        for batch in results.draws.to_batches():
            writer.write_batch(batch)
    sql = "select scale, place, avg(energy) as mean from {} group by all order by all"

    def plain() -> Any:
        with duckdb.connect() as connection:
            return connection.sql(sql.format(f"'{flat}'")).to_arrow_table()

    took: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for name, ask in (("plain", plain), ("ours", lambda: results.answer(sql.format("draws")))):
            began = time.perf_counter()
            found = ask()
            took[name].append(time.perf_counter() - began)
    assert found.num_rows == len(plain())
    ours, limit = statistics.median(took["ours"]), statistics.median(took["plain"])
    return {
        "rows": len(results.draws),
        "ours": ours,
        "plain": limit,
        "ratio": ours / limit,
        "flat_bytes": flat.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--root", type=Path, help="a campaign made before")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staffa-bench-") as folder:
        root = given.root or archive(Path(folder), given.trials, given.draws)
        told = {"one": one(root, given.repeats), "average": average(root, Path(folder) / "flat.parquet", given.repeats)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
