"""A search on the engine: asked for in batches, run like any campaign, carried on like a grid."""

from __future__ import annotations

import errno
import json
import math
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import staffa
from here import one_worker
from search import plain
from search.plain import Enough, stop_after
from staffa import api
from staffa.errors import ConfigError, StaffaError
from staffa.execution import refilling
from staffa.execution.board import Board, Retries
from staffa.execution.prepare import load_plan, open_stores
from staffa.search.client import Client
from staffa.storage.ledger import fold, history
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

MODEL = (
    plain.MODEL
    + """
import jax
import jax.numpy as jnp

class Bowl(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.zeros(())

    def step(self, key, state, params):
        return state, {"loss": (params["x"] - 0.3) ** 2 + 0.001 * jax.random.normal(key)}
"""
)
PLAIN = plain.campaign(90)
PARAMETERS = ("x", "y", "n", "experiment.kind")


def written(folder: Path, text: str) -> Path:
    (folder / "model.py").write_text(MODEL)
    path = folder / "campaign.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of 90 trials whose driver fell over in the middle."""
    folder = tmp_path_factory.mktemp("search")
    campaign = staffa.load(written(folder, PLAIN), storage__root=str(folder / "runs"))
    with one_worker() as client, pytest.raises(Enough):
        staffa.run(campaign, client=client, progress=False, listeners=[stop_after(9)])
    return folder / "runs" / "v1.0_plain"


@pytest.fixture(scope="module")
def finished(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, carried on to its end."""
    root = tmp_path_factory.mktemp("finished") / "v1.0_plain"
    shutil.copytree(interrupted, root)
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)
        api.consolidate(root, client=client)
    return root


def asked(root: Path) -> dict[int, dict[str, Any]]:
    """By place what the journal says was asked for."""
    found: dict[int, dict[str, Any]] = {}
    for event in history(Workspace(root)):
        if event["event"] == "trials_asked":
            for row, place in enumerate(_places(event["places"])):
                assert place not in found, "asked for twice"
                found[place] = {name: values[row] for name, values in event["points"].items()}
    return found


def _places(text: str) -> list[int]:
    from staffa.storage.spans import unspan

    return unspan(text)


def test_every_trial_is_asked_for_once_and_done_once(finished: Path) -> None:
    points = asked(finished)
    assert sorted(points) == list(range(90))
    roster = pq.read_table(finished / "metadata" / "trials-0.parquet").to_pylist()
    assert len({row["trial"] for row in roster}) == len(roster) == 90
    assert Counter(_point(row) for row in roster) == Counter(_point(point) for point in points.values())
    figures = staffa.status(finished)["figures"]
    failed = sum(point["x"] > 1.8 for point in points.values())
    assert failed and figures["outcomes"] == {"ok": 90 - failed, "raised": failed}
    trials = staffa.attach(finished).results.trials.to_pandas()
    assert len(trials) == trials["trial"].nunique() == 90 - failed
    loss = (trials.x - 0.3) ** 2 + (np.log(trials.y) - 1) ** 2 + 0.5 * (trials["experiment.kind"] == "b")
    assert np.allclose(trials["loss.mean"], loss)


def _point(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in PARAMETERS)


def test_groups_hold_what_they_are_for(finished: Path) -> None:
    plan = load_plan(Workspace(finished))
    assert plan.trials == 90 and plan.batches == 23
    assert [group.partition for group in plan.groups] == [{"experiment.kind": "a"}, {"experiment.kind": "b"}]
    for number, store in open_stores(Workspace(finished), plan).items():
        kind = "ab"[number]
        for batch in range(store.layout.batches):
            identity, columns = store.inputs(batch)
            assert set(columns["experiment.kind"]) <= {kind}
            status = store.status(batch)
            assert (status[len(identity) :] == (Outcome.PADDING if status.any() else 0)).all()
    assert {path.name for path in (finished / "archive" / "draws").iterdir()} == {
        "experiment.kind=a",
        "experiment.kind=b",
    }


def test_scores_stand_beside_the_data(finished: Path) -> None:
    plan = load_plan(Workspace(finished))
    for store in open_stores(Workspace(finished), plan).values():
        for batch in range(store.layout.batches):
            _, columns = store.inputs(batch)
            rows = len(columns["x"])
            if not rows:
                continue
            found, status = store.scores(batch), store.status(batch)[:rows]
            assert found is not None and np.isnan(found[:rows][status != Outcome.OK]).all()
            assert np.array_equal(found[:rows, 1][status == Outcome.OK], columns["n"][status == Outcome.OK] / 2)


def test_reading_needs_nothing_of_staffa(finished: Path) -> None:
    import xarray

    with xarray.open_zarr(finished / "hot" / "0" / "g0.zarr") as found:
        done = found.isel(trial=(found.status == Outcome.OK).values)
        assert np.allclose(done.objectives[:, 1], done.n / 2) and (done["experiment.kind"] == "a").all()


def test_it_can_be_looked_at_over_http_and_done_by_nobody_there(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(finished, root)
    server = subprocess.Popen([sys.executable, "-m", "staffa", "serve", str(root), "--port", "0"])
    try:
        end = time.monotonic() + 120
        while not (root / "serving.json").exists():
            assert server.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        client = Client.of(root)
        found, status = staffa.attach(root).search, client.status()
        failed = staffa.status(root)["figures"]["outcomes"]["raised"]
        assert status["trials"]["recorded"] == 90 - failed and status["trials"]["quarantined"] == failed
        best = client.top(3)
        assert [one["trial"] for one in best] == found.top(3).index.tolist()
        with pytest.raises(StaffaError, match="done by its driver"):
            client.ask()
        client.change({"loss": {"target": 0.5}})
        assert staffa.attach(root).search.current.all[0].target == 0.5
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_without_its_journal_it_goes_on_from_the_stores(interrupted: Path, tmp_path: Path) -> None:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(interrupted, root)
    before = {row["trial"] for row in _done(root)}
    shutil.rmtree(root / "ledger")
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)
    after = _done(root)
    assert before and before <= {row["trial"] for row in after}
    points = asked(root)
    assert sorted(points) == list(range(90))
    assert Counter(_point(row) for row in after) <= Counter(_point(point) for point in points.values())


def _done(root: Path) -> list[dict[str, Any]]:
    """Trials with data, by what stands beside them."""
    plan = load_plan(Workspace(root))
    found = []
    for store in open_stores(Workspace(root), plan).values():
        for batch in range(store.layout.batches):
            _, columns = store.inputs(batch)
            for lane, name in enumerate(store.digests(batch)):
                if store.status(batch)[lane] == Outcome.OK:
                    found.append({"trial": name, **{key: _plain(column[lane]) for key, column in columns.items()}})
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def test_a_full_disk_makes_nobody_stand_twice_in_the_list(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(finished, root)
    workspace = Workspace(root)
    plan = load_plan(workspace)
    config = staffa.load(root / "campaign.yaml").declaration.campaign
    books, stores = fold(history(workspace)), open_stores(workspace, plan)
    searching = refilling.refill_of(workspace, config, plan, stores, books)
    searching.begin(Board(plan, Retries(), time.time, random.Random(0)), lambda event: None)
    workspace.trials(0).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(refilling, "write_roster", full)
        with pytest.raises(OSError):
            searching.close()
    searching.tick(time.time())
    names = pq.read_table(workspace.trials(0))["trial"].to_pylist()
    assert len(names) == len(set(names)) == 90


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_it_grows_by_trials_and_into_another_space(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "v1.0_plain"
    shutil.copytree(finished, root)
    before = {row["trial"] for row in _done(root)}
    for change, said in (
        (["search.trials=90"], "nothing"),
        (["search.trials=60"], "search.trials: 60, and 90 were to be asked for"),
        (["search.space.z=[0, 1]", "search.trials=100"], "search.space.z"),
        (["search.objectives.loss.limit=2", "search.trials=100"], "cannot become another campaign"),
    ):
        if said == "nothing":
            assert api.expand(root, set=change)["added"] == 0
            continue
        with pytest.raises(StaffaError, match=re.escape(said)):
            api.expand(root, set=change)
    kinds = {"experiment.kind": {"choice": ["a", "b", "c"]}}
    wider = ["search.trials=120", "search.space.x=[0.0, 1.5]", f"search.space={json.dumps(kinds)}"]
    assert api.expand(root, set=wider)["added"] == 30
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)
    points = asked(root)
    assert sorted(points) == list(range(120))
    assert all(0.0 <= points[place]["x"] <= 1.5 for place in range(90, 120))
    assert {point["experiment.kind"] for place, point in points.items() if place >= 90} == {"a", "b", "c"}
    done = _done(root)
    assert before < {row["trial"] for row in done} and len({row["trial"] for row in done}) == len(done)
    assert staffa.status(root)["figures"]["settled"] == 120


def test_a_point_that_is_asked_for_again_is_a_further_replicate(tmp_path: Path) -> None:
    few = {"space": {"x": {"choice": [0.0, 1.0]}, "y": {"grid": [1.0]}, "n": {"grid": [1, 2]}}, "trials": 12}
    campaign = staffa.load(
        written(tmp_path, PLAIN.replace("partition_by: [experiment.kind], ", "")),
        storage__root=str(tmp_path / "runs"),
        set=[f"search.space={json.dumps(few['space'])}", "search.trials=12"],
    )
    with one_worker() as client:
        run = staffa.run(campaign, client=client, progress=False)
        trials = pq.read_table(run.root / "metadata" / "trials-0.parquet").to_pandas()
    assert len(trials) == trials["trial"].nunique() == 12
    for _, same in trials.groupby(["x", "n", "experiment.kind"]):
        assert sorted(same["replicate"]) == list(range(len(same)))
    assert math.isclose(staffa.status(run.root)["figures"]["settled"], 12)


PRUNED = """
campaign: {name: pruned}
experiment: {use: "model.py:Bowl"}
search:
  space: {x: [-1.0, 2.0]}
  objectives: {loss: minimize}
  trials: 64
  strategy: {use: sobol}
  prune: {keep: 0.5}
sampling: {draws: 16}
execution: {segments: 8, batch: 16}
archive: {every: off}
cluster: {dashboard: false}
"""


def test_hopeless_trials_are_given_up_between_segments(tmp_path: Path, quickly_compiled: None) -> None:
    campaign = staffa.load(written(tmp_path, PRUNED), storage__root=str(tmp_path / "runs"))
    heard: list[dict[str, Any]] = []
    with one_worker() as client:
        run = staffa.run(campaign, client=client, progress=False, listeners=[lambda event: heard.append(dict(event))])
    figures = staffa.status(run.root)["figures"]
    done, hopeless = figures["outcomes"]["ok"], figures["outcomes"]["hopeless"]
    assert done + hopeless == 64 and figures["states"]["hopeless"] == hopeless
    store = open_stores(Workspace(run.root), load_plan(Workspace(run.root)))[0]
    assert store.layout.rungs == (1, 2, 4)
    reached = [(~np.isnan(np.concatenate([store.compared(b, rung) for b in range(4)]))).sum() for rung in (1, 2, 4)]
    # A trial that goes on was among the better half of those that had come as far.
    assert reached[0] == 64 > reached[1] > reached[2] >= done
    draws = 2 * (64 + reached[1] + 2 * reached[2] + 4 * done)
    assert draws <= 0.6 * 64 * 16
    first = np.concatenate([store.compared(batch, 1) for batch in range(4)])[:, 0]
    status = store.status()
    assert status[np.argmin(first)] == Outcome.OK, "the best was given up"
    assert not list((run.root / "state").glob("*.safetensors"))
    computed = [event for event in heard if event["event"] == "batch_settled"]
    widths = {width for event in computed for width, *_ in event["programs"]} | {event["width"] for event in computed}
    assert min(widths) < 16, "those that are left are computed in narrower calls"
    best = staffa.attach(run.root).results.trials.to_pandas()["loss.mean"].min()
    assert abs(best) < 0.01


REFUSED = [
    ({"space": {"x": [2.0, 1.0]}}, "search.space.x"),
    ({"space": {"x": {"chioce": [1]}}}, "search.space.x"),
    ({"objectives": {"losss": "minimize"}}, "search.objectives.losss.of: 'losss'"),
    ({"objectives": {"loss": {"target": 2, "limit": 1}}}, "search.objectives.loss"),
    ({"objectives": {"loss": {"target": None}}}, "search.objectives.loss"),
    ({"objectives": {"loss": {"of": "loss.mean +"}}}, "search.objectives.loss.of"),
    ({"strategy": {"use": "sobl"}}, "search.strategy.use"),
    ({"strategy": {"use": "random", "colour": 1}}, "search.strategy.colour"),
    ({"trials": 0}, "search.trials"),
    ({"prune": {"keep": 0.5}}, "search.prune"),
    ({"space": {"x": [0.0, 1.0], "y": [0.0, 1.0], "n": [0, 1], "experiment.kind": [0.0, 1.0]}}, "experiment.kind"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_nonsense_is_refused_before_anything_is_written(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    overrides = [f"search.{name}={json.dumps(value)}" for name, value in change.items()]
    with pytest.raises(StaffaError) as refused:
        staffa.run(staffa.load(path, storage__root=str(tmp_path / "runs"), set=overrides), progress=False)
    assert said in refused.value.message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "more", ["space: [{grid: {x: [1.0]}}]", "replicates: 2", "after: {use: 'model.py:grow'}", "search: {trials: 5}"]
)
def test_a_search_is_alone(more: str, tmp_path: Path) -> None:
    text = PLAIN if not more.startswith("search") else PLAIN[: PLAIN.index("search:")]
    with pytest.raises(ConfigError):
        staffa.load(written(tmp_path, f"{text}{more}\n"))
