"""Looking at campaigns, and at the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from staffa.cli.answers import progress_of, say, tell, write
from staffa.cli.words import Cluster, Debug, Json, RunFolder, Set, Where, app, telemetry_app

# What is heavy is imported by the command that needs it: `staffa --help` has to answer at once.


@app.command()
def status(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Show where a campaign stands, from any shell."""
    from staffa import api
    from staffa.views import sheets

    say(api.status(run), sheets.status_sheet, as_json)


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
    from staffa.views import live, sheets

    found = api.status(run)
    progress = progress_of(as_json or not found["live"])
    try:
        with live.follow(found["figures"]["trials"], run, progress, interval) as listen:
            for found in api.watch(run, interval):
                listen({"event": "figures", **found["figures"]})
                if as_json:
                    say(found, sheets.status_sheet, as_json)
    except KeyboardInterrupt:
        return
    if not as_json:
        say(found, sheets.status_sheet, as_json)


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
    from staffa.views import pools, sheets

    facts = api.explain(run, trial, pool)
    say(facts, pools.pool_sheet if "pool" in facts else sheets.explain_sheet, as_json)


@app.command()
def usage(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Show node-hours and GPU-hours: useful, waiting, lost."""
    from staffa import api
    from staffa.views.usage import usage_sheet

    say(api.usage(run), usage_sheet, as_json)


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
    from staffa.views import sheets

    results = api.attach(run).results
    facts = sheets.answer_facts(results.answer(sql), limit)
    say(facts, lambda facts: sheets.answer_sheet(facts, results.sealed, run), as_json)


@app.command()
def report(
    run: RunFolder,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; qa/report.html of the run.", show_default=False)
    ] = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one page of HTML that tells whether a campaign can be trusted.

    Completeness, failures, R-hat and effective draws, outputs, time, provenance; its numbers in a JSON file beside it.
    --set qa.rhat=1.05: other gates than the campaign's. Exit code 1 where one is missed or could not be judged.
    """
    from staffa import api
    from staffa.views.report.verdict import report_sheet

    found = api.report(run, to=to, set=set_ or ())
    say(found.facts, lambda facts: report_sheet(facts, found.page), as_json)
    raise typer.Exit(found.exit_code)


@app.command()
def plot(
    run: RunFolder,
    x: Annotated[str, typer.Option(metavar="NAME", help="Along: a parameter, an output, draw, or draws.OUTPUT.")] = "",
    y: Annotated[str, typer.Option(metavar="NAME", help="Upward: an output (its mean), or a column of trials.")] = "",
    by: Annotated[str, typer.Option(metavar="NAME", help="One line, or colour, for each of its values.")] = "",
    z: Annotated[str, typer.Option(metavar="NAME", help="In colours over x and y.")] = "",
    kind: Annotated[str, typer.Option(metavar="KIND", help="line, scatter, histogram, heatmap, trace.")] = "",
    trial: Annotated[
        list[str] | None, typer.Option(metavar="TRIAL", help="Whose draws are traced; repeatable.", show_default=False)
    ] = None,
    where: Where = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="png, svg or pdf; a png in qa/ of the run.", show_default=False)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw results: --x scale --y energy --by sampler.

    --x energy: a histogram. --x scale --y temperature --z energy: a map. --x draw --y energy: traces of some trials.
    """
    from staffa import api
    from staffa.views.plot import plot_sheet

    facts = api.plot_file(run, x=x, y=y, by=by, z=z, kind=kind, trials=trial or (), where=where, to=to)
    say(facts, plot_sheet, as_json)


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
    say(facts, diff_sheet, as_json)
    raise typer.Exit(0 if facts["same"] else 1)


@app.command()
def reproduce(
    run: RunFolder,
    trials: Annotated[int, typer.Option(metavar="K", help="How many random trials to run again.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides which.", show_default=False)] = None,
    tolerance: Annotated[
        float, typer.Option(help="Of values outside the recorded program, relative to 1 or more.")
    ] = 1e-6,
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
    say(facts, reproduced_sheet, as_json)
    raise typer.Exit(facts["exit_code"])


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
        tell=None if as_json else tell,
    )
    say(facts, checks.doctor_sheet, as_json)
    raise typer.Exit(facts["exit_code"])


@telemetry_app.command("render")
def telemetry_render(
    log: Annotated[
        Path, typer.Argument(metavar="RUN|JOURNAL", help="A campaign's folder, or one journal.", show_default=False)
    ],
    form: Annotated[str, typer.Option("--format", metavar="md|csv|json", help="Or a plug-in's.")] = "md",
    show: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Such as timings; repeatable.", show_default=False)
    ] = None,
    event: Annotated[str | None, typer.Option(metavar="NAME", help="Which events.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Mean, percentiles and maximum of every number events hold.

    By default those of settled batches: times, memory, bytes.
    """
    from staffa import api
    from staffa.views import sheets
    from staffa.views.telemetry import render

    fields = [name for words in show or () for name in words.split(",")]
    facts = api.telemetry(log, event, show=fields)
    write(sheets.as_json(facts) if as_json else render(facts, form).rstrip("\n"))


@telemetry_app.command("schema")
def telemetry_schema(as_json: Json = False, debug: Debug = False) -> None:
    """Print the JSON Schema of a line of a journal."""
    from staffa.views.telemetry import schema_text

    write(schema_text().rstrip("\n"))
