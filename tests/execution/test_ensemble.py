"""Reducers of a campaign: held against NumPy over all draws, however the run was cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import Client

import staffa
from staffa.campaign.model import ReduceConfig
from staffa.errors import PluginError, StaffaError
from staffa.execution import ensemble
from staffa.storage.tables import Block
from staffa.storage.workspace import Workspace

FOLDER = Path(__file__).parents[1] / "views" / "mixed"
OWN = """
import numpy as np

class Largest:
    "The largest energy at each scale."
    of = "energy"
    def map(self, outputs, params):
        values = outputs["energy"].reshape(len(params["scale"]), -1).max(axis=1)
        return {str(scale): values[params["scale"] == scale].max() for scale in np.unique(params["scale"])}
    def reduce(self, one, two):
        return {name: np.fmax(one.get(name, -np.inf), two.get(name, -np.inf)) for name in {**one, **two}}
    def finish(self, whole):
        return whole

class Half:
    def map(self, outputs, params):
        return {}

class Odd(Largest):
    def finish(self, whole):
        return {"x": object()}
"""
WANTED: dict[str, Any] = {
    "spread": {"use": "covariance", "of": "energy"},
    "energies": {"use": "histogram", "of": "energy", "low": 0.0, "high": 50.0, "bins": 10},
    "middle": {"use": "quantiles", "of": "heads", "at": [0.5]},
    "largest": {"use": "own.py:Largest"},
    "apart": {"use": "covariance", "of": "energy", "by": ["kind", "scale"]},
}


def declared(folder: Path, reduce: Any = WANTED, **sections: Any) -> Path:
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "own.py").write_text(OWN)
    content = yaml.safe_load((folder / "campaign.yaml").read_text())
    content |= {"reduce": reduce, "storage": {"root": str(folder / "runs")}, **sections}
    # Without the scale that gives NaN.
    content["space"][1]["grid"]["scale"] = [1.0, 1.5, 2.0]
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "campaign.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> staffa.Run:
    """On workers of its own; what is compared with it is made by this process."""
    file = declared(tmp_path_factory.mktemp("ensemble") / "mixed", execution={"batch": 2, "retries": {"limit": 0}})
    return staffa.run(file, progress=False)


def test_what_they_come_to(run: staffa.Run) -> None:
    found = run.results.reduced
    assert list(found) == sorted(WANTED)
    energy = run.results.draws.energy.to_arrow().drop_null().to_numpy().astype(float)
    assert found.spread["count"] == len(energy)
    assert found.spread["mean"].item() == pytest.approx(energy.mean(), rel=1e-9)
    assert found.spread["covariance"].item() == pytest.approx(energy.var(ddof=1), rel=1e-9)
    counts, edges = np.histogram(energy, 10, (0, 50))
    assert found.energies["counts"].tolist() == counts.tolist() and found.energies["edges"].tolist() == edges.tolist()
    heads = run.results.draws.heads.to_arrow().drop_null().to_numpy()
    assert found.middle["values"].item() == pytest.approx(np.quantile(heads, 0.5, method="lower"), rel=0.01)
    frame = run.results.draws.to_pandas(["scale", "energy"]).groupby("scale")["energy"].max()
    assert {float(name): float(value) for name, value in found.largest.items()} == pytest.approx(frame.to_dict())
    told = json.loads((run.root / "archive" / "reduced" / "spread.json").read_text())
    assert told["reducer"] == WANTED["spread"] and len(told["parts"]) > 10, "without `by` it is what it always was"


def test_apart_by_a_static_and_a_traced_parameter(run: staffa.Run) -> None:
    found = run.results.reduced.apart
    frame = run.results.draws.to_pandas(["kind", "scale", "energy"]).dropna()
    groups = frame.astype({"energy": float}).groupby(["kind", "scale"])["energy"]
    expected = groups.agg(["count", "mean", "var"])
    assert list(zip(found["by.kind"].tolist(), found["by.scale"].tolist(), strict=True)) == expected.index.tolist()
    assert found["count"].tolist() == expected["count"].tolist()
    np.testing.assert_allclose(found["mean"][:, 0], expected["mean"], rtol=1e-9)
    np.testing.assert_allclose(found["covariance"][:, 0, 0], expected["var"], rtol=1e-9)


def test_sealed_later_they_are_the_same_bytes(run: staffa.Run, tmp_path: Path, workers: Client) -> None:
    file = declared(
        tmp_path / "mixed", archive={"every": "off", "partition_by": ["kind", "population"]},
        execution={"batch": 2, "retries": {"limit": 0}},
    )  # fmt: skip
    other = staffa.run(file, progress=False, client=workers)
    assert len(other.results.reduced) == 0
    staffa.consolidate(other.root, client=workers)
    for name in WANTED:
        one, two = (root / "archive" / "reduced" / f"{name}.npz" for root in (run.root, other.root))
        assert one.read_bytes() == two.read_bytes(), name


def test_who_comes_later_answers_for_what_is_sealed_and_pruned_too(
    run: staffa.Run, tmp_path: Path, workers: Client
) -> None:
    root = Path(shutil.copytree(run.root, tmp_path / "copy"))
    staffa.consolidate(root, prune=True, client=workers)
    assert not list((root / "hot").glob("*/*/energy/c.*")), "nothing hot is left to ask"
    late = [f"reduce.{name}={json.dumps(block)}" for name, block in WANTED.items() if name != "spread"]
    late += ["reduce.one.use=covariance", "reduce.one.of=heads", "reduce.one.by=replicate"]
    staffa.consolidate(root, set=[*late, "reduce.late.use=covariance", "reduce.late.of=energy"], client=workers)
    found, before = staffa.attach(root).results.reduced, run.results.reduced
    assert list(found) == sorted([*WANTED, "late", "one"])
    assert found.one["by.replicate"].tolist() == [0] and found.one["covariance"].shape == (1, 1, 1)
    for word, value in before.apart.items():
        np.testing.assert_array_equal(found.apart[word], value)
    for word, value in before.spread.items():
        np.testing.assert_array_equal(found.late[word], value)
    told = json.loads((root / "archive" / "reduced" / "late.json").read_text())
    assert told["without"] == json.loads((root / "archive" / "reduced" / "spread.json").read_text())["without"]
    # Nothing was declared, and yet it is not forgotten: new answers are not mixed with those to other options.
    staffa.consolidate(root, set=['reduce.late={"use": "covariance", "of": "heads"}'], client=workers)
    heads = run.results.draws.heads.to_arrow().drop_null().to_numpy().astype(float)
    assert staffa.attach(root).results.reduced.late["covariance"].item() == pytest.approx(heads.var(ddof=1), rel=1e-9)
    staffa.resume(root, progress=False, client=workers)
    assert staffa.attach(root).results.reduced.late["count"] == len(heads)


def test_late_ones_that_make_no_sense_are_refused(run: staffa.Run) -> None:
    for command in (staffa.resume, staffa.consolidate):
        with pytest.raises(PluginError, match="no group records 'enrgy'"):
            command(run.root, set=['reduce.late={"use": "covariance", "of": "enrgy"}'])


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        ({"spread": {"use": "covarianz", "of": "energy"}}, "did you mean 'covariance'"),
        ({"spread": {"use": "covariance", "of": "enrgy"}}, r"reduce.spread.of: no group records 'enrgy'"),
        ({"spread": {"use": "covariance"}}, r"reduce.spread"),
        ({"bins": {"use": "histogram", "of": "energy", "low": 2.0, "high": 1.0}}, "is not below"),
        ({"spread": {"use": "covariance", "of": "energy", "by": "scal"}}, r"reduce.spread.by: no.*'scal'\n.*'scale'"),
        ({"half": {"use": "own.py:Half"}}, "Half has no method 'reduce'"),
        ({"a-b": {"use": "covariance", "of": "energy"}}, "reduce"),
    ],
)
def test_what_makes_no_sense_is_refused_at_plan(tmp_path: Path, reduce: Any, words: str) -> None:
    file = declared(tmp_path / "mixed", reduce)
    with pytest.raises(StaffaError, match=words):
        staffa.plan(file)
    assert not (tmp_path / "mixed" / "runs").exists()


def test_answers_that_cannot_be_stored_are_refused_and_nothing_is_lost(tmp_path: Path, workers: Client) -> None:
    file = declared(tmp_path / "mixed", {"odd": {"use": "own.py:Odd"}, "spread": WANTED["spread"]})
    with pytest.raises(PluginError, match="'x' is no array of numbers or text"):
        staffa.run(file, progress=False, client=workers)
    root = next((tmp_path / "mixed" / "runs").iterdir())
    found = staffa.attach(root).results
    assert found.sealed and found.reduced.spread["count"] > 0, "others are answered all the same"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("scal"), "^reduce.own: map raised KeyError: 'scal'\n.*leave it out of `reduce`"),
        (PluginError("box: 5 is not the mocks'"), "^reduce.own: box: 5 is not the mocks'$"),
    ],
)
def test_what_a_reducer_raises_has_its_name(error: Exception, words: str) -> None:
    class Own:
        def map(self, outputs: Any, params: Any) -> Any:
            raise error

    block = Block(["a"], np.zeros(1), "", {}, np.zeros(1), np.zeros(1), {}, {}, None)
    with pytest.raises(PluginError, match=words):
        ensemble.mapped(block, {"own": Own()})  # type: ignore[dict-item]


def test_an_answer_that_was_removed_is_made_again(tmp_path: Path) -> None:
    workspace, blocks = Workspace(tmp_path), ensemble.blocks_of({"mean": ReduceConfig(use="covariance", of="x")})  # type: ignore[call-arg]
    workspace.code.mkdir()
    answer = ensemble.reducers(blocks, workspace.code)["mean"].map({"x": np.arange(4.0)}, {})
    ensemble.write_part(workspace.archive, blocks, "part-00000", {"mean": answer})
    ensemble.finish(workspace, blocks, ["part-00000"])
    before = (workspace.reduced / "mean.npz").read_bytes()
    (workspace.reduced / "mean.npz").unlink()
    ensemble.finish(workspace, blocks, ["part-00000"])
    assert (workspace.reduced / "mean.npz").read_bytes() == before
