"""Which program computed a batch, written down so that it can be run again.

A batch's results are those of a program at one width on one backend, unless it was carried on
elsewhere or at another width. Each process writes its backend down once, beside the plan; a receipt
says width and backend of every program that had a part in the batch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staffa.experiment.backend import backend, backend_name
from staffa.storage.files import write_aside
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace

Made = tuple[int, str]
"""Width of a program, and the name of the backend it ran on."""

UNKNOWN: Made = (0, "")
"""Stands for a program of which nothing was written down."""


@functools.lru_cache(maxsize=8)
def backend_of(root: str) -> str:
    """The name of this process's backend, which is written down in the campaign's folder at the first call."""
    facts = backend()
    name = backend_name(facts)
    path = Workspace(Path(root)).backend(name)
    if not path.exists():
        write_aside(path, json.dumps(facts, indent=1))
    return name


def joined(programs: Sequence[Made], width: int, root: str) -> tuple[Made, ...]:
    """The programs that had a part in a batch, with this process's own at some width."""
    own = (width, backend_of(root))
    return tuple(programs) if own in programs else (*programs, own)


def known(meta: Mapping[str, Any]) -> tuple[Made, ...]:
    """The programs a checkpoint names; an older one names none, but had one."""
    return tuple((int(width), str(name)) for width, name in meta.get("programs", [UNKNOWN]))


@dataclass(frozen=True)
class Record:
    """One commit of a batch, as the journal has it."""

    lanes: frozenset[int] | None
    """Lanes it computed; None for all."""
    programs: tuple[Made, ...]
    stale: bool = False
    """The code was changed since (`--accept-code-change`)."""


def records(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Record]]:
    """Every commit of every batch (`g0/3`), oldest first."""
    found: dict[str, list[Record]] = {}
    for event in events:
        if event["event"] == "code_change_accepted":
            found = {batch: [_outdated(record) for record in made] for batch, made in found.items()}
        if event["event"] != "batch_settled" or event.get("duplicate"):
            continue
        lanes = event.get("lanes")
        made = Record(None if lanes is None else frozenset(unspan(lanes)), known(event))
        found.setdefault(str(event["batch"]), []).append(made)
    return found


def maker(made: Sequence[Record], lane: int) -> Record | None:
    """The commit that a lane's data come from."""
    return next((one for one in reversed(made) if one.lanes is None or lane in one.lanes), None)


def _outdated(record: Record) -> Record:
    return Record(record.lanes, record.programs, stale=True)
