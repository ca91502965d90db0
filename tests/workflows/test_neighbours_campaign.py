"""The campaign of cover trees: what a smoke run records, what is refused as the rest goes on; `staffa neighbours`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from covertree.command import found, neighbours, space_of
from covertree.conflicts import Dense, Hanging
from covertree.metrics import Euclidean, ResidualCorrelation
from covertree.traversals import Blocks, Brute, Levels, Preorder

import staffa
from staffa.cli import main
from staffa.errors import ConfigError
from staffa.testing import check_family

FOLDER = Path(__file__).parents[2] / "workflows" / "neighbours"
PROFILES = {"smoke": True, "default": False, "cpu-debug": True, "residual-fast": False, "residual-audit": True}
"""Whether every tree is looked at node by node."""

COSINE = '''
from dataclasses import dataclass
import jax.numpy as jnp

@dataclass(frozen=True)
class Cosine:
    """A kernel on a line; not positive definite in the plane."""
    def __call__(self, left, right):
        return jnp.cos(3 * jnp.sqrt(jnp.sum((left - right) ** 2, axis=-1)))
'''

HOLES = """

def holes(random, points, dimension):
    return np.where(np.arange(points)[:, None] == 1, np.nan, random.random((points, dimension)))


DATASETS["holes"] = holes
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, workers):
    root = f"storage.root={tmp_path_factory.mktemp('runs')}"
    campaign = staffa.load(FOLDER / "campaign.yaml", profile="smoke", set=[root])
    return staffa.run(campaign, client=workers, progress=False, allow_dirty=True)


def test_profiles_can_be_read():
    for profile, audit in PROFILES.items():
        campaign = staffa.load(FOLDER / "campaign.yaml", profile=profile)
        assert {"experiment.work", "dataset", "points", "dimension"} <= set(campaign.explored)
        block = dict(campaign.declaration.campaign.experiment)
        assert block.get("audit", False) == audit
        assert ("inducing" in block["metric"]) == profile.startswith("residual"), profile


def test_a_smoke_run_is_right_and_tells_what_was_done(smoke):
    assert smoke.ended.outcomes == {"ok": 4}
    trials = smoke.results.trials.to_pandas().set_index("experiment.work")
    assert (trials.loc["query", "wrong.mean"] == 0).all() and (trials["faults.mean"] == 0).all()
    assert (trials.loc["build", "nodes.mean"] == 300).all() and (trials.loc["build", "depth.mean"] > 2).all()
    draws = smoke.results.draws.to_pandas().set_index("experiment.work")
    for sizes in draws.loc["build", "batch.size"]:
        assert list(sizes) == [1, 2, 4, 8, 16, 32, 64, 128, 44]
    asked = draws.loc["query"].set_index("experiment.metric.use")
    euclidean, residual = (asked.loc[f"parts.py:{name}"] for name in ("Euclidean", "ResidualCorrelation"))
    for name in ("cover_tree", "all_distances", "kd_tree", "ball_tree", "brute"):
        assert len(euclidean[f"ms.{name}"]) == 2 and min(euclidean[f"ms.{name}"]) > 0
    assert residual["ms.kd_tree"] is None and min(residual["ms.cover_tree"]) > 0


def refused(folder, workers, name, metric, work, grid):
    """How a campaign ended that has bad trials first, and their messages by points, dataset and kernel."""
    campaign = staffa.load(
        folder / "campaign.yaml",
        profile="smoke",
        set=[f"storage.root={folder.parent}", f"campaign.name={name}"],
        experiment={"use": "model.py:Benchmark", "metric": metric, "k": 5, "queries": 10, "batches": 1},
        space=[{"grid": {"experiment.work": [work], "dimension": [2], **grid}}],
    )
    run = staffa.run(campaign, client=workers, progress=False)
    failed = run.results.failed.to_pandas()
    kernel = failed.get("experiment.metric.kernel.use", pd.Series("", failed.index))
    return run, dict(zip(zip(failed["points"], failed["dataset"], kernel, strict=True), failed["message"], strict=True))


def test_what_is_refused_is_named_and_the_rest_goes_on(tmp_path, workers):
    """One point, fewer points than neighbours, points that are NaN; a kernel that is not positive definite."""
    folder = tmp_path / "neighbours"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cosine.py").write_text(COSINE)
    (folder / "datasets.py").write_text((folder / "datasets.py").read_text() + HOLES)
    grid = {"points": [1, 3, 50], "dataset": ["holes", "uniform"]}
    run, told = refused(folder, workers, "sizes", {"use": "parts.py:Euclidean"}, "query", grid)
    assert run.ended.outcomes == {"ok": 1, "raised": 5} and len(told) == 5
    for dataset in ("holes", "uniform"):
        assert told[(1, dataset, "")].startswith("ConfigError: points: 1, and at least 2 are needed")
    assert told[(3, "uniform", "")].startswith("ConfigError: k: 5 of 3 points")
    for points in (3, 50):
        assert told[(points, "holes", "")].startswith("ConfigError: points: nan at row 1, column 0 (2 in all)")
    metric = {"use": "parts.py:ResidualCorrelation", "inducing": 20, "kernel": {"use": "parts.py:Rbf"}}
    grid = {
        "points": [50],
        "dataset": ["uniform"],
        "experiment.metric.kernel.use": ["cosine.py:Cosine", "parts.py:Rbf"],
    }
    run, told = refused(folder, workers, "kernels", metric, "build", grid)
    assert run.ended.outcomes == {"ok": 1, "raised": 1}
    message = told[(50, "uniform", "cosine.py:Cosine")]
    assert message.startswith("ConfigError: kernel Cosine() is not positive definite: of 20 inducing points")


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("commands", [neighbours]),
        ("metrics", [Euclidean, ResidualCorrelation]),
        ("traversals", [Blocks, Levels, Preorder, Brute]),
        ("conflicts", [Hanging, Dense]),
    ],
)
def test_parts_are_what_their_families_take_for_granted(family, parts):
    for part in parts:
        assert check_family(family, part)


# --- staffa neighbours ------------------------------------------------------------------------------


def asked(capsys, *words):
    with staffa.register("commands", "neighbours", neighbours):
        code = main(["neighbours", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_nearest_by_parameters(mixed, capsys):
    """`mixed` explores numbers, and experiments by their names."""
    trials = mixed.results.trials.to_pandas().set_index("trial")
    one = trials.index[0]
    code, out, _ = asked(capsys, mixed.root, "--of", one[:10], "-k", 3, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["of"]["trial"] == one and len(facts["neighbours"]) == 3
    assert one not in [row["trial"] for row in facts["neighbours"]]
    compared = trials[facts["columns"]].dropna()
    assert facts["trials"] == len(compared) and facts["left_out"] == len(trials) - len(compared)
    parts = []
    for name in facts["columns"]:
        column = compared[name]
        if column.dtype.kind in "if":
            parts.append(((column - column.loc[one]) / column.std(ddof=0)) ** 2)
        else:
            parts.append(4.0 * (column != column.loc[one]))
    expected = np.sort(np.sqrt(sum(parts)).drop(one).to_numpy())[:3]
    assert np.allclose([row["distance"] for row in facts["neighbours"]], expected)
    code, out, _ = asked(capsys, mixed.root, "--of", one, "-k", 3)
    assert code == 0 and out.startswith(f"nearest to {one[:12]} by parameters, of {facts['trials']} archived trials")


def test_the_nearest_by_what_was_found(mixed):
    facts = found(mixed.root, "0", 1, by="summary")
    assert all(name.endswith((".mean", ".sd")) or "." not in name for name in facts["columns"])
    only = found(mixed.root, "0", 1, "summary", facts["columns"][:1])
    assert only["columns"] == facts["columns"][:1]


def test_what_cannot_be_asked_is_named(mixed, capsys):
    for words, message in (
        (("--of", "0", "-k", "1000"), "-k 1000: beside trial"),
        (("--of", "0", "--by", "summery"), "--by summery: there is no such space"),
        (("--of", "0", "--column", "nonsense"), "--column nonsense: none of the parameters"),
    ):
        code, _, complaint = asked(capsys, mixed.root, *words)
        assert code == 2 and message in complaint
    bad = mixed.results.failed.to_pandas()["trial"].iloc[0]
    code, _, complaint = asked(capsys, mixed.root, "--of", bad)
    assert code == 2 and "has no data" in complaint


def test_trials_are_points_in_units_of_their_spread():
    table = pd.DataFrame(
        {"x": [1.0, 3.0, 5.0, np.nan], "word": ["a", "a", "b", "b"], "same": [2, 2, 2, 2]}, index=list("abcd")
    )
    space = space_of(table, "a", ["x", "word", "same"])
    assert space.trials == ["a", "b", "c"] and space.left_out == 1 and space.columns == ["x", "word"]
    assert np.allclose(space.points[:, 0].std(), 1)
    assert np.linalg.norm(space.points[0, 1:] - space.points[2, 1:]) == pytest.approx(2)
    with pytest.raises(ConfigError, match="none of its columns"):
        space_of(table, "a", ["same"])
