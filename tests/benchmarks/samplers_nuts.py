"""Effective samples per second: our NUTS, as the engine compiles it, against plain blackjax.

    python tests/benchmarks/samplers_nuts.py [--pairs 9] [--draws 5000] [--chains 4]

Both sample eight schools (not centred) with the same step size, mass and keys from the same positions, so
they draw the same numbers and the ratio is one of time alone. Plain blackjax is the loop of its own
documentation: a jitted scan of a vmapped step that keeps positions and what is recorded of a step. Ours is
the program a worker runs: it derives its keys, names and constrains what it records, and looks for NaN. Prints
JSON last: the median of the pairs' ratios, which must be 0.95 or more, and `by_processor`, for a machine that is
shared: by the processor's time instead of the clock's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import blackjax
import jax
import numpy as np
from arviz_stats.base import array_stats

from staffa.experiment.perform import STEP, Lane, Program, Spec
from staffa.experiment.protocol import Sampling
from staffa.samplers.nuts import Nuts
from staffa.seeds import KEY_WORDS

WORKFLOW = Path(__file__).parents[2] / "workflows" / "posterior"
SEED, WARMUP = 1, 500


def schools() -> Any:
    spec = importlib.util.spec_from_file_location("posterior_targets", WORKFLOW / "targets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.EightSchools()


def plain(target: Any, state: Any, draws: int, chains: int) -> Any:
    """blackjax's own loop, from the positions and with the tuning of `state` (of one lane)."""
    step_sizes, masses = state.tuning.step_size[0], state.tuning.inverse_mass[0]
    kernel = blackjax.nuts.build_kernel()
    log_density = lambda x: target.log_density(x, {})  # noqa: E731

    def one_step(states: Any, key: Any) -> Any:
        keys = jax.random.split(key, chains)
        move = lambda key, at, step_size, mass: kernel(key, at, log_density, step_size, mass)  # noqa: E731
        states, info = jax.vmap(move)(keys, states, step_sizes, masses)
        told = (info.energy, info.acceptance_rate, info.is_divergent, info.num_integration_steps)
        return states, (states.position, states.logdensity, told)

    @partial(jax.jit, static_argnums=2)
    def run(stream: Any, states: Any, draws: int) -> Any:
        keys = jax.vmap(partial(jax.random.fold_in, stream))(np.arange(draws, dtype=np.uint32))
        return jax.lax.scan(one_step, states, keys)[1]

    first = jax.tree.map(lambda leaf: leaf[0], state.chains)
    return lambda stream: jax.block_until_ready(run(stream, first, draws))


def seconds(call: Any) -> tuple[float, float, Any]:
    """Wall-clock and processor seconds of a call, and what it returns."""
    started, worked = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - started, time.process_time() - worked, found


def effective(white: Any) -> float:
    """The least effective number of draws of any coordinate, (chains, draws, dimension)."""
    values = np.moveaxis(np.asarray(white, float), -1, 0)
    return min(float(array_stats.ess(each, chain_axis=0, draw_axis=1)) for each in values)


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--pairs", type=int, default=9)
    ask.add_argument("--draws", type=int, default=5000)
    ask.add_argument("--chains", type=int, default=4)
    given = ask.parse_args()

    target = schools()
    sampling = Sampling(given.draws, warmup=WARMUP)
    lane = Lane(Nuts(target, warmup=WARMUP, chains=given.chains), Spec("nuts", "", (), (), sampling))
    program = Program(lane, 1, WORKFLOW)
    words = np.ones((1, KEY_WORDS), np.uint32)
    state = program.adapt(SEED, words, {}, program.initialize(SEED, words, {}), 0, WARMUP)
    loop = plain(target, state, given.draws, given.chains)

    ratios, by_processor = [], []
    for pair in range(-1, given.pairs):  # the first is for compiling
        words = np.full((1, KEY_WORDS), pair + 2, np.uint32)
        stream = lane._stream(np.uint32(SEED), words[0], STEP)
        calls = [lambda: program.sample(SEED, words, {}, state, 0), lambda: loop(stream)]  # noqa: B023
        order = (0, 1) if pair % 2 else (1, 0)
        timed = {which: seconds(calls[which]) for which in order}
        ours = {name: np.asarray(each)[0] for name, each in timed[0][2][1].items()}
        theirs = np.swapaxes(np.asarray(timed[1][2][0]), 0, 1)
        named = np.concatenate([ours["mu"][..., None], np.log(ours["tau"])[..., None], ours["white"]], axis=-1)
        assert np.allclose(named[:, :20], theirs[:, :20], atol=1e-3), "not the same draws"
        rates = effective(named) / timed[0][0], effective(theirs) / timed[1][0]
        if pair >= 0:
            ratios.append(rates[0] / rates[1])
            by_processor.append(ratios[-1] * timed[0][0] / timed[1][0] * timed[1][1] / timed[0][1])
            print(f"pair {pair}: ours {rates[0]:,.0f}/s, plain {rates[1]:,.0f}/s, ratio {ratios[-1]:.3f}")
    print(json.dumps({"ratio": statistics.median(ratios), "by_processor": statistics.median(by_processor)}))


if __name__ == "__main__":
    main()
