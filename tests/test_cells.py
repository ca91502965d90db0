"""Arrays of what is no number: fill, missing texts, cells, and files that know numbers only."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from staffa.cells import (
    NOTHING,
    blank,
    cell,
    is_blank,
    opened,
    packed,
    text,
    texts,
    type_of,
    type_text,
    unpacked,
)  # fmt: skip

WORDS = ["float32", "int16", "bool", "bfloat16", "datetime64[us]", "timedelta64[s]", "string", "bytes"]


@pytest.mark.parametrize("word", WORDS)
def test_what_is_blank_is_known_as_blank(word: str) -> None:
    pytest.importorskip("ml_dtypes")
    array = blank((2, 3), word)
    assert array.shape == (2, 3) and is_blank(array)
    array[1, 2] = {"string": "x", "bytes": b"x", "datetime64[us]": 0, "timedelta64[s]": 0}.get(word, 1)
    assert not is_blank(array)


@settings(deadline=None)
@given(st.lists(st.none() | st.text(max_size=3) | st.sampled_from([NOTHING, NOTHING * 2, NOTHING + "a"])))
def test_missing_texts_are_no_text(values: list[str | None]) -> None:
    array = np.array([text(value) for value in values], object)
    assert texts(array).to_pylist() == values
    assert [one for one in array if one == NOTHING] == [NOTHING] * values.count(None)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.none() | st.lists(st.none() | st.floats(allow_nan=False)), min_size=2, max_size=2), max_size=4)
)
def test_cells_hold_the_values_of_trials(trials: list[list[list[float | None] | None]]) -> None:
    kind = pa.list_(pa.float64())
    cells = [cell(pa.array(values, kind)) for values in trials]
    assert opened(cells, kind, 2).to_pylist() == [value for values in trials for value in values]
    assert cells == [cell(pa.array(values, kind)) for values in trials], "the same bytes each time"
    assert opened([b"", *cells], kind, 2)[:2].to_pylist() == [None, None]


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), min_size=6, max_size=6), st.lists(st.binary(max_size=4), min_size=2, max_size=2))
def test_arrays_of_objects_go_through_files_of_numbers(words: list[str], cells: list[bytes]) -> None:
    named = {"a/b": np.array(words, object).reshape(2, 3), "c": np.empty(2, object), "n": np.arange(3.0)}
    named["c"][:] = cells
    named["t"] = np.array([0, "NaT"], "datetime64[s]")
    file = load(save({name: np.ascontiguousarray(array) for name, array in packed(named).items()}))
    back = unpacked(file, {"a/b": "string", "c": "bytes", "t": "datetime64[s]", "n": "float64"})
    assert set(back) == set(named)
    for name, array in named.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert str(back[name].tolist()) == str(array.tolist())


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us", "Europe/Rome"), pa.list_(pa.struct({"a": pa.decimal128(9, 2)})), pa.binary()]
)
def test_types_as_text(kind: pa.DataType) -> None:
    assert type_of(type_text(kind)) == kind and type_text(kind) == type_text(type_of(type_text(kind)))
