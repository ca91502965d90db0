"""The names of all trials of a campaign, and of the campaign's computation as a whole.

See `staffa.trial.digest` for what a trial's name is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.config import Declaration, config_hash, explain
from staffa.campaign.points import ABSENT, Column, Points
from staffa.seeds import CHANNELS
from staffa.trial import DIGEST_BYTES, canonical, digests, parameter_texts

NOTES = tuple(f"parameters.*.{word}" for word in ("comment", "unit", "annotations", "range", "choices"))
"""What is said of parameters for people, and to refuse mistakes: values are what counts."""

FREE = (
    "campaign.description",
    "campaign.tag",
    "campaign.tags",
    "cluster.",
    "execution.window",
    "execution.workers",
    "execution.budget",
    "execution.retries",
    "execution.patience",
    "archive.every",
    "archive.prune",
    "reduce",
    "qa",
    "after",
    "storage.root",
    "execution.telemetry",
    "execution.logs",
    "alerts",
    "hooks",
    "trackers",
    *NOTES,
)
"""Values that may change when a campaign is resumed: nothing of them changes what is computed or stored."""

EXPERIMENT = "experiment."
"""Parameters of this prefix are options of the experiment and named within its text."""

STRETCH = 65_536
"""Points whose texts stand in memory at one time."""

Codes = npt.NDArray[np.int32]


def is_free(path: str, free: Sequence[str] = FREE) -> bool:
    """Whether the value at a dotted path may change while a campaign is under way: it, or what it is in, is free."""
    whole = (name.rstrip(".") for name in free)
    return any(fnmatchcase(path, name) or fnmatchcase(path, f"{name}.*") for name in whole)


def run_hash(declaration: Declaration, code: str) -> str:
    """16 hexadecimal characters that name what is computed: configuration, seeds and code.

    Equal for two campaigns, whatever they are called and wherever they run, if and only if they have
    the same values (those that are `FREE` and the section `campaign` apart), the same seed in every
    channel, derived or pinned, and the same `*.py` files. A campaign that grows gets another one.

    Arguments:
    - `code`: digest of the workflow's code, see `staffa.storage.provenance.code_digest`.
    """
    own = {path: value for path, value, _ in explain(declaration) if not path.startswith(("campaign.", "seeds."))}
    config = {path: value for path, value in own.items() if not is_free(path)}
    text = canonical({"code": code, "config": config, "seeds": seed_channels(declaration)})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_channels(declaration: Declaration) -> dict[str, int]:
    """The seed of every channel, derived or pinned."""
    pack = declaration.campaign.seeds.pack()
    return {channel: pack.channel(channel) for channel in CHANNELS}


def run_facts(declaration: Declaration, code: str) -> dict[str, Any]:
    """What names a run wherever one is recorded: hashes of configuration and computation, and the seeds."""
    seeds: Mapping[str, int] = {"global_seed": declaration.campaign.seeds.global_seed, **seed_channels(declaration)}
    return {"config_hash": config_hash(declaration), "run_hash": run_hash(declaration, code), "seeds": seeds}


def name_trials(
    points: Points, replicates: int, experiment_texts: Sequence[str], experiment_codes: Codes
) -> npt.NDArray[np.uint8]:
    """Digests of all trials: (points x replicates, 16) bytes, the replicate varying fastest.

    Arguments:
    - `experiment_texts`: canonical texts of the experiments, see `staffa.trial.experiment_text`.
    - `experiment_codes`: (points,) the place of each point's experiment in them.
    """
    columns = [column for column in points.columns if not column.name.startswith(EXPERIMENT)]
    columns.sort(key=lambda column: column.name)
    found = digests(experiment_texts, experiment_codes.tolist(), _bodies(columns, points.length), range(replicates))
    names = np.fromiter(found, dtype=f"S{DIGEST_BYTES}", count=points.length * replicates)
    return names.view(np.uint8).reshape(-1, DIGEST_BYTES)


def _bodies(columns: Sequence[Column], length: int) -> Iterator[bytes]:
    """The parameters of each point in canonical form."""
    if not columns:
        yield from repeat(b"", length)
        return
    writers = [_writer(column) for column in columns]
    gaps = any(bool((column.codes == ABSENT).any()) for column in columns)
    for start in range(0, length, STRETCH):
        rows = zip(*(write(start) for write in writers), strict=True)
        yield from (b",".join(filter(None, row)) for row in rows) if gaps else map(b",".join, rows)


def _writer(column: Column) -> Callable[[int], list[bytes]]:
    """A function that writes a parameter for a stretch of points, nothing where it is absent."""
    few = _texts(column, range(len(column.values))) if len(column.values) <= STRETCH else None

    def write(start: int) -> list[bytes]:
        codes = column.codes[start : start + STRETCH]
        if few is not None:
            return [few[code] for code in codes.tolist()]
        used, places = np.unique(codes, return_inverse=True)
        texts = _texts(column, used[used != ABSENT].tolist())
        shift = int(used[0] == ABSENT)  # then place 0 becomes -1, the empty text at the end
        return [texts[place] for place in (places - shift).tolist()]

    return write


def _texts(column: Column, codes: Sequence[int]) -> list[bytes]:
    """The texts of some values; the empty one behind the last stands for an absent parameter."""
    return [*parameter_texts(column.name, map(column.values.__getitem__, codes)), b""]


def find_duplicates(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Trials that are the same trial: (k, 2) pairs of the first index and a later one, in order."""
    words = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0]))
    ranked = words[order]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = (ranked[1:] == ranked[:-1]).all(axis=1)
    run = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(order))))
    pairs = np.stack([order[run[repeated]], order[repeated]], axis=1)
    return pairs[np.argsort(pairs[:, 1])]


def stand_in(digests: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of some trials are among others; both (n, 16) bytes."""
    text = f"S{DIGEST_BYTES}"
    own, others = (np.ascontiguousarray(names).view(text).reshape(-1) for names in (digests, known))
    return np.isin(own, others)
