"""Parameters from declaration to archive: one campaign with constants, formulas, presets, comments; and in Python."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import Client

import staffa
from staffa.api.parameters import One
from staffa.errors import ConfigError, PluginError, WorkspaceError
from staffa.testing import check_experiment
from staffa.views.sheet import plain
from staffa.views.sheets import plan_facts, plan_sheet

MODEL = """
import jax, jax.numpy as jnp
import staffa

class Walk(staffa.Experiment):
    dims = {"x": ("place",)}
    parameters = {
        "temperature": staffa.Parameter(type="float", unit="K", range=(0, 10)),
        "kernel.width": staffa.Parameter(1.0, comment="step of the walk", unit="days since 1970-01-01"),
        "kernel.kind": staffa.Parameter("normal", choices=("normal", "flat")),
        "size": staffa.Parameter(2, comment="places"),
        "area": staffa.Parameter(derived="kernel.width ** 2"),
    }
    static = ("size",)

    def initialize(self, key, params):
        return jnp.zeros(params["size"])

    def step(self, key, x, params):
        draw = {"normal": jax.random.normal, "flat": jax.random.uniform}[params["kernel.kind"]]
        x = x + params["kernel.width"] * draw(key, x.shape)
        return x, {"x": x, "heat": params["temperature"] * params["area"]}

class Plain(Walk):
    vectorize = "off"
    parameters = {name: said for name, said in Walk.parameters.items() if not name.startswith("kernel")}

    def step(self, key, x, params):
        return x, {"x": x, "heat": 0.0}

class Odd(Walk):
    parameters = {"kernel.width": 1.0}
"""
DECLARED = """\
campaign: {name: walk}
experiment: {use: "model.py:Walk"}
space:
  - grid: {temperature: [1, 2, 3]}
parameters:
  temperature: {comment: of the bath, range: [0.5, 5], annotations: {source: a book, page: 12}}
  kernel: {width: 0.5}
  area: {derived: "3 * kernel.width ** 2", unit: mm2}
replicates: 2
sampling: {draws: 4}
execution: {workers: 1}
cluster: {dashboard: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parameters")
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(DECLARED)
    return folder


@pytest.fixture
def campaign(folder: Path) -> staffa.Campaign:
    """One that nobody has run, with nothing explored."""
    return staffa.load(folder / "campaign.yaml", space=[], storage__root=str(folder / "new"))


@pytest.fixture(scope="module")
def run(folder: Path, workers: Client) -> staffa.Run:
    return staffa.run(folder / "campaign.yaml", set=[f"storage.root={folder}"], progress=False, client=workers)


@pytest.fixture
def copied(run: staffa.Run, tmp_path: Path) -> staffa.Run:
    return staffa.attach(shutil.copytree(run.root, tmp_path / "runs" / run.root.name))


# --- from the declaration to the archive -------------------------------------------------------------


def test_every_trial_has_them_all(run: staffa.Run) -> None:
    results = run.results
    frame = results.params.to_pandas()
    assert list(frame) == ["temperature", "kernel.width", "kernel.kind", "size", "area", "replicate"]
    assert frame["temperature"].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert set(results.params.kernel.width) == {0.5} and set(results.params.kernel.kind) == {"normal"}
    draws = results.draws.to_pandas()
    assert (draws["heat"] == 0.75 * draws["temperature"]).all() and len(draws) == 24, "the experiment has seen them"
    assert results.query("select distinct size, area from trials").to_numpy().tolist() == [[2, 0.75]]
    trial = results.trial(4)
    assert trial.params.kernel.width == 0.5 and trial.params.area == 0.75 and trial.group.static["size"] == 2
    assert len(results.where('"kernel.width" > 0.4 and temperature > 1')) == 4


def test_what_is_said_of_them_stands_beside_them(run: staffa.Run) -> None:
    results = run.results
    told = results.params.describe()
    assert told.loc["temperature"].to_dict() == {
        "type": "float", "unit": "K", "comment": "of the bath", "explored": True, "value": None, "derived": "",
        "range": [0.5, 5], "choices": [], "annotations": {"source": "a book", "page": 12},
    }  # fmt: skip
    assert told.loc["area", "derived"] == "3 * kernel.width ** 2" and told.loc["area", "unit"] == "mm2"
    assert told["explored"].tolist() == [True, False, False, False, False]
    assert told["value"].tolist() == [None, 0.5, "normal", 2, None] and told["type"].tolist()[3] == "int"
    assert list(results.params.kernel.describe().index) == ["kernel.width", "kernel.kind"]
    for name in ("draws", "trials"):
        field = pq.read_schema(results.table(name).files[0]).field("temperature")
        said = {key.decode(): text.decode() for key, text in field.metadata.items()}
        assert (said["unit"], said["comment"]) == ("K", "of the bath")
        assert json.loads(said["annotations"]) == {"source": "a book", "page": 12}
    arrays = results.to_xarray()
    assert arrays["temperature"].attrs["units"] == "K" and arrays["temperature"].attrs["long_name"] == "of the bath"
    assert arrays["area"].attrs["derived"] == "3 * kernel.width ** 2"
    assert arrays["kernel.width"].dtype == "float64", "days since something are numbers here"


def test_the_plan_and_the_frozen_file_tell_them(run: staffa.Run, folder: Path) -> None:
    from staffa.campaign import config

    prepared = staffa.plan(folder / "campaign.yaml")
    facts = {**plan_facts(prepared.plan, run.root, prepared.bytes, prepared.files), "next": ""}
    page = "\n".join(plain(plan_sheet(facts)))
    assert "temperature   explored, in K, within [0.5, 5]: of the bath" in page
    assert "area          = 3 * kernel.width ** 2 mm2" in page and "size          2: places" in page
    frozen = config.load_frozen(run.root / "campaign.yaml", directory=folder)
    values = {path: value for path, value, _ in config.explain(frozen) if path.startswith("parameters.")}
    assert values["parameters.kernel.width.value"] == 0.5 and values["parameters.temperature.annotations.page"] == 12


def test_trials_are_reproduced_with_them(run: staffa.Run) -> None:
    assert staffa.reproduce(run.root, trials=2, seed=1)["agree"]


# --- what is frozen, and what grows -----------------------------------------------------------------


def changed(folder: Path, *pairs: tuple[str, str]) -> Path:
    text = DECLARED
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path = folder / "changed.yaml"
    path.write_text(text)
    return path


def test_comments_may_change_and_values_may_not(run: staffa.Run, folder: Path, workers: Client) -> None:
    said = ("comment: of the bath, range: [0.5, 5]", "comment: of the oven, unit: mK, range: [0, 9]")
    again = staffa.run(changed(folder, said), set=[f"storage.root={folder}"], progress=False, client=workers)
    assert again.resumed and again.root == run.root
    for pair, path in (
        (("width: 0.5", "width: 0.6"), "parameters.kernel.width.value: 0.5 there, 0.6 here"),
        (("3 * kernel", "4 * kernel"), "parameters.area.derived: '3 * kernel.width"),
        (("{width: 0.5}", "{width: 0.5, kind: flat}"), "parameters.kernel.kind.value: '(absent)' there, 'flat' here"),
    ):
        with pytest.raises(WorkspaceError) as caught:
            staffa.run(changed(folder, pair), set=[f"storage.root={folder}"], progress=False, client=workers)
        assert path in caught.value.message and "staffa expand" in caught.value.hint


def test_a_range_is_widened_and_a_constant_explored(copied: staffa.Run, folder: Path, workers: Client) -> None:
    with pytest.raises(ConfigError, match=r"space\[0\].grid.temperature: 7.0 is not within \[0.5, 5\]"):
        staffa.expand(copied.root, set=["space[0].grid.temperature=[1, 7]"])
    wider = changed(
        folder, ("range: [0.5, 5]", "range: [0.5, 9]"),
        ("grid: {temperature: [1, 2, 3]}", "grid: {temperature: [1, 7], kernel.width: [0.5, 2]}"),
    )  # fmt: skip
    told = staffa.expand(copied.root, wider)
    assert (told["added"], told["present"], told["outside"]) == (6, 2, 4), "at 0.5 they stood, as a constant"
    results = staffa.resume(copied.root, progress=False, client=workers).results
    found = results.query('select temperature, "kernel.width" w, area, heat from draws where draw = 0').to_numpy()
    assert len(found) == 12 and all(area == 3 * w**2 and heat == t * area for t, w, area, heat in found)
    assert results.params.describe()["explored"].to_dict()["kernel.width"]
    assert results.params.describe().loc["temperature", "range"] == [0.5, 9]
    mended = staffa.expand(copied.root, set=["parameters.temperature.comment=of the oven"])
    assert mended["added"] == 0 and len(staffa.attach(copied.root).results.draws) == 12 * 4
    assert staffa.attach(copied.root).results.params.describe().loc["temperature", "comment"] == "of the oven"


# --- experiments --------------------------------------------------------------------------------------


def test_plain_python_and_odd_declarations(folder: Path) -> None:
    plan = staffa.plan(
        folder / "campaign.yaml", set=["experiment.use=model.py:Plain", "parameters.kernel.width.unit=m"]
    )
    # A name that only a formula knows is no stranger.
    assert plan.plan.groups[0].vectorize == "off" and plan.plan.groups[0].traced["kernel.width"] == "float"
    with pytest.raises(PluginError, match=r"model.py:\d+: Odd.parameters\['kernel.width'\] = 1.0") as caught:
        staffa.plan(folder / "campaign.yaml", set=["experiment.use=model.py:Odd"])
    assert "staffa.Parameter(1.0" in caught.value.hint


def test_an_experiment_is_checked_with_its_own_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from staffa.experiment.registry import load_class

    walk = load_class("model.py:Walk", folder)
    assert check_experiment(walk, {"temperature": 1.0, "area": 1.0}, x64=(False,))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"value": 1.0, "range": (2, 3)}, r"^value: 1.0 is not within \[2, 3\]"),
        ({"value": "a", "type": "int"}, "^value: 'a' is str, the parameter is int"),
        ({"value": [1, 2]}, r"^value: \[1, 2\] is not one value"),
        ({"value": math.nan}, "^value: nan is not a finite number"),
        ({"value": 1, "derived": "a"}, "^derived: 'a' beside value: 1"),
        ({"choices": (1, "a")}, "^choices: .* are of several types: int, str"),
        ({"range": (None, None)}, r"^range: \[None, None\] is not \[low, high\]"),
        ({"type": "double"}, "^type: 'double' is none of bool"),
        ({"value": 2**70}, "needs more than 64 bits"),
        ({"annotations": {"a": object()}}, "^annotations: .* is neither a boolean"),
    ],
)
def test_a_parameter_holds_together(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        staffa.Parameter(**said)


def test_numpy_says_what_python_says() -> None:
    assert staffa.Parameter(np.float64(1.0), range=(np.int64(0), 2)) == staffa.Parameter(1.0, range=(0, 2))
    assert staffa.Parameter(1, choices=(1, 2.5)).value == 1.0 and staffa.Parameter(1, choices=(1, 2.5)).type == "float"


# --- in Python ------------------------------------------------------------------------------------------


def test_parameters_are_set_by_natural_names(campaign: staffa.Campaign) -> None:
    campaign.parameters.kernel.width = 2
    campaign.parameters.width.comment = "how wide"
    campaign.parameters.kernel.width.annotations = {"seen": True}
    width = campaign.parameters.kernel.width
    assert isinstance(width, One) and (width.value, type(width.value)) == (2.0, float)
    assert width.unit == "days since 1970-01-01" and width.annotations == {"seen": True} and not width.explored
    campaign.parameters.area = 7.0
    assert campaign.parameters.area.derived == ""
    campaign.parameters.area.derived = "kernel.width * 2"
    campaign.parameters["depth"] = staffa.Parameter(derived="area + 1", unit="layers")
    campaign.explore({"temperature": np.linspace(1, 2, 3)})
    plan = staffa.plan(campaign).plan
    assert plan.about["depth"].unit == "layers" and plan.about["kernel.width"].comment == "how wide"
    assert plan.about["temperature"].comment == "of the bath", "what the file says of others stays"
    assert "temperature" in dir(campaign.parameters) and "how wide" in repr(campaign.parameters.kernel.width)
    assert campaign.parameters.describe().loc["temperature", "explored"]


@pytest.mark.parametrize(
    ("action", "complaint", "hint"),
    [
        (lambda c: setattr(c.parameters.kernel, "width", "a"), "parameters.kernel.width.value: 'a' is str", "0.5"),
        (lambda c: setattr(c.parameters, "temperature", 20.0), "20.0 is not within [0.5, 5]", "of the bath"),
        (lambda c: setattr(c.parameters.kernel, "widht", 1.0), "parameters.kernel has no 'widht'", "'width'"),
        (lambda c: setattr(c.parameters, "kernel", 1.0), "parameters.kernel is a branch", "parameters.kernel.width"),
        (lambda c: setattr(c.parameters.size, "coment", ""), "and no 'coment'", "comment"),
        (lambda c: c.parameters.__setitem__("sizes", 3), "has no parameter 'sizes'", "'size'"),
        (lambda c: setattr(c.parameters.area, "derived", "kernel.wdth"), "'kernel.wdth'", "'kernel.width'"),
        (lambda c: setattr(c.parameters.area, "derived", "2 *"), "'2 *' is not a formula", "such as"),
        (lambda c: c.explore({"temperature": [1, 2], "size": [1]}), "lists of different lengths", "grid"),
        (lambda c: c.explore({"temperature": ["a"]}), "'a' is str, 'temperature' is float", "parameters.temperature"),
        (lambda c: c.explore({"tempertaure": [1]}), "has no parameter 'tempertaure'", "'temperature'"),
        (lambda c: c.explore(grid={"temperature": [1, 50]}), "50.0 is not within [0.5, 5]", "parameters.temperature"),
        (lambda c: c.explore(gird={"size": [1]}), "unknown key 'gird'", "'grid'"),
        (lambda c: c.explore({"area": [1.0]}), "'area' is derived", "parameters.area"),
        (lambda c: staffa.plan(c), "parameters.temperature: 'temperature' has no value", "explore it"),
    ],
)  # fmt: skip
def test_what_is_said_wrongly_changes_nothing(
    campaign: staffa.Campaign, action: Callable[[staffa.Campaign], Any], complaint: str, hint: str
) -> None:
    before = campaign.declaration
    with pytest.raises((ConfigError, AttributeError)) as caught:
        action(campaign)
    assert complaint in str(caught.value) and hint in str(caught.value)
    assert campaign.declaration == before


def test_a_used_campaign_is_locked_and_its_run_grows(
    campaign: staffa.Campaign, tmp_path: Path, workers: Client
) -> None:
    campaign = staffa.Campaign(staffa.load(
        campaign.declaration.directory / "campaign.yaml", space=[], storage__root=str(tmp_path), replicates=1
    ).declaration)  # fmt: skip
    campaign.explore({"temperature": [1.0, 2.0], "size": range(1, 3)})
    run = staffa.run(campaign, progress=False, client=workers)
    for action in (
        lambda: setattr(campaign.parameters, "size", 4),
        lambda: setattr(campaign.parameters.size, "comment", ""),
        lambda: campaign.explore({"kernel.width": [1.0]}),
    ):
        with pytest.raises(ConfigError, match="is locked: the campaign is used by") as caught:
            action()
        assert str(run.root) in caught.value.message and "expand" in caught.value.hint
    for more, complaint in (
        ({"temperature": [3.0]}, "are not the parameters"),
        ({"temperature": [3.0], "siz": [3]}, "'size'"),
        ({"temperature": [3.0], "size": [3, 4]}, "lists of different lengths"),
        ({"temperature": [3.0], "size": ["a"]}, "several types"),
        ({"temperature": [2.0], "size": [2]}, "repeats point 1"),
    ):
        with pytest.raises(ConfigError) as caught:
            run.expand(more)
        assert complaint in str(caught.value)
    assert run.expand({"temperature": np.array([3.0, 4.0]), "size": [1, 1]})["added"] == 2
    assert run.shrink("temperature > 3")["dropped"] == 1
    results = staffa.resume(run.root, progress=False, client=workers).results
    assert results.query("select temperature, size from trials order by 1").to_numpy().tolist() == [
        [1, 1],
        [2, 2],
        [3, 1],
    ]


def test_only_a_list_of_points_gets_longer_by_points(run: staffa.Run, copied: staffa.Run) -> None:
    assert copied.expand({"temperature": [4]}, dry_run=True)["added"] == 2, "a grid of one parameter is such a list"
    staffa.expand(copied.root, space=[{"grid": {"temperature": [1, 2], "size": [2, 3]}}])
    with pytest.raises(ConfigError, match=r"is no list of points that could be longer \(grid\)"):
        copied.expand({"temperature": [4], "size": [2]})
