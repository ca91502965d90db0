"""From draws on disk to a trial's row: what is said of its sampling, and what it wants to stand there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import staffa
from execution.test_yield import campaign
from staffa.campaign.plan import Plan
from staffa.errors import ConfigError
from staffa.execution.bench import Order
from staffa.execution.consolidate import Consolidation
from staffa.execution.graph import batch_graph, reduce_graph
from staffa.execution.prepare import load_plan, open_stores, plan_digest
from staffa.experiment.diagnostics import DIAGNOSTICS, diagnosed
from staffa.experiment.protocol import SUMMARIES
from staffa.rows import archive_layout
from staffa.storage.books import fold
from staffa.storage.workspace import Workspace
from staffa.views.results import Results

MODEL = """
import jax
import jax.numpy as jnp
import staffa

class Chains(staffa.Experiment):
    dims = {"x": ("chain",), "place": ("axis",)}
    summaries = {"place.last": ("last", "place")}
    def initialize(self, key, params):
        return jnp.zeros(3)
    def step(self, key, state, params):
        state = params["drift"] * state + jax.random.normal(key, (3,))
        return state, {
            "x": state, "place": state, "steps": jnp.int32(9), "divergent": state[0] > 1,
            "log_z": state.sum(), "fitness": state[1], "sequence": jnp.round(3 * state).astype("int32"),
        }
"""
SHAPE = {"sampling": {"draws": 40}, "execution": {"segments": 4}}


def sealed(declared: staffa.Campaign) -> tuple[Workspace, Plan, list[dict[str, Any]]]:
    """Run a campaign of one batch, seal its part; the rows of its trials."""
    staffa.graph(declared, batch=0)
    workspace = Workspace.open(declared.root)
    plan = load_plan(workspace)
    order = Order(str(workspace.root), plan_digest(plan), plan.generation, 0, 0)
    batch_graph(order, plan.sampling).compute(scheduler="synchronous")
    archive = Consolidation(workspace, plan, plan_digest(plan), open_stores(workspace, plan))
    seal = archive.order(plan.parts[0], fold(()))
    assert seal is not None
    receipt = reduce_graph(seal, plan.sampling.segments).compute(scheduler="synchronous")
    assert receipt["trials"] == plan.trials
    return workspace, plan, pq.read_table(workspace.trials_archive).to_pylist()


def test_rows_of_trials_tell_of_all_draws_whatever_the_segments(tmp_path: Path) -> None:
    workspace, plan, rows = sealed(campaign(tmp_path, MODEL, "Chains", **SHAPE))
    draws = pq.read_table(workspace.archive / "draws").to_pandas()
    for row in rows:
        own = draws[draws.trial == row["trial"]].sort_values(["chain", "draw"])
        x = own["x"].to_numpy().reshape(1, 3, 40)
        one = own[own.chain == 0]
        log_z = one["log_z"].to_numpy().reshape(1, 1, 40)
        for word in DIAGNOSTICS:
            np.testing.assert_allclose(row[f"x.{word}"], diagnosed(x)[word][0], rtol=1e-12)
            np.testing.assert_allclose(row[f"log_z.{word}"], diagnosed(log_z)[word][0], rtol=1e-12)
            assert row[f"steps.{word}"] is None and f"place.{word}" not in row
        assert row["log_z.last"] == one["log_z"].iloc[-1] and row["divergences"] == one["divergent"].sum()
        best = one["fitness"].to_numpy().argmax()
        assert row["best.fitness"] == one["fitness"].iloc[best]
        assert row["best.sequence"] == one["sequence"].iloc[best].tolist()
        assert row["place.last"] == one["place"].iloc[-1].tolist()
    assert len(rows) == 6
    # Those who only look see the same columns.
    names = pq.read_schema(next(workspace.trials_archive.glob("*.parquet"))).names
    assert Results(workspace).trials.columns == names == archive_layout(plan).trials().names


def test_the_declaration_says_which_words_there_are(tmp_path: Path) -> None:
    chosen = {"summaries": ["mean", "ess"], "diagnosed": 3}
    _, plan, rows = sealed(campaign(tmp_path, MODEL, "Chains", archive=chosen, **SHAPE))
    assert (plan.summaries, plan.diagnosed) == (("mean", "ess"), 3)
    assert [name for name in rows[0] if name.startswith("x.")] == ["x.mean", "x.ess"]
    assert len(rows[0]["place.ess"]) == 3 and all(size > 0 for size in rows[0]["place.ess"])


def test_a_plan_keeps_them_and_one_of_old_has_its_own(tmp_path: Path) -> None:
    plan = staffa.plan(campaign(tmp_path, MODEL, "Chains", **SHAPE)).plan
    assert Plan.loads(plan.dumps()) == plan and plan.summaries == SUMMARIES
    assert [one.name for one in plan.extracts()][-1] == "place.last"
    old = json.loads(plan.dumps())
    del old["summaries"], old["diagnosed"]
    for group in old["groups"]:
        del group["extracts"]
    before = Plan.loads(json.dumps(old))
    assert before.summaries == ("count", "mean", "sd", "min", "max") and before.extracts() == ()


def test_words_that_are_none_and_columns_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"archive\.summaries"):
        campaign(tmp_path / "a", MODEL, "Chains", archive={"summaries": ["median"]}, **SHAPE)
    declared = campaign(
        tmp_path / "b", MODEL, "Chains", space=[{"grid": {"drift": [0.5], "divergences": [1, 2]}}], **SHAPE
    )
    with pytest.raises(ConfigError, match="'divergences' is both a parameter"):
        staffa.plan(declared)
