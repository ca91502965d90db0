"""The tuning workflow: its target by hand, and one search whose front is looked at."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

import staffa

WORKFLOW = Path(__file__).parents[2] / "workflows" / "tuning"


def test_the_target_is_what_it_says():
    spec = importlib.util.spec_from_file_location("tuning_targets", WORKFLOW / "targets.py")
    targets = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = targets
    spec.loader.exec_module(targets)
    target, sd = targets.Stretched(dimension=4, width=8.0), np.array([1.0, 2.0, 4.0, 8.0])
    at = np.array([0.5, -1.0, 6.0, 2.0], np.float32)
    assert float(target.log_density(at, {})) == pytest.approx(stats.norm.logpdf(at, 0, sd).sum(), rel=1e-5)
    draws = sd * np.random.default_rng(1).normal(size=(20_000, 4))
    squares = np.asarray(jax.vmap(lambda x: target.constrain(x, {})["square"])(draws.astype(np.float32)))
    assert squares[0] == pytest.approx(((draws[0] / sd) ** 2).mean(), rel=1e-4)
    assert squares.mean() == pytest.approx(1.0, abs=5 * np.sqrt(2 / 4 / 20_000))


def test_the_smoke_profile_finds_what_one_can_have_of_both(tmp_path, workers):
    campaign = staffa.load(WORKFLOW / "campaign.yaml", profile="smoke", set=[f"storage.root={tmp_path}"])
    run = staffa.run(campaign, client=workers, progress=False, allow_dirty=True)
    assert run.ended.exit_code == 0
    found = run.search
    table, front = found.trials, found.fronts()
    assert len(table) == 64 and (table["outcome"] == "ok").all()

    # objectives and scores from the draws themselves
    rows = run.query(
        "select trial, avg(square) as square, count(*) as count, avg(acceptance) as acceptance, "
        "count(distinct chain) as chains from draws group by 1"
    ).set_index("trial")
    each = rows.loc[table["trial"]]
    assert each["chains"].eq(64).all() and each["count"].eq(64 * 30).all()
    bias, acceptance = (each["square"] - 1).abs().to_numpy(), each["acceptance"].to_numpy()
    assert np.allclose(table["bias"], bias, rtol=1e-4, atol=1e-5)
    effective = run.query('select trial, "square.ess" as ess from trials').set_index("trial").loc[table["trial"], "ess"]
    cost = np.log10(table["num_integration_steps"].to_numpy() * 64 * 30 / effective.to_numpy())
    assert np.allclose(table["cost"], cost, equal_nan=True)
    first = np.where(cost <= 3, np.clip((cost - 0.5) / 2.5, 0, 1), np.inf)
    second = np.clip((bias - 0.02) / 0.98, 0, 1) + 0.2 * np.clip((0.6 - acceptance) / 0.55, 0, 1)
    scores = np.stack([first, np.where((bias <= 1) & (acceptance >= 0.05), second, np.inf)], axis=1)
    assert np.allclose(table[["score.0", "score.1"]], scores, atol=1e-4)

    # nothing dominates the front, and it is a choice
    points = table[["score.0", "score.1"]].to_numpy()
    points = points[np.isfinite(points).all(axis=1)]
    dominated = [((points <= one).all(axis=1) & (points < one).any(axis=1)).any() for one in points]
    assert len(front) == len(points) - sum(dominated) and 3 <= len(front) < len(points) < 64
    assert set(map(tuple, front[["score.0", "score.1"]].to_numpy())) == set(map(tuple, points[~np.array(dominated)]))
    cheap, unbiased = front.loc[front["cost"].idxmin()], front.loc[front["bias"].idxmin()]
    assert cheap["num_integration_steps"] <= 2 and cheap["bias"] > 0.1
    assert unbiased["bias"] < 0.05 and unbiased["cost"] > cheap["cost"]
    assert (table["step_size"] > 2.5).any() and table.loc[table["step_size"] > 2.5, "front"].eq(-1).all()
