"""The list of a generation's trials: index, digest, group and row, replicate, parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.storage.files import sync_directory
from staffa.storage.tables import ARROW, digest_column

Row = npt.NDArray[Any]


def write_roster(path: Path, digests: Row, columns: Mapping[str, tuple[str, Row]]) -> None:
    """Write the list aside and rename it.

    Arguments:
    - `digests`: (trials, 16) bytes.
    - `columns`: name -> (declared type, one value a trial; None where absent).
    """
    arrays: dict[str, pa.Array] = {
        "index": pa.array(np.arange(len(digests))),
        "trial": digest_column(hexadecimal(digests), np.ones(len(digests), np.int64)),
    }
    for name, (kind, values) in columns.items():
        arrays[name] = pa.array(values, ARROW[kind], from_pandas=False)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            pq.write_table(pa.table(arrays), file, compression="zstd", row_group_size=1 << 16)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_directory(path.parent)


def find_trial(path: Path, trial: str) -> dict[str, Any] | None:
    """The row of a trial, by (the beginning of) its digest or by its index."""
    table = pq.read_table(path, columns=["index", "trial"])
    if trial.isdecimal() and len(trial) < 12:
        mask = pc.equal(table["index"], int(trial))
    else:
        mask = pc.starts_with(table["trial"], trial)
    found = pc.indices_nonzero(mask)
    if len(found) != 1:
        return None
    return dict(pq.read_table(path).take(found).to_pylist()[0])


def hexadecimal(digests: Row) -> Row:
    """(trials, 16) bytes -> (trials,) texts of 32 hexadecimal characters, as fixed-width bytes."""
    import binascii

    text = binascii.hexlify(np.ascontiguousarray(digests).tobytes())
    return np.frombuffer(text, dtype="S32")
