"""The client and the worker of a served search, against real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from search.serve import Process, loss
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.search.answers import Asked, ConflictError, UnknownTrialError
from staffa.search.client import Client
from staffa.search.working import BrokenWorkerError, work


@pytest.fixture
def served(tmp_path):
    with Process(tmp_path / "run", trials=40) as server:
        yield server


def kept(outbox):
    return sorted(json.loads(path.read_text())["body"]["trial"] for path in outbox.glob("*.json"))


def test_a_client_says_and_hears_what_a_study_does(served):
    client = served.client(worker="w")
    one, two, three = client.ask(3).trials
    assert client.tell(one, {"loss": 2.0}).scores == (2.0,)
    assert client.tell(one, {"loss": 2.0}).status == "replayed"
    assert client.tell(two, None, failed="boom").state == "waiting"
    assert client.beat([one.trial, three.trial]).held == (three.trial,)
    assert client.cancel([three.trial], again=True, own=True) == {three.trial: "waiting"}
    assert client.bring(one.params, {"loss": 1.0}).trial == 3
    assert [found["trial"] for found in client.top()] == [3, 0]
    assert [[found["trial"] for found in front] for front in client.fronts(2)] == [[3], [0]]
    assert client.change({"loss": {"direction": "maximize"}}) == {"loss": "maximize"}
    assert [found["trial"] for found in client.top()] == [0, 3]
    assert [found["trial"] for found in client.trials(1)] == [1, 2, 3]
    names = [event["event"] for _, event in client.events(follow=False)]
    assert names == ["opened", "asked", "told", "failed", "cancelled", "brought", "objectives"]
    with pytest.raises(ConflictError, match="another result"):
        client.tell(one, {"loss": 3.0})
    with pytest.raises(ConflictError, match="other parameters"):
        client.tell(Asked(two.trial, three.params, 1, 0.0), {"loss": 3.0})
    with pytest.raises(UnknownTrialError, match="no trial 99"):
        client.beat([99])
    with pytest.raises(ConfigError, match=r"values\.los"):
        client.tell(three, {"los": 3.0})
    for wrong in (lambda: Client(served.at["url"], "wrong").status(), lambda: Client("ftp://here", "token")):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(WorkspaceError):
        Client.of(served.folder / "nothing")
    assert served.end() == 0


def test_a_result_nobody_takes_waits_in_the_outbox(served, tmp_path):
    outbox = tmp_path / "outbox"
    client = served.client(outbox=outbox, patience=0.3)
    one, two, three, four = client.ask(4).trials
    served.kill()
    assert client.tell(one, {"loss": 1.0}) is None and client.tell(two, {"loss": 2.0}) is None
    assert client.tell(three, {"loss": 3.0}) is None and kept(outbox) == [0, 1, 2]
    with pytest.raises(ClusterError, match="does not answer"):
        client.ask()
    with pytest.raises(ClusterError):
        Client.of(served.folder, patience=0.1).tell(one, {"loss": 1.0})
    with Process(served.folder, trials=40) as again:
        other = again.client()
        other.tell(two, {"loss": 7.0})
        later = again.client(outbox=outbox)
        assert later.tell(four, {"loss": 4.0}).status == "recorded", "another process delivers what one left"
        assert kept(outbox) == [] and kept(outbox / "refused") == [1]
        assert "another result" in next((outbox / "refused").iterdir()).read_text()
        values = [found["values"]["loss"] for found in other.trials()]
        assert values == [1.0, 7.0, 3.0, 4.0]


def test_a_server_that_comes_back_is_waited_for(served):
    client = served.client(worker="w")
    (one,) = client.ask(key="k").trials
    served.kill()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.ask(key="k")))
    telling = threading.Thread(target=lambda: answers.append(client.tell(one, {"loss": 1.0})))
    asking.start(), telling.start()
    with Process(served.folder, trials=40) as again:
        asking.join(30), telling.join(30)
        given, verdict = sorted(answers, key=lambda answer: type(answer).__name__)
        assert [asked.trial for asked in given.trials] == [one.trial] and verdict.trial == one.trial
        assert again.client().status()["asked"] == 1


def test_workers_do_a_whole_search(served):
    seen, token = [], served.token

    def trial(params):
        seen.append(params)
        if len(seen) == 3:
            raise ValueError("once")
        return loss(params)

    found = []
    arguments = (served.at["url"], token, trial)
    workers = [
        threading.Thread(target=lambda more=more: found.append(work(*arguments, **more)))
        for more in ({"threads": 3}, {"ahead": 0}, {"threads": 2, "ahead": 4})
    ]
    [worker.start() for worker in workers], [worker.join() for worker in workers]
    assert sum(one.told for one in found) == 40 and sum(one.failed for one in found) == 1 and len(seen) == 41
    records = list(served.client().trials())
    assert [record["values"] for record in records] == [{"loss": loss(record["params"])} for record in records]
    assert max(record["attempt"] for record in records) == 2 and work(*arguments).told == 0


def test_a_worker_that_does_it_wrong_stops_and_hands_back_what_it_had(served):
    with pytest.raises(ConfigError, match=r"values\.los: .*\n.*did you mean 'loss'"):
        work(served.at["url"], served.token, lambda params: {"los": 1.0})
    assert served.client().status()["trials"]["pending"] == 0
    with pytest.raises(BrokenWorkerError, match=r"(?s)5 trials in a row failed.*ZeroDivisionError"):
        work(served.at["url"], served.token, lambda params: 1 / 0)
    states = [record["state"] for record in served.client().trials()]
    assert states.count("quarantined") <= 1 and "pending" not in states, "the search is not spoilt"


WORKER = """
import sys, time
from pathlib import Path
from staffa.search.working import work
def trial(params):
    Path(sys.argv[3]).open("a").write("x")
    time.sleep(0.3)
    return 1.0
print(work(sys.argv[1], sys.argv[2], trial, threads=2, ahead=2))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_worker_that_is_told_to_stop_finishes_and_hands_back(served, tmp_path, number):
    begun = tmp_path / "begun"
    words = [sys.executable, "-c", WORKER, served.at["url"], served.token, begun]
    worker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    served.wait_until(lambda: begun.exists())
    worker.send_signal(number)
    said, _ = worker.communicate(timeout=30)
    count = len(Path(begun).read_text())
    assert worker.returncode == 0 and said.startswith(f"Worked(told={count}, failed=0")
    trials = served.client().status()["trials"]
    assert trials["pending"] == 0 and trials["recorded"] == count and trials["waiting"] >= 1
    assert all(record["attempt"] == 1 for record in served.client().trials())


def test_heartbeats_keep_trials_that_take_longer_than_a_lease(tmp_path):
    with Process(tmp_path / "run", trials=2, lease=0.5) as server:
        work(server.at["url"], server.token, lambda params: (time.sleep(1.2), loss(params))[1], threads=2)
        assert [record["attempt"] for record in server.client().trials()] == [1, 1]
