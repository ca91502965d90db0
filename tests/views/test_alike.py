"""The same question has the same answer before a trial is sealed, after it, and when its shards are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray

import staffa
from staffa.errors import WorkspaceError
from staffa.storage.workspace import Workspace
from staffa.views.results import Results

FOLDER = Path(__file__).parent / "mixed"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of which nothing is sealed."""
    folder = tmp_path_factory.mktemp("alike") / "mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    run = staffa.run(
        folder / "campaign.yaml",
        set=[f"storage.root={folder.parent / 'runs'}", "archive.every=off", "execution.batch=2"],
        progress=False,
    )
    return run.root


def copied(root: Path, to: Path) -> Path:
    shutil.copytree(root, to)
    return to


def half_sealed(root: Path) -> None:
    """As a run leaves it that is under way: the files of every other part, without those of the rest."""
    staffa.consolidate(root)
    for path in sorted((root / "archive").rglob("part-*.parquet")):
        if int(path.stem.split("-")[1]) % 2:
            path.unlink()
    manifest = json.loads((root / "archive" / "manifest.json").read_text())
    manifest["parts"] = {part: found for part, found in manifest["parts"].items() if not int(part[-5:]) % 2}
    (root / "archive" / "manifest.json").write_text(json.dumps(manifest))


def remove(root: Path) -> None:
    """As if somebody had removed all shards."""
    workspace = Workspace.open(root)
    results = Results(workspace)
    for number in range(len(results.groups)):
        store = results._standing.store(number)
        for array in store.layout.arrays:
            for shard in (store.path / array.name).glob("c.*"):
                shard.unlink()


STATES: dict[str, Callable[[Path], Any]] = {
    "half sealed": half_sealed,
    "sealed": staffa.consolidate,
    "pruned": lambda root: staffa.consolidate(root, prune=True),
    "removed by hand": lambda root: (staffa.consolidate(root), remove(root)),
}


@pytest.fixture(scope="module", params=list(STATES))
def pair(
    request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Results, Results]:
    """The campaign before and after."""
    other = copied(root, tmp_path_factory.mktemp("other") / root.name)
    STATES[request.param](other)
    return staffa.attach(root).results, staffa.attach(other).results


def rows(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


def test_nothing_is_sealed_at_first(root: Path) -> None:
    results = staffa.attach(root).results
    assert not results.sealed and (len(results.trials), len(results.draws), len(results)) == (44, 132, 48)


@pytest.mark.parametrize("name", ["draws", "trials", "run"])
def test_tables(pair: tuple[Results, Results], name: str) -> None:
    before, after = (results.table(name) for results in pair)
    assert before.columns == after.columns and len(before) == len(after) > 0
    assert before.to_arrow().schema.equals(after.to_arrow().schema)
    one, two = before.to_arrow(), after.to_arrow()
    assert [repr(row) for row in one.to_pylist()] == [repr(row) for row in two.to_pylist()], "in the same order, too"
    columns = before.columns[:1] + before.columns[-1:]
    assert rows(before.to_arrow(columns)) == rows(after.to_arrow(columns))


def test_a_look_from_before_pruning_is_refused_and_not_answered_with_fill(root: Path, tmp_path: Path) -> None:
    results = staffa.attach(copied(root, tmp_path / root.name)).results
    looked = results.load(draws="skeleton", trials="data")
    staffa.consolidate(results.workspace.root, prune=True)
    with pytest.raises(WorkspaceError, match="pruned after it was looked at"):
        looked.draws.to_arrow()
    assert rows(looked.load(draws="nothing").draws.to_arrow()) == rows(staffa.attach(root).results.draws.to_arrow())
    assert len(looked.draws) == 132 and len(looked.trials.to_arrow()) == 44


def test_filters(pair: tuple[Results, Results]) -> None:
    import pyarrow.dataset as ds

    only = (ds.field("scale") > 1) & (ds.field("kind") == "warm")
    before, after = (results.draws.to_arrow(["trial", "draw", "energy"], only) for results in pair)
    assert rows(before) == rows(after) and 0 < before.num_rows < 132
    assert len(pair[0].where("scale > 1").draws) == len(pair[1].where("scale > 1").draws) == 84
    assert rows(pair[0].where("scale > 1").trials.to_arrow()) == rows(pair[1].where("scale > 1").trials.to_arrow())


@pytest.mark.parametrize(
    "sql",
    [
        "select * from draws order by trial, chain, draw",
        "select kind, population, avg(energy) e, count(*) n from draws group by all order by all",
        "select count(*) n from draws where energy > 0.5",
        "select d from draws d order by d.trial, d.draw limit 3",
        "select t.outcome, avg(d.energy) e from draws d join trials t using (trial) group by all order by 1",
        'from trials select trial, "energy.mean", attempts, node order by trial',
        "select a.trial, r.item, r.run from run r join draws a on a.trial = r.trial and a.draw = r.draw order by all",
        "from trials anti join failed using (trial) order by trial",
    ],
)
def test_queries(pair: tuple[Results, Results], sql: str) -> None:
    before, after = (results.answer(sql) for results in pair)
    assert before.num_rows > 0 and [repr(r) for r in before.to_pylist()] == [repr(r) for r in after.to_pylist()]


def test_arrays(pair: tuple[Results, Results]) -> None:
    for name in pair[0].groups:
        one, two = (results.to_xarray(name) for results in pair)
        same(one, two)
        same(one.isel(trial=slice(None, None, -2)), two.isel(trial=slice(None, None, -2)))
        same(one.isel(trial=[2, 0], draw=1), two.isel(trial=[2, 0], draw=1))
        same(one.isel(trial=-1, draw=slice(1, 3)), two.isel(trial=-1, draw=slice(1, 3)))
    ragged = next(one for one in map(pair[1].to_xarray, pair[1].groups) if "run" in one)
    inside = ragged["run"].dims[-1]
    behind = ragged["run"].where(np.arange(ragged.sizes[inside])[None, None] >= ragged["runs"].values[..., None], 0)
    assert not behind.any(), "nothing stands behind the last item"


def same(one: Any, two: Any) -> None:
    xarray.testing.assert_identical(one.drop_attrs().load(), two.drop_attrs().load())


def test_one_trial(pair: tuple[Results, Results]) -> None:
    for index in range(48):
        one, two = (results.trial(index) for results in pair)
        assert one.trial == two.trial == pair[0].trial(one.trial[:10]).trial
        assert repr(one.summary) == repr(two.summary) and one.outcome == two.outcome and repr(one) == repr(two)
        same(one.draws, two.draws)
        assert bool(one.summary) == (one.outcome in ("ok", "nan"))
        if one.summary:
            assert one.summary["scale"] == one.params.scale


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    other = copied(root, tmp_path / root.name)
    staffa.consolidate(other)
    return other


@pytest.mark.parametrize("table", ["draws", "trials"])
def test_a_part_that_is_truncated_or_gone_is_told(broken: Path, table: str) -> None:
    path = sorted((broken / "archive" / table).rglob("part-*.parquet"))[2]
    path.write_bytes(path.read_bytes()[:-7])
    for ask in (lambda r: r.table(table).to_arrow(), lambda r: r.query(f"select count(*) from {table}")):
        with pytest.raises(WorkspaceError, match=r"has [\d,]+ bytes; the manifest says") as caught:
            ask(staffa.attach(broken).results)
        assert caught.value.hint == f"staffa archive verify {broken}"
    path.unlink()
    with pytest.raises(WorkspaceError, match="is not there; the manifest says"):
        staffa.attach(broken).results.table(table).to_pandas()


def test_what_arrow_cannot_read_is_told(broken: Path) -> None:
    """As long as it should be, and rubbish."""
    path = sorted((broken / "archive" / "draws").rglob("part-*.parquet"))[2]
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(WorkspaceError, match="cannot be read") as caught:
        staffa.attach(broken).results.draws.to_arrow()
    assert "staffa archive verify" in caught.value.hint
