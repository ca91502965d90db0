"""Scores of objectives by hand, their groups, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from staffa.campaign.objectives import Objective, Objectives
from staffa.errors import ConfigError

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (
            {"target": 1.0, "limit": 3.0},
            {-5.0: 0, 1.0: 0, 1.5: 0.25, 2.0: 0.5, 3.0: 1.0, 3.0000001: INF, INF: INF, -INF: 0, NAN: INF},
        ),
        ({"target": 1.0, "limit": 3.0, "priority": 4.0}, {1.0: 0, 1.5: 1.0, 3.0: 4.0, 3.1: INF}),
        (
            {"target": 3.0, "limit": 1.0, "direction": "maximize", "priority": 2.0},
            {5.0: 0, 3.0: 0, 2.5: 0.5, 1.0: 2.0, 0.9999999: INF, -INF: INF, INF: 0, NAN: INF},
        ),
        ({"target": -0.1, "limit": 0.3, "priority": 0.7}, {0.3: 0.7, 0.1: 0.35}),
        ("minimize", {2.5: 2.5, -1.0: -1.0, INF: INF, NAN: INF, -INF: -INF}),
        ({"direction": "maximize", "priority": 2.0}, {2.5: -5.0, -1.0: 2.0, -INF: INF, NAN: INF}),
    ],
)
def test_scores_by_hand(words: Any, table: dict[float, float]) -> None:
    objectives = Objectives.read({"x": words})
    found = objectives.scores(np.array(list(table)))
    assert found.shape == (len(table), 1)
    assert found[:, 0].tolist() == pytest.approx(list(table.values()), abs=1e-12)
    at_limit = objectives.all[0].limit
    if at_limit is not None:
        assert float(objectives.all[0].scores(at_limit)) == objectives.all[0].priority, "exactly"


def test_scores_are_added_up_within_a_group() -> None:
    objectives = Objectives.read(
        {
            "bias": {"of": "bias.mean", "target": 0.0, "limit": 1.0},
            "ess": {"direction": "maximize", "group": 3},
            "seconds": {"priority": 0.5},
            "rhat": {"target": 1.0, "limit": 2.0, "group": 3},
        }
    )
    assert objectives.names == ("bias", "ess", "seconds", "rhat") and objectives.groups == (0, 3)
    assert objectives.columns == {"bias": "bias.mean", "ess": "ess", "seconds": "seconds", "rhat": "rhat"}
    values = [[0.5, 100.0, 4.0, 1.5], [2.0, 100.0, 4.0, 1.0], [0.0, INF, -INF, 3.0], [0.0, NAN, 1.0, 1.0]]
    assert objectives.scores(values).tolist() == [[2.5, -99.5], [INF, -100.0], [-INF, INF], [0.5, INF]]
    assert objectives.scores(np.empty((0, 4))).shape == (0, 2)


def test_words_are_read_back() -> None:
    words = {
        "loss": "minimize",
        "speed": "maximize",
        "bias": {"of": "bias.mean", "target": 0.01, "limit": 1.0, "priority": 2, "group": 1},
    }
    objectives = Objectives.read(words)
    assert objectives.words() == words and Objectives.read(objectives.words()) == objectives
    assert Objectives.read("loss").words() == {"loss": "minimize"} and Objectives.read(objectives) is objectives


def test_a_record_says_why_a_score_is_infinite() -> None:
    objectives = Objectives.read({"bias": {"target": 0.0, "limit": 1.0}, "loss": "minimize"})
    assert objectives.why({"bias": 0.5, "loss": -INF}) == ""
    assert objectives.why({"bias": 1.5, "loss": 1.0}) == "bias = 1.5 is beyond its limit 1.0"
    assert objectives.why({"bias": NAN}) == "bias is nan; loss is missing"
    assert objectives.why({"bias": None, "loss": INF}) == "bias is missing; loss is inf"


def test_a_row_of_values() -> None:
    objectives = Objectives.read({"bias": "minimize", "loss": "minimize", "ess": "maximize"})
    row = objectives.row({"loss": np.float32(2), "bias": 10**400})
    assert row[:2].tolist() == [INF, 2.0] and math.isnan(row[2])
    for values, message in (
        ({"los": 1.0}, "values.los: there is no objective 'los'"),
        ({"loss": "2"}, "values.loss: '2' is not a number"),
        ({"loss": True}, "values.loss: True is not a number"),
        ({"loss": [1.0]}, "values.loss"),
    ):
        with pytest.raises(ConfigError) as caught:
            objectives.row(values)
        assert message in caught.value.message
    with pytest.raises(ConfigError, match="did you mean 'loss'"):
        objectives.row({"los": 1.0})


def test_objectives_are_changed() -> None:
    before = Objectives.read({"bias": {"of": "bias.mean", "target": 0.0, "limit": 1.0}, "loss": "minimize"})
    after = before.changed({"bias": {"limit": 2.0, "priority": 3.0}, "loss": {"group": 1, "direction": "maximize"}})
    assert after.all[0] == Objective("bias", 0.0, 2.0, priority=3.0, of="bias.mean") and after.groups == (0, 1)
    assert after.scores([[1.0, 7.0]]).tolist() == [[1.5, -7.0]] and before.scores([[1.0, 7.0]]).tolist() == [[8.0]]
    assert before.changed({"bias": {"limit": None, "target": None}}).all[0].limit is None
    for patch, message in (
        ({}, "objectives is empty"),
        ({"bais": {"limit": 1.0}}, "objectives.bais: there is no objective 'bais'"),
        ({"bias": {"of": "x"}}, "objectives.bias.of: what was measured cannot be changed"),
        ({"bias": {"limit": None}}, "objectives.bias: has a target (0.0) and no limit"),
        ({"bias": {"limit": -1.0}}, "target 0.0 is not below limit -1.0"),
        ({"bias": {"priority": None}}, "objectives.bias.priority: None must be a number"),
        ({"bias": 3}, "objectives.bias: 3 must be a mapping"),
    ):
        with pytest.raises(ConfigError) as caught:
            before.changed(patch)  # type: ignore[arg-type]
        assert message in caught.value.message


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ({}, "search.objectives is empty", "loss: minimize"),
        ({"x": {"target": 1.0}}, "search.objectives.x: has a target (1.0) and no limit", "give both"),
        ({"x": {"limit": 1.0}}, "search.objectives.x: has a limit (1.0) and no target", "give both"),
        ({"x": {"target": 1.0, "limit": 1.0}}, "target 1.0 is not below limit 1.0", "to minimize"),
        (
            {"x": {"target": 1.0, "limit": 2.0, "direction": "maximize"}},
            "search.objectives.x: target 1.0 is not above limit 2.0",
            "to maximize, the target is above",
        ),
        ({"x": "minimise"}, "search.objectives.x.direction: 'minimise' is no direction", "'minimize'"),
        ({"x": "max"}, "'max' is no direction", "'maximize'"),
        ({"x": {"priority": 0.0}}, "search.objectives.x.priority: 0.0 is not above 0", ""),
        ({"x": {"priority": "1e-3"}}, "search.objectives.x.priority: '1e-3' must be a number", "1.0e-3"),
        ({"x": {"group": -1}}, "search.objectives.x.group: -1 is no group", ""),
        ({"x": {"group": 1.5}}, "search.objectives.x.group: 1.5 is no group", ""),
        ({"x": {"target": NAN, "limit": 1.0}}, "search.objectives.x.target: nan", "finite"),
        ({"x": {"traget": 1.0}}, "search.objectives.x.traget: an objective has no 'traget'", "'target'"),
        ({"x": {"of": 3}}, "search.objectives.x.of: 3 is no column", "bias.mean"),
        ({"x": 3}, "search.objectives.x: 3 must be a mapping", ""),
        ({"a b": "minimize"}, "search.objectives: 'a b' cannot be the name", ""),
        (["x"], "search.objectives: ['x'] must be a mapping", ""),
    ],
)
def test_what_is_refused(said: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Objectives.read(said)
    assert message in caught.value.message and hint in caught.value.hint
