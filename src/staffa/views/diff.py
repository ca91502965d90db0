"""What differs between two campaigns: declared, planned, running or finished.

A side is a campaign's folder, or a campaign file that was never run; then only what is declared can
be compared. Where a campaign lies (`storage.root`) tells the two apart and is no difference.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.campaign.config import ABSENT, Declaration, load_frozen, plain
from staffa.campaign.frozen import recorded
from staffa.campaign.identity import run_hash, seed_channels
from staffa.campaign.layers import DEFAULT, Origin
from staffa.campaign.plan import Plan
from staffa.errors import WorkspaceError
from staffa.experiment.protocol import SUMMARIES
from staffa.storage.files import read_json
from staffa.storage.hot import HotStore
from staffa.storage.provenance import changed_files, gather, known_backends
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome, canonical
from staffa.views.readings import number
from staffa.views.sheet import Grid, Sheet, one_line
from staffa.views.stored import stored_plan

TOLERANCE = 1e-6
"""Summaries may differ by so much, relative to their size or to 1, and still agree."""
LINES, ALL_LINES = 80, 400
"""Lines of code shown of a file, and of all files."""
EXAMPLES = 5
OWN = ("storage.root",)
"""Values that say where a campaign lies."""

Facts = Mapping[str, Any]
Row = npt.NDArray[Any]


@dataclass(frozen=True)
class Side:
    """One of the two campaigns.

    Arguments:
    - `name`: as the user gave it.
    - `origins`: where each value was written, by dotted path; of what is frozen, as it was said then.
    - `code`: where its code lies; `provenance`: what `metadata/provenance.json` holds, or would.
    - `trials`: the list of its trials: `trial`, and parameters where they are known.
    - `workspace`, `plan`: of one that is planned; None of one that is only declared.
    """

    name: str
    declaration: Declaration
    origins: Mapping[str, Origin]
    code: Path
    provenance: Facts
    run_hash: str
    trials: pa.Table
    workspace: Workspace | None = None
    plan: Plan | None = None


def stored_side(name: str, workspace: Workspace) -> Side:
    """A campaign that is planned, running or finished."""
    declaration = load_frozen(workspace.frozen, directory=workspace.code)
    facts = read_json(workspace.provenance)
    if not isinstance(facts, dict):
        raise WorkspaceError(f"'{workspace.provenance}' cannot be read", "restore it from a copy")
    plan = stored_plan(workspace)
    origins = recorded(workspace.frozen.read_text())
    trials = read_rosters(workspace.rosters).combine_chunks()
    named = run_hash(declaration, plan.code)
    return Side(name, declaration, origins, workspace.code, facts, named, trials, workspace, plan)


def declared_side(name: str, declaration: Declaration, plan: Plan, digests: Row, columns: Mapping[str, Row]) -> Side:
    """A campaign that is only declared.

    Arguments:
    - `plan`: what it unfolds to.
    - `digests`: the names of its trials, as text; `columns`: their parameters.
    """
    names = pa.array([text.decode() for text in digests.tolist()], pa.string())
    trials = pa.table({"trial": names, **{column: pa.array(values) for column, values in columns.items()}})
    folder = declaration.directory
    return Side(
        name, declaration, declaration.origins, folder, gather(folder), run_hash(declaration, plan.code), trials
    )


def diff_facts(a: Side, b: Side) -> dict[str, Any]:
    """All that differs, section by section; `differs` names the sections that are not the same."""
    sections: dict[str, Any] = {
        "values": _values(a, b),
        "seeds": _pairs(seed_channels(a.declaration), seed_channels(b.declaration)),
        "code": _code(a, b),
        "packages": _pairs(_packages(a.provenance), _packages(b.provenance)),
        "machine": _pairs(a.provenance.get("machine") or {}, b.provenance.get("machine") or {}),
        "git": _pairs(a.provenance.get("git") or {}, b.provenance.get("git") or {}),
        "backends": [],
        "trials": _trials(a, b),
        "outcomes": None,
        "summaries": None,
    }
    if a.workspace is not None and b.workspace is not None:
        sections["backends"] = _pairs(_backends(a.workspace), _backends(b.workspace))
        common = _common(a, b)
        sections["outcomes"] = _outcomes(a, b, common)
        sections["summaries"] = _summaries(a.workspace, b.workspace, common)
    differs = [name for name, found in sections.items() if _is_difference(name, found)]
    sides = {"a": _side_facts(a), "b": _side_facts(b)}
    return {**sides, "same": not differs, "differs": differs, "tolerance": TOLERANCE, **sections}


def _side_facts(side: Side) -> dict[str, Any]:
    trials, planned = side.trials.num_rows, side.plan is not None
    return {"name": side.name, "run_hash": side.run_hash, "trials": trials, "planned": planned}


def _is_difference(name: str, found: Any) -> bool:
    if name == "trials":
        return bool(found["only_a"] or found["only_b"])
    if name == "outcomes":
        return bool(found and found["changed"])
    if name == "summaries":
        return bool(found and any(column["beyond"] for column in found["columns"]))
    return bool(found)


# --- values, code, provenance ------------------------------------------------------------------------


def _values(a: Side, b: Side) -> list[dict[str, Any]]:
    """Values that differ, by dotted path (`space[0].grid.scale`), each with where it comes from."""
    one, two = (dict(_leaves(plain(side.declaration), "")) for side in (a, b))
    paths = [path for path in sorted(one.keys() | two.keys()) if path not in OWN]
    rows = [(path, one.get(path, ABSENT), two.get(path, ABSENT)) for path in paths]
    return [
        {"field": path, "a": here, "from_a": _from(a, path), "b": there, "from_b": _from(b, path)}
        for path, here, there in rows
        if canonical(here) != canonical(there)
    ]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Scalars and plain lists; lists of mappings are gone into, and an empty mapping says nothing."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path, value


def _from(side: Side, path: str) -> str:
    """The tier a value comes from, and its place; of an item, that of the closest list around it."""
    ends = [len(path), *sorted((match.start() for match in re.finditer(r"[.\[]", path)), reverse=True)]
    origin = next((side.origins[path[:end]] for end in ends if path[:end] in side.origins), DEFAULT)
    return origin.tier if origin.file is None else f"{origin.tier} {origin}"


def _code(a: Side, b: Side) -> list[dict[str, Any]]:
    """Files of the workflow that differ, the beginning of each difference shown."""
    told = {Path(origin.file).name for side in (a, b) for origin in side.origins.values() if origin.file}
    found, left = [], ALL_LINES
    for name in changed_files(a.code, b.code):
        # What YAML files declare is compared value by value.
        if name.endswith((".yaml", ".yml")) and Path(name).name in told:
            continue
        lines = _unified(a, b, name)
        shown = lines[: min(LINES, left)]
        left -= len(shown)
        found.append({"file": name, "change": _change(a, b, name), "lines": shown, "hidden": len(lines) - len(shown)})
    return found


def _change(a: Side, b: Side, name: str) -> str:
    if not (a.code / name).exists():
        return "only in b"
    return "differs" if (b.code / name).exists() else "only in a"


def _unified(a: Side, b: Side, name: str) -> list[str]:
    try:
        one, two = (_text(side.code / name).splitlines() for side in (a, b))
    except UnicodeDecodeError:
        return ["(not text)"]
    return list(difflib.unified_diff(one, two, f"a/{name}", f"b/{name}", lineterm=""))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _packages(provenance: Facts) -> dict[str, Any]:
    return {"python": provenance.get("python"), **(provenance.get("packages") or {})}


def _backends(workspace: Workspace) -> dict[str, str]:
    """What the workers computed with: device, processor, flags, versions."""
    found: dict[str, set[str]] = {}
    for facts in known_backends(workspace.metadata).values():
        for name, text in facts.items():
            found.setdefault(name, set()).add(text)
    return {name: " | ".join(sorted(texts)) for name, texts in found.items()}


def _pairs(one: Facts, two: Facts) -> list[dict[str, Any]]:
    names = sorted(one.keys() | two.keys())
    return [{"name": n, "a": one.get(n), "b": two.get(n)} for n in names if one.get(n) != two.get(n)]


# --- trials --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Common:
    """Trials both sides have: their names, and their rows in each side's list."""

    trials: pa.Array
    in_a: Row
    in_b: Row


def _common(a: Side, b: Side) -> Common:
    one, two = (side.trials["trial"].combine_chunks() for side in (a, b))
    there = pc.index_in(one, two)
    here = pc.indices_nonzero(pc.is_valid(there))
    return Common(one.take(here), here.to_numpy(), there.take(here).to_numpy())


def _trials(a: Side, b: Side) -> dict[str, Any]:
    only_a, only_b = _only(a, b), _only(b, a)
    return {
        "both": a.trials.num_rows - only_a.num_rows,
        "only_a": only_a.num_rows,
        "only_b": only_b.num_rows,
        "examples_a": _examples(only_a),
        "examples_b": _examples(only_b),
    }


def _only(one: Side, other: Side) -> pa.Table:
    return one.trials.filter(pc.invert(pc.is_in(one.trials["trial"], other.trials["trial"].combine_chunks())))


def _examples(trials: pa.Table) -> list[dict[str, Any]]:
    """A few trials, with their parameters."""
    kept = [name for name in trials.column_names if name not in ("index", "group", "row")]
    rows = trials.select(kept).slice(0, EXAMPLES).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _outcomes(a: Side, b: Side, common: Common) -> dict[str, Any]:
    """How the trials that both have ended, where they ended otherwise."""
    one, two = outcome_codes(a)[common.in_a], outcome_codes(b)[common.in_b]
    apart = np.flatnonzero(one != two)
    pairs = Counter(zip(one[apart].tolist(), two[apart].tolist(), strict=True))
    changed = [{"a": _word(here), "b": _word(there), "trials": n} for (here, there), n in pairs.most_common()]
    names = common.trials.take(pa.array(apart[:EXAMPLES])).to_pylist()
    words = [(_word(one[place]), _word(two[place])) for place in apart[:EXAMPLES]]
    examples = [{"trial": trial, "a": here, "b": there} for trial, (here, there) in zip(names, words, strict=True)]
    return {"compared": len(one), "changed": changed, "examples": examples}


def outcome_codes(side: Side) -> Row:
    """(trials,): how each trial of a side ended, in the order of its list; 0 where it did not yet."""
    workspace, plan, trials = side.workspace, side.plan, side.trials
    assert workspace is not None and plan is not None
    codes = np.zeros(trials.num_rows, np.uint8)
    group, row = trials["group"].to_numpy(), trials["row"].to_numpy()
    for place, own in enumerate(plan.groups):
        members = np.flatnonzero(group == place)
        try:
            store = HotStore.open(workspace.group(own.generation, own.name))
        except WorkspaceError:  # pruned
            continue
        codes[members] = store.status()[row[members]]
    if not codes.all():
        _archived_outcomes(workspace, trials["trial"].combine_chunks(), codes)
    return codes


def _archived_outcomes(workspace: Workspace, names: pa.Array, codes: Row) -> None:
    """Fill in what the hot stores do not know any more."""
    numbers = {outcome.word: int(outcome) for outcome in Outcome}
    for path in (workspace.trials_archive, workspace.failed):
        if path.exists():
            table = pq.read_table(path, columns=["trial", "outcome"])
            places = pc.index_in(table["trial"].combine_chunks(), names)
            known = np.flatnonzero(places.is_valid())
            rows = places.take(pa.array(known)).to_numpy()
            words = np.array([numbers[word] for word in table["outcome"].take(pa.array(known)).to_pylist()], np.uint8)
            codes[rows] = np.where(codes[rows] == Outcome.MISSING, words, codes[rows])


def _word(code: int) -> str:
    return Outcome(int(code)).word


# --- results -----------------------------------------------------------------------------------------


def _summaries(a: Workspace, b: Workspace, common: Common) -> dict[str, Any] | None:
    """Whether the summaries of common trials agree, where both archives have them."""
    if not (_has_parts(a) and _has_parts(b)):
        return None
    columns = _summary_columns(a) & _summary_columns(b)
    one, two = (pq.read_table(w.trials_archive, columns=["trial", *sorted(columns)]) for w in (a, b))
    names = one["trial"].combine_chunks()
    there = pc.index_in(names, two["trial"].combine_chunks())
    here = pc.indices_nonzero(pc.and_(pc.is_valid(there), pc.is_in(names, common.trials)))
    one, two = one.take(here), two.take(there.take(here))
    one, two = one.combine_chunks(), two.combine_chunks()
    rows = [_column(name, one[name].chunk(0), two[name].chunk(0), one["trial"]) for name in sorted(columns)]
    return {"compared": one.num_rows, "columns": rows if one.num_rows else []}


def _has_parts(workspace: Workspace) -> bool:
    return next(iter(workspace.trials_archive.glob("*.parquet")), None) is not None


def _summary_columns(workspace: Workspace) -> set[str]:
    schema = pq.read_schema(next(iter(workspace.trials_archive.glob("*.parquet"))))
    return {name for name in schema.names if name.endswith(tuple(f".{word}" for word in SUMMARIES))}


def _column(name: str, one: pa.Array, two: pa.Array, trials: pa.ChunkedArray) -> dict[str, Any]:
    """One summary of all trials: how many are equal, how many differ by more than the tolerance, the worst."""
    (first, rows), (second, others) = _flat(one), _flat(two)
    if not np.array_equal(rows, others):
        return {"column": name, "equal": 0, "beyond": len(one), "largest": None, "trial": None}
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second)
        apart[(first == second) | (np.isnan(first) & np.isnan(second))] = 0.0
        apart[np.isnan(apart)] = np.inf
        size = np.nan_to_num(np.maximum(np.abs(first), np.abs(second)), nan=1.0, posinf=1.0)
    beyond = apart > TOLERANCE * np.maximum(1.0, size)
    worst = int(np.argmax(apart)) if apart.size and apart.any() else None
    return {
        "column": name,
        "equal": len(one) - len(np.unique(rows[apart > 0])),
        "beyond": len(np.unique(rows[beyond])),
        "largest": float(apart[worst]) if worst is not None else 0.0,
        "trial": trials[int(rows[worst])].as_py() if worst is not None else None,
    }


def _flat(column: pa.Array) -> tuple[Row, Row]:
    """All numbers of a column, and the row of each; a null has none."""
    if pa.types.is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values, rows = column.flatten(), np.repeat(np.arange(len(column)), lengths)
    else:
        values, rows = column.drop_null(), np.flatnonzero(column.is_valid())
    return values.to_numpy(zero_copy_only=False).astype(np.float64), rows


# --- the page ------------------------------------------------------------------------------------------

CELL = 48


def diff_sheet(facts: Facts) -> Sheet:
    """The differences on a page: facts and values first, then the rest line by line."""
    a, b = facts["a"], facts["b"]
    title = "no difference" if facts["same"] else f"differ in: {', '.join(facts['differs'])}"
    lines = {
        "a": f"{a['name']} ({number(a['trials'], 'trial')}, run {a['run_hash']})",
        "b": f"{b['name']} ({number(b['trials'], 'trial')}, run {b['run_hash']})",
        "trials": _trials_line(facts["trials"]),
        **_outcome_lines(facts["outcomes"]),
        **_summary_lines(facts["summaries"]),
    }
    rows = [(row["field"], _cell(row["a"]), row["from_a"], _cell(row["b"]), row["from_b"]) for row in facts["values"]]
    for section in ("seeds", "packages", "machine", "git", "backends"):
        rows += [(f"{section}: {row['name']}", _cell(row["a"]), "", _cell(row["b"]), "") for row in facts[section]]
    grid = Grid(("field", "a", "from", "b", "from "), rows) if rows else None
    return Sheet(title, lines, grid, list(_notes(facts)))


def _trials_line(trials: Facts) -> str:
    return f"{trials['both']:,} in both, {trials['only_a']:,} only in a, {trials['only_b']:,} only in b"


def _outcome_lines(outcomes: Facts | None) -> dict[str, str]:
    if outcomes is None or not outcomes["compared"]:
        return {}
    changed = ", ".join(f"{row['a']} became {row['b']}: {row['trials']:,}" for row in outcomes["changed"])
    return {"outcomes": changed or f"the same for all {outcomes['compared']:,} common trials"}


def _summary_lines(summaries: Facts | None) -> dict[str, str]:
    if summaries is None or not summaries["compared"]:
        return {}
    compared = number(summaries["compared"], "trial")
    apart = [column for column in summaries["columns"] if column["largest"] != 0.0]
    if not apart:
        return {"results": f"all summaries of {compared} are equal"}
    worst = max(apart, key=lambda column: (column["beyond"], column["largest"] or 0.0))
    far = f"{worst['largest']:.3g} apart at most" if worst["largest"] is not None else "of another shape"
    agree = "agree within the tolerance" if not worst["beyond"] else f"{number(worst['beyond'], 'trial')} beyond it"
    return {"results": f"{compared} compared; {worst['column']}: {far}, {agree}"}


def _notes(facts: Facts) -> Iterator[str]:
    for word in ("a", "b"):
        yield from (f"only in {word}: {_point(row)}" for row in facts["trials"][f"examples_{word}"])
    for row in (facts["outcomes"] or {}).get("examples", ()):
        yield f"{row['trial'][:12]}: {row['a']} in a, {row['b']} in b"
    for file in facts["code"]:
        yield f"{file['file']}: {file['change']}"
        yield from file["lines"]
        if file["hidden"]:
            yield f"… and {number(file['hidden'], 'more line')}"


def _point(row: Facts) -> str:
    values = ", ".join(f"{name}={_cell(value)}" for name, value in row.items() if name != "trial")
    return f"{row['trial'][:12]} {values}".strip()


def _cell(value: Any) -> str:
    return one_line("" if value is None else str(value), CELL)
