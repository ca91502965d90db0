"""Reducers of a campaign (`reduce:`): what they make of each part as it is sealed, and of all parts in the end.

A part's answer is written before the part becomes visible, so whatever is sealed has one; a reducer that came later
answers for what was sealed before it. What they come to together is put together again at the end of every run and
consolidation, in the order of the parts: the same however often it was interrupted.

    archive/reduced/NAME.npz           the answer, NAME.json beside it: which reducer, of which parts
    archive/reduced/NAME/ID/PART.npz   what ID, one reducer with its options and code, made of a part
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from staffa.campaign.model import ReduceConfig
from staffa.campaign.plan import Plan
from staffa.errors import ConfigError, PluginError, StaffaError, WorkspaceError, near
from staffa.experiment.ensembles import Arrays, Outputs, Reducer
from staffa.experiment.registry import build
from staffa.experiment.splitting import Split, apply_own, plain, without
from staffa.storage.derived import RESERVED
from staffa.storage.files import write_aside
from staffa.storage.layouts import GroupLayout
from staffa.storage.tables import Block, applied_table
from staffa.storage.workspace import Workspace

METHODS = ("map", "reduce", "finish")


@dataclass(frozen=True)
class Told:
    """A reducer as it travels to workers.

    Arguments:
    - `text`: its block, as JSON.
    - `code`: digest of the workflow's code where the reducer is part of it.
    """

    name: str
    text: str
    code: str = ""

    @property
    def identity(self) -> str:
        """Names what it makes of data: another one's answers are not its own."""
        return hashlib.sha256(f"{self.text}\n{self.code}".encode()).hexdigest()[:12]


Blocks = tuple[Told, ...]


def blocks_of(declared: Mapping[str, ReduceConfig], code: str = "") -> Blocks:
    """Section `reduce` in a form that travels to workers."""
    blocks = {name: block.model_dump(mode="json") for name, block in declared.items()}
    return tuple(_told(name, block, code) for name, block in blocks.items())


def blocks_in(workspace: Workspace, declared: Mapping[str, ReduceConfig], code: str) -> Blocks:
    """What is declared, and what there are answers of from earlier consolidations."""
    own = blocks_of(declared, code)
    earlier = {path.stem: json.loads(path.read_text())["reducer"] for path in workspace.reduced.glob("*.json")}
    return own + tuple(_told(name, block, code) for name, block in sorted(earlier.items()) if name not in declared)


def _told(name: str, block: Mapping[str, Any], code: str) -> Told:
    # Answers of before there was `by` are those of a block without it.
    said = {key: value for key, value in block.items() if key != "by" or value}
    return Told(name, json.dumps(said, sort_keys=True), code if ".py:" in block["use"] else "")


@functools.lru_cache(maxsize=8)
def reducers(blocks: Blocks, code: Path) -> Mapping[str, Reducer]:
    """The objects that the blocks describe."""
    found = {}
    for told in blocks:
        name, block = told.name, json.loads(told.text)
        by = tuple(block.pop("by", ()))
        made = build(block, code, f"reduce.{name}")
        lacking = [method for method in METHODS if not callable(getattr(made, method, None))]
        if lacking:
            raise PluginError(
                f"reduce.{name}.use: {type(made).__name__} has no method {lacking[0]!r}",
                "a reducer has map(outputs, params), reduce(one, two) and finish(whole)",
            )
        found[name] = Split(name, made, by) if by else made
    return found


def check(blocks: Blocks, code: Path, plan: Plan) -> None:
    """Refuse reducers that cannot be made, or that want outputs that no group records, parameters that none has."""
    outputs = {output.name: output for output in plan.outputs()}
    known = {name for name, output in outputs.items() if not output.encoding}
    for name, reducer in reducers(blocks, code).items():
        for wanted in _of(reducer):
            if wanted in outputs and wanted not in known:
                what = f"reduce.{name}.of: {wanted!r} is {outputs[wanted].kind}, and reducers take numbers"
                raise PluginError(what, near(wanted, known))
            if wanted not in known:
                raise PluginError(f"reduce.{name}.of: no group records {wanted!r}", near(wanted, known))
        _check_by(name, reducer, {"replicate", *(parameter for parameter, _ in plan.parameters)})
        if applies(reducer) is not None:
            _check_table(name, reducer, plan)


def _check_by(name: str, reducer: Reducer, known: Collection[str]) -> None:
    for wanted in _by(reducer):
        if wanted not in known:
            raise ConfigError(f"reduce.{name}.by: no parameter is called {wanted!r}", near(wanted, known))


def _check_table(name: str, reducer: Reducer, plan: Plan) -> None:
    tables = {output.table for output in plan.outputs() if output.table}
    table = applies(reducer)
    if table and table not in tables:
        raise PluginError(
            f"reduce.{name}: it applies to {table!r}, and there is no such table",
            near(table, tables) or "applies = '' is for one row a trial",
        )
    taken = {one.name: "an output" for one in plan.outputs()} | dict.fromkeys((*RESERVED, *tables), "a table")
    if name in taken:
        what = f"reduce.{name}: the table that it makes would be called as {taken[name]} is"
        raise ConfigError(what, f"another name, such as {name}_reduced")


def applies(reducer: Reducer) -> str | None:
    """The table to whose rows a reducer applies what was found: "" for one row a trial, None for none."""
    own = reducer.reducer if isinstance(reducer, Split) else reducer
    if not callable(getattr(own, "apply", None)):
        return None
    return str(getattr(own, "applies", ""))


def mapped(block: Block, found: Mapping[str, Reducer]) -> dict[str, Arrays]:
    """What each reducer makes of a batch; nothing of one that wants what its group does not record or have.

    Who says which outputs it wants is given those, wherever they come from.
    """
    params, numbers = _params(block), _numbers(block)
    answers: dict[str, Arrays] = {}
    for name, reducer in found.items():
        if _able(reducer, numbers, params):
            with _naming(name, "map"):
                answers[name] = plain(name, reducer.map(_wanted(reducer, block), params))
    return answers


def joined(answers: Iterable[Mapping[str, Arrays]], found: Mapping[str, Reducer]) -> dict[str, Arrays]:
    """Several answers as one, in their order."""
    whole: dict[str, Arrays] = {}
    for answer in answers:
        for name, arrays in answer.items():
            with _naming(name, "reduce"):
                whole[name] = plain(name, found[name].reduce(whole[name], arrays)) if name in whole else arrays
    return whole


@contextlib.contextmanager
def _naming(name: str, method: str) -> Iterator[None]:
    """What a reducer raises, with its name. Raises `PluginError`, since trying again would not help."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except StaffaError as error:
        if error.message.startswith(f"reduce.{name}"):
            raise
        raise type(error)(f"reduce.{name}: {error.message}", error.hint) from error
    except Exception as error:
        raise PluginError(f"reduce.{name}: {method} raised {type(error).__name__}: {error}", without(name)) from error


def write_part(archive: Path, blocks: Blocks, part: str, answers: Mapping[str, Arrays]) -> None:
    """Put a part's answers beside the archive."""
    for told in (one for one in blocks if one.name in answers):
        path, arrays = _part(archive, told, part), answers[told.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, _bytes(arrays))


def unanswered(
    workspace: Workspace, blocks: Blocks, layout: GroupLayout, parts: Collection[str]
) -> tuple[Blocks, tuple[str, ...]]:
    """Reducers that have not answered for some published files of a group, and for which.

    Who wants what the group does not record or have has no answer.
    """
    found = reducers(blocks, workspace.code)
    outputs, parameters = _known(layout)
    able = [told for told in blocks if _able(found[told.name], outputs, parameters)]
    lacking = [(t, part) for t in able for part in parts if not _part(workspace.archive, t, part).exists()]
    late = {told.name for told, _ in lacking}
    files = {part for _, part in lacking}
    return tuple(told for told in able if told.name in late), tuple(part for part in parts if part in files)


def wholes(workspace: Workspace, blocks: Blocks) -> dict[str, str]:
    """By name of a reducer that applies what was found: the name of the answer that stands now."""
    found = reducers(blocks, workspace.code)
    return {
        told.name: _digest(told, path.read_bytes())
        for told in blocks
        if applies(found[told.name]) is not None and (path := workspace.reduced / f"{told.name}.npz").exists()
    }


def whole_of(workspace: Workspace, told: Told, wanted: str) -> Arrays:
    """The answer of a reducer by its name. Raises `WorkspaceError` where another one stands."""
    data = (workspace.reduced / f"{told.name}.npz").read_bytes()
    if _digest(told, data) != wanted:
        again = f"staffa consolidate {workspace.root}"
        raise WorkspaceError(f"reduce.{told.name}: its answer was replaced while it was applied", again)
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


def applying(blocks: Blocks, code: Path, layout: GroupLayout) -> list[str]:
    """Names of the reducers that apply something to rows of a group, which records what they want."""
    found = reducers(blocks, code)
    tables = {"", *(array.table for array in layout.arrays)}
    outputs, parameters = _known(layout)
    return [
        name for name, reducer in found.items() if _able(reducer, outputs, parameters) and applies(reducer) in tables
    ]


def wanted(reducers: Iterable[Reducer], layout: GroupLayout) -> set[str]:
    """Outputs that have to be read for some reducers of a group.

    What they name, or all; and what says how long the rows are that they apply to.
    """
    arrays = [array for array in layout.arrays if array.numeric]
    found: set[str] = set()
    for reducer in reducers:
        table = applies(reducer)
        found |= _of(reducer) or {array.name for array in arrays}
        found |= {array.length for array in arrays if table and array.table == table}
    return found


def applied(name: str, reducer: Reducer, whole: Arrays, block: Block) -> pa.Table:
    """What a reducer applies to the rows of a batch. Raises `PluginError` for what is no column of them."""
    found = apply_own(name, reducer, whole, _wanted(reducer, block), _params(block))
    try:
        return applied_table(block, applies(reducer) or "", found)
    except ValueError as error:
        raise PluginError(f"reduce.{name}: apply: {error}", without(name)) from None


def finish(workspace: Workspace, blocks: Blocks, parts: Sequence[str]) -> None:
    """Put the parts' answers together: `archive/reduced/NAME.npz`, and what it is of in `NAME.json`.

    Arguments:
    - `parts`: names of all published files of trials, supplements included.

    Raises what the first reducer raised of those that cannot say what it comes to, once all others have.
    """
    found = reducers(blocks, workspace.code)
    first: StaffaError | None = None
    for one in blocks:
        try:
            _finish(workspace, one, parts, found)
        except StaffaError as error:
            first = first or error
    if first is not None:
        raise first


def _finish(workspace: Workspace, one: Told, parts: Sequence[str], found: Mapping[str, Reducer]) -> None:
    name = one.name
    paths = {part: _part(workspace.archive, one, part) for part in sorted(parts)}
    there = [part for part, path in paths.items() if path.exists()]
    told = {
        "reducer": json.loads(one.text),
        "id": one.identity,
        "parts": there,
        "without": [part for part in paths if part not in there],
    }
    beside = workspace.reduced / f"{name}.json"
    known = beside.exists() and beside.with_suffix(".npz").exists()
    if not there or (known and json.loads(beside.read_text()) == told):
        return
    whole = joined(({name: _read(paths[part])} for part in there), found)[name]
    with _naming(name, "finish"):
        answer = plain(name, found[name].finish(whole))
    write_aside(beside.with_suffix(".npz"), _bytes(answer))
    write_aside(beside, json.dumps(told, indent=1))


def _of(reducer: Reducer) -> set[str]:
    """Outputs that a reducer cannot do without, as far as it says so."""
    of = getattr(reducer, "of", ())
    return {of} if isinstance(of, str) else set(of)


def _wanted(reducer: Reducer, block: Block) -> Outputs:
    """What a reducer is given: the outputs it names, or all that are numbers."""
    of, numbers = _of(reducer), _numbers(block)
    given = {name: values for name, values in numbers.items() if name in of or not of}
    return Outputs(given, {name: block.layouts[name].shape for name in given})


def _params(block: Block) -> Arrays:
    return {**block.parameters, "replicate": block.replicates}


def _numbers(block: Block) -> Arrays:
    return {name: values for name, values in block.outputs.items() if block.layouts[name].numeric}


def _by(reducer: Reducer) -> tuple[str, ...]:
    """Parameters by whose values trials are told apart."""
    return reducer.by if isinstance(reducer, Split) else ()


def _able(reducer: Reducer, outputs: Collection[str], parameters: Collection[str]) -> bool:
    """Whether trials that have these have all that a reducer wants."""
    return _of(reducer) <= set(outputs) and set(_by(reducer)) <= set(parameters)


def _known(layout: GroupLayout) -> tuple[Collection[str], Collection[str]]:
    """Outputs that a group records, and parameters that it has."""
    return {array.name for array in layout.arrays if array.numeric}, layout.attributes.get("parameters", ())


def _part(archive: Path, told: Told, part: str) -> Path:
    return archive / "reduced" / told.name / told.identity / f"{part}.npz"


def _digest(told: Told, data: bytes) -> str:
    return hashlib.sha256(told.identity.encode() + data).hexdigest()[:12]


def _bytes(arrays: Arrays) -> bytes:
    data = io.BytesIO()
    # Counts in many cells are mostly zeros.
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]  # its stubs want keywords of another type
    return data.getvalue()


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)
