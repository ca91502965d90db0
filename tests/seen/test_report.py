"""Reports: their numbers are those of other commands, they stand whatever a campaign is like, and they read well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import staffa
from seen.conftest import SHOTS
from seen.reading import ASIDE, LETTERS, PICTURES, faint, skipped
from staffa.storage.workspace import Workspace

CHAINS = Path(__file__).parent / "chains"
SECTIONS = ["completeness", "failures", "flaws", "mixing", "outputs", "own", "time", "provenance"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "chains"
    shutil.copytree(CHAINS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def during(folder: Path) -> list[Any]:
    """Reports made while the campaign ran."""
    return []


@pytest.fixture(scope="module")
def run(folder: Path, during: list[Any]) -> staffa.Run:
    """A campaign of which there is much to report, and that is looked at when its third batch has settled."""
    settled = []

    def look(event: Any) -> None:
        settled.extend([1] * (event["event"] == "batch_settled"))
        if len(settled) == 3 and not during:
            during.append(staffa.report(root, to=folder / "during.html"))

    root = folder.parent / "runs" / "v1.0_chains"
    override = f"storage.root={root.parent}"
    return staffa.run(folder / "campaign.yaml", set=[override], progress=False, listeners=[look])


@pytest.fixture(scope="module")
def report(run: staffa.Run) -> Any:
    return run.report()


def asked(run: staffa.Run, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run.results.answer(sql).to_pylist()]


# --- numbers ---------------------------------------------------------------------------------------


def test_numbers_are_those_of_status_and_query(run: staffa.Run, report: Any, said: Any) -> None:
    figures = json.loads(said("status", run.root, "--json")[1])["figures"]
    found = json.loads(report.numbers.read_text())["sections"]
    complete, failed, flaws, time = (found[name] for name in ("completeness", "failures", "flaws", "time"))
    assert complete["outcomes"] == figures["outcomes"] and complete["trials"] == figures["trials"] == 27
    assert complete["states"] == figures["states"]
    assert [(complete["with_data"],), (flaws["nan"],)] == asked(
        run, "select count(*) from trials union all select count(*) from trials where outcome = 'nan'"
    )
    assert (found["provenance"]["sealed"], found["provenance"]["parts"]) == (figures["sealed"], figures["parts"])
    assert [(failed["failed"], failed["messages"][0]["message"])] == asked(
        run, "select count(*), any_value(message) from failed"
    )
    assert {name: flaws["divergences"][name] for name in ("diverged", "most", "total")} == dict(
        zip(
            ("diverged", "most", "total"),
            asked(run, "select count(*) filter (divergences > 0), max(divergences), sum(divergences)::int from trials")[
                0
            ],
            strict=True,
        )
    )
    for parameter, rows in found["outputs"]["energy"].items():
        means = dict(
            asked(run, f"select {parameter}, avg(\"energy.mean\") from trials where outcome = 'ok' group by 1")
        )
        assert {float(row["value"]): row["mean"] for row in rows} == pytest.approx(means)
    places = dict(asked(run, 'select rho, avg(list_extract("x.mean", 1)) from trials group by 1'))
    assert {float(row["value"]): row["mean"] for row in found["outputs"]["x[0]"]["rho"]} == pytest.approx(places)
    usage = json.loads(said("usage", run.root, "--json")[1])["total"]
    assert time["usage"] == usage
    assert time["trials"]["by_group"][0]["trials"] == 27 and time["trials"]["by_node"][0]["trials"] == 27
    telemetry = json.loads(said("telemetry", "render", run.root, "--show", "timings", "--json")[1])
    sums = {name: field["mean"] * field["count"] for name, field in telemetry["fields"].items()}
    assert {f"timings.{kind}": seconds for kind, seconds in time["split"]["total"].items()} == pytest.approx(
        {name: total for name, total in sums.items() if round(total, 6)}, abs=1e-5
    )
    tried = sum(
        speed * (end - start)
        for speed, start, end in zip(
            time["throughput"]["per_second"], time["throughput"]["edges"], time["throughput"]["edges"][1:], strict=False
        )
    )
    assert tried == pytest.approx(27)


def test_maps_and_words_say_where(report: Any) -> None:
    found = report.facts["sections"]
    for section, total in (("completeness", 3), ("flaws", 9)):
        told = found[section]["map"]
        assert {told["across"]["name"], told["upward"]["name"]} == {"rho", "temperature"}
        assert sum(map(sum, told["hits"])) == total
    assert sum(map(sum, found["completeness"]["map"]["trials"])) == 27
    assert found["completeness"]["incomplete"] == [{"rho": 0.0, "temperature": 4.0, "trials": 3, "hits": 3}]
    assert found["failures"]["where"] == "all at rho = 0 and temperature = 4 K, and every trial there"
    assert found["flaws"]["where"] == "all at temperature = 0.5 K, and every trial there"
    assert found["flaws"]["outputs"] == {"energy": 9}


def test_parameters_are_told_with_units_and_comments(run: staffa.Run, report: Any) -> None:
    told = {row["name"]: row for row in report.facts["sections"]["completeness"]["parameters"]}
    assert (told["temperature"]["values"], told["temperature"]["unit"]) == ([0.5, 1.0, 4.0], "K")
    assert (told["beta"]["derived"], told["beta"]["least"], told["beta"]["greatest"]) == ("1 / temperature", 0.25, 2.0)
    assert (told["offset"]["distinct"], told["offset"]["explored"]) == (1, False)
    page = report.page.read_text()
    assert "energy against temperature: how wide the chains are" in page and "added to &lt;nothing&gt;" in page
    assert "temperature (K)</text>" in page and ">temperature (K)</th>" in page
    assert "against beta" not in page, "what is derived is not explored"
    figure = run.plot(x="temperature", y="energy", by="rho", where="temperature > 0.5")
    assert figure.axes[0].get_xlabel() == "temperature (K)" and figure.axes[0].get_ylabel() == "mean of energy"
    assert run.plot(x="beta", y="energy").axes[0].get_xlabel() == "beta (1/K)"


def test_what_is_no_number_is_named(run: staffa.Run, said: Any, tmp_path: Path) -> None:
    code, out, _ = said("report", run.root, "--to", tmp_path / "one.html", "--set", "qa.plot=[]", "--json")
    assert code == 1 and list(json.loads(out)["sections"]["outputs"]) == ["energy", "divergent"]
    assert "Not shown: x (float32[2]), phase (text), notes (json)." in (tmp_path / "one.html").read_text()
    for words in (["--x", "rho", "--y", "phase"], ["--x", "draw", "--y", "notes"]):
        code, _, err = said("plot", run.root, *words)
        assert code == 2 and "of which there is no mean" in err
    code, _, err = said("plot", run.root, "--x", "draws.phase")
    assert code == 2 and "'phase' is no single number" in err


def test_gates_name_the_trials_that_miss_them(run: staffa.Run, report: Any, said: Any) -> None:
    mixing = report.facts["sections"]["mixing"]
    rows = {(row["gate"], row["output"]): row for row in mixing["gates"]}
    # Trials of rho = 1 never move: R-hat cannot be made of them, and each of their draws counts as effective.
    still = "outcome = 'ok' and \"energy.sd\" = 0"
    assert asked(run, f'select count(*), count("energy.rhat"), min("energy.ess")::int from trials where {still}') == [
        (6, 0, 240)
    ]
    missed = asked(
        run,
        f"""select count(*) filter ("energy.rhat" > 1.05 or {still}),
            count(*) filter ("energy.ess" < 60 or {still}),
            count(*) filter (divergences > 0) from trials""",
    )[0]
    assert tuple(rows[key]["missed"] for key in rows) == missed
    assert rows["rhat", "energy"]["stuck"] == 6 and rows["rhat", "energy"]["not_judged"] == 9
    assert report.passed is False and report.exit_code == 1
    code, out, _ = said("report", run.root, "--to", run.root / "qa" / "again.html")
    assert code == 1 and "No, not as it stands." in out
    worst = mixing["worst"][0]
    assert worst["trial"][:12] in out and "never moves" in out and worst["stuck"] and worst["parameters"]["rho"] == "1"
    diverged = next(row for row in mixing["worst"] if row["gate"] == "divergences")
    assert [(diverged["trial"], diverged["value"])] == asked(
        run,
        "select trial, divergences::double from trials order by divergences desc, trial = "
        f"'{diverged['trial']}' desc limit 1",
    )


def test_other_gates_by_options(run: staffa.Run, said: Any, tmp_path: Path) -> None:
    page, mixed = tmp_path / "one.html", ["--set", "qa.rhat=null", "--set", "qa.ess=null"]
    assert said("report", run.root, "--to", page, *mixed, "--set", "qa.divergences=1000")[0] == 0
    code, out, _ = said("report", run.root, "--to", page, *mixed, "--set", "qa.divergences=null", "--json")
    told = json.loads(out)
    assert code == 0 and told["passed"] is None and told["verdict"]["weight"] == "care"
    assert "by the usual advice the draws of 15 trials have not mixed" in out
    assert {row["declared"] for row in told["sections"]["mixing"]["gates"]} == {False}
    assert told == json.loads(page.with_suffix(".json").read_text())
    over = ["--set", "qa.over=[rho]", "--set", "qa.plot=['x[1]']"]
    told = json.loads(said("report", run.root, "--to", page, *over, "--json")[1])["sections"]
    assert told["completeness"]["map"]["upward"]["name"] == "" and list(told["outputs"]) == ["x[1]"]


def test_figures_of_the_campaigns_own(run: staffa.Run, report: Any) -> None:
    own = report.facts["sections"]["own"]
    assert own["plots.py:spread"] == [{"figure": "Mean energy of 15 trials in 12 bins"}]
    table = own["plots.py:Averages"][0]
    assert table["table"] == "Averages" and table["columns"]["temperature"] == [0.5, 1.0, 4.0]
    assert own["plots.py:broken"]["error"] == "trials has no column 'enrgy'"
    findings = [finding["text"] for finding in report.facts["verdict"]["findings"]]
    assert "The figure plots.py:broken could not be made: trials has no column 'enrgy'." in findings
    page = report.page.read_text()
    assert 'alt="Mean energy of 15 trials in 12 bins"' in page and "lost at temperature 4.0 &lt;b&gt;&amp;" in page
    assert "mix &lt;badly&gt;" in page and "<b>" not in page


def test_a_plug_in_makes_figures(run: staffa.Run, tmp_path: Path) -> None:
    def counted(results: Any, of: str) -> Any:
        return {"of": [of], "trials": [len(results.trials)]}, "How many there are"

    words = ["qa.figures=[{use: counted, of: all}]"]
    with staffa.register("figures", "counted", counted):
        told = run.report(to=tmp_path / "one.html", set=words).facts["sections"]["own"]
    assert told == {"counted": [{"table": "How many there are", "columns": {"of": ["all"], "trials": [24]}}]}
    with pytest.raises(staffa.ConfigError, match="there is no figure 'counted'"):
        run.report(to=tmp_path / "one.html", set=words)


# --- whatever a campaign is like -------------------------------------------------------------------


def test_while_a_campaign_runs(during: list[Any], run: staffa.Run) -> None:
    told = during[0].facts
    complete = told["sections"]["completeness"]
    assert told["live"] and "running as" in told["state"]
    assert 0 < complete["with_data"] < 27 and complete["outcomes"]["missing"] > 0
    assert told["verdict"]["answer"] in ("Not yet.", "No, not as it stands.")
    assert any("Still to come" in finding["text"] for finding in told["verdict"]["findings"])


def test_nothing_has_run(folder: Path, tmp_path: Path, said: Any) -> None:
    from staffa.execution.prepare import create, unfolded

    declared = staffa.load(folder / "campaign.yaml", set=[f"storage.root={tmp_path}"])
    create(unfolded(declared.declaration), Workspace(declared.root))
    code, out, _ = said("report", declared.root, "--json")
    told = json.loads(out)
    assert code == 1, "gates that judged nothing are not passed"
    assert told["verdict"]["answer"] == "Not yet." and "never run so far" in told["state"]
    assert told["sections"]["completeness"]["outcomes"] == {"missing": 27}
    assert "Nothing has settled yet; to come: 27 trials." in out and "nothing could be judged" in out
    assert said("report", declared.root, *no_gates())[0] == 0
    page = (declared.root / "qa" / "report.html").read_text()
    assert "There are no data yet." in page and "No batch has settled yet." in page


def no_gates() -> list[str]:
    return [word for name in ("rhat", "ess", "divergences") for word in ("--set", f"qa.{name}=null")]


def test_half_of_it_is_gone(mixed: Any, tmp_path: Path, said: Any) -> None:
    root = tmp_path / "run"
    shutil.copytree(mixed.root, root)
    workspace = Workspace.open(root)
    shutil.rmtree(workspace.hot / "0" / "g0.zarr")
    shutil.rmtree(workspace.hot / "0" / "g1.zarr" / "status")
    workspace.provenance.write_text("{")
    journal = next(workspace.ledger.glob("events-*.jsonl"))
    journal.write_text(journal.read_text().replace('{"event":"batch_settled"', "rubbish", 1) + '{"event":"torn')
    code, out, _ = said("report", root, "--json")
    told = json.loads(out)
    assert code == 0 and told["sections"]["completeness"]["outcomes"]["missing"] == 6
    lacking = "\n".join(told["lacking"])
    assert all(word in lacking for word in ("g0.zarr", "g1.zarr", "no events: 1", "provenance.json"))
    assert "Could not be read" in (root / "qa" / "report.html").read_text()
    assert said("usage", root)[0] == 0, "neither does a line that is none keep it from being counted"
    shutil.rmtree(workspace.ledger)
    assert said("report", root)[0] == 0
    workspace.trials(0).unlink()
    code, _, err = said("report", root)
    assert code == 2 and "the list of trials" in err
    workspace.plan(0).unlink()
    assert said("report", root)[0] == 2


def test_what_cannot_be_read_of_an_archive_is_told(mixed: Any, tmp_path: Path, said: Any) -> None:
    root = tmp_path / "run"
    shutil.copytree(mixed.root, root)
    part = sorted((root / "archive" / "trials").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:100])
    told = json.loads(said("report", root, "--json")[1])
    assert "the trials' rows" in told["lacking"][0] and part.name in told["lacking"][0]
    assert told["sections"]["completeness"]["with_data"] == 44 and told["sections"]["outputs"] == {}


def test_the_same_once_it_is_pruned(run: staffa.Run, report: Any, tmp_path: Path, workers: Client) -> None:
    root = tmp_path / "v1.0_chains"
    shutil.copytree(run.root, root)
    staffa.consolidate(root, prune=True, client=workers)
    assert not list(root.glob("hot/0/g0.zarr/energy/c.*"))
    again = staffa.report(root).facts["sections"]
    for name in ("completeness", "failures", "flaws", "mixing", "outputs"):
        before = {key: value for key, value in report.facts["sections"][name].items() if key != "states"}
        assert json.dumps({k: v for k, v in again[name].items() if k != "states"}) == json.dumps(before), name


@pytest.mark.parametrize(
    ("words", "complaint", "hint"),
    [
        (["--set", "qa.rhatt=1.01"], "qa.rhatt: unknown key", "'rhat'"),
        (["--set", "qa.rhat=0.9"], "qa.rhat: 0.9", ""),
        (["--set", "qa.of=[enrgy]"], "qa.of[0]: the campaign has no output 'enrgy'", "'energy'"),
        (["--set", "qa.of=[x]"], "qa.of[0]: 'x' has 2 numbers, and archive.diagnosed is 1", "archive.diagnosed: 2"),
        (["--set", "qa.of=[divergent]"], "qa.of[0]: 'divergent' is bool", ""),
        (["--set", "qa.plot=[x]"], "qa.plot[0]: 'x' has axes [2]", "'x[0]'"),
        (["--set", "qa.plot=['energy[0]']"], "qa.plot[0]: 'energy' is a single number", "write energy"),
        (["--set", "qa.plot=[phase]"], "qa.plot[0]: 'phase' is text, of which there is no mean", ""),
        (["--set", "qa.of=[notes]"], "qa.of[0]: 'notes' is json: R-hat is of numbers", ""),
        (["--set", "qa.over=[roh]"], "qa.over[0]: the campaign has no parameter 'roh'", "'rho'"),
        (["--set", "qa.over=[rho, rho, rho]"], "qa.over", ""),
        (["--set", "qa.figures=[{use: plot.py:spread}]"], "there is no file 'plot.py'", "'plots.py'"),
        (["--set", "qa.figures=[{bins: 3}]"], "qa.figures[0].use: is missing", ""),
        (["--set", "sampling.draws=3"], "--set sampling.draws=3: a report only asks other things", "qa.rhat"),
        (["--to", "report.txt"], "--to report.txt: a report is a page of HTML", ".html"),
    ],
)
def test_bad_input(
    run: staffa.Run, said: Any, tmp_path: Path, monkeypatch: Any, words: list[str], complaint: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said("report", run.root, *words)
    assert (code, out) == (2, "") and complaint in err and hint in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("qa.plot=[enrgy]", "qa.plot[0]: the campaign has no output 'enrgy'"),
        ("archive.summaries=[mean]", "qa.rhat: rhat is asked of the trials, but archive.summaries is [mean]"),
        ("qa.figures=[{use: plots.py}]", "qa.figures[0].use: 'plots.py' is not a reference"),
        ("qa.figures=[{use: mass}]", "qa.figures[0].use: there is no figure 'mass'"),
    ],
)
def test_what_a_campaign_cannot_have_is_refused_when_it_is_planned(
    folder: Path, said: Any, words: str, complaint: str
) -> None:
    code, _, err = said("plan", folder / "campaign.yaml", "--set", words)
    assert code == 2 and complaint in err


# --- the page --------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_page_opens_without_a_network(report: Any, page: Any) -> None:

    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    page.context.set_offline(True)
    page.goto(report.page.as_uri())
    assert (page.said, page.errors) == ([], []) and asked_for == [report.page.as_uri()]
    pictures = page.evaluate(PICTURES)
    assert len(pictures) > 10
    for picture in pictures:
        assert picture["width"] > 150 and picture["height"] > 60 and picture["parts"] > 5, picture
        assert len(picture["alt"]) > 20, "what is seen is said"
    alts = " ".join(picture["alt"] for picture in pictures)
    assert "most of all at rho 0, temperature 4 K: 3 of 3" in alts and "beyond 1.05 are" in alts
    assert skipped(page) == [] and page.locator("h1").count() == 1
    assert [link.get_attribute("href") for link in page.locator("nav a").all()] == [f"#{name}" for name in SECTIONS]
    assert all(page.locator(f"#{name}").count() == 1 for name in SECTIONS)
    assert page.locator("table").count() == page.locator("table caption").count() == page.locator("table thead").count()
    assert "27" in page.locator("#completeness").locator("xpath=..").inner_text()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "report.png", full_page=True)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_can_be_read(report: Any, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(report.page.as_uri())
    assert faint(page) == []


@pytest.mark.browser
def test_on_a_phone(report: Any, page: Any) -> None:

    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(report.page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390 and page.evaluate(ASIDE) == []
    assert min(page.evaluate(LETTERS)) >= 8.5
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A", "everything is reached by keys"
    page.locator(".scroll").first.focus()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Trials by outcome"
    page.screenshot(path=SHOTS / "report-phone.png", full_page=True)


@pytest.mark.browser
def test_in_print(report: Any, page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(report.page.as_uri())
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    assert page.pdf(format="A4").startswith(b"%PDF")
