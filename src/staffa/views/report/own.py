"""What a campaign adds to its report: figures and tables of the user's own (`qa.figures`, family `figures`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from staffa.campaign.model import FigureConfig
from staffa.errors import PluginError, StaffaError
from staffa.experiment.registry import caller, explained
from staffa.views.drawing.style import embedded, is_figure
from staffa.views.levels import said
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.results import Results

RETURN = "return a matplotlib figure or a table (a data frame, or columns by name), or a pair of it and its caption"
ROWS = 50
PLAIN: Mapping[str, Any] = {"orient": "list", "as_series": False}
"""How the frames of pandas and of Polars are asked for plain lists."""


def own(results: Results, figures: tuple[FigureConfig, ...]) -> Section | None:
    """The section with what the campaign adds; None where it adds nothing. One that fails is told in its place."""
    if not figures:
        return None
    shown: list[Listing | Exhibit] = []
    findings, facts = list[Finding](), dict[str, Any]()
    for number, config in enumerate(figures):
        try:
            for item, told in _made(results, config, f"qa.figures[{number}]"):
                shown.append(item)
                facts.setdefault(config.use, []).append(told)
        except StaffaError as error:
            findings.append(Finding(Weight.CARE, f"The figure {config.use} could not be made: {error.message}."))
            facts[config.use] = {"error": error.message, "hint": error.hint}
    return Section("own", "The campaign's own figures", findings, (), shown, (), facts)


def _made(results: Results, config: FigureConfig, field: str) -> Iterator[tuple[Listing | Exhibit, dict[str, Any]]]:
    """What one item of `qa.figures` shows, with its numbers.

    Raises `StaffaError` that names the user's line.
    """
    code = results.workspace.code
    call = caller("figures", config.model_dump(mode="json"), code, field)
    try:
        answer = call(results)
    except StaffaError:
        raise
    except Exception as error:
        raise explained(error, code, config.use) from error
    for thing in answer if isinstance(answer, list) else [answer]:
        shown, caption = thing if isinstance(thing, tuple) and len(thing) == 2 else (thing, _title(config.use))
        yield _shown(shown, str(caption), field)


def _title(use: str) -> str:
    return use.rpartition(":")[2].replace("_", " ")


def _shown(thing: Any, caption: str, field: str) -> tuple[Listing | Exhibit, dict[str, Any]]:
    if is_figure(thing):
        return Exhibit(caption, picture=embedded(thing), alt=caption), {"figure": caption}
    columns = _columns(thing)
    if columns is None:
        raise PluginError(f"{field}: {type(thing).__name__} is neither a figure nor a table", RETURN)
    rows = [[said(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    numeric = [name for name, cells in columns.items() if all(isinstance(cell, int | float) for cell in cells)]
    return listing(caption, list(columns), rows, numeric, ROWS), {"table": caption, "columns": columns}


def _columns(thing: Any) -> dict[str, list[Any]] | None:
    """A table of any make as lists by name; None for what is none."""
    for method in ("to_pydict", "to_dict"):  # pyarrow's; then that of pandas and Polars
        make = getattr(thing, method, None)
        if callable(make):
            known = inspect.signature(make).parameters
            thing = make(**{name: value for name, value in PLAIN.items() if name in known})
            break
    if not isinstance(thing, Mapping):
        return None
    cells = {str(name): list(found) for name, found in thing.items()}
    return cells if len({len(found) for found in cells.values()}) == 1 else None
