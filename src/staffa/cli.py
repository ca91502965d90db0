"""The command line: words -> one call of `staffa.api` -> a sheet. Decides nothing.

Exit codes: 0 all trials ok; 1 finished, some flagged, quarantined or missing; 2 bad input;
3 infrastructure; 130 interrupted, resumable.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from staffa.commands import Commands
from staffa.errors import ClusterError, StaffaError, near

# `staffa --help` has to answer at once: whatever is heavy is imported by the command that needs it.
if TYPE_CHECKING:
    from staffa.api import Run
    from staffa.views.sheet import Sheet

OK, FLAGGED, BAD_INPUT, INFRASTRUCTURE, INTERRUPTED = 0, 1, 2, 3, 130
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})

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


@app.command()
def plan(
    campaign: CampaignFile,
    set_: Set = None,
    cluster: Cluster = None,
    profile: Profile = None,
    workflow: Workflow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what would run; refuse what cannot.

    How many trials, batches, files and bytes it takes. Writes nothing.
    """
    from staffa import api
    from staffa.views import report

    declared = api.load(campaign, cluster=cluster, profile=profile, workflow=workflow, set=set_ or ())
    found = api.plan(declared)
    facts = report.plan_facts(found.plan, declared.root, found.bytes, found.files)
    facts["cluster"] = dict(found.cluster)
    facts["run_hash"] = run_hash(declared.declaration, found.plan.code)
    options = {"--cluster": cluster, "--profile": profile, "--workflow": workflow and str(workflow)}
    named = [word for name, value in options.items() if value for word in (name, value)]
    facts["next"] = shlex.join(["staffa", "run", str(campaign), *named, *(w for s in set_ or () for w in ("--set", s))])
    _say(facts, report.plan_sheet, as_json)


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
    _say(facts, declared.validation_sheet, as_json)
    raise typer.Exit(OK if facts["valid"] else BAD_INPUT)


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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a campaign, or resume it where it stands."""
    from staffa import api

    declared = api.load(
        campaign, cluster=cluster, profile=profile, workflow=workflow, set=[*(set_ or ()), *_open(insecure)]
    )
    _ended(
        declared.root,
        as_json,
        lambda: api.run(
            declared,
            allow_dirty=allow_dirty,
            accept_code_change=accept_code_change,
            detach=detach,
            progress=_progress(as_json),
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on after anything died: only what is missing runs."""
    from staffa import api

    _ended(
        run,
        as_json,
        lambda: api.resume(
            run,
            cluster=cluster,
            set=[*(set_ or ()), *_open(insecure)],
            accept_code_change=accept_code_change,
            detach=detach,
            progress=_progress(as_json),
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

    _ended(run, False, lambda: api.drive(run, cluster=cluster, set=set_ or (), accept_code_change=accept_code_change))


@app.command()
def stop(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Let what is in flight commit, then end the driver."""
    from staffa import api

    _say_reply(api.stop(run), "stopping: batches in flight are committed first", run, as_json)


@app.command()
def status(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Show where a campaign stands, from any shell."""
    from staffa import api
    from staffa.views import report

    _say(api.status(run), report.status_sheet, as_json)


@app.command()
def watch(
    run: RunFolder,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often to look.")] = 2.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Follow a campaign until its driver ends.

    Ctrl-C ends the watching only.
    """
    from staffa import api
    from staffa.views import live, report

    found = api.status(run)
    progress = _progress(as_json or not found["live"])
    try:
        with live.follow(found["figures"]["trials"], run, progress, interval) as listen:
            for found in api.watch(run, interval):
                listen({"event": "figures", **found["figures"]})
                if as_json:
                    _say(found, report.status_sheet, as_json)
    except KeyboardInterrupt:
        return
    if not as_json:
        _say(found, report.status_sheet, as_json)


@app.command()
def attach(run: RunFolder, debug: Debug = False) -> None:
    """Follow a running campaign as if it had been started here.

    Ctrl-C leaves it running. The exit code is that of the run.
    """
    from staffa import api

    watch(run)
    found = api.status(run)
    raise typer.Exit(int((found.get("run") or {}).get("exit_code") or 0))


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
    _say_reply(reply, f"workers wanted: {wanted}", run, as_json)


@app.command()
def retry(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Try failed and quarantined trials again."""
    from staffa import api
    from staffa.views.readings import number

    reply = api.retry(run)
    _say_reply(reply, f"{number(reply.get('trials', 0), 'trial')} will be tried again", run, as_json)


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be; change nothing.")]
GrownFile = Annotated[
    Path | None, typer.Argument(metavar="[CAMPAIGN]", help="The changed campaign file.", show_default=False)
]
Replicates = Annotated[int | None, typer.Option(min=1, help="So many from now on.", show_default=False)]


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
    _say(facts, growth_sheet, as_json)
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
    _say(facts, growth_sheet, as_json)
    raise typer.Exit(OK if facts["done"] else INFRASTRUCTURE)


@app.command()
def reconcile(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Look again for the files trials need; admit those whose files came."""
    from staffa import api
    from staffa.views.growth import growth_sheet

    facts = api.reconcile(run)
    _say(facts, growth_sheet, as_json)
    raise typer.Exit(OK if facts["done"] else INFRASTRUCTURE)


@app.command()
def explain(
    run: RunFolder,
    trial: Annotated[str, typer.Argument(help="Its index, the beginning of its digest, or the word pool.")],
    pool: Annotated[str | None, typer.Argument(metavar="NAME", help="After pool: which.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell why a trial waits or failed, and its story.

    `staffa explain RUN pool gpu`: what is the matter with a pool of workers.
    """
    from staffa import api
    from staffa.views import pools, report

    facts = api.explain(run, trial, pool)
    _say(facts, pools.pool_sheet if "pool" in facts else report.explain_sheet, as_json)


@app.command()
def usage(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Show node-hours and GPU-hours: useful, waiting, lost."""
    from staffa import api
    from staffa.views.usage import usage_sheet

    _say(api.usage(run), usage_sheet, as_json)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A campaign's folder, or a campaign file.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what differs between two campaigns.

    Values, code, packages, machine, seeds, trials, outcomes, results. Exit code 0: nothing; 1: something.
    """
    from staffa import api
    from staffa.views.diff import diff_sheet

    facts = api.diff(a, b)
    _say(facts, diff_sheet, as_json)
    raise typer.Exit(0 if facts["same"] else 1)


@app.command()
def reproduce(
    run: RunFolder,
    trials: Annotated[int, typer.Option(metavar="K", help="How many random trials to run again.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides which.", show_default=False)] = None,
    tolerance: Annotated[float, typer.Option(help="Of values outside the recorded program, relative to 1 or more.")] = 1e-6,
    width: Annotated[int | None, typer.Option(help="Lanes of a call; as recorded.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run some trials again, and compare with what was recorded.

    Bit for bit in the recorded program, elsewhere within the tolerance. Exit code 0: they agree; 1: not.
    """
    from staffa import api
    from staffa.views.reproduced import reproduced_sheet

    facts = api.reproduce(run, trials=trials, seed=seed, tolerance=tolerance, width=width)
    _say(facts, reproduced_sheet, as_json)
    raise typer.Exit(facts["exit_code"])


@app.command()
def consolidate(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Seal every ripe part of the archive.

    Also while the campaign runs: its driver is asked to do it.
    """
    from staffa import api
    from staffa.views import report

    reply = api.consolidate(run)
    if as_json or not reply.get("done") or "figures" not in reply:
        _say_reply(reply, "asked the driver to seal every ripe part", run, as_json)
    else:
        _say(reply, report.status_sheet, as_json)


@app.command()
def query(
    run: RunFolder,
    sql: Annotated[str, typer.Argument(help="A SELECT over draws, trials and failed.")],
    limit: Annotated[int, typer.Option(min=0, metavar="ROWS", help="Show at most so many rows; 0 for all.")] = 1000,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask the archive in SQL."""
    from staffa import api
    from staffa.views import report

    results = api.attach(run).results
    facts = report.answer_facts(results.answer(sql), limit)
    _say(facts, lambda facts: report.answer_sheet(facts, results.sealed, run), as_json)


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A campaign's folder: looked at instead.", show_default=False)
    ] = None,
    set_: Set = None,
    cluster: Cluster = None,
    fail_on_warning: Annotated[
        bool, typer.Option("--fail-on-warning", help="Exit code 1 where something warns.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long a probe job may wait in the queue.")
    ] = 120.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine, a cluster or a campaign's folder.

    Each fault comes with what mends it. With --cluster a short job in each pool looks at its compute nodes.
    """
    from staffa import api
    from staffa.views import checks

    facts = api.doctor(
        cluster,
        run=run,
        set=set_ or (),
        fail_on_warning=fail_on_warning,
        patience=wait,
        tell=None if as_json else _tell,
    )
    _say(facts, checks.doctor_sheet, as_json)
    raise typer.Exit(facts["exit_code"])


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
    from staffa.views import report

    declared = api.load(campaign, cluster=cluster, profile=profile, workflow=workflow, set=set_ or ())
    _say(report.config_facts(config.explain(declared.declaration)), report.config_sheet, as_json)


@config_app.command("schema")
def config_schema(
    of: Annotated[str, typer.Argument(metavar="[campaign|cluster|profile]", help="Which kind of file.")] = "campaign",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of a campaign file, for editors."""
    from staffa.campaign import config

    _write(json.dumps(config.json_schema(of), indent=2))


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

    _say(api.profiles(place, workflow=workflow), declared.profiles_sheet, as_json)


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

    _write(profiles.shown(api.profile(name, place, workflow=workflow), "json" if as_json else form))


@plugins_app.command("list")
def plugins_list(
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only this family.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List all plug-ins, where each comes from and whether it works."""
    from staffa import api
    from staffa.views import declared

    _say(api.plugins(family), declared.plugins_sheet, as_json)


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
    _write(json.dumps(scripts, indent=2) if as_json else "\n".join(scripts.values()))


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

    _say(api.reap(run, dry_run=dry_run), checks.reap_sheet, as_json)


# --- answers ---------------------------------------------------------------------------------------

Facts = TypeVar("Facts")


def _say(facts: Facts, sheet: Callable[[Facts], Sheet], as_json: bool) -> None:
    from staffa.views import report
    from staffa.views.sheet import show

    if as_json:
        _write(report.as_json(facts))
    else:
        show(sheet(facts))


def _say_reply(reply: dict[str, Any], done: str, run: Path, as_json: bool) -> None:
    """What the driver answered to a request."""
    if as_json:
        _write(json.dumps(reply, default=str))
    elif reply.get("done"):
        _write(str(reply.get("why") or done))
        _write(f"next: {reply.get('next') or f'staffa status {shlex.quote(str(run))}'}")
    if not reply.get("done"):
        raise ClusterError(str(reply.get("why", "the driver refused")), f"staffa status {shlex.quote(str(run))}")


def _ended(root: Path, as_json: bool, drive: Callable[[], Run]) -> None:
    """Drive a campaign, and say how it ended, where the results are and what comes next."""
    from dataclasses import asdict

    from staffa.views import report

    try:
        driven = drive()
    except KeyboardInterrupt:
        raise _Interrupted(root) from None
    if driven.ended is None:
        from staffa import api

        _say(api.status(driven.root), report.status_sheet, as_json)
        return
    code = driven.ended.exit_code
    facts = report.ended_facts(driven.root, driven.resumed, asdict(driven.ended), code, driven.status)
    _say(facts, report.ended_sheet, as_json)
    raise typer.Exit(code)


def _open(insecure: bool) -> list[str]:
    return ["cluster.insecure=true"] * insecure


def _tag(wanted: bool, suffix: str | None) -> list[str]:
    if suffix is not None:
        return [f"campaign.tag={json.dumps(suffix)}"]
    return ["campaign.tag=true"] * wanted


def _progress(silent: bool) -> bool | None:
    return False if silent else None


def _tell(text: str) -> None:
    sys.stderr.write(f"staffa: {text}\n")


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- errors ----------------------------------------------------------------------------------------


class _Interrupted(Exception):
    """Ctrl-C twice; the campaign can be resumed."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `staffa`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us (head, less) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        code, message, hint = _complaint(error, words)
        _complain(message, hint, "--json" in words)
    return code


def _run(words: list[str]) -> int:
    code = typer.main.get_command(app).main(words, prog_name="staffa", standalone_mode=False)
    return code if isinstance(code, int) else OK


def _complaint(error: BaseException, words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, message and hint for an error."""
    if isinstance(error, StaffaError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, _Interrupted):
        again = f"staffa resume {shlex.quote(str(error.root))}"
        return INTERRUPTED, "interrupted; whatever is committed is kept", again
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted", ""
    if hasattr(error, "format_message"):
        return BAD_INPUT, str(error.format_message()), _usage_hint(error)
    if isinstance(error, OSError) and error.errno not in DISK:
        return BAD_INPUT, str(error), "check that the file or folder is there and that you may read and write it"
    if isinstance(error, OSError):
        return INFRASTRUCTURE, str(error), "make room, then run the same command again"
    again = shlex.join(["staffa", *words, "--debug"])
    return INFRASTRUCTURE, f"unexpected {type(error).__name__}: {error}", f"this is a bug; where it happens: {again}"


def _usage_hint(error: Any) -> str:
    """For words the command line does not know: the near ones, or its help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "staffa"
    message = str(error.format_message())
    commands = getattr(getattr(context, "command", None), "commands", None)
    if commands and "No such command" in message and "Did you mean" not in message:
        return near(message.split("'")[1], commands)
    return f"{path} --help"


def _complain(message: str, hint: str, as_json: bool) -> None:
    if as_json:
        text = json.dumps({"error": message, "hint": hint})
    else:
        text = "\n".join(filter(None, [f"staffa: {message}", f"  {hint}" if hint else ""]))
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
