"""A git tag for a production: what refuses it, what it says, and that it is made once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.provenance import dirty_files, gather
from staffa.storage.versioning import check_tag, settle_tag, tag_name
from staffa.storage.workspace import Workspace

NAME = "staffa/v1.0_walk"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No git settings but a repository's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for word in ("NAME", "EMAIL"):
        monkeypatch.delenv(f"GIT_COMMITTER_{word}", raising=False)
    monkeypatch.delenv("EMAIL", raising=False)
    (tmp_path / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n[tag]\n\tgpgSign = true\n")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def emptied(folder: Path) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@example.org")
    (folder / "model.py").write_text("X = 1\n")
    return folder


@pytest.fixture(params=["plain", "it's a flow", "bær"])
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = emptied(tmp_path / request.param)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return folder


def planned(source: Path, root: Path, **more: object) -> Workspace:
    workspace = Workspace.create(root)
    facts = {**gather(source), "source": str(source), "code": "ab" * 32, "dirty_files": dirty_files(source)}
    facts |= {"config_hash": "c" * 16, "run_hash": "d" * 16, "trials": 40_000, **more}
    workspace.provenance.write_text(json.dumps(facts))
    return workspace


def refused(source: Path, name: str = NAME) -> str:
    with pytest.raises(ConfigError) as caught:
        check_tag(source, name)
    assert caught.value.message.startswith("campaign.tag: ") and "--set campaign.tag=false" in caught.value.hint
    return str(caught.value)


def test_names() -> None:
    assert tag_name("v1.0", "walk", True) == NAME
    assert tag_name("v1.0", "walk", "rerun") == NAME + "_rerun"


def test_what_refuses_a_tag(tmp_path: Path, repository: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    assert "in no git repository" in refused(outside) and "git init" in refused(outside)
    assert "nothing is committed" in refused(emptied(tmp_path / "fresh"))
    assert "takes no tag called" in refused(repository, "staffa/v1.0_walk..")
    git(repository, "config", "--unset", "user.email")
    assert "who you are" in refused(repository)


def test_a_tag_that_exists_is_refused_and_shown(repository: Path) -> None:
    check_tag(repository, NAME)
    git(repository, "tag", "--no-sign", NAME)
    said = refused(repository)
    assert f"the tag {NAME} exists already" in said and f"show {NAME}" in said and "campaign.version" in said
    check_tag(repository, NAME + "_rerun")


def test_a_tag_that_stands_in_the_way(repository: Path) -> None:
    git(repository, "tag", "--no-sign", "staffa")
    assert "stands in the way" in refused(repository)


def test_what_a_tag_says(repository: Path, tmp_path: Path) -> None:
    workspace = planned(repository, tmp_path / "runs" / "v1.0_walk")
    found = settle_tag(workspace, NAME)
    assert found == git(repository, "rev-parse", f"refs/tags/{NAME}")
    assert git(repository, "cat-file", "-t", NAME) == "tag"
    commit = git(repository, "rev-parse", "HEAD")
    assert git(repository, "rev-parse", f"{NAME}^{{commit}}") == commit
    message = git(repository, "for-each-ref", "--format=%(contents)", f"refs/tags/{NAME}")
    for line in (
        "v1.0_walk",
        f"config_hash: {'c' * 16}",
        f"run_hash: {'d' * 16}",
        "trials: 40000",
        f"commit: {commit}",
    ):
        assert line in message.splitlines()
    assert "dirty: no" in message
    recorded = json.loads(workspace.provenance.read_text())
    assert recorded["tags"] == {NAME: {"object": found, "commit": commit}} and recorded["run_hash"] == "d" * 16


def test_a_dirty_tree_is_named_in_its_tag(repository: Path, tmp_path: Path) -> None:
    (repository / "model.py").write_text("X = 2\n")
    workspace = planned(repository, tmp_path / "runs" / "v1.0_walk")
    settle_tag(workspace, NAME)
    assert "dirty: model.py" in git(repository, "for-each-ref", "--format=%(contents)", f"refs/tags/{NAME}")


def test_made_once(repository: Path, tmp_path: Path) -> None:
    workspace = planned(repository, tmp_path / "runs" / "v1.0_walk")
    first = settle_tag(workspace, NAME)
    (repository / "model.py").write_text("X = 2\n")
    git(repository, "commit", "-qam", "on we go")
    before = workspace.provenance.read_bytes()
    assert settle_tag(workspace, NAME) == first and workspace.provenance.read_bytes() == before
    # One that was taken away on purpose is not made again.
    git(repository, "tag", "-d", NAME)
    assert settle_tag(workspace, NAME) == first and git(repository, "tag") == ""


def test_a_driver_that_died_between_tag_and_record(repository: Path, tmp_path: Path) -> None:
    workspace = planned(repository, tmp_path / "runs" / "v1.0_walk")
    before = workspace.provenance.read_bytes()
    first = settle_tag(workspace, NAME)
    workspace.provenance.write_bytes(before)
    assert settle_tag(workspace, NAME) == first
    assert json.loads(workspace.provenance.read_text())["tags"][NAME]["object"] == first


def test_a_second_tag_is_recorded_beside_the_first(repository: Path, tmp_path: Path) -> None:
    workspace = planned(repository, tmp_path / "runs" / "v1.0_walk")
    settle_tag(workspace, NAME)
    settle_tag(workspace, NAME + "_again")
    assert sorted(json.loads(workspace.provenance.read_text())["tags"]) == [NAME, NAME + "_again"]


def test_another_production_took_the_name(repository: Path, tmp_path: Path) -> None:
    settle_tag(planned(repository, tmp_path / "runs" / "v1.0_walk"), NAME)
    other = planned(repository, tmp_path / "elsewhere" / "v1.0_walk")
    before = other.provenance.read_bytes()
    with pytest.raises(WorkspaceError, match="already exists") as caught:
        settle_tag(other, NAME)
    assert "--set campaign.tag=false" in caught.value.hint
    assert other.provenance.read_bytes() == before
