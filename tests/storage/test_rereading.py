"""Sealed rows as arrays again: files in turn, which are compared with the part's names at once, and any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staffa.errors import WorkspaceError
from staffa.storage.rereading import SealedFileRows
from staffa.storage.roster import hexadecimal

NAMES = np.random.default_rng(1).integers(0, 256, (6, 16)).astype(np.uint8)
"""Digests of the trials of a part: three batches of two."""


def written(path: Path, trials: list[int], draws: list[int]) -> Path:
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in hexadecimal(NAMES)]
    table = pa.table(
        {
            "trial": [texts[trial] if trial >= 0 else "f" * 32 for trial in trials],
            "chain": pa.array([0] * len(trials), pa.int64()),
            "draw": pa.array(draws, pa.int64()),
            "x": [10.0 * trial + draw for trial, draw in zip(trials, draws, strict=True)],
        }
    )
    pq.write_table(table, path, row_group_size=4)
    return path


@pytest.mark.parametrize(
    ("trials", "draws"),
    [
        (list(range(6)), [0] * 6),  # one row each, in turn
        ([3, 1, 0, 2, 5, 4], [0] * 6),  # as many, out of turn
        ([0, 1, 4, 5], [0] * 4),  # not all of them
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [0, 1] * 6),
        ([0, 0, 1, 1, 5, 5], [1, 0] * 3),  # as many rows as trials, two of each
    ],
)
def test_each_batch_gets_its_rows(tmp_path: Path, trials: list[int], draws: list[int]) -> None:
    found = SealedFileRows(written(tmp_path / "rows.parquet", trials, draws), ["x"], NAMES, 2)
    assert found.places.tolist() == sorted(set(trials))
    for batch in range(3):
        own = found.places[found.places // 2 == batch]
        rows = found.of(batch, own)
        expected = [(t, d) for t, d in zip(trials, draws, strict=True) if t // 2 == batch]
        assert [(own[one], draw) for one, draw in zip(rows.trials, rows.axis("draw"), strict=True)] == expected
        assert rows.columns["x"].to_pylist() == [10.0 * t + d for t, d in expected]
        assert rows.axis("chain").tolist() == [0] * len(expected)


def test_a_stranger_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"has a trial f{32}, and its part has none"):
        SealedFileRows(written(tmp_path / "rows.parquet", [0, 1, 2, 3, 4, -1], [0] * 6), ["x"], NAMES, 2)
