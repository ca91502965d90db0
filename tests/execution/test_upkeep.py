"""The doctor of a campaign's folder: a sound one has nothing wrong, and every harm is found and mended."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from staffa.execution import upkeep
from staffa.execution.checks import Check
from staffa.storage.hot import HotStore, committed_batches
from staffa.storage.lease import Lease, read_lease
from staffa.storage.workspace import Workspace


@pytest.fixture
def folder(mixed: Any, tmp_path: Path) -> Workspace:
    """A finished campaign of one's own."""
    root = tmp_path / "v1.0_mixed"
    shutil.copytree(mixed.root, root, symlinks=True)
    (root / "secrets").chmod(0o700)
    return Workspace(root)


def found(folder: Workspace) -> dict[str, Check]:
    return {check.what: check for check in upkeep.campaign_folder(folder)}


def wrong(folder: Workspace) -> dict[str, str]:
    return {what: check.result for what, check in found(folder).items() if check.result != "ok"}


def stores(folder: Workspace) -> list[HotStore]:
    return [HotStore.open(path) for path in sorted(folder.hot.glob("*/*.zarr"))]


def test_a_sound_one(folder: Workspace) -> None:
    before = sorted((path, path.lstat().st_mtime_ns) for path in folder.root.rglob("*"))
    checks = found(folder)
    order = ["declaration", "driver", "plan", "code", "stores", "ledger", "secrets", "archive", "leftovers"]
    assert list(checks) == order and wrong(folder) == {}
    assert {check.where for check in checks.values()} == {"v1.0_mixed"}
    assert "looked at byte for byte" in checks["stores"].found and "nobody drives" in checks["driver"].found
    assert before == sorted((path, path.lstat().st_mtime_ns) for path in folder.root.rglob("*")), "nothing is touched"


def test_a_declaration_and_a_plan_that_cannot_be_read(folder: Workspace) -> None:
    folder.frozen.write_text("campaign: {name: mixed, colour: red}\n")
    folder.plan(folder.generation).write_text('{"trials": 3')
    checks = found(folder)
    assert wrong(folder) == {"declaration": "failed", "plan": "failed"} and "stores" not in checks
    assert "restore" in checks["declaration"].mend and "move" in checks["plan"].mend


def test_code_that_was_changed_or_lost(folder: Workspace) -> None:
    model = folder.code / "model.py"
    model.write_text(model.read_text() + "\n# changed\n")
    check = found(folder)["code"]
    assert check.result == "failed" and "--accept-code-change" in check.mend
    shutil.rmtree(folder.code)
    assert found(folder)["code"].found == "the snapshot is gone"


class TestDriver:
    def test_one_at_work(self, folder: Workspace) -> None:
        with Lease.acquire(folder.lease):
            check = found(folder)["driver"]
            assert check.result == "ok" and f"pid {os.getpid()}" in check.found

    def test_one_that_died(self, folder: Workspace) -> None:
        Lease.acquire(folder.lease, pid=2**22 - 1)
        check = found(folder)["driver"]
        assert check.result == "warning" and "died" in check.found and check.mend == f"staffa resume {folder.root}"

    def test_one_that_is_silent(self, folder: Workspace) -> None:
        with Lease.acquire(folder.lease):
            late = time.time() + 500
            check = next(c for c in upkeep.campaign_folder(folder, late) if c.what == "driver")
            assert check.result == "warning" and f"kill {os.getpid()}" in check.mend and "500 s ago" in check.found


class TestStores:
    def test_one_that_is_gone(self, folder: Workspace) -> None:
        shutil.rmtree(stores(folder)[0].path)
        check = found(folder)["stores"]
        assert check.result == "failed" and "does not open" in check.found

    def test_a_torn_mark(self, folder: Workspace) -> None:
        mark = stores(folder)[0].path / "status" / "c.0"
        mark.write_bytes(mark.read_bytes()[:-1])
        check = found(folder)["stores"]
        assert check.result == "failed" and str(mark) in check.found and check.mend.startswith(f"rm {mark}; staffa")

    def test_a_shard_that_rotted(self, folder: Workspace) -> None:
        store = next(s for s in stores(folder) if any(upkeep._has_data(s, b) for b in committed_batches(s)))
        batch = next(b for b in committed_batches(store) if upkeep._has_data(store, b))
        shard = next(p for a in store.layout.arrays if (p := store.chunk(a.name, batch, 0)).exists())
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
        check = found(folder)["stores"]
        assert check.result == "failed" and f"{store.path.stem}/{batch}: " in check.found
        assert "are not what was committed" in check.found and "staffa resume" in check.mend


def test_a_history_with_holes(folder: Workspace) -> None:
    journal = next(folder.ledger.glob("events-*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"\x00\x00 rubbish\n", *lines[2:], b'{"event": "torn']))
    assert found(folder)["ledger"].found == f"1 lines of {journal.name} cannot be read"
    folder.summary.write_text("{")
    check = found(folder)["ledger"]
    assert check.result == "warning" and "summary.json cannot be read" in check.found


def test_secrets_that_others_may_read(folder: Workspace) -> None:
    key = next(folder.secrets.glob("*.pem"))
    key.chmod(0o644)
    check = found(folder)["secrets"]
    assert check.result == "failed" and str(key) in check.found
    assert check.mend == f"chmod -R go-rwx {folder.secrets}"
    key.chmod(0o600)
    folder.secrets.chmod(0o755)
    assert str(folder.secrets) in found(folder)["secrets"].found
    shutil.rmtree(folder.secrets)
    assert found(folder)["secrets"].result == "ok"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_secrets_of_somebody_else(folder: Workspace) -> None:
    os.chown(next(folder.secrets.glob("*.pem")), 4321, -1)
    assert "belongs to somebody else" in found(folder)["secrets"].found


class TestArchive:
    def test_a_torn_file(self, folder: Workspace) -> None:
        file = next(folder.draws.rglob("*.parquet"))
        file.write_bytes(file.read_bytes()[:-3])
        check = found(folder)["archive"]
        assert check.result == "failed" and str(file) in check.found
        assert check.mend == f"staffa consolidate {folder.root}"

    def test_a_whole_file_that_is_another(self, folder: Workspace) -> None:
        file = next(folder.draws.rglob("*.parquet"))
        file.write_bytes(file.read_bytes()[:4] + b"more" + file.read_bytes()[4:])
        assert found(folder)["archive"].result == "failed"

    def test_a_file_that_is_gone(self, folder: Workspace) -> None:
        file = next(folder.trials_archive.rglob("*.parquet"))
        file.unlink()
        assert f"{file} is gone" in found(folder)["archive"].found

    def test_a_manifest_that_cannot_be_read(self, folder: Workspace) -> None:
        folder.manifest.write_text("{")
        assert found(folder)["archive"].found == "manifest.json cannot be read"


class TestLeftovers:
    def test_of_a_killed_writer(self, folder: Workspace) -> None:
        (folder.hot / "shard.123.abc.partial").write_bytes(b"x" * 100)
        (folder.state / "scratch" / "w").mkdir(parents=True)
        (folder.control / "1-a.request.json").write_text("{}")
        check = found(folder)["leftovers"]
        assert check.result == "warning" and "1 unfinished files" in check.found
        assert "scratch of a run that was cut off" in check.found and "1 requests nobody answered" in check.found
        assert check.mend == f"staffa resume {folder.root} clears them"

    def test_of_a_driver_at_work_are_none(self, folder: Workspace) -> None:
        (folder.hot / "shard.123.abc.partial").write_bytes(b"x" * 100)
        (folder.state / "scratch" / "w").mkdir(parents=True)
        with Lease.acquire(folder.lease):
            assert found(folder)["leftovers"].result == "ok"
            old = time.time() - 2 * upkeep.OLD_SECONDS
            os.utime(folder.hot / "shard.123.abc.partial", (old, old))
            assert found(folder)["leftovers"].result == "warning"


def test_checks_travel_as_json(folder: Workspace) -> None:
    json.dumps([dataclasses.asdict(check) for check in upkeep.campaign_folder(folder)])
    assert read_lease(folder.lease) is None
