"""Effective sample sizes, R-hat and standard errors of many series at once, against ArviZ one at a time."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import numpy as np
import pytest
from arviz_stats.base import array_stats
from arviz_stats.base.diagnostics import _DiagnosticsBase as Parts
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign.model import Summary
from staffa.experiment import diagnostics
from staffa.experiment.diagnostics import DIAGNOSTICS, TAIL, diagnosed, effective
from staffa.experiment.protocol import SUMMARIES


def oracle(chains: Any) -> dict[str, float]:
    """What ArviZ says of one (chains, draws) array in double precision."""
    one = np.asarray(chains, np.float64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {
            "ess": float(array_stats.ess(one, method="bulk")),
            "ess_tail": float(array_stats.ess(one, method="tail", prob=TAIL)),
            "rhat": float(array_stats.rhat(one, method="rank")),
            "mcse": float(array_stats.mcse(one, method="mean")),
            "mcse_sd": float(array_stats.mcse(one, method="sd")),
        }


def regressive(random: Any, series: int, chains: int, draws: int, memory: float) -> Any:
    """x[t] = memory x[t-1] + noise."""
    noise, found = random.normal(size=(series, chains, draws)), np.zeros((series, chains, draws))
    for draw in range(draws):
        found[:, :, draw] = memory * found[:, :, draw - 1] * (draw > 0) + noise[:, :, draw]
    return found


def compared(values: Any) -> None:
    """Every series as ArviZ has it; R-hat of a single chain is compared elsewhere: ArviZ wants two."""
    found = diagnosed(values)
    assert list(found) == list(DIAGNOSTICS)
    for number, chains in enumerate(values):
        for word, expected in oracle(chains).items():
            if word != "rhat" or values.shape[1] > 1:
                np.testing.assert_allclose(found[word][number], expected, rtol=1e-6, err_msg=f"{word} of {number}")


@pytest.mark.parametrize("draws", [4, 5, 7, 10, 33, 100, 401])
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_all_words_equal_arviz(chains: int, draws: int) -> None:
    random = np.random.default_rng(chains * 1000 + draws)
    for memory in (-0.6, 0.0, 0.5, 0.95, 1.0):
        compared(regressive(random, 4, chains, draws, memory))


SHAPES = {
    "whole": np.round,
    "binary": lambda x: (x > 0).astype(float),
    "single precision": lambda x: x.astype(np.float32),
    "far from zero": lambda x: 1e9 + 1e3 * x,
    "heavy tails": lambda x: np.tan(1.5 * np.sin(x)) ** 3,
    "infinite": lambda x: np.where(x > 2, np.inf, x),
    "one constant chain": lambda x: x * (np.arange(x.shape[1]) > 0)[:, None],
    "constant": lambda x: np.full_like(x, 3.5),
    "shifted chains": lambda x: x + 10 * np.arange(x.shape[1])[:, None],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draws", [9, 60])
def test_odd_series_are_what_arviz_makes_of_them(shape: str, draws: int) -> None:
    random = np.random.default_rng(7)
    for chains in (1, 3):
        compared(SHAPES[shape](regressive(random, 6, chains, draws, 0.6)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), draws=st.integers(4, 40), chains=st.integers(1, 3), levels=st.integers(2, 5)
)  # fmt: skip
def test_where_a_pair_of_correlations_is_nothing_but_rounding_the_sign_is_that_of_arviz(
    seed: int, draws: int, chains: int, levels: int
) -> None:
    """Few whole numbers in few draws: sums of correlations are often 0 but for rounding."""
    compared(np.random.default_rng(seed).integers(0, levels, (3, chains, draws)).astype(float))


@pytest.mark.parametrize("draws", [4, 9, 100])
def test_r_hat_of_one_chain_compares_its_halves(draws: int) -> None:
    """The same formulas on the halves, which ArviZ's parts give without its demand for two chains."""
    parts = Parts()
    for chain in regressive(np.random.default_rng(3), 5, 1, draws, 0.9):
        halves = parts._split_chains(chain)
        folded = np.abs(halves - np.median(halves))
        expected = max(parts._rhat(parts._z_scale(one)) for one in (halves, folded))
        assert diagnosed(chain[None], ["rhat"])["rhat"][0] == pytest.approx(expected, rel=1e-9)


def test_one_drifting_chain_is_told_from_one_at_rest() -> None:
    random = np.random.default_rng(11)
    rest = random.normal(size=(1, 1, 1000))
    drift = rest + np.linspace(0, 5, 1000)
    calm, moved = (diagnosed(values) for values in (rest, drift))
    assert calm["rhat"][0] < 1.01 < 1.5 < moved["rhat"][0]
    assert calm["ess"][0] > 700 and moved["ess"][0] < 20


def test_effective_size_is_what_theory_says_of_an_autoregression() -> None:
    """(1 - a) / (1 + a) of the draws (MCSE of the mean over 200 series: 1.5 %; 4 of those)."""
    values = regressive(np.random.default_rng(5), 200, 1, 4000, 0.8)[:, :, 500:]
    size = effective(values)
    assert size.mean() / 3500 == pytest.approx(0.2 / 1.8, rel=0.06)


def test_the_error_of_the_mean_is_how_far_means_scatter() -> None:
    """400 chains with mean 0: the scatter of a standard deviation of 400 means is 3.5 %; 4 of those."""
    values = regressive(np.random.default_rng(8), 400, 1, 1000, 0.5)
    scatter = values.mean(axis=(1, 2)).std()
    assert diagnosed(values, ["mcse"])["mcse"].mean() == pytest.approx(scatter, rel=0.14)


def test_nothing_is_said_of_series_with_nan_or_few_draws() -> None:
    values = np.random.default_rng(1).normal(size=(3, 2, 20))
    sound = diagnosed(values)
    values[1, 1, 7] = np.nan
    found = diagnosed(values)
    for word in DIAGNOSTICS:
        assert np.isnan(found[word]).tolist() == [False, True, False]
        np.testing.assert_array_equal(found[word][[0, 2]], sound[word][[0, 2]])
        assert np.isnan(diagnosed(values[:, :, :3])[word]).all()
    assert diagnosed(values, []) == {}
    assert [len(numbers) for numbers in diagnosed(values[:0]).values()] == [0] * len(DIAGNOSTICS)


def test_series_do_not_know_of_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    values = regressive(np.random.default_rng(2), 37, 2, 50, 0.7).astype(np.float32)
    whole = diagnosed(values)
    monkeypatch.setattr(diagnostics, "BLOCK", 250)
    for word, numbers in diagnosed(values).items():
        np.testing.assert_allclose(numbers, whole[word], rtol=1e-12)
        np.testing.assert_allclose(diagnosed(values[::-1], [word])[word], whole[word][::-1], rtol=1e-12)


def test_most_series_are_done_without_a_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the shortcut is none; how many remain is a property of these draws."""
    seen = []
    whole = diagnostics.autocovariance
    monkeypatch.setattr(diagnostics, "autocovariance", lambda chains: seen.append(len(chains)) or whole(chains))
    effective(regressive(np.random.default_rng(4), 500, 2, 200, 0.5))
    assert sum(seen) < 50


def test_a_declaration_may_ask_for_exactly_the_words_there_are() -> None:
    assert get_args(Summary) == SUMMARIES
    assert set(DIAGNOSTICS) < set(SUMMARIES)
