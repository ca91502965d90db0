"""A campaign that records a value of every kind: seen the same before it is sealed, after, and when it is pruned."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray
from distributed import Client

import staffa
from execution.test_yield import compute, planned
from staffa.errors import ConfigError, PluginError, StaffaWarning, WorkspaceError
from staffa.execution import work
from staffa.execution.prepare import open_stores
from staffa.views.results import Results
from staffa.views.sheets import plan_facts
from views.test_roundtrip import as_json, categoricals, elements, equal, frames, matrices, moments, stamps
from views.values.model import LABELS, values

FOLDER = Path(__file__).parent / "values"
SAME: dict[str, Callable[[Any, Any], bool]] = {
    "energy": equal, "flag": equal, "name": equal, "words": elements, "notes": as_json, "list": as_json,
    "moment": moments, "naive": equal, "day": equal, "stamp": stamps, "ticks": elements, "took": equal, "phase": equal,
    "states": categoricals, "path": elements, "sites": elements, "table": frames, "curve": frames, "matrix": matrices,
}  # fmt: skip
Roots = dict[str, Path]
NUMBERS = ("energy", "flag")
STATES: dict[str, Callable[[Path, Client], Any]] = {
    "hot": lambda root, workers: None,
    "sealed": lambda root, workers: staffa.consolidate(root, client=workers),
    "pruned": lambda root, workers: staffa.consolidate(root, prune=True, client=workers),
}


def declared(folder: Path, *values: str) -> staffa.Campaign:
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return staffa.load(folder / "campaign.yaml", set=[f"storage.root={folder.parent / 'runs'}", *values])


def campaign(use: str, folder: Path) -> staffa.Campaign:
    return declared(folder, f"experiment.use=model.py:{use}", *["sampling.draws=2"] * (use == "Often"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Two campaigns of which nothing is sealed: one that was run, one made by the graph of each batch alone."""
    once = staffa.run(campaign("Once", tmp_path_factory.mktemp("values") / "Once"), progress=False)
    assert once.ended.outcomes == {"ok": 8, "raised": 1}
    workspace, plan, order = planned(campaign("Often", tmp_path_factory.mktemp("values") / "Often"))
    receipts = [compute(replace(order, batch=batch), plan) for batch in range(plan.groups[0].batches)]
    assert [receipt["outcomes"] for receipt in receipts] == [{"ok": 4}, {"ok": 4}, {"ok": 1}]
    return {"Once": once.root, "Often": workspace.root}


@pytest.fixture(scope="module", params=[(use, state) for use in ("Once", "Often") for state in STATES], ids="-".join)
def results(
    request: pytest.FixtureRequest, roots: Roots, tmp_path_factory: pytest.TempPathFactory, workers: Client
) -> Results:
    use, state = request.param
    other = tmp_path_factory.mktemp("other") / use
    shutil.copytree(roots[use], other)
    STATES[state](other, workers)
    if state == "pruned":
        assert not list(other.glob("hot/*/*/table/c*")) and not list(other.glob("hot/*/*/name/c*"))
    return staffa.attach(other).results


@pytest.fixture
def before(results: Results, roots: Roots) -> Results:
    """The same campaign, of which nothing is sealed."""
    return staffa.attach(roots["Once" if draws_of(results) is None else "Often"]).results


def draws_of(results: Results) -> int | None:
    return results.config.sampling.draws


def expected(results: Results) -> list[dict[str, Any]]:
    """What stands in the rows of the table of draws."""
    drawn = draws_of(results)
    if drawn is None:
        return [values(seed) for seed in range(1, 9)]
    once = [[values(10 * seed + draw) for draw in range(drawn)] for seed in range(1, 10)]
    return [row for rows in once for _ in range(2) for row in rows]  # two chains


def alike(name: str, one: Any, two: Any) -> bool:
    if one is None:
        return two is None
    return (type(one) is type(two) or name in NUMBERS) and SAME[name](one, two)


def test_a_trial_gives_back_what_was_returned(results: Results) -> None:
    drawn = draws_of(results)
    for seed in range(1, 9):
        trial = results.trial(seed - 1)
        for name in SAME:
            found = trial.recorded[name]
            if drawn is None:
                assert alike(name, values(seed)[name], found), (name, found)
            elif name in NUMBERS:
                assert found.tolist() == [values(10 * seed + draw)[name] for draw in range(2)]
            else:
                assert all(alike(name, values(10 * seed + draw)[name], found[draw]) for draw in range(2)), name
    assert "matrix" in dir(trial) and trial.matrix is not None and trial.outcome == "ok"
    with pytest.raises(AttributeError, match="did you mean 'table'"):
        _ = trial.tabel


def test_columns_for_pandas(results: Results) -> None:
    frame, rows = results.draws.to_pandas(), expected(results)
    assert list(frame.columns) == results.draws.columns and len(frame) == len(rows)
    for name in ("notes", "list", "states", "path", "sites", "table", "curve", "matrix"):
        assert all(alike(name, row[name], found) for row, found in zip(rows, frame[name], strict=True)), name
    text = [None if pd.isna(one) else one for one in frame["name"]]
    assert text == [row["name"] for row in rows]
    assert str(frame["moment"].dtype) == "datetime64[us, Europe/Rome]"
    assert frame["ticks"].iloc[0].dtype == "datetime64[ms]"
    assert frame["moment"].tolist() == [row["moment"] for row in rows]
    assert frame["day"].tolist() == [row["day"] for row in rows]
    assert frame["took"].tolist() == [row["took"] for row in rows]
    assert frame["phase"].dtype == pd.CategoricalDtype(LABELS, ordered=True)
    assert [None if pd.isna(one) else one for one in frame["phase"]] == [row["phase"] for row in rows]
    own = results.draws.stamp.to_pandas()
    assert str(own.dtype) == "datetime64[us, UTC]" and own.index.tolist() == frame["trial"].tolist()
    pd.testing.assert_frame_equal(results.draws.head(3)[["name", "phase"]], frame[["name", "phase"]].head(3))


def test_columns_for_numpy(results: Results) -> None:
    rows = expected(results)
    assert results.draws["name"].to_numpy().tolist() == [row["name"] for row in rows]
    assert results.draws.naive.to_numpy().dtype == "datetime64[us]"
    assert results.draws.naive.to_numpy().tolist() == [row["naive"] for row in rows]
    assert results.draws.words.to_numpy().tolist() == [row["words"].tolist() for row in rows]
    assert results.draws.notes.to_numpy()[0] == rows[0]["notes"]
    assert results.draws.table.to_arrow().type.value_type.num_fields == 6


def test_arrays_for_xarray(results: Results, before: Results) -> None:
    found, drawn = results.to_xarray(), draws_of(results)
    dims = ("trial",) if drawn is None else ("trial", "draw")
    for name in SAME:
        extra = {"words": ("words_0",), "ticks": ("ticks_0",)}.get(name, ())
        assert found[name].dims == (*dims, *extra), name
    some = found.isel(trial=slice(7, None, -3)).load()
    for place, seed in enumerate((8, 5, 2)):
        own = values(seed if drawn is None else 10 * seed + 1)
        cut = {name: some[name].values[place] if drawn is None else some[name].values[place, 1] for name in SAME}
        for name in ("notes", "list", "states", "path", "sites", "table", "curve", "matrix"):
            assert alike(name, own[name], cut[name]), name
        for name in ("name", "phase", "day"):
            assert cut[name] == own[name] or (own[name] is None and pd.isna(cut[name])), name
        assert cut["moment"] == own["moment"] and cut["naive"] == np.datetime64(own["naive"])
        assert cut["took"] == np.timedelta64(own["took"]) and elements(own["ticks"], cut["ticks"])
    if drawn is not None:
        assert found["spins"].dims == ("trial", "chain", "draw", "site")
        assert found["spins"].isel(trial=2, chain=1, draw=1).values.tolist() == ["31", ""]
        assert found["found"].isel(trial=2, draw=1).values.tolist() == ["f31", "g", "h"]
        assert found["found"].isel(trial=0, draw=0).values.tolist() == ["f10", "g", ""]
        assert set(results.to_arviz()["posterior"].data_vars) == {"flag", "count"}
    names = ["name", "words", "moment", "naive", "day", "stamp", "ticks", "took", "phase", "energy"]
    xarray.testing.assert_identical(before.to_xarray()[names].drop_attrs().load(), found[names].drop_attrs().load())


def test_queries(results: Results, before: Results) -> None:
    rows = expected(results)
    for sql in (
        "select * exclude (trial) from draws order by seed, chain, draw",
        "select name, count(*) n from draws group by all order by all",
        "select u.* from (select unnest(\"table\", recursive := true), seed from draws) u order by all",
        "select notes->>'$.seed' as seed, notes->'$.runs[2]' as runs from draws order by all",
        "select seed from draws where moment > timestamptz '2024-03-31 02:00:00+00' and phase = 'ice' order by all",
        "select sum(took) s, max(to_microseconds(took)) longest from draws",
        "select list_sum(matrix.data) s, matrix.shape from draws order by all",
    ):  # fmt: skip
        one, two = before.answer(sql), results.answer(sql)
        assert one.schema.equals(two.schema) and one.num_rows > 0
        assert [repr(row) for row in one.to_pylist()] == [repr(row) for row in two.to_pylist()], sql
    answer = results.query("select count(*) n, count(name) named, min(day) as first from draws").iloc[0].tolist()
    assert answer[:2] == [len(rows), sum(row["name"] is not None for row in rows)]
    assert pd.Timestamp(answer[2]).date() == min(row["day"] for row in rows)
    told = json.loads(results.schema("draws").field("moment").metadata[b"encoding"])
    assert told == {"use": "datetime", "form": "datetime", "unit": "us", "zone": "Europe/Rome"}


def test_rows_of_trials(results: Results) -> None:
    columns, numberless = results.trials.columns, ("name.", "table.", "moment.")
    assert "energy.mean" in columns and not [name for name in columns if name.startswith(numberless)]
    if draws_of(results) is None:
        assert results.trial(8).outcome == "raised" and results.trial(8).summary == {}
        with pytest.raises(WorkspaceError, match="trial 8 has no data: its outcome is 'raised'"):
            _ = results.trial(8).table
        return
    once = results.trials.to_pandas().set_index("seed")
    for seed in range(1, 10):
        drawn = [values(10 * seed + draw) for draw in range(2)]
        best = max(drawn, key=lambda one: one["energy"])
        found = [once.loc[seed, "last.name"], once.loc[seed, "best.name"]]
        assert [None if pd.isna(one) else one for one in found] == [drawn[1]["name"], best["name"]]
    found = results.table("found").to_pandas()
    assert found[found["chain"] == 0].groupby("seed")["found"].agg(list)[1] == ["f10", "g", "f11", "g", "h"]


def test_a_trial_that_records_another_kind_says_so(results: Results) -> None:
    if draws_of(results) is None and len(results.failed):
        said = results.failed.to_pandas()["message"].tolist()
        assert len(said) == 1 and "output 'table' has column ['time', 'y', 'label', 'count', 'phase'], not" in said[0]


@pytest.mark.parametrize("prune", [False, True], ids=["hot", "pruned"])
def test_trials_run_again_come_out_as_recorded(roots: Roots, tmp_path: Path, prune: bool, workers: Client) -> None:
    root = tmp_path / "x"
    shutil.copytree(roots["Often"], root)
    if prune:
        staffa.consolidate(root, prune=True, client=workers)
    facts = staffa.reproduce(root, trials=2, seed=1)
    assert facts["agree"] and facts["trials"] == 2, facts
    assert not any(row["worst"] for row in facts["compared"]), "every bit is the same"
    code = root / "code" / "model.py"
    code.write_text(code.read_text().replace("random.normal(size=(rows, 2))", "random.normal(size=(rows, 2)) + 1e-3"))
    other = staffa.reproduce(root, trials=2, seed=1)
    worst = [row["worst"] for row in other["compared"] if row["worst"]]
    assert not other["agree"] and {row["output"] for row in worst} == {"path"}
    assert all(abs(row["largest"] - 1e-3) < 1e-9 for row in worst), "how far numbers in lists are apart is told"


@pytest.mark.parametrize("use", ["Once", "Often"])
def test_hot_stores_explain_themselves(roots: Roots, use: str) -> None:
    """To xarray alone, without a word of ours."""
    found = xarray.open_zarr(next(roots[use].glob("hot/*/g0.zarr")))
    drawn = "draw" in found.dims
    own = values(40 if drawn else 4)
    row = found.isel(trial=3, draw=0) if drawn else found.isel(trial=3)
    assert str(row["name"].values) == own["name"] and str(found["name"].values.flat[4 if drawn else 2]) == "\uffff"
    naive = own["moment"].astimezone(datetime.UTC).replace(tzinfo=None)
    assert row["moment"].values == np.datetime64(naive) and found["moment"].attrs["encoding"]["zone"] == "Europe/Rome"
    assert row["took"].values == np.timedelta64(own["took"])
    codes = found["phase"].attrs["codes"]
    assert codes == {"1": "ice", "2": "liquid water", "3": "vapour"}
    assert codes.get(str(int(row["phase"]))) == own["phase"]
    assert json.loads(str(row["notes"].values)) == own["notes"]
    cell = found["table"].values[3]
    table = pa.ipc.open_stream(cell).read_all()
    assert table.num_rows == (2 if drawn else 1)
    assert [one["event"] for one in table["value"][0].as_py()] == own["table"].index.tolist()
    assert found["table"].attrs["encoding"]["columns"][0]["dtype"] == "datetime64[us, Europe/Rome]"


@pytest.mark.parametrize("use", ["Once", "Often"])
def test_finished_trials_are_carried_over_in_a_checkpoint(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, plan, order = planned(campaign(use, tmp_path / "whole" / "x"))
    assert compute(order, plan)["yielded"] is None
    workspace, plan, order = planned(campaign(use, tmp_path / "pieces" / "x"))
    left = iter([100.0, 100.0, 0.0])  # asked before the batch, then after each trial
    monkeypatch.setattr(work, "seconds_left", lambda: next(left))
    assert compute(order, plan)["yielded"] == 0 and list(workspace.state.glob("*.safetensors"))
    monkeypatch.setattr(work, "seconds_left", lambda: 100.0)
    again = work.Loop.run
    tried: list[int] = []

    def run(self: Any, lanes: Any, *rest: Any) -> None:
        tried.extend(lanes)
        again(self, lanes, *rest)

    monkeypatch.setattr(work.Loop, "run", run)
    assert compute(replace(order, issue=2), plan)["outcomes"] == {"ok": 4}
    assert tried == [2, 3]
    one, two = (open_stores(place, plan)[0] for place in (whole, workspace))
    for array in one.layout.arrays:
        assert one.chunk(array.name, 0, 0).read_bytes() == two.chunk(array.name, 0, 0).read_bytes(), array.name


def test_campaigns_are_merged(roots: Roots, tmp_path: Path) -> None:
    said = ["experiment.use=model.py:Often", "sampling.draws=2", "space=[{grid: {seed: [8, 9, 10]}}]"]
    workspace, plan, order = planned(declared(tmp_path / "more" / "x", *said))
    assert compute(order, plan)["outcomes"] == {"ok": 3}
    facts = staffa.merge(roots["Often"], workspace.root, into=tmp_path / "whole")
    assert (facts["trials"], facts["with_data"]) == (10, 10)
    results = staffa.attach(tmp_path / "whole").results
    for seed in (9, 10):
        trial = results.trial(seed - 1)
        for name in SAME:
            assert name in NUMBERS or all(
                alike(name, values(10 * seed + draw)[name], trial.recorded[name][draw]) for draw in range(2)
            ), name
    model = tmp_path / "more" / "x" / "model.py"
    model.write_text(model.read_text().replace('"ordered": True', '"ordered": False'))
    said += [f"storage.root={tmp_path}", "campaign.version=v2.0"]
    unlike, plan, order = planned(staffa.load(model.with_name("campaign.yaml"), set=said))
    with pytest.raises(WorkspaceError, match=r"output phase: .*\"ordered\": true.*\"ordered\": false"):
        staffa.merge(roots["Often"], unlike.root, into=tmp_path / "never", accept_code_change=True)


def test_the_plan_says_what_is_recorded(tmp_path: Path) -> None:
    plan = staffa.plan(declared(tmp_path / "x")).plan
    facts = plan_facts(plan, tmp_path, 0, 0)["partitions"][0]
    outputs = facts["outputs"]
    assert (outputs["table"], outputs["words"], outputs["energy"]) == ("frame", "text[2]", "float64")
    assert facts["bytes"] == 9 * sum(output.bytes for output in plan.groups[0].outputs)
    assert {output.name: output.bytes for output in plan.groups[0].outputs}["words"] == len("a1")


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ('"path": "ragged"', '"path": "raged"', ["encodings['path'] = 'raged'", "did you mean 'ragged'"]),
        ('"path": "ragged"', '"pth": "ragged"', ["encodings['pth']: step records no output 'pth'", "'path'"]),
        ('"path": "ragged"', '"path": 3', ["encodings['path'] = 3 names no encoding", "category"]),
        ('"categories": list(LABELS)', '"categories": ["ice", 1]', ["encodings['phase']", "all are to be text"]),
        ('"categories": list(LABELS)', '"category": ["ice"]', ["encodings['phase']", "unexpected keyword"]),
        ('"categories": list(LABELS)', '"categories": ["ice"]', ["'phase' is 'liquid water', which is none of its"]),
        ('"flag": bool(seed % 2)', '"flag": object()', ["'flag' is an object", "docs/plugins.md"]),
        ('dtype="Int64")', 'dtype="Int64").astype(object)', ["'table' has an int in column 'count' of dtype object"]),
        ('tz="Europe/Rome", unit="us")', 'unit="us").to_period("h")', ["'table' has column 'time' of dtype period[h]"]),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused_at_plan(tmp_path: Path, old: str, new: str, fragments: list[str]) -> None:
    campaign = declared(tmp_path / "x")
    model = tmp_path / "x" / "model.py"
    assert old in model.read_text()
    model.write_text(model.read_text().replace(old, new))
    with pytest.raises(PluginError) as caught:
        staffa.plan(campaign)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_one_meaning_for_a_column(tmp_path: Path) -> None:
    declared(tmp_path / "x")
    model = tmp_path / "x" / "model.py"
    model.write_text(
        model.read_text()
        + '\n\nclass Other(Once):\n    encodings = {**ENCODINGS, "phase": {"use": "category", "categories": ["ice"]}}\n'
        + "\n    def step(self, key, state, params):\n        return state, {**values(1), 'phase': 'ice'}\n"
    )
    space = "space=[{grid: {experiment.use: ['model.py:Once', 'model.py:Other'], seed: [1]}}]"
    both = staffa.load(tmp_path / "x" / "campaign.yaml", set=[f"storage.root={tmp_path}", space])
    with pytest.raises(ConfigError, match=r"output 'phase' is encoded as .* in model.py:Once, but as"):
        staffa.plan(both)


def test_without_its_plug_in_values_are_shown_as_the_archive_has_them(roots: Roots) -> None:
    shown = pytest.warns(StaffaWarning, match="matrix: shown as the archive has it")
    with staffa.deregister("encodings", "sparse"), shown:
        found = staffa.attach(roots["Once"]).results.draws.matrix.to_pandas().iloc[0]
    assert set(found) == {"shape", "data", "indices", "indptr"}
