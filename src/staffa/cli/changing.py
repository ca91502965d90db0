"""Changing what a campaign is to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import FLAGGED, INFRASTRUCTURE, OK, say, say_reply, tell
from staffa.cli.words import (
    Accept,
    Cluster,
    Debug,
    DryRun,
    GrownFile,
    Json,
    Profile,
    Replicates,
    RunFolder,
    Set,
    Trials,
    Where,
    app,
)
from staffa.errors import ConfigError

# What is heavy is imported by the command that needs it: `staffa --help` has to answer at once.


@app.command()
def expand(
    run: RunFolder,
    campaign: GrownFile = None,
    set_: Set = None,
    replicates: Replicates = None,
    cluster: Cluster = None,
    profile: Profile = None,
    readmit: Annotated[bool, typer.Option("--readmit", help="Bring back all that was dropped, too.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a campaign grow: more values, axes, replicates.

    Trials that stand are left alone, whatever the order of values. Also while the campaign runs.
    `--set space[0].grid.scale='[1, 2, 3]'` reaches into the space.
    """
    from staffa import api
    from staffa.views.growth import growth_sheet

    facts = api.expand(
        run,
        campaign,
        replicates=replicates,
        set=set_ or (),
        cluster=cluster,
        profile=profile,
        readmit=readmit,
        dry_run=dry_run,
    )
    say(facts, growth_sheet, as_json)
    raise typer.Exit(OK if facts["done"] else INFRASTRUCTURE)


@app.command()
def shrink(
    run: RunFolder,
    campaign: GrownFile = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Over the parameters: temperature > 5.", show_default=False)
    ] = None,
    set_: Set = None,
    replicates: Replicates = None,
    cluster: Cluster = None,
    profile: Profile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop trials that were not issued yet.

    Those a condition names, or those outside of a smaller space. `expand` brings them back.
    """
    from staffa import api
    from staffa.views.growth import growth_sheet

    facts = api.shrink(
        run,
        campaign,
        where=where,
        replicates=replicates,
        set=set_ or (),
        cluster=cluster,
        profile=profile,
        dry_run=dry_run,
    )
    say(facts, growth_sheet, as_json)
    raise typer.Exit(OK if facts["done"] else INFRASTRUCTURE)


@app.command()
def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="The campaigns' folders.", show_default=False)
    ],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="The new campaign's folder.", show_default=False)],
    accept: Accept = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make one campaign of several; they stay as they are.

    The same parameters and types are required; what differs and was not explored is explored then.
    A trial of the same name, seed and code stands once, of another seed it becomes a further replicate.
    """
    from staffa import api
    from staffa.views.growth import merged_sheet

    facts = api.merge(*runs, into=into, accept_code_change=accept, dry_run=dry_run, tell=tell)
    say(facts, merged_sheet, as_json)


@app.command()
def reconcile(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Look again for the files trials need; admit those whose files came."""
    from staffa import api
    from staffa.views.growth import growth_sheet

    facts = api.reconcile(run)
    say(facts, growth_sheet, as_json)
    raise typer.Exit(OK if facts["done"] else INFRASTRUCTURE)


@app.command()
def retry(
    run: RunFolder,
    trials: Trials = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed or were given up: the default.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only those that were given up.")] = False,
    where: Where = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try failed, quarantined or cancelled trials again.

    By the live driver, or at the next resume. Their tries are counted anew.
    """
    from staffa import api
    from staffa.views.readings import number

    if sum((failed, quarantined, where is not None, bool(trials))) > 1:
        raise ConfigError("trials, --failed, --quarantined and --where say the same thing twice", "say one of them")
    reply = api.retry(run, trials or None, where=where, quarantined=quarantined)
    say_reply(reply, f"{number(reply.get('trials', 0), 'trial')} will be tried again", run, as_json)


@app.command()
def cancel(
    run: RunFolder,
    trials: Trials = None,
    where: Where = None,
    everything: Annotated[bool, typer.Option("--all", help="All that have no data yet.")] = False,
    why: Annotated[str, typer.Option(metavar="TEXT", help="Kept, and told by explain.", show_default=False)] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have trials not run, or not finished.

    What has data keeps it. `staffa retry` brings the others back.
    """
    from staffa import api
    from staffa.views.readings import number

    if sum((everything, where is not None, bool(trials))) != 1:
        raise ConfigError("which trials?", 'name them, or say --where "temperature > 5", or --all')
    reply = api.cancel(run, trials or None, where=where, why=why)
    flying = f", {reply['flying']} of them in flight: their results are not kept" if reply.get("flying") else ""
    kept = f"; {number(reply['kept'], 'trial')} of those named has data and keeps it" if reply.get("kept") else ""
    say_reply(reply, f"cancelled {number(reply.get('trials', 0), 'trial')}{flying}{kept}", run, as_json)


@app.command()
def verify(
    run: RunFolder,
    everything: Annotated[bool, typer.Option("--all", help="Read everything, not a sample.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read back what was written, and compare checksums.

    Damaged batches are done again: by the live driver, or at the next resume. Exit code 1 where something is.
    """
    from staffa import api
    from staffa.views.verified import verified_sheet

    facts = api.verify(run, every=everything)
    say(facts, verified_sheet, as_json)
    raise typer.Exit(OK if facts["sound"] else FLAGGED)
