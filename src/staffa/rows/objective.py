"""What a search scores the trials of a batch by, from what they recorded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.campaign.formulas import read_formula
from staffa.campaign.plan import Group, Plan
from staffa.errors import ConfigError, near
from staffa.rows import Piece, Tries, archive_layout, made, with_data, written
from staffa.storage.hot import HotStore
from staffa.storage.tables import ArchiveLayout

Values = npt.NDArray[np.float64]


def check_objectives(plan: Plan) -> None:
    """Refuse objectives that are read from what the table of trials will not have.

    Raises `ConfigError` that begins with the field, with the near names.
    """
    for name, of in plan.search.objectives if plan.search is not None else ():
        check_of(plan, of, f"search.objectives.{name}.of")


def check_of(plan: Plan, of: str, field: str) -> None:
    """Refuse a formula that is no formula, or is made of other than numbers of the table of trials."""
    known = _columns(archive_layout(plan))
    try:
        formula = read_formula(of)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}", "a column of the table of trials, such as energy.mean") from None
    for used in formula.names:
        if column_of(used, known) not in known:
            text = f"{field}: {used!r} is no number in the table of trials"
            raise ConfigError(text, near(used, known) or f"there are {', '.join(sorted(known)[:12])}")


def columns_of(plan: Plan, formulas: Collection[str]) -> list[str]:
    """The columns of the table of trials that some formulas are made of."""
    known = _columns(archive_layout(plan))
    return list(dict.fromkeys(column_of(name, known) for of in formulas for name in read_formula(of).names))


def values_in(plan: Plan, formulas: Sequence[str], table: pa.Table) -> Values:
    """(rows, formulas) what formulas make of rows of the table of trials; NaN where they have no value.

    Arguments:
    - `table`: with `columns_of` these formulas at least.
    """
    known = _columns(archive_layout(plan))
    found = np.full((table.num_rows, len(formulas)), np.nan)
    for place, of in enumerate(formulas):
        formula = read_formula(of)
        columns = {name: table[column_of(name, known)] for name in formula.names}
        if formula.tree[0] == "name":
            column = columns[formula.names[0]].cast(pa.float64(), safe=False).to_numpy()
            found[:, place] = np.where(np.isfinite(column), column, np.nan)
            continue
        rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
        made = [_value(formula, dict(zip(columns, row, strict=True))) for row in rows]
        found[:, place] = made if columns else _value(formula, {})
    return found


def column_of(name: str, known: Collection[str]) -> str:
    """The column of the table of trials that a name means: an output's name alone is its mean."""
    return name if name in known else f"{name}.mean"


def values(plan: Plan, group: Group, store: HotStore, batch: int) -> Values:
    """(batch, objectives) what the committed trials of a batch are scored by; NaN where there is nothing."""
    lanes = with_data(store, group, batch)
    pieces = [written(store, group, batch, segment, lanes) for segment in range(plan.sampling.segments)]
    return _of_pieces(plan, group, pieces, lanes)


def values_so_far(plan: Plan, group: Group, store: HotStore, batch: int, segments: int, lanes: Sequence[int]) -> Values:
    """The same of the first segments of some lanes, of which nothing is committed yet."""
    chosen = np.asarray(lanes, np.int64)
    pieces = [written(store, group, batch, segment, chosen) for segment in range(segments)]
    return _of_pieces(plan, group, pieces, chosen)


def _of_pieces(plan: Plan, group: Group, pieces: Sequence[Piece], lanes: Any) -> Values:
    search = plan.search
    assert search is not None
    found = np.full((group.batch, len(search.objectives)), np.nan)
    if not len(lanes):
        return found
    formulas = [of for _, of in search.objectives]
    layout = _needed(archive_layout(plan), columns_of(plan, formulas))
    found[np.asarray(lanes)] = values_in(plan, formulas, made(layout, pieces, "trials", Tries()))
    return found


def _value(formula: Any, given: Mapping[str, Any]) -> float:
    """What a formula makes of a trial; NaN where it has no value there."""
    if any(value is None for value in given.values()):
        return math.nan
    try:
        return float(formula(given))
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _columns(layout: ArchiveLayout) -> set[str]:
    """Columns of the table of trials that are single numbers."""
    types = pa.types
    return {
        field.name
        for field in layout.trials()
        if types.is_integer(field.type) or types.is_floating(field.type) or types.is_boolean(field.type)
    }


def _needed(layout: ArchiveLayout, columns: Collection[str]) -> ArchiveLayout:
    """The same without summaries that none of these columns is: effective draws take time."""
    words = {column.rpartition(".")[2] for column in columns}
    return replace(layout, summaries=tuple(word for word in layout.summaries if word in words))
