"""Looking at a search while it runs, when its driver is gone and after; having it go for something else."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import staffa
from here import one_worker
from search.plain import MODEL, Enough, campaign
from staffa import api
from staffa.api.searching import Search, search
from staffa.campaign.config import load
from staffa.campaign.objectives import Objectives
from staffa.cli import main
from staffa.errors import ConfigError
from staffa.execution import runner
from staffa.execution.prepare import create, load_plan, open_stores, unfolded
from staffa.execution.refilling import Knowledge, Searching, refill_of
from staffa.search import fronts
from staffa.storage.books import fold
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.views.searched.judged import Judged
from staffa.views.searched.record import Record

CAMPAIGN = campaign(64)
LISTED = """
campaign: {name: listed}
experiment: {use: "model.py:Plain"}
space: [{grid: {x: [0.0, 1.0], y: [1.0], n: [1]}}]
"""


class Watching:
    """A listener that looks at the search, has it go for something else, and has the driver fall over in the end."""

    def __init__(self, root: Path) -> None:
        self.root, self.settled = root, 0
        self.status: dict[str, Any] = {}
        self.trials: Any = None
        self.changed: list[Search] = []
        self.asking = threading.Thread(target=self._change)

    def __call__(self, event: Any) -> None:
        self.settled += event["event"] == "batch_settled"
        # What was asked for a moment ago cannot have come back.
        if event["event"] == "trials_asked" and self.settled >= 3 and not self.status:
            found = staffa.attach(self.root).search
            self.status, self.trials = found.status, found.trials
            self.asking.start()
            until = time.monotonic() + 20
            while not list((self.root / "control").glob("*.request.json")) and time.monotonic() < until:
                time.sleep(0.01)
        if event["event"] == "batch_settled" and self.settled == 9:
            raise Enough

    def _change(self) -> None:
        self.changed.append(staffa.attach(self.root).search.change({"loss": {"limit": 3.0}}))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watching:
    """A search of 64 trials that was changed under way, and whose driver fell over in the middle."""
    folder = tmp_path_factory.mktemp("looked")
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    campaign = staffa.load(folder / "campaign.yaml", storage__root=str(folder / "runs"))
    watching = Watching(folder / "runs" / "v1.0_plain")
    with one_worker() as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CONTROL_SECONDS", 0.0)
        patch.setattr(runner, "POLL_SECONDS", 0.0)
        with pytest.raises(Enough):
            staffa.run(campaign, client=client, progress=False, listeners=[watching])
    watching.asking.join()
    return watching


@pytest.fixture(scope="module")
def done(watched: Watching, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, carried on to its end."""
    root = tmp_path_factory.mktemp("done") / "v1.0_plain"
    shutil.copytree(watched.root, root)
    with one_worker() as client:
        staffa.resume(root, client=client, progress=False)
        api.consolidate(root, client=client)
    return root


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "v1.0_plain"))


@pytest.fixture
def stopped(watched: Watching, tmp_path: Path) -> Path:
    """The same when its driver had fallen over; the last batch it asked for never came back."""
    root = Path(shutil.copytree(watched.root, tmp_path / "v1.0_plain"))
    asked = [event["batch"] for event in history(Workspace(root), ["trials_asked"])]
    group, _, number = asked[-1].partition("/")
    for name in (f"status/c.{number}", f"objectives/c.{number}.0"):
        (root / "hot" / "0" / f"{group}.zarr" / name).unlink(missing_ok=True)
    return root


# --- what there is ---------------------------------------------------------------------------------


def test_finished(done: Path) -> None:
    found = staffa.attach(done).search
    trials = found.trials
    assert list(trials.index) == list(range(64)) and trials.index.name == "number" and trials.trial.is_unique
    told = ["trial", "x", "y", "n", "experiment.kind", "loss", "cost", "score.0", "score.1", "front", "crowding"]
    assert list(trials.columns) == [*told, "outcome", "why"]
    failed = trials.x > 1.8
    assert failed.any() and (trials.outcome == np.where(failed, "raised", "ok")).all()
    loss = (trials.x - 0.3) ** 2 + (np.log(trials.y) - 1) ** 2 + 0.5 * (trials["experiment.kind"] == "b")
    assert np.allclose(trials.loss, loss.where(~failed), equal_nan=True)
    assert np.allclose(trials.cost, (trials.n / 2).where(~failed), equal_nan=True)
    beyond = ~failed & (loss > 3.0)
    assert beyond.any() and np.allclose(trials["score.0"], np.where(failed | beyond, np.inf, loss / 3.0))
    assert np.allclose(trials["score.1"], np.where(failed, np.inf, trials.n / 8))
    assert (trials.why[failed] == "ValueError: too large").all() and (trials.why[~failed & ~beyond] == "").all()
    assert all(text.endswith("is beyond its limit 3.0") for text in trials.why[beyond])
    assert ((trials.front == -1) == (failed | beyond)).all()


def test_the_best_come_first(done: Path) -> None:
    found = staffa.attach(done).search
    trials = found.trials
    points = {n: (row["score.0"], row["score.1"]) for n, row in trials[trials.front >= 0].iterrows()}
    first = {n for n, own in points.items() if not any(_dominates(other, own) for other in points.values())}
    assert set(found.fronts().index) == first == set(trials.index[trials.front == 0])
    two = found.fronts(2)
    assert set(two.index) == set(trials.index[trials.front.isin([0, 1])]) and list(two.front) == sorted(two.front)
    top = found.top(len(first) + 2)
    assert list(top.index)[: len(first)] == list(found.fronts().index) and (top == trials.loc[top.index]).all().all()
    best = found.best
    assert best is not None and best.number == top.index[0] and best.trial == top.trial.iloc[0]
    assert best.params == {name: trials[name][best.number] for name in ("x", "y", "n", "experiment.kind")}
    assert best.objectives == {"loss": trials.loss[best.number], "cost": trials.cost[best.number]}
    assert best.score == pytest.approx(sum(points[best.number])) and best.front == 0 and best.why == ""


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(left <= right for left, right in zip(a, b, strict=True))


def test_history_and_status(done: Path) -> None:
    found = staffa.attach(done).search
    gone, trials = found.history, found.trials
    assert list(gone.columns) == ["trial", "score.0", "score.1", "best.0", "best.1"]
    ranked = trials.front >= 0
    for group in ("0", "1"):
        best = trials[f"score.{group}"].where(ranked).cummin().ffill()
        assert np.array_equal(gone[f"best.{group}"], best, equal_nan=True)
    status = found.status
    counts = {name: status[name] for name in ("budget", "asked", "told", "in_flight", "waiting", "hopeless")}
    assert counts == {"budget": 64, "asked": 64, "told": 64, "in_flight": 0, "waiting": 0, "hopeless": 0}
    assert status["failed"] == (trials.outcome == "raised").sum() and status["ranked"] == ranked.sum()
    assert status["useless"] == 64 - status["failed"] - status["ranked"]
    assert (
        status["strategy"] == {"use": "random"}
        and status["changed"]
        and status["best"]["number"] == found.top(1).index[0]
    )


def test_live(watched: Watching, done: Path) -> None:
    status, trials, later = watched.status, watched.trials, staffa.attach(done).search.trials
    assert status["live"] and 0 < status["told"] < status["asked"] == len(trials)
    assert status["in_flight"] == status["asked"] - status["told"] and status["waiting"] == 0
    open_ones = trials.outcome == "missing"
    assert open_ones.sum() == status["in_flight"] and (trials.why[open_ones] == "no result yet").all()
    named = trials.trial != ""  # a batch is told of before it is seated
    assert named[~open_ones].all() and not named.all()
    common = trials.index[named].intersection(later.index)
    same = ["x", "y", "n", "experiment.kind"]
    by_name = later.set_index("trial").loc[trials.trial[common], same]
    assert (trials.loc[common, same].to_numpy() == by_name.to_numpy()).all()
    assert np.array_equal(
        trials.loss[~open_ones], later.set_index("trial").loss[trials.trial[~open_ones]], equal_nan=True
    )


def test_stopped(stopped: Path, done: Path) -> None:
    found, later = staffa.attach(stopped).search, staffa.attach(done).search.trials
    trials, status = found.trials, found.status
    assert not status["live"] and status["waiting"] == (trials.outcome == "missing").sum() > 0
    assert found.plan.search is not None and len(trials) < found.plan.search.trials
    # The list of trials was last written before the driver fell over: some names are the stores'.
    assert (
        dict(zip(trials.trial, trials.x, strict=True)).items() <= dict(zip(later.trial, later.x, strict=True)).items()
    )


def test_without_a_journal_or_a_score(copied: Path) -> None:
    before = staffa.attach(copied).search.trials.set_index("trial")
    plan = load_plan(Workspace(copied))
    stores = open_stores(Workspace(copied), plan)
    scored = [path for store in stores.values() for path in (store.path / "objectives").glob("c.*")]
    scored[0].unlink()
    scored[1].write_bytes(b"")
    shutil.rmtree(copied / "ledger")
    found = staffa.attach(copied).search
    assert found.objectives == found.declared and len(found.trials) == 64
    after = found.trials.set_index("trial").loc[before.index]
    damaged = after.loss.isna() & before.loss.notna()
    assert 0 < damaged.sum() <= 4 and (after.front[damaged] == -1).all()
    assert np.array_equal(after.loss[~damaged], before.loss[~damaged], equal_nan=True)
    assert (after[["x", "experiment.kind"]] == before[["x", "experiment.kind"]]).all().all()


def test_a_search_that_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    workspace = Workspace.create(tmp_path / "run")
    create(unfolded(load(tmp_path / "campaign.yaml")), workspace)
    run = staffa.attach(workspace.root)
    found = run.search
    assert found.best is None and found.status["asked"] == 0 and len(run.results) == 0
    assert [len(table) for table in (found.trials, found.top(), found.fronts(), found.history)] == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="no trial has data"):
        found.plot()
    with pytest.raises(ConfigError, match="names no trial") as error:
        api.explain(workspace.root, "0")
    assert error.value.hint == "no trial was asked for so far"


def test_what_is_no_search(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(LISTED)
    workspace = Workspace.create(tmp_path / "run")
    create(unfolded(load(tmp_path / "campaign.yaml")), workspace)
    with pytest.raises(ConfigError, match="is no search") as error:
        staffa.attach(workspace.root).search  # noqa: B018
    assert error.value.hint == f"staffa status {workspace.root}"


def test_few_of_many_stand_as_all_do() -> None:
    rng = np.random.default_rng(0)
    n, objectives = 400, Objectives.read({"a": "minimize", "b": {"group": 1}, "c": {"group": 2}})
    values = rng.integers(0, 9, (n, 3)).astype(float)
    values[::7, 1] = np.nan
    nothing = np.zeros(n, np.int64)
    record = Record(Workspace(Path()), None, nothing, nothing, nothing, {}, np.ones(n, np.uint8), values, {})  # type: ignore[arg-type]
    judged = Judged(record, objectives, values)
    front = fronts.ranks(judged.scores)
    for places in (judged.top(20), judged.leading(2), np.arange(10)):
        own, far = judged.standing(places)
        assert np.array_equal(own, front[places]) and np.array_equal(far, fronts.crowding(judged.scores, front)[places])
    assert set(judged.leading(2)) == set(np.flatnonzero((front == 0) | (front == 1)))
    whys = objectives.whys(values)
    assert whys == [objectives.why(dict(zip("abc", row, strict=True))) for row in values.tolist()]
    assert whys[0] == "b is nan" and whys[1] == ""


# --- by something else -----------------------------------------------------------------------------


def test_rescored(done: Path) -> None:
    found = staffa.attach(done).search
    other = found.rescored({"loss": {"limit": 1.0}, "cost": {"group": 0, "priority": 2}})
    trials, table = other.trials, found.trials
    assert list(trials.columns)[5:8] == ["loss", "cost", "score"] and (trials.trial == table.trial).all()
    expected = table.loss + 2 * table.cost / 4
    expected[(table.loss > 1.0) | table.loss.isna()] = np.inf
    assert np.allclose(trials.score, expected) and list(other.top(64).score) == sorted(expected[expected < np.inf])
    assert other.best is not None and other.best.number == expected.idxmin()
    assert list(other.history.best.dropna()) == sorted(other.history.best.dropna(), reverse=True)
    assert found.objectives.words()["loss"]["limit"] == 3.0  # type: ignore[index]


def test_by_what_was_not_scored(done: Path) -> None:
    found = staffa.attach(done).search
    other = found.rescored(
        {"loss": {"of": "loss.max - x", "target": None, "limit": None}, "x": {"of": "x", "group": 2}}
    )
    trials = other.trials
    data = trials.outcome == "ok"
    assert np.allclose(trials.loss[data], (found.trials.loss - trials.x)[data]) and trials.loss[~data].isna().all()
    assert np.allclose(trials["objective.x"][data], trials.x[data]) and "score.2" in trials
    alone = found.rescored(Objectives.read({"most": {"of": "n", "direction": "maximize"}}))
    assert alone.best is not None and alone.best.objectives == {"most": trials.n[data].max()}
    for patch, said in (
        ({"los": {"limit": 1.0}}, "objectives.los: there is no objective 'los'"),
        ({"loss": {"limt": 1.0}}, "objectives.loss.limt"),
        ({"loss": {"of": "lost.max"}}, "objectives.loss.of: 'lost' is no number|'lost.max' is no number"),
        ({"loss": {"target": 5.0}}, "target 5.0 is not below limit 3.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            found.rescored(patch)


# --- for good --------------------------------------------------------------------------------------


def test_a_live_driver_goes_by_it(watched: Watching) -> None:
    (changed,) = watched.changed
    assert changed.objectives.words() == {
        "loss": {"target": 0.0, "limit": 3.0},
        "cost": changed.declared.words()["cost"],
    }
    events = [event["event"] for event in history(Workspace(watched.root))]
    assert events.count("objectives_changed") == 1
    assert "batch_settled" in events[events.index("objectives_changed") :]


def test_who_carries_on_goes_by_it(watched: Watching, tmp_path: Path) -> None:
    root = Path(shutil.copytree(watched.root, tmp_path / "v1.0_plain"))
    found = staffa.attach(root).search.change({"cost": {"group": 0, "limit": 8}})
    assert found.objectives.groups == (0,) and found.best is not None
    assert found.change({"cost": {"limit": 8}}).objectives == found.objectives
    with pytest.raises(ConfigError, match=r"objectives\.cost\.of: what was measured cannot be changed"):
        found.change({"cost": {"of": "cost"}})
    workspace, plan = Workspace(root), load_plan(Workspace(root))
    books = fold(history(workspace))
    assert books.counts["objectives_changed"] == 2 and books.objectives == found.objectives.words()
    searching = refill_of(workspace, load(root / "campaign.yaml").campaign, plan, open_stores(workspace, plan), books)
    assert isinstance(searching, Searching) and searching.objectives == found.objectives
    notes: list[dict[str, Any]] = []
    searching.begin(_Board(), notes.append)  # type: ignore[arg-type]
    told = searching._know.told()
    trials = found.trials
    # Who was given up scores infinitely much.
    ended = trials[trials.outcome.isin(["ok", "raised"])]
    assert sorted(told.scores[:, 0]) == sorted(ended.score.where(ended.outcome == "ok", np.inf))
    assert searching.change({"loss": {"priority": 0}})["why"].startswith("objectives.loss.priority: 0 is not above 0")
    assert searching.change({"cost": {"group": 1}}) == {"done": True, "objectives": notes[-1]["objectives"]}
    anew = searching._know.told()
    assert anew.version == told.version + 1 and anew.scores.shape == (len(told), 2)


class _Board:
    def reserve(self, batches: Any) -> None:
        Counter(batches)


def test_what_is_known_is_scored_anew() -> None:
    before, after = Objectives.read({"a": "minimize"}), Objectives.read({"a": {"target": 0, "limit": 50}})
    known = Knowledge(1, before)
    known.add(np.linspace(0, 1, 100)[:, None], np.arange(100.0)[:, None])
    told = known.told()
    known.rescore(after)
    known.add(np.ones((1, 1)), np.array([[math.nan]]))
    assert np.array_equal(told.scores[:, 0], np.arange(100.0)) and told.version == 0
    anew = known.told()
    assert anew.version == 1 and np.array_equal(anew.scores, after.scores([*range(100), math.nan]))


# --- the command line ------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    return "".join(capsys.readouterr())


def test_commands(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = staffa.attach(done).search
    text = said(capsys, "search", "status", done)
    assert "64 of 64 trials (100 %)" in text and "3 (was 4)" in text and f"next: staffa search top {done}" in text
    status = json.loads(said(capsys, "search", "status", done, "--json"))
    assert status["ranked"] == found.status["ranked"] and status["best"]["trial"] == found.best.trial  # type: ignore[union-attr]
    lines = said(capsys, "search", "top", done, "-k", "3").splitlines()
    assert lines[1].split() == [*found.trials.columns.insert(0, "number").drop("why")]
    assert [line.split()[1] for line in lines[2:5]] == [trial[:12] for trial in found.top(3).trial]
    rows = json.loads(said(capsys, "search", "top", done, "--set", "cost.group=0", "--set", "loss.limit=1.0", "--json"))
    assert [row["number"] for row in rows["rows"]] == list(
        found.rescored({"cost": {"group": 0}, "loss": {"limit": 1.0}}).top().index
    )
    fronts_ = json.loads(said(capsys, "search", "fronts", done, "-k", "2", "--json"))
    assert [row["trial"] for row in fronts_["rows"]] == list(found.fronts(2).trial)


def test_objectives_by_command(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "search", "objectives", copied, "--set", "loss.limit=null", "--set", "loss.target=null")
    shown = json.loads(said(capsys, "search", "objectives", copied, "--json"))
    assert shown["objectives"]["loss"] == "minimize" and shown["changed"]
    assert (
        "0 (was" not in said(capsys, "search", "objectives", copied) and search(copied).objectives.all[0].limit is None
    )
    for word, text in (
        ("loss", "what of which objective?"),
        ("loss=maximize", "what of which objective?"),
        ("los.limit=1", "did you mean 'loss'"),
        ("loss.of=x", "staffa search top RUN --set"),
    ):
        assert text in said(capsys, "search", "objectives", copied, "--set", word, code=2)


def test_figures(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = json.loads(said(capsys, "search", "plot", copied, "--json"))["figures"]
    assert [one["kind"] for one in drawn] == ["course", "parameters", "fronts"]
    assert all(Path(one["file"]).read_bytes().startswith(b"\x89PNG") for one in drawn)
    found = staffa.attach(copied).search
    trials = found.trials
    course = drawn[0]["objectives"]["loss"]
    assert course["shown"] == (trials.loss <= 3.0).sum() and course["beyond"] == (trials.loss > 3.0).sum()
    assert course["best"] == trials.loss[trials.front >= 0].min()
    assert drawn[2]["fronts"] == trials.front.max() + 1 and drawn[2]["first_front"] == (trials.front == 0).sum()
    page = copied / "one.svg"
    said(capsys, "search", "plot", copied, "--kind", "course", "--to", page)
    text = page.read_text()
    assert all(word in text for word in ("limit", "target", "best trial so far", "cost: cost / 2"))
    assert "one file, and 3 figures" in said(capsys, "search", "plot", copied, "--to", page, code=2)
    assert "did you mean 'course'" in said(capsys, "search", "plot", copied, "--kind", "corse", code=2)
    with pytest.raises(ConfigError, match="all objectives are of one group"):
        found.rescored({"cost": {"group": 0}}).plot("fronts")
    three = found.rescored({"far": {"of": "abs(x)", "direction": "maximize", "group": 2}}).plot("fronts")
    assert len(three.axes) == 3


# --- other views -----------------------------------------------------------------------------------


def test_others_count_what_was_asked_for(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run = stopped, staffa.attach(stopped)
    asked = len(run.search.trials)
    figures = run.status["figures"]
    assert figures["trials"] == 64 and figures["asked"] == asked and figures["batches"] == math.ceil(asked / 4)
    assert f" {asked} of 64 by the search\n" in said(capsys, "status", root)
    listed = len(run.results.params.to_pandas())
    assert len(run.results) == listed <= asked
    arrays = run.results.to_xarray()
    counts = [int(group.sizes["trial"]) for group in arrays.children.values()]
    assert sum(counts) == asked and all((group["trial"] != "").all() for group in arrays.children.values())
    story = [event["text"] for event in api.explain(root, "0")["history"]]
    assert story[0] == "asked for by the search, as its trial number 0"
    with pytest.raises(ConfigError, match="is a search"):
        api.shrink(root, where="x > 1")
    waiting = run.search.status["waiting"]
    assert api.cancel(root)["trials"] >= waiting > 0
    assert (staffa.attach(root).search.trials.outcome != "missing").all()


def test_report(stopped: Path, tmp_path: Path) -> None:
    facts = staffa.report(stopped, to=tmp_path / "page.html").facts
    found = staffa.attach(stopped).search
    told, asked = facts["sections"]["search"], len(found.trials)
    assert told["asked"] == asked and told["top"]["rows"][0]["trial"] == found.best.trial  # type: ignore[union-attr]
    assert facts["sections"]["completeness"]["incomplete_points"] == 0
    assert facts["state"].startswith(f"{len(run_listed(stopped)):,} of 64 trials asked for")
    assert f"Not asked for yet: {64 - asked} of 64 trials." in [one["text"] for one in facts["verdict"]["findings"]]
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="search-') >= 2 and "Combinations of parameters" not in page


def run_listed(root: Path) -> Any:
    return staffa.attach(root).results.params.to_pandas()
