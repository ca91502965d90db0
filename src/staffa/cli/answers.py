"""What commands answer: a sheet for people, JSON for programs, and the exit code."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from staffa.errors import ClusterError

if TYPE_CHECKING:
    from staffa.api import Run
    from staffa.views.sheet import Sheet

OK, FLAGGED, BAD_INPUT, INFRASTRUCTURE, INTERRUPTED = 0, 1, 2, 3, 130

Facts = TypeVar("Facts")


def say(facts: Facts, sheet: Callable[[Facts], Sheet], as_json: bool) -> None:
    from staffa.views import sheets
    from staffa.views.sheet import show

    if as_json:
        write(sheets.as_json(facts))
    else:
        show(sheet(facts))


def say_reply(reply: dict[str, Any], done: str, run: Path, as_json: bool) -> None:
    """What the driver answered to a request."""
    if as_json:
        write(json.dumps(reply, default=str))
    elif reply.get("done"):
        write(str(reply.get("why") or done))
        write(f"next: {reply.get('next') or f'staffa status {shlex.quote(str(run))}'}")
    if not reply.get("done"):
        raise ClusterError(str(reply.get("why", "the driver refused")), f"staffa status {shlex.quote(str(run))}")


def say_ended(root: Path, as_json: bool, drive: Callable[[], Run]) -> None:
    """Drive a campaign, and say how it ended, where the results are and what comes next."""
    from dataclasses import asdict

    from staffa.views import sheets

    try:
        driven = drive()
    except KeyboardInterrupt:
        raise Interrupted(root) from None
    if driven.ended is None:
        from staffa import api

        say(api.status(driven.root), sheets.status_sheet, as_json)
        return
    code = driven.ended.exit_code
    facts = sheets.ended_facts(driven.root, driven.resumed, asdict(driven.ended), code, driven.status)
    say(facts, sheets.ended_sheet, as_json)
    raise typer.Exit(code)


def progress_of(silent: bool) -> bool | None:
    return False if silent else None


def tell(text: str) -> None:
    sys.stderr.write(f"staffa: {text}\n")


def write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Interrupted(Exception):
    """Ctrl-C twice; the campaign can be resumed."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root
