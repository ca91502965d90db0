"""The delayed graphs: of a batch, and of what reduces batches to a part of the archive.

    initialize -> sample[0] -> write[0] -> commit -> receipt
                     \\-> sample[1] -> write[1] -/

Keys begin with the task's kind, so the dashboard's groups are exactly these words.
"""

from __future__ import annotations

from typing import Any

import dask
from dask.delayed import Delayed, delayed

from staffa.execution import reduce, work
from staffa.execution.bench import Order
from staffa.experiment.protocol import Sampling


def batch_graph(order: Order, sampling: Sampling, worker: str | None = None) -> Delayed:
    """One batch as a delayed graph; computing it, with any scheduler, writes and commits it.

    Arguments:
    - `worker`: address to pin the tasks to, so that state and outputs never travel.
    """
    with _on("device", worker):
        state = None
        for phase in range(sampling.warm_segments):
            state = _task(work.initialize, "initialize", order.tag, phase, order, phase, state)
    written: list[Delayed] = []
    for segment in range(sampling.segments):
        with _on("device", worker):
            state = _task(work.sample, "sample", order.tag, segment, state, segment)
        with _on("disk", worker):
            # A checkpoint says that all segments before it are on disk: writes keep their order.
            written.append(_task(work.write, "write", order.tag, segment, state, segment, *written[-1:]))
    with _on("disk", worker):
        return _task(work.commit, "commit", order.tag, 0, state, written)


def reduce_graph(seal: reduce.SealOrder, segments: int, worker: str | None = None) -> Delayed:
    """One part of the archive: read its batches, make tables and summaries, seal."""
    tables, rows, answers = [], [], []
    tag = seal.tag
    with _on("archive", worker):
        if seal.task != "seal":
            work_of = {"answer": reduce.answer, "prune": reduce.prune, "apply": reduce.apply}
            return _task(work_of[seal.task], seal.task, tag, 0, seal)
        for batch in range(seal.first, seal.last):
            pieces = [
                _task(reduce.read, "read", f"{tag}-b{batch}", segment, seal, batch, segment)
                for segment in range(segments)
            ]
            tables.append(_task(reduce.table, "table", f"{tag}-b{batch}", 0, seal, pieces))
            partial = [
                _task(reduce.summary, "summary", f"{tag}-b{batch}", n, seal, piece) for n, piece in enumerate(pieces)
            ]
            rows.append(_merged(partial, f"{tag}-b{batch}"))
            if seal.reducers:
                answers.append(_task(reduce.mapped, "map", f"{tag}-b{batch}", 0, seal, pieces))
        return _task(reduce.seal, "seal", tag, 0, seal, tables, rows, answers)


def _merged(partial: list[Delayed], tag: str) -> Delayed:
    """Merge summaries pairwise, as a tree."""
    level = 0
    while len(partial) > 1:
        level += 1
        pairs = [partial[i : i + 2] for i in range(0, len(partial), 2)]
        partial = [
            _task(reduce.merge, "summary", f"{tag}-l{level}", n, *pair) if len(pair) == 2 else pair[0]
            for n, pair in enumerate(pairs)
        ]
    return partial[0]


def _task(function: Any, kind: str, tag: str, number: int, *arguments: Any) -> Delayed:
    return delayed(function, pure=False, traverse=True)(*arguments, dask_key_name=f"{kind}-{tag}-{number}")


def _on(lane: str, worker: str | None) -> Any:
    if worker is None:
        return dask.annotate(priority=0)
    return dask.annotate(executor=lane, workers=[worker], allow_other_workers=False)
