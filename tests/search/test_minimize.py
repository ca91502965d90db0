"""`staffa.minimize`: real workers, functions that travel by value, workers that die, and what is refused.

Functions stand inside of tests: so they go by value, as those of a script or notebook do.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import staffa
from signals import interruptible
from staffa.errors import ConfigError, PluginError
from staffa.execution.cluster import local_pool
from staffa.storage.workspace import Workspace

LINE = {"x": (-4.0, 4.0)}
LOCK = threading.Lock()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two processes that Dask replaces when they die."""
    workspace = Workspace(tmp_path_factory.mktemp("cluster"))
    with local_pool(workspace, 2, {"OMP_NUM_THREADS": "1"}, dashboard=False, lanes=False) as pool:
        yield pool.client


@pytest.fixture(scope="module")
def thread():
    """One thread of this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as one,
        Client(one, set_as_default=False) as client,
    ):
        yield client


def test_it_finds_the_least_and_tells_all(thread):
    middle = 1.25
    found = staffa.minimize(
        lambda p: {"loss": (p["x"] - middle) ** 2 + (p["kind"] == "b")},
        {"x": (-4.0, 4.0), "kind": {"choice": ["a", "b"]}},
        trials=40, client=thread, progress=False,
    )  # fmt: skip
    assert found.ended == "finished"
    assert found.best.params["x"] == pytest.approx(middle, abs=0.1) and found.best.params["kind"] == "a"
    table = found.trials
    assert table.columns.tolist() == ["x", "kind", "loss", "score", "outcome", "seconds", "tries", "why"]
    assert table.index.tolist() == list(range(40)) and table.index.name == "number"
    assert table["loss"].tolist() == ((table["x"] - middle) ** 2 + (table["kind"] == "b")).tolist()
    assert table["score"].tolist() == table["loss"].tolist()
    assert (table["seconds"] > 0).all() and (table["tries"] == 1).all() and (table["outcome"] == "ok").all()
    assert found.top(3).equals(table.sort_values("loss").head(3)) and found.top(1).index[0] == found.best.trial
    assert "40 trials (40 ok)" in repr(found) and f"trial {found.best.trial}" in repr(found)


def test_a_seed_gives_the_same_trials(thread):
    def several(p):
        time.sleep(0.02 * (p["n"] % 3))  # how long each takes must not matter
        return (p["x"] - 1) ** 2 + p["n"]

    space = {"x": (-4.0, 4.0), "n": (0, 9, "int")}
    runs = [
        staffa.minimize(several, space, trials=24, seed=seed, client=thread, progress=False).trials
        for seed in (3, 3, 4)
    ]
    same, again, other = (run[["x", "n", "loss"]].to_numpy().tolist() for run in runs)
    assert same == again and same != other


def test_a_number_alone_several_objectives_and_targets(thread):
    two = staffa.minimize(
        lambda p: {"near": p["x"] ** 2, "far": (p["x"] - 2) ** 2}, LINE,
        trials=24, strategy="sobol", client=thread, progress=False,
    )  # fmt: skip
    table = two.trials
    front = two.fronts().index.tolist()
    points = list(zip(table["near"], table["far"], strict=True))
    dominated = [any(a <= near and b <= far and (a, b) != (near, far) for a, b in points) for near, far in points]
    assert front == [trial for trial, out in enumerate(dominated) if not out] and 1 < len(front) < 24
    assert table.index[table["front"] == 0].tolist() == front and len(two.fronts(99)) == 24
    assert f"front of {len(front)} trials" in repr(two)
    assert two.objectives == {"near": "minimize", "far": {"group": 1}}
    aimed = staffa.minimize(
        lambda p: p["x"], LINE, objectives={"height": {"target": 3.0, "limit": 0.0, "direction": "maximize"}},
        trials=16, strategy="sobol", client=thread, progress=False,
    )  # fmt: skip
    table = aimed.trials
    assert table["height"].tolist() == table["x"].tolist()
    assert table.loc[table["x"] < 0, "score"].tolist() == [math.inf] * int((table["x"] < 0).sum())
    assert table.loc[table["x"] >= 3, "score"].eq(0.0).all() and "beyond its limit" in table["why"].max()


def test_what_is_raised_is_recorded_and_tried_again(thread):
    seen = collections.Counter()

    def odd(p):
        seen[p["x"]] += 1
        if p["x"] > 2 and seen[p["x"]] == 1:
            raise ValueError("too large")
        if p["x"] < -3:
            sys.exit("enough")
        return None if p["x"] == 0 else {"loss": math.nan if abs(p["x"]) < 0.5 else p["x"], "cost": 1.0}

    def calls(p, inner=odd):
        return inner(p)

    wanted = {"loss": "minimize", "cost": "minimize"}
    found = staffa.minimize(
        calls, LINE, objectives=wanted, trials=32, retries=1, strategy="sobol", client=thread, progress=False
    )
    table = found.trials
    large, small, middle = table["x"] > 2, table["x"] < -3, table["x"].abs() < 0.5
    assert large.any() and small.any() and middle.any()
    assert table.loc[large, ["outcome", "tries"]].to_numpy().tolist() == [["ok", 2]] * int(large.sum())
    assert table.loc[small, "outcome"].eq("raised").all() and table.loc[small, "why"].eq("SystemExit: enough").all()
    assert table.loc[small, "tries"].eq(2).all()
    assert "sys.exit" in found.traceback(int(table.index[small][0]))
    assert table.loc[middle, "outcome"].eq("nan").all() and table.loc[middle, "score"].eq(math.inf).all()
    assert table.loc[middle, "why"].str.contains("loss is nan").all()
    none = staffa.minimize(lambda p: 1 / 0, LINE, trials=3, client=thread, progress=False)
    assert none.best is None and none.top().empty and none.fronts().empty
    assert "3 raised" in repr(none) and "no trial is ranked: ZeroDivisionError" in repr(none)


def test_a_worker_that_dies_costs_its_trial_a_try(cluster, tmp_path):
    """Trials that waited behind it are done elsewhere, and cost nothing."""

    def deadly(p):
        once = tmp_path / f"{p['n']}"
        if p["n"] in (5, 11) and (p["n"] == 11 or not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(p["n"])

    numbers = {"n": {"grid": list(range(16))}}
    found = staffa.minimize(deadly, numbers, trials=16, retries=1, strategy="sobol", client=cluster, progress=False)
    table = found.trials
    assert sorted(table["n"]) == list(range(16)) and found.ended == "finished"
    ended = dict(zip(table["n"], zip(table["outcome"], table["tries"], strict=True), strict=True))
    assert ended.pop(5) == ("ok", 2) and ended.pop(11) == ("killed", 2)
    assert set(ended.values()) == {("ok", 1)}


def test_a_worker_killed_from_outside_and_one_that_takes_too_long(cluster, tmp_path):
    def long(p):
        if p["n"] == 3:
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        if p["n"] == 6:
            time.sleep(600)
        return float(p["n"])

    def killer():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
                os.kill(int(text), signal.SIGKILL)
                return
            time.sleep(0.02)

    watching = threading.Thread(target=killer)
    watching.start()
    numbers = {"n": {"grid": list(range(8))}}
    found = staffa.minimize(long, numbers, trials=8, timeout="6s", strategy="sobol", client=cluster, progress=False)
    watching.join()
    ended = dict(zip(found.trials["n"], found.trials["outcome"], strict=True))
    assert (ended.pop(3), ended.pop(6)) == ("killed", "timeout") and set(ended.values()) == {"ok"}
    assert found.trials.loc[found.trials["outcome"] == "timeout", "why"].tolist() == ["it took longer than 6 s"]


def test_nobody_waits_for_the_slowest(cluster, tmp_path):
    """The first trial ends only when the tenth has: with generations of any size below that, never."""

    def patient(p):
        number = len(list(tmp_path.iterdir()))
        (tmp_path / f"{os.getpid()}-{time.time_ns()}").touch()
        until = time.monotonic() + 60
        while number == 0 and len(list(tmp_path.iterdir())) < 10:
            if time.monotonic() > until:
                raise TimeoutError("the others wait, too")
            time.sleep(0.02)
        return p["x"]

    cluster.wait_for_workers(2, timeout=60)
    found = staffa.minimize(patient, LINE, trials=14, strategy="random", client=cluster, progress=False)
    assert found.trials["outcome"].eq("ok").all()
    assert found.trials["seconds"].max() < 60


def test_a_function_is_loaded_once_by_each_process(cluster, tmp_path):
    class Loaded:
        def __setstate__(self, state):
            self.__dict__.update(state)
            (tmp_path / f"{os.getpid()}-{time.time_ns()}").touch()

        def __init__(self, weight):
            self.weight = weight

        def __call__(self, p):
            return p["x"] * self.weight

    cluster.wait_for_workers(2, timeout=60)
    function = Loaded(2.0)
    for _ in range(2):
        table = staffa.minimize(function, LINE, trials=12, strategy="random", client=cluster, progress=False).trials
        assert table["loss"].tolist() == (2 * table["x"]).tolist()
    counts = collections.Counter(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert set(counts.values()) == {1} and len(counts) == 2
    plugins = cluster.run(lambda dask_worker: list(dask_worker.plugins)).values()
    assert not any("staffa" in name for names in plugins for name in names)


def test_a_function_that_workers_cannot_import(cluster, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def bowl(params):\n    return params['x'] ** 2", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(PluginError, match=r"fn: cannot be loaded on worker .*ModuleNotFoundError") as caught:
        staffa.minimize(module.bowl, LINE, client=cluster, progress=False)
    assert "define it in this script" in caught.value.hint


SCRIPT = """
import asyncio, json, pathlib, sys, time
import jax
import staffa

jax.config.update("jax_enable_x64", True)
MIDDLE = 2.5
SECRET = "never to be stored" * 2

def from_main(params):
    if not SECRET or not jax.numpy.ones(1, float).dtype == "float64":
        return None
    pathlib.Path(sys.argv[1], f"{time.time_ns()}").touch()
    if len(list(pathlib.Path(sys.argv[1]).iterdir())) > 8:
        time.sleep(600)
    return (params["x"] - MIDDLE) ** 2

async def main():  # as in a notebook, where a loop is running
    found = staffa.minimize(from_main, {"x": (0, 4)}, trials=64, workers=1, timeout=900)
    table = found.trials
    columns = [table[name].tolist() for name in ("outcome", "loss", "x")]
    print(json.dumps([found.ended, *columns, repr(found)]))

asyncio.run(main())  # no guard: workers do not run this file
"""


def test_a_script_s_own_function_and_ctrl_c(tmp_path):
    script, seen, temporary = tmp_path / "script.py", tmp_path / "seen", tmp_path / "temporary"
    script.write_text(SCRIPT)
    seen.mkdir()
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "STAFFA_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, str(script), str(seen)], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=interruptible,
    ) as process:  # fmt: skip
        until = time.monotonic() + 100
        while len(list(seen.iterdir())) < 9 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)  # for what came before to arrive
        for path in filter(Path.is_file, tmp_path.rglob("*")):
            assert path == script or b"never to be stored" not in path.read_bytes()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    ended, outcomes, losses, points, shown = json.loads(out.splitlines()[-1])
    assert ended == "interrupted" and "Minimum: interrupted: 10 of 64 trials (8 ok, 2 unfinished)" in shown
    assert outcomes == ["ok"] * 8 + ["missing"] * 2
    assert losses[:8] == [(x - 2.5) ** 2 for x in points[:8]]
    assert "8/64 trials" in out  # what people see while it runs
    assert not list(temporary.glob("staffa-*"))


def test_inside_a_running_loop(thread):
    async def cell():
        return staffa.minimize(lambda p: p["x"] ** 2, LINE, trials=4, client=thread, progress=False)

    assert len(asyncio.run(cell()).trials) == 4


async def _later(params):
    return 1.0


REFUSED = [
    ({"fn": 3}, "fn: 3 cannot be called"),
    ({"fn": lambda x, y: x}, r"fn: takes \(x, y\), but is called with one mapping"),
    ({"fn": _later}, "is async"),
    ({"space": {}}, "space is empty"),
    ({"space": {"x": (1, 0)}}, "space.x"),
    ({"space": {"x": 3}}, "space.x: 3 is not a range"),
    ({"objectives": {"x": "minimize"}}, "objectives.x: is a parameter's name"),
    ({"objectives": {"loss": "smallest"}}, "objectives.loss.direction: 'smallest' is no direction"),
    ({"objectives": {"loss": {"of": "energy.mean"}}}, "objectives.loss.of: 'energy.mean' is for campaigns"),
    ({"trials": 0}, "trials: 0 is not a whole number from 1 on"),
    ({"trials": 2.5}, "trials: 2.5"),
    ({"seed": -1}, "seed: -1 is not a whole number from 0 on"),
    ({"retries": None}, "retries: None"),
    ({"workers": 0}, "workers: 0"),
    ({"strategy": "explor"}, "strategy.use"),
    ({"strategy": {"use": "sobol", "scramble": 3}}, "strategy.scramble"),
    ({"timeout": "soon"}, "timeout: 'soon' is not a duration"),
    ({"timeout": 0}, "timeout: 0 leaves no time"),
    ({"client": "localhost"}, "client: 'localhost' is no distributed.Client"),
]


@pytest.mark.parametrize(("changed", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refused_before_anything_starts(changed, said, monkeypatch):
    monkeypatch.setattr("staffa.execution.minimizing.local_pool", None)
    given = {"fn": lambda p: p["x"], "space": LINE, "progress": False, **changed}
    with pytest.raises((ConfigError, PluginError), match=said):
        staffa.minimize(**given)


@pytest.mark.parametrize(
    ("fn", "more", "said"),
    [
        (lambda p: None, {}, "fn returned None, not a number"),
        (lambda p: "low", {}, "fn returned 'low', not a number"),
        (lambda p: {"loss": [1, 2]}, {}, r"fn returned loss = \[1, 2\], not a number"),
        (lambda p: {}, {}, "are not names of objectives"),
        (lambda p: {"x": 1.0}, {}, "fn returned 'x', which is a parameter's name"),
        (lambda p: {"los": 1.0}, {"objectives": {"loss": "minimize"}}, "'los' is no objective"),
        (lambda p: 1.0, {"objectives": {"a": "minimize", "b": "minimize"}}, "one number, 1.0, but there are 2"),
        (lambda p, lock=LOCK: 1.0, {}, "fn: cannot be sent to workers"),
    ],
)
def test_answers_that_are_none(fn, more, said, thread):
    with pytest.raises(ConfigError, match=said):
        staffa.minimize(fn, LINE, trials=5, client=thread, progress=False, **more)


def test_two_places_for_workers(thread):
    with pytest.raises(ConfigError, match="workers: 2, but the client's cluster has its own"):
        staffa.minimize(lambda p: 1.0, LINE, workers=2, client=thread)
