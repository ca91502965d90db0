"""Each sampler through `staffa run` against its own raw `jit(vmap)` loop in two processes.

    python tests/benchmarks/samplers.py [NAME …] [--rounds 2] [--seconds 16]

The raw loop runs the very `initialize`, `adapt` and `step` of the sampler, with keys folded as the engine folds them,
under one `jit` for each of warm-up and sampling; outputs are brought to the host and dropped. It is given the best of
three widths, all of them tried here. Staffa stores, syncs and records everything; its trials are counted from the
first commit to the last. Processes have one thread for XLA each (see `raw.py`). Prints JSON: the ratio of each sampler,
medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import jax
import numpy as np
import yaml
from jax import lax

sys.path.insert(0, str(Path(__file__).parent))
from engine import Meter
from raw import ONE_THREAD, START_SECONDS, environment

import staffa
from staffa.experiment.perform import ADAPT, INITIALIZE, STEP
from staffa.experiment.protocol import Params
from staffa.experiment.registry import build

HERE = Path(__file__).parent
POSTERIOR = HERE.parents[1] / "workflows" / "posterior"
SCHOOLS = {"use": "targets.py:EightSchools"}
RUGGED = {"use": "nk", "length": 60, "alphabet": "ACGT", "k": 2, "seed": 1}
WIDTHS = (16, 96, 384)
BATCHES = 12
WHOLE = 40_000
"""Trials of the campaign that a run stands for."""

CASES: dict[str, dict[str, Any]] = {
    "nuts": {"experiment": {"use": "nuts", "target": SCHOOLS, "warmup": 100, "chains": 4}, "warmup": 100},
    "hmc": {"experiment": {"use": "hmc", "target": SCHOOLS, "warmup": 100, "chains": 4}, "warmup": 100, "thin": 4},
    "hmc_every_draw": {"experiment": {"use": "hmc", "target": SCHOOLS, "warmup": 100, "chains": 4}, "warmup": 100},
    "mala": {"experiment": {"use": "mala", "target": SCHOOLS, "warmup": 100, "chains": 4}, "warmup": 100, "thin": 10},
    "metropolis": {"experiment": {"use": "metropolis", "target": RUGGED, "chains": 4}, "thin": 40},
    "gibbs": {"experiment": {"use": "gibbs", "target": RUGGED, "chains": 4}, "draws": 20},
    "parallel_tempering": {
        "experiment": {"use": "parallel_tempering", "target": RUGGED, "islands": 4, "beta_min": 0.1},
        "thin": 20,
    },
    "ste": {"experiment": {"use": "ste", "target": RUGGED}, "thin": 10},
    "smc": {
        "experiment": {
            "use": "smc",
            "algorithm": "tempered",
            "population": 64,
            "target": RUGGED,
            "schedule": {"use": "linear", "steps": 50},
            "kernel": {"use": "metropolis", "steps": 10},
        },
        "draws": 50,
    },
}
"""By sampler: its experiment block, and what differs from 100 draws of every step without a warm-up. Every draw of
HMC over ten dimensions is 37 kB for each 0.7 ms of a core: there the disk and the codec are measured."""


def sampling(case: dict[str, Any]) -> dict[str, int]:
    usual = {"draws": 100, "thin": 1, "warmup": 0}
    return {name: case.get(name, value) for name, value in usual.items()}


def loop(case: dict[str, Any]) -> Any:
    """A function of trial numbers -> all outputs on the host."""
    experiment: Any = build(case["experiment"], POSTERIOR)
    shape = sampling(case)

    def lane(index: Any, seed: Any) -> Any:
        key, params = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), index), seed), Params({})
        adapting, stepping = jax.random.fold_in(key, ADAPT), jax.random.fold_in(key, STEP)
        state = experiment.initialize(jax.random.fold_in(key, INITIALIZE), params)
        adapt = lambda i, state: experiment.adapt(jax.random.fold_in(adapting, i), state, params)  # noqa: E731
        state = lax.fori_loop(0, shape["warmup"], adapt, state) if shape["warmup"] else state
        step = lambda i, state: experiment.step(jax.random.fold_in(stepping, i), state, params)  # noqa: E731

        def draw(state: Any, number: Any) -> Any:
            last = (number + 1) * shape["thin"] - 1
            state = lax.fori_loop(last - shape["thin"] + 1, last, lambda i, at: step(i, at)[0], state)
            return step(last, state)

        return lax.scan(draw, state, np.arange(shape["draws"], dtype=np.uint32))[1]

    lanes = jax.jit(jax.vmap(lane))
    return lambda indices: jax.tree.map(np.asarray, lanes(indices, np.zeros_like(indices)))


_READY: Barrier


def _share(ready: Barrier) -> None:
    global _READY
    _READY = ready


def work(name: str, number: int, width: int, seconds: float) -> tuple[int, float]:
    """Sample for some seconds: trials done, and the seconds they took."""
    sample = loop(CASES[name])
    indices = np.arange(width, dtype=np.uint32) + (number << 24)
    sample(indices)
    _READY.wait(START_SECONDS)
    began, done = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        done += width
        sample(indices + np.uint32(done))
    return done, spent


def raw(name: str, width: int, seconds: float, processes: int = 2) -> float:
    """Trials per second of two processes."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with environment(ONE_THREAD), ProcessPoolExecutor(processes, context, _share, (ready,)) as pool:
        futures = [pool.submit(work, name, number, width, seconds) for number in range(processes)]
        return sum(done / spent for done, spent in (future.result() for future in futures))


def ours(name: str, trials: int) -> float:
    """Trials per second of `staffa run` with two workers, from the first commit to the last."""
    folder = Path(tempfile.mkdtemp(prefix="staffa-bench-", dir=HERE.parents[1] / "runs"))
    file, meter = folder / "workflow" / "campaign.yaml", Meter(trials)
    file.parent.mkdir()
    shutil.copy(POSTERIOR / "targets.py", file.parent)
    content: dict[str, Any] = {
        "campaign": {"name": name},
        "experiment": CASES[name]["experiment"],
        "sampling": sampling(CASES[name]),
        "replicates": WHOLE,
        "archive": {"every": "off"},
        "storage": {"root": str(folder)},
        "execution": {"workers": 2},
        "cluster": {"dashboard_port": 0},
    }
    file.write_text(yaml.safe_dump(content))
    # Batches as of a whole campaign, of which as many trials are run as there is time for; but enough of them
    # that it counts little when the last ends on one worker and the other has nothing left.
    whole = staffa.plan(file).plan.groups[0].batch
    while whole > 24 and trials < BATCHES * whole:
        whole //= 2
    content["execution"]["batch"] = whole
    content["replicates"] = trials
    file.write_text(yaml.safe_dump(content))
    try:
        staffa.run(file, allow_dirty=True, listeners=[meter], progress=False)
    finally:
        shutil.rmtree(folder)
    return meter.trials / (meter.last[0] - meter.first[0])


def compared(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Ratios of one sampler, round by round."""
    tried = {width: raw(name, width, seconds / 5) for width in WIDTHS}
    width = max(tried, key=lambda width: tried[width])
    trials = int(tried[width] * seconds)
    rates = [(raw(name, width, seconds), ours(name, trials)) for _ in range(rounds)]
    return {
        "sampler": name,
        "ratio": statistics.median(own / limit for limit, own in rates),
        "raw": statistics.median(limit for limit, _ in rates),
        "ours": statistics.median(own for _, own in rates),
        "raw_width": width,
        "trials": trials,
        "ratios": [own / limit for limit, own in rates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME", help="; ".join(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=16.0)
    given = parser.parse_args()
    (HERE.parents[1] / "runs").mkdir(exist_ok=True)
    found = []
    for name in given.names:
        found.append(compared(name, given.rounds, given.seconds))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
