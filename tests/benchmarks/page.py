"""What the Campaign page costs: of the scheduler, and of a run.

    python tests/benchmarks/page.py [--seconds 30]

`wide`: 100,000 trials in 345 groups on 500 workers, made up, told to a scheduler in a process of its own every
second. `page_ms` is the page's own timer, in milliseconds a second with one browser open (at most 20 are asked
for); `scheduler_ms` is the process's CPU time a second: told nothing, told without anybody looking, and looked
at, receiving and sending included; `driver_ms` is what summing up took the driver. `run`: a real run of 100,000
trivial trials with a browser open; `share` is the page's and the summing up's seconds over the CPU seconds of
driver and workers (at most 0.02). Needs Chromium. Prints JSON.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from distributed import Client
from hundred_thousand import STAFFA, declared
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from seen import synthetic  # noqa: E402

SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
TICK_SECONDS = 0.1


def metrics(link: str) -> dict[str, float]:
    """The first sample of each of our metrics."""
    with urllib.request.urlopen(link.replace("/staffa", "/metrics"), timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {one.name: one.samples[0].value for one in families if one.name.startswith("staffa_") and one.samples}


@contextlib.contextmanager
def scheduler(folder: Path):
    """A scheduler in a process of its own, and a client."""
    file = folder / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    process = subprocess.Popen([sys.executable, "-c", SCHEDULER, *words], stderr=subprocess.DEVNULL)
    try:
        while not file.exists():
            time.sleep(0.1)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            yield psutil.Process(process.pid), client
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def looking(link: str):
    """A browser that has the page open."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(link)
        page.wait_for_selector(".verdict")
        yield page
        browser.close()


def cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def wide(folder: Path, seconds: float) -> dict[str, object]:
    from types import SimpleNamespace

    from staffa.api.driving import PAGE
    from staffa.execution.posting import Poster

    heard, _ = synthetic.overview()
    with scheduler(folder) as (process, client):

        def costs(tell: bool) -> float:
            """CPU milliseconds a second of the scheduler."""
            before, began = cpu(process), time.perf_counter()
            while (now := time.perf_counter() - began) < seconds:
                share = 0.6 + 0.3 * now / seconds
                if tell:
                    told = synthetic.figures(synthetic.TRIALS, synthetic.GROUPS, synthetic.WORKERS, share)
                    poster({"event": "figures", **told})
                time.sleep(TICK_SECONDS)
            return 1000 * (cpu(process) - before) / seconds

        poster = Poster(heard, PAGE)
        pool = SimpleNamespace(client=client, dashboard=client.dashboard_link)
        with poster.posted(pool, SimpleNamespace(failures={})):
            silent, told = costs(False), costs(True)
            with looking(pool.dashboard):
                before = metrics(pool.dashboard)
                seen = costs(True)
                after = metrics(pool.dashboard)
    spent = {name: after[name] - before[name] for name in after}
    return {
        "page_ms": round(1000 * spent["staffa_page_seconds"] / seconds, 2),
        "looks": spent["staffa_page_looks"],
        "driver_ms": round(1000 * spent["staffa_summing_seconds"] / seconds, 2),
        "scheduler_ms": {"silent": round(silent, 1), "told": round(told, 1), "looked_at": round(seen, 1)},
    }


def run(folder: Path, trials: int) -> dict[str, float]:
    """A real run that a browser looks at."""
    path, root = declared(folder, "looked-at", trials), folder / "v1.0_looked-at"
    process = subprocess.Popen([*STAFFA, "run", str(path), "--json"], stdout=subprocess.PIPE, text=True)
    driver, spent, last = psutil.Process(process.pid), 0.0, {}
    summary = root / "ledger" / "summary.json"
    link = ""
    while not link and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            link = json.loads(summary.read_text())["figures"]["dashboard"]
        time.sleep(0.2)
    with looking(link):
        while process.poll() is None:
            with contextlib.suppress(OSError, psutil.Error):
                last = metrics(link)
                spent = sum(cpu(one) for one in (driver, *driver.children(recursive=True)))
            time.sleep(0.5)
    process.communicate()
    own = last["staffa_page_seconds"] + last["staffa_summing_seconds"]
    return {
        "trials": trials,
        "page_seconds": round(own, 3),
        "cpu_seconds": round(spent, 1),
        "share": round(own / spent, 5),
        "page_ms": round(1000 * last["staffa_page_seconds"] / last["staffa_page_looks"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=100_000)
    given = parser.parse_args()
    if shutil.which("chromium") is None:
        print(json.dumps({"skipped": "there is no chromium"}))
        return
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    try:
        print(json.dumps({"wide": wide(folder, given.seconds), "run": run(folder, given.trials)}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
