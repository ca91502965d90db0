"""What is declared: planned, validated, explained; profiles, plug-ins, job scripts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import BAD_INPUT, OK, say, tell, write
from staffa.cli.driving import within
from staffa.cli.words import (
    Budget,
    CampaignFile,
    Cluster,
    Debug,
    Json,
    Place,
    Profile,
    Set,
    Workflow,
    app,
    cluster_app,
    config_app,
    plugins_app,
    profile_app,
)

# What is heavy is imported by the command that needs it: `staffa --help` has to answer at once.


@app.command()
def plan(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Run a few trials of each program to find out what it takes.")
    ] = False,
    past: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Take what it takes from the receipts of this run.", show_default=False),
    ] = None,
    budget: Budget = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what would run and what it takes; refuse what cannot.

    Trials, batches, files, bytes, memory; hours from a pilot, or from an earlier run. Writes nothing that stays.
    """
    from staffa import api
    from staffa.campaign.identity import run_hash
    from staffa.experiment.external import EXTERNAL
    from staffa.views import sheets

    declared = api.load(
        campaign, cluster=cluster, profile=profile, workflow=workflow, set=[*(set_ or ()), *within(budget)]
    )
    found = api.plan(declared, pilot=pilot, past=past, tell=(lambda text: None) if as_json else tell)
    facts = sheets.plan_facts(found.plan, declared.root, found.bytes, found.files, found.estimate)
    facts["cluster"] = dict(found.cluster)
    facts["run_hash"] = run_hash(declared.declaration, found.plan.code)
    options = {"--cluster": cluster, "--profile": profile, "--workflow": workflow and str(workflow)}
    named = [word for name, value in options.items() if value for word in (name, value)]
    named += [
        word for name, said in (("--set", set_), ("--budget", budget)) for one in said or () for word in (name, one)
    ]
    facts["next"] = shlex.join(["staffa", "run", str(campaign), *named])
    if declared.declaration.campaign.experiment.use == EXTERNAL:
        facts["next"] = shlex.join(["staffa", "serve", str(campaign)])
    say(facts, sheets.plan_sheet, as_json)


@app.command()
def validate(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell everything that is wrong with a campaign file.

    Exit code 2 where it could not run; warnings alone are 0.
    """
    from staffa import api
    from staffa.views import declared

    facts = api.validate(campaign, cluster=cluster, profile=profile, workflow=workflow, set=set_ or ())
    say(facts, declared.validation_sheet, as_json)
    raise typer.Exit(OK if facts["valid"] else BAD_INPUT)


@config_app.command("explain")
def config_explain(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show every value of a campaign, and where it came from."""
    from staffa import api
    from staffa.campaign import config
    from staffa.views import sheets

    declared = api.load(campaign, cluster=cluster, profile=profile, workflow=workflow, set=set_ or ())
    say(sheets.config_facts(config.explain(declared.declaration)), sheets.config_sheet, as_json)


@config_app.command("schema")
def config_schema(
    of: Annotated[str, typer.Argument(metavar="[campaign|cluster|profile]", help="Which kind of file.")] = "campaign",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of a campaign file, for editors."""
    from staffa.campaign import config

    write(json.dumps(config.json_schema(of), indent=2))


@profile_app.command("list")
def profile_list(
    place: Place = Path(),
    workflow: Workflow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the profiles beside a campaign file."""
    from staffa import api
    from staffa.views import declared

    say(api.profiles(place, workflow=workflow), declared.profiles_sheet, as_json)


@profile_app.command("describe")
def profile_describe(
    name: Annotated[str, typer.Argument(help="The profile's name.", show_default=False)],
    place: Place = Path(),
    workflow: Workflow = None,
    form: Annotated[str, typer.Option("--format", metavar="yaml|json", help="How to show it.")] = "yaml",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show everything a profile says."""
    from staffa import api
    from staffa.campaign import profiles

    write(profiles.shown(api.describe_profile(name, place, workflow=workflow), "json" if as_json else form))


@plugins_app.command("list")
def plugins_list(
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only this family.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List all plug-ins, where each comes from and whether it works."""
    from staffa import api
    from staffa.views import declared

    say(api.plugins(family), declared.plugins_sheet, as_json)


@cluster_app.command("script")
def cluster_script(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the job scripts a run would hand in, one for each pool."""
    from staffa import api

    scripts = api.scripts(api.load(campaign, cluster=cluster, profile=profile, workflow=workflow, set=set_ or ()))
    write(json.dumps(scripts, indent=2) if as_json else "\n".join(scripts.values()))
