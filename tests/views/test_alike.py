"""The same question has the same answer before a trial is sealed, after it, and when its shards are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray
from distributed import Client

import staffa
from staffa.errors import WorkspaceError
from staffa.storage.workspace import Workspace
from staffa.views.results import Results

FOLDER = Path(__file__).parent / "mixed"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Path:
    """A campaign of which nothing is sealed."""
    folder = tmp_path_factory.mktemp("alike") / "mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    run = staffa.run(
        folder / "campaign.yaml",
        set=[f"storage.root={folder.parent / 'runs'}", "archive.every=off", "execution.batch=2"],
        progress=False,
        client=workers,
    )
    return run.root


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Path:
    """The same, sealed."""
    other = copied(root, tmp_path_factory.mktemp("whole") / root.name)
    staffa.consolidate(other, client=workers)
    return other


def copied(root: Path, to: Path) -> Path:
    shutil.copytree(root, to)
    return to


def half_sealed(root: Path, workers: Client) -> None:
    """As a run leaves it that is under way: the files of every other part, without those of the rest."""
    for path in sorted((root / "archive").rglob("part-*.parquet")):
        if int(path.stem.split("-")[1]) % 2:
            path.unlink()
    manifest = json.loads((root / "archive" / "manifest.json").read_text())
    manifest["parts"] = {part: found for part, found in manifest["parts"].items() if not int(part[-5:]) % 2}
    (root / "archive" / "manifest.json").write_text(json.dumps(manifest))


def remove(root: Path, workers: Client) -> None:
    """As if somebody had removed all shards."""
    workspace = Workspace.open(root)
    results = Results(workspace)
    for number in range(len(results.groups)):
        store = results._standing.store(number)
        for array in store.layout.arrays:
            for shard in (store.path / array.name).glob("c.*"):
                shard.unlink()


STATES: dict[str, Callable[[Path, Client], Any]] = {
    "half sealed": half_sealed,
    "sealed": lambda root, workers: None,
    "pruned": lambda root, workers: staffa.consolidate(root, prune=True, client=workers),
    "removed by hand": remove,
}
"""What becomes of a sealed campaign."""


@pytest.fixture(scope="module", params=list(STATES))
def pair(
    request: pytest.FixtureRequest,
    root: Path,
    whole: Path,
    tmp_path_factory: pytest.TempPathFactory,
    workers: Client,
) -> tuple[Results, Results]:
    """The campaign before and after."""
    other = copied(whole, tmp_path_factory.mktemp("other") / root.name)
    STATES[request.param](other, workers)
    return staffa.attach(root).results, staffa.attach(other).results


Once = Callable[..., Any]


@pytest.fixture(scope="module")
def once(root: Path) -> Once:
    """`once(ask, words)` asks the campaign before: its answers are the same whatever becomes of copies."""
    results = staffa.attach(root).results
    return cache(lambda ask, *words: ask(results, *words))


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


def test_a_look_from_before_pruning_is_refused_and_not_answered_with_fill(
    root: Path, tmp_path: Path, workers: Client
) -> None:
    results = staffa.attach(copied(root, tmp_path / root.name)).results
    looked = results.load(draws="skeleton", trials="data")
    staffa.consolidate(results.workspace.root, prune=True, client=workers)
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
def test_queries(pair: tuple[Results, Results], once: Once, sql: str) -> None:
    before, after = once(answers, sql), answers(pair[1], sql)
    assert before and before == after


def answers(results: Results, sql: str) -> list[str]:
    return [repr(row) for row in results.answer(sql).to_pylist()]


def test_arrays(pair: tuple[Results, Results], once: Once) -> None:
    for name in pair[0].groups:
        for before, after in zip(once(arrays, name), arrays(pair[1], name), strict=True):
            xarray.testing.assert_equal(before, after)
    ragged = next(one for one in map(pair[1].to_xarray, pair[1].groups) if "run" in one)
    inside = ragged["run"].dims[-1]
    behind = ragged["run"].where(np.arange(ragged.sizes[inside])[None, None] >= ragged["runs"].values[..., None], 0)
    assert not behind.any(), "nothing stands behind the last item"


def arrays(results: Results, name: str) -> list[xarray.Dataset]:
    """A group whole, and cut before it is read."""
    found = results.to_xarray(name)
    cuts: list[dict[str, Any]] = [
        {"trial": slice(None, None, -2)}, {"trial": [2, 0], "draw": 1}, {"trial": -1, "draw": slice(1, 3)}
    ]  # fmt: skip
    return [found.compute(), *(found.isel(cut).compute() for cut in cuts)]


def test_one_trial(pair: tuple[Results, Results], once: Once) -> None:
    for index in range(48):
        (one, one_draws), (two, two_draws) = once(trial_and_draws, index), trial_and_draws(pair[1], index)
        assert one.trial == two.trial == pair[0].trial(one.trial[:10]).trial
        assert repr(one.summary) == repr(two.summary) and one.outcome == two.outcome and repr(one) == repr(two)
        xarray.testing.assert_equal(one_draws, two_draws)
        assert bool(one.summary) == (one.outcome in ("ok", "nan"))
        if one.summary:
            assert one.summary["scale"] == one.params.scale


def trial_and_draws(results: Results, index: int) -> tuple[Any, xarray.Dataset]:
    trial = results.trial(index)
    return trial, trial.draws.load()


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / whole.name)


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
