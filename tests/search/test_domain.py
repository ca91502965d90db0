"""The space of a search: words, the unit cube and back, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign.domain import Categorical, Continuous, Domain, Integer, Lattice
from staffa.errors import ConfigError

WORDS: dict[str, Any] = {
    "rate": [0.001, 1.0, "log"],
    "shift": [-1.0, 3.0],
    "leaps": [1, 32, "int"],
    "steps": [1, 1024, "int", "log"],
    "mass": {"choice": ["unit", "diagonal", "dense"]},
    "warm": {"choice": [True, False]},
    "size": {"grid": [16, 64, 256]},
    "width": {"linspace": [0.5, 2.0, 4]},
    "decay": {"logspace": [0.1, 10, 3]},
    "kernel": {"width": [0.1, 1], "shape": {"power": [1, 3, "int"]}},
}


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain.read(WORDS)


def test_every_kind_of_axis_is_read(domain: Domain) -> None:
    assert dict(domain.axes) == {
        "rate": Continuous(0.001, 1.0, log=True),
        "shift": Continuous(-1.0, 3.0),
        "leaps": Integer(1, 32),
        "steps": Integer(1, 1024, log=True),
        "mass": Categorical(("unit", "diagonal", "dense")),
        "warm": Categorical((True, False)),
        "size": Lattice((16, 64, 256)),
        "width": Lattice((0.5, 1.0, 1.5, 2.0)),
        "decay": Lattice((0.1, 1.0, 10.0)),
        "kernel.width": Continuous(0.1, 1.0),
        "kernel.shape.power": Integer(1, 3),
    }
    kinds = [axis.kind for axis in domain.axes.values()]
    assert kinds == ["float", "float", "int", "int", "str", "bool", "int", "float", "float", "float", "int"]
    assert domain.dimension == 11 and domain.names[-1] == "kernel.shape.power"


def test_words_are_read_back(domain: Domain) -> None:
    assert Domain.read(domain.words()) == domain and Domain.read(domain) is domain


def test_python_may_write_tuples_and_axes() -> None:
    said = Domain.read({"a": (0.001, 1.0, "log"), "b": (1, 32, "int"), "c": (0, 1), "d": Lattice((1, 2))})
    assert said.axes["a"] == Continuous(0.001, 1.0, log=True) and said.axes["b"] == Integer(1, 32)
    assert said.axes["c"] == Continuous(0.0, 1.0), "two whole numbers without `int` are the ends of a range of floats"
    assert said.axes["d"] == Lattice((1, 2))


def test_the_cube_by_hand(domain: Domain) -> None:
    low, middle, high = domain.decode(np.array([[0.0] * 11, [0.5] * 11, [1.0] * 11]))
    assert low == {
        **{"rate": 0.001, "shift": -1.0, "leaps": 1, "steps": 1, "mass": "unit", "warm": True, "size": 16},
        **{"width": 0.5, "decay": 0.1, "kernel.width": 0.1, "kernel.shape.power": 1},
    }
    assert high == {
        **{"rate": 1.0, "shift": 3.0, "leaps": 32, "steps": 1024, "mass": "dense", "warm": False, "size": 256},
        **{"width": 2.0, "decay": 10.0, "kernel.width": 1.0, "kernel.shape.power": 3},
    }
    assert middle["rate"] == pytest.approx(math.sqrt(0.001)) and middle["shift"] == 1.0
    assert (middle["leaps"], middle["mass"], middle["warm"], middle["width"]) == (17, "diagonal", False, 1.5)
    assert middle["steps"] == 32, "the geometric middle of 1 and 1,025"
    assert [type(value) for value in middle.values()] == [float, float, int, int, str, bool, int, *[float] * 3, int]


def test_bins_of_a_discrete_axis_and_their_middles() -> None:
    mass = Categorical(("a", "b", "c", "d"))
    assert [mass.decode(u) for u in (0.0, 0.2499, 0.25, 0.5, 0.75, 1.0)] == ["a", "a", "b", "c", "d", "d"]
    assert [mass.encode(value) for value in "abcd"] == [0.125, 0.375, 0.625, 0.875]
    assert Integer(3, 6).encode(4) == 0.375
    counts = np.bincount(Integer(1, 4, log=True).decode_column((np.arange(4000) + 0.5) / 4000))[1:]
    expected = 4000 * np.diff(np.log(np.arange(1, 6))) / math.log(5)
    assert np.abs(counts - expected).max() <= 1, "a bin is as wide as ln(k + 1) - ln(k)"


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=11, max_size=11))
def test_encoding_is_the_inverse_of_decoding(point: list[float]) -> None:
    domain = Domain.read(WORDS)
    params = domain.decode([point])
    assert domain.why_not(params[0]) == ""
    encoded = domain.encode(params)
    again = domain.decode(encoded)[0]
    for name, axis in domain.axes.items():
        exact = axis.kind != "float" or isinstance(axis, Lattice)
        assert again[name] == (params[0][name] if exact else pytest.approx(params[0][name], rel=1e-12, abs=1e-12))
    assert np.allclose(domain.snapped([point]), encoded, atol=1e-12)
    sides = dict(zip(domain.names, point, strict=True))
    for name in ("rate", "shift", "kernel.width"):
        assert encoded[0, domain.names.index(name)] == pytest.approx(sides[name], abs=1e-12)


@pytest.mark.parametrize("axis", [Integer(-5, 2**39), Integer(1, 2**40 - 1, log=True), Integer(7, 1000, log=True)])
def test_every_whole_number_is_found_again(axis: Integer) -> None:
    values = np.unique(np.concatenate([axis.low + np.arange(500), axis.high - np.arange(500)]))
    assert (axis.decode_column(axis.encode_column(values)) == values).all()


def test_columns_are_the_same_as_rows(domain: Domain) -> None:
    points = np.random.default_rng(1).random((200, domain.dimension))
    columns, rows = domain.decode_columns(points), domain.decode(points)
    assert all(columns[name].tolist() == [row[name] for row in rows] for name in domain.names)
    assert (domain.encode_columns(columns) == domain.encode(rows)).all()
    as_objects = {name: np.array(values.tolist(), dtype=object) for name, values in columns.items()}
    assert (domain.encode_columns(as_objects) == domain.encode(rows)).all()
    assert domain.feasible(columns).all()


def test_columns_tell_what_is_outside() -> None:
    domain = Domain.read({"rate": [0.1, 1.0], "mass": {"choice": ["unit", "dense"]}})
    columns = {"rate": [0.5, 2.0, math.nan, 1.0], "mass": ["unit", "unit", "dense", "sparse"]}
    assert domain.feasible(columns).tolist() == [True, False, False, False]
    with pytest.raises(ConfigError, match=r"parameters\[1\]: rate = 2.0 is not a number of 0.1 to 1.0"):
        domain.encode_columns(columns)
    with pytest.raises(ConfigError, match="'mass' is missing"):
        domain.encode_columns({"rate": [0.5]})
    with pytest.raises(ConfigError, match="'mas' is no parameter") as caught:
        domain.feasible({"rate": [0.5], "mas": ["unit"]})
    assert "'mass'" in caught.value.hint
    assert not domain.feasible({"rate": ["a"], "mass": ["unit"]}).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"rate": 1}, ""),
        ({"rate": None}, "'rate' is missing"),
        ({"rate": 2.0}, "rate = 2.0 is not a number of 0.1 to 1.0"),
        ({"rate": math.nan}, "rate = nan"),
        ({"rate": "0.5"}, "rate = '0.5'"),
        ({"rate": True}, "rate = True"),
        ({"leaps": 2.0}, "leaps = 2.0 is not a whole number of 1 to 3"),
        ({"leaps": True}, "leaps = True"),
        ({"leaps": 4}, "leaps = 4"),
        ({"mass": "unot"}, "mass = 'unot' is not one of 'unit', 'dense'"),
        ({"mass": ["unit"]}, "mass = ['unit']"),
        ({"size": 17}, "size = 17 is not one of 16, 64"),
        ({"raet": 1.0}, "'raet' is no parameter of the search; did you mean 'rate'?"),
    ],
)
def test_why_parameters_are_infeasible(change: dict[str, Any], reason: str) -> None:
    words = {
        "rate": [0.1, 1.0],
        "leaps": [1, 3, "int"],
        "mass": {"choice": ["unit", "dense"]},
        "size": {"grid": [16, 64]},
    }
    domain, good = Domain.read(words), {"rate": 0.5, "leaps": 2, "mass": "unit", "size": 64}
    params = {name: value for name, value in {**good, **change}.items() if value is not None}
    assert domain.why_not(params).startswith(reason) and bool(domain.why_not(params)) == bool(reason)
    if reason:
        with pytest.raises(ConfigError, match=r"parameters\[1\]"):
            domain.encode([good, params])


@pytest.mark.parametrize(
    ("earlier", "later", "expands"),
    [
        ([0.1, 1.0], [0.1, 1.0], True),
        ([0.1, 1.0], [0.01, 1.0, "log"], True),
        ([0.1, 1.0], [0.2, 2.0], False),
        ([1, 4, "int"], [1, 8, "int", "log"], True),
        ([1, 4, "int"], [1.0, 8.0], False),
        ({"choice": ["a"]}, {"choice": ["b", "a"]}, True),
        ({"choice": ["a", "b"]}, {"choice": ["a", "c"]}, False),
        ({"grid": [1, 2]}, {"grid": [1, 2, 4]}, True),
        ({"grid": [1, 2]}, [1, 4, "int"], True),
        ({"grid": [1, 5]}, [1, 4, "int"], False),
        ([1, 4, "int"], {"grid": [1, 2, 3, 4]}, False),
    ],
)
def test_what_expands_a_domain(earlier: Any, later: Any, expands: bool) -> None:
    assert Domain.read({"x": later}).expands(Domain.read({"x": earlier})) is expands
    assert not Domain.read({"x": later, "y": [0, 1]}).expands(Domain.read({"x": earlier})), "the earlier lack y"


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ({}, "search.space is empty", "rate"),
        ([1, 2], "search.space: [1, 2] must be a mapping", "rate"),
        ({"x": [1.0, 0.5]}, "search.space.x: [1.0, 0.5]: low must be below high", ""),
        ({"x": [0.0, 1.0, "log"]}, "must be above 0", ""),
        ({"x": [0.1, 1.0, "lgo"]}, "search.space.x: 'lgo' is no scale", "'log'"),
        ({"x": [0.1, 1.0, "log", "log"]}, "says one word twice", ""),
        ({"x": [1, 2.5, "int"]}, "the ends of an int range must be whole numbers", ""),
        ({"x": [0, 2**41, "int"]}, "too many whole numbers", "without int"),
        ({"x": [16, 64, 256]}, "search.space.x: 256 is no scale", "{grid: [16, 64, 256]}"),
        ({"x": ["unit", "dense"]}, "search.space.x: ['unit', 'dense'] is not a range", "{choice: […]}"),
        ({"x": ["1e-3", 1.0]}, "search.space.x: '1e-3' must be a number", "1.0e-3"),
        ({"x": [0.1, math.inf]}, "inf", "finite"),
        ({"x": 0.5}, "search.space.x: 0.5 is not a range", "`parameters`"),
        ({"x": None}, "search.space.x: None is not a range", "[low, high]"),
        ({"x": {}}, "search.space.x is empty", ""),
        ({"x": {"choise": ["a", "b"]}}, "search.space.x.choise", "did you mean 'choice'?"),
        ({"x": {"choice": ["a"], "grid": [1]}}, "search.space.x: says choice, grid", "one of"),
        ({"x": {"choice": ["a", 1]}}, "search.space.x.choice: its values are of several types", ""),
        ({"x": {"choice": ["a", "a"]}}, "search.space.x.choice[1]: 'a' is there twice", ""),
        ({"x": {"choice": [None]}}, "search.space.x.choice[0]: None", ""),
        ({"x": {"grid": ["a", "b"]}}, "are not numbers", "{choice: ['a', 'b']}"),
        ({"x": {"grid": [4, 2]}}, "[4, 2] do not ascend", "[2, 4]"),
        ({"x": {"linspace": [0.0, 1.0]}}, "must be [low, high, number of values]", ""),
        ({"x": {"logspace": [0.0, 1.0, 3]}}, "must be above 0", ""),
        ({"a": {"b": [0, 1]}, "a.b": [0, 1]}, "search.space.a.b: 'a.b' is said twice", "dots"),
        ({"not a name": [0, 1]}, "'not a name' cannot be the name of a parameter", ""),
        ({"trial": [0, 1]}, "'trial' is a reserved name", ""),
        ({True: [0, 1]}, "True cannot be the name", "quote"),
    ],
)
def test_what_is_refused(said: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Domain.read(said)
    assert message in caught.value.message and hint in caught.value.hint
    assert "search.space" in caught.value.message
