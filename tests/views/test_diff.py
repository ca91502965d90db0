"""What differs between two campaigns: planned or only declared, run or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

import staffa
from staffa import api
from staffa.cli import app
from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.workspace import Workspace
from staffa.views import diff
from staffa.views.diff import diff_sheet
from staffa.views.sheet import plain


@pytest.fixture(scope="module")
def mended(workflow: Path, mixed: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`mixed` once more: one failure mended, one output a little off, a point less and a point more."""
    folder = tmp_path_factory.mktemp("mended") / "mixed"
    shutil.copytree(workflow, folder, ignore=shutil.ignore_patterns("__pycache__"))
    model = folder / "model.py"
    text = model.read_text().replace('params["scale"] == 2.0', "False")
    model.write_text(text.replace('"energy": np.float32(state)', '"energy": np.float32(state) + np.float32(1e-3)'))
    (folder / "table.csv").write_text("a,b\n1,2\n")
    campaign = yaml.safe_load((folder / "campaign.yaml").read_text())
    campaign["space"][1]["grid"]["scale"] = [1.0, 2.0, 4.0]
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    override = [f"storage.root={folder.parent / 'runs'}", "campaign.version=v1.1", "seeds.pinned.retry=5"]
    return staffa.run(folder / "campaign.yaml", set=override, progress=False)


@pytest.fixture(scope="module")
def facts(mixed: Any, mended: Any) -> dict[str, Any]:
    return api.diff(mixed.root, mended.root)


def text(facts: dict[str, Any]) -> str:
    return "\n".join(plain(diff_sheet(facts)))


def test_a_campaign_does_not_differ_from_itself_nor_from_a_copy(mixed: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed.root, copy)
    for other in (mixed.root, copy):
        found = api.diff(mixed.root, other)
        assert found["same"] and found["differs"] == [] and found["values"] == found["code"] == []
        assert found["trials"]["both"] == 48 and found["outcomes"]["compared"] == 48
        assert found["summaries"]["compared"] == 44
        assert all(column["equal"] == 44 for column in found["summaries"]["columns"])
    assert "no difference" in text(found)


def test_values_with_both_origins(facts: dict[str, Any]) -> None:
    rows = {row["field"]: row for row in facts["values"]}
    assert sorted(rows) == ["campaign.version", "seeds.pinned.retry", "space[1].grid.scale"]
    version = rows["campaign.version"]
    assert (version["a"], version["b"], version["from_b"]) == ("v1.0", "v1.1", "set")
    assert version["from_a"].startswith("campaign ") and version["from_a"].endswith("campaign.yaml:1")
    assert rows["seeds.pinned.retry"]["a"] == "(absent)" and rows["seeds.pinned.retry"]["b"] == 5
    scale = rows["space[1].grid.scale"]
    assert (scale["a"], scale["b"]) == ([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert "campaign.yaml:3" in scale["from_a"] and "campaign.yaml:" in scale["from_b"]


def test_code_line_by_line_and_data_files_too(facts: dict[str, Any]) -> None:
    files = {file["file"]: file for file in facts["code"]}
    assert sorted(files) == ["model.py", "table.csv"], "what YAML declares is compared value by value"
    assert files["table.csv"]["change"] == "only in b" and "+a,b" in files["table.csv"]["lines"]
    lines = files["model.py"]["lines"]
    assert '-        if params["scale"] == 2.0:' in lines and "+        if False:" in lines


def test_trials_by_identity(facts: dict[str, Any]) -> None:
    trials = facts["trials"]
    assert (trials["both"], trials["only_a"], trials["only_b"]) == (32, 16, 16)
    assert all(row["scale"] == 3.0 and len(row["trial"]) == 32 for row in trials["examples_a"])
    assert all(row["scale"] == 4.0 for row in trials["examples_b"])


def test_outcomes_of_common_trials(facts: dict[str, Any]) -> None:
    found = facts["outcomes"]
    assert found["compared"] == 32 and found["changed"] == [{"a": "raised", "b": "ok", "trials": 4}]
    assert {(row["a"], row["b"]) for row in found["examples"]} == {("raised", "ok")}


def test_summaries_of_common_trials(facts: dict[str, Any]) -> None:
    found = facts["summaries"]
    # 32 in common, of which 4 failed in a: 4 of the plain experiment are off by 0.001.
    assert found["compared"] == 28
    columns = {column["column"]: column for column in found["columns"]}
    assert columns["energy.mean"]["beyond"] == 4 and columns["energy.mean"]["equal"] == 24
    assert columns["energy.mean"]["largest"] == pytest.approx(1e-3, rel=1e-3)
    assert columns["x.mean"] == {"column": "x.mean", "equal": 28, "beyond": 0, "largest": 0.0, "trial": None}
    assert columns["energy.sd"]["beyond"] == 0 and columns["energy.count"]["equal"] == 28


def test_seeds_and_what_differs(facts: dict[str, Any]) -> None:
    assert [row["name"] for row in facts["seeds"]] == ["retry"]
    assert facts["differs"] == ["values", "seeds", "code", "trials", "outcomes", "summaries"]
    assert facts["a"]["run_hash"] != facts["b"]["run_hash"]
    said = text(facts)
    assert "raised became ok: 4" in said and "16 only in a" in said and "+        if False:" in said
    assert "energy" in said and "4 trials beyond" in said
    json.loads(json.dumps(facts))


def test_packages_and_machines(mixed: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed.root, copy)
    path = Workspace.open(copy).provenance
    provenance = json.loads(path.read_text())
    provenance["packages"]["jaxlib"] = "0.0.1"
    provenance["machine"]["processors"] = 512
    provenance["git"]["commit"] = "f" * 40
    path.write_text(json.dumps(provenance))
    backend = next(Workspace.open(copy).metadata.glob("backend-*.json"))
    backend.write_text(json.dumps({**json.loads(backend.read_text()), "device": "NVIDIA H200"}))
    found = api.diff(mixed.root, copy)
    assert found["differs"] == ["packages", "machine", "git", "backends"]
    assert [(row["name"], row["b"]) for row in found["packages"]] == [("jaxlib", "0.0.1")]
    assert {row["name"]: row["b"] for row in found["machine"]} == {"processors": 512}
    assert {row["name"]: row["b"] for row in found["git"]} == {"commit": "f" * 40}
    assert {row["name"]: row["b"] for row in found["backends"]} == {"device": "NVIDIA H200"}


def test_outcomes_are_known_from_the_archive_alone(mixed: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed.root, copy)
    shutil.rmtree(copy / "hot")
    found = api.diff(mixed.root, copy)
    assert found["same"] and found["outcomes"]["compared"] == 48


def test_a_campaign_file_on_either_side(workflow: Path, mixed: Any, tmp_path: Path) -> None:
    changed = workflow / "changed.yaml"
    campaign = yaml.safe_load((workflow / "campaign.yaml").read_text())
    campaign["sampling"]["draws"] = 6
    changed.write_text(yaml.safe_dump(campaign))
    try:
        found = api.diff(mixed.root, changed)
        assert [row["field"] for row in found["values"]] == ["sampling.draws"]
        assert found["trials"]["both"] == 48 and found["outcomes"] is None and found["summaries"] is None
        assert found["differs"] == ["values"]
        two = api.diff(changed, workflow / "campaign.yaml")
        assert [(row["a"], row["b"]) for row in two["values"]] == [(6, 3)]
        assert two["values"][0]["from_b"].endswith("campaign.yaml:8")
    finally:
        changed.unlink()


def test_refusals(tmp_path: Path, mixed: Any) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        api.diff(mixed.root, tmp_path / "nowhere.yaml")
    with pytest.raises(WorkspaceError, match="not a campaign's folder"):
        api.diff(tmp_path, mixed.root)


def test_the_command(mixed: Any, mended: Any) -> None:
    same = CliRunner().invoke(app, ["diff", str(mixed.root), str(mixed.root)])
    assert same.exit_code == 0 and "no difference" in same.output
    found = CliRunner().invoke(app, ["diff", str(mixed.root), str(mended.root), "--json"])
    assert found.exit_code == 1 and json.loads(found.output)["outcomes"]["compared"] == 32


def test_long_differences_are_cut(mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed.root, copy)
    (copy / "code" / "more.py").write_text("\n".join(f"X{i} = {i}" for i in range(500)))
    (copy / "code" / "rest.py").write_text("\n".join(f"X{i} = {i}" for i in range(500)))
    (copy / "code" / "data.npz").write_bytes(bytes(range(256)))
    monkeypatch.setattr(diff, "ALL_LINES", diff.LINES + 10)
    files = {file["file"]: file for file in api.diff(mixed.root, copy)["code"]}
    assert len(files["more.py"]["lines"]) == diff.LINES and len(files["rest.py"]["lines"]) <= 10
    assert len(files["more.py"]["lines"]) + files["more.py"]["hidden"] == 503
    assert files["data.npz"]["lines"] == ["(not text)"]


def test_columns_of_lists_and_nulls() -> None:
    trials = pa.chunked_array([pa.array(["a", "b", "c", "d"])])
    one = pa.array([[1.0, 2.0], None, [3.0], [float("nan")]])
    two = pa.array([[1.0, 2.5], None, [3.0], [float("nan")]])
    found = diff._column("x.mean", one, two, trials)
    assert found == {"column": "x.mean", "equal": 3, "beyond": 1, "largest": 0.5, "trial": "a"}
    other = pa.array([[1.0], None, [3.0], [4.0]])
    assert diff._column("x.mean", one, other, trials)["beyond"] == 4
    close = pa.array([[1.0, 2.0 + 1e-9], None, [3.0], [np.nan]])
    found = diff._column("x.mean", one, close, trials)
    assert (found["equal"], found["beyond"]) == (3, 0)
