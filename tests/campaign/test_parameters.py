"""Section `parameters`: one tree however it is written, constants and formulas as columns, and all that is refused."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import staffa
from staffa.campaign import config
from staffa.campaign.blocks import trial_names
from staffa.campaign.config import Declaration, difference, dump, from_mapping, load_frozen
from staffa.campaign.declared import Offered, anything
from staffa.campaign.formulas import read_formula
from staffa.campaign.identity import is_free, run_hash
from staffa.campaign.parameters import WORDS
from staffa.campaign.plan import Earlier, Group, Plan, Rows
from staffa.campaign.unfolding import unfold
from staffa.errors import ConfigError
from staffa.experiment.parameters import Parameter
from staffa.experiment.protocol import Output, Schema
from staffa.trial import digest

X = Output("x", "float32", (), ())
WALK = {"campaign": {"name": "t"}, "experiment": {"use": "model.py:Walk"}}


def declared(parameters: Any, *space: Any, **sections: Any) -> Declaration:
    return from_mapping({**WALK, "space": list(space), "parameters": parameters, **sections}, directory=Path())


def planned(
    declaration: Declaration, offer: Any = anything, earlier: Earlier | None = None, static: tuple[str, ...] = ()
) -> tuple[Plan, Rows]:
    def describe(group: Group, trials: Iterable[Mapping[str, Any]]) -> Schema:
        assert next(iter(trials)).keys() == {*group.static, *group.traced}
        return Schema((X,), {}, 16, None)

    def vectorize(block: Mapping[str, Any], names: Collection[str]) -> tuple[str, tuple[str, ...]]:
        return "vmap", static

    return unfold(declaration.campaign, "code", describe, vectorize, earlier, offer)


def columns(declaration: Declaration, offer: Any = anything) -> dict[str, list[Any]]:
    plan, rows = planned(declaration, offer)
    everyone = np.arange(plan.trials)
    return {name: rows.column(name, everyone).tolist() for name, _ in plan.parameters}


def refused(declaration: Declaration, offer: Any = anything) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        planned(declaration, offer)
    return caught.value


# --- one tree --------------------------------------------------------------------------------------

PARTS = st.sampled_from(["a", "b", "kernel", "width_2"])
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(".".join)
VALUES = st.booleans() | st.integers(-5, 5) | st.floats(-1e300, 1e300).map(lambda x: x + 0.0) | st.text(max_size=5)
TREES = st.dictionaries(NAMES, VALUES, min_size=1, max_size=6)


def nested(names: Mapping[str, Any], cuts: int, leaf: Any) -> dict[str, Any]:
    """The same names with their dots as nesting, some of them, as `cuts` says bit by bit."""
    tree: dict[str, Any] = {}
    for number, (name, value) in enumerate(names.items()):
        parts, node = name.split("."), tree
        at = (cuts >> number) % len(parts)
        for part in parts[:at]:
            node = node.setdefault(part, {})
        node[".".join(parts[at:])] = leaf(value)
    return tree


def clear(names: Collection[str]) -> bool:
    """Whether no name is a branch of another: only dotted keys can say both."""
    return not any(other.startswith(f"{name}.") for name in names for other in names)


@given(TREES.filter(clear), st.integers(0, 2**12), st.booleans())
def test_dots_and_nesting_are_the_same(names: dict[str, Any], cuts: int, bare: bool) -> None:
    leaf = (lambda value: value) if bare else (lambda value: {"value": value, "comment": "c"})
    found = declared(nested(names, cuts, leaf)).campaign.parameters
    assert found == declared({name: leaf(value) for name, value in names.items()}).campaign.parameters
    assert {name: said.value for name, said in found.items()} == names
    assert all(type(said.value) is type(names[name]) for name, said in found.items())


@given(TREES, st.data())
def test_a_frozen_tree_comes_back(names: dict[str, Any], data: st.DataObject) -> None:
    said = {}
    for name, value in names.items():
        words = {
            "value": value,
            "comment": data.draw(st.text(max_size=9)),
            "unit": data.draw(st.sampled_from(["", "µm"])),
        }
        words["annotations"] = data.draw(st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=2))
        if isinstance(value, int | float) and not isinstance(value, bool):
            words["range"] = data.draw(st.sampled_from([[value, None], [None, value], [value, value]]))
        said[name] = words
    first = declared(said)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "campaign.yaml"
        path.write_text(dump(first), encoding="utf-8")
        second = load_frozen(path)
    assert second.campaign == first.campaign and difference(first, second) == []
    assert run_hash(first, "") == run_hash(second, "")


def test_a_stronger_tier_presets_a_value_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "wide.yaml").write_text("set: {parameters: {kernel.width: 2}}\n")
    path = tmp_path / "campaign.yaml"
    path.write_text(
        "campaign: {name: t}\nexperiment: {use: 'model.py:Walk'}\nparameters:\n"
        "  kernel:\n    width: {value: 1.0, unit: mm}\n    depth: 3\n"
    )
    found = config.load(path, profile="wide", environ={}, overrides=["parameters.kernel.width.comment=how wide"])
    assert found.campaign.parameters["kernel.width"].parameter() == Parameter(2, comment="how wide", unit="mm")
    assert str(found.where("parameters.kernel.width.unit")).endswith("campaign.yaml:5")
    assert str(found.where("parameters.kernel.width.value")).endswith("wide.yaml:1")
    preset = config.load(
        path, environ={"STAFFA_PARAMETERS__KERNEL__DEPTH": "5"}, overrides=["parameters.kernel={width: 7}"]
    )
    assert {name: said.value for name, said in preset.campaign.parameters.items()} == {
        "kernel.width": 7,
        "kernel.depth": 5,
    }


@pytest.mark.parametrize(
    ("written", "complaint", "hint"),
    [
        ("k: {w: 1}\n  k.w: 2", "c.yaml:4: parameters.k.w.value: said twice, first in c.yaml:3", "dots"),
        ("width: [1, 2]", "c.yaml:3: parameters.width.value: [1, 2] is not one value", "explored in `space`"),
        ("width: {value: 1, commment: c}", "parameters.width.commment: unknown key", "did you mean 'comment'?"),
        ("width: {value: 1, depth: 2}", "parameters.width.depth: unknown key", "known: "),
        ("width: {value: 3.0, range: [0, 2]}", "parameters.width.value: 3.0 is not within [0, 2]", "every trial has"),
        ("width: {value: a, range: [0, 2]}", "parameters.width.range: [0, 2]: a str has none", "Least"),
        ("width: {range: [2, 0]}", "parameters.width.range: [2, 0]: low is above high", "Least"),
        ("width: {value: 3, choices: [1, 2]}", "parameters.width.value: 3 is none of [1, 2]", "every trial has"),
        ("width: {value: 1.5, type: int}", "parameters.width.value: 1.5 is float, the parameter is int", "every"),
        ("width: {value: 1, derived: a + b}", "parameters.width.derived: 'a + b' beside value: 1", "formula"),
        ("width: {derived: a +}", "parameters.width.derived: 'a +' is not a formula", "such as"),
        ("width: {derived: 'a.__class__()'}", "is not a formula: 'a.__class__()' is no part of one", "such as"),
        ("width: {type: double}", "parameters.width.type: 'double' is not 'bool', 'int', 'float' or 'str'", ""),
        ("trial: 3", "parameters.trial: 'trial' is a reserved name", "reserved"),
        ("two words: 3", "parameters.two words: 'two words' cannot be the name of a parameter", "whole words"),
        ("width:", "parameters.width: says nothing", "take it away"),
        ("width: {comment: 3}", "parameters.width.comment: 3 is not text", "for people"),
    ],
)  # fmt: skip
def test_what_is_no_parameter_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, complaint: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"campaign: {{name: t}}\nparameters:\n  {written}\nexperiment: {{use: w}}\n")
    with pytest.raises(ConfigError) as caught:
        config.load("c.yaml", environ={})
    assert complaint in caught.value.message and caught.value.message.startswith("c.yaml:")
    assert hint in caught.value.hint


# --- columns ---------------------------------------------------------------------------------------

GRID = {"grid": {"temperature": [1, 2]}}


def test_what_is_not_explored_is_the_same_in_every_trial() -> None:
    found = declared({"kernel": {"width": 0.5, "kind": "rbf"}, "n": 3, "on": True}, GRID, replicates=2)
    plan, rows = planned(found)
    assert columns(found) == {
        "temperature": [1, 1, 2, 2], "kernel.width": [0.5] * 4, "kernel.kind": ["rbf"] * 4,
        "n": [3] * 4, "on": [True] * 4,
    }  # fmt: skip
    assert plan.explored == ("temperature",) and plan.groups[0].static == {"kernel.kind": "rbf"}
    given = {"temperature": 2, "kernel.width": 0.5, "kernel.kind": "rbf", "n": 3, "on": True}
    assert rows.digests[3].tobytes().hex() == digest("model.py:Walk", {}, given, 1)
    assert Plan.loads(plan.dumps()) == plan
    alone = columns(declared({"n": 3}))
    assert alone == {"n": [3]}, "no space is one point"


def test_a_constant_has_the_name_of_the_same_value_explored() -> None:
    constant = trial_names(declared({"n": 3, "t": 1.0}).campaign)
    explored = trial_names(declared({"t": 1.0}, {"grid": {"n": [2, 3]}}).campaign)
    alone = trial_names(declared({}, {"grid": {"t": [1.0]}}, {"grid": {"n": [3]}}).campaign)
    assert constant[0].tobytes() == explored[1].tobytes() == alone[0].tobytes()


def test_what_is_said_for_people_names_no_trial() -> None:
    plain = declared({}, GRID)
    said = {"comment": "c", "unit": "K", "annotations": {"a": 1}, "range": [0, 9], "choices": [1, 2]}
    told = declared({"temperature": said}, GRID)
    assert (trial_names(plain.campaign) == trial_names(told.campaign)).all()
    assert run_hash(plain, "") == run_hash(told, "") and "parameters" not in dump(plain)
    assert [row[0] for row in difference(plain, told) if not is_free(row[0])] == []
    other = declared({"temperature": {**said, "type": "float"}, "n": 1}, GRID)
    assert [row[0] for row in difference(plain, other) if not is_free(row[0])] == [
        "parameters.n.value", "parameters.temperature.type",
    ]  # fmt: skip
    assert run_hash(plain, "") != run_hash(other, "")


def test_explored_values_have_the_declared_type() -> None:
    assert [type(value) for value in columns(declared({"temperature": {"type": "float"}}, GRID))["temperature"]] == [
        float
    ] * 2
    assert columns(declared({"temperature": 0.5}, GRID)) == {"temperature": [1.0, 2.0]}, "its own value stands back"
    error = refused(declared({"temperature": "warm"}, GRID))
    assert error.message == "space[0].grid.temperature: 1 is int, 'temperature' is str"
    assert error.hint == "declared in parameters.temperature"
    error = refused(declared({"n": {"type": "int"}}, {"linspace": {"n": [0.0, 1.0, 3]}}))
    assert error.message == "space[0].linspace.n: 0.0 is float, 'n' is int"


@pytest.mark.parametrize(
    ("said", "block", "complaint"),
    [
        ({"range": [0, 1.5]}, GRID, "space[0].grid.temperature: 2 is not within [0, 1.5]"),
        ({"range": [1.5, None]}, GRID, "space[0].grid.temperature: 1 is not within [1.5, …]"),
        ({"choices": [1, 3]}, GRID, "space[0].grid.temperature: 2 is none of [1, 3]"),
        (
            {"range": [0, 1]},
            {"grid": {"temperature": ["a"]}},
            "space[0].grid.temperature: 'a' is str, which has no range",
        ),
        ({"range": [0, 1]}, {"sobol": {"temperature": [0.1, 9.0]}, "points": 8}, "is not within [0, 1]"),
        ({"derived": "n + 1"}, GRID, "space[0].grid.temperature: 'temperature' is derived: 'n + 1'"),
    ],
)
def test_explored_values_lie_within_what_is_declared(said: Any, block: Any, complaint: str) -> None:
    error = refused(declared({"temperature": said, "n": 1}, block))
    assert complaint in error.message and "parameters.temperature" in error.hint


def test_a_value_out_of_range_is_told_with_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from staffa.execution.validation import validation

    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(
        "import staffa\nclass Walk(staffa.Experiment):\n    vectorize = 'off'\n"
        "    def initialize(self, key, params): return 0.0\n"
        "    def step(self, key, state, params): return state, {'x': params['t'] + params['width']}\n"
    )
    Path("c.yaml").write_text(
        "campaign: {name: t}\nexperiment: {use: 'model.py:Walk'}\n"
        "space:\n  - grid:\n      t: [1, 2]\n      wigth:\n      - 4\n"
        "parameters:\n  t: {range: [0, 1]}\n  width: {range: [0, 3], value: 2}\n  m: {derived: t + k}\n"
    )
    found = [
        (one["level"], one["file"], one["line"], one["field"], one["text"])
        for one in validation("c.yaml")["complaints"]
    ]
    assert found == [
        ("error", "c.yaml", 11, "parameters.m.derived", "'t + k': there is no parameter 'k'"),
        ("error", "c.yaml", 5, "space[0].grid.t", "2 is not within [0, 1]"),
        ("warning", "c.yaml", 6, "space[0].grid.wigth", "'wigth' is explored, and declared nowhere"),
    ]
    with pytest.raises(ConfigError, match=r"^c.yaml:11: parameters.m.derived: 't \+ k'"):
        staffa.plan("c.yaml")


def test_where_the_space_is_silent_the_declared_value_stands() -> None:
    blocks = {"grid": {"kernel": ["rbf", "flat"]}}, {"grid": {"width": [0.5, 1.0]}, "when": {"kernel": "rbf"}}
    assert columns(declared({}, *blocks))["width"] == [0.5, 1.0, None]
    assert columns(declared({"width": 0.5}, *blocks))["width"] == [0.5, 1.0, 0.5]
    assert columns(declared({"width": {"type": "float"}}, *blocks))["width"] == [0.5, 1.0, None]


# --- formulas --------------------------------------------------------------------------------------


def test_formulas_are_columns_that_follow() -> None:
    found = declared(
        {
            "volume": {"derived": "area * height", "unit": "mm3"},
            "area": {"derived": "pi * width ** 2 if kind == 'round' else width ** 2"},
            "steps": {"derived": "max(2, floor(width)) * 10"},
            "height": 2.0,
        },
        {"grid": {"width": [1.0, 3.0], "kind": ["round", "square"]}},
    )
    assert columns(found) == {
        "width": [1.0, 1.0, 3.0, 3.0],
        "kind": ["round", "square"] * 2,
        "volume": [2 * math.pi, 2.0, 18 * math.pi, 18.0],
        "area": [math.pi, 1.0, 9 * math.pi, 9.0],
        "steps": [20, 20, 30, 30],
        "height": [2.0] * 4,
    }
    plan, _ = planned(found)
    assert dict(plan.parameters)["steps"] == "int" and plan.about["volume"].unit == "mm3"
    assert plan.explored == ("width", "kind")


def test_a_trial_is_named_by_the_formula_and_not_by_what_it_gives() -> None:
    def names(formula: str) -> bytes:
        return trial_names(declared({"b": {"derived": formula}}, {"grid": {"a": [1, 2]}}).campaign).tobytes()

    tree = read_formula("2*(a)").tree
    assert names("2 * a")[:16].hex() == digest("model.py:Walk", {}, {"a": 1}, 0, {"b": tree})
    assert names("2*(a)") == names(" 2 * a") != names("a + a")


def test_formulas_of_points_that_lack_something_are_absent() -> None:
    blocks = {"grid": {"kernel": ["rbf", "flat"]}}, {"grid": {"width": [0.5, 1.0]}, "when": {"kernel": "rbf"}}
    assert columns(declared({"area": {"derived": "width ** 2"}}, *blocks))["area"] == [0.25, 1.0, None]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"b": {"derived": "a + c"}}, "parameters.b.derived: 'a + c': there is no parameter 'c'"),
        ({"b": {"derived": "c"}, "c": {"derived": "d"}, "d": {"derived": "b"}}, "goes round in a circle: "),
        ({"b": {"derived": "b"}}, "parameters.b.derived: goes round in a circle: b -> b"),
        ({"b": {"derived": "1 / (a - 2)"}}, "parameters.b.derived: '1 / (a - 2)' at a = 2: division by zero"),
        ({"b": {"derived": "a ** 99"}}, "at a = 2: a whole number of more than 64 bits"),
        ({"b": {"derived": "sqrt(-a)"}}, "at a = 1: math domain error"),
        ({"b": {"derived": "exp(1000 * a)"}}, "at a = 1: math range error"),
        ({"b": {"derived": "a / 2", "type": "int"}}, "'a / 2' gives 0.5 is float, the parameter is int"),
        ({"b": {"derived": "a * 2", "range": [0, 3]}}, "parameters.b.derived: 'a * 2' gives 4 is not within [0, 3]"),
        ({"b": {"derived": "kind * 2"}, "kind": "x"}, "at kind = 'x': 'x' is a text"),
        ({"b": {"comment": "no value"}}, "parameters.b: 'b' has no value"),
        ({"experiment.size": 3}, "parameters.experiment.size is an option of the experiment"),
        ({"state": 3}, "parameters.state: 'state' is a column the archive uses itself"),
        ({"x": 3}, "'x' is both a parameter and an output"),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_refused(parameters: Any, complaint: str) -> None:
    assert complaint in refused(declared(parameters, {"grid": {"a": [1, 2]}})).message


@given(st.integers(-9, 9), st.integers(-9, 9), st.floats(0.1, 9), st.sampled_from(["rbf", "flat"]))
def test_formulas_say_what_python_says(a: int, b: int, c: float, kind: str) -> None:
    texts = [
        "a + b * c - a / c", "-a % 5 // 2", "(a - b) ** 2 + c ** 0.5", "a < b <= c or not a == b",
        "a if kind == 'rbf' and a != 0 else b", "min(a, b, c) + max(a, b) + abs(b)",
        "round(c * 10) + int(c) + floor(c) - ceil(c)", "1e-3 * a + +b", "a and 1 / c > 0",
        "sqrt(c) * exp(-c) + log(c) + sin(a) * cos(b) + tan(1) + log2(c) + log10(c)",
    ]  # fmt: skip
    point = {"a": a, "b": b, "c": c, "kind": kind}
    space = {name: getattr(math, name) for name in dir(math)} | {"round": round, "int": int, "abs": abs}
    for text in texts:
        found, expected = read_formula(text)(point), eval(text, {**space, "min": min, "max": max}, dict(point))
        assert found == (bool(expected) if text == "a and 1 / c > 0" else expected), text


@given(st.text(alphabet="ab.()+-*/%<>=!'\"0123456789eE,[]{}:@ \n_x", max_size=40))
def test_no_text_does_more_than_it_should(text: str) -> None:
    """Whatever is written is a formula, or is refused in words; none of it reaches Python."""
    try:
        formula = read_formula(text)
        assert isinstance(formula.canonical, str) and set(formula.names) <= set(formula.canonical.split('"'))
        formula(dict.fromkeys(formula.names, 2))
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9", "(" * 300 + "1" + ")" * 300, "-" * 900 + "1", "a" * 3000, "a if a else", "lambda: 1",
     "[a for a in b]", "__import__('os')", "a.real()", "'a' * 10 ** 9", "a[0]", "f'{a}'", "a := 1", "class", "1j",
     "1e999", "...", "10 ** 400 * 1.0"],
)  # fmt: skip
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_formula(text)({"a": 1})


# --- what experiments declare ----------------------------------------------------------------------

TOLD = {
    "kernel.width": Parameter(1.0, comment="width", unit="mm", range=(0.1, 10)),
    "temperature": Parameter(type="float"),
    "n": Parameter(3, choices=(1, 2, 3)),
    "size": None,
}


def told(block: Mapping[str, Any]) -> Offered:
    return TOLD


def test_defaults_come_with_the_experiment_and_campaigns_preset_them() -> None:
    found = declared({"kernel": {"width": {"value": 2, "comment": "wider"}}}, GRID)
    assert columns(found, told) == {"temperature": [1.0, 2.0], "kernel.width": [2.0] * 2, "n": [3] * 2}
    about = planned(found, told)[0].about
    assert about["kernel.width"] == Parameter(2.0, comment="wider", unit="mm", range=(0.1, 10))
    assert about["n"] == TOLD["n"]
    assert columns(declared({"size": 4}, GRID), told)["size"] == [4, 4], "static, and no more is known of it"


@pytest.mark.parametrize(
    ("parameters", "block", "complaint", "hint"),
    [
        ({"kernel.widht": 2.0}, GRID, "parameters.kernel.widht: model.py:Walk has no parameter", "'kernel.width'"),
        ({}, {"grid": {"temprature": [1]}}, "space[0].grid.temprature: model.py:Walk has no", "'temperature'"),
        ({"kernel.width": 20}, GRID, "parameters.kernel.width.value: 20.0 is not within [0.1, 10]", "declares"),
        ({"kernel.width": "a"}, GRID, "parameters.kernel.width.value: 'a' is str, the parameter is float", "declares"),
        ({"kernel.width": {"range": [0, 5]}}, GRID, "kernel.width.range: [0, 5] goes beyond [0.1, 10]", "declares"),
        ({"kernel.width": {"type": "int"}}, GRID, "kernel.width.type: int, but the experiment declares float", ""),
        ({"n": {"choices": [1, 4]}}, GRID, "parameters.n.choices: 4 is none of [1, 2, 3]", "declares"),
        ({}, {"grid": {"temperature": [1], "n": [4]}}, "space[0].grid.n: 4 is none of [1, 2, 3]", "parameters['n']"),
        ({}, {"grid": {"n": [1]}}, "model.py:Walk: parameters['temperature']: 'temperature' has no", "explore it"),
    ],
)  # fmt: skip
def test_what_the_experiment_does_not_take_is_refused(parameters: Any, block: Any, complaint: str, hint: str) -> None:
    error = refused(declared(parameters, block), told)
    assert complaint in error.message and hint in error.hint


def test_what_means_something_else_is_no_stranger() -> None:
    found = declared(
        {"phase": "a", "scale": 2.0, "kernel.width": {"derived": "scale * 2"}, "extra": {"derived": "n + 1"}},
        {"grid": {"temperature": [1], "run": [7]}}, inputs={"paths": ["{phase}/{run}"]},
    )  # fmt: skip
    assert columns(found, told) == {
        "temperature": [1.0], "run": [7], "kernel.width": [4.0], "n": [3], "phase": ["a"], "scale": [2.0], "extra": [4],
    }  # fmt: skip


def test_of_several_experiments_each_has_its_own() -> None:
    offers = {
        "walk": {"width": Parameter(1.0), "t": Parameter(5)},
        "jump": {"height": Parameter(2.0), "t": Parameter(derived="n * 2"), "n": Parameter(3)},
    }

    def offer(block: Mapping[str, Any]) -> Offered:
        return offers[block["use"]]

    space = {"grid": {"experiment.use": ["walk", "jump"]}}
    found = columns(declared({"height": 4}, space), offer)
    assert found == {
        "width": [1.0, None], "t": [5, 6], "height": [None, 4.0], "n": [None, 3],
    }  # fmt: skip
    assert "has no parameter 'hight'" in refused(declared({"hight": 4}, space), offer).message
    offers["jump"]["width"] = Parameter("wide")
    error = refused(declared({}, space), offer)
    assert error.message == "walk: parameters['width']: 'width' is float in walk and str in jump"


# --- growing ---------------------------------------------------------------------------------------


def test_a_constant_may_become_explored() -> None:
    before = declared({"n": 3, "m": {"derived": "n * t"}, "t": {"range": [0, 2]}}, {"grid": {"t": [1, 2]}})
    plan, rows = planned(before)
    after = declared(
        {"n": 3, "m": {"derived": "n * t"}, "t": {"range": [0, 9], "comment": "now"}},
        {"grid": {"t": [1, 2, 3]}}, {"grid": {"n": [3, 4]}},
    )  # fmt: skip
    grown, more = planned(after, earlier=Earlier(Plan.loads(plan.dumps()), rows.digests))
    assert grown.trials == 6 and len(more.kept) == 4, "t = 1, 2 at n = 3 stand"
    everyone = np.arange(4)
    points = zip(*(more.column(name, everyone).tolist() for name in ("t", "n", "m")), strict=True)
    assert sorted(points) == [(1, 4, 4), (2, 4, 8), (3, 3, 9), (3, 4, 12)]
    assert set(grown.explored) == {"t", "n"} and grown.about["t"].comment == "now"


def test_parameters_of_a_hundred_thousand_trials_cost_little() -> None:
    found = declared(
        {"n": 3, "kernel.width": {"value": 1.0, "comment": "c"}, "area": {"derived": "t * kernel.width ** 2"}},
        {"sobol": {"t": [0.1, 10.0]}, "points": 20_000}, replicates=5,
    )  # fmt: skip
    plan, rows = planned(found)
    assert plan.trials == 100_000 and len(plan.groups) == 1
    everyone = np.arange(100_000)
    assert (rows.column("area", everyone) == rows.column("t", everyone)).all()


def test_no_word_of_a_declaration_is_a_branch() -> None:
    """A leaf is told from a branch by its words, so none of them may be a name below the first."""
    assert set(WORDS) == {"value", "derived", "type", "comment", "unit", "range", "choices", "annotations"}
    assert columns(declared({"value": 3, "range": {"value": 4}})) == {"value": [3], "range": [4]}
    with pytest.raises(ConfigError, match=r"parameters.kernel.range"):
        declared({"kernel": {"range": 2.0}})
