"""The space: what it holds, in which order, what it refuses, how fast."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign.identity import find_duplicates, name_trials
from staffa.campaign.points import Column, Points
from staffa.campaign.space import Space
from staffa.errors import ConfigError
from staffa.trial import canonical, digest, experiment_text


def rows(*blocks: dict, seed: int = 7) -> list[dict]:
    return list(Space(blocks, seed).expand().rows())


def refused(*blocks: object, seed: int = 7) -> str:
    with pytest.raises(ConfigError) as caught:
        Space(blocks, seed)
    return str(caught.value)


# ---- kinds of block


def test_an_empty_space_is_one_point_without_parameters():
    assert len(Space([], 0)) == 1
    assert rows() == [{}]


def test_the_first_block_varies_slowest():
    assert rows({"grid": {"a": [1, 2], "b": "x"}}, {"grid": {"c": [True, False]}}) == [
        {"a": 1, "b": "x", "c": True},
        {"a": 1, "b": "x", "c": False},
        {"a": 2, "b": "x", "c": True},
        {"a": 2, "b": "x", "c": False},
    ]


def test_zip_goes_together_and_names_unequal_lengths():
    assert rows({"zip": {"a": [1, 2], "b": ["x", "y"]}}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    message = refused({"grid": {"z": 1}}, {"zip": {"a": [1, 2], "b": ["x"]}})
    assert "space[1].zip" in message and "a 2" in message and "b 1" in message


def test_list_gives_points_and_wants_the_same_names_everywhere():
    assert rows({"list": [{"a": 1, "b": 2}, {"b": 3, "a": 1}]}) == [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    message = refused({"list": [{"a": 1, "width": 2}, {"a": 1, "widht": 2}]})
    assert "space[0].list[1] lacks width" in message
    assert "unknown b" in refused({"list": [{"a": 1}, {"a": 1, "b": 2}]})


def test_linspace_and_logspace_include_both_ends():
    linear = [row["a"] for row in rows({"linspace": {"a": [0, 1, 5]}})]
    assert linear == [0.0, 0.25, 0.5, 0.75, 1.0] and all(type(value) is float for value in linear)
    logarithmic = [row["a"] for row in rows({"logspace": {"a": [0.001, 10, 5]}})]
    assert logarithmic[0] == 0.001 and logarithmic[-1] == 10.0
    np.testing.assert_allclose(np.diff(np.log(logarithmic)), math.log(10.0), rtol=1e-12)
    assert len(rows({"linspace": {"a": [0, 1, 3], "b": [0, 1, 4]}})) == 12


def test_integers_include_both_ends_and_stay_whole():
    assert rows({"integers": {"a": [-1, 2]}}) == [{"a": value} for value in (-1, 0, 1, 2)]
    assert [row["a"] for row in rows({"integers": {"a": [3000, 3010, 5]}})] == [3000, 3005, 3010]
    assert [row["a"] for row in rows({"integers": {"a": [0, 5, 2]}})] == [0, 2, 4]
    points = Space([{"integers": {"a": [0, 2]}}], 1).expand()
    assert [(column.type, column.values) for column in points.columns] == [("int", (0, 1, 2))]


@pytest.mark.parametrize("kind", ["sobol", "latin", "random"])
def test_sampled_ranges(kind):
    body = {"plain": [-2, 3], "rate": [1e-4, 1.0, "log"], "count": [1, 4, "int"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = Space([{kind: body, "points": 1000}], 5).expand()
    plain, rate, count = points.columns
    assert (plain.type, rate.type, count.type) == ("float", "float", "int")
    assert (plain.continuous, rate.continuous, count.continuous) == (True, True, False)
    assert len(plain.values) == 1000 and set(count.values) == {1, 2, 3, 4}
    assert min(plain.values) >= -2.0 and max(plain.values) <= 3.0
    assert abs(np.mean(plain.values) - 0.5) < 0.15
    assert abs(np.median(np.log10(rate.values)) + 2.0) < 0.2
    assert np.bincount(count.codes).min() > 200


def test_latin_has_one_point_in_every_stratum():
    column = Space([{"latin": {"a": [0, 50]}, "points": 50}], 1).expand().column("a")
    assert sorted(int(value) for value in column.values) == list(range(50))


def test_choice_draws_listed_values():
    points = Space([{"choice": {"a": ["x", "x", "x", "y"], "b": [1, 2.5]}, "points": 4000}], 3).expand()
    a, b = points.columns
    assert a.values == ("x", "y") and b.values == (1.0, 2.5)
    assert 0.7 < np.mean(a.codes == 0) < 0.8
    assert abs(np.corrcoef(a.codes, b.codes)[0, 1]) < 0.06


def test_values_that_no_point_has_are_left_out():
    column = Space([{"choice": {"a": list(range(1000))}, "points": 3}], 3).expand().column("a")
    assert len(column.values) <= 3
    column = Space([{"grid": {"a": [1, 2, 3]}}, {"exclude": [{"a": 2}]}], 0).expand().column("a")
    assert column.values == (1, 3) and column.codes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([True, False], "bool", (True, False)),
        ([1, 2, 1], "int", (1, 2)),
        ([1, 2.5], "float", (1.0, 2.5)),
        ([0.0, -0.0], "float", (0.0,)),
        (["1", "a"], "str", ("1", "a")),
        (3, "int", (3,)),
        ("abc", "str", ("abc",)),
    ],
)
def test_the_declared_type(values, kind, read):
    column = Space([{"grid": {"a": values}}], 0).expand().column("a")
    assert (column.type, column.values) == (kind, read)
    assert [type(value).__name__ for value in column.values] == [kind] * len(read)
    assert column.texts() == [canonical(value) for value in read]
    assert column.codes.dtype == np.int32


# ---- conditions


def test_when_applies_to_some_points_and_leaves_the_others_once():
    assert rows(
        {"grid": {"kernel": ["rbf", "linear"]}},
        {"grid": {"width": [0.5, 1.0]}, "when": {"kernel": "rbf"}},
        {"grid": {"seed": [1, 2]}},
    ) == [
        {"kernel": "rbf", "width": 0.5, "seed": 1},
        {"kernel": "rbf", "width": 0.5, "seed": 2},
        {"kernel": "rbf", "width": 1.0, "seed": 1},
        {"kernel": "rbf", "width": 1.0, "seed": 2},
        {"kernel": "linear", "seed": 1},
        {"kernel": "linear", "seed": 2},
    ]


def test_when_on_a_parameter_that_is_itself_conditional():
    found = rows(
        {"grid": {"a": [1, 2]}},
        {"grid": {"b": [1, 2]}, "when": {"a": 2}},
        {"grid": {"c": [1, 2]}, "when": {"b": {"min": 2}}},
    )
    assert found == [{"a": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 2, "c": 1}, {"a": 2, "b": 2, "c": 2}]


def test_ranges_of_sampled_parameters_in_conditions():
    blocks = [
        {"sobol": {"t": [0.0, 1.0]}, "points": 100},
        {"grid": {"b": [1, 2, 3]}, "when": {"t": {"min": 0.5}}},
        {"exclude": [{"t": {"max": 0.1}}, {"b": 3, "t": {"min": 0.9, "max": 1}}]},
    ]
    space = Space(blocks, 2)
    found = list(space.expand().rows())
    assert len(found) == len(space)
    for row in found:
        assert ("b" in row) == (row["t"] >= 0.5)
        assert row["t"] > 0.1 and not (row.get("b") == 3 and row["t"] >= 0.9)


def test_exclude_needs_all_names_of_one_condition():
    assert rows({"grid": {"a": [1, 2], "b": [1, 2, 3]}}, {"exclude": [{"a": 1, "b": [2, 3]}, {"a": 2, "b": 1}]}) == [
        {"a": 1, "b": 1},
        {"a": 2, "b": 2},
        {"a": 2, "b": 3},
    ]


def test_a_parameter_that_never_applies_is_an_empty_column():
    points = Space(
        [
            {"grid": {"a": [1, 2]}},
            {"grid": {"b": [1, 2]}, "when": {"a": 2}},
            {"exclude": [{"a": 2}]},
        ],
        0,
    ).expand()
    column = points.column("b")
    assert column.values == () and column.codes.tolist() == [-1] and column.type == "int"
    assert points.row(0) == {"a": 1}


# ---- length, order, randomness


def test_a_huge_product_is_counted_without_being_expanded():
    names = "abcdef"
    blocks = [{"grid": {name: list(range(1000)) for name in names}}]
    conditions = [{"grid": {"z": [1, 2]}, "when": {"a": 3}}, {"exclude": [{"b": 1, "c": 2}]}]
    started = time.perf_counter()
    assert len(Space(blocks, 0)) == 10**18
    tied = Space(blocks + conditions, 0)
    assert len(tied) == 1001 * (10**6 - 1) * 10**9
    assert time.perf_counter() - started < 2.0
    with pytest.raises(ConfigError, match="at most 100,000,000"):
        tied.expand()
    assert "1.00e+24 points" in refused({"grid": {name: list(range(1000)) for name in "abcdefgh"}})


VALUES = st.one_of(
    st.lists(st.integers(-3, 3), min_size=1, max_size=3),
    st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.0, 0.5, 1.5]), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=2),
)


@st.composite
def conditions(draw: st.DrawFn, known: dict[str, list]) -> dict:
    chosen = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=2, unique=True))
    condition: dict[str, object] = {}
    for name in chosen:
        values = known[name]
        wanted = st.sampled_from(values)
        forms = [wanted, st.lists(wanted, min_size=1, max_size=2)]
        if type(values[0]) in (int, float):
            forms.append(st.builds(lambda low, span: {"min": low, "max": low + span}, wanted, st.just(1)))
        condition[name] = draw(st.one_of(forms))
    return condition


@st.composite
def spaces(draw: st.DrawFn) -> list[dict]:
    """Blocks of listed values with conditions among them."""
    blocks: list[dict] = []
    known: dict[str, list] = {}
    for _ in range(draw(st.integers(0, 4))):
        names = [f"p{len(known) + k}" for k in range(draw(st.integers(1, 2)))]
        kind = draw(st.sampled_from(["grid", "zip", "list"]))
        given = {name: draw(VALUES) for name in names}
        if kind != "grid":
            shortest = min(map(len, given.values()))
            given = {name: values[:shortest] for name, values in given.items()}
        body: object = given
        if kind == "list":
            body = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        block = {kind: body}
        if known and draw(st.booleans()):
            block["when"] = draw(conditions(known))
        blocks.append(block)
        known |= given
    if known and draw(st.booleans()):
        excluded = draw(st.lists(conditions(known), min_size=1, max_size=2))
        blocks.insert(draw(st.integers(0, len(blocks))), {"exclude": excluded})
    return blocks


def matches(condition: dict, point: dict) -> bool:
    def one(name: str, wanted: object) -> bool:
        if name not in point:
            return False
        if isinstance(wanted, dict):
            return wanted["min"] <= point[name] <= wanted["max"]
        return point[name] in (wanted if isinstance(wanted, list) else [wanted])

    return all(one(name, wanted) for name, wanted in condition.items())


def block_points(block: dict) -> list[dict]:
    if "list" in block:
        return block["list"]
    if "zip" in block:
        return [dict(zip(block["zip"], row, strict=True)) for row in zip(*block["zip"].values(), strict=True)]
    return [dict(zip(block["grid"], row, strict=True)) for row in itertools.product(*block["grid"].values())]


def by_hand(blocks: list[dict]) -> Iterator[dict]:
    """What the page says, point by point."""
    points: list[dict] = [{}]
    for block in blocks:
        if "exclude" not in block:
            points = [
                point | more
                for point in points
                for more in (block_points(block) if matches(block.get("when", {}), point) else [{}])
            ]
    excluded = [condition for block in blocks for condition in block.get("exclude", [])]
    return (point for point in points if not any(matches(condition, point) for condition in excluded))


@settings(max_examples=300, deadline=None)
@given(blocks=spaces())
def test_a_space_is_what_the_page_says(blocks):
    expected = list(by_hand(blocks))
    if not expected:
        assert "no point is left" in refused(*blocks)
        return
    space = Space(blocks, 0)
    points = space.expand()
    assert len(space) == points.length == len(expected)
    assert list(points.rows()) == expected
    assert space.names == tuple(column.name for column in points.columns)
    for column in points.columns:
        assert len(column.codes) == points.length
        assert len(set(column.values)) == len(column.values)
        assert set(column.codes.tolist()) - {-1} == set(range(len(column.values)))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["sobol", "latin", "random"]),
    points=st.integers(1, 70),
    cut=st.floats(0.1, 0.9),
    more=VALUES,
)
def test_length_of_sampled_spaces(kind, points, cut, more):
    blocks = [
        {kind: {"t": [0.0, 1.0], "k": [0, 3, "int"]}, "points": points},
        {"grid": {"a": more}, "when": {"t": {"max": cut}}},
    ]
    space = Space(blocks, 11)
    assert len(space) == space.expand().length


def values_of(blocks: list[dict], name: str, seed: int = 7) -> tuple:
    column = Space(blocks, seed).expand().column(name)
    return tuple(column.values[code] for code in column.codes)


@pytest.mark.parametrize("kind", ["sobol", "random", "choice"])
@settings(max_examples=20, deadline=None)
@given(few=st.integers(1, 60), more=st.integers(0, 100))
def test_growing_keeps_the_first_points(kind, few, more):
    body = {"a": [1, 2, 3]} if kind == "choice" else {"a": [0.0, 1.0], "b": [1, 9, "int"]}
    small = list(Space([{kind: body, "points": few}], 1).expand().rows())
    large = list(Space([{kind: body, "points": few + more}], 1).expand().rows())
    assert large[:few] == small


@pytest.mark.parametrize("kind", ["sobol", "latin", "random", "choice"])
def test_each_block_has_its_own_randomness(kind):
    def block(name: str) -> dict:
        return {kind: {name: list(range(100)) if kind == "choice" else [0.0, 1.0]}, "points": 8}

    alone = values_of([block("a")], "a")
    assert values_of([block("a")], "a") == alone
    assert values_of([block("a"), block("b")], "a")[::8] == alone
    assert values_of([block("a"), block("b")], "b")[:8] != alone
    assert values_of([block("b")], "b") != alone
    assert values_of([block("a")], "a", seed=8) != alone
    assert values_of([block("a")], "a", seed=-1) != alone


# ---- columns and points


def test_selecting_points():
    points = Space([{"grid": {"a": [1, 2, 3]}}, {"grid": {"b": "x"}, "when": {"a": 2}}], 0).expand()
    assert list(points.select([2, 1]).rows()) == [{"a": 3}, {"a": 2, "b": "x"}]
    assert list(points.select(np.array([True, False, True])).rows()) == [{"a": 1}, {"a": 3}]
    assert len(points.select([])) == 0
    with pytest.raises(IndexError):
        points.select([True, False])
    with pytest.raises(IndexError):
        points.row(3)
    with pytest.raises(KeyError):
        points.column("c")
    assert points.column("b").take(0) is None and points.column("b").take(1) == "x"


# ---- refusals


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"gird": {"a": [1]}}, ["space[0]", "'gird'", "did you mean 'grid'"]),
        ({"grid": {"a": [1]}, "whne": {"a": 1}}, ["space[0]", "'whne'", "did you mean 'when'"]),
        ({"grid": {"a": [1]}, "zip": {"b": [1]}}, ["space[0]", "one kind", "grid and zip"]),
        ({"points": 3}, ["space[0]", "one kind", "none"]),
        ({}, ["space[0] is empty"]),
        ("grid", ["space[0]", "'grid'", "must be a mapping"]),
        ({"grid": {}}, ["space[0].grid is empty"]),
        ({"grid": None}, ["space[0].grid", "None"]),
        ({"grid": [1, 2]}, ["space[0].grid", "[1, 2]", "must be a mapping"]),
        ({"grid": {"a": []}}, ["space[0].grid.a is empty"]),
        ({"grid": {"a": [1, None]}}, ["space[0].grid.a[1]", "None", "`when:`"]),
        ({"grid": {"a": None}}, ["space[0].grid.a: None"]),
        ({"grid": {"a": [[1]]}}, ["space[0].grid.a[0]", "[1]"]),
        ({"grid": {"experiment.kernel": [{"use": "rbf"}]}}, ["space[0].grid.experiment.kernel[0]", "'rbf'"]),
        ({"grid": {"a": [math.nan]}}, ["space[0].grid.a[0]", "nan", "finite"]),
        ({"grid": {"a": [math.inf]}}, ["space[0].grid.a[0]", "inf", "finite"]),
        ({"grid": {"a": [2**63]}}, ["space[0].grid.a[0]", "64 bits"]),
        ({"grid": {"a": [1, True]}}, ["space[0].grid.a", "several types", "1 (int)", "True (bool)"]),
        ({"grid": {"a": [1, "x"]}}, ["space[0].grid.a", "several types", "'x' (str)"]),
        ({"grid": {"a": [0.1, "1e-3"]}}, ["space[0].grid.a", "write 1.0e-3"]),
        ({"grid": {"a b": [1]}}, ["space[0].grid", "'a b'", "whole words"]),
        ({"grid": {"a..b": [1]}}, ["space[0].grid", "'a..b'"]),
        ({"grid": {"2a": [1]}}, ["space[0].grid", "'2a'"]),
        ({"grid": {"a\n": [1]}}, ["space[0].grid"]),
        ({"grid": {True: [1]}}, ["space[0].grid", "True", "quote"]),
        ({"grid": {"chain": [1]}}, ["space[0].grid", "'chain'", "reserved"]),
        ({"grid": {"experiment": ["a"]}}, ["space[0].grid", "'experiment'", "experiment.use"]),
        ({"grid": {"a": [1]}, "points": 3}, ["space[0].points", "grid"]),
        ({"grid": {"a": [1]}, "when": None}, ["space[0].when is empty"]),
        ({"list": []}, ["space[0].list is empty"]),
        ({"list": {"a": 1}}, ["space[0].list", "must be a list"]),
        ({"list": [{}]}, ["space[0].list[0] is empty"]),
        ({"list": [{"a": 1}, {"a": None}]}, ["space[0].list[1].a", "None"]),
        ({"integers": {"a": [3, 1]}}, ["space[0].integers.a", "low must be below high"]),
        ({"integers": {"a": [0, 2.5]}}, ["space[0].integers.a", "[0, 2.5]", "whole numbers"]),
        ({"integers": {"a": [0, 9, 0]}}, ["space[0].integers.a", "between 1 and"]),
        ({"integers": {"a": [0]}}, ["space[0].integers.a", "[low, high, step]"]),
        ({"integers": {"a": [0, 10**12]}}, ["space[0].integers.a", "between 1 and"]),
        ({"linspace": {"a": [1, 1, 3]}}, ["space[0].linspace.a", "low must be below high"]),
        ({"linspace": {"a": [0, 1]}}, ["space[0].linspace.a", "[0, 1]"]),
        ({"linspace": {"a": [0, 1, 1]}}, ["space[0].linspace.a", "between 2 and"]),
        ({"linspace": {"a": [0, 1, 2.5]}}, ["space[0].linspace.a", "2.5", "whole number"]),
        ({"linspace": {"a": ["1e-3", 1, 5]}}, ["space[0].linspace.a", "'1e-3'", "write 1.0e-3"]),
        ({"linspace": {"a": [-1e308, 1e308, 5]}}, ["space[0].linspace.a", "too wide"]),
        ({"logspace": {"a": [0, 1, 5]}}, ["space[0].logspace.a", "above 0"]),
        ({"sobol": {"temperature": [3.0, 1.0]}, "points": 8}, ["space[0].sobol.temperature", "[3.0, 1.0]"]),
        ({"sobol": {"a": [0.0, 1.0]}}, ["space[0]", "sobol needs `points`"]),
        ({"sobol": {"a": [0.0, 1.0]}, "points": 0}, ["space[0].points", "0"]),
        ({"sobol": {"a": [0.0, 1.0]}, "points": -5}, ["space[0].points", "-5"]),
        ({"sobol": {"a": [0.0, 1.0]}, "points": True}, ["space[0].points", "True"]),
        ({"sobol": {"a": [0.0, 1.0]}, "points": "64"}, ["space[0].points", "'64'"]),
        ({"random": {"a": [0.0, 1.0, "lgo"]}, "points": 4}, ["space[0].random.a", "did you mean 'log'"]),
        ({"random": {"a": [0.0, 1.0, "log"]}, "points": 4}, ["space[0].random.a", "above 0"]),
        ({"latin": {"a": [0.5, 3, "int"]}, "points": 4}, ["space[0].latin.a", "whole numbers"]),
        ({"latin": {"a": [0, 2**60, "int"]}, "points": 4}, ["space[0].latin.a", "at most"]),
        ({"latin": {"a": 3}, "points": 4}, ["space[0].latin.a", "3"]),
        ({"choice": {"a": []}, "points": 4}, ["space[0].choice.a is empty"]),
        ({"exclude": []}, ["space[0].exclude is empty"]),
        ({"exclude": [{"a": 1}]}, ["space[0].exclude[0]", "'a'", "no parameter"]),
        ({"exclude": [{"a": 1}], "points": 3}, ["space[0].points", "exclude"]),
    ],
)
def test_refused_blocks(block, said):
    message = refused(block)
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"populaton": 64}, ["'populaton'", "did you mean 'population'"]),
        ({"width": 1.0}, ["'width'", "not declared before"]),
        ({"later": 1}, ["'later'", "not declared before"]),
        ({}, ["space[2].when is empty"]),
        ([], ["space[2].when", "must be a mapping"]),
        ({"population": 65}, ["space[2].when.population", "never 65", "nearest: 64, 256"]),
        ({"population": 64.0}, ["64.0 is float", "population is int"]),
        ({"population": True}, ["True is bool"]),
        ({"population": []}, ["space[2].when.population is empty"]),
        ({"population": None}, ["space[2].when.population", "None"]),
        ({"population": {"mni": 3}}, ["'mni'", "did you mean 'min'"]),
        ({"population": {"min": 3, "max": 2}}, ["min must not be above max"]),
        ({"population": {"min": "3"}}, ["space[2].when.population.min", "'3'"]),
        ({"population": {}}, ["space[2].when.population is empty"]),
        ({"kernel": {"min": 3}}, ["kernel is str", "no range"]),
        ({"kernel": "rbff"}, ["never 'rbff'", "did you mean 'rbf'"]),
        ({"t": 0.5}, ["space[2].when.t", "0.5", "{min: 0.1, max: 2.0}"]),
    ],
)
def test_refused_conditions(condition, said):
    message = refused(
        {"grid": {"population": [64, 256], "kernel": ["rbf", "linear"]}},
        {"random": {"t": [0.0, 1.0]}, "points": 3},
        {"grid": {"width": [1.0]}, "when": condition},
        {"grid": {"later": [1]}},
    )
    for words in said:
        assert words in message


def test_a_name_stands_once():
    message = refused({"grid": {"a": [1]}}, {"sobol": {"a": [0.0, 1.0]}, "points": 2})
    assert "space[1].sobol.a" in message and "space[0].grid.a" in message


@pytest.mark.parametrize("blocks", [{"grid": {"a": [1]}}, "grid", None])
def test_a_space_is_a_list(blocks):
    with pytest.raises(ConfigError, match=r"space: .* must be a list of blocks"):
        Space(blocks, 0)


# ---- identity


def named(points: Points, replicates: int) -> tuple[np.ndarray, list[str]]:
    """Names in bulk, and the same one by one; the experiment's options follow `experiment.` columns."""
    options = [
        {name.removeprefix("experiment."): value for name, value in row.items() if "experiment." in name}
        for row in points.rows()
    ]
    texts = sorted({experiment_text("m:M", option) for option in options})
    codes = np.array([texts.index(experiment_text("m:M", option)) for option in options], np.int32)
    single = [
        digest("m:M", option, {k: v for k, v in row.items() if "experiment." not in k}, replicate)
        for row, option in zip(points.rows(), options, strict=True)
        for replicate in range(replicates)
    ]
    return name_trials(points, replicates, texts, codes), single


@pytest.mark.parametrize("stretch", [3, 65_536])
@settings(max_examples=60, deadline=None)
@given(blocks=spaces(), replicates=st.integers(1, 3))
def test_bulk_names_are_the_names_of_single_trials(stretch, blocks, replicates):
    extra = {"grid": {"experiment.width": [1, 2], "text": ['é"\\', "\x00,"]}}
    try:
        points = Space([*blocks, extra, {"random": {"u": [0.0, 1.0]}, "points": 2}], 0).expand()
    except ConfigError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("staffa.campaign.identity.STRETCH", stretch)
        bulk, single = named(points, replicates)
    assert bulk.shape == (points.length * replicates, 16) and bulk.dtype == np.uint8
    assert [row.tobytes().hex() for row in bulk] == single


def test_names_of_many_sampled_values():
    blocks = [{"random": {"u": [0.0, 1.0], "v": [-1.0, 1.0]}, "points": 50_000}]
    blocks += [{"grid": {"w": [1, 2]}, "when": {"u": {"min": 0.5}}}]
    points = Space(blocks, 0).expand().select(np.arange(70_000))
    bulk = name_trials(points, 1, [experiment_text("m:M", {})], np.zeros(points.length, np.int32))
    for index in (0, 1, 65_535, 65_536, points.length - 1):
        assert bulk[index].tobytes().hex() == digest("m:M", {}, points.row(index))


def test_a_space_without_parameters_has_names():
    bulk, single = named(Space([], 0).expand(), 3)
    assert [row.tobytes().hex() for row in bulk] == single == [digest("m:M", {}, {}, r) for r in range(3)]


def test_duplicates_are_found_with_the_first():
    points = Space([{"list": [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 3}, {"a": 2}, {"a": 1}]}], 0).expand()
    names = name_trials(points, 1, ["{}"], np.zeros(6, np.int32))
    assert find_duplicates(names).tolist() == [[0, 2], [1, 4], [0, 5]]
    assert find_duplicates(names[:2]).shape == (0, 2)
    assert find_duplicates(names[:0]).shape == (0, 2)


@given(codes=st.lists(st.integers(0, 5), max_size=30))
def test_duplicates_by_hand(codes):
    names = np.zeros((len(codes), 16), np.uint8)
    names[:, 9] = codes
    expected = [[codes.index(code), i] for i, code in enumerate(codes) if codes.index(code) < i]
    assert find_duplicates(names).tolist() == expected


# ---- cost


def test_a_hundred_thousand_trials_are_planned_quickly_and_small():
    import scipy.stats.qmc  # noqa: F401  (a second of import is not what is measured)

    blocks = [
        {"grid": {"a": list(range(10)), "b": list("abcdefghij")}},
        {"sobol": {"t": [0.1, 10.0, "log"], "u": [0.0, 1.0]}, "points": 1000},
        {"linspace": {"w": [0, 1, 2]}, "when": {"a": [1]}},
    ]
    started = time.perf_counter()
    points = Space(blocks, 0).expand()
    expanded = time.perf_counter()
    name_trials(points, 1, ["{}"], np.zeros(points.length, np.int32))
    done = time.perf_counter()
    assert points.length == 110_000
    assert expanded - started < 0.5 and done - expanded < 1.5
    assert sum(column.codes.nbytes for column in points.columns) == 5 * 4 * points.length


def test_planning_a_space_needs_no_scipy_until_it_draws():
    code = (
        "import sys; from staffa.campaign import space, identity;"
        "space.Space([{'sobol': {'a': [0, 1]}, 'points': 4}], 0);"
        "sys.exit(', '.join({'scipy', 'jax', 'dask', 'zarr', 'pyarrow', 'pandas'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_columns_are_frozen():
    column = Column("a", "int", (1,), np.zeros(1, np.int32))
    with pytest.raises(AttributeError):
        column.name = "b"
