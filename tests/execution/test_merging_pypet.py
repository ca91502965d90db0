"""Merging held against pypet itself (0.6.1, in an environment of its own), on a table of cases.

Where we differ we do so on purpose, and the table says why.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import staffa
from execution.settling import computed, planned
from staffa.errors import WorkspaceError
from staffa.storage.workspace import Workspace
from staffa.views.results import Results

ROOT = Path(__file__).parents[2]
PYPET = Path(os.environ.get("STAFFA_PYPET", ROOT / ".venv-pypet" / "bin" / "python"))
REQUIRED = os.environ.get("STAFFA_REQUIRE_PYPET") == "1"

MODEL = '''
"""The product of a trial's numbers, the number of its letters added."""
import math
import staffa

class Product(staffa.Experiment):
    vectorize = "off"

    def __init__(self, y: int = 1, w: float = 1.0, s: str = "") -> None:
        self.own = [y, w, s]

    def initialize(self, key, params):
        values = [*self.own, *params.values()]
        letters = sum(len(value) for value in values if isinstance(value, str))
        return math.prod(float(value) for value in values if not isinstance(value, str)) + letters

    def step(self, key, state, params):
        return state, {"z": state}
'''

Side = tuple[dict[str, Any], dict[str, list[Any]]]
"""Parameters with their values, and those of them that are explored with all values."""


@dataclass(frozen=True)
class Case:
    """Trajectories that are merged, and what is to come of it.

    Arguments:
    - `options`: parameters that are options of the experiment here, not parameters of the space.
    - `trial`: pypet's trial parameter: here the replicate, and each campaign has a seed of its own.
    - `why`: why we differ; `ours` is what we make of it: the class of an error, or a word that the test knows.
    """

    sides: tuple[Side, ...]
    remove_duplicates: bool = False
    many: bool = False
    trial: str = ""
    options: tuple[str, ...] = ()
    why: str = ""
    ours: str = ""


X = {"x": 1, "y": 2}
CASES: dict[str, Case] = {
    "disjoint": Case(((X, {"x": [1, 2, 3]}), (X, {"x": [4, 5]}))),
    "overlapping": Case(((X, {"x": [1, 2, 3]}), (X, {"x": [3, 4]})), remove_duplicates=True),
    "overlapping, duplicates kept": Case(
        ((X, {"x": [1, 2, 3]}), (X, {"x": [3, 4]})),
        why="a trial is named by what it computes: the same point of the same seed and code is the same trial, and its "
        "data would stand twice; whoever wants it again takes another seed, or more replicates",
        ours="each once",
    ),
    "in another order": Case(((X, {"x": [3, 1]}), (X, {"x": [2, 3, 1]})), remove_duplicates=True),
    "two explored": Case(
        ((X, {"x": [1, 1, 2], "y": [3, 4, 3]}), (X, {"x": [1, 2, 2], "y": [3, 3, 4]})), remove_duplicates=True
    ),
    "each explores another": Case(((X, {"x": [1, 3]}), (X, {"y": [2, 5]})), remove_duplicates=True),
    "one that differs": Case(((X, {"x": [1, 2]}), ({"x": 1, "y": 5}, {"x": [2, 3]})), remove_duplicates=True),
    "an option that differs": Case(
        ((X, {"x": [1, 2]}), ({"x": 1, "y": 5}, {"x": [2, 3]})), remove_duplicates=True, options=("y",)
    ),
    "two that differ": Case(
        (({**X, "w": 1.5, "s": "ab"}, {"x": [1, 2]}), ({"x": 1, "y": 5, "w": 2.5, "s": "ab"}, {"x": [2, 3]})),
        options=("y", "w"),
    ),
    "one in the space, one an option": Case(
        (({**X, "w": 1.5}, {"x": [1, 2]}), ({"x": 1, "y": 5, "w": 2.5}, {"x": [1, 3]})), options=("w",)
    ),
    "strings, bools and dotted names": Case(
        (
            ({"x": 1, "s": "a", "b": True, "k.w": 1.5}, {"s": ["a", "bb"], "x": [1, 2]}),
            ({"x": 1, "s": "a", "b": False, "k.w": 1.5}, {"s": ["a", "ccc"], "x": [1, 2]}),
        ),
        remove_duplicates=True,
    ),
    "a string that differs": Case(
        (({"x": 1, "s": "a"}, {"x": [1, 2]}), ({"x": 1, "s": "ccc"}, {"x": [1, 2]})),
        options=("s",),
        why="pypet compares texts letter by letter, and a letter has letters: its recursion never ends",
        ours="alone",
    ),
    "several at once": Case(((X, {"x": [1, 2]}), (X, {"x": [3]}), ({"x": 1, "y": 7}, {"x": [1, 4]})), many=True),
    "other parameters": Case(((X, {"x": [1, 2]}), ({"x": 1}, {"x": [3]}))),
    "other types": Case(((X, {"x": [1, 2]}), ({"x": 1, "y": 2.5}, {"x": [3]}))),
    "other types of what is explored": Case(((X, {"x": [1, 2]}), ({"x": 1.0, "y": 2}, {"x": [3.0]}))),
    "nothing but duplicates": Case(((X, {"x": [1, 2]}), (X, {"x": [2, 1]})), remove_duplicates=True),
    "nothing but duplicates, kept": Case(
        ((X, {"x": [1, 2]}), (X, {"x": [2, 1]})),
        why="as above: nothing would come of it, so it is refused, as pypet does where duplicates are removed",
        ours="WorkspaceError",
    ),
    "trials of each point": Case(
        (({"x": 1, "t": 0}, {"x": [1, 2] * 2, "t": [0, 0, 1, 1]}), ({"x": 1, "t": 0}, {"x": [1, 2], "t": [0, 0]})),
        trial="t",
        why="replicates are no parameter that is declared, and vary fastest; they are renumbered point by point, so "
        "that there is no gap: here the third trial of each point is number 2 in both",
        ours="any order",
    ),
}


def request(case: Case) -> dict[str, Any]:
    sides = [{"parameters": parameters, "explored": explored} for parameters, explored in case.sides]
    said = {"trajectories": sides, "remove_duplicates": case.remove_duplicates, "many": case.many}
    return {**said, "trial_parameter": case.trial or None}


@pytest.fixture(scope="module")
def asked() -> Iterator[Any]:
    """pypet at work on all cases, while we are on ours."""
    if not PYPET.exists():
        reason = f"no pypet in {PYPET}: make pypet-env"
        if REQUIRED:
            pytest.fail(f"STAFFA_REQUIRE_PYPET=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(PYPET), str(ROOT / "tests" / "oracle" / "pypet_merging.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    process.stdin.write(json.dumps([request(case) for case in CASES.values()]))
    process.stdin.close()
    process.stdin = None
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def ours(asked: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder, known = tmp_path_factory.mktemp("cases"), dict[str, Path]()
    return {name: merged(case, folder, folder / f"whole{n}", known) for n, (name, case) in enumerate(CASES.items())}


@pytest.fixture(scope="module")
def theirs(asked: Any, ours: Any) -> dict[str, dict[str, Any]]:
    answer, _ = asked.communicate(timeout=500)
    return dict(zip(CASES, json.loads(answer), strict=True))


def merged(case: Case, folder: Path, into: Path, known: dict[str, Path]) -> dict[str, Any]:
    """What we make of a case, in pypet's words.

    Arguments:
    - `known`: campaigns that were run for earlier cases; merging leaves them as they are.
    """
    roots = []
    for number, side in enumerate(case.sides):
        key = repr((side, case.options, case.trial and number, sum(side == other for other in case.sides[:number])))
        if key not in known:
            known[key] = campaign(case, folder / f"c{len(known)}", number, *side)
        roots.append(known[key])
    try:
        staffa.merge(*roots, into=into)
    except WorkspaceError as error:
        return {"error": "WorkspaceError", "message": error.message}
    results = Results(Workspace.open(into))
    frame = results.params.to_pandas().rename(columns={f"experiment.{name}": name for name in case.options})
    frame = frame.drop(columns="replicate") if not case.trial else frame.rename(columns={"replicate": case.trial})
    fixed = {name: value for name, value in case.sides[0][0].items() if name not in frame}
    points = [fixed | {name: plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
    z = results.draws.to_pandas(["trial", "z"]).set_index("trial")["z"]
    explored = [name for name in frame if frame[name].nunique() > 1]
    return {"points": points, "explored": explored, "z": [float(z[trial]) for trial in frame.index]}


def campaign(case: Case, folder: Path, number: int, parameters: dict[str, Any], explored: dict[str, list[Any]]) -> Path:
    options = {name: value for name, value in parameters.items() if name in case.options}
    fixed = {n: [v] for n, v in parameters.items() if n not in (*case.options, *explored, case.trial)}
    listed = {name: values for name, values in explored.items() if name != case.trial}
    replicates = len(set(explored[case.trial])) if case.trial else 1
    listed = {name: values[: len(values) // replicates] for name, values in listed.items()}
    space = [{"zip": listed}, *([{"grid": fixed}] if fixed else [])]
    shape: dict[str, Any] = {"sampling": {}, "seeds": {"global_seed": number if case.trial else 0}}
    experiment = {"use": "model.py:Product", **options}
    return computed(planned(folder, space, MODEL, experiment=experiment, replicates=replicates, **shape))


def plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def rows(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Each run with its parameters, types included, and its result."""
    return [
        (*sorted((name, type(value).__name__, value) for name, value in point.items()), z)
        for point, z in zip(found["points"], found["z"], strict=True)
    ]


@pytest.mark.parametrize("name", CASES)
def test_pypet_makes_the_same_of_it(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    case, own, other = CASES[name], ours[name], theirs[name]
    if case.ours == "alone":
        assert other["error"] == "RecursionError" and own["explored"] == ["x", "s"]
        assert own["z"] == [2.0, 3.0, 4.0, 5.0] and [p["s"] for p in own["points"]] == ["a", "a", "ccc", "ccc"]
        return
    if case.ours == "WorkspaceError" or "error" in other:
        assert own.get("error") == "WorkspaceError", own
        assert ("error" in other) == (not case.why), other
        return
    assert "error" not in own, own
    if case.ours == "any order":
        # A result does not know which trial of its point it is.
        numbers = [sorted((tuple(sorted(p.items()))) for p in found["points"]) for found in (own, other)]
        assert numbers[0] == numbers[1]
        return
    expected = list(dict.fromkeys(rows(other))) if case.ours == "each once" else rows(other)
    assert rows(own) == expected
    assert sorted(own["explored"]) == sorted(other["explored"])


def test_the_table_says_why_we_differ(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert all(bool(case.why) == bool(case.ours) for case in CASES.values()) and len(CASES) > 12
    kept = "overlapping, duplicates kept"
    assert len(theirs[kept]["points"]) == 5 and len(ours[kept]["points"]) == 4
    assert theirs["nothing but duplicates"]["error"] == "ValueError"
    assert len(theirs["nothing but duplicates, kept"]["points"]) == 4
