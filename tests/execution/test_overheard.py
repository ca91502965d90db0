"""What trials print and log: who is heard, what is kept of it, where it stands, also when their process dies."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import staffa
from here import one_worker
from staffa.errors import ConfigError
from staffa.execution.overheard import KEPT, heard
from staffa.storage.trial_logs import append_lines, as_text, read_lines
from staffa.storage.workspace import Workspace
from staffa.views.sheet import plain
from staffa.views.sheets import explain_sheet

MODEL = """
import logging
import os
import sys
import jax
import staffa

print("a module that is imported speaks for its batch")

class Talks(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return None

    def step(self, key, state, params):
        x = params["x"]
        if x != 6:
            print("x is", x)
            print("worried", file=sys.stderr)
            logging.getLogger("model").warning("measured %s", x)
        if x == 2:
            raise ValueError("not two")
        if x == 3:
            print("last words", flush=True)
            os._exit(7)
        return state, {"y": float("nan") if x == 4 else float(x)}

class Traced(staffa.Experiment):
    def initialize(self, key, params):
        print("traced")
        return params["x"]

    def step(self, key, state, params):
        jax.debug.print("x is {x}", x=params["x"])
        return state, {"y": jax.numpy.log(params["x"] - 2.5)}
"""
CAMPAIGN = """
campaign: {name: talks}
experiment: {use: "model.py:Talks"}
space: [{grid: {x: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}}]
execution: {workers: 1, batch: 3, retries: {limit: 1, backoff: {initial: 0.1}}}
cluster: {dashboard: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(CAMPAIGN + f"storage: {{root: '{folder / 'runs'}'}}\n")
    return folder


@pytest.fixture(scope="module")
def all_of_them(folder: Path) -> Any:
    """Two batches of which one holds a trial that raises and one that ends its process."""
    return staffa.run(folder / "campaign.yaml", set=["execution.logs=all"], progress=False)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "logs" / "trials").glob("*"))


# --- whole runs ------------------------------------------------------------------------------------


def test_each_trial_has_its_own_words(all_of_them: Any) -> None:
    assert all_of_them.ended.outcomes == {"ok": 3, "nan": 1, "raised": 1, "killed": 1}
    assert files(all_of_them.root) == ["logs/trials/g0-0.jsonl", "logs/trials/g0-1.jsonl"], "a file a batch"
    results = all_of_them.results
    for index, x in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        log = results.trial(index).log
        assert f"x is {x}\nworried\n" in log and f"model WARNING measured {x}" in log
        others = [other for other in (1.0, 2.0, 3.0, 4.0, 5.0) if other != x]
        assert not any(f"x is {other}\n" in log for other in others)
    quiet = read_lines(Workspace.open(all_of_them.root).trial_log("g0/1"), 2)
    assert not [line for line in quiet if line["lane"] is not None], "who says nothing has no line"


def test_a_trial_that_raised_says_where_at_every_try(all_of_them: Any) -> None:
    log = all_of_them.results.trial("1").log
    assert log.count('raise ValueError("not two")') == 2
    assert [line for line in log.splitlines() if line.startswith("--- trial")] == [
        line for line in log.splitlines() if line.endswith(", raised")
    ]


def test_a_trial_that_took_its_process_down_left_its_last_words(all_of_them: Any) -> None:
    trial = all_of_them.results.trial("2")
    assert trial.outcome == "killed"
    tries = read_lines(Workspace.open(all_of_them.root).trial_log("g0/0"), 2)
    own = [line for line in tries if line["lane"] == 2]
    assert [line["outcome"] for line in own] == ["killed"] * len(own) and len(own) >= 2
    assert all(line["trial"] == trial.trial and line["text"].endswith("last words\n") for line in own)


def test_explain_shows_the_end_of_it(all_of_them: Any) -> None:
    facts = staffa.explain(all_of_them.root, "1")
    assert facts["log_file"].endswith("logs/trials/g0-0.jsonl") and "ValueError: not two" in facts["log"]
    page = list(plain(explain_sheet(facts)))
    assert "ValueError: not two" in page and page[-1].startswith("next: ")
    assert any(line.startswith("printed (the last 20 of ") for line in page)
    silent = staffa.explain(all_of_them.root, "5")
    assert not [line for line in silent["log"].splitlines() if line.startswith("--- trial")]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with one_worker() as client:
        yield client


def run(folder: Path, client: Client, name: str, *said: str) -> Any:
    space = 'space=[{"grid": {"x": [1.0, 2.0, 4.0, 5.0, 6.0]}}]'
    overrides = [f"campaign.name={name}", space, "execution.retries.limit=0", *said]
    return staffa.run(folder / "campaign.yaml", set=overrides, client=client, progress=False)


def test_only_those_that_failed(folder: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(folder, client, "failed", "execution.logs=failed", "execution.batch=1")
    assert found.ended.outcomes == {"ok": 3, "raised": 1, "nan": 1}
    logs = [found.results.trial(index).log for index in range(5)]
    assert [bool(log) for log in logs] == [False, True, True, False, False]
    assert len(files(found.root)) == 2, "no file of a batch in which nothing failed"
    assert capsys.readouterr().out.count("x is") == 1, "the pilot trial's, when it was planned"


def test_nothing_unless_asked_for(folder: Path, client: Client) -> None:
    found = run(folder, client, "none")
    assert files(found.root) == [] and found.results.trial(1).log == ""
    assert staffa.explain(found.root, "1")["log"] == ""
    with pytest.raises(ConfigError, match="'some' is not 'none', 'failed' or 'all'"):
        run(folder, client, "some", "execution.logs=some")


def test_of_jax_a_batch_is_heard(folder: Path, client: Client) -> None:
    space = 'space=[{"grid": {"x": [3.0, 4.0]}}]'
    whole = run(folder, client, "traced", "experiment.use=model.py:Traced", space, "execution.logs=all")
    log = whole.results.trial(0).log
    assert "--- batch g0/0, attempt 1\n" in log and "traced" in log
    assert "x is 3.0" in log and "x is 4.0" in log, "what jax.debug.print says comes from a thread of XLA's"
    assert whole.results.trial(1).log == log
    nan = run(folder, client, "nan", "experiment.use=model.py:Traced", "execution.logs=failed", "execution.batch=1")
    assert [bool(nan.results.trial(index).log) for index in range(5)] == [True, True, False, False, False]


# --- listening -------------------------------------------------------------------------------------


def test_streams_and_records_of_this_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    ready, go = threading.Event(), threading.Event()

    def somebody_else() -> None:
        ready.set()
        go.wait(240)
        print("not mine")
        logging.getLogger("other").error("not mine either")

    other = threading.Thread(target=somebody_else)
    other.start()
    ready.wait(240)
    with heard() as ear:
        print("mine", end="")
        sys.stdout.writelines([", ", "all\n"])
        logging.getLogger("some").error("noted")
        helper = threading.Thread(target=print, args=("a helper's",))
        helper.start()
        helper.join()
        go.set()
        other.join()
        assert sys.stdout.getvalue() == "not mine\n", "the rest of a stream is the stream's"
    assert ear.text.startswith("mine, all\n")
    assert "some ERROR noted" in ear.text and "a helper's" in ear.text and "not mine" not in ear.text
    assert out.getvalue() == "not mine\n"
    assert sys.stdout is out and sys.stderr is err
    print("after")
    assert out.getvalue() == "not mine\nafter\n"


def test_two_are_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    both, texts = threading.Barrier(2, timeout=240), {}

    def talk(name: str) -> None:
        with heard() as ear:
            for _ in range(50):
                both.wait()
                print(name)
        texts[name] = ear.text

    threads = [threading.Thread(target=talk, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {"a": "a\n" * 50, "b": "b\n" * 50}


def test_the_last_words_are_kept_of_many(tmp_path: Path) -> None:
    beside = tmp_path / "folder" / "process.said"
    with heard(beside) as ear:
        for number in range(40_000):
            ear.write(f"line {number}\n")
        assert beside.read_text().endswith("line 39999\n") and beside.stat().st_size <= 2 * KEPT
    assert len(ear.text) == KEPT and ear.text.endswith("line 39999\n")
    assert ear.dropped == sum(len(f"line {n}\n") for n in range(40_000)) - KEPT
    assert beside.read_text() == "", "nobody died"


def test_a_torn_line_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "g0-3.jsonl"
    line = {"at": 1.0, "batch": "g0/3", "attempt": 1, "lane": 2, "trial": "ab" * 16, "outcome": "raised", "dropped": 9}
    append_lines(path, [{**line, "text": "one\n"}, {**line, "lane": None, "trial": None, "text": "two"}])
    with path.open("a") as file:
        file.write(json.dumps({**line, "text": "torn"})[:40])
    append_lines(path, [])
    assert [found["text"] for found in read_lines(path, 2)] == ["one\n", "two"]
    assert [found["text"] for found in read_lines(path, 1)] == ["two"]
    assert as_text(read_lines(path, 2)).startswith(
        "--- trial abababababab, attempt 1, raised (the first 9 characters are not kept)\none\n"
    )
    assert read_lines(tmp_path / "none.jsonl", 0) == []
