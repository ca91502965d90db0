"""References, plug-ins, options, and the code they live in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.errors import PluginError
from staffa.experiment import plugins, registry
from staffa.experiment.protocol import Experiment
from staffa.experiment.registry import build, load_class, located, parse, reference_of

MODEL = """
from __future__ import annotations
from typing import Any, Literal
import staffa

class Walk(staffa.Experiment):
    def __init__(self, dimension: int = 3, step: float = 0.5, kind: Literal["plain", "fast"] = "plain",
                 sizes: tuple[int, ...] = (), target: Any = None, schedule: "Linear | None" = None):
        self.options = (dimension, step, kind, sizes, target, schedule)
    def initialize(self, key, params): ...
    def step(self, key, state, params): ...

class Needy(Walk):
    def __init__(self, target, *, rate: float): self.options = (target, rate)

class Free(Walk):
    def __init__(self, **options): self.options = options

class Bare(staffa.Experiment):
    def initialize(self, key, params): ...
    def step(self, key, state, params): ...

class Linear:
    def __init__(self, start: float, end: float = 1.0): self.ends = (start, end)

class Angry(Bare):
    def __init__(self):
        raise ValueError("not today")

def function(): ...
"""


def line_of(text: str) -> int:
    return MODEL[: MODEL.index(text)].count("\n") + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def refused(block: dict[str, Any], folder: Path) -> str:
    with pytest.raises(PluginError) as caught:
        build(block, folder)
    return str(caught.value)


# ---- references


def test_references() -> None:
    assert (parse("model.py:Walk").file, parse("model.py:Walk").attribute) == ("model.py", "Walk")
    assert parse("sub/dir/model.py:Walk").file == "sub/dir/model.py"
    assert (parse("smc").file, parse("smc").attribute) == ("", "smc")
    for text, fragment in [
        ("model.py", "use: model.py:<Class>"), ("model.py:", "model.py:Class"), (":Walk", "model.py:Class"),
        ("model.py:a b", "model.py:Class"), ("model.py:Walk()", "model.py:Class"),
    ]:  # fmt: skip
        with pytest.raises(PluginError) as caught:
            parse(text)
        assert repr(text) in str(caught.value) and fragment in str(caught.value)


@given(st.text(max_size=12))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except PluginError as error:
        assert repr(text) in str(error)
    else:
        assert reference.text == text and (not reference.file or reference.attribute.isidentifier())


def test_what_a_reference_does_not_find_is_named_with_its_neighbours(folder: Path) -> None:
    assert "did you mean 'Walk'?" in refused({"use": "model.py:Wlak"}, folder)
    assert "did you mean 'model.py'?" in refused({"use": "modle.py:Walk"}, folder)
    assert "not a subclass of staffa.Experiment" in refused({"use": "model.py:Linear"}, folder)
    assert f"model.py:{line_of('def function')}: " in refused({"use": "model.py:function"}, folder)
    assert "experiment.use: None" in refused({}, folder)
    (folder / "broken.py").write_text("import staffa\nx = (\n")
    assert "broken.py" in refused({"use": "broken.py:X"}, folder) and "line 2" in refused(
        {"use": "broken.py:X"}, folder
    )
    (folder / "lost.py").write_text("import staffa\n\nimport no_such_package\n")
    message = refused({"use": "lost.py:X"}, folder)
    assert "lost.py:3: in <module>: ModuleNotFoundError" in message and "no_such_package" in message


def test_a_line_is_named_where_there_is_source(folder: Path) -> None:
    assert located(load_class("model.py:Walk", folder)) == "model.py:6: "
    assert located(load_class("model.py:Walk", folder).step) == "model.py:11: "
    assert located(len) == "" and located(3) == ""


# ---- options


def test_options_are_typed_keywords(folder: Path) -> None:
    block = {"use": "model.py:Walk", "dimension": "7", "step": 1, "kind": "fast", "sizes": [1, 2]}
    assert build(block, folder).options == (7, 1.0, "fast", (1, 2), None, None)
    assert type(build(block, folder).options[1]) is float
    assert build({"use": "model.py:Walk"}, folder).options == (3, 0.5, "plain", (), None, None)
    assert build({"use": "model.py:Free", "anything": [1]}, folder).options == {"anything": [1]}
    assert isinstance(build({"use": "model.py:Bare"}, folder), Experiment)


@pytest.mark.parametrize(
    ("block", "fragments"),
    [
        ({"use": "model.py:Walk", "dimenson": 3}, ["experiment.dimenson", "Walk", "did you mean 'dimension'?"]),
        ({"use": "model.py:Walk", "dimension": "many"}, ["experiment.dimension: 'many'", "valid integer"]),
        ({"use": "model.py:Walk", "dimension": 2.5}, ["experiment.dimension: 2.5"]),
        ({"use": "model.py:Walk", "kind": "slow"}, ["experiment.kind: 'slow'", "'plain' or 'fast'"]),
        ({"use": "model.py:Bare", "dimension": 3}, ["experiment.dimension", "Bare has no option"]),
        ({"use": "model.py:Needy", "target": 1}, ["experiment.rate", "needs this option"]),
        ({"use": "model.py:Angry"}, [f"model.py:{line_of('raise Val')}: in __init__: ValueError: not today"]),
        ({"use": "model.py:Walk", "target": {"use": "model.py:Lnear"}}, ["did you mean 'Linear'?"]),
        (
            {"use": "model.py:Walk", "target": {"use": "model.py:Linear", "strat": 1.0}},
            ["experiment.target.strat", "did you mean 'start'?"],
        ),
        ({"use": "model.py:Walk", "target": {"use": "model.py:Linear"}}, ["experiment.target.start", "needs"]),
        ({"use": "model.py:Walk", "target": {"use": 3}}, ["experiment.target.use: 3"]),
    ],
)
def test_options_are_refused_by_field_value_and_near_names(
    folder: Path, block: dict[str, Any], fragments: list[str]
) -> None:
    message = refused(block, folder)
    for fragment in fragments:
        assert fragment in message


def test_blocks_nest(folder: Path) -> None:
    inner = {"use": "model.py:Linear", "start": "0.25"}
    walk = build(
        {"use": "model.py:Walk", "target": {"use": "model.py:Walk", "target": inner}, "schedule": inner}, folder
    )
    assert walk.options[5].ends == (0.25, 1.0)
    assert walk.options[4].options[4].ends == (0.25, 1.0)
    # a mapping without `use` is a value like any other
    assert build({"use": "model.py:Walk", "target": {"a": 1}}, folder).options[4] == {"a": 1}


# ---- plug-ins


@pytest.fixture
def walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as pip leaves it: a module and its entry points."""
    site = tmp_path / "site"
    info = site / "walks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[staffa.experiments]\nwalk = staffa_test_walks:Walk\nbroken = staffa_test_walks:Gone\n"
    )
    (site / "staffa_test_walks.py").write_text(MODEL)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "staffa_test_walks", raising=False)


def test_installed_plugins_are_found_by_name(walks: None, folder: Path) -> None:
    walk = build({"use": "walk", "dimension": 4, "target": {"use": "walk"}}, folder)
    assert walk.options[0] == 4 and type(walk.options[4]) is type(walk)
    assert load_class("walk", folder) is type(walk)
    assert "did you mean 'walk'" in refused({"use": "wakl"}, folder)
    message = refused({"use": "broken"}, folder)
    assert "'broken' (staffa_test_walks:Gone) cannot be imported: AttributeError" in message


def test_without_plugins_the_other_way_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.importlib.metadata, "distributions", lambda: ())
    assert "model.py:Class" in refused({"use": "walk"}, folder)


# ---- classes passed by Python users


def test_a_class_of_a_file_beside_the_campaign_has_a_reference(folder: Path) -> None:
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.py", folder / "sub" / "other.py")
    assert reference_of(load_class("sub/other.py:Walk", folder), folder) == "sub/other.py:Walk"
    with pytest.raises(PluginError, match="outside the campaign's folder"):
        reference_of(load_class("model.py:Walk", folder), folder / "sub")


def test_a_class_of_main_is_refused_with_the_two_lines_that_mend_it(folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(
        MODEL + "\nfrom pathlib import Path\nfrom staffa.errors import PluginError\n"
        "from staffa.experiment.registry import reference_of\n"
        "try: reference_of(Walk, Path('.'))\nexcept PluginError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "Walk is defined in __main__" in done.stdout
    assert "%%writefile model.py" in done.stdout and "from model import Walk" in done.stdout

    class Local(Experiment): ...

    with pytest.raises(PluginError, match="Local is defined in"):
        reference_of(Local, folder)


# ---- code


def test_an_unchanged_file_is_one_module_and_an_edited_one_another(folder: Path) -> None:
    first = load_class("model.py:Walk", folder)
    assert load_class("model.py:Walk", folder) is first
    source = (folder / "model.py").read_text()
    (folder / "model.py").write_text(source.replace("0.5", "0.7"))  # same size, same second
    second = load_class("model.py:Walk", folder)
    assert second is not first
    assert second().options[1] == 0.7 and first().options[1] == 0.5
    assert not (folder / "__pycache__").exists()


def test_neighbours_come_from_the_folder_that_is_used(tmp_path: Path) -> None:
    """Two copies of a workflow (its source and the snapshot) differ in a helper."""
    for name in ("source", "snapshot"):
        (tmp_path / name / "pack").mkdir(parents=True)
        body = "import staffa\nfrom helper import WHO\nfrom pack.inner import WHERE\nclass Walk(staffa.Experiment):\n"
        body += "    who = (WHO, WHERE)\n    def initialize(self, key, params): ...\n"
        body += "    def step(self, key, state, params):\n        import late\n        return late.WHO\n"
        (tmp_path / name / "model.py").write_text(body)
        (tmp_path / name / "helper.py").write_text(f"WHO = {name!r}\n")
        (tmp_path / name / "late.py").write_text(f"WHO = {name!r}\n")
        (tmp_path / name / "pack" / "__init__.py").write_text("")
        (tmp_path / name / "pack" / "inner.py").write_text(f"WHERE = {name!r}\n")
    path = list(sys.path)
    classes = [load_class("model.py:Walk", tmp_path / name) for name in ("source", "snapshot")]
    assert [cls.who for cls in classes] == [("source",) * 2, ("snapshot",) * 2]
    assert sys.path == path and not {"helper", "late", "pack", "pack.inner"} & sys.modules.keys()
    for cls, name in zip(classes, ("source", "snapshot"), strict=True):
        with registry.importing_from(tmp_path / name):
            assert cls().step(None, None, {}) == name
    assert not list(tmp_path.rglob("__pycache__"))  # a snapshot stays as it was taken


def test_what_a_notebook_imported_does_not_stand_in_for_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.py").write_text(
        "import staffa, helper\nclass Walk(staffa.Experiment):\n    who = helper.WHO\n"
        "    def initialize(self, key, params): ...\n    def step(self, key, state, params): ...\n"
    )
    (tmp_path / "helper.py").write_text("WHO = 'snapshot'\n")
    stale = types.ModuleType("helper")
    stale.__file__ = "/somewhere/else/helper.py"
    stale.WHO = "kernel"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helper", stale)
    assert load_class("model.py:Walk", tmp_path).who == "snapshot"
    assert sys.modules["helper"] is stale
    # … and an edited neighbour makes its importer a new module too
    (tmp_path / "helper.py").write_text("WHO = 'unedited'\n")
    assert load_class("model.py:Walk", tmp_path).who == "unedited"
    assert load_class("model.py:Walk", tmp_path) is load_class("model.py:Walk", tmp_path)


def test_installed_packages_are_imported_once_even_inside_the_workflows_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment beside the campaign file: its modules are not the workflow's."""
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "staffa_test_lazy.py").write_text("")
    monkeypatch.syspath_prepend(site)
    real = registry.sysconfig.get_path
    monkeypatch.setattr(registry.sysconfig, "get_path", lambda name: str(site) if name == "purelib" else real(name))
    with registry.importing_from(tmp_path):
        import staffa_test_lazy  # type: ignore[import-not-found]
    assert sys.modules.pop("staffa_test_lazy") is staffa_test_lazy
