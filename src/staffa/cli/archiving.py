"""Commands on sealed archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import FLAGGED, OK, say, tell
from staffa.cli.words import Debug, Json, archive_app

Holding = Annotated[
    Path, typer.Argument(metavar="RUN", help="The campaign's folder, or that of an archive or a copy of one.")
]


@archive_app.command("ls")
def archive_ls(run: Holding, as_json: Json = False, debug: Debug = False) -> None:
    """List the sealed parts."""
    from staffa import api
    from staffa.views.shelf import listed_sheet

    say(api.archive_list(run), listed_sheet, as_json)


@archive_app.command("verify")
def archive_verify(
    run: Holding,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes and footers only; files are not read whole.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare every file with the manifest.

    Exit code 1 where one is damaged, missing, strange, or of another campaign.
    """
    from staffa import api
    from staffa.views.shelf import examined_sheet

    facts = api.archive_verify(run, quick=quick)
    say(facts, examined_sheet, as_json)
    raise typer.Exit(OK if facts["sound"] else FLAGGED)


@archive_app.command("copy")
def archive_copy(
    run: Holding,
    to: Annotated[Path, typer.Argument(metavar="DEST", help="A folder, of any file system.", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", help="Go on with each part as it is sealed.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy what is sealed and not there yet, with manifest and checksums.

    Every file is held against its SHA-256 while it is read.
    """
    from staffa import api
    from staffa.views.shelf import copied_sheet

    facts = api.archive_copy(run, to, watch=watch, tell=lambda entry: None if as_json else tell(f"copied {entry.path}"))
    say(facts, copied_sheet, as_json)
