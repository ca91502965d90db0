"""A served search: how long ask and tell take, how long its workers idle, how soon it is back.

    python tests/benchmarks/search_serving.py [--strategy explore] [--trials 10000] [--history 100000]

1. ask + tell of one client over loopback, in a search that has 10,000 trials: with refits going on meanwhile.
2. 64 threads whose trials sleep 1 s: which part of their time they do not (one worker of 64 threads, and 64 workers of
   one thread in one process).
3. A search of 100,000 trials: from starting the server's process to its first answer, and to its first trial.

Prints JSON, milliseconds and seconds; what a limit is set for stands under `limits`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SPACE = {
    "rate": [0.001, 1.0, "log"],
    "leaps": [1, 32, "int"],
    "mass": {"choice": ["unit", "diagonal"]},
    "x": [0.0, 1.0],
}
OBJECTIVES = {"loss": "minimize"}
LIMITS = {"ask_tell_median_ms": 10.0, "idle_percent": 3.0, "resume_seconds": 3.0}


def loss(params: dict) -> float:
    return (params["rate"] - 0.1) ** 2 + (params["x"] - 0.3) ** 2 + 0.01 * params["leaps"]


def opened(folder: Path, strategy: str, trials: int):
    from staffa.search.serving import open_study

    return open_study(folder, SPACE, OBJECTIVES, strategy=strategy, trials=trials, seed=1)


def with_history(folder: Path, count: int) -> Path:
    """The folder of a search that has so many trials, all told."""
    study = opened(folder, "sobol", count)
    while asked := study.ask(4, worker="w"):
        for one in asked:
            study.tell(one.trial, {"loss": loss(one.params)}, attempt=1)
    study.close()
    return folder


class Server:
    """A server process of a search; answers by the time it is made."""

    def __init__(self, folder: Path, strategy: str, trials: int) -> None:
        self.folder = folder
        began = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", folder, strategy, str(trials)])
        while not (folder / "serving.json").exists():
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.01)
        client = self.client()
        client.status()
        self.answered = time.perf_counter() - began
        client.cancel([client.ask().trials[0].trial], again=True)
        self.asked = time.perf_counter() - began

    def client(self, worker: str = "looking"):
        from staffa.search.client import Client

        return Client.of(self.folder, worker=worker)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def latencies(folder: Path, strategy: str, history: int, calls: int) -> dict:
    server = Server(with_history(folder, history), strategy, history + calls + 10)
    client = server.client("one")
    asks, tells = [], []
    for _ in range(calls):
        began = time.perf_counter()
        (asked,) = client.ask().trials
        middle = time.perf_counter()
        client.tell(asked, {"loss": loss(asked.params)})
        asks.append(1000 * (middle - began))
        tells.append(1000 * (time.perf_counter() - middle))
    server.end()
    both = [a + b for a, b in zip(asks, tells, strict=True)]
    return {
        "trials": history,
        "calls": calls,
        "ask_tell_median_ms": statistics.median(both),
        "ask_tell_p95_ms": statistics.quantiles(both, n=20)[-1],
        "ask_tell_max_ms": max(both),
        "ask_median_ms": statistics.median(asks),
        "tell_median_ms": statistics.median(tells),
    }


def idling(folder: Path, strategy: str, threads: int, each: int, *, apart: bool) -> dict:
    """The share of their time that threads spend outside of trials, from their first one's start to the last's end."""
    from staffa.search.working import work

    server = Server(folder, strategy, threads * each)
    said = json.loads((folder / "serving.json").read_text())
    token = (folder / "secrets" / "write.token").read_text().strip()
    spans: dict[int, list[tuple[float, float]]] = {}

    def trial(params: dict) -> float:
        began = time.perf_counter()
        time.sleep(1.0)
        spans.setdefault(threading.get_ident(), []).append((began, time.perf_counter()))
        return loss(params)

    workers = [
        threading.Thread(target=work, args=(said["url"], token, trial), kwargs={"threads": 1 if apart else threads})
        for _ in range(threads if apart else 1)
    ]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    whole = threads * (time.perf_counter() - started)
    status = server.client().status()
    server.end()
    assert status["trials"]["recorded"] == threads * each, status
    wall = sum(found[-1][1] - found[0][0] for found in spans.values())
    busy = sum(end - begin for found in spans.values() for begin, end in found)
    return {
        "threads": threads,
        "trials": threads * each,
        "idle_percent": 100 * (1 - busy / wall),
        "idle_percent_with_start_and_end": 100 * (1 - busy / whole),
    }


def resuming(folder: Path, strategy: str, history: int, times: int) -> dict:
    with_history(folder, history)
    found = []
    for _ in range(times):
        server = Server(folder, strategy, history + 10)
        found.append((server.answered, server.asked))
        server.end()
    answered, asked = map(statistics.median, zip(*found, strict=True))
    size = (folder / "ledger" / "search.jsonl").stat().st_size
    return {"trials": history, "journal_mb": size / 1e6, "resume_seconds": answered, "first_trial_seconds": asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="explore")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--each", type=int, default=15)
    parser.add_argument("--serve", nargs=3)
    said = parser.parse_args()
    if said.serve:
        from staffa.search.serving import serve

        folder, strategy, trials = said.serve
        serve(Path(folder), opened(Path(folder), strategy, int(trials)), port=0, say=lambda line: None)
        return
    with tempfile.TemporaryDirectory(prefix="serving-") as name:
        place = Path(name)
        report = {
            "strategy": said.strategy,
            "cores": os.cpu_count(),
            "latency": latencies(place / "latency", said.strategy, said.trials, said.calls),
            "one_worker": idling(place / "one", said.strategy, said.threads, said.each, apart=False),
            "many_workers": idling(place / "many", said.strategy, said.threads, said.each, apart=True),
            "resume": resuming(place / "resume", said.strategy, said.history, 3),
            "limits": LIMITS,
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
