"""A served search whose server and workers are killed, and one whose 200 clients say things twice and in any order."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter

from search.serve import Process, loss
from staffa.search.answers import ConflictError
from staffa.search.journal import Journal

WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from search.serve import loss
from staffa.search.client import Client
from staffa.search.working import work
def trial(params):
    time.sleep(0.01)
    return loss(params)
folder, outbox = Path(sys.argv[1]), Path(sys.argv[3])
while not (folder / "serving.json").exists():
    time.sleep(0.02)
at = Client.of(folder)
token = (folder / "secrets" / "write.token").read_text().strip()
work(at._url, token, trial, threads=4, outbox=outbox, folder=folder)
"""


def facts(folder):
    with Journal.open(folder / "ledger" / "search.jsonl") as journal:
        return list(journal.read())


def assert_once(folder, trials):
    """Every trial of the journal has one result, the right one."""
    events = facts(folder)
    params = {}
    for event in events:
        if event["event"] == "asked":
            new = {number: one for number, one in zip(event["trials"], event["params"], strict=True) if one is not None}
            assert not set(new) & set(params), "a trial is one set of parameters"
            params |= new
    told = [event for event in events if event["event"] == "told"]
    assert Counter(event["trial"] for event in told) == dict.fromkeys(range(trials), 1)
    assert all(event["values"] == {"loss": loss(params[event["trial"]])} for event in told)
    assert [params[number] for number in range(trials)] == [one for _, one in sorted(params.items())]
    assert len({tuple(one.values()) for one in params.values()}) == trials


def test_server_and_workers_are_killed_at_random_moments(tmp_path):
    """`kill -9`, three times the server and once a worker, until the search is done all the same."""
    folder, trials, chance = tmp_path / "run", 800, random.Random(5)
    said = {"trials": trials, "lease": 2.0, "retries": 50}
    server = Process(folder, **said)
    tests = str(__file__).rsplit("/", 2)[0]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, folder, tests, tmp_path / f"outbox{number}"])
        for number in range(2)
    ]
    server.wait_until(lambda: server.client().status()["trials"]["recorded"] > 20)
    for kill in range(3):
        time.sleep(chance.uniform(0.05, 0.3))
        server.kill()
        if kill == 1:
            workers[0].kill()
        server = Process(folder, **said)
    client = server.client()
    assert workers[1].wait(60) == 0 and workers[0].wait() == -9
    server.wait_until(lambda: client.status()["finished"])
    assert server.end() == 0
    assert_once(folder, trials)


def test_two_hundred_clients_with_twins_and_in_any_order(tmp_path):
    clients, each = 200, 2
    counts, failures, gate = Counter(), [], threading.Barrier(clients)

    def one(number):
        chance = random.Random(number)
        client = server.client(worker=f"c{number}")
        gate.wait(60)
        asked = [trial for _ in range(each) for trial in client.ask(key=f"{number}-{_}").trials]
        asked += client.ask(key=f"{number}-0").trials
        calls = [(trial, twin) for trial in asked for twin in range(chance.randint(1, 3))]
        chance.shuffle(calls)
        for trial, twin in calls:
            key = f"{number}-tell-{trial.trial}-{twin % 2}"
            counts[client.tell(trial, {"loss": loss(trial.params)}, key=key).status] += 1
        try:
            client.tell(asked[0], {"loss": -1.0})
            failures.append(f"{asked[0].trial} has two results")
        except ConflictError:
            counts["refused"] += 1
        client.close()

    def minded(number):
        try:
            one(number)
        except Exception as error:
            failures.append(repr(error))

    with Process(tmp_path / "run", trials=clients * each) as server:
        threads = [threading.Thread(target=minded, args=(number,)) for number in range(clients)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        status = server.client().status()
        assert server.end() == 0
    assert not failures, failures[:3]
    assert counts["recorded"] == clients * each == status["trials"]["recorded"] and status["finished"]
    assert counts["refused"] == clients and counts["replayed"] > clients
    assert_once(tmp_path / "run", clients * each)
