"""A trial's name: what it depends on and what it does not."""

from __future__ import annotations

import hashlib
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.errors import ConfigError
from staffa.trial import (
    DIGEST_BYTES,
    Outcome,
    canonical,
    digest,
    digests,
    experiment_text,
    parameter_texts,
)

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}(\.[a-z]{1,3})?", fullmatch=True)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
PARAMETERS = st.dictionaries(NAMES, SCALARS, max_size=5)
OPTIONS = st.dictionaries(NAMES, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)), max_size=3)


def reordered(mapping: dict, data: st.DataObject) -> dict:
    return dict(data.draw(st.permutations(list(mapping.items()))))


@given(options=OPTIONS, parameters=PARAMETERS, replicate=st.integers(0, 99), data=st.data())
def test_the_order_of_keys_does_not_matter(options, parameters, replicate, data):
    name = digest("m:M", options, parameters, replicate)
    assert digest("m:M", reordered(options, data), reordered(parameters, data), replicate) == name
    assert len(name) == 2 * DIGEST_BYTES and set(name) <= set("0123456789abcdef")


@given(options=OPTIONS, parameters=PARAMETERS, replicate=st.integers(0, 99))
def test_a_name_is_the_hash_of_the_canonical_trial(options, parameters, replicate):
    trial = {
        "experiment": {"use": "m:M", "options": options},
        "parameters": parameters,
        "replicate": replicate,
    }
    expected = hashlib.sha256(canonical(trial).encode()).digest()[:DIGEST_BYTES]
    assert digest("m:M", options, parameters, replicate) == expected.hex()


def test_a_name_stays_what_it_is():
    """Archives outlive versions: this literal never changes."""
    name = digest("model.py:Walk", {"steps": 10}, {"temperature": 0.5, "kernel": "rbf", "on": True}, 3)
    text = (
        '{"experiment":{"options":{"steps":10},"use":"model.py:Walk"},'
        '"parameters":{"kernel":"rbf","on":true,"temperature":0.5},"replicate":3}'
    )
    assert name == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert name == "ab5e9ad373c2defd39d5a314b22bdfc5"


@given(first=SCALARS, second=SCALARS)
def test_different_values_have_different_texts(first, second):
    same = type(first) is type(second) and first == second
    assert (canonical(first) == canonical(second)) == same
    assert (digest("m:M", {}, {"a": first}) == digest("m:M", {}, {"a": second})) == same


def test_types_tell_values_apart():
    names = [digest("m:M", {}, {"a": value}) for value in (1, 1.0, "1", True, "true", "1.0")]
    assert len(set(names)) == len(names)


def test_minus_zero_is_zero():
    assert canonical(-0.0) == canonical(0.0) == "0.0"
    assert digest("m:M", {}, {"a": -0.0}) == digest("m:M", {}, {"a": 0.0})


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_their_text(value):
    assert float(canonical(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, object(), {"a": [math.nan]}, {1, 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ConfigError):
        canonical(value)


def test_everything_that_is_computed_enters_the_name():
    variants = [
        digest("m:M", {}, {}),
        digest("m:N", {}, {}),
        digest("m:M", {"steps": 1}, {}),
        digest("m:M", {}, {"steps": 1}),
        digest("m:M", {}, {}, 1),
        digest("m:M", {}, {"a": "x", "b": "y"}),
        digest("m:M", {}, {"a": 'x","b":"y'}),
    ]
    assert len(set(variants)) == len(variants)


@given(st.lists(PARAMETERS, min_size=1, max_size=4), st.lists(OPTIONS, min_size=1, max_size=2))
def test_bulk_and_single_agree(points, options):
    texts = [experiment_text("m:M", option) for option in options]
    bodies = [
        b",".join(itertools.chain(*(parameter_texts(name, [point[name]]) for name in sorted(point))))
        for point in points
    ]
    codes = [i % len(options) for i in range(len(points))]
    bulk = [name.hex() for name in digests(texts, codes, bodies, [0, 5])]
    assert bulk == [
        digest("m:M", options[code], point, replicate)
        for code, point in zip(codes, points, strict=True)
        for replicate in (0, 5)
    ]


def test_outcomes():
    assert [outcome for outcome in Outcome if outcome.has_data] == [Outcome.OK, Outcome.NAN]
    failed = {outcome for outcome in Outcome if outcome.failed}
    assert failed == {Outcome.RAISED, Outcome.TIMEOUT, Outcome.KILLED}
    assert Outcome.MISSING == 0, "it is the fill value of the store"
    assert Outcome.NAN.word == "nan"
    assert all(0 <= outcome < 256 for outcome in Outcome), "it stands in one byte"
