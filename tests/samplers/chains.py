"""Running a sampler as the engine does, and judging its chains."""

from pathlib import Path

import numpy as np
from arviz_stats.base import array_stats

from staffa.experiment.perform import Lane, Program, Spec
from staffa.experiment.protocol import Sampling
from staffa.seeds import KEY_WORDS

FALSE_ALARM = 4.5
"""Standard errors a mean may be off: 7e-6 for one normal number, so below 1e-3 for all that are judged here."""


def drawn(sampler, draws, params=None, seed=1, lanes=1):
    """Outputs of `draws` draws after the sampler's own warm-up: (lanes, chains, draws, …)."""
    sampling = Sampling(draws, warmup=sampler.warmup)
    values = {name: np.asarray(each) for name, each in (params or {}).items()}
    values = {name: each.astype("int32" if each.dtype.kind == "i" else "float32") for name, each in values.items()}
    lanes = next((len(each) for each in values.values()), lanes)
    traced = tuple((name, values[name].dtype.name) for name in sorted(values))
    spec = Spec("it", "", (), traced, sampling, vectorize=sampler.vectorize)
    program = Program(Lane(sampler, spec), lanes, Path(__file__).parent)
    words = np.random.default_rng(seed).integers(0, 2**32, (lanes, KEY_WORDS), np.uint32)
    state = program.initialize(seed, words, values)
    if sampler.warmup:
        state = program.adapt(seed, words, values, state, 0, sampler.warmup)
    return {name: np.asarray(each) for name, each in program.sample(seed, words, values, state, 0)[1].items()}


def of_one(outputs):
    """Outputs of the first lane: (chains, draws, …)."""
    return {name: each[0] for name, each in outputs.items()}


def ess(values):
    """Effective draws of one quantity, (chains, draws)."""
    return float(array_stats.ess(np.asarray(values, float), chain_axis=0, draw_axis=1))


def rhat(values):
    return float(array_stats.rhat(np.asarray(values, float), chain_axis=0, draw_axis=1))


def bfmi(energy):
    """Betancourt's energy Bayesian fraction of missing information, of each chain."""
    return np.atleast_1d(array_stats.bfmi(np.asarray(energy, float), chain_axis=0, draw_axis=1))


def check_moments(values, mean, sd, kurtosis=3.0):
    """Mean and sd of one quantity, (chains, draws), within standard errors; R-hat below 1.01.

    The standard error of an sd is that of the mean square, sd² sqrt((kurtosis - 1) / ess), by the delta method.
    """
    values = np.asarray(values, float)
    assert rhat(values) < 1.01
    assert abs(values.mean() - mean) < FALSE_ALARM * sd / np.sqrt(ess(values)), (values.mean(), mean)
    spread = FALSE_ALARM * sd / 2 * np.sqrt((kurtosis - 1) / ess((values - mean) ** 2))
    assert abs(values.std() - sd) < spread, (values.std(), sd)
