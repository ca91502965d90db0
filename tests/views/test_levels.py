"""Values of a column as a few levels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.views.levels import levels


def test_few_values_are_levels_in_their_order() -> None:
    found = levels("n", pd.Series([10, 2, 2, 1]))
    assert found.labels == ("1", "2", "10") and found.codes.tolist() == [2, 1, 1, 0]
    assert found.middles is not None and found.middles.tolist() == [1, 2, 10] and not found.logarithmic
    assert levels("b", pd.Series([True, False])).labels == ("false", "true")
    assert levels("w", pd.Series(["b", "a", "b"])).codes.tolist() == [1, 0, 1]
    assert levels("s", pd.Series([0.001, 0.1, 10.0])).logarithmic


def test_who_has_no_value_has_a_level_of_its_own() -> None:
    found = levels("n", pd.Series([1.0, None, 2.0]))
    assert found.labels == ("1", "2", "none") and found.codes.tolist() == [0, 2, 1]
    found = levels("w", pd.Series(["a", None, "a"], dtype=object))
    assert found.labels == ("a", "none") and found.codes.tolist() == [0, 1, 0]


def test_words_beyond_the_most_frequent_are_others() -> None:
    found = levels("w", pd.Series(["a"] * 3 + ["b"] * 2 + ["c", "d"]), most=3)
    assert found.labels == ("a", "b", "others") and found.codes.tolist() == [0, 0, 0, 1, 1, 2, 2]


@given(st.integers(0, 2**32), st.integers(6, 60), st.integers(-3, 6), st.booleans())
def test_many_numbers_are_binned(seed: int, size: int, scale: int, positive: bool) -> None:
    numbers = np.random.default_rng(seed).normal(size=size) * 10.0**scale
    numbers = np.abs(numbers) + 1e-3 if positive else numbers
    found = levels("x", pd.Series(numbers), most=5, bins=4)
    if len(np.unique(numbers)) <= 5:
        assert found.edges is None
        return
    assert found.edges is not None and len(found) == 4
    low, high = found.edges[found.codes], found.edges[found.codes + 1]
    slack = 1e-9 * np.abs(numbers).max()
    assert ((low - slack <= numbers) & (numbers <= high + slack)).all()


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_single_value_is_a_single_level(value: float) -> None:
    assert len(levels("x", pd.Series([value] * 9))) == 1
