"""Where results come from: snapshot, digest, git, and no secrets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from staffa.errors import ConfigError
from staffa.storage import provenance
from staffa.storage.provenance import (
    amend,
    changed_files,
    code_digest,
    dirty_files,
    gather,
    known_backends,
    snapshot_code,
)
from staffa.storage.workspace import Workspace

NAMES = ["it's a flow", "bær-日本", "with space"]


@pytest.fixture(params=NAMES)
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return workflow(tmp_path / request.param)


def workflow(root: Path) -> Path:
    for name, text in {
        "model.py": "import parts.energy\n",
        "parts/energy.py": "E = 1\n",
        "campaign.yaml": "campaign: {}\n",
        "data/ünïcode name.csv": "a,b\n",
        ".hidden.py": "",
        ".git_like/x.py": "",
        "__pycache__/model.py": "",
        "venv/pyvenv.cfg": "",
        "venv/x.py": "",
        "lib/site-packages/x.py": "",
        "runs/a/code/model.py": "",
        "results/ledger/x.json": "",
        "results/hot/x.json": "",
        "hot/kernel.py": "",
        "figure.png": "",
        "notes.md": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "large.npz").write_bytes(b"\0" * (10 * 2**20 + 1))
    os.mkfifo(root / "pipe.txt")
    (root / "dangling.py").symlink_to(root / "nowhere.py")
    (root / "loop").symlink_to(root)
    return root


OWN = {"model.py", "parts/energy.py", "campaign.yaml", "data/ünïcode name.csv", "hot/kernel.py"}


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_snapshot_holds_the_workflows_own_files_and_nothing_else(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "code"
    digest = snapshot_code(source, target)
    assert files(target) == OWN
    assert digest == code_digest(source) == code_digest(target)
    assert changed_files(source, target) == []
    assert [path.name for path in target.parent.iterdir()] == ["code"]


def test_snapshot_into_the_workflows_folder_does_not_eat_itself(tmp_path: Path) -> None:
    source = workflow(tmp_path / "flow")
    workspace = Workspace.create(source / "out" / "v1_flow")
    first = snapshot_code(source, workspace.code)
    assert snapshot_code(source, workspace.code) == first == code_digest(source)
    assert snapshot_code(source, source / "copy") == first
    assert snapshot_code(source, source / "copy") == first
    assert files(source / "copy") == OWN == files(workspace.code)


def test_digest_is_of_code_only_and_sees_names_and_contents(tmp_path: Path) -> None:
    source = workflow(tmp_path / "flow")
    target = tmp_path / "code"
    first = snapshot_code(source, target)
    (source / "campaign.yaml").write_text("other")
    assert code_digest(source) == first
    assert changed_files(target, source) == ["campaign.yaml"]
    (source / "parts/energy.py").write_text("E = 2\n")
    second = code_digest(source)
    (source / "parts/energy.py").rename(source / "parts/force.py")
    assert len({first, second, code_digest(source)}) == 3
    assert changed_files(target, source) == ["campaign.yaml", "parts/energy.py", "parts/force.py"]
    assert snapshot_code(source, target) == code_digest(target)
    assert changed_files(target, source) == [] and "parts/energy.py" not in files(target)


def test_moving_text_between_files_changes_the_digest(tmp_path: Path) -> None:
    digests = set()
    for number, (one, two) in enumerate([("ab", "c"), ("a", "bc"), ("", "abc")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.py").write_text(one)
        (folder / "b.py").write_text(two)
        digests.add(code_digest(folder))
    assert len(digests) == 3


def test_a_folder_too_big_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MOST_FILES", 3)
    with pytest.raises(ConfigError, match="too big for a workflow's folder"):
        snapshot_code(workflow(tmp_path / "flow"), tmp_path / "code")
    assert not (tmp_path / "code").exists()


def test_a_failed_copy_leaves_the_old_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = workflow(tmp_path / "flow"), tmp_path / "run" / "code"
    snapshot_code(source, target)
    (source / "model.py").write_text("new\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            snapshot_code(source, target)
    assert (target / "model.py").read_text() == "import parts.energy\n"
    assert [path.name for path in target.parent.iterdir()] == ["code"]


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("depth", ["", "workflows/it's"])
def test_dirty_files(tmp_path: Path, depth: str) -> None:
    repository = tmp_path / "repo"
    source = workflow(repository / depth)
    (repository / "elsewhere.py").write_text("")
    assert dirty_files(source) is None
    git(repository, "init", "-q")
    elsewhere = set() if depth else {"elsewhere.py"}
    assert set(dirty_files(source) or ()) == OWN | elsewhere
    assert gather(source)["git"] == {"outside": False, "commit": None, "dirty": True}
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "all")
    assert dirty_files(source) == []
    state = gather(source)["git"]
    assert len(state["commit"]) == 40 and state["dirty"] is False and not state["outside"]
    (repository / "elsewhere.py").write_text("changed")
    (source / "figure.png").write_text("changed")
    (source / "model.py").write_text("changed")
    (source / "data/ünïcode name.csv").write_text("changed")
    (source / "parts/energy.py").unlink()
    (source / "hot/kernel.py").rename(source / "hot/moved.py")
    git(repository, "add", "-A")
    (source / "fresh.py").write_text("")
    (source / "ignored.csv").write_text("")
    (source / ".gitignore").write_text("ignored.csv\n")
    expected = {"model.py", "data/ünïcode name.csv", "parts/energy.py", "hot/kernel.py", "hot/moved.py"}
    assert set(dirty_files(source) or ()) == expected | {"fresh.py"} | elsewhere
    assert gather(source)["git"]["dirty"] is True


def test_a_folder_git_ignores_is_outside(tmp_path: Path) -> None:
    source = workflow(tmp_path / "repo" / "flow")
    (tmp_path / "repo" / ".gitignore").write_text("*\n")
    git(tmp_path / "repo", "init", "-q")
    assert dirty_files(source) is None
    assert gather(source)["git"]["outside"] is True


def test_gather_without_git_and_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gather(tmp_path)["git"] == {"outside": True, "commit": None, "dirty": None}
    assert gather(tmp_path / "nowhere")["git"]["outside"] is True


def test_amend_says_more_and_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    amend(path, code="a", trials=3)
    amend(path, code="b", tags={"x": {"object": "y"}})
    assert json.loads(path.read_text()) == {"code": "b", "trials": 3, "tags": {"x": {"object": "y"}}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["provenance.json"]


def test_backends_are_read_back_by_name(tmp_path: Path) -> None:
    (tmp_path / "backend-ab12.json").write_text('{"device": "cpu"}')
    (tmp_path / "backend-cd34.json").write_text("rubbish")
    assert known_backends(tmp_path) == {"ab12": {"device": "cpu"}}


def test_gather_keeps_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("MY_JAX_TOKEN", "hunter2")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "hunter2")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    found = gather(tmp_path)
    assert "hunter2" not in json.dumps(found)
    assert found["environment"]["JAX_ENABLE_X64"] == "1" and found["environment"]["SLURM_JOB_ID"] == "17"
    assert found["packages"]["staffa"] and found["packages"]["jax"] and found["machine"]["memory"] > 0
