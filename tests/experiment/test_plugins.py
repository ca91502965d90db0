"""Plug-ins: families, who offers what, and every way in which one can be useless without harming the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment.distributions import install
from staffa.ambient import current, deregister, register
from staffa.errors import PluginError
from staffa.experiment import plugins
from staffa.experiment.plugins import FAMILIES, exported, facts, listed, load, offers, search
from staffa.experiment.protocol import Experiment
from staffa.experiment.registry import build

WALKS = """
import staffa
class Walk(staffa.Experiment):
    def __init__(self, step: float = 0.5, schedule=None): self.step_size, self.schedule = step, schedule
    def initialize(self, key, params): ...
    def step(self, key, state, params): ...
class Linear:
    def __init__(self, start: float): self.start = start
class Cosine(Linear): ...
def table(columns, rows): return "walks"
NUMBER = 3
"""


class Own(Experiment):
    def initialize(self, key: Any, params: Any) -> Any: ...

    def step(self, key: Any, state: Any, params: Any) -> Any: ...


class OwnSchedule:
    def __init__(self, start: float = 0.0) -> None:
        self.start = start


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what was imported from it is forgotten again."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    yield folder
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture
def walks(site: Path) -> Path:
    install(
        site,
        "walks",
        "1.2",
        {"walks_plugin": WALKS},
        "[staffa.samplers]\nwalk = walks_plugin:Walk\n\n[staffa.schedules]\nstraight = walks_plugin:Linear\n"
        "wave = walks_plugin:Cosine\n\n[staffa.renderers]\nwalks = walks_plugin:table\n\n"
        "[console_scripts]\nx = y:z\n",
    )
    return site


def rows(family: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["family"], row["name"]): row for row in listed(family)}


def theirs(family: str) -> list[plugins.Offer]:
    """What others than Staffa offer."""
    return [offer for offer in offers(family) if offer.distribution != "staffa"]


def names_of(family: str) -> list[str]:
    return [offer.name for offer in theirs(family)]


def refused(call: Callable[..., Any], *arguments: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        call(*arguments)
    return caught.value


# --- families --------------------------------------------------------------------------------------


def test_the_families():
    wanted = "experiments samplers schedules resampling fitness metrics strategies reducers renderers clusters commands"
    assert {family.name for family in FAMILIES} >= {*wanted.split(), "trackers"}
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family.what for family in FAMILIES)
    error = refused(offers, "sampler")
    assert "'sampler' is no family" in error.message and "'samplers'" in error.hint


def test_a_family_is_one_line(site, monkeypatch):
    monkeypatch.setattr(plugins, "FAMILIES", (*FAMILIES, plugins.Family("hops", "what moves a state")))
    install(site, "kerns", "0.1", {"kerns_plugin": "def hop(): ..."}, "[staffa.hops]\nhop = kerns_plugin:hop\n")
    assert load("hops", "hop")() is None and rows("hops")["hops", "hop"]["status"] == "ok"


# --- looking and loading ---------------------------------------------------------------------------


def test_looking_reads_metadata_only(walks):
    found = theirs("schedules")
    assert [(offer.name, offer.value) for offer in found] == [
        ("straight", "walks_plugin:Linear"),
        ("wave", "walks_plugin:Cosine"),
    ]
    assert found[1].origin == "walks 1.2 (walks_plugin:Cosine)" and "walks_plugin" not in sys.modules
    assert load("schedules", "wave").__name__ == "Cosine" and "walks_plugin" in sys.modules


def test_listing_says_where_each_comes_from(walks):
    found = rows()
    assert [name for (_, name), row in rows("schedules").items() if row["distribution"] == "walks"] == [
        "straight",
        "wave",
    ]
    row = found["samplers", "walk"]
    assert (row["distribution"], row["version"], row["value"]) == ("walks", "1.2", "walks_plugin:Walk")
    assert (row["status"], row["reason"], row["file"]) == ("ok", "", str(walks / "walks_plugin.py"))
    told = facts(listed())
    assert told["failed"] == 0 and json.loads(json.dumps(told)) == told
    assert {family["group"] for family in told["families"]} >= {"staffa.samplers", "staffa.commands"}


def test_unknown_names_get_their_near_ones(walks):
    error = refused(load, "schedules", "wav", "experiment.schedule.use")
    assert error.message == "experiment.schedule.use: there is no plug-in 'wav' in schedules"
    assert error.hint == "did you mean 'wave'?"
    assert "staffa plugins list" in refused(load, "clusters", "x").hint


# --- what is broken --------------------------------------------------------------------------------

BROKEN = """
[staffa.schedules]
raises = broken_plugin:Anything
gone = walks_plugin:Gone
nowhere = no_such_module:Thing
number = walks_plugin:NUMBER
quits = quitting_plugin:Thing

[staffa.experiments]
wrong = walks_plugin:Linear

[staffa.schedulers]
misspelt = walks_plugin:Linear
"""


@pytest.fixture
def broken(walks: Path) -> Path:
    modules = {"broken_plugin": "1 / 0", "quitting_plugin": "import sys; sys.exit('enough')"}
    install(walks, "broken", "0.1", modules, BROKEN)
    return walks


def test_what_cannot_be_used_is_told_and_harms_nobody(broken):
    found = rows()
    reasons = {name: row["reason"] for (_, name), row in found.items() if row["status"] == "failed"}
    assert reasons["raises"] == "ZeroDivisionError: division by zero"
    assert reasons["gone"].startswith("AttributeError: ") and "Gone" in reasons["gone"]
    assert reasons["nowhere"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert reasons["number"] == "cannot be called"
    assert reasons["quits"] == "SystemExit: enough"
    assert reasons["wrong"] == "is not a subclass of staffa.Experiment"
    assert reasons["misspelt"].startswith("no such family; did you mean 'schedules'")
    assert found["schedules", "straight"]["status"] == "ok" and load("schedules", "straight")


@pytest.mark.parametrize("name", ["raises", "gone", "nowhere", "quits"])
def test_asked_for_by_name_it_is_an_error_that_names_its_owner(broken, name):
    error = refused(load, "schedules", name, "experiment.schedule.use")
    assert error.message.startswith(f"experiment.schedule.use: plug-in '{name}' (") and error.exit_code == 2
    assert "cannot be imported" in error.message and "reinstall broken" in error.hint


def test_what_does_not_fit_is_refused(broken):
    error = refused(load, "schedules", "number")
    assert "plug-in 'number' of broken 0.1 (walks_plugin:NUMBER) cannot be called" in error.message
    assert "is not a subclass of staffa.Experiment" in refused(load, "experiments", "wrong").message


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("[staffa.schedules]\nno equals sign\n", ["failed"]),
        ("[staffa.schedules]\nbad = \n", ["failed"]),
        ("[staffa.schedules\nx = y:z\n", []),  # to Python there is no section, and so no entry point
    ],
)
def test_a_distribution_whose_entry_points_cannot_be_read(walks, entries, told):
    install(walks, "torn", "3.0", {}, entries)
    found = rows()
    assert found["schedules", "straight"]["status"] == "ok" and load("samplers", "walk")
    assert [row["status"] for row in found.values() if row["distribution"] == "torn"] == told


def test_a_distribution_without_metadata(walks):
    install(walks, "nameless", "3.0", {"nameless_plugin": "def f(): ..."}, "[staffa.metrics]\nf = nameless_plugin:f\n")
    (walks / "nameless-3.0.dist-info" / "METADATA").unlink()
    (walks / "binary-1.0.dist-info").mkdir()
    (walks / "binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[staffa.metrics]\n\x00")
    assert rows()["samplers", "walk"]["status"] == "ok"


# --- one name, several owners ----------------------------------------------------------------------


def test_a_name_that_two_distributions_offer_is_refused_for_both(walks):
    other = {"others_plugin": "class Linear: ..."}
    install(walks, "others", "2.0", other, "[staffa.schedules]\nstraight = others_plugin:Linear\n")
    assert [offer.distribution for offer in offers("schedules") if offer.name == "straight"] == ["others", "walks"]
    error = refused(load, "schedules", "straight")
    assert "'straight' is offered in schedules by others 2.0 (others_plugin:Linear) and walks 1.2" in error.message
    assert "uninstall one of them" in error.hint
    found = [row for row in listed("schedules") if row["name"] == "straight"]
    assert [row["status"] for row in found] == ["failed", "failed"]
    assert found[0]["reason"] == "walks 1.2 offers another 'straight'"
    assert load("schedules", "wave")
    with register("schedules", "straight", OwnSchedule):
        assert load("schedules", "straight") is OwnSchedule


def test_two_that_offer_the_same_thing_do_not_contradict_each_other(walks):
    install(walks, "friends", "2.0", {}, "[staffa.schedules]\nstraight = walks_plugin:Linear\n")
    assert load("schedules", "straight").__name__ == "Linear"
    assert all(row["status"] == "ok" for row in listed("schedules"))


def test_of_a_distribution_that_is_there_twice_the_first_counts(walks, tmp_path, monkeypatch):
    first = tmp_path / "first"
    first.mkdir()
    install(first, "walks", "2.0", {}, "[staffa.schedules]\nstraight = walks_plugin:Cosine\n")
    monkeypatch.syspath_prepend(first)
    assert [(offer.name, offer.version) for offer in theirs("schedules")] == [("straight", "2.0")]
    assert theirs("samplers") == []


# --- by hand ---------------------------------------------------------------------------------------


def test_registering_and_deregistering_last_for_a_block(walks):
    with register("schedules", "own", OwnSchedule), deregister("schedules", "wave"):
        assert names_of("schedules") == ["own", "straight"]
        assert load("schedules", "own") is OwnSchedule
        assert "no plug-in 'wave'" in refused(load, "schedules", "wave").message
        with register("schedules", "wave", OwnSchedule), deregister("schedules", "own"):
            assert load("schedules", "wave") is OwnSchedule
            assert "no plug-in 'own'" in refused(load, "schedules", "own").message
        row = rows("schedules")["schedules", "own"]
        assert row["origin"].startswith("registered (") and row["origin"].endswith("test_plugins:OwnSchedule)")
        assert row["file"] == __file__ and row["distribution"] == ""
    assert names_of("schedules") == ["straight", "wave"]
    with register("schedules", "own", 3):
        assert "cannot be called" in refused(load, "schedules", "own").message


def test_the_first_family_that_has_it(walks):
    assert search(("metrics", "schedules"), "straight").__name__ == "Linear"
    assert "in metrics or fitness" in refused(search, ("metrics", "fitness"), "straight").message


# --- in an experiment ------------------------------------------------------------------------------


def test_blocks_find_parts_in_the_family_of_their_option(walks, tmp_path):
    walk = build({"use": "walk", "step": 0.25, "schedule": {"use": "straight", "start": 3}}, tmp_path)
    assert walk.step_size == 0.25 and walk.schedule.start == 3.0
    with register("metrics", "straight", OwnSchedule):
        assert build({"use": "walk", "schedule": {"use": "straight", "start": 1}}, tmp_path).schedule.start == 1
    error = refused(build, {"use": "walk", "schedule": {"use": "linar"}}, tmp_path)
    assert error.message == "experiment.schedule.use: unknown part of an experiment 'linar'"
    assert error.hint.startswith("did you mean 'linear'")
    with register("experiments", "own", Own):
        assert type(build({"use": "own"}, tmp_path)) is Own
    error = refused(build, {"use": "wlak"}, tmp_path)
    assert "experiment.use: unknown sampler or model 'wlak'" in error.message and "'walk'" in error.hint


def test_a_part_that_several_families_offer_is_not_guessed(walks, tmp_path):
    with register("metrics", "straight", OwnSchedule), register("samplers", "both", Own):
        block = {"use": "walk", "step": {"use": "straight"}}
        error = refused(build, block, tmp_path)
        assert "experiment.step.use: 'straight' is offered in schedules and metrics" in error.message
        with register("experiments", "both", type("Both", (Own,), {})):
            message = refused(build, {"use": "both"}, tmp_path).message
            assert "'both' is offered in experiments and samplers" in message


# --- workers ---------------------------------------------------------------------------------------


def test_workers_are_told_what_was_registered(monkeypatch, tmp_path):
    assert exported() == {}
    with register("experiments", "own", Own), register("renderers", "r", print):
        told = exported()
    rows = json.loads(told[plugins.VARIABLE])["plugins"]
    assert rows == [["experiments", "own", f"{Own.__module__}:Own"]]
    # Dask leaves it behind in the driver's environment, where it says nothing.
    monkeypatch.setenv(plugins.VARIABLE, told[plugins.VARIABLE])
    assert theirs("experiments") == [] and exported() == {}
    monkeypatch.setenv(plugins.VARIABLE, json.dumps({"by": "a driver elsewhere", "plugins": rows}))
    assert type(build({"use": "own"}, tmp_path)) is Own
    assert json.loads(exported()[plugins.VARIABLE])["plugins"] == rows  # a worker's own children hear of it, too
    with register("experiments", "own", type("Other", (Own,), {"__module__": __name__})):
        assert type(build({"use": "own"}, tmp_path)).__name__ == "Other"
    for rubbish in ("rubbish [", "3", "[]", '{"by": 1}', '{"by": "x", "plugins": [[1]]}'):
        monkeypatch.setenv(plugins.VARIABLE, rubbish)
        assert theirs("experiments") == []


def test_what_workers_could_not_import_is_refused_here():
    class Local(Own): ...

    with register("experiments", "local", Local):
        error = refused(exported)
    assert "experiments: 'local' was registered as" in error.message and "workers cannot import" in error.message
    assert "use: model.py:Class" in error.hint
    with register("renderers", "local", lambda columns, rows: ""):
        assert exported() == {}  # only the driver renders


def test_another_process_finds_them(walks):
    code = (
        "from staffa.experiment.plugins import load, offers\n"
        "print(load('schedules', 'wave').__name__, len([o for o in offers('samplers') if o.distribution != 'staffa']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Cosine", "1"]
    assert current().plugins.entries == ()
