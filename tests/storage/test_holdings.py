"""Archives on a shelf: listed, examined, copied, with what may be wrong with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client
from typer.testing import CliRunner

import staffa
from staffa.cli import app
from staffa.errors import WorkspaceError

FOLDER = Path(__file__).parents[1] / "views" / "mixed"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return staffa.run(
        folder / "campaign.yaml", set=[f"storage.root={folder.parent / 'runs'}"], progress=False, client=workers
    ).root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def flaws(path: Path, **more: Any) -> dict[str, str]:
    facts = staffa.archive_verify(path, **more)
    assert facts["sound"] == (not facts["flaws"])
    return {flaw["file"]: flaw["why"] for flaw in facts["flaws"]}


def part(root: Path, table: str = "draws", number: int = 0) -> Path:
    return sorted((root / "archive" / table).rglob("part-*.parquet"))[number]


def name(root: Path, path: Path) -> str:
    return str(path.relative_to(root / "archive"))


def test_a_list(root: Path) -> None:
    facts = staffa.archive_list(root)
    assert len(facts["parts"]) == 16 and (facts["trials"], facts["rows"]) == (44, 132)
    assert facts["files"] == sum(1 for _ in (root / "archive").rglob("part-*.parquet"))
    assert staffa.archive_list(root / "archive") == facts


def test_whole(root: Path) -> None:
    assert flaws(root) == flaws(root, quick=True) == flaws(root / "archive") == {}


def test_a_truncated_part(root: Path) -> None:
    path = part(root)
    path.write_bytes(path.read_bytes()[:-10])
    why = flaws(root, quick=True)
    assert list(why) == [name(root, path)] and "bytes, the manifest says" in why[name(root, path)]


def test_a_flipped_bit(root: Path) -> None:
    path = part(root)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    assert flaws(root) == {name(root, path): "its SHA-256 is not the manifest's"}
    assert flaws(root, quick=True) == {}, "which only reading it all can tell"


def test_a_part_that_is_gone_and_one_too_many(root: Path) -> None:
    path = part(root, "trials", 3)
    path.rename(path.with_name("part-99999.parquet"))
    assert flaws(root) == {
        name(root, path): "it is not there",
        "trials/part-99999.parquet": "it is not in the manifest",
    }


def relisted(root: Path, path: Path) -> None:
    """As somebody would who edits a manifest until it fits."""
    from staffa.storage.holdings import sha256

    file = root / "archive" / "manifest.json"
    manifest = json.loads(file.read_text())
    for found in manifest["parts"].values():
        for entry in found["files"]:
            if entry["path"] == name(root, path):
                rows = pq.read_metadata(path).num_rows
                entry.update(bytes=path.stat().st_size, sha256=sha256(path), rows=rows)
    file.write_text(json.dumps(manifest))


def test_a_part_of_another_campaign(root: Path, tmp_path: Path, workers: Client) -> None:
    other = tmp_path / "other"
    shutil.copytree(FOLDER, other, ignore=shutil.ignore_patterns("__pycache__"))
    wanted = [f"storage.root={tmp_path / 'runs'}", "seeds.global_seed=7"]
    strange = staffa.run(other / "campaign.yaml", set=wanted, progress=False, client=workers).root
    path = part(root)
    shutil.copy(part(strange), path)
    relisted(root, path)
    ((file, why),) = flaws(root).items()
    assert file == name(root, path) and "it belongs to another campaign (" in why


def test_differing_schemas_are_shown_both(root: Path) -> None:
    path = part(root, number=1)
    with pq.ParquetFile(path) as file:
        table = file.read()
    place = table.column_names.index("scale")
    changed = table.set_column(place, "scale", table["scale"].cast(pa.float32()))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    relisted(root, path)
    ((file_, why),) = flaws(root).items()
    assert file_ == name(root, path) and "'scale' is float, that of draws/" in why and "is double" in why


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": 3}'])
def test_a_manifest_that_is_none(root: Path, text: str) -> None:
    (root / "archive" / "manifest.json").write_text(text)
    with pytest.raises(WorkspaceError, match=r"manifest.json. cannot be read"):
        staffa.archive_verify(root)


def test_a_copy(root: Path, tmp_path: Path) -> None:
    told: list[str] = []
    facts = staffa.archive_copy(root, tmp_path / "copy", tell=lambda entry: told.append(entry.path))
    assert facts["parts"] == facts["total"] == 16 and len(told) == facts["files"]
    assert flaws(tmp_path / "copy") == {}
    there = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert {"manifest.json", "SHA256SUMS", "README.md", "campaign.yaml", "failed.parquet"} <= there
    assert {"metadata/provenance.json", "metadata/trials-0.parquet", "code/model.py"} <= there
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "copy", check=False)
    assert checked.returncode == 0
    again = staffa.archive_copy(root, tmp_path / "copy")
    assert (again["parts"], again["files"], again["total"]) == (0, 0, 16), "what is there is not read again"


def test_what_is_damaged_is_not_copied(root: Path, tmp_path: Path) -> None:
    path = part(root, number=2)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkspaceError, match="is not what its manifest lists") as caught:
        staffa.archive_copy(root, tmp_path / "copy")
    assert str(root / "archive") in caught.value.hint
    assert not (tmp_path / "copy" / name(root, path)).exists()
    assert flaws(tmp_path / "copy") == {}, "what was copied before it is whole"


def test_a_copy_that_was_cut_short_is_gone_on_with(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(Exception):
        pass

    def cut(entry: Any) -> None:
        if entry.part == "part-00005":
            raise Cut

    with pytest.raises(Cut):
        staffa.archive_copy(root, tmp_path / "copy", tell=cut)
    assert flaws(tmp_path / "copy").keys() <= {name(root, path) for path in (root / "archive").rglob("part-00005*")}
    assert staffa.archive_copy(root, tmp_path / "copy")["parts"] == 11
    assert flaws(tmp_path / "copy") == {}


def test_within_itself_is_refused(root: Path) -> None:
    with pytest.raises(WorkspaceError, match="is within the archive itself"):
        staffa.archive_copy(root, root / "archive" / "copy")


def test_parts_are_copied_as_they_are_sealed(tmp_path: Path) -> None:
    """A run that is watched: parts come while it goes on, and all of them in the end."""
    shutil.copytree(FOLDER, tmp_path / "mixed", ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "mixed" / "model.py"
    model.write_text(
        model.read_text().replace(
            '        return state, {"energy"', '        __import__("time").sleep(0.2)\n        return state, {"energy"'
        )
    )
    wanted = [f"storage.root={tmp_path / 'runs'}", "archive.every.trials=1"]
    campaign = staffa.load(tmp_path / "mixed" / "campaign.yaml", set=wanted)
    runner = threading.Thread(target=lambda: staffa.run(campaign, progress=False))
    runner.start()
    while not (campaign.root / "archive" / "manifest.json").exists():
        time.sleep(0.05)
    seen: list[int] = []
    to = tmp_path / "copy"
    facts = staffa.archive_copy(
        campaign.root, to, watch=True, every=0.1, tell=lambda entry: seen.append(len(list(to.rglob("part-*.parquet"))))
    )
    runner.join()
    assert facts["total"] == 16 and flaws(to) == {} and len(set(seen)) > 3


def test_from_the_command_line(root: Path, tmp_path: Path) -> None:
    say = CliRunner()
    listed = say.invoke(app, ["archive", "ls", str(root)])
    assert listed.exit_code == 0 and "part-00015" in listed.output and "132" in listed.output
    copied = say.invoke(app, ["archive", "copy", str(root), str(tmp_path / "copy"), "--json"])
    assert copied.exit_code == 0 and json.loads(copied.stdout)["parts"] == 16
    assert say.invoke(app, ["archive", "verify", str(tmp_path / "copy")]).exit_code == 0
    path = part(root)
    path.unlink()
    found = say.invoke(app, ["archive", "verify", str(root)])
    assert found.exit_code == 1 and f"{name(root, path)}: it is not there" in found.output
