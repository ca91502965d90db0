"""A campaign's folder: where things stand, and what is refused as none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from staffa.errors import WorkspaceError
from staffa.storage.workspace import Workspace

AWKWARD = ["plain", "with space", 'it\'s "quoted"', "bær-日本", "a$b;c&d", "-dash"]


def planned(root: Path) -> Workspace:
    workspace = Workspace.create(root)
    workspace.campaign_yaml.write_text("campaign: {}\n")
    return workspace


@pytest.mark.parametrize("name", AWKWARD)
def test_create_then_open(tmp_path: Path, name: str) -> None:
    workspace = planned(tmp_path / name)
    assert Workspace.open(tmp_path / name) == workspace
    assert Workspace.open(str(tmp_path / name / ".")) == workspace
    assert stat.S_IMODE(workspace.secrets.stat().st_mode) == 0o700
    assert workspace.root.name == name


def test_create_again_is_harmless_and_mends_secrets(tmp_path: Path) -> None:
    workspace = planned(tmp_path / "run")
    workspace.secrets.chmod(0o755)
    assert Workspace.create(tmp_path / "run") == workspace
    assert stat.S_IMODE(workspace.secrets.stat().st_mode) == 0o700
    assert workspace.campaign_yaml.read_text() == "campaign: {}\n"


def test_paths(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def below(path: Path) -> str:
        return path.relative_to(tmp_path).as_posix()

    assert below(workspace.trials(0)) == "metadata/trials-0.parquet"
    assert below(workspace.group(1, "g3")) == "hot/1/g3.zarr"
    assert below(workspace.journal("L")) == "ledger/events-L.jsonl"
    assert below(workspace.trials_archive) == "archive/trials"
    assert below(workspace.failed) == "archive/failed.parquet"
    names = ["tcp://10.0.0.1:99", "tcp:/10.0.0.1:99", "..", ".", "a/../../b", "a b", "%2E"]
    for place in (workspace.scratch, workspace.start_mark):
        paths = {place(name) for name in names}
        assert len(paths) == len(names)
        assert {path.parent for path in paths} == {place("x").parent}


def test_paths_are_absolute_and_know_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert planned(Path("runs/a")).root == tmp_path / "runs" / "a"
    assert Workspace.open("~/runs/x/../a").root == tmp_path / "runs" / "a"


def test_a_plan_cut_short_is_no_workspace(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "run")
    assert not workspace.is_planned
    with pytest.raises(WorkspaceError, match=r"has no campaign\.yaml") as caught:
        Workspace.open(workspace.root)
    assert "staffa run" in caught.value.hint


def test_deleted_ledger_is_still_a_workspace(tmp_path: Path) -> None:
    workspace = planned(tmp_path / "run")
    workspace.ledger.rmdir()
    assert Workspace.open(workspace.root).is_planned


def test_refusals_name_the_folder_and_near_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned(Path("runs/v1.0_protein"))
    planned(Path("runs/v2.0_walk"))

    def refusal(path: str) -> WorkspaceError:
        with pytest.raises(WorkspaceError) as caught:
            Workspace.open(path)
        assert f"'{path}' is not a campaign's folder: " in caught.value.message
        return caught.value

    assert "v1.0_protein" in refusal("runs/v1.0_protien").hint
    assert "v2.0_walk" not in refusal("runs/v1.0_protien").hint
    assert "v1.0_protein" in refusal("v1.0_protein").hint
    assert "v1.0_protein" in refusal("runs").hint
    assert "there is no such folder" in refusal("runs/nothing").message
    Path("file").write_text("")
    assert "it is a file" in refusal("file").message
    Path("empty").mkdir()
    assert "it has no campaign.yaml" in refusal("empty").message
    Path("workflows").mkdir()
    Path("workflows/campaign.yaml").write_text("")
    assert "staffa run" in refusal("workflows").hint


def test_no_campaign_anywhere_near_points_to_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError) as caught:
        Workspace.open(tmp_path)
    assert "staffa plan" in caught.value.hint


def test_unreadable_and_unwritable(tmp_path: Path) -> None:
    closed = planned(tmp_path / "closed").root
    closed.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(WorkspaceError, match="cannot be read: permission denied"):
            Workspace.open(closed)
        with pytest.raises(WorkspaceError, match="cannot be made a campaign's folder") as caught:
            Workspace.create(closed / "below")
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o755)
    assert "storage.root" in caught.value.hint


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(WorkspaceError, match=r"File exists|Not a directory"):
        Workspace.create(tmp_path / "run")


def test_status_starts_without_heavy_libraries() -> None:
    rooms = ["files", "lease", "ledger", "control", "workspace", "books", "provenance"]
    code = f"import sys; [__import__('staffa.storage.' + room) for room in {rooms}];"
    code += "print({'numpy', 'zarr', 'pyarrow', 'psutil', 'jax', 'dask'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
