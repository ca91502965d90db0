"""The hot store: whole shards, marks last, and nothing of Staffa needed to read it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffa.errors import WorkspaceError
from staffa.storage.creation import INNER_BYTES, inner_chunks
from staffa.storage.hot import HotStore, committed_batches
from staffa.storage.layouts import ArrayLayout, GroupLayout
from staffa.trial import Outcome

X = ArrayLayout("x", "float32", (3,), ("dimension",))
SPIN = ArrayLayout("nest.spin", "int16", (), (), chains=2)
FLAG = ArrayLayout("flag", "bool", (), ())


def layout_of(*arrays: ArrayLayout, trials: int = 10, batch: int = 4, **others: Any) -> GroupLayout:
    options = {"segments": 2, "draws": 6, **others}
    return GroupLayout("g0", trials, batch, arrays=arrays or (X, SPIN, FLAG), **options)


def columns_of(trials: int) -> dict[str, Any]:
    words = np.array(["", "a b", "ü/日本"], dtype=object)
    return {
        "scale": np.linspace(0, 1, trials),
        "count": np.arange(trials) - 3,
        "on": np.arange(trials) % 2 == 0,
        "word": words[np.arange(trials) % 3],
        "replicate": np.zeros(trials, np.int64),
    }


def create(path: Path, layout: GroupLayout, columns: Mapping[str, Any] | None = None) -> HotStore:
    digests = [f"{n:032x}" for n in range(layout.trials)]
    identity = np.array([[0, 0, 0, n] for n in range(layout.trials)], np.uint32)  # the digests' own words
    return HotStore.create(path, layout, identity, digests, columns_of(layout.trials) if columns is None else columns)


def data_of(layout: GroupLayout, array: ArrayLayout, batch: int, segment: int) -> Any:
    """Values that say where they belong; never the fill value."""
    shape = layout.shard(array)
    random = np.random.default_rng([batch, segment, len(array.name)])
    if array.dtype == "bool":
        return np.ones(shape, bool)
    return random.integers(1, 100, shape).astype(array.dtype)


def fill(store: HotStore, scratch: Path, batch: int, *, mark: bool = True) -> None:
    layout = store.layout
    for array in layout.arrays:
        for segment in range(layout.segments):
            store.write(array.name, batch, segment, data_of(layout, array, batch, segment), scratch)
    if mark:
        commit(store, batch)


def commit(store: HotStore, batch: int, outcome: Outcome = Outcome.OK) -> None:
    layout = store.layout
    status = np.full(layout.batch, outcome, np.uint8)
    status[max(layout.trials - batch * layout.batch, 0) :] = Outcome.PADDING
    sums = [[store.checksum(a.name, batch, s) for a in layout.arrays] for s in range(layout.segments)]
    store.commit(batch, status, np.array(sums, np.uint32), np.full(layout.batch, 0.5, np.float32))


@pytest.fixture
def store(tmp_path: Path) -> HotStore:
    return create(tmp_path / "g0.zarr", layout_of())


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written is what is read


def test_a_store_is_opened_with_what_it_was_created_with(store: HotStore) -> None:
    opened = HotStore.open(store.path)
    parameters = list(columns_of(1))
    assert opened.layout == layout_of(attributes={"parameters": parameters})
    words, columns = opened.inputs(2)
    assert words.tolist() == [[0, 0, 0, 8], [0, 0, 0, 9]]  # two trials: padding has no inputs
    assert opened.digests(2) == [f"{8:032x}", f"{9:032x}"]
    for name, values in columns_of(10).items():
        assert columns[name].tolist() == values[8:].tolist(), name
        assert opened.column(name).tolist() == values.tolist(), name
        if name != "word":
            assert columns[name].dtype == values.dtype


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["float32", "float64", "float16", "int8", "uint64", "bool"]),
    shape=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    chains=st.integers(0, 2),
    draws=st.sampled_from([None, 1, 4]),
    batch=st.integers(1, 5),
    compression=st.sampled_from(["lz4", "zstd", "none"]),
    data=st.data(),
)
def test_every_layout_reads_back_through_xarray(
    dtype: str, shape: tuple[int, ...], chains: int, draws: int | None, batch: int, compression: str, data: Any
) -> None:
    segments = 1 if draws is None else data.draw(st.sampled_from([n for n in (1, 2, 4) if draws % n == 0]))
    array = ArrayLayout("x", dtype, shape, tuple(f"a{n}" for n in range(len(shape))), chains)
    layout = layout_of(array, trials=7, batch=batch, segments=segments, draws=draws, compression=compression)
    with tempfile.TemporaryDirectory() as folder:
        store = create(Path(folder, "g0.zarr"), layout)
        for number in range(layout.batches):
            fill(store, Path(folder, "scratch"), number)
        dataset = xarray.open_zarr(store.path)
        found = dataset["x"].to_numpy()
        assert dataset["x"].dims == (
            "trial", *("chain",) * bool(chains), *("draw",) * (draws is not None), *array.dims,
        )  # fmt: skip
        axis = 2 if chains else 1
        for number in range(layout.batches):
            pieces = [data_of(layout, array, number, segment) for segment in range(segments)]
            whole = pieces[0] if draws is None else np.concatenate(pieces, axis=axis)
            rows = slice(number * batch, (number + 1) * batch)
            assert found.dtype == dtype and (found[rows] == whole).all()
            assert (HotStore.open(store.path).read("x", number) == whole).all()
            for segment, piece in enumerate(pieces):
                assert (store.read("x", number, segment) == piece).all()


def test_xarray_shows_names_and_parameters_lazily_and_without_a_warning(tmp_path: Path, scratch: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layout = layout_of(coords={"dimension": ("x", "y", "z")}, attributes={"sampler": "walk"})
        store = create(tmp_path / "g0.zarr", layout)
        fill(store, scratch, 0)
        dataset = xarray.open_zarr(store.path)
        assert dataset["x"].dims == ("trial", "draw", "dimension")
        assert dataset["nest.spin"].dims == ("trial", "chain", "draw")
        assert {*columns_of(1), "trial", "draw", "dimension"} == set(dataset.coords)
        assert dataset["dimension"].values.tolist() == ["x", "y", "z"]
        assert dataset.attrs["sampler"] == "walk"
        for name in ("x", "scale", "word"):
            assert not dataset[name].variable._in_memory, name
        # by name, by parameter, by coordinate
        trial = dataset["x"].sel(trial=f"{2:032x}", dimension="y")
        assert trial.values.tolist() == [
            *data_of(layout, X, 0, 0)[2, :, 1].tolist(), *data_of(layout, X, 0, 1)[2, :, 1].tolist(),
        ]  # fmt: skip
        assert dataset["x"].isel(trial=dataset["scale"].values == 1.0)["trial"].values.tolist() == [f"{9:032x}"]
        assert dataset["status"].values.tolist() == [1] * 4 + [0] * 8
        assert dataset.attrs["outcomes"]["ok"] == 1
        assert np.isnan(dataset["x"][4:].values).all()  # unwritten: fill


def test_axes_of_the_users_may_have_any_name_of_our_own_bookkeeping(tmp_path: Path) -> None:
    """A polymer has segments, a text has words: their lengths are not those of our own arrays."""
    arrays = [ArrayLayout(f"y{n}", "float32", (7,), (axis,)) for n, axis in enumerate(("segment", "word", "output"))]
    store = create(tmp_path / "g0.zarr", layout_of(*arrays))
    assert xarray.open_zarr(store.path).sizes["segment"] == 7


# ---- shards


def test_a_shard_is_written_aside_and_renamed(store: HotStore, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Path, bool]] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        if not target.is_relative_to(scratch):
            seen.append((self, target, target.exists()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    data = data_of(store.layout, X, 0, 0)
    store.write("x", 0, 0, data, scratch)
    (source, target, there), *rest = seen
    assert not rest and not there
    assert source.is_relative_to(scratch) and target == store.chunk("x", 0, 0)
    assert names(store.path / "x") == ["c.0.0.0", "zarr.json"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_shard_as_it_was(
    store: HotStore, scratch: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fill(store, scratch, 0)
    before = store.chunk("x", 0, 0).read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full) if moment == "fsync" else patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            store.write("x", 0, 0, data_of(store.layout, X, 9, 9), scratch)
    assert store.chunk("x", 0, 0).read_bytes() == before and not store.damaged(0)
    # What the failed write left in the scratch array must not come up again.
    store.write("x", 0, 0, np.full(store.layout.shard(X), np.nan, "float32"), scratch)
    assert not store.chunk("x", 0, 0).exists()
    assert np.isnan(store.read("x", 0, 0)).all()


def test_a_shard_of_nothing_but_fill_is_not_stored_and_read_back_as_fill(store: HotStore, scratch: Path) -> None:
    fill(store, scratch, 1)
    for array, value in ((X, np.nan), (SPIN, 0), (FLAG, False)):
        for segment in range(2):
            store.write(array.name, 1, segment, np.full(store.layout.shard(array), value, array.dtype), scratch)
            assert not store.chunk(array.name, 1, segment).exists()
            assert store.checksum(array.name, 1, segment) == 0
    commit(store, 1, Outcome.RAISED)
    assert store.damaged(1) == []
    assert (HotStore.open(store.path).read("flag", 1) == False).all()  # noqa: E712
    assert np.isnan(store.read("x", 1)).all()


def test_bytes_are_equal_whoever_writes_them(tmp_path: Path) -> None:
    """Several inner chunks, in threads side by side: order inside the shard must not depend on them."""
    array = ArrayLayout("x", "float32", (64,), ("dimension",))
    layout = layout_of(array, trials=128, batch=128, segments=1, draws=256)
    data = np.random.default_rng(1).normal(size=layout.shard(array)).astype("float32")
    chunks = inner_chunks(layout.shard(array), 4, True, False)
    assert np.prod(layout.shard(array)) // np.prod(chunks) >= 8
    stores = [create(tmp_path / f"{n}" / "g0.zarr", layout, {}) for n in range(2) if not (tmp_path / f"{n}").mkdir()]
    written: list[bytes] = []

    def write(number: int) -> None:
        for _ in range(2):
            target = stores[number].write("x", 0, 0, data, tmp_path / f"scratch-{number}")
            written.append(target.read_bytes())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 4 and len(set(written)) == 1
    assert (stores[0].read("x", 0) == data).all()


@given(
    shape=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    itemsize=st.sampled_from([1, 2, 4, 8]),
    draws=st.booleans(),
    chained=st.booleans(),
)
def test_inner_chunks_divide_the_shard_near_one_mebibyte(
    shape: list[int], itemsize: int, draws: bool, chained: bool
) -> None:
    shard = (*shape, *(1,) * (1 + draws + chained - len(shape)))
    chunk = inner_chunks(shard, itemsize, draws, chained)
    assert all(whole % part == 0 for whole, part in zip(shard, chunk, strict=True))
    size = int(np.prod(chunk, dtype=np.int64)) * itemsize
    axis = (2 if chained else 1) if draws else 0
    assert size <= INNER_BYTES or (chunk[0] == 1 and chunk[axis] == 1)
    if chunk[axis] < shard[axis] and axis:
        assert chunk[0] == 1  # trials are divided first
    if chunk == shard:
        assert size <= INNER_BYTES or shard[0] == 1


def test_one_trial_reads_a_fraction_of_the_shard(tmp_path: Path, scratch: Path) -> None:
    array = ArrayLayout("x", "float64", (128,), ("dimension",))
    layout = layout_of(array, trials=64, batch=64, segments=1, draws=128, compression="none")
    store = create(tmp_path / "g0.zarr", layout, {})
    data = np.random.default_rng(1).normal(size=layout.shard(array))
    size = store.write("x", 0, 0, data, scratch).stat().st_size
    dataset = xarray.open_zarr(store.path)
    before = read_bytes()
    assert (dataset["x"][5].values == data[5]).all()
    assert size >= 8 << 20 and read_bytes() - before < 2 << 20


def read_bytes() -> int:
    """Bytes this process has read from files so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


# ---- marks


def test_a_batch_is_there_once_it_is_marked_and_not_before(store: HotStore, scratch: Path) -> None:
    fill(store, scratch, 1, mark=False)
    assert not store.status(1).any() and not store.status().any() and not list(committed_batches(store))
    commit(store, 1)
    commit(store, 2)
    assert store.status(1).tolist() == [1] * 4 and store.status(2).tolist() == [1, 1, 255, 255]
    assert store.status().tolist() == [0] * 4 + [1] * 6 + [255] * 2
    assert sorted(committed_batches(store)) == [1, 2]
    assert store.seconds(1).tolist() == [0.5] * 4 and store.seconds(0).tolist() == [0] * 4
    store.reset(1)
    store.reset(0)  # nothing to take back
    assert store.status().tolist() == [0] * 8 + [1] * 2 + [255] * 2
    assert list(committed_batches(store)) == [2]


def test_the_mark_is_the_last_thing_written(store: HotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    from staffa.storage import hot

    real = hot.write_aside
    monkeypatch.setattr(
        hot, "write_aside", lambda path, *rest, **how: (order.append(path.parent.name), real(path, *rest, **how))
    )
    commit(store, 0)
    assert order[-1] == "status" and sorted(order) == ["checksum", "seconds", "status"]


def test_unfinished_marks_are_not_marks(store: HotStore) -> None:
    commit(store, 0)
    (store.path / "status" / "c.0").write_bytes(b"\1\1")  # a damaged disk
    (store.path / "status" / "c.1.4711.abcdef.partial").write_bytes(b"\1\1\1\1")
    assert not store.status(0).any() and not store.status().any()
    assert 1 not in list(committed_batches(store))


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from storage import test_hot as lab
store = lab.HotStore.open(Path(sys.argv[1]))
lab.fill(store, Path(sys.argv[1]).parent / "scratch", 0)
lab.fill(store, Path(sys.argv[1]).parent / "scratch", 1, mark=False)
print("written", flush=True)
time.sleep(60)
"""


def test_killed_between_data_and_mark_the_batch_is_not_there(store: HotStore, scratch: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.path), str(Path(__file__).parent.parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.chunk("x", 1, 1).exists()
    assert store.status().tolist() == [1] * 4 + [0] * 8 and list(committed_batches(store)) == [0]
    twice = store.chunk("x", 1, 1).read_bytes()
    fill(store, scratch, 1)  # the next worker does it again, to the same bytes
    assert store.chunk("x", 1, 1).read_bytes() == twice and store.status(1).all()


@pytest.mark.parametrize("how", ["torn", "flipped", "gone", "fill turned data"])
def test_damaged_shards_are_found_by_their_checksums(store: HotStore, scratch: Path, how: str) -> None:
    fill(store, scratch, 0)
    fill(store, scratch, 1)
    shard = store.chunk("nest.spin", 1, 1)
    whole = shard.read_bytes()
    if how == "torn":
        shard.write_bytes(whole[: len(whole) // 2])
    elif how == "flipped":
        shard.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    elif how == "gone":
        shard.unlink()
    else:
        empty = np.zeros(store.layout.shard(SPIN), "int16")
        store.write("nest.spin", 1, 1, empty, scratch)
        commit(store, 1)
        shard.write_bytes(whole)
    assert store.damaged(1) == ["nest.spin"] and store.damaged(0) == []


# ---- creation


def test_creation_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path, layout = tmp_path / "g0.zarr", layout_of()
    with pytest.raises(TypeError, match="not JSON serializable"):
        create(path, layout_of(attributes={"odd": object()}))
    assert names(tmp_path) == []
    create(path, layout)
    (path / "mine.txt").write_text("x")
    create(path, layout)  # what an earlier plan left is replaced
    assert names(tmp_path) == ["g0.zarr"] and not (path / "mine.txt").exists()
    for folder in (tmp_path / "no.zarr", tmp_path):
        with pytest.raises(WorkspaceError, match="is not a hot store"):
            HotStore.open(folder)


def count(folder: Path) -> int:
    return 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@pytest.mark.parametrize(
    "layout",
    [
        layout_of(),
        layout_of(X, trials=4, batch=4, segments=1),
        layout_of(X, SPIN, trials=9, batch=1, segments=1, draws=None, coords={"dimension": (1, 2, 3)}),
        layout_of(FLAG, trials=70_000, batch=35_000, segments=1, draws=1),
    ],
    ids=["several", "one-batch", "one-shot", "many-trials"],
)
def test_files_are_as_many_as_the_layout_says(tmp_path: Path, layout: GroupLayout) -> None:
    store = HotStore.open(create(tmp_path / "g0.zarr", layout).path)
    for batch in range(store.layout.batches):
        fill(store, tmp_path / "scratch", batch)
    shutil.rmtree(tmp_path / "scratch")
    assert count(tmp_path / "g0.zarr") == store.layout.files


def test_flat_keys_make_no_folders(store: HotStore, scratch: Path) -> None:
    fill(store, scratch, 0)
    assert not [path for path in store.path.glob("*/*") if path.is_dir()]
