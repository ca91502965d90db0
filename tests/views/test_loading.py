"""Load modes by branch: what is known, what is in memory, and what is still on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pytest

import staffa
from staffa.errors import ConfigError, StaffaError
from staffa.storage.tables import same_rows
from staffa.views.results import Results

BRANCHES = ("params", "config", "draws", "trials", "failed", "run")


@pytest.fixture
def elsewhere(mixed: Any, tmp_path: Path) -> Iterator[tuple[Results, Results]]:
    """The mixed campaign where it stays, and a copy of it whose folder may go."""
    root = Path(shutil.copytree(mixed.root, tmp_path / "copy"))
    yield mixed.results, staffa.attach(root).results


def gone(results: Results) -> None:
    shutil.rmtree(results.workspace.root)


def test_nothing_is_loaded_unless_it_is_said(mixed: Any) -> None:
    assert mixed.results.modes == dict.fromkeys(BRANCHES, "nothing")
    some = mixed.results.load("skeleton", draws="data", trials="nothing")
    assert some.modes == {**dict.fromkeys(BRANCHES, "skeleton"), "draws": "data", "trials": "nothing"}
    assert some.load(draws="nothing").modes["draws"] == "nothing", "it is let go"
    assert mixed.results.modes["draws"] == "nothing", "the results one began with are as they were"
    with pytest.raises(ConfigError, match=r"no branch 'drws'") as caught:
        mixed.results.load(drws="data")
    assert "'draws'" in caught.value.hint
    with pytest.raises(ConfigError, match=r"draws: 'skelton' is no way to load") as caught:
        mixed.results.load(draws="skelton")
    assert "'skeleton'" in caught.value.hint


def alike(one: Any, two: Any) -> None:
    if isinstance(one, pa.Table):
        assert one.schema.equals(two.schema) and same_rows(one, two)
    elif isinstance(one, pandas.DataFrame):
        pandas.testing.assert_frame_equal(one, two)
    else:
        pandas.testing.assert_series_equal(one, two)


def test_what_is_loaded_needs_no_disk(elsewhere: tuple[Results, Results]) -> None:
    there, copy = elsewhere
    held = copy.load("data")
    gone(copy)
    for name in there.tables:
        alike(held.table(name).to_arrow(), there.table(name).to_arrow())
        assert len(held.table(name)) == len(there.table(name))
    alike(held.params.to_pandas(), there.params.to_pandas())
    alike(held.params.scale, there.params.scale)
    alike(held.params.describe(), there.params.describe())
    assert held.config.sampling.draws == there.config.sampling.draws == 3
    alike(held.draws.energy.to_pandas(), there.draws.energy.to_pandas())
    alike(held.draws.head(5), there.draws.head(5))
    sql = "select d.kind, count(*) as n, max(energy) from draws d join trials using (trial) group by all order by all"
    alike(held.query(sql), there.query(sql))


def test_some_of_what_is_loaded_needs_none_either(elsewhere: tuple[Results, Results]) -> None:
    there, copy = elsewhere
    held, condition = copy.load("data"), "scale > 1 and replicate = 0"
    gone(copy)
    same = there.where(condition)
    for some in (held.where(condition), held.find(lambda p: p.scale > 1 and p.replicate == 0)):
        assert 0 < len(some) == len(same) < len(there) and some.modes["draws"] == "data"
        alike(some.draws.to_arrow(), same.draws.to_arrow())
        assert len(some.draws) == len(same.draws) and len(some.trials) == len(same.trials)
        alike(some.params.to_pandas(), same.params.to_pandas())
        alike(
            some.query("select count(*) as n, max(energy) as e from draws"),
            same.query("select count(*) as n, max(energy) as e from draws"),
        )
        alike(some.where("size = 2").draws.to_arrow(), same.where("size = 2").draws.to_arrow())


def test_a_skeleton_knows_everything_but_values(elsewhere: tuple[Results, Results]) -> None:
    there, copy = elsewhere
    bare = copy.load("skeleton")
    gone(copy)
    for name in there.tables:
        assert len(bare.table(name)) == len(there.table(name)), name
        assert bare.table(name).schema.equals(there.table(name).schema, check_metadata=True), name
        assert repr(bare.table(name)) == repr(there.table(name))
    assert bare.draws.energy.type == pa.float32()
    assert list(bare.params) == list(there.params) and len(bare.params.describe()) == 4
    assert list(bare.config) == list(there.config)
    for value in (
        lambda: bare.draws.energy.to_numpy(),
        lambda: bare.params.scale,
        lambda: bare.config.sampling.draws,
        lambda: bare.query("select count(energy) from draws"),
    ):
        with pytest.raises((StaffaError, OSError, AttributeError), match=r"no such file|is not there|No such file"):
            value()


def test_a_skeleton_reads_values_from_where_they_stood(mixed: Any) -> None:
    bare = mixed.results.load("skeleton")
    alike(bare.draws.to_arrow(), mixed.results.draws.to_arrow())
    alike(bare.params.to_pandas(), mixed.results.params.to_pandas())
    some = bare.where("replicate = 0")
    assert some.modes["draws"] == "nothing" and len(some.draws) == len(mixed.results.where("replicate = 0").draws)
