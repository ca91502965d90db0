"""The lists of trials, one a generation: index, digest, group and row, replicate, parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.storage.files import sync_directory
from staffa.storage.tables import ARROW, digest_column
from staffa.trial import DIGEST_BYTES

Row = npt.NDArray[Any]


def write_roster(path: Path, digests: Row, columns: Mapping[str, tuple[str, Row]], first: int = 0) -> None:
    """Write the list aside and rename it.

    Arguments:
    - `digests`: (trials, 16) bytes.
    - `columns`: name -> (declared type, one value a trial; None where absent).
    - `first`: index of the first of them: how many trials the generations before have.
    """
    arrays: dict[str, pa.Array] = {
        "index": pa.array(np.arange(first, first + len(digests))),
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


def read_rosters(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """The lists of all generations as one table, in the order of their index.

    Arguments:
    - `columns`: only these; one that a generation does not have is null there.
    """
    tables = []
    for path in paths:
        known = pq.read_schema(path).names
        tables.append(pq.read_table(path, columns=[name for name in columns or known if name in known]))
    return pa.concat_tables(tables, promote_options="default")


def find_trial(paths: Path | Sequence[Path], trial: str) -> dict[str, Any] | None:
    """The row of a trial, by (the beginning of) its digest or by its index; None unless it is one.

    Arguments:
    - `paths`: the lists of all generations, or one of them.
    """
    paths = [paths] if isinstance(paths, Path) else paths
    table = read_rosters(paths, ["index", "trial"])
    if trial.isdecimal() and len(trial) < 12:
        mask = pc.equal(table["index"], int(trial))
    else:
        mask = pc.starts_with(table["trial"], trial)
    found = pc.indices_nonzero(mask)
    return dict(read_rosters(paths).take(found).to_pylist()[0]) if len(found) == 1 else None


def roster_digests(paths: Sequence[Path]) -> Row:
    """Names of all trials, (trials, 16) bytes."""
    import binascii

    text = "".join(read_rosters(paths, ["trial"])["trial"].to_pylist())
    return np.frombuffer(binascii.unhexlify(text), np.uint8).reshape(-1, DIGEST_BYTES)


def hexadecimal(digests: Row) -> Row:
    """(trials, 16) bytes -> (trials,) texts of 32 hexadecimal characters, as fixed-width bytes."""
    import binascii

    text = binascii.hexlify(np.ascontiguousarray(digests).tobytes())
    return np.frombuffer(text, dtype="S32")
