"""What a search scores the trials of a batch by, from what they recorded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

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
    if plan.search is None:
        return
    known = _columns(archive_layout(plan))
    for name, of in plan.search.objectives:
        field = f"search.objectives.{name}.of"
        try:
            formula = read_formula(of)
        except ValueError as error:
            raise ConfigError(f"{field}: {error}", "a column of the table of trials, such as energy.mean") from None
        for used in formula.names:
            if column_of(used, known) not in known:
                text = f"{field}: {used!r} is no number in the table of trials"
                raise ConfigError(text, near(used, known) or f"there are {', '.join(sorted(known)[:12])}")


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
    layout = _needed(archive_layout(plan), search.objectives)
    table = made(layout, pieces, "trials", Tries())
    known = _columns(archive_layout(plan))
    for place, (_, of) in enumerate(search.objectives):
        formula = read_formula(of)
        columns = {name: table[column_of(name, known)].to_pylist() for name in formula.names}
        for row, lane in enumerate(lanes):
            found[lane, place] = _value(formula, {name: column[row] for name, column in columns.items()})
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
    import pyarrow as pa

    types = pa.types
    return {
        field.name
        for field in layout.trials()
        if types.is_integer(field.type) or types.is_floating(field.type) or types.is_boolean(field.type)
    }


def _needed(layout: ArchiveLayout, objectives: Sequence[tuple[str, str]]) -> ArchiveLayout:
    """The same without summaries that no objective is made of: effective draws take time."""
    known = _columns(layout)
    used = {column_of(name, known) for _, of in objectives for name in read_formula(of).names}
    words = {column.rpartition(".")[2] for column in used}
    return replace(layout, summaries=tuple(word for word in layout.summaries if word in words))
