"""The lists of trials, one a generation: index, digest, group and row, replicate, parameters.

Beside each stands the list of its names in alphabetical order, so that one trial of a million is found by a few
small reads. Without it the list itself is searched.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.storage.files import write_aside
from staffa.storage.tables import ARROW, digest_column
from staffa.trial import DIGEST_BYTES

Row = npt.NDArray[Any]

STRETCH = 8192
"""Trials of a row group: what is read to look at one of them."""
NAMED = np.dtype([("trial", f"S{DIGEST_BYTES}"), ("index", "<u4")])
"""A line of the list of names. NumPy strips zeros from the end of such bytes when they are read, not from the file."""


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
    # A list without names is searched; names that are not its own would mislead.
    names_of(path).unlink(missing_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            pq.write_table(pa.table(arrays), file, compression="zstd", row_group_size=STRETCH)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    _write_names(names_of(path), digests, first)


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


def listed(paths: Sequence[Path]) -> int:
    """How many trials the lists have, by their footers: of a search those that were asked for so far."""
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)


def find_trial(paths: Path | Sequence[Path], trial: str) -> dict[str, Any] | None:
    """The row of a trial, by (the beginning of) its digest or by its index; None unless it is one.

    Arguments:
    - `paths`: the lists of all generations, or one of them.
    """
    paths = [paths] if isinstance(paths, Path) else paths
    found: list[tuple[Path, int]] = []
    first = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            trials = file.metadata.num_rows
        if trial.isdecimal() and len(trial) < 12:
            found += [(path, int(trial) - first)] if 0 <= int(trial) - first < trials else []
        else:
            found += [(path, place) for place in _places(path, trial, first)]
        first += trials
    return _row(*found[0]) if len(found) == 1 else None


def names_of(path: Path) -> Path:
    """Where the names of a list of trials stand in order."""
    return path.with_suffix(".names")


def _write_names(path: Path, digests: Row, first: int) -> None:
    names = np.ascontiguousarray(digests).view(f"S{DIGEST_BYTES}").reshape(-1)
    order = np.argsort(names)
    table = np.empty(len(names), NAMED)
    table["trial"], table["index"] = names[order], first + order
    write_aside(path, table.tobytes())


def _row(path: Path, place: int) -> dict[str, Any]:
    """The row at some place of a list."""
    with pq.ParquetFile(path) as file:
        group = 0
        while place >= (rows := file.metadata.row_group(group).num_rows):
            group, place = group + 1, place - rows
        return dict(file.read_row_group(group).slice(place, 1).to_pylist()[0])


def _places(path: Path, trial: str, first: int) -> list[int]:
    """Places in a list of the trials whose name begins so; two of them are as bad as more."""
    try:
        file = names_of(path).open("rb")
    except FileNotFoundError:
        found = pc.indices_nonzero(pc.starts_with(pq.read_table(path, columns=["trial"])["trial"], trial))
        return [int(place) for place in found[:2].to_pylist()]
    with file:
        lines = _Lines(file)
        at = bisect.bisect_left(lines, trial, key=lambda line: line[0])
        near = [lines[place] for place in range(at, min(at + 2, len(lines)))]
    return [index - first for name, index in near if name.startswith(trial)]


class _Lines(Sequence[tuple[str, int]]):
    """The list of names, a line at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = os.fstat(file.fileno()).st_size // NAMED.itemsize

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        line = os.pread(self._file.fileno(), NAMED.itemsize, place * NAMED.itemsize)
        return line[:DIGEST_BYTES].hex(), int.from_bytes(line[DIGEST_BYTES:], "little")


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
