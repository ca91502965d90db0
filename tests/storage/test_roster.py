"""The list of trials, and the checkpoints that let another worker carry on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from staffa.storage import checkpoints, roster
from staffa.storage.roster import find_trial, hexadecimal, write_roster

DIGESTS = np.array([[number] * 16 for number in (0x12, 0x13, 0xAB, 0xAC)], np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    columns: dict[str, tuple[str, Any]] = {
        "row": ("int", np.arange(4)),
        "scale": ("float", np.array([0.5, np.nan, 1.5, 2.5])),
        "kind": ("str", np.array(["a", None, "é", ""], dtype=object)),
        "on": ("bool", np.array([True, None, False, True], dtype=object)),
    }
    write_roster(tmp_path / "trials.parquet", DIGESTS, columns)
    return tmp_path / "trials.parquet"


def test_a_trial_is_found_by_index_and_by_the_beginning_of_its_name(path: Path) -> None:
    expected = {"index": 2, "trial": "ab" * 16, "row": 2, "scale": 1.5, "kind": "é", "on": False}
    for text in ("2", "ab" * 16, "aba"):
        assert find_trial(path, text) == expected, text
    assert find_trial(path, "1212121212121212") == find_trial(path, "0")  # too long for an index
    assert find_trial(path, "13131313131313")["kind"] is None  # type: ignore[index]
    for text in ("a", "", "4", "-1", "ff", "²", "AB", "ab" * 17):
        assert find_trial(path, text) is None, text


def test_the_list_is_there_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(roster.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_roster(path, DIGESTS[:1], {})
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
    assert find_trial(path, "12" * 16)["row"] == 0, "the list is searched where its names are not there"  # type: ignore[index]
    assert pq.read_schema(path).names == ["index", "trial", "row", "scale", "kind", "on"]


@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 5), st.just(16))))
def test_names_are_the_digests_in_hexadecimal(digests: Any) -> None:
    assert [text.decode() for text in hexadecimal(digests)] == [row.tobytes().hex() for row in digests]


# ---- checkpoints


STATE = {
    "outcomes": np.array([1, 2, 255], np.uint8),
    "state/0": np.asfortranarray(np.random.default_rng(1).normal(size=(3, 4))),
    "state/1": np.zeros((3, 0), "float32"),
    "state/2": np.array([True, False, True]),
    "state/3": np.arange(6, dtype=np.uint32).reshape(3, 2)[:, ::-1],
}


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "g0-3"
    for segment in (1, 2):  # replaced as the batch goes on
        checkpoints.save(path, STATE, {"segment": segment, "order": "[é]"})
    saved = checkpoints.load(path)
    assert saved is not None and saved.meta == {"segment": 2, "order": "[é]"}
    assert saved.arrays.keys() == STATE.keys()
    for name, array in STATE.items():
        found = saved.arrays[name]
        assert found.dtype == array.dtype and found.shape == array.shape and (found == array).all(), name
    checkpoints.remove(path)
    checkpoints.remove(path)
    assert checkpoints.load(path) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["empty", "cut", "header cut", "rubbish", "foreign"])
def test_a_checkpoint_that_cannot_be_read_whole_is_none(tmp_path: Path, how: str) -> None:
    path = tmp_path / "g0-3"
    checkpoints.save(path, STATE, {"segment": 1})
    whole = path.read_bytes()
    if how == "foreign":
        from safetensors.numpy import save_file

        save_file({"x": np.zeros(3)}, path)
    else:
        broken = {"empty": b"", "cut": whole[:-3], "header cut": whole[:40], "rubbish": b"x" * 300}
        path.write_bytes(broken[how])
    assert checkpoints.load(path) is None
