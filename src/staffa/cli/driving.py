"""Driving a campaign, and asking whoever drives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import FLAGGED, OK, progress_of, say, say_ended, say_reply, tell
from staffa.cli.words import (
    Accept,
    Budget,
    CampaignFile,
    Cluster,
    Debug,
    Detach,
    Dirty,
    Insecure,
    Json,
    Profile,
    RunFolder,
    Set,
    Tag,
    TagSuffix,
    Workflow,
    app,
    cluster_app,
)
from staffa.errors import StaffaError

# What is heavy is imported by the command that needs it: `staffa --help` has to answer at once.


@app.command()
def run(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    allow_dirty: Dirty = False,
    tag: Tag = False,
    tag_suffix: TagSuffix = None,
    accept_code_change: Accept = False,
    detach: Detach = False,
    insecure: Insecure = False,
    budget: Budget = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a campaign, or resume it where it stands."""
    from staffa import api

    declared = api.load(
        campaign,
        cluster=cluster,
        profile=profile,
        workflow=workflow,
        set=[*(set_ or ()), *insecurely(insecure), *tagging(tag, tag_suffix), *within(budget)],
    )
    say_ended(
        declared.root,
        as_json,
        lambda: api.run(
            declared,
            allow_dirty=allow_dirty,
            accept_code_change=accept_code_change,
            detach=detach,
            progress=progress_of(as_json),
        ),
    )


@app.command()
def resume(
    run: RunFolder,
    set_: Set = None,
    cluster: Cluster = None,
    accept_code_change: Accept = False,
    detach: Detach = False,
    insecure: Insecure = False,
    budget: Budget = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on after anything died: only what is missing runs."""
    from staffa import api

    say_ended(
        run,
        as_json,
        lambda: api.resume(
            run,
            cluster=cluster,
            set=[*(set_ or ()), *insecurely(insecure), *within(budget)],
            accept_code_change=accept_code_change,
            detach=detach,
            progress=progress_of(as_json),
        ),
    )


@app.command(hidden=True)
def drive(
    run: RunFolder,
    set_: Set = None,
    cluster: Cluster = None,
    accept_code_change: Accept = False,
    debug: Debug = False,
) -> None:
    """Drive a campaign from a SLURM job: what --detach hands in."""
    from staffa import api

    say_ended(
        run, False, lambda: api.drive(run, cluster=cluster, set=set_ or (), accept_code_change=accept_code_change)
    )


@app.command()
def stop(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Let what is in flight commit, then end the driver."""
    from staffa import api

    say_reply(api.stop(run), "stopping: batches in flight are committed first", run, as_json)


@app.command()
def scale(
    run: RunFolder,
    pools: Annotated[list[str], typer.Argument(metavar="POOL=WORKERS...", help="Such as gpu=16; 0 lets go of all.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have more or fewer workers from now on.

    Busy ones finish their batches first.
    """
    from staffa import api

    reply = api.scale(run, pools)
    wanted = ", ".join(f"{name}={workers}" for name, workers in (reply.get("workers") or {}).items())
    say_reply(reply, f"workers wanted: {wanted}", run, as_json)


@app.command()
def consolidate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The campaigns' folders.", show_default=False)],
    prune: Annotated[
        bool, typer.Option("--prune", help="Then remove hot data of which every row stands in the archive.")
    ] = False,
    cluster: Cluster = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Seal every ripe part of the archive.

    Also while a campaign runs: its driver is asked to do it. Of several campaigns, one that cannot be does not keep
    the others waiting.
    """
    from staffa import api
    from staffa.views import sheets

    failed: StaffaError | None = None
    for run in runs:
        try:
            reply = api.consolidate(run, prune=prune, cluster=cluster, set=set_ or ())
            if as_json or not reply.get("done") or "figures" not in reply:
                say_reply(reply, "asked the driver to seal every ripe part", run, as_json)
            else:
                say(reply, sheets.status_sheet, as_json)
        except StaffaError as error:
            if len(runs) == 1:
                raise
            tell(f"{run}: {error}")
            failed = error
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command()
def schedule(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The campaigns' folders.", show_default=False)],
    every: Annotated[str, typer.Option(metavar="TIME", help="15m, 6h, 1d, or the five fields of a crontab.")] = "6h",
    scrontab: Annotated[bool, typer.Option("--scrontab", help="For SLURM's scrontab instead of cron.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove hot data of which every row stands in the archive.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the crontab line that consolidates campaigns again and again, and check it.

    Exit code 1 where it would not work here.
    """
    from staffa import api
    from staffa.views.shelf import schedule_sheet

    facts = api.schedule(runs, every, scrontab=scrontab, prune=prune)
    say(facts, schedule_sheet, as_json)
    raise typer.Exit(OK if facts["sound"] else FLAGGED)


@cluster_app.command("reap")
def cluster_reap(
    run: Annotated[
        Path | None, typer.Argument(help="Only this campaign; its folder may be gone.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Cancel the jobs of campaigns that nobody drives."""
    from staffa import api
    from staffa.views import checks

    say(api.reap(run, dry_run=dry_run), checks.reap_sheet, as_json)


def insecurely(insecure: bool) -> list[str]:
    return ["cluster.insecure=true"] * insecure


def tagging(wanted: bool, suffix: str | None) -> list[str]:
    if suffix is not None:
        return [f"campaign.tag={json.dumps(suffix)}"]
    return ["campaign.tag=true"] * wanted


def within(budget: list[str] | None) -> list[str]:
    return [f"execution.budget.{word}" for word in budget or ()]
