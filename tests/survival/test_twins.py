"""Two processes at the same batch, and data that are damaged after they were committed."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from staffa.storage.hot import HotStore
from staffa.storage.layouts import ArrayLayout, GroupLayout
from survival.accidents import assert_checksums, assert_same, assert_whole, eventually, gone, hot_files, status


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(r"/g0\.zarr/x/c\.\d+\.1\.0$", id="write"),
        pytest.param(r"/g0\.zarr/status/c\.\d+$", id="commit", marks=pytest.mark.soak),
    ],
)
def test_a_stopped_writer_and_its_twin(lab, undisturbed, path):
    campaign = lab.campaign("Gated")
    lab.trap("stop", "worker", path)
    driver = lab.start("run", campaign)
    writer = lab.caught("stop")
    batch = int(lab.target("stop").name.split(".")[1])
    assert ("g0.zarr", batch) not in status(lab.root)

    twin = lab.start("graph", campaign, str(batch))
    assert twin.wait() == 0, twin.said
    committed = hot_files(lab.root)
    assert ("g0.zarr", batch) in status(lab.root)

    os.kill(writer, signal.SIGCONT)
    eventually(lambda: not lab.source("stop").exists(), "the late write")
    os.kill(writer, signal.SIGKILL)
    eventually(lambda: gone(writer), "the end of the writer")
    now = hot_files(lab.root)
    assert {name: now[name] for name in committed} == committed
    assert_checksums(lab.root)

    assert driver.wait() == 0, driver.said
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def test_damaged_shards(lab, undisturbed):
    """Torn, changed and vanished data are found when they are to be sealed, and computed again."""
    lab.campaign()
    driver = lab.start("run", lab.workflow / "campaign.yaml", "--set", "archive.every=off")
    assert driver.wait() == 0, driver.said
    assert not (lab.root / "archive").exists() or not list((lab.root / "archive").rglob("*.parquet"))
    store = lab.root / "hot" / "0" / "g0.zarr"
    torn = store / "x" / "c.1.0.0"
    os.truncate(torn, torn.stat().st_size // 2)
    flipped = store / "energy" / "c.4.1"
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    (store / "x" / "c.6.1.0").unlink()
    os.truncate(store / "checksum" / "c.7.0.0", 3)
    os.truncate(store / "status" / "c.3", 1)

    driver = lab.start("resume", lab.root, "--set", "archive.every={trials: 8}")
    assert driver.wait() == 0, driver.said
    found = {event["batch"] for event in lab.journal("batch_damaged")}
    assert found == {"g0/1", "g0/4", "g0/6", "g0/7"}
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed())


@pytest.mark.slow
def test_a_damaged_shard_before_its_checkpoint(lab, undisturbed):
    """A checkpoint says that earlier segments are on disk; if they are not what they were, it is not used."""
    lab.hold("step-8")
    driver = lab.start("run", lab.campaign("Gated"))
    victim = lab.reached("step-8")
    batch = lab.mark(victim)["batch"].split("/")[1]
    saved = lab.root / "state" / f"0-g0-{batch}.safetensors"
    lab.until(saved.exists, "the checkpoint")
    shard = lab.root / "hot" / "0" / "g0.zarr" / "x" / f"c.{batch}.0.0"
    os.truncate(shard, shard.stat().st_size - 3)
    driver.kill()
    driver.end()
    lab.release("step-8")
    lab.complete()
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def test_scratch_swept_away_under_a_late_twin(tmp_path, monkeypatch):
    """No shard in the scratch array means nothing but fill values, or that someone cleared up."""
    layout = GroupLayout("g0", 8, 4, 1, 2, (ArrayLayout("x", "float32", (3,), ("place",)),))
    identity, digests = np.zeros((8, 4), np.uint32), ["0" * 32] * 8
    store = HotStore.create(tmp_path / "g0.zarr", layout, identity, digests, {"scale": np.arange(8.0)})
    shard = store.write("x", 0, 0, np.ones((4, 2, 3), np.float32), tmp_path / "scratch")
    before = shard.read_bytes()

    class Swept:
        def __setitem__(self, where, data):
            shutil.rmtree(tmp_path / "late", ignore_errors=True)

    monkeypatch.setattr(store, "_scratch", lambda array, scratch: Swept())
    with pytest.raises(FileNotFoundError):
        store.write("x", 0, 0, np.ones((4, 2, 3), np.float32), tmp_path / "late")
    assert shard.read_bytes() == before
    monkeypatch.undo()
    store.write("x", 0, 0, np.full((4, 2, 3), np.nan, np.float32), tmp_path / "scratch")
    assert not shard.exists() and np.isnan(store.read("x", 0)).all()


def test_the_delayed_graph_is_the_run(lab, undisturbed):
    """Any scheduler of Dask's writes the same bytes; the dashboard's groups are the words of the design."""
    words = lab.start("oracle", lab.campaign())
    assert words.wait() == 0, words.said
    assert Path(lab.root, "archive", "manifest.json").exists()
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed())
