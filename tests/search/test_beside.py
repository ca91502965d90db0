"""What else can be done with a campaign, done with a search."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import staffa
from here import one_worker
from search.plain import Enough, stop_after
from staffa import api
from staffa.api import serving
from staffa.errors import ConfigError, WorkspaceError
from staffa.execution.prepare import load_plan, open_stores
from staffa.execution.shelving import Shelf
from staffa.storage.hot import HotStore
from staffa.storage.ledger import history
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

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
        loss = (params["x"] - 0.3) ** 2 + (0.5 if self.kind == "b" else 0.0)
        return state, {"loss": loss, "cost": float(params["n"])}
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


def test_it_is_not_merged(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    with pytest.raises(WorkspaceError, match="is a search: merged"):
        api.merge(copy, other, into=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_graph_of_a_trial_that_was_asked_for(copy: Path) -> None:
    campaign = staffa.load(Workspace(copy).frozen, storage__root=str(copy.parent))
    name = str(staffa.attach(copy).search.top(1)["trial"].iloc[0])
    with pytest.raises(ConfigError, match="no batch is known before it is asked for"):
        api.graph(campaign)
    assert api.graph(campaign, name).key.startswith("commit-")


def test_commands_that_look(copy: Path) -> None:
    assert api.verify(copy, every=True)["sound"]
    assert api.reproduce(copy)["exit_code"] == 0
    found = str(api.doctor(run=copy))
    batches = staffa.status(copy)["figures"]["batches"]
    assert f"{batches} of {batches} batches marked" in found
    best = str(staffa.attach(copy).search.top(1)["trial"].iloc[0])
    assert "asked for by the search" in str(api.explain(copy, best))


def test_a_batch_that_is_not_full_is_done_again(copy: Path) -> None:
    stores = open_stores(Workspace(copy), load_plan(Workspace(copy)))
    where = [(n, b) for n, store in stores.items() for b in range(store.layout.batches) if 0 < store.seats(b) < 4]
    assert where, "the last batches are not full"
    for group, batch in where:
        stores[group].chunk("loss", batch, 0).write_bytes(b"rubbish")
    assert len(api.verify(copy, every=True)["again"]) == len(where)
    resumed(copy)
    assert staffa.status(copy)["figures"]["settled"] == 40
    assert api.verify(copy, every=True)["sound"]
    for group, batch in where:
        status, size = stores[group].status(batch), stores[group].seats(batch)
        assert (status[size:] == Outcome.PADDING).all() and (status[:size] != Outcome.MISSING).all()


EXTERNAL = """
campaign: {name: external}
experiment: {use: external, outputs: [loss]}
search:
  space: {x: [-1.0, 2.0]}
  objectives: {loss: {target: 0.0, limit: 4.0}}
  trials: 10
  strategy: {use: sobol}
execution: {batch: 4, retries: {limit: 0}}
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serves a search to a function that is given its study and what changes its objectives, until that returns."""
    path = tmp_path / "campaign.yaml"
    path.write_text(EXTERNAL)
    monkeypatch.setattr(serving, "SHELVE_SECONDS", 0.01)

    def serve(act: Any, campaign: Any = None, **options: Any) -> Path:
        monkeypatch.setattr("staffa.search.serving.serve", lambda folder, study, **how: act(study, how["rescore"]))
        api.serve(campaign or staffa.load(path, storage__root=str(tmp_path / "runs")), **options)
        return tmp_path / "runs" / "v1.0_external"

    return serve


def tell_all(study: Any, but: int = -1) -> None:
    while asked := study.ask(4, worker="w"):
        for one in asked:
            if one.trial != but:
                study.tell(one.trial, {"loss": one.params["x"] ** 2}, attempt=one.attempt)


def test_a_result_that_comes_after_its_batch_was_written(served: Any) -> None:
    def lose_one(study: Any, rescore: Any) -> None:
        tell_all(study, but=5)
        study.expire(time.time() + 1000)

    def tell_it(study: Any, rescore: Any) -> None:
        assert study.tell(5, {"loss": -1.0}, attempt=1).status == "recorded"

    root = served(lose_one)
    assert staffa.status(root)["figures"]["outcomes"] == {"ok": 9, "raised": 1}
    served(tell_it, root)
    assert staffa.status(root)["figures"]["outcomes"] == {"ok": 10}
    found = staffa.attach(root).search
    assert found.top(1).index[0] == 5 and found.top(1)["loss"].iloc[0] == -1.0
    assert api.verify(root, every=True)["sound"]


def test_what_a_server_was_killed_before_it_said(served: Any) -> None:
    """Between the last mark and the journal's line about it."""

    def lose_one(study: Any, rescore: Any) -> None:
        tell_all(study, but=9)
        study.expire(time.time() + 1000)

    root = served(lose_one)
    journal = next((root / "ledger").glob("events-*.jsonl"))
    lines = journal.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"batch_settled"' in line)
    journal.write_text("".join(lines[:last]))
    served(lambda study, rescore: None, root)
    status = staffa.status(root)
    assert status["figures"]["outcomes"] == {"ok": 9, "raised": 1} and status["quarantined"] == 1
    assert api.explain(root, staffa.attach(root).search.trials["trial"].loc[9])["history"]


def test_objectives_changed_between_two_servers_and_under_one(served: Any) -> None:
    root = served(lambda study, rescore: tell_all(study))
    staffa.attach(root).search.change({"loss": {"limit": 2.0}})
    seen = []

    def look(study: Any, rescore: Any) -> None:
        seen.append(study.objectives)
        rescore({"loss": {"target": 0.5}})
        seen.append(study.objectives)

    served(look, root)
    served(lambda study, rescore: seen.append(study.objectives), root)
    assert [(one.all[0].target, one.all[0].limit) for one in seen] == [(0.0, 2.0), (0.5, 2.0), (0.5, 2.0)]
    assert staffa.attach(root).search.current == seen[-1]


def test_a_served_search_grows(served: Any) -> None:
    root = served(lambda study, rescore: tell_all(study))
    assert api.expand(root, set=["search.trials=17", "search.space.x=[0.0, 1.0]"])["added"] == 7
    served(lambda study, rescore: tell_all(study), root)
    assert sorted(points(root)) == list(range(17))
    assert staffa.status(root)["figures"]["outcomes"] == {"ok": 17}
    assert (staffa.attach(root).search.trials["loss"].notna()).all()


@pytest.mark.parametrize("where", ["seat", "write", "commit"])
def test_a_full_disk_passes_and_what_fails_otherwise_ends_the_server(
    served: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real, left = getattr(HotStore, where), [3]

    def full(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    def wait(study: Any, rescore: Any) -> None:
        monkeypatch.setattr(HotStore, where, full)
        tell_all(study)
        end = time.monotonic() + 60
        while left[0] >= 0 and time.monotonic() < end:
            time.sleep(0.01)

    root = served(wait)
    assert staffa.status(root)["figures"]["outcomes"] == {"ok": 10} and sorted(points(root)) == list(range(10))
    stopped = threading.Event()

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    def wait_for_the_end(study: Any, rescore: Any) -> None:
        monkeypatch.setattr(Shelf, "_tick", broken)
        assert stopped.wait(60)
        monkeypatch.undo()

    monkeypatch.setattr(serving, "_stop", stopped.set)
    with pytest.raises(RuntimeError, match="broken"):
        served(wait_for_the_end, root)


def test_a_full_disk_pauses_a_search(begun_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = HotStore.seat, [2]

    def full(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    monkeypatch.setattr(HotStore, "seat", full)
    monkeypatch.setattr("staffa.execution.chronicle.RETRY_SECONDS", 0.1)
    resumed(begun_copy)
    assert sorted(points(begun_copy)) == list(range(40))
    assert staffa.status(begun_copy)["figures"]["settled"] == 40
    assert next(iter(history(Workspace(begun_copy), ["paused"])))["reason"]
