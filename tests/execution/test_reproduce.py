"""Trials run again: bit for bit in the recorded program, within a tolerance elsewhere, and no fault unseen."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

import staffa
from execution.test_yield import MODEL, campaign, compute, planned
from staffa import api
from staffa.cli import app
from staffa.errors import ConfigError, PluginError, WorkspaceError
from staffa.execution.recorded import gap
from staffa.storage.hot import HotStore
from staffa.storage.workspace import Workspace

CHAOS = """
import jax, jax.numpy as jnp
import staffa

class Chaos(staffa.Experiment):
    dims = {"x": ("chain", "place")}
    def initialize(self, key, params):
        return jax.random.normal(key, (2, 3))
    def adapt(self, key, x, params):
        return x + params["scale"] * jax.random.normal(key, x.shape)
    def step(self, key, x, params):
        x = jnp.sin(3.7 * x + params["scale"] * jax.random.normal(key, x.shape))
        x = jnp.where(params["count"] == 13, jnp.nan, x)
        return x, {"x": x, "energy": (x * x).sum(), "fine": (x[0, 0] > 0), "steps": params["count"]}
"""


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with chains, segments, warm-up, thinning, a width, a NaN trial, floats, ints and bools."""
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "model.py").write_text(CHAOS)
    (folder / "campaign.yaml").write_text(
        "campaign: {name: chaos}\nexperiment: {use: 'model.py:Chaos'}\n"
        "space:\n  - linspace: {scale: [0.1, 1.0, 10]}\n  - grid: {count: [3, 5, 13]}\n"
        "sampling: {draws: 8, thin: 2, discard: 1, warmup: 4}\n"
        "execution: {segments: 2, batch: 12, width: 4, workers: 1}\ncluster: {dashboard: false}\n"
    )
    run = staffa.run(folder / "campaign.yaml", set=[f"storage.root={folder / 'runs'}"], progress=False)
    assert run.ended.outcomes == {"ok": 20, "nan": 10}
    return run.root


@pytest.fixture
def copy(chaos: Path, tmp_path: Path) -> Path:
    shutil.copytree(chaos, tmp_path / "copy")
    return tmp_path / "copy"


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_bit_for_bit_in_the_recorded_program(chaos: Path) -> None:
    before = bytes_of(chaos)
    found = api.reproduce(chaos, trials=1000, seed=1)
    assert found["agree"] and found["exit_code"] == 0 and found["reasons"] == []
    assert found["trials"] == found["among"] == found["bit_for_bit"] == 30
    assert {one["recorded_in"] for one in found["compared"]} == {"hot"}
    assert bytes_of(chaos) == before, "nothing of the campaign is touched"


def test_all_kinds_of_experiments(mixed: Any) -> None:
    found = api.reproduce(mixed.root, trials=1000, seed=1)
    assert found["agree"] and found["bit_for_bit"] == 44, "arrays, ragged outputs, plain Python, NaN"
    assert found["differ"] == 0 and len({one["group"] for one in found["compared"]}) > 10


def test_after_the_hot_data_are_gone(mixed: Any, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed.root, tmp_path / "mixed")
    for root, count in ((copy, 30), (tmp_path / "mixed", 44)):
        shutil.rmtree(root / "hot")
        found = api.reproduce(root, trials=1000, seed=1)
        assert found["agree"] and found["bit_for_bit"] == count
        assert {one["recorded_in"] for one in found["compared"]} == {"archive"}


def test_the_seed_decides_which(chaos: Path) -> None:
    one, two, other = (api.reproduce(chaos, trials=2, seed=seed) for seed in (1, 1, 2))
    names = [[trial["trial"] for trial in found["compared"]] for found in (one, two, other)]
    assert names[0] == names[1] != names[2] and one["trials"] == 2 and one["among"] == 30


def test_another_width_within_the_tolerance(chaos: Path) -> None:
    found = api.reproduce(chaos, trials=3, seed=1, width=5, tolerance=math.inf)
    assert found["agree"] and found["within_tolerance"] == 3 and found["bit_for_bit"] == 0
    assert found["reasons"] == ["width: 5 here, 4 recorded"]
    assert {one["compared"] for one in found["compared"]} == {"within tolerance"}


def test_other_flags_are_told(chaos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    found = api.reproduce(chaos, trials=2, seed=1, tolerance=10.0)
    assert found["within_tolerance"] == 2 and found["agree"]
    assert len(found["reasons"]) == 1 and found["reasons"][0].startswith("flags: --xla_cpu_enable_fast_math=true")


def test_what_was_not_recorded_is_told(chaos: Path, copy: Path) -> None:
    for path in (copy / "ledger").glob("events-*"):
        path.unlink()
    found = api.reproduce(copy, trials=2, seed=1)
    assert found["agree"] and found["within_tolerance"] == 2
    assert all("is not recorded" in reason for reason in found["reasons"])


def test_a_campaign_that_is_half_done(tmp_path: Path) -> None:
    """Its one batch was computed without a driver: nothing says by which program."""
    workspace, plan, order = planned(campaign(tmp_path, MODEL, "Walk", sampling={"draws": 4}, execution={"batch": 2}))
    with pytest.raises(WorkspaceError, match="no trial of"):
        api.reproduce(workspace.root)
    compute(order, plan)
    found = api.reproduce(workspace.root, trials=5, seed=1)
    assert found["agree"] and found["among"] == found["trials"] == 2 and found["within_tolerance"] == 2


SHOTS = """
import jax, numpy as np
import staffa

class Shot(staffa.Experiment):
    def initialize(self, key, params):
        return params["scale"]
    def step(self, key, state, params):
        return state, {"y": state * jax.random.normal(key), "z": jax.random.normal(key, (2,)).astype("float16")}

class Plain(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return params["scale"]
    def step(self, key, state, params):
        return state, {"y": state * np.random.default_rng(key).normal(), "kind": len(params["word"])}
"""


@pytest.mark.parametrize(
    ("use", "space"),
    [("Shot", "{linspace: {scale: [0.1, 1.0, 6]}}"), ("Plain", "{grid: {scale: [0.5, 1.0, 2.0], word: [a, bb]}}")],
)
def test_one_shot_experiments(tmp_path: Path, use: str, space: str) -> None:
    (tmp_path / "model.py").write_text(SHOTS)
    (tmp_path / "campaign.yaml").write_text(
        f"campaign: {{name: shots}}\nexperiment: {{use: 'model.py:{use}'}}\nspace: [{space}]\n"
        f"storage: {{root: {tmp_path / 'runs'}}}\n"
    )
    declared = staffa.load(tmp_path / "campaign.yaml")
    staffa.graph(declared, batch=0).compute(scheduler="synchronous")
    found = api.reproduce(declared.root, trials=6, seed=1)
    assert found["agree"] and found["trials"] == 6
    staffa.graph.reduce(declared.root).compute(scheduler="synchronous")
    shutil.rmtree(declared.root / "hot")
    found = api.reproduce(declared.root, trials=6, seed=1)
    assert found["agree"] and {one["recorded_in"] for one in found["compared"]} == {"archive"}


def test_a_changed_model_is_found_out(copy: Path) -> None:
    model = copy / "code" / "model.py"
    model.write_text(model.read_text().replace("3.7", "3.6"))
    found = api.reproduce(copy, trials=3, seed=1)
    assert not found["agree"] and found["exit_code"] == 1 and found["differ"] > 0
    assert "is not the code this campaign was planned with (model.py)" in found["code"]
    apart = next(one for one in found["compared"] if not one["agrees"])
    assert apart["worst"]["largest"] > 1e-3 and apart["worst"]["recorded"] != apart["worst"]["again"]


def test_a_model_that_is_changed_in_words_alone_is_found_out(copy: Path) -> None:
    model = copy / "code" / "model.py"
    model.write_text(model.read_text() + "# a word\n")
    found = api.reproduce(copy, trials=3, seed=1)
    assert found["differ"] == 0 and not found["agree"] and found["exit_code"] == 1


def test_a_model_that_fails_now(copy: Path) -> None:
    model = copy / "code" / "model.py"
    model.write_text(model.read_text().replace("jnp.sin", "jnp.no_such_function"))
    with pytest.raises(PluginError, match="no_such_function"):
        api.reproduce(copy, trials=1, seed=1)


def store_of(root: Path) -> HotStore:
    return HotStore.open(Workspace.open(root).group(0, "g0"))


def test_a_damaged_shard_is_found_out(copy: Path) -> None:
    for path in (copy / "hot" / "0" / "g0.zarr" / "energy").glob("c.*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(bytes(data))
    found = api.reproduce(copy, trials=30, seed=1)
    assert found["differ"] == 30 and found["exit_code"] == 1
    assert {one["trouble"] for one in found["compared"]} == {"recorded data are damaged: energy"}


def test_a_shard_with_other_values_and_a_right_checksum_is_found_out(copy: Path, tmp_path: Path) -> None:
    store = store_of(copy)
    data = store.read("energy", 0, 1)
    data[3, 3] = np.nextafter(data[3, 3], np.float32(np.inf))  # one last bit of one value
    store.write("energy", 0, 1, data, tmp_path / "scratch")
    names = [array.name for array in store.layout.arrays]
    sums = store.checksums(0)
    sums[1, names.index("energy")] = store.checksum("energy", 0, 1)
    store.commit(0, store.status(0), sums, store.seconds(0))
    found = api.reproduce(copy, trials=30, seed=1)
    apart = [one for one in found["compared"] if not one["agrees"]]
    assert found["exit_code"] == 1 and [(one["batch"], one["lane"]) for one in apart] == [(0, 3)]
    worst = apart[0]["worst"]
    assert (worst["output"], worst["bits"], worst["beyond"]) == ("energy", 1, 0) and list(worst["place"]) == [7]


def test_data_that_are_nowhere_any_more(copy: Path) -> None:
    shutil.rmtree(copy / "archive")
    store = store_of(copy)
    for array in store.layout.arrays:
        for segment in range(store.layout.segments):
            store.chunk(array.name, 0, segment).unlink(missing_ok=True)
    found = api.reproduce(copy, trials=30, seed=1)
    gone = [one for one in found["compared"] if one["recorded_in"] == "nowhere"]
    assert len(gone) == 12 and {one["batch"] for one in gone} == {0} and found["exit_code"] == 1


def test_another_outcome_is_found_out(copy: Path) -> None:
    store = store_of(copy)
    status = store.status(0)
    status[:] = 3 - status  # ok <-> nan
    store.commit(0, status, store.checksums(0), store.seconds(0))
    found = api.reproduce(copy, trials=30, seed=1)
    troubles = {one["trouble"] for one in found["compared"] if not one["agrees"]}
    assert troubles == {"ok recorded, nan now", "nan recorded, ok now"} and found["differ"] == 12


def test_values_of_the_archive_are_compared(copy: Path) -> None:
    shutil.rmtree(copy / "hot")
    path = next((copy / "archive" / "draws").rglob("*.parquet"))
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index("energy")
    energy = table["energy"].to_numpy().copy()
    energy[5] += 0.25
    pq.write_table(table.set_column(place, "energy", [energy]), path)
    found = api.reproduce(copy, trials=30, seed=1)
    apart = [one for one in found["compared"] if not one["agrees"]]
    assert [one["trial"] for one in apart] == [table["trial"][5].as_py()]
    assert apart[0]["worst"]["largest"] == pytest.approx(0.25, rel=1e-5)
    path.write_bytes(b"rubbish")
    found = api.reproduce(copy, trials=2, seed=1)
    assert all("cannot be read" in one["trouble"] for one in found["compared"])


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"tolerance": -1.0}, {"tolerance": math.nan}, {"width": 0}])
def test_nonsense_is_refused(chaos: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(wrong))):
        api.reproduce(chaos, **wrong)


def test_the_command(chaos: Path, copy: Path) -> None:
    found = CliRunner().invoke(app, ["reproduce", str(chaos), "--trials", "2", "--seed", "1"])
    assert found.exit_code == 0 and "came out as recorded" in found.output and "bit for bit" in found.output
    model = copy / "code" / "model.py"
    model.write_text(model.read_text().replace("3.7", "3.6"))
    found = CliRunner().invoke(app, ["reproduce", str(copy), "--seed", "1", "--json"])
    assert found.exit_code == 1 and json.loads(found.output)["differ"] > 0
    found = CliRunner().invoke(app, ["reproduce", str(copy), "--seed", "1"])
    assert "did NOT come out" in found.output and "apart" in found.output and "staffa explain" in found.output


# --- comparing ---------------------------------------------------------------------------------------

FLOATS = arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32))


@given(FLOATS)
def test_an_array_agrees_with_itself_alone_to_the_bit(values: np.ndarray) -> None:
    same = gap(values, values.copy(), 0.0)
    assert (same.bits, same.beyond, same.largest) == (0, 0, 0.0)
    other = values.copy()
    other.view(np.uint32)[0] ^= 1
    found = gap(values, other, math.inf)
    assert found.bits == 1


@given(FLOATS, st.floats(0, 1e3))
def test_beyond_the_tolerance_is_beyond_any_smaller_one(values: np.ndarray, tolerance: float) -> None:
    other = np.roll(values, 1)
    wide, tight = gap(values, other, tolerance), gap(values, other, tolerance / 2)
    assert wide.beyond <= tight.beyond <= wide.bits and wide.largest == tight.largest


def test_differences_that_are_no_numbers() -> None:
    one = np.array([np.nan, np.inf, 1.0, -0.0])
    assert gap(one, np.array([np.nan, np.inf, 1.0, 0.0]), 0.0).beyond == 0
    assert gap(one, np.array([np.nan, np.inf, 1.0, 0.0]), 0.0).bits == 1
    assert gap(one, np.array([1.0, -np.inf, np.nan, 0.0]), 1e9).beyond == 3
    assert gap(np.array([True]), np.array([False]), 1e-6).beyond == 1
    assert gap(np.zeros(3), np.zeros(4), 1.0).largest == math.inf
    assert gap(np.zeros(0), np.zeros(0), 1.0).bits == 0


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left behind in the folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.glob("staffa-reproduce-*")) == []
