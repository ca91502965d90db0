"""Looking at an adaptive search, and having it go for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import say
from staffa.cli.words import Debug, Json, RunFolder, Set, app, search_app

# What is heavy is imported by the command that needs it: `staffa --help` has to answer at once.

Otherwise = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OBJECTIVE.WORD=VALUE",
        help="Other objectives, only for this look: bias.target=0.02, bias.of=bias.max; repeatable.",
        show_default=False,
    ),
]


@search_app.command("status")
def search_status(run: RunFolder, set_: Otherwise = None, as_json: Json = False, debug: Debug = False) -> None:
    """Show how far a search is, and the best it has found."""
    from staffa.api.searching import search
    from staffa.views.searched.sheets import status_sheet

    say(search(run, set=set_ or ()).status, status_sheet, as_json)


@search_app.command("top")
def search_top(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, metavar="TRIALS", help="How many.")] = 10,
    set_: Otherwise = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the best trials, best first.

    By score; where objectives are of several groups by front, and within a front those with the most room first.
    """
    from staffa.api.searching import search
    from staffa.views.searched.sheets import table_facts, table_sheet

    found = search(run, set=set_ or ())
    say(table_facts(found, found.top(k)), table_sheet, as_json)


@search_app.command("fronts")
def search_fronts(
    run: RunFolder,
    k: Annotated[int, typer.Option("-k", min=1, metavar="FRONTS", help="How many.")] = 1,
    set_: Otherwise = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the trials than which none is better in all groups of objectives.

    With -k 2 also those that only they surpass, and so on.
    """
    from staffa.api.searching import search
    from staffa.views.searched.sheets import table_facts, table_sheet

    found = search(run, set=set_ or ())
    say(table_facts(found, found.fronts(k)), table_sheet, as_json)


@search_app.command("plot")
def search_plot(
    run: RunFolder,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="course, parameters, fronts; all that fit.", show_default=False),
    ] = None,
    set_: Otherwise = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="png, svg or pdf; a png in qa/ of the run.", show_default=False)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a search: how it went, the score against every parameter, the fronts."""
    from staffa.api.searching import search
    from staffa.views.searched.sheets import plot_sheet

    say(search(run, set=set_ or ()).plot_files(kind or (), to=to), plot_sheet, as_json)


@search_app.command("objectives")
def search_objectives(
    run: RunFolder,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OBJECTIVE.WORD=VALUE",
            help="From now on: bias.target=0.02, bias.target=null; repeatable.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a search is after; with --set have it go for something else.

    Every trial is scored anew and none runs again. By the live driver, or at once. `staffa search top --set` shows
    what that would be.
    """
    from staffa.api.searching import patched, search
    from staffa.views.searched.sheets import objectives_facts, objectives_sheet

    found, patch = search(run), patched(set_ or ())
    say(objectives_facts(found.change(patch) if patch else found), objectives_sheet, as_json)


@app.command()
def serve(
    campaign: Annotated[
        Path, typer.Argument(metavar="CAMPAIGN", help="The campaign's file, or the folder of a planned one.")
    ],
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine only with TLS.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Its port, or the next free one; 0 for any.", show_default=False)
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Make a certificate in secrets/, and answer by TLS.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="A certificate of your own (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="… and its key.")] = None,
    lease: Annotated[
        str, typer.Option(metavar="TIME", help="How long a trial is its worker's without a heartbeat.")
    ] = "300s",
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Serve a search over HTTP, to programs that do its trials, or to whoever looks at it."""
    from staffa import api
    from staffa.campaign.quantities import duration

    declared = campaign if campaign.is_dir() else api.load(campaign, set=set_ or ())
    seconds = duration(lease)
    api.serve(declared, host=host, port=port, tls=tls, certificate=certificate, key=key, lease=seconds)
