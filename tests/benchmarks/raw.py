"""The limit: `jit(vmap(sample))` in two processes, one a core, nothing stored.

    python tests/benchmarks/raw.py --trials 8192 --batch 256
    python tests/benchmarks/raw.py --trials 8192 --batch 2048 --width 256 --way map

It runs the very `initialize` and `step` of `walk.py` in a loop written by hand: the key of step i is
folded from the trial's key and i, as the engine does. Outputs are brought to the host and dropped.
Compiling and the start of the processes are left out.

Threads: XLA sizes the pool its loops are split over by the cores a process may use, or by `NPROC`.
Two processes that each split loops of some thousand numbers over two cores spend most of their time
waiting for one another: on 2 cores, 3,600 trials a second against 9,000 with one thread each. Neither
`--xla_cpu_multi_thread_eigen=false` nor `intra_op_parallelism_threads=1` changes that; setting the
affinity of the processes does (the way jax-ml/jax#1539 names), and so does `NPROC=1`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

sys.path.insert(0, str(Path(__file__).parent))
from walk import Walk

DRAWS, THIN = 100, 10
SEED = 42
SCALE = 0.5

ONE_THREAD = {
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of a process that is to use one core; it must stand before JAX's backend starts."""

THREADS = {"one": ONE_THREAD, "default": {}}
WAYS = ("vmap", "map", "loop")
"""A batch as one `vmap`; as `lax.map` over pieces of `width` in one call; as a call for each piece."""

START_SECONDS = 300
"""Longest wait for the other process to compile: a dead one must not hang the benchmark."""


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def cpu_seconds() -> float:
    """CPU seconds of this process and of all it started that still run."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [here, *here.children(recursive=True)])


def start(index: Any) -> tuple[Any, Any]:
    """Initial state of a trial, and the key its steps are folded from."""
    key = jax.random.fold_in(jax.random.key(SEED), index)
    return Walk().initialize(jax.random.fold_in(key, 0), {}), jax.random.fold_in(key, 1)


def sample(state: Any, stream: Any, scale: Any) -> jax.Array:
    """All draws of a trial, (DRAWS, dimension)."""
    walk, params = Walk(), {"scale": scale}

    def unrecorded(number: Any, state: Any) -> Any:
        return walk.step(jax.random.fold_in(stream, number), state, params)[0]

    def draw(state: Any, index: Any) -> Any:
        last = (index + 1) * THIN - 1
        state = lax.fori_loop(index * THIN, last, unrecorded, state)
        state, outputs = walk.step(jax.random.fold_in(stream, last), state, params)
        return state, outputs["x"]

    return lax.scan(draw, state, jnp.arange(DRAWS, dtype=jnp.uint32))[1]


def trial(index: Any, scale: Any) -> jax.Array:
    """A whole trial from its number and its parameter."""
    return sample(*start(index), scale)


def sampler(width: int, way: str) -> Callable[[Any, Any], np.ndarray]:
    """A function (indices, scales) of (batch,) -> draws on the host, (batch, DRAWS, dimension)."""
    lanes = jax.jit(jax.vmap(trial))
    if way == "vmap":
        return lambda indices, scales: np.asarray(lanes(indices, scales))
    if way == "loop":
        return lambda indices, scales: _piecewise(lanes, indices, scales, width)
    mapped = jax.jit(lambda *batch: lax.map(lambda lane: trial(*lane), batch, batch_size=width))
    return lambda indices, scales: np.asarray(mapped(indices, scales))


def _piecewise(lanes: Any, indices: np.ndarray, scales: np.ndarray, width: int) -> np.ndarray:
    pieces = [slice(first, first + width) for first in range(0, len(indices), width)]
    return np.concatenate([np.asarray(lanes(indices[piece], scales[piece])) for piece in pieces])


def work(first: int, last: int, batch: int, width: int, way: str) -> tuple[float, float, float]:
    """Sample the trials `first` to `last`: when it began, when it ended, CPU seconds."""
    draw = sampler(width, way)
    scales = np.full(batch, SCALE, np.float32)
    draw(np.arange(batch, dtype=np.uint32), scales)
    _READY.wait(START_SECONDS)
    began, cpu = time.monotonic(), time.process_time()
    for index in range(first, last, batch):
        draw(np.arange(index, index + batch, dtype=np.uint32), scales)
    return began, time.monotonic(), time.process_time() - cpu


_READY: Barrier


def _share(ready: Barrier) -> None:
    global _READY
    _READY = ready


def measure(
    trials: int = 8192,
    batch: int = 256,
    processes: int = 2,
    *,
    width: int | None = None,
    way: str = "vmap",
    threads: str = "one",
) -> dict[str, Any]:
    """Trials per second of `processes` processes together; `trials` is rounded up to whole batches."""
    each = -(-trials // (processes * batch)) * batch
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    shape = (batch, width or batch, way)
    with environment(THREADS[threads]), ProcessPoolExecutor(processes, context, _share, (ready,)) as pool:
        futures = [pool.submit(work, n * each, (n + 1) * each, *shape) for n in range(processes)]
        spans = [future.result() for future in futures]
    seconds = max(ended for _, ended, _ in spans) - min(began for began, _, _ in spans)
    return {
        "batch": batch,
        "width": width or batch,
        "way": way,
        "threads": threads,
        "trials": each * processes,
        "seconds": seconds,
        "trials_per_second": each * processes / seconds,
        "cpu_seconds": sum(cpu for _, _, cpu in spans),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, help="lanes of one vmap, for --way map and loop")
    parser.add_argument("--way", choices=WAYS, default="vmap")
    parser.add_argument("--threads", choices=tuple(THREADS), default="one")
    given = vars(parser.parse_args())
    print(json.dumps(measure(**given)))


if __name__ == "__main__":
    main()
