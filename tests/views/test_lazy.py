"""What is read: nothing before it is asked for, and then no more than it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import staffa
from staffa.errors import ConfigError
from staffa.views.results import Results

MODEL = """
import jax, jax.numpy as jnp
import staffa

class Wide(staffa.Experiment):
    dims = {"x": ("place",)}
    def initialize(self, key, params):
        return jnp.zeros(2000)
    def step(self, key, x, params):
        x = x + params["kernel.width"] * jax.random.normal(key, (2000,))
        return x, {"x": x, "y": jnp.sum(x)}
"""
DECLARED = """
campaign: {name: wide}
experiment: {use: "model.py:Wide"}
space: [{grid: {kernel.width: [0.5, 1.0], seed: [0, 1, 2, 3, 4, 5, 6, 7]}}]
replicates: 8
sampling: {draws: 20}
execution: {workers: 1, batch: 32, segments: 2}
cluster: {dashboard: false}
"""
TRIAL = 20 * 2000 * 4
"""Bytes of a trial."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Results:
    """128 trials of 160 kB, sealed; their shards stand as well."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(DECLARED)
    return staffa.run(folder / "campaign.yaml", set=[f"storage.root={folder}"], progress=False, client=workers).results


@pytest.fixture(scope="module")
def pruned(results: Results, tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Results:
    import shutil

    root = Path(shutil.copytree(results.workspace.root, tmp_path_factory.mktemp("pruned") / "wide"))
    staffa.consolidate(root, prune=True, client=workers)
    return staffa.attach(root).results


def read() -> int:
    """Bytes this process has read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def taken(action: Callable[[], Any]) -> int:
    action()  # what is imported does not count
    before = read()
    action()
    return read() - before


@pytest.mark.parametrize("which", ["results", "pruned"])
def test_opening_reads_no_data(which: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(which).workspace.root
    assert taken(lambda: staffa.attach(root).results.draws.x) < 100_000
    assert taken(lambda: staffa.attach(root).results.to_xarray()) < 100_000
    assert taken(lambda: staffa.attach(root).results.trial(3)) < 100_000
    assert taken(lambda: repr(staffa.attach(root).results)) < 100_000


@pytest.mark.parametrize("which", ["results", "pruned"])
def test_a_skeleton_reads_no_data_and_what_is_loaded_is_read_once(which: str, request: pytest.FixtureRequest) -> None:
    results = request.getfixturevalue(which)
    assert taken(lambda: results.load("skeleton")) < 300_000, "marks and footers: of 20 MB nothing"
    bare, held = results.load("skeleton"), results.load("data")
    held.where("seed = 3")  # what is imported does not count
    before = read()
    assert (len(bare.draws), len(held.draws), len(bare.trials)) == (2560, 2560, 128)
    assert "2,560 rows" in repr(bare.draws) and list(bare.params)
    assert bare.draws.x.type.value_type == "float"
    assert held.draws.x.to_numpy().shape == (2560, 2000) and held.params.width.max() == 1.0
    assert len(held.where("seed = 3").draws.y.to_numpy()) == 320
    assert held.config.sampling.draws == 20
    assert read() - before < 10_000, "a few bytes of /proc: this test's own, and DuckDB's, which asks for memory"


@pytest.mark.parametrize(("which", "most"), [("results", 9), ("pruned", 24)])
def test_one_trial_takes_no_more_than_its_neighbours(which: str, most: int, request: pytest.FixtureRequest) -> None:
    """Inner chunks of the hot store are near 1 MiB, row groups near 2 MiB; a batch would be 5 MB."""
    results = request.getfixturevalue(which)
    one = results.to_xarray()
    assert taken(lambda: one["x"].isel(trial=77).load()) < most * TRIAL
    assert taken(lambda: results.trial(77).draws.x.load()) < most * TRIAL
    assert taken(lambda: one["y"].isel(trial=77).load()) < 200_000, "the other output is not read"


def test_a_slice_of_the_draws_takes_only_its_segment(results: Results) -> None:
    x = results.to_xarray()["x"]
    half, whole = (
        taken(lambda draws=draws: x.isel(trial=slice(0, 32), draw=draws).load())
        for draws in (slice(0, 10), slice(0, 20))
    )
    assert 0.4 < half / whole < 0.6


@pytest.mark.parametrize("which", ["results", "pruned"])
def test_columns_that_are_not_asked_for_are_not_read(which: str, request: pytest.FixtureRequest) -> None:
    results = request.getfixturevalue(which)
    everything = taken(lambda: results.draws.to_arrow())
    assert everything > 128 * TRIAL / 2
    assert taken(lambda: results.draws.to_arrow(["trial", "y"])) < everything / 50
    assert taken(lambda: results.query('select "kernel.width", avg(y) from draws group by all')) < everything / 50
    assert taken(lambda: results.draws.y.to_numpy()) < everything / 50


def test_they_are_the_same_numbers(results: Results, pruned: Results) -> None:
    one, two = results.to_xarray().load(), pruned.to_xarray().load()
    np.testing.assert_array_equal(one["x"].values, two["x"].values)
    np.testing.assert_array_equal(results.trial(77).draws.x.values, one["x"].values[77])


def test_roots_and_paths(results: Results) -> None:
    assert (
        results.params.kernel.width.tolist() == results.params.width.tolist() == results["params.kernel.width"].tolist()
    )
    assert results["params.kernel.*"].keys() == {"kernel.width"}
    assert results.params.kernel.to_pandas().columns.tolist() == ["kernel.width"]
    assert results.config.sampling.draws == results["config.sampling.draws"] == 20
    assert results.draws.y.to_numpy().shape == (2560,) and results.draws.x.to_numpy().shape == (2560, 2000)
    assert np.asarray(results["draws.y"]).shape == (2560,) and len(results.draws.y) == 2560
    assert results["trials.y.mean"].to_pandas().index.tolist() == results.trials.trial.to_numpy().tolist()
    assert {"params", "draws", "trials", "config"} <= set(results._ipython_key_completions_())
    assert "y" in dir(results.draws) and "kernel" in dir(results.params)
    with pytest.raises(ConfigError, match="the results have no 'drws'"):
        results["drws.y"]
    with pytest.raises(AttributeError, match="did you mean 'y'"):
        results.draws.yy  # noqa: B018


def test_some_of_the_trials(results: Results) -> None:
    some = results.find(lambda p: p.width > 0.7 and p.seed == 3)
    assert len(some) == len(some.trials) == 8 and set(some.params.seed) == {3}
    same = results.where('"kernel.width" > 0.7 and seed = 3')
    assert same.trials.to_pandas()["trial"].tolist() == some.trials.to_pandas()["trial"].tolist()
    assert some.to_xarray().sizes["trial"] == 8 and len(some.draws) == 160
    assert some.query("select count(*) as n from draws")["n"].item() == 160
    assert len(some.where("replicate < 2")) == 2 and "8 of 128 trials" in repr(some)
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        results.where("sed = 3")
    with pytest.raises(ConfigError, match="statement"):
        results.where("seed = 3; drop table params")


def test_forms(results: Results) -> None:
    import polars
    from arviz_stats.base import array_stats

    assert results.to_arrow().num_rows == len(results.to_pandas()) == len(results.to_polars()) == 128
    assert isinstance(results.draws.to_polars(["y"]), polars.DataFrame)
    tree = results.trial(5).to_arviz()
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 20, "place": 2000}
    whole = results.to_arviz()
    assert whole["posterior"]["y"].dims[:2] == ("chain", "draw") and whole["posterior"].sizes["trial"] == 128
    found = array_stats.ess(tree["posterior"]["y"].values, chain_axis=0, draw_axis=1)
    assert float(found) == pytest.approx(results.trial(5).summary["y.ess"], rel=1e-6)
