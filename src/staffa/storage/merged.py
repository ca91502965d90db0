"""What a campaign remembers of the campaigns it was merged of: who computed a trial's data, and under which name.

A trial is the same as another if it has the same digest, was computed from the same seed by the same code, and was
sampled alike. In a merged campaign its name says only what is computed, so the rest stands here: `metadata/merge.json`
tells of each campaign and of the merge, `metadata/merged.parquet` of each trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from staffa.storage.files import aside, read_json, write_aside
from staffa.storage.workspace import Workspace
from staffa.trial import DIGEST_BYTES

Row = npt.NDArray[Any]
OWN = -1
"""Stands for the campaign itself: a trial that had no data when it was merged, or came later."""


@dataclass(frozen=True)
class Maker:
    """A campaign that computed data of another.

    Arguments:
    - `seed`: of its trials' keys; `code`: digest of its code.
    - `sampling`: draws, thin, discard, warmup.
    """

    root: str
    run_hash: str
    seed: int
    code: str
    sampling: tuple[int | None, ...]

    @property
    def terms(self) -> tuple[Any, ...]:
        """What makes a trial of one name another trial."""
        return self.seed, self.code, self.sampling


@dataclass(frozen=True)
class Origins:
    """Where the data of a campaign's trials come from.

    Arguments:
    - `makers`: campaigns; `of`: (trials,) the place of each trial's among them, or `OWN`.
    - `names`: (trials, 16) what it is called there.
    """

    makers: tuple[Maker, ...]
    of: Row
    names: Row


def write_origins(workspace: Workspace, facts: Mapping[str, Any], origins: Origins) -> None:
    """Write down what a campaign was merged of.

    Arguments:
    - `facts`: of the merge, for people and programs.
    """
    names = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(DIGEST_BYTES), len(origins.names), [None, pa.py_buffer(np.ascontiguousarray(origins.names))]
    )
    partial = aside(workspace.origins)
    try:
        pq.write_table(pa.table({"of": pa.array(origins.of, pa.int32()), "name": names}), partial, compression="zstd")
        partial.rename(workspace.origins)
    finally:
        partial.unlink(missing_ok=True)
    makers = [asdict(maker) for maker in origins.makers]
    write_aside(workspace.merge, json.dumps({**facts, "makers": makers}, indent=1, default=str))


def read_merge(workspace: Workspace) -> dict[str, Any] | None:
    """What is told of the merge a campaign came of; None for one that was not merged."""
    found = read_json(workspace.merge)
    return found if isinstance(found, dict) else None


def read_origins(workspace: Workspace, trials: int) -> Origins | None:
    """Where the data of a campaign's trials come from; None for one that was not merged.

    Arguments:
    - `trials`: how many it has by now: those that came after the merge are its own.
    """
    facts = read_merge(workspace)
    if facts is None or not workspace.origins.exists():
        return None
    table = pq.read_table(workspace.origins).combine_chunks()
    of, names = np.full(trials, OWN, np.int32), np.zeros((trials, DIGEST_BYTES), np.uint8)
    of[: table.num_rows] = table["of"].to_numpy()
    packed = b"".join(table["name"].to_pylist())
    names[: table.num_rows] = np.frombuffer(packed, np.uint8).reshape(-1, DIGEST_BYTES)
    return Origins(tuple(_maker(found) for found in facts["makers"]), of, names)


def origin_of(workspace: Workspace, index: int) -> tuple[Maker, str] | None:
    """Who computed a trial's data, and as which trial; None where the campaign itself did or will.

    Arguments:
    - `index`: of the trial in the campaign.
    """
    facts = read_merge(workspace)
    if facts is None or not workspace.origins.exists():
        return None
    table = pq.read_table(workspace.origins).slice(index, 1).to_pylist()
    if not table or table[0]["of"] == OWN:
        return None
    return _maker(facts["makers"][table[0]["of"]]), bytes(table[0]["name"]).hex()


def _maker(found: Mapping[str, Any]) -> Maker:
    return Maker(**{**found, "sampling": tuple(found["sampling"])})


def united(makers: Sequence[Sequence[Maker]]) -> tuple[Maker, ...]:
    """The makers of several campaigns, each once."""
    return tuple(dict.fromkeys(maker for own in makers for maker in own))
