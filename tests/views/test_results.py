"""Results by natural names, and an archive that four readers agree on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import staffa
from staffa.errors import ConfigError, StaffaError, WorkspaceError
from staffa.storage.workspace import Workspace
from staffa.views.results import Results

KINDS = {"warm", "a b/ü=1"}


@pytest.fixture(scope="module")
def results(mixed: Any) -> Results:
    return mixed.results


@pytest.fixture(scope="module")
def unsealed(workflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A campaign that was planned and nothing else."""
    from staffa.execution.prepare import create, unfolded

    root = tmp_path_factory.mktemp("unsealed")
    campaign = staffa.load(workflow / "campaign.yaml", set=[f"storage.root={root}"])
    create(unfolded(campaign.declaration), Workspace(campaign.root))
    return Results(Workspace.open(campaign.root))


def test_tables(results: Results) -> None:
    assert results.tables == ("draws", "trials", "failed", "run")
    # 24 walks, 12 flips and 12 fragile trials, a third of which have no data; 3 draws each
    assert (len(results.trials), len(results.failed), len(results.draws)) == (44, 4, 132)
    assert results.draws.columns[-2:] == ["kind", "population"]
    frame = results.trials.to_pandas()
    assert Counter(frame["outcome"]) == {"ok": 36, "nan": 8}
    assert set(frame["kind"]) == KINDS
    assert set(results.failed.to_pandas()["message"]) == {"ValueError: no value at scale 2.0"}
    assert "draws" in repr(results) and "132 rows" in repr(results.draws)
    assert len(results.draws.head(5)) == 5


def test_columns_and_filters(results: Results) -> None:
    import pyarrow.dataset as ds

    found = results.draws.to_arrow(["trial", "population"], ds.field("population") == 64)
    assert found.column_names == ["trial", "population"] and found.num_rows == 66
    with pytest.raises(ConfigError, match="no column 'enrgy'") as caught:
        results.draws.to_pandas(["enrgy"])
    assert "energy" in caught.value.hint
    with pytest.raises(ConfigError, match="no table 'drws'"):
        results.table("drws")


def test_ragged_table(results: Results) -> None:
    frame = results.table("run").to_pandas()
    assert set(frame["sampler"]) == {"model.py:Flips"}
    assert (frame["run"] == 10 * frame["item"]).all()
    counts = results.query("select trial, draw, first(runs) as n from draws where runs is not null group by all")
    found = frame.groupby(["trial", "draw"]).size().reset_index(name="n")
    assert found.merge(counts, on=["trial", "draw", "n"]).shape[0] == len(counts) == 36


def test_params(results: Results) -> None:
    params = results.params
    assert list(params) == ["kind", "population", "scale", "size", "replicate"]
    assert set(params.kind) == KINDS and len(params.scale) == 48
    assert params["population"].dtype == "int64"
    assert params.size.isna().sum() == 24
    trials = results.trials.to_pandas().set_index("trial")
    assert (params.scale[trials.index] == trials["scale"]).all()
    assert params.to_pandas().shape == (48, 5)
    assert "scale" in params and "scale" in dir(params) and len(params) == 5
    with pytest.raises(AttributeError, match="did you mean 'scale'"):
        params.scael  # noqa: B018
    with pytest.raises(ConfigError, match="params has no 'scael'"):
        params["scael"]


def test_xarray(results: Results) -> None:
    tree = results.to_xarray()
    assert set(tree.children) == set(results.groups) and len(results.groups) == 16
    one = results.to_xarray("g1")
    assert dict(one.sizes) == {"trial": 3, "draw": 3, "place": 5}, "padding rows are dropped"
    assert one["x"].dims == ("trial", "draw", "place")
    assert set(one.coords) >= {"trial", "scale", "kind", "population", "size", "status", "draw"}
    assert set(one.data_vars) == {"x", "energy"}
    assert one["scale"].values.tolist() == [1.0, 2.0, 3.0]
    assert one["status"].values.tolist() == [1, 1, 2]
    assert one["x"].chunks is not None, "nothing is read before it is asked for"
    assert results.to_xarray("g1", chunks=None)["x"].chunks is None
    with pytest.raises(ConfigError, match="no group 'g99'"):
        results.to_xarray("g99")


def test_xarray_agrees_with_the_archive(results: Results) -> None:
    one = results.to_xarray("g1").isel(trial=1)
    rows = results.query(f"select x from draws where trial = '{one['trial'].item()}' order by draw")
    assert [list(row) for row in rows["x"]] == one["x"].values.tolist()


def test_query(results: Results) -> None:
    found = results.query("select kind, population, count(*) as n, avg(scale) as mean from draws group by all")
    assert set(found["kind"]) == KINDS and set(found["population"]) == {8, 64}
    assert found["n"].tolist() == [33] * 4
    types = results.query("describe draws").set_index("column_name")["column_type"]
    assert types[["kind", "population", "scale", "x", "heads"]].tolist() == [
        "VARCHAR", "BIGINT", "DOUBLE", "FLOAT[]", "INTEGER",
    ]  # fmt: skip
    assert results.query("from trials anti join failed using (trial)").shape[0] == 44


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        ("select enrgy from draws", "no column 'enrgy'", "energy"),
        ("select d.enrgy from draws d", "no column 'enrgy'", "energy"),
        ("select x_ from drws", "no table 'drws'", "draws"),
        ("selec 1", "syntax error", "draws, trials, failed"),
        ("select foo(energy) from draws", "foo", "tables"),
        ("", "0 statements", "SELECT"),
        ("select 1; select 2", "2 statements", "SELECT"),
        ("copy draws to '{archive}/x.parquet'", "COPY", "SELECT"),
        ("select * from read_text('/etc/hostname')", "disabled", "only draws"),
        ("attach '/tmp/staffa-test.db'", "ATTACH", "SELECT"),
        ("set enable_external_access = true", "SET", "SELECT"),
    ],
)  # fmt: skip
def test_query_refused(results: Results, sql: str, message: str, hint: str) -> None:
    archive = results.workspace.archive
    with pytest.raises(ConfigError) as caught:
        results.query(sql.replace("{archive}", str(archive)))
    assert message in caught.value.message and hint in caught.value.hint
    assert not (archive / "x.parquet").exists()


def test_nothing_sealed_is_empty_and_typed(unsealed: Results) -> None:
    assert not unsealed.sealed
    for name in unsealed.tables:
        table = unsealed.table(name)
        assert len(table) == 0 and table.to_arrow().schema.equals(unsealed.schema(name))
    assert unsealed.query("select kind, sum(energy) from draws group by kind").empty
    types = unsealed.query("describe draws").set_index("column_name")["column_type"]
    assert types[["kind", "population", "x"]].tolist() == ["VARCHAR", "BIGINT", "FLOAT[]"]


def test_missing_archive_names_the_command(unsealed: Results) -> None:
    archive = unsealed.workspace.archive
    archive.rename(archive.with_name("elsewhere"))
    try:
        for ask in (lambda: unsealed.trials, lambda: unsealed.query("from trials")):
            with pytest.raises(WorkspaceError) as caught:
                ask()
            assert f"staffa consolidate {unsealed.workspace.root}" in caught.value.hint
    finally:
        archive.with_name("elsewhere").rename(archive)


def test_damaged_plan_is_said(unsealed: Results, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(unsealed.workspace.root, tmp_path / "copy")
    Workspace(root).plan(0).write_text("{")
    with pytest.raises(StaffaError, match="cannot be read"):
        Results(Workspace.open(root))


@pytest.mark.parametrize("folder", ["it's [odd]*", "kind=cold", "ümlaut und blank"])
def test_archive_in_awkward_folders(results: Results, tmp_path: Path, folder: str) -> None:
    import shutil

    root = shutil.copytree(results.workspace.root, tmp_path / folder / "run")
    moved = Results(Workspace.open(root))
    assert len(moved.draws) == 132
    found = moved.query("select kind, count(*) as n from draws group by kind")
    assert set(found["kind"]) == KINDS and found["n"].sum() == 132
    assert set(moved.draws.to_pandas()["kind"]) == KINDS


# --- four readers ----------------------------------------------------------------------------------

COLUMNS = (
    "trial", "replicate", "chain", "draw", "sampler", "scale", "size", "kind", "population", "energy", "x", "heads",
)  # fmt: skip


def plain(value: Any) -> Any:
    """One form for what every reader calls nothing, a number and a list."""
    if value is None or type(value).__name__ == "NAType":
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return tuple(plain(item) for item in value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def rows_of(records: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(plain(record[name]) for name in COLUMNS) for record in records)


def by_pyarrow(draws: Path) -> Any:
    import pyarrow.dataset as ds

    return ds.dataset(draws, partitioning=ds.HivePartitioning.discover(infer_dictionary=False)).to_table().to_pylist()


def by_pandas(draws: Path) -> Any:
    import pandas as pd

    frame = pd.read_parquet(draws, dtype_backend="pyarrow")
    return frame.astype({"kind": "string", "population": "int64"}).to_dict("records")


def by_polars(draws: Path) -> Any:
    import polars as pl

    return pl.read_parquet(draws / "**/*.parquet", hive_partitioning=True).to_dicts()


def by_duckdb(draws: Path) -> Any:
    import duckdb

    source = f"read_parquet('{draws}/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(f"from {source}").to_arrow_table().to_pylist()


def test_four_readers_agree(results: Results) -> None:
    draws = results.workspace.draws
    expected = rows_of(results.draws.to_arrow().to_pylist())
    assert sum(expected.values()) == 132
    assert {len(row[COLUMNS.index("x")]) for row in expected if row[COLUMNS.index("x")]} == {2, 5}
    assert {type(row[COLUMNS.index("population")]) for row in expected} == {int}
    for read in (by_pyarrow, by_pandas, by_polars, by_duckdb):
        assert rows_of(read(draws)) == expected, read.__name__
