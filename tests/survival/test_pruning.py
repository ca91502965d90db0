"""Hot data go once every row of them stands in the archive, and not before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from distributed import Client

import staffa
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

FOLDER = Path(__file__).parents[1] / "views" / "mixed"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> Path:
    folder = tmp_path_factory.mktemp("pruning") / "mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return staffa.run(
        folder / "campaign.yaml",
        set=[f"storage.root={folder.parent / 'runs'}", "execution.batch=2"],
        progress=False,
        client=workers,
    ).root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def shards(root: Path) -> list[Path]:
    """Files of outputs, not of marks and parameters."""
    marks = {"status", "seconds", "checksum", "trial", "identity", "draw", "replicate", "pruned"}
    names = set(staffa.attach(root).results.to_xarray("g0").data_vars) | {"run", "runs", "heads", "x", "energy"}
    return [path for path in (root / "hot").rglob("c.*") if path.parent.name in names - marks]


def told(root: Path, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in history(Workspace.open(root)) if event["event"] in kinds]


def test_on_request_all_of_it(root: Path, workers: Client) -> None:
    before = staffa.attach(root).results.draws.to_arrow()
    assert len(shards(root)) > 20
    staffa.consolidate(root, client=workers)
    assert len(shards(root)) > 20, "nobody asked"
    staffa.consolidate(root, prune=True, client=workers)
    assert shards(root) == []
    parts = {event["part"] for event in told(root, "part_pruned")}
    assert parts == {event["part"] for event in told(root, "part_sealed")} and not told(root, "part_kept")
    assert sum(event["bytes"] for event in told(root, "part_pruned")) > 1000
    assert repr(staffa.attach(root).results.draws.to_arrow().to_pylist()) == repr(before.to_pylist())

    facts = staffa.verify(root, every=True)
    assert facts["sound"] and not facts["again"], "what was pruned is not damaged"
    ended = staffa.resume(root, progress=False, client=workers).ended
    assert ended is not None and shards(root) == [], "nothing is done again"
    staffa.consolidate(root, prune=True, client=workers)
    assert len(told(root, "part_pruned")) == len(parts), "and nothing twice"


def test_while_it_runs(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "mixed", ignore=shutil.ignore_patterns("__pycache__"))
    run = staffa.run(
        tmp_path / "mixed" / "campaign.yaml",
        set=[f"storage.root={tmp_path / 'runs'}", "archive.prune=verified", "archive.every.trials=1"],
        progress=False,
    )
    assert shards(run.root) == [] and len(run.results.draws) == 132
    assert run.results.trials.to_pandas()["outcome"].value_counts().to_dict() == {"ok": 36, "nan": 8}


@pytest.mark.parametrize("column", ["energy", "trial"])
def test_what_the_archive_has_otherwise_stays(root: Path, column: str, workers: Client) -> None:
    """A part with another value, or another trial, in it: those batches keep their shards."""
    path = sorted((root / "archive" / "draws").rglob("part-*.parquet"))[0]
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index(column)
    values = table[column].to_pylist()
    values[0] = "0" * 32 if column == "trial" else (values[0] or 0.0) + 1e-6
    changed = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    pq.write_table(changed, path, row_group_size=6)
    staffa.consolidate(root, prune=True, client=workers)
    (kept,) = told(root, "part_kept")
    assert kept["part"] == path.stem and list(kept["differ"].values()) == [["draws"]]
    assert shards(root), "not one shard of that batch is gone"
    trial = pc.unique(table["trial"])[0].as_py()
    assert staffa.attach(root).results.trial(trial).draws["energy"].size == 3


def test_what_is_damaged_in_the_hot_store_stays(root: Path, workers: Client) -> None:
    path = shards(root)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    staffa.consolidate(root, prune=True, client=workers)
    assert path.exists() and len(told(root, "part_kept")) == 1


def test_tried_again_after_it(tmp_path: Path, workers: Client) -> None:
    """Trials that failed get their data when their batches are pruned: they are read, sealed and pruned, too."""
    mended = tmp_path / "mended"
    shutil.copytree(FOLDER, tmp_path / "mixed", ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "mixed" / "model.py"
    text = model.read_text().replace("import jax\n", "from pathlib import Path\n\nimport jax\n", 1)
    model.write_text(text.replace("== 2.0:", f"== 2.0 and not Path({str(mended)!r}).exists():"))
    wanted = [f"storage.root={tmp_path / 'runs'}", "execution.batch=2", "archive.prune=verified"]
    root = staffa.run(tmp_path / "mixed" / "campaign.yaml", set=wanted, progress=False, client=workers).root
    assert shards(root) == []
    failed = staffa.attach(root).results.failed.to_pandas()["trial"].tolist()
    assert len(failed) == 4

    mended.touch()
    staffa.retry(root, failed)
    staffa.resume(root, set=["archive.every=off", "archive.prune=never"], progress=False, client=workers)
    results = staffa.attach(root).results
    assert shards(root), "of those trials only"
    for trial in failed:
        one = results.trial(trial)
        assert one.outcome == "ok" and one.draws["energy"].isnull().sum() == 0 and one.summary
    before = in_order(root)
    assert len(before) == 144 and len(results.trials) == 48
    staffa.consolidate(root, prune=True, client=workers)
    assert shards(root) == [] and in_order(root) == before
    assert all(results.trial(trial).draws["energy"].isnull().sum() == 0 for trial in failed)


def in_order(root: Path) -> list[str]:
    table = staffa.attach(root).results.draws.to_arrow()
    return [repr(row) for row in table.sort_by([("trial", "ascending"), ("draw", "ascending")]).to_pylist()]
