"""Making the Zarr arrays of a group: metadata, written once, and the parameters of all trials."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa import cells
from staffa.cells import CELLS, TEXT
from staffa.storage.layouts import ArrayLayout, GroupLayout
from staffa.trial import Outcome

Row = npt.NDArray[Any]

INNER_BYTES = 1 << 20
"""Inner chunks near 1 MiB: one trial reads cheaply, and an index entry costs little."""

UNITS = {"D": "days", "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
"""Units of time as the CF conventions call them."""

ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    "threading.max_workers": 1,
    "async.concurrency": 1,
}
"""The Rust pipeline, in one thread: with more, inner chunks land in the shard in random order
and no two writes of the same data are equal."""

ZARRS_LOCK = threading.Lock()
"""Zarr's settings are global to the process; entering and leaving them must not interleave."""


def inner_chunks(shard: tuple[int, ...], itemsize: int, has_draws: bool, chained: bool) -> tuple[int, ...]:
    """Divide a shard into inner chunks near 1 MiB: first along trials, then along draws."""
    chunk = list(shard)

    def size() -> int:
        return math.prod(chunk) * itemsize

    for axis in (0, 2 if chained else 1) if has_draws else (0,):
        divisors = [d for d in range(1, chunk[axis] + 1) if chunk[axis] % d == 0]
        for divisor in reversed(divisors):
            if size() * divisor // chunk[axis] <= INNER_BYTES or divisor == 1:
                chunk[axis] = divisor
                break
    return tuple(chunk)


def write_group(
    path: Path, layout: GroupLayout, identity: Row, digests: Sequence[str], columns: Mapping[str, Row]
) -> None:
    import zarr

    names = list(columns)
    described = asdict(layout)
    described["attributes"] = {**layout.attributes, "parameters": names}
    attributes: dict[str, Any] = {
        **{k: v for k, v in layout.attributes.items() if isinstance(v, str | int | float)},
        "coordinates": " ".join(names),
        "outcomes": {outcome.word: int(outcome) for outcome in Outcome},
        "staffa": described,
    }
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)
    for array in layout.arrays:
        create_output(path / array.name, layout, array)
    _create_marks(group, layout)
    rows, chunk = layout.rows, layout.parameter_chunk
    _fill(group, "trial", np.asarray(digests, dtype=object), rows, ("trial",), "str", chunk, plain=layout.seated)
    _fill(group, "identity", identity, rows, ("trial", "identity_word"), "uint32", chunk, plain=layout.seated)
    about = layout.attributes.get("about", {})
    for name, values in columns.items():
        kind, own = _zarr_type(values), about.get(name)
        _fill(group, name, values, rows, ("trial",), kind, chunk, own, plain=layout.seated)
    if layout.draws is not None:
        _fill(group, "draw", np.arange(layout.draws), layout.draws, ("draw",), "int64", layout.draws)
    for name, coordinate in layout.coords.items():
        along = np.asarray(coordinate)
        _fill(group, name, along, len(along), (name,), _zarr_type(along), max(len(along), 1))
    with quiet(), warnings.catch_warnings():
        # Outside the Zarr 3 text so far, but read by xarray in one go; nothing here changes later.
        warnings.simplefilter("ignore", category=zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def _create_marks(group: Any, layout: GroupLayout) -> None:
    flat = {"name": "default", "separator": "."}
    shape = (layout.segments, len(layout.arrays))
    common: dict[str, Any] = {"compressors": None, "chunk_key_encoding": flat, "fill_value": 0}
    for name, dtype in (("status", "uint8"), ("seconds", "float32")):
        group.create_array(
            name,
            shape=(layout.rows,),
            chunks=(layout.batch,),
            dtype=dtype,
            dimension_names=("trial",),
            **common,
        )
    if layout.objectives:
        group.create_array(
            "objectives",
            shape=(layout.rows, len(layout.objectives)),
            chunks=(layout.batch, len(layout.objectives)),
            dtype="float64",
            dimension_names=("trial", "objective"),
            attributes={"names": list(layout.objectives)},
            **(common | {"fill_value": float("nan")}),
        )
    if layout.rungs:
        group.create_array(
            "rungs",
            shape=(layout.rows, len(layout.rungs), len(layout.objectives)),
            chunks=(layout.batch, 1, len(layout.objectives)),
            dtype="float64",
            dimension_names=("trial", "rung", "objective"),
            attributes={"segments": list(layout.rungs)},
            **(common | {"fill_value": float("nan")}),
        )
    group.create_array(
        "checksum",
        shape=(layout.batches, *shape),
        chunks=(1, *shape),
        dtype="uint32",
        dimension_names=("checksum_batch", "checksum_segment", "checksum_output"),
        **common,
    )


def create_output(path: Path, layout: GroupLayout, array: ArrayLayout, *, scratch: bool = False) -> Any:
    """Make an output's array, or with `scratch` one of the same metadata that holds one shard."""
    import zarr

    shard = layout.shard(array)
    stored = _stored(array)
    itemsize = math.ceil(array.cell) or 1 if isinstance(stored, str) else stored.itemsize
    empty = cells.fill(array.dtype)
    with ZARRS_LOCK, zarr.config.set(ZARRS), quiet():
        return zarr.create_array(
            path,
            shape=shard if scratch else layout.shape(array),
            shards=shard,
            chunks=inner_chunks(shard, itemsize, layout.draws is not None and not array.whole, bool(array.chains)),
            dtype=stored,
            compressors=_codecs(layout, isinstance(stored, str)),
            fill_value=empty.view(np.int64) if isinstance(empty, np.datetime64 | np.timedelta64) else empty,
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=layout.axes(array),
            attributes={} if scratch else _told(array),
            overwrite=True,
        )


def _stored(array: ArrayLayout) -> Any:
    """What Zarr has for an element type."""
    if array.dtype in (TEXT, CELLS):
        return TEXT if array.dtype == TEXT else "variable_length_bytes"
    dtype = np.dtype(array.dtype)
    return np.dtype(np.int64) if dtype.kind in "mM" else dtype


def _told(array: ArrayLayout) -> dict[str, Any]:
    """What an array says of itself, where its elements are no numbers."""
    if array.numeric:
        return {}
    said: dict[str, Any] = {"encoding": json.loads(array.encoding)}
    if array.whole:
        kind = cells.type_of(array.type)
        return {**said, "cells": f"an Arrow IPC stream for each trial, one column of {kind}, a row for each draw"}
    if array.dtype == TEXT:
        return {**said, "missing": cells.NOTHING, "begins_with_missing": "a text that does has it once more"}
    if array.categories:
        return {**said, "codes": dict(enumerate(map(str, array.categories), 1)), "missing": 0}
    unit = UNITS[np.datetime_data(array.dtype)[0]]
    # As the CF conventions have it, so that xarray reads them as times; those with a time zone are in UTC.
    if np.dtype(array.dtype).kind == "m":
        return {**said, "units": unit, "dtype": array.dtype}
    return {**said, "units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Bytes of variable length are outside of the Zarr 3 text so far; Zarr says so whenever it meets some."""
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=zarr.errors.UnstableSpecificationWarning)
        yield


def _codecs(layout: GroupLayout, variable: bool) -> list[Any] | None:
    """How inner chunks are compressed.

    Of draws of Hamiltonian Monte Carlo, whose lower bits are noise, bitshuffled LZ4 takes 0.05 ms for 37 kB and leaves
    0.83 of them; zstd takes 0.16 ms and leaves 0.80; LZ4 after a shuffle of bytes 0.06 ms and 0.84.
    """
    from zarr.codecs import BloscCodec, ZstdCodec

    if layout.compression == "none":
        return None
    if layout.compression == "zstd":
        return [ZstdCodec(level=layout.level)]
    if variable:
        return [BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle="noshuffle")]
    return [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")]


def _fill(
    group: Any,
    name: str,
    values: Row,
    rows: int,
    dims: tuple[str, ...],
    dtype: str,
    chunk: int,
    attributes: Mapping[str, str] | None = None,
    *,
    plain: bool = False,
) -> None:
    array = group.create_array(
        name,
        shape=(rows, *values.shape[1:]),
        chunks=(chunk, *values.shape[1:]),
        dtype=dtype,
        dimension_names=dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
        attributes=dict(attributes or {}),
        **({"compressors": None} if plain else {}),
    )
    if len(values):
        array[: len(values)] = values


def _zarr_type(values: Row) -> str:
    return "str" if values.dtype.kind in "OUT" else values.dtype.name
