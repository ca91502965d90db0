"""A page of facts and rows, shown in colour on a terminal and as plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Grid:
    """Rows under headings; columns of numbers are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sheet:
    """What a command has to say, before anyone decided how it looks."""

    title: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    grid: Grid | None = None
    notes: Sequence[str] = ()
    """Lines at the end: what to do next, and what to worry about."""


def show(sheet: Sheet, stream: TextIO | None = None) -> None:
    """Write a sheet to a stream (standard output by default)."""
    out = sys.stdout if stream is None else stream
    if out.isatty():
        _show_rich(sheet, out)
    else:
        out.writelines(f"{line}\n" for line in plain(sheet))
    out.flush()


def plain(sheet: Sheet) -> Iterable[str]:
    """The sheet as lines of text, columns aligned by blanks."""
    if sheet.title:
        yield sheet.title
    wide = max((len(name) for name in sheet.facts), default=0)
    yield from (f"{name.ljust(wide)}  {text}" for name, text in sheet.facts.items())
    if sheet.grid is not None:
        yield from _plain_grid(sheet.grid)
    yield from sheet.notes


def _plain_grid(grid: Grid) -> Iterable[str]:
    rows = [[one_line(text) for text in row] for row in grid.rows]
    widths = [
        max(len(name), *(len(row[place]) for row in rows)) if rows else len(name)
        for place, name in enumerate(grid.columns)
    ]
    for row in [list(grid.columns), *rows]:
        cells = [
            text.rjust(width) if name in grid.right else text.ljust(width)
            for name, text, width in zip(grid.columns, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def one_line(text: str, longest: int = 0) -> str:
    """A text without line breaks, cut where it is longer than `longest` (0: never)."""
    whole = " ".join(text.split("\n")).strip()
    return f"{whole[: longest - 1]}…" if longest and len(whole) > longest else whole


def _show_rich(sheet: Sheet, out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    if sheet.title:
        console.print(Text(sheet.title, style="bold"))
    if sheet.facts:
        facts = Table.grid(padding=(0, 2))
        for name, text in sheet.facts.items():
            facts.add_row(Text(name, style="dim"), Text(text))
        console.print(facts)
    if sheet.grid is not None:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in sheet.grid.columns:
            table.add_column(Text(name), justify="right" if name in sheet.grid.right else "left")
        for row in sheet.grid.rows:
            table.add_row(*(Text(text) for text in row))
        console.print(table)
    for note in sheet.notes:
        console.print(Text(note), soft_wrap=True)
