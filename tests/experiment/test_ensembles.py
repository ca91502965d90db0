"""Reducers: in pieces as whole, and held against NumPy."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.errors import PluginError
from staffa.experiment.ensembles import Covariance, Histogram, Outputs, Quantiles, Reducer
from staffa.experiment.splitting import Split

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def made(trials: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(trials, 2, 5, 3)).astype(np.float32),
        "e": 100 + random.normal(size=(trials, 2, 5)),
    }


def in_pieces(reducer: Reducer, outputs: dict[str, Any], sizes: list[int], params: Any = None) -> Any:
    ends = np.cumsum([0, *sizes])
    pieces = [
        reducer.map(*({name: values[a:b] for name, values in given.items()} for given in (outputs, params or {})))
        for a, b in pairwise(ends)
    ]
    return reducer.finish(reduce(reducer.reduce, pieces))


@given(SIZES, st.integers(0, 2**32 - 1), st.booleans())
def test_covariance(sizes: list[int], seed: int, within: bool) -> None:
    outputs = made(sum(sizes), seed)
    found = in_pieces(Covariance(["x", "e"], within=within), outputs, sizes)
    rows = np.concatenate([outputs["x"].astype(float), outputs["e"][..., None]], axis=-1)
    rows = rows.mean(axis=(1, 2)) if within else rows.reshape(-1, 4)
    assert found["count"] == len(rows)
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-12, atol=1e-14)
    if len(rows) > 1:
        np.testing.assert_allclose(found["covariance"], np.cov(rows.T), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found["correlation"], np.corrcoef(rows.T), rtol=1e-9, atol=1e-9)


@given(SIZES, st.integers(0, 2**32 - 1), st.booleans())
def test_split_by_values_each_comes_to_what_it_would_alone(sizes: list[int], seed: int, text: bool) -> None:
    outputs, random = made(sum(sizes), seed), np.random.default_rng(seed)
    params = {"z": random.choice([2.5, 0.5, -1.0], sum(sizes)), "replicate": random.integers(0, 2, sum(sizes))}
    if text:
        params["z"] = params["z"].astype(str).astype(object)
    own = Covariance("x")
    found = in_pieces(Split("own", own, ("z", "replicate")), outputs, sizes, params)
    values = sorted(set(zip(params["z"].tolist(), params["replicate"].tolist(), strict=True)))
    assert list(zip(found["by.z"].tolist(), found["by.replicate"].tolist(), strict=True)) == values
    for place, (z, replicate) in enumerate(values):
        rows = (params["z"] == z) & (params["replicate"] == replicate)
        alone = own.finish(own.map({"x": outputs["x"][rows]}, {}))
        for name, array in alone.items():
            np.testing.assert_allclose(found[name][place], array, rtol=1e-9, atol=1e-12)


class Uneven:
    def map(self, outputs: Any, params: Any) -> Any:
        return {"e": outputs["e"]}

    def reduce(self, one: Any, two: Any) -> Any:
        return {"e": np.concatenate([one["e"], two["e"]])}

    def finish(self, whole: Any) -> Any:
        return whole


def test_what_values_come_to_has_to_have_one_shape() -> None:
    outputs, params = {"e": np.zeros(3)}, {"z": np.array([1.0, 2.0, 2.0])}
    with pytest.raises(PluginError, match=r"reduce.own: 'e' cannot be stacked: of z=1.0 \(1,\).*, of z=2.0 \(2,\)"):
        in_pieces(Split("own", Uneven(), ("z",)), outputs, [2, 1], params)


def test_covariance_of_a_vector_alone() -> None:
    x = made(9, 1)["x"]
    found = Covariance("x").finish(Covariance("x").map(Outputs({"x": x}, {"x": (3,)}), {}))
    np.testing.assert_allclose(found["covariance"], np.cov(x.reshape(-1, 3).astype(float).T), rtol=1e-9)
    one, two = (Covariance("x").map(Outputs({"x": x}, own), {}) for own in ({"x": (3,)}, {}))
    with pytest.raises(PluginError, match="vectors of length 3 and 1"):
        Covariance("x").reduce(one, two)


def test_covariance_of_single_numbers_and_of_one_trial() -> None:
    found = in_pieces(Covariance("e"), {"e": np.array([1.0, 2.0, 4.0])}, [1, 2])
    assert found["mean"].tolist() == pytest.approx([7 / 3]) and found["covariance"].item() == pytest.approx(7 / 3)
    assert np.isnan(in_pieces(Covariance("e"), {"e": np.array([1.0])}, [1])["covariance"]).all()


@given(SIZES, st.integers(0, 2**32 - 1))
def test_histogram(sizes: list[int], seed: int) -> None:
    outputs = made(sum(sizes), seed)
    outputs["x"].reshape(-1)[::7] = np.nan
    found = in_pieces(Histogram("x", -1.0, 1.0, bins=8), outputs, sizes)
    values = outputs["x"][~np.isnan(outputs["x"])]
    assert found["counts"].tolist() == np.histogram(values.astype(float), 8, (-1, 1))[0].tolist()
    assert found["edges"].tolist() == np.linspace(-1, 1, 9).tolist()
    assert sum(int(found[name].sum()) for name in ("counts", "below", "above", "nan")) == outputs["x"].size


@given(SIZES, st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.01, 0.1]), st.sampled_from([1.0, 1e-12, 1e12]))
def test_quantiles(sizes: list[int], seed: int, error: float, scale: float) -> None:
    outputs = made(sum(sizes), seed)
    outputs["x"] = scale * np.round(outputs["x"].astype(float), 1)
    outputs["x"].reshape(-1)[::11] = np.nan
    at = [0.0, 0.05, 0.5, 0.77, 1.0]
    found = in_pieces(Quantiles("x", at, error), outputs, sizes)
    values = outputs["x"][~np.isnan(outputs["x"])]
    exact = np.quantile(values, at, method="lower")
    assert found["count"] == values.size and found["at"].tolist() == at
    np.testing.assert_allclose(found["values"], exact, rtol=1.0001 * error, atol=1e-30)


def test_quantiles_of_what_is_extreme_or_nothing() -> None:
    found = in_pieces(Quantiles("x", [0.0, 0.5, 1.0]), {"x": np.array([-np.inf, 0.0, 1e-35, np.inf])}, [4])
    assert found["values"][0] < -9e29 and found["values"][1] == 0.0 and found["values"][2] > 9e29
    assert np.isnan(in_pieces(Quantiles("x"), {"x": np.array([np.nan])}, [1])["values"]).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Histogram("x", 1.0, 1.0), "low: 1.0 is not below high: 1.0"),
        (lambda: Histogram("x", 0.0, 1.0, 0), "bins: 0 is less than 1"),
        (lambda: Quantiles("x", [0.5, 1.5]), r"at: \[0.5, 1.5\] are not all from 0 to 1"),
        (lambda: Quantiles("x", error=0.0), "error: 0.0 is not between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()
