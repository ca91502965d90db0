"""Sealing a part of the archive against a plain pyarrow write of the same rows from memory.

Both on two processes, zstd. Ours reads the Zarr, checks it, summarises each trial, syncs and
renames; the other has its tables in memory and writes them.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import dask
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent


def _tables(root: str, number: int, processes: int) -> list[pa.Table]:
    """The tables of every `processes`-th part, as the engine itself makes them."""
    from staffa.execution import reduce
    from staffa.execution.consolidate import Consolidation
    from staffa.execution.prepare import load_plan, open_stores, plan_digest
    from staffa.storage.books import fold
    from staffa.storage.workspace import Workspace

    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    archive = Consolidation(workspace, plan, plan_digest(plan), open_stores(workspace, plan))
    tables = []
    for part in plan.parts[number::processes]:
        seal = archive.order(part, fold(()), again=True)
        made = [reduce.table(seal, [reduce.read(seal, batch, 0)])["draws"] for batch in part.batches()]
        tables.append(pa.concat_tables(made))
    return tables


def _plain(root: str, number: int, processes: int, folder: str, start, done) -> None:
    tables = _tables(root, number, processes)
    pq.write_table(tables[0], Path(folder) / f"warm-{number}.parquet", compression="zstd")
    start.wait()
    began = time.time()
    for index, table in enumerate(tables):
        pq.write_table(table, Path(folder) / f"plain-{number}-{index}.parquet", compression="zstd")
    done.put((began, time.time()))


def _ours(root: str, number: int, processes: int, start, done) -> None:
    from staffa.execution.consolidate import Consolidation
    from staffa.execution.graph import reduce_graph
    from staffa.execution.lanes import LANES
    from staffa.execution.prepare import load_plan, open_stores, plan_digest
    from staffa.storage.books import fold
    from staffa.storage.workspace import Workspace

    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    archive = Consolidation(workspace, plan, plan_digest(plan), open_stores(workspace, plan))
    seals = [archive.order(part, fold(()), again=True) for part in plan.parts[number::processes]]
    graphs = [reduce_graph(seal, plan.sampling.segments) for seal in seals]
    graphs[0].compute(scheduler="synchronous")  # a worker that seals has imported and opened everything before
    start.wait()
    began = time.time()
    dask.compute(*graphs, scheduler="threads", num_workers=LANES["archive"])
    done.put((began, time.time()))


def _together(target, arguments: tuple, processes: int) -> float:
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=target, args=(arguments[0], n, processes, *arguments[1:], start, done))
        for n in range(processes)
    ]
    for process in workers:
        process.start()
    spans = [done.get() for _ in workers]
    for process in workers:
        process.join()
    return max(end for _, end in spans) - min(began for began, _ in spans)


def measure(root: str | Path, folder: str | Path, processes: int = 2) -> dict[str, float]:
    """Seconds to seal all parts of a finished run, and seconds of the plain write beside it."""
    return {
        "plain": _together(_plain, (str(root), str(folder)), processes),
        "ours": _together(_ours, (str(root),), processes),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--folder", default="/tmp")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    for _ in range(given.times):
        print(json.dumps(measure(given.root, given.folder)))
