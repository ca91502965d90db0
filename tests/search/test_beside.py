"""What else can be done with a campaign, done with a search."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import staffa
from here import one_worker
from staffa import api
from staffa.storage.ledger import history
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace

MODEL = """
import math
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"

    def __init__(self, kind: str = "a"):
        self.kind = kind

    def initialize(self, key, params):
        return None

    def step(self, key, state, params):
        if params["x"] > 1.5:
            raise ValueError("too large")
        return state, {"loss": (params["x"] - 0.3) ** 2 + (0.5 if self.kind == "b" else 0.0), "cost": float(params["n"])}
"""
PLAIN = """
campaign: {name: plain}
experiment: {use: "model.py:Plain"}
search:
  space: {x: [-1.0, 2.0], n: [1, 8, int], experiment.kind: {choice: [a, b]}}
  objectives: {loss: {target: 0.0, limit: 4.0}, cost: {target: 0, limit: 8, group: 1}}
  trials: 40
  strategy: {use: random}
archive: {partition_by: [experiment.kind], every: off}
execution: {batch: 4, retries: {limit: 0}}
cluster: {dashboard: false}
"""


class Enough(Exception):
    pass


def stop_after(batches: int) -> Any:
    """A listener that has the driver fall over once so many batches are settled."""
    seen = Counter[str]()

    def listen(event: Any) -> None:
        seen[event["event"]] += 1
        if event["event"] == "batch_settled" and seen["batch_settled"] == batches:
            raise Enough

    return listen


def written(folder: Path, *changes: str, **options: Any) -> staffa.Campaign:
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(PLAIN)
    return staffa.load(folder / "campaign.yaml", storage__root=str(folder / "runs"), set=changes, **options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of 40 trials whose driver fell over early."""
    folder = tmp_path_factory.mktemp("begun")
    with one_worker() as client, pytest.raises(Enough):
        staffa.run(written(folder), client=client, progress=False, listeners=[stop_after(3)])
    return folder / "runs" / "v1.0_plain"


@pytest.fixture(scope="module")
def finished(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, carried on to its end, and sealed."""
    root = tmp_path_factory.mktemp("finished") / "v1.0_plain"
    shutil.copytree(begun, root)
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)
        api.consolidate(root, client=client)
    return root


@pytest.fixture
def begun_copy(begun: Path, tmp_path: Path) -> Path:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(begun, root)
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(finished, root)
    return root


def points(root: Path) -> dict[int, dict[str, Any]]:
    """By place what was asked for."""
    found: dict[int, dict[str, Any]] = {}
    for event in history(Workspace(root), ["trials_asked"]):
        for row, place in enumerate(unspan(event["places"])):
            assert place not in found, "asked for twice"
            found[place] = {name: values[row] for name, values in event["points"].items()}
    return found


def resumed(root: Path) -> None:
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)


def test_one_that_was_not_over_grows(begun_copy: Path) -> None:
    assert api.expand(begun_copy, set=["search.trials=44"])["added"] == 4
    resumed(begun_copy)
    assert sorted(points(begun_copy)) == list(range(44))
    assert staffa.status(begun_copy)["figures"]["settled"] == 44


def test_what_failed_is_tried_again(copy: Path) -> None:
    failed = staffa.status(copy)["figures"]["outcomes"]["raised"]
    assert api.retry(copy)["trials"] == failed
    (copy.parent / "model.py").unlink(missing_ok=True)
    resumed(copy)
    figures = staffa.status(copy)["figures"]
    assert figures["outcomes"]["raised"] == failed and figures["settled"] == 40


def test_what_is_not_done_yet_is_cancelled_and_brought_back(begun_copy: Path) -> None:
    done = api.cancel(begun_copy)
    assert done
    resumed(begun_copy)
    figures = staffa.status(begun_copy)["figures"]
    assert figures["settled"] == 40 and figures["outcomes"].get("cancelled", 0) == done["trials"]
    api.retry(begun_copy, where="outcome = 'cancelled'")
    resumed(begun_copy)
    figures = staffa.status(begun_copy)["figures"]
    assert figures["settled"] == 40 and "cancelled" not in figures["outcomes"]


def test_pruned_it_goes_on(copy: Path) -> None:
    with one_worker() as client:
        api.consolidate(copy, client=client, prune=True)
    before = staffa.attach(copy).search.top(5)
    assert api.verify(copy)
    api.expand(copy, set=["search.trials=48"])
    resumed(copy)
    assert staffa.status(copy)["figures"]["settled"] == 48
    again = staffa.attach(copy).search.top(48)
    assert set(before.index) <= set(again.index)


def test_two_become_one(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with one_worker() as client:
        run = staffa.run(written(other, "seeds.global_seed=7"), client=client, progress=False)
        api.consolidate(run.root, client=client)
    merged = api.merge(copy, run.root, into=tmp_path / "merged")
    print(merged)
    print(api.status(tmp_path / "merged"))
    assert staffa.attach(tmp_path / "merged").results.trials.to_pandas()["trial"].nunique() > 40


def test_graph(tmp_path: Path) -> None:
    print(api.graph(written(tmp_path)))
