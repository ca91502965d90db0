"""Every word of the command line with its help, as `staffa WORD --help` has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from staffa.cli import app
from weaving.words import Undocumented, cell


def pages() -> str:
    """One section for each command, in the order of `staffa --help`."""
    group = typer.main.get_command(app)
    return "\n\n".join(_pages(group, "staffa"))


def _pages(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _pages(command, f"{path} {name}")
        else:
            yield _page(command, f"{path} {name}")


def _page(command: Any, path: str) -> str:
    if not command.help:
        raise Undocumented(f"{path} has no help")
    with command.make_context(path, [], resilient_parsing=True) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        rows = [(row, parameter) for parameter in command.params if (row := parameter.get_help_record(context))]
    blank = [parameter.name for (_, text), parameter in rows if not text]
    if blank:
        raise Undocumented(f"{path}: {', '.join(blank)} have no help")
    help = command.help.replace("\b", "").strip()
    return f"## `{path}`\n\n{help}\n\n```text\n{path} {usage}\n```\n\n{_table([row for row, _ in rows])}"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| `{name}` | {cell(text)} |" for name, text in rows if name != "--help"]
    return "\n".join(lines)
