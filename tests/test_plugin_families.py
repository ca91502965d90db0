"""Plug-ins at work: a word of the command line, a format, a kind of cluster, an experiment on workers."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import staffa
from experiment.distributions import install
from staffa.campaign.machine import ClusterConfig
from staffa.cli import main
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.experiment.environment import worker_environment
from staffa.storage.workspace import Workspace
from staffa.testing import NotConforming, check_family
from staffa.views.rendering import formats, rendered

COMMANDS = """
import typer
app = typer.Typer(help="Several words.")
@app.command()
def one(): typer.echo("one")
@app.command()
def two(name: str): typer.echo(f"two {name}")
def greet(name: str, loud: bool = False):
    '''Greet somebody.'''
    typer.echo(f"hello {name}{'!' if loud else ''}")
def fail(): raise RuntimeError("no luck")
def refuse():
    from staffa.errors import ConfigError
    raise ConfigError("not like this", "like that")
def code(): raise typer.Exit(7)
def own(): typer.echo("not Staffa's")
"""

ENTRIES = """
[staffa.commands]
many = words_plugin:app
greet = words_plugin:greet
fail = words_plugin:fail
refuse = words_plugin:refuse
code = words_plugin:code
status = words_plugin:own
sad = sad_words_plugin:x
three = words_plugin:COMMANDS

[staffa.renderers]
org = formats_plugin:org
mute = formats_plugin:mute
angry = formats_plugin:angry
md = formats_plugin:org

[staffa.clusters]
nimbus = nimbus_plugin:workers
barren = nimbus_plugin:barren
cirrus = nimbus_plugin:cluster
rain = nimbus_plugin:rain
"""

FORMATS = """
def org(columns, rows):
    return "\\n".join("| " + " | ".join(map(str, row)) + " |" for row in [columns, *rows])
def mute(columns, rows): return None
def angry(columns, rows): raise KeyError("colour")
"""

NIMBUS = """
import contextlib
from distributed import Client, LocalCluster
from staffa.execution.lanes import THREADS

def started(machine, environment):
    return LocalCluster(n_workers=machine.workers or 1, threads_per_worker=THREADS, env=environment,
                        dashboard_address=None)

@contextlib.contextmanager
def workers(workspace, machine, environment):
    environment = {**environment, "NIMBUS": str(machine.options.get("cloud", ""))}
    with started(machine, environment) as cluster, Client(cluster, set_as_default=False) as client:
        (workspace.root / "logs" / "nimbus").write_text("started")
        yield client

@contextlib.contextmanager
def cluster(workspace, machine, environment):
    with started(machine, environment) as found:
        yield found

@contextlib.contextmanager
def barren(workspace, machine, environment):
    yield 3

@contextlib.contextmanager
def rain(workspace, machine, environment):
    raise OSError("no cloud in sight")
    yield
"""

MODEL = """
import os
import numpy as np
import staffa

class Where(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0
    def step(self, key, state, params):
        return state, {"cloud": np.int64(os.environ.get("NIMBUS") or -1)}
"""

CAMPAIGN = """
campaign: {name: where}
experiment: {use: "model.py:Where"}
space: [{grid: {a: [1, 2, 3]}}]
execution: {workers: 1}
archive: {every: off}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    modules = {"words_plugin": COMMANDS, "sad_words_plugin": "1 / 0", "formats_plugin": FORMATS}
    install(folder, "weather", "1.0", {**modules, "nimbus_plugin": NIMBUS}, ENTRIES)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
    yield folder
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "workflow"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    monkeypatch.chdir(folder)
    return folder / "campaign.yaml"


# --- commands --------------------------------------------------------------------------------------


def test_help_names_them_without_importing_them(site):
    code = (
        "import sys\nfrom staffa.cli import main\nmain(['--help'])\n"
        "sys.exit(' '.join(m for m in ('words_plugin', 'sad_words_plugin', 'jax', 'dask', 'pydantic', 'numpy') "
        "if m in sys.modules) or None)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["greet", "By", "weather", "1.0."] in lines and ["many", "By", "weather", "1.0."] in lines
    assert sum(line[:1] == ["status"] for line in lines) == 1
    assert min(seconds) < 0.3


def test_they_are_words_like_any_other(site, capsys):
    assert main(["greet", "you", "--loud"]) == 0 and capsys.readouterr().out == "hello you!\n"
    assert main(["many", "two", "x"]) == 0 and capsys.readouterr().out == "two x\n"
    assert main(["greet", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Greet somebody." in out and "Usage: staffa greet" in out and "--loud" in out
    assert main(["code"]) == 7


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sad"], 2, "staffa sad: plug-in 'sad' (sad_words_plugin:x) cannot be imported: ZeroDivisionError"),
        (["three"], 2, "plug-in 'three' of weather 1.0 (words_plugin:COMMANDS)"),
        (["refuse"], 2, "not like this"),
        (["fail"], 3, "unexpected RuntimeError: no luck"),
        (["greet"], 2, "Missing argument"),
        (["greet", "x", "--lout"], 2, "No such option"),
        (["gret", "x"], 2, "No such command 'gret'"),
        (["many", "tow"], 2, "No such command 'tow'"),
    ],
)
def test_what_goes_wrong_in_them(site, capsys, words, code, said):
    if words == ["three"]:
        (site / "words_plugin.py").write_text((site / "words_plugin.py").read_text() + "\nCOMMANDS = 3\n")
    assert main(words) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    if words[0] == "gret":
        assert "greet" in err


def test_staffas_own_words_stay_staffas(site, capsys):
    assert main(["status", "--help"]) == 0 and "Show where a campaign stands" in capsys.readouterr().out


def test_one_that_is_registered(site, capsys):
    def hum(tune: str = "la") -> None:
        sys.stdout.write(f"{tune}\n")

    with staffa.register("commands", "hum", hum):
        assert main(["hum", "--tune", "li"]) == 0 and capsys.readouterr().out == "li\n"
    assert main(["hum"]) == 2


def test_the_list_on_the_command_line(site, capsys):
    assert main(["plugins", "list"]) == 0
    out = capsys.readouterr().out
    assert "weather 1.0 (nimbus_plugin:workers)" in out and "commands sad: ZeroDivisionError" in out
    assert main(["plugins", "list", "--family", "clusters", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["plugins"]] == ["barren", "cirrus", "nimbus", "rain"] and told["failed"] == 0
    assert main(["plugins", "list", "--family", "cluster"]) == 2 and "'clusters'" in capsys.readouterr().err


# --- renderers -------------------------------------------------------------------------------------

COLUMNS, ROWS = ("name", "seconds"), [("sample", 1.5), ("a|b\nc", None), ('say "x"', 0.1234567891)]


def test_formats_of_our_own(site):
    assert rendered("md", COLUMNS, ROWS) == (
        '| name | seconds |\n| --- | --- |\n| sample | 1.5 |\n| a\\|b c |  |\n| say "x" | 0.123457 |\n'
    )
    assert rendered("csv", COLUMNS, ROWS) == 'name,seconds\nsample,1.5\n"a|b\nc",\n"say ""x""",0.1234567891\n'
    assert json.loads(rendered("json", COLUMNS, ROWS))[1] == {"name": "a|b\nc", "seconds": None}
    assert rendered("csv", COLUMNS, []) == "name,seconds\n" and rendered("json", COLUMNS, []) == "[]\n"


def test_formats_of_plug_ins(site):
    assert formats() == ["md", "csv", "json", "angry", "mute", "org"]
    assert rendered("org", COLUMNS, ROWS[:1]) == "| name | seconds |\n| sample | 1.5 |\n"
    assert rendered("md", COLUMNS, []).startswith("| name | seconds |\n| --- |")
    for form, said in [("mute", "returned NoneType"), ("angry", "raised KeyError"), ("orgg", "no such format")]:
        with pytest.raises(PluginError, match=f"--format {form}: .*{said}"):
            rendered(form, COLUMNS, ROWS)
    with staffa.register("renderers", "count", lambda columns, rows: str(len(rows))):
        assert rendered("count", COLUMNS, ROWS) == "3\n" and "count" in formats()


# --- clusters --------------------------------------------------------------------------------------


def test_a_kind_of_cluster_runs_a_campaign(site, workflow):
    sets = ["cluster={kind: nimbus, options: {cloud: 9}}"]
    run = staffa.run(workflow, set=sets, progress=False)
    assert run.ended.outcomes == {"ok": 3}
    stored = run.results.to_xarray()
    assert stored["cloud"].values.tolist() == [9, 9, 9]
    assert (run.root / "logs" / "nimbus").read_text() == "started"


def test_a_kind_that_yields_a_cluster_object(site, workflow):
    run = staffa.run(workflow, set=["cluster={kind: cirrus, workers: 1}"], progress=False)
    assert run.ended.outcomes == {"ok": 3}


def test_kinds_that_are_refused(site, workflow):
    with pytest.raises(ConfigError, match=r"cluster\.kind: 'nimbs' is not 'local', 'slurm'") as caught:
        staffa.load(workflow, set=["cluster.kind=nimbs"])
    assert "'nimbus'" in caught.value.hint
    with pytest.raises(ConfigError, match=r"cluster.options: has no meaning with cluster.kind: local"):
        staffa.load(workflow, set=["cluster.options={a: 1}"])
    with pytest.raises(PluginError, match="'barren' yields int") as refused:
        staffa.run(workflow, set=["cluster.kind=barren"], progress=False)
    assert "staffa.execution.pool.Pool" in refused.value.hint
    with pytest.raises(ClusterError, match="its workers did not start: OSError: no cloud in sight") as down:
        staffa.run(workflow, set=["cluster.kind=rain"], progress=False)
    assert "staffa resume" in down.value.hint


def test_the_suite_of_clusters(site, workflow, tmp_path):
    import nimbus_plugin

    machine = ClusterConfig.model_validate({"kind": "nimbus", "workers": 1})
    given = {
        "workspace": Workspace.create(tmp_path / "w"),
        "machine": machine,
        "environment": worker_environment(False, "threefry2x32"),
    }
    found = check_family("clusters", nimbus_plugin.workers, **given)
    assert {one.what for one in found} >= {"brings workers", "workers have the environment"}
    with pytest.raises(NotConforming, match="brings workers: ClusterError"):
        check_family("clusters", nimbus_plugin.rain, **given)


# --- experiments on workers ------------------------------------------------------------------------


def test_a_registered_experiment_reaches_the_workers(site, workflow):
    (site / "where_plugin.py").write_text(MODEL)
    import where_plugin

    with staffa.register("experiments", "where", where_plugin.Where):
        run = staffa.run(workflow, set=["experiment.use=where"], progress=False)
        assert run.ended.outcomes == {"ok": 3}
        with (
            LocalCluster(n_workers=1, threads_per_worker=8, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
            pytest.raises(PluginError, match="do not reach the workers of a given client"),
        ):
            staffa.run(workflow, set=["experiment.use=where", "campaign.version=v2.0"], client=client, progress=False)
    with pytest.raises(PluginError, match="unknown sampler or model 'where'"):
        staffa.plan(workflow, set=["experiment.use=where"])

    class Local(where_plugin.Where):
        pass

    with (
        staffa.register("experiments", "local", Local),
        pytest.raises(PluginError, match="which workers cannot import"),
    ):
        staffa.run(workflow, set=["experiment.use=local", "campaign.version=v3.0"], progress=False)
    assert not (workflow.parent / "runs" / "v3.0_where").exists()


# --- encodings -------------------------------------------------------------------------------------

DOCUMENTED = Path(__file__).parents[1] / "docs" / "plugins.md"
PAIRS = """
from fractions import Fraction
import staffa
from units_encoding import Quantity

class Pairs(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0
    def step(self, key, state, params):
        a = params["a"]
        return state, {"share": Fraction(a, 3), "length": Quantity(a / 2, "m" if a < 3 else "ft")}
"""


@pytest.fixture
def documented(site: Path) -> Path:
    """The encodings of docs/plugins.md, installed."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    entries = "[staffa.encodings]\nfraction = fractions_encoding:Fractions\nquantity = units_encoding:Quantities\n"
    assert 'fraction = "fractions_encoding:Fractions"' in DOCUMENTED.read_text()
    install(site, "own-types", "1.0", dict(blocks), entries)
    return site


def test_a_type_of_ones_own(documented, workflow):
    (workflow.parent / "model.py").write_text(PAIRS)
    run = staffa.run(workflow, set=["experiment.use=model.py:Pairs", "execution.retries.limit=0"], progress=False)
    assert run.ended.outcomes == {"ok": 2, "raised": 1}
    from units_encoding import Quantity

    for sealed in (False, True):
        if sealed:
            staffa.consolidate(run.root, prune=True)
        results = staffa.attach(run.root).results
        assert results.trial(1).share == Fraction(2, 3) and results.trial(1).length == Quantity(1.0, "m")
        assert results.draws.share.to_pandas().tolist() == [Fraction(1, 3), Fraction(2, 3)]
        assert results.to_xarray()["length"].values.tolist()[:2] == [Quantity(0.5, "m"), Quantity(1.0, "m")]
        asked = results.query("select share.numerator / share.denominator as x, length from draws order by all")
        assert asked["length"].tolist() == [0.5, 1.0] and abs(asked["x"][0] - 1 / 3) < 1e-12
    assert "output 'length' has unit 'ft', not 'm'" in results.failed.to_pandas()["message"][0]


def test_the_suite_of_encodings(documented):
    from fractions_encoding import Fractions
    from units_encoding import Quantities, Quantity

    assert all(one.holds for one in check_family("encodings", Fractions, values=[Fraction(1, 3), Fraction(-2)]))
    check_family("encodings", Quantities, values=[Quantity(1.0, "m"), Quantity(-0.5, "m")])
    with pytest.raises(NotConforming, match="has unit 'ft', not 'm'"):
        check_family("encodings", Quantities, values=[Quantity(1.0, "m"), Quantity(1.0, "ft")])
    with pytest.raises(NotConforming, match=r"recognises its values: of.. is None for one of"):
        check_family("encodings", Fractions, values=[1.5])
    with pytest.raises(NotConforming, match="values come back"):
        check_family("encodings", forgetful_encoding(), values=[Fraction(3, 2)])
    with pytest.raises(NotConforming, match=r"is not a subclass of staffa\.Encoding"):
        check_family("encodings", Quantity)


def forgetful_encoding() -> Any:
    import fractions_encoding

    class Rounds(fractions_encoding.Fractions):
        def decode(self, plain):
            return plain["numerator"] // plain["denominator"]

    return Rounds


def test_two_plug_ins_that_know_a_type_are_asked_which(documented, workflow):
    from fractions_encoding import Fractions

    (workflow.parent / "model.py").write_text(PAIRS)
    with staffa.register("encodings", "ratio", Fractions):
        with pytest.raises(PluginError, match="which several encodings know: fraction and ratio") as caught:
            staffa.plan(workflow, set=["experiment.use=model.py:Pairs"])
        assert caught.value.hint == 'say which: encodings = {"share": "fraction"}'
        said = PAIRS.replace('vectorize = "off"', 'vectorize = "off"; encodings = {"share": "ratio"}')
        (workflow.parent / "model.py").write_text(said)
        outputs = staffa.plan(workflow, set=["experiment.use=model.py:Pairs"]).plan.groups[0].outputs
        assert {output.name: output.kind for output in outputs} == {"share": "ratio", "length": "quantity"}


def test_a_broken_encoding_harms_nobody_who_needs_it_not(documented, workflow):
    (documented / "fractions_encoding.py").write_text("1 / 0")
    (workflow.parent / "model.py").write_text(PAIRS)
    with pytest.raises(PluginError, match=r"'share' is a Fraction, and nobody knows .*fraction: .*ZeroDivisionError"):
        staffa.plan(workflow, set=["experiment.use=model.py:Pairs"])
    (workflow.parent / "model.py").write_text(PAIRS.replace('"share": Fraction(a, 3), ', ""))
    assert staffa.plan(workflow, set=["experiment.use=model.py:Pairs"]).plan.trials == 3


# --- the runtime, through the front door -----------------------------------------------------------


def test_the_runtime_reaches_every_call(workflow, monkeypatch):
    monkeypatch.delenv("STAFFA_EXECUTION__X64", raising=False)
    with staffa.runtime(x64=True, execution__window=7, set=["replicates=2"]) as here:
        assert staffa.runtime.current() is here
        prepared = staffa.plan(workflow)
        assert prepared.plan.x64 and prepared.plan.trials == 6
        assert not staffa.plan(workflow, set=["execution.x64=false"]).plan.x64
        assert staffa.load(workflow, execution__window=2).declaration.campaign.execution.window == 2
        assert staffa.validate(workflow)["plan"]["trials"] == 6
    assert not staffa.plan(workflow).plan.x64
