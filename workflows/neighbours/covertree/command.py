"""`staffa neighbours RUN --of TRIAL`: which archived trials are nearest to one, by parameters or by what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from staffa.errors import ConfigError, near

if TYPE_CHECKING:
    import pandas

FIXED = frozenset({"trial", "replicate", "sampler", "outcome", "seconds", "attempts", "node"})
"""Columns of the table of trials that say nothing about what was computed."""
SPACES = ("parameters", "summary")
TRUSTED = ("count", "min", "max", "ess", "ess_tail", "rhat", "mcse", "mcse_sd")
"""Summaries that only count where they are named: of a distribution its mean and spread say most."""


@dataclass(frozen=True)
class Space:
    """Trials as points.

    Arguments:
    - `trials`: digests; `points`: (trials, coordinates), each column of the table in units of its standard deviation.
    - `columns`: which columns of the table count; `left_out`: how many trials lack one of them.
    """

    trials: list[str]
    points: np.ndarray
    columns: list[str]
    left_out: int


def neighbours(
    run: Annotated[Path, typer.Argument(help="The campaign's folder, such as runs/v1.0_protein.", show_default=False)],
    of: Annotated[str, typer.Option(metavar="TRIAL", help="Its index, or the beginning of its digest.")],
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    by: Annotated[str, typer.Option(help="parameters, or summary: what the trials found.")] = "parameters",
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this column; repeatable.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Find the archived trials that are nearest to one, by a cover tree.

    Columns are scaled to a standard deviation of 1; words are as far apart as two standard deviations.
    """
    facts = found(run, of, k, by, column)
    if as_json:
        sys.stdout.write(json.dumps(facts, default=str) + "\n")
        return
    from staffa.views.sheet import Grid, Sheet, show

    columns = ["trial", "distance", *facts["columns"]]
    rows = [
        [one["trial"][:12], f"{one['distance']:.4g}", *_shown(one, facts["columns"])] for one in facts["neighbours"]
    ]
    notes = [f"{facts['left_out']} trials lack one of these columns and were left out"] if facts["left_out"] else []
    title = f"nearest to {facts['of']['trial'][:12]} by {facts['by']}, of {facts['trials']} archived trials"
    show(Sheet(title, {}, Grid(columns, rows, frozenset(columns[1:])), notes))


def found(run: Path, of: str, k: int, by: str = "parameters", only: Sequence[str] | None = None) -> dict[str, Any]:
    """What the command answers: `of` and `neighbours` (each `trial`, `distance` and the columns), `columns`, …

    Raises `ConfigError` for a space, a column or a number of neighbours that is not there.
    """
    import staffa

    from .tree import build

    if by not in SPACES:
        raise ConfigError(f"--by {by}: there is no such space", near(by, SPACES))
    results = staffa.attach(run).results
    asked = results.trial(of).trial
    table = results.trials.to_pandas().set_index("trial")
    if asked not in table.index:
        raise ConfigError(f"--of {of}: trial {asked[:12]} has no data in {run}", f"staffa explain {run} {of}")
    parameters = [name for name in results.params if name != "replicate"]
    space = space_of(table, asked, _columns(table, parameters, by, only))
    if not 1 <= k < len(space.trials):
        raise ConfigError(f"-k {k}: beside trial {asked[:12]} there are {len(space.trials) - 1} that can be compared")
    place = space.trials.index(asked)
    # One more than wanted, for the trial finds itself; of twins it may be another one's turn first.
    numbers, distances = build(space.points).knn(space.points[[place]], k + 1)
    kept = [(n, d) for n, d in zip(numbers[0].tolist(), distances[0].tolist(), strict=True) if n != place][:k]
    rows = [_row(table, space, number, distance) for number, distance in kept]
    return {
        "by": by,
        "of": _row(table, space, place, 0.0),
        "neighbours": rows,
        "columns": space.columns,
        "trials": len(space.trials),
        "left_out": space.left_out,
    }


def space_of(table: pandas.DataFrame, asked: str, columns: Sequence[str]) -> Space:
    """Trials as points, by those columns in which they differ and the one asked for has a value."""
    import pandas

    there = [name for name in columns if pandas.notna(table.at[asked, name])]
    whole = table[there].dropna()
    varied = [name for name in there if whole[name].nunique() > 1]
    if not varied:
        raise ConfigError(f"trial {asked[:12]}: none of its columns ({len(columns)}) tells the trials apart")
    parts = [_coordinates(whole[name]) for name in varied]
    return Space([str(trial) for trial in whole.index], np.column_stack(parts), varied, len(table) - len(whole))


def _columns(table: pandas.DataFrame, parameters: Sequence[str], by: str, only: Sequence[str] | None) -> list[str]:
    import pandas.api.types as types

    if by == "parameters":
        known = default = [name for name in table.columns if name in parameters]
    else:
        others = [name for name in table.columns if name not in FIXED and name not in parameters]
        known = [name for name in others if types.is_numeric_dtype(table[name])]
        default = [name for name in known if name.rpartition(".")[2] not in TRUSTED]
    for name in only or ():
        if name not in known:
            raise ConfigError(f"--column {name}: none of the {by}", near(name, known))
    return [name for name in known if name in only] if only else default


def _coordinates(column: pandas.Series[Any]) -> np.ndarray:
    """A column as coordinates: numbers in standard deviations, words as corners of a simplex of side 2."""
    import pandas.api.types as types

    if types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64)
        values = np.where(np.isfinite(values), values, np.sign(values) * 1e100)
        return np.asarray((values - values.mean()) / values.std())[:, None]
    words, codes = np.unique(column.astype(str).to_numpy(), return_inverse=True)
    return np.eye(len(words))[codes] * np.sqrt(2)


def _row(table: pandas.DataFrame, space: Space, number: int, distance: float) -> dict[str, Any]:
    trial = space.trials[number]
    values = {name: table.at[trial, name] for name in space.columns}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {"trial": trial, "distance": distance, **plain}


def _shown(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    return [f"{row[name]:.6g}" if isinstance(row[name], float) else str(row[name]) for name in columns]
