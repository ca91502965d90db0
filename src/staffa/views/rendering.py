"""Tables as text in a format somebody names: Markdown, CSV, JSON, and what plug-ins add (family `renderers`).

A renderer is a function of column names and rows that returns the text; it decides how values look.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from staffa.errors import PluginError, near
from staffa.experiment import plugins

Renderer = Callable[[Sequence[str], Sequence[Sequence[Any]]], str]


def rendered(form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in the format `md`, `csv`, `json`, or that of a plug-in; ends with a line break.

    Raises `PluginError` for a format nobody knows, or a plug-in that fails or returns no text.
    """
    renderer = _OWN.get(form)
    if renderer is None:
        if form not in formats():
            raise PluginError(f"--format {form}: there is no such format", near(form, formats()))
        renderer = plugins.load("renderers", form, f"--format {form}")
    text = _called(renderer, form, columns, rows)
    return text if text.endswith("\n") else f"{text}\n"


def formats() -> list[str]:
    """Names of all formats, Staffa's own first; nothing is imported."""
    return [*_OWN, *(offer.name for offer in plugins.offers("renderers") if offer.name not in _OWN)]


def _called(renderer: Renderer, form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    try:
        text = renderer(tuple(columns), [tuple(row) for row in rows])
    except Exception as error:
        raise PluginError(
            f"--format {form}: its renderer raised {type(error).__name__}: {error}", "staffa plugins list"
        ) from error
    if not isinstance(text, str):
        raise PluginError(f"--format {form}: its renderer returned {type(text).__name__}", "it has to return text")
    return text


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [[*columns], ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *rows])
    return out.getvalue()


def _json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, default=str)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


_OWN: dict[str, Renderer] = {"md": _markdown, "csv": _csv, "json": _json}
