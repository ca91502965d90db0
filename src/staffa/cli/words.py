"""The words of the command line, and what they share: arguments and options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from staffa.commands import Commands

app = typer.Typer(
    name="staffa",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Tens of thousands of JAX sampling experiments, and an archive to ask.",
    epilog="Exit codes: 0 all trials ok; 1 some flagged, quarantined or missing; 2 bad input; 3 infrastructure; "
    "130 interrupted, resumable.",
)
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a campaign's declaration.")
app.add_typer(config_app, name="config")
cluster_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the jobs a campaign hands in.")
app.add_typer(cluster_app, name="cluster")
profile_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a workflow's profiles.")
app.add_typer(profile_app, name="profile")
plugins_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at what is plugged in.")
app.add_typer(plugins_app, name="plugins")
archive_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at sealed archives; copy them.")
app.add_typer(archive_app, name="archive")
telemetry_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at what a campaign's events measure."
)
app.add_typer(telemetry_app, name="telemetry")
search_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at an adaptive search: the best trials, fronts, figures."
)
app.add_typer(search_app, name="search")

CampaignFile = Annotated[Path, typer.Argument(help="The campaign's YAML file.", show_default=False)]
RunFolder = Annotated[
    Path, typer.Argument(help="The campaign's folder, such as runs/v1.0_protein.", show_default=False)
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value; repeatable.", show_default=False)
]
Cluster = Annotated[
    str | None, typer.Option(metavar="NAME", help="A cluster config: a name or a file.", show_default=False)
]
Profile = Annotated[
    str | None, typer.Option(metavar="NAME", help="A profile beside the campaign file.", show_default=False)
]
Workflow = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The folder whose profiles are meant.", show_default=False)
]
Place = Annotated[
    Path, typer.Argument(metavar="[CAMPAIGN]", help="A campaign file, or its folder.", show_default=False)
]
Dirty = Annotated[bool, typer.Option("--allow-dirty", help="Run although the code differs from its commit.")]
Tag = Annotated[bool, typer.Option("--tag", help="Make a git tag for this production: staffa/<version>_<name>.")]
TagSuffix = Annotated[
    str | None, typer.Option(metavar="WORD", help="The same, with _WORD behind its name.", show_default=False)
]
Accept = Annotated[
    bool, typer.Option("--accept-code-change", help="Go on although the model's code has changed; it is recorded.")
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Return at once; the driver goes on, on SLURM as a small job of its own.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="No TLS between driver and workers. Anyone may join.")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be; change nothing.")]
GrownFile = Annotated[
    Path | None, typer.Argument(metavar="[CAMPAIGN]", help="The changed campaign file.", show_default=False)
]
Replicates = Annotated[int | None, typer.Option(min=1, help="So many from now on.", show_default=False)]
Trials = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TRIAL]...", help="Index, or the beginning of the digest.", show_default=False),
]
Where = Annotated[
    str | None,
    typer.Option(metavar="SQL", help="Over the parameters and outcome: temperature > 5.", show_default=False),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="UNIT=AMOUNT", help="Issue nothing more beyond: gpu_hours, node_hours, hours.", show_default=False
    ),
]
