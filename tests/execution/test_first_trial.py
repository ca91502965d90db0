"""Plain Python tells what it records by a trial: one that raises is no reason to refuse all the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import staffa
from staffa.campaign.describing import HOPELESS
from staffa.campaign.points import Column, Points
from staffa.campaign.trying import unlike
from staffa.errors import PilotError, PluginError
from staffa.execution.prepare import load_plan
from staffa.experiment import simulate
from staffa.storage.workspace import Workspace

MODEL = """\
import json, sys
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"
    def __init__(self, fault="", work="root"):
        self.fault, self.work = fault, work
    def initialize(self, key, params):
        with open({calls!r}, "a") as file:
            file.write(json.dumps(dict(params)) + "\\n")
        return int(key.generate_state(1)[0])
    def step(self, key, drawn, params):
        if self.fault == "singular": raise ValueError("the matrix is singular")
        if self.fault == "import": import there_is_no_such_thing
        if self.fault == "name": params["seize"]
        if self.fault == "output": return drawn, {{"draw": 1}}
        if params["size"] < 1: raise ValueError(f"size: {{params['size']}}, and at least 1 is needed")
        if params.get("kind") == "exit": sys.exit("enough")
        if self.fault == "file": raise staffa.errors.ConfigError("halos.hdf5: there is no such file", "it goes to a/b")
        return drawn, {{"root": params["size"] ** 0.5}} if self.work == "root" else {{"word": "a" * params["size"]}}

class Traced(staffa.Experiment):
    static = ("size",)
    def initialize(self, key, params): return 0.0
    def step(self, key, state, params):
        if params["size"] == 2: raise ValueError("two will not do")
        return state, {{"x": state}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "model.py").write_text(MODEL.format(calls=str(tmp_path / "calls")))
    return tmp_path / "w"


def campaign(folder: Path, space: Any, use: str = "Plain", **sections: Any) -> Any:
    declared = {
        "campaign": {"name": "t"},
        "experiment": {"use": f"model.py:{use}", **sections.pop("options", {})},
        "space": space,
        "execution": {"retries": {"limit": 0}},
        **sections,
    }
    (folder / "campaign.yaml").write_text(json.dumps(declared))
    return staffa.load(folder / "campaign.yaml", set=[f"storage.root={folder.parent / 'runs'}"])


def calls(folder: Path) -> list[Any]:
    """What the trials so far were given."""
    return [json.loads(line) for line in (folder.parent / "calls").read_text().splitlines()]


def refused(folder: Path, space: Any, **how: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        staffa.plan(campaign(folder, space, **how))
    return caught.value


# --- what is tried ---------------------------------------------------------------------------------


def test_a_slip_that_hits_every_trial_is_refused_with_its_line(folder: Path) -> None:
    error = refused(folder, [{"grid": {"size": list(range(-40, 0))}}])
    assert isinstance(error, PilotError)
    assert error.message == (
        "model.py:17: in step: ValueError: size: -40, and at least 1 is needed (none of 8 trials that were tried works)"
    )
    tried = [one["size"] for one in calls(folder)]
    assert len({*tried}) == 8 and max(tried) - min(tried) > 30


def test_what_an_experiment_hints_at_is_passed_on(folder: Path) -> None:
    error = refused(folder, [{"grid": {"size": [1]}}], options={"fault": "file"})
    assert "ConfigError: halos.hdf5: there is no such file" in error.message and error.hint == "it goes to a/b"


def test_no_trial_is_tried_twice(folder: Path) -> None:
    error = refused(folder, [{"grid": {"size": [-1, 0]}}], replicates=3)
    assert "none of 2 trials" in error.message and len(calls(folder)) == 2
    assert "tried" not in refused(folder, [{"grid": {"size": [0]}}], replicates=3).message


@pytest.mark.parametrize(
    ("fault", "said"),
    [("import", "ModuleNotFoundError"), ("name", "did you mean 'size'?"), ("output", "'draw' has the name")],
)
def test_what_is_wrong_with_all_of_them_is_refused_at_once(folder: Path, fault: str, said: str) -> None:
    error = refused(folder, [{"grid": {"size": [1, 2, 3]}}], options={"fault": fault})
    assert said in str(error) and len(calls(folder)) == 1 and not isinstance(error, PilotError)


def test_long_ones_are_given_up_earlier(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "PATIENCE", 0.0)
    assert "none of 2 trials" in refused(folder, [{"grid": {"size": list(range(-40, 0))}}]).message


def test_an_experiment_with_many_programs_is_given_up_before_all_are_tried(folder: Path) -> None:
    options = [f"never {number}" for number in range(40)]
    space = [{"grid": {"size": [0]}}, {"grid": {"experiment.work": options}}]
    assert "size: 0" in refused(folder, space).message
    assert len(calls(folder)) == HOPELESS


def test_those_that_lack_an_input_tell_nothing(folder: Path) -> None:
    (folder / "4.txt").touch()
    (folder / "0.txt").touch()
    staffa.plan(campaign(folder, [{"grid": {"size": list(range(6))}}], inputs=["{size}.txt"]))
    assert [one["size"] for one in calls(folder)] == [0, 4]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_bad_value_is_escaped_at_the_second_trial(sizes: list[int], data: Any) -> None:
    codes = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes)).astype(np.int32)
    columns = tuple(Column(f"p{i}", "int", tuple(range(size)), codes[:, i], False) for i, size in enumerate(sizes))
    members = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    if not len(members):
        return
    points = Points(columns, len(codes))
    tried = [tuple(row.values()) for row in unlike(points, members)]
    assert sorted(tried) == sorted(tuple(points.row(int(place)).values()) for place in members)
    assert tried[0] == tuple(points.row(int(members[0])).values())
    if len(members) == len(codes) > 1:
        escaped = [one != two for one, two in zip(tried[0], tried[1], strict=True)]
        assert escaped == [size > 1 for size in sizes]


def test_those_equally_unlike_lie_all_over_the_space() -> None:
    points = Points((Column("t", "float", tuple(range(1000)), np.arange(1000, dtype=np.int32), True),), 1000)
    rows = unlike(points, np.arange(1000))
    tried = sorted(int(next(rows)["t"]) for _ in range(8))
    assert max(np.diff([*tried, 1000])) < 250


# --- what runs -------------------------------------------------------------------------------------


def test_a_bad_first_trial_is_one_among_others(folder: Path, workers: Any) -> None:
    space = [{"grid": {"size": [0, 1, 4]}}, {"grid": {"kind": ["exit", "fine"]}}]
    run = staffa.run(campaign(folder, space, archive={"partition_by": ["size"]}), client=workers, progress=False)
    assert run.ended.outcomes == {"ok": 2, "raised": 4}
    rows = run.results.failed.to_pandas()
    told = {(row.size, row.kind): row.message for row in rows[["size", "kind", "message"]].itertuples()}
    assert told[(0, "exit")] == told[(0, "fine")] == "ValueError: size: 0, and at least 1 is needed"
    assert told[(4, "exit")] == "SystemExit: enough"
    assert sorted(run.results.draws.to_pandas()["root"]) == [1.0, 2.0]


def test_a_program_without_a_trial_that_works_takes_no_other_down(folder: Path, workers: Any) -> None:
    """… and what it would record is not that of just any other."""
    space = [{"grid": {"experiment.fault": ["singular", ""], "experiment.work": ["word", "root"], "size": [1, 4]}}]
    run = staffa.run(campaign(folder, space), client=workers, progress=False)
    assert run.ended.outcomes == {"ok": 4, "raised": 4}
    failed = run.results.failed.to_pandas()
    assert {*failed["experiment.fault"]} == {"singular"}
    assert {*failed["message"]} == {"ValueError: the matrix is singular"}
    records = {
        (group.experiment["fault"], group.experiment["work"]): [output.name for output in group.outputs]
        for group in load_plan(Workspace(run.root)).groups
    }
    assert records == {(fault, work): [work] for fault in ("", "singular") for work in ("root", "word")}
    again = staffa.resume(run.root, client=workers, progress=False)
    assert again.ended.outcomes == run.ended.outcomes


def test_a_campaign_grows_by_a_program_without_a_trial_that_works(folder: Path, workers: Any) -> None:
    space = [{"grid": {"size": [1, 4], "experiment.fault": [""]}}]
    run = staffa.run(campaign(folder, space), client=workers, progress=False)
    staffa.expand(run.root, space=[{"grid": {"size": [1, 4], "experiment.fault": ["", "singular"]}}])
    assert staffa.resume(run.root, client=workers, progress=False).ended.outcomes == {"ok": 2, "raised": 2}


def test_a_search_whose_middle_is_bad_is_made(folder: Path, workers: Any) -> None:
    (folder / "model.py").write_text((folder / "model.py").read_text().replace('["size"] < 1', '["size"] == 5'))
    search = {
        "space": {"size": [1, 9, "int"]},
        "objectives": {"root": "minimize"},
        "trials": 12,
        "strategy": {"use": "random"},
    }
    declared = campaign(folder, [], search=search)
    run = staffa.run(declared, client=workers, progress=False)
    assert run.ended.outcomes["ok"] > 5 and sum(run.ended.outcomes.values()) == 12
    assert calls(folder)[0]["size"] == 5 != calls(folder)[1]["size"]


def test_what_cannot_be_traced_is_refused_by_its_value(folder: Path) -> None:
    error = refused(folder, [{"grid": {"size": [1, 2, 3]}}], use="Traced")
    assert error.message == "model.py:26: in step: ValueError: two will not do (with size=2)"
