"""The command line: what is refused, what is answered, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from staffa.cli import main

HEAVY = (
    "dask",
    "distributed",
    "jax",
    "zarr",
    "pyarrow",
    "pandas",
    "duckdb",
    "xarray",
    "numpy",
    "pydantic",
    "rich",
    "matplotlib",
    "jinja2",
)

MODEL = """
import jax, jax.numpy as jnp
import staffa

class Walk(staffa.Experiment):
    def __init__(self, size: int = 2):
        self.size = size
    def initialize(self, key, params):
        return jnp.zeros(self.size)
    def step(self, key, state, params):
        state = state + params["scale"] * jax.random.normal(key, (self.size,))
        return state, {"x": state}
"""

CAMPAIGN = """
campaign: {name: walk, version: v1.0}
experiment: {use: "model.py:Walk"}
space:
  - grid: {kind: [warm, cold]}
  - linspace: {scale: [0.1, 1.0, 8]}
sampling: {draws: 2}
execution: {workers: 1}
cluster: {dashboard_port: 0}
"""


COMMAND = (sys.executable, "-m", "staffa")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Try to run the campaign; the lines of the complaint, after checking that nothing else happened."""

    def attempt(*overrides: str, campaign: str = CAMPAIGN, model: str = MODEL) -> list[str]:
        (folder / "campaign.yaml").write_text(campaign)
        (folder / "model.py").write_text(model)
        before = sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts)
        sets = [word for override in overrides for word in ("--set", override)]
        code = main(["run", str(folder / "campaign.yaml"), "--set", f"storage.root={folder / 'runs'}", *sets])
        seen = capfd.readouterr()
        assert (code, seen.out) == (2, "")
        assert "Traceback" not in seen.err
        assert before == sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts), "nothing is written"
        return seen.err.splitlines()

    return attempt


# --- help and imports ------------------------------------------------------------------------------


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys\nfrom staffa.cli import main\n"
        f"code = main(['--help'])\nsys.exit(code or ' '.join(m for m in {HEAVY} if m in sys.modules) or None)"
    )
    seconds = []
    for _ in range(3):
        # What the processor spent: the clock on the wall also counts whoever else is at work.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert found.returncode == 0, found.stderr
    listed = [line.split()[0] for line in found.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    commands = "plan", "run", "resume", "stop", "status", "watch", "retry", "explain", "consolidate", "query", "config"
    assert set(commands) <= set(listed)
    assert min(seconds) < 0.3


def test_import_is_light() -> None:
    code = f"import sys, staffa\nsys.exit(' '.join(m for m in {HEAVY} if m in sys.modules) or None)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("words", [["run"], ["query"], ["config"], ["config", "explain"]])
def test_help_of_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    assert "Usage: staffa" in capsys.readouterr().out


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("replicats=3", "--set: replicats: unknown key", "replicates"),
        ("sampling.draw=3", "--set: sampling.draw: unknown key", "draws"),
        ("sampling.draws=many", "sampling.draws: 'many' is not an integer", "Draws kept per trial"),
        ("sampling.draws=-3", "sampling.draws: -3 must be at least 1", "Draws kept per trial"),
        ("experiment.use=model.py:Wlak", "--set: experiment.use: 'model.py:Wlak': model.py has no class", "'Walk'"),
        ("experiment.use=modle.py:Walk", "'modle.py:Walk': there is no file 'modle.py'", "model.py"),
        ("experiment.use=smcc", "experiment.use: unknown sampler or model 'smcc'", "did you mean 'smc'"),
        ("experiment.sise=3", "experiment.sise: Walk has no option 'sise'", "size"),
        ("experiment.size=three", "experiment.size: 'three'", ""),
        ("space=[{grid: {scale: []}}]", "space[0].grid.scale is empty", ""),
        ("space=[{grid: {scale: [1.0]}}, {exclude: [{scale: 1.0}]}]", "no point is left", "exclude"),
        ("space=[{grid: {scale: [1.0, 1.0]}}]", "point 1 repeats point 0", "duplicates: merge"),
        ("archive.partition_by=[knid]", "archive.partition_by: 'knid' is not a parameter", "kind"),
        ("space=[{sobol: {scale: [0.1, 1.0]}, points: 4}]|archive.partition_by=[scale]", "continuous", "listed values"),
        ("nonsense", "--set nonsense: is not field=value", "sampling.draws=100"),
    ],
)  # fmt: skip
def test_bad_values(refused: Callable[..., list[str]], override: str, message: str, hint: str) -> None:
    lines = refused(*override.split("|"))
    assert message in lines[0] and (not hint or hint in lines[1]) and len(lines) <= 2


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("replicats: 3", "campaign.yaml:10: replicats: unknown key", "replicates"),
        ("replicates: three", "campaign.yaml:10: replicates: 'three' is not an integer", ""),
        ("extra: !!python/object/apply:os.system [touch pwned]", "campaign.yaml:10: extra: the tag", "without tags"),
        ("seeds: {global_seed: [1", "campaign.yaml:11: not valid YAML", "syntax"),
        ("archive: {partition_by: [knid]}", "campaign.yaml:10: archive.partition_by: 'knid'", "kind"),
    ],
)  # fmt: skip
def test_bad_files(refused: Callable[..., list[str]], line: str, message: str, hint: str) -> None:
    lines = refused(campaign=f"{CAMPAIGN}{line}\n")
    assert message in lines[0] and hint in lines[1] and len(lines) == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("        return state, {", "        if state[0] > 0: pass\n        return state, {", "model.py:12"),
        ("return state, {", "return jnp.concatenate([state, state]), {", "changes state from float32[2] to float32[4]"),
        ("def step", "def stpe", "Walk has no method 'step'"),
        ('params["scale"]', 'params["scael"]', "did you mean 'scale'"),
        ("import staffa", "import staffa, nonsense", "No module named 'nonsense'"),
        ("class Walk(", "class Walk((", "SyntaxError"),
        ('{"x": state}', '{"scale": state}', "both a parameter and an output"),
        ("jnp.zeros(self.size)", "jnp.zeros(params['scale'])", "model.py:9"),
    ],
)  # fmt: skip
def test_bad_models(refused: Callable[..., list[str]], before: str, after: str, message: str) -> None:
    assert before in MODEL
    lines = refused(model=MODEL.replace(before, after))
    assert message in lines[0] and len(lines) <= 2


def test_several_complaints_at_once(refused: Callable[..., list[str]]) -> None:
    lines = refused(campaign=CAMPAIGN + "replicats: 3\nseeds: {global_sed: 1}\n")
    assert len(lines) == 3 and "replicats" in lines[0] and "global_sed" in lines[1]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["rnu"], "No such command 'rnu'", "--help"),
        (["zzz"], "No such command 'zzz'", "resume"),
        (["run"], "Missing argument", "staffa run --help"),
        (["run", "x.yaml", "--bogus"], "No such option", "staffa run --help"),
        (["watch", "x", "--interval", "soon"], "Invalid value for '--interval'", "staffa watch --help"),
        (["run", "{folder}/campain.yaml"], "no such file", "campaign.yaml"),
        (["run", "{folder}"], "cannot be read", "YAML"),
        (["plan", "{folder}/campaign.yaml", "--cluster", "perlmuter"], "--cluster perlmuter", "perlmutter"),
        (["plan", "{folder}/campaign.yaml", "--profile", "quick"], "--profile quick", "profiles/quick.yaml"),
        (["status", "{folder}"], "never planned here", "staffa run"),
        (["status", "{folder}/nowhere"], "no such folder", ""),
        (["resume", "{folder}/model.py"], "it is a file", ""),
        (["query", "{folder}/nowhere", "select 1"], "no such folder", ""),
        (["run", "{folder}/campaign.yaml", "--set", "storage.root={folder}/model.py"], "Not a directory", "root"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_words(
    folder: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str, hint: str, as_json: bool
) -> None:
    code = main([*(word.replace("{folder}", str(folder)) for word in words), *["--json"] * as_json])
    seen = capfd.readouterr()
    assert (code, seen.out) == (2, "")
    if as_json:
        found = json.loads(seen.err)
        assert message in found["error"] and hint in found["hint"]
    else:
        lines = seen.err.splitlines()
        assert message in lines[0] and hint in "".join(lines[1:]) and len(lines) <= 2


def test_unreadable_workspace(mixed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(mixed.root, tmp_path / "run"))
    assert main(["status", str(root)]) == 0
    root.chmod(0)
    superuser = os.geteuid() == 0
    capsys.readouterr()
    try:
        if superuser:
            os.seteuid(65534)  # root may read everything
        code = main(["status", str(root)])
    finally:
        if superuser:
            os.seteuid(0)
        root.chmod(0o700)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 2 and "cannot be read: permission denied" in lines[0]


def test_debug_shows_where(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(folder / "nowhere"), "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device"), 3, "make room"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied"),
        (ZeroDivisionError("division by zero"), 3, "unexpected ZeroDivisionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_else_goes_wrong(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    words: str,
) -> None:
    from staffa import api

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, "run", fail)
    assert main(["run", str(folder / "campaign.yaml"), "--set", "storage.root=/tmp/x y"]) == code
    seen = capfd.readouterr().err
    assert words in seen and "Traceback" not in seen
    if code == 130:
        assert "staffa resume '/tmp/x y/v1.0_walk'" in seen


# --- plan and config -------------------------------------------------------------------------------


def test_plan(workflow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(workflow / "campaign.yaml"), "--set", f"storage.root={tmp_path / 'runs'}"]
    assert main(words) == 0
    text = capsys.readouterr().out
    for piece in (
        "trials    48",
        "16, 7 programs",
        "16 parts, 4 partitions by kind, population",
        "for 1,000 trials",
        "kind=a b/ü=1, population=64, size=5",
        "energy float32, x float32[5]",
        "nothing was written",
    ):
        assert piece in text, piece
    assert not (tmp_path / "runs").exists()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trials"], found["groups"], found["parts"], found["merged"]) == (48, 16, 16, 0)
    assert found["partitions"][0]["partition"] == {"kind": "warm", "population": 8}
    assert found["next"].startswith("staffa run ")


def test_plan_counts_merged_duplicates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["--set", "space=[{grid: {scale: [1.0, 1.0, 2.0]}}]", "--set", "duplicates=merge"]
    assert main(["plan", str(folder / "campaign.yaml"), *overrides]) == 0
    assert "2 (1 duplicate merged away)" in capsys.readouterr().out


def test_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", str(folder / "campaign.yaml"), "--set", "replicates=3"]) == 0
    rows = {line.split()[0]: line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()}
    assert rows["replicates"].split() == ["3", "set"]
    assert rows["sampling.draws"].endswith("campaign.yaml:7") and rows["sampling.thin"].split() == ["1", "default"]
    assert main(["config", "explain", str(folder / "campaign.yaml"), "--json"]) == 0
    assert {"field", "value", "tier", "from"} == set(json.loads(capsys.readouterr().out)[0])
    assert main(["config", "schema"]) == 0
    assert "sampling" in json.loads(capsys.readouterr().out)["properties"]


# --- a finished campaign ---------------------------------------------------------------------------


def test_looking(mixed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(mixed.root)

    def out(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    assert "48 of 48 settled (100 %)" in out("status", run) and "nan 8, ok 36, raised 4" in out("status", run)
    assert json.loads(out("status", run, "--json"))["figures"]["settled"] == 48
    assert "quarantined  4" in out("watch", run, "--interval", "0.2")
    assert json.loads(out("watch", run, "--json"))["live"] is False
    told = out("explain", run, "0")
    assert "part-00000" in told and "was issued to" in told and "population  8" in told
    assert json.loads(out("explain", run, "0", "--json"))["state"] == "archived"
    assert "no driver is running" in out("stop", run)
    sql = "select kind, count(*) as n, max(energy) as top from draws where sampler like '%Walk' group by 1 order by 1"
    assert out("query", run, sql).splitlines()[0].split() == ["kind", "n", "top"]
    rows = json.loads(out("query", run, sql, "--json"))
    assert rows["total"] == 2 and rows["rows"][0] == {"kind": "a b/ü=1", "n": 36, "top": None}, "NaN is null in JSON"
    assert "… and 43 more rows" in out("query", run, "from trials", "--limit", "1")


def test_a_reader_that_has_seen_enough(mixed: Any) -> None:
    command = f"{sys.executable} -m staffa query '{mixed.root}' 'from draws' --limit 0 | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and found.stdout.startswith("trial") and found.stderr == ""


def test_retry_is_noted_for_the_next_driver(mixed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(mixed.root, tmp_path / "run")
    assert main(["retry", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == ["4 trials will be tried again", f"next: staffa resume {root}"]


# --- runs ------------------------------------------------------------------------------------------


def test_run_resume_refuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One small campaign: run, run again, run changed, resumed with other code."""
    campaign, root = folder / "campaign.yaml", folder / "runs" / "v1.0_walk"
    words = ["run", str(campaign), "--set", f"storage.root={folder / 'runs'}"]
    first = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == f"{root}: 16 trials" and lines[1].startswith("started with 1 worker")
    assert f"results  {root}/archive (2 of 2 parts sealed)" in first.stdout
    assert f'next     staffa query {root} "select * from trials limit 5"' in first.stdout
    assert lines[-1].split() == ["ok", "16"] and first.stderr == ""

    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resumed"] and found["outcomes"] == {"ok": 16} and found["missing"] == 0

    for changed in ([*words, "--set", "sampling.draws=4"], ["resume", str(root), "--set", "sampling.draws=4"]):
        assert main(changed) == 2
        complaint = capsys.readouterr().err
        assert "sampling.draws: 2 there, 4 here" in complaint and "staffa expand" in complaint

    (folder / "model.py").write_text(MODEL.replace('"scale"]', '"scale"] * 2'))
    assert main(["resume", str(root)]) == 2
    assert "--accept-code-change" in capsys.readouterr().err


def test_flagged_run_ends_with_counts_by_class(mixed: Any, workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(workflow / "campaign.yaml"), "--set", f"storage.root={workflow.parent / 'runs'}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "resumed with 1 worker" in lines[1] and any("an unchanged campaign was resumed" in line for line in lines)
    assert [line.split() for line in lines[-4:]] == [["ok", "36"], ["nan", "8"], ["raised", "4"], ["quarantined", "4"]]


SLOW = """
import time
import staffa

class Walk(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0.0
    def step(self, key, state, params):
        time.sleep(0.25)
        return state, {"x": params["scale"]}
"""


def test_interrupted_resumed_and_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C reaches every process of a terminal's group; only the driver may heed it."""
    (folder / "model.py").write_text(SLOW)
    root = folder / "runs" / "v1.0_walk"
    words = ["run", str(folder / "campaign.yaml"), "--set", f"storage.root={folder / 'runs'}"]

    def committed(more_than: int) -> Callable[[], bool]:
        return lambda: len(list(root.glob("hot/0/*.zarr/status/c.*"))) > more_than

    with driver(*words, "--set", "execution.batch=1") as process:
        wait_for(committed(0), process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping: letting" in out and "in flight commit; Ctrl-C again leaves at once" in out
    assert f"next     staffa resume {root}" in out and "was lost" not in out and err == ""

    assert main(["status", str(root), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert 0 < state["figures"]["settled"] < 16 and state["run"]["reason"] == "interrupted"
    assert main(["explain", str(root), "15", "--json"]) == 0
    waiting = json.loads(capsys.readouterr().out)
    assert waiting["state"] == "planned" and waiting["next"] == f"staffa resume {root}"

    with driver("resume", str(root)) as process:
        wait_for(committed(state["figures"]["settled"]), process)
        assert main(["resume", str(root)]) == 2
        assert f"pid {process.pid}" in capsys.readouterr().err, "a second driver is refused, the first one named"
        assert main(["status", str(root)]) == 0 and "running as" in capsys.readouterr().out
        assert main(["consolidate", str(root)]) == 0
        assert "asked the driver to seal every ripe part" in capsys.readouterr().out
        assert main(["stop", str(root)]) == 0 and main(["watch", str(root), "--interval", "0.2"]) == 0
        seen = capsys.readouterr().out
        assert f"{root}: 16 trials" in seen and "stopped (exit 130)" in seen, "watching ends with the driver"
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped (asked by staffa stop)" in out, err


@contextlib.contextmanager
def driver(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a terminal would start it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([*COMMAND, *words], stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
