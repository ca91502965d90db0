"""40,000 trials, some of which misbehave, under a supervisor, while workers and drivers are killed and
the disk fills up: what has to come of it without a hand.

    python tests/benchmarks/gauntlet.py [--trials 40000] [--seed 1]

Of the trials 1.5 % come out as NaN, 0.4 % raise, 0.05 % kill their process and 0.05 % hang (timeout
5 s). A supervisor runs `staffa run campaign.yaml` again until it ends with exit code 0 or 1. Meanwhile
20 workers and 5 drivers are killed with SIGKILL and the disk is full once, each when a randomly chosen
share of the trials is settled. The campaign stands on a file system of its own (a loop mount, or else
a tmpfs, in a private mount namespace: needs root). Prints JSON; exit code 0 if all is as it must be.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import faulty

SNAPSHOTS = 20
FULL_SECONDS = 20.0
"""How long the disk stays full at least; it goes on until the driver has met it, or `GIVEN_UP_SECONDS` are over."""
GIVEN_UP_SECONDS = 180.0
RESTART_SECONDS = 1.0
NO_RUN = 2
"""Exit code of a run that only a person can mend."""


class Disk:
    """A file system of a few hundred MiB in a mount namespace of its own, which goes with its holder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.mounted = kind, folder / "disk"
        self.mounted.mkdir(parents=True)
        commands = {
            "loop": f"truncate -s 512M '{folder}/image' && mkfs.ext4 -q -m 0 '{folder}/image' && "
            f"mount -o loop '{folder}/image' '{self.mounted}'",
            "tmpfs": f"mount -t tmpfs -o size=256M tmpfs '{self.mounted}'",
        }
        script = f"({commands[kind]}) && echo ready && exec sleep infinity"
        self.holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = self.holder.stdout.readline()
        if said != "ready\n":
            self.holder.kill()
            raise OSError(f"no {kind} could be mounted: {said.strip()}")
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-m", f"--wd={folder}", "--"]
        self.seen = Path(f"/proc/{self.holder.pid}/root") / self.mounted.relative_to("/")
        self.ballast = self.seen / "ballast"

    def fill(self) -> None:
        """Leave not a byte."""
        with self.ballast.open("wb", buffering=0) as file:
            for size in (1 << 24, 1 << 20, 1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

    def make_room(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class NoDisk:
    """The campaign's folder on the disk that is there; it is never full."""

    kind, prefix = "none", ()

    def __init__(self, folder: Path) -> None:
        self.mounted = self.seen = folder / "disk"
        self.seen.mkdir(parents=True)

    def fill(self) -> None:
        pass

    make_room = close = fill


def mounted(folder: Path, wanted: str) -> Disk | NoDisk:
    """The disk that is wanted; of `auto` the best one there can be."""
    for kind in {"auto": ("loop", "tmpfs"), "none": ()}.get(wanted, (wanted,)):
        try:
            return Disk(folder / kind, kind)
        except OSError as error:
            print(f"gauntlet: {error}", file=sys.stderr)
    return NoDisk(folder / "none")


class Supervisor:
    """One command, run again until it ends by itself."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log
        self.codes: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, start_new_session=True)

    def look(self) -> int | None:
        """Start the command again if it ended; its exit code once it is done with."""
        code = self.process.poll()
        if code is None:
            return None
        self.codes.append(code)
        if code in (0, 1, NO_RUN):
            return code
        time.sleep(RESTART_SECONDS)
        self.start()
        return None

    def pauses(self) -> int:
        """How often a driver has said that it waits for room."""
        return self.log.read_bytes().count(b", PAUSED: ")

    def driver(self) -> psutil.Process | None:
        """The driver itself, where the command is a wrapper that became it."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid)
        return None

    def workers(self) -> list[psutil.Process]:
        """Worker processes that compute: those with a device lane."""
        driver = self.driver()
        try:
            children = driver.children(recursive=True) if driver else []
        except psutil.Error:
            return []
        return [child for child in children if "staffa-device" in threads(child.pid)]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def threads(pid: int) -> str:
    names = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            names.append(path.read_text())
    return "".join(names)


class Trouble:
    """What is done to a run, and when: each at a share of the trials settled, drawn from a seed."""

    def __init__(self, seed: int, workers: int, drivers: int, disk: Disk | NoDisk, root: Path) -> None:
        self.chance, self.disk, self.root = np.random.default_rng(seed), disk, root
        words = ["worker"] * workers + ["driver"] * drivers + ["disk"] * (disk.kind != "none")
        shares = self.chance.uniform(0.02, 0.97, len(words))
        self.coming = sorted(zip(shares.tolist(), words, strict=True))
        self.done: Counter[str] = Counter()
        self.full_since = 0.0
        self.pauses = 0
        self.resting = False

    def look(self, share: float, supervisor: Supervisor) -> None:
        """Do what is due; one thing at a time."""
        full = time.monotonic() - self.full_since if self.full_since else 0.0
        met = full > FULL_SECONDS and supervisor.pauses() > self.pauses
        if met or full > GIVEN_UP_SECONDS:
            self.disk.make_room()
            # What a driver noted meanwhile it has in memory only, until it goes on.
            self.full_since, self.resting = 0.0, met
        self.resting = self.resting and not continued(self.root)
        if self.coming and share >= self.coming[0][0] and self._do(self.coming[0][1], supervisor):
            self.done[self.coming.pop(0)[1]] += 1

    def _do(self, word: str, supervisor: Supervisor) -> bool:
        workers = supervisor.workers()
        if not workers or self.resting or (word != "disk" and self.full_since):
            return False
        if word == "disk":
            self.pauses, self.full_since = supervisor.pauses(), time.monotonic()
            self.disk.fill()
            return True
        victim = self.chance.choice(workers) if word == "worker" else supervisor.driver()
        with contextlib.suppress(psutil.Error):
            victim.kill()
            return True
        return False


def written(folder: Path, root: Path, given: argparse.Namespace) -> Path:
    """The workflow and its campaign file."""
    workflow = folder / "workflow"
    workflow.mkdir()
    shutil.copy(faulty.__file__, workflow / "model.py")
    realizations = given.trials // SNAPSHOTS
    experiment = {"use": "model.py:Mock", "realizations": realizations, "snapshots": SNAPSHOTS, "faults": given.seed}
    retries = {} if given.retries is None else {"limit": given.retries}
    backoff = {} if given.backoff is None else {"backoff": {"initial": given.backoff}}
    campaign = {
        "campaign": {"name": "gauntlet"},
        "experiment": experiment,
        "space": [{"grid": {"realization": list(range(realizations)), "snapshot": list(range(SNAPSHOTS))}}],
        "sampling": {"draws": 8},
        "execution": {"batch": given.batch, "timeout": "5s", "retries": {**retries, **backoff}},
        "archive": {"part_size": "1MiB"},
        "storage": {"root": str(root)},
        "cluster": {"dashboard_port": 0, **({"workers": given.workers} if given.workers else {})},
    }
    path = workflow / "campaign.yaml"
    path.write_text(yaml.safe_dump(campaign))
    return path


def settled(root: Path) -> float:
    """The share of trials that is settled, as the driver says it."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        figures = json.loads((root / "ledger" / "summary.json").read_text())["figures"]
        return figures["settled"] / figures["trials"]
    return 0.0


def checked(root: Path, given: argparse.Namespace) -> dict[str, object]:
    """What stands in the archive against what should."""
    roster = pq.read_table(root / "metadata" / "trials-0.parquet").to_pandas().set_index("trial")
    warm = pq.read_table(root / "archive" / "trials", columns=["trial", "outcome"]).to_pandas()
    without = pq.read_table(root / "archive" / "failed.parquet", columns=["trial", "outcome"]).to_pandas()
    draws = ds.dataset(root / "archive" / "draws", format="parquet").to_table(["trial", "chain", "draw"])
    distinct = draws.group_by(["trial", "chain", "draw"]).aggregate([]).num_rows
    kinds = faulty.kinds(given.trials // SNAPSHOTS, SNAPSHOTS, given.seed)
    due = [faulty.OUTCOMES[int(kind)] for kind in kinds[roster["realization"], roster["snapshot"]]]
    due = dict(zip(roster.index, due, strict=True))
    names = [*warm["trial"], *without["trial"]]
    found = dict(zip(names, [*warm["outcome"], *without["outcome"]], strict=True))
    wrong = Counter(f"{due[t]} became {found.get(t, 'nothing')}" for t in due if found.get(t) != due[t])
    return {
        "planned": len(roster),
        "lost": len(due.keys() - found.keys()),
        "doubled": len(names) - len(set(names)) + draws.num_rows - distinct,
        "foreign": len(found.keys() - due.keys()),
        "rows": draws.num_rows,
        "rows_due": 8 * sum(word in ("ok", "nan") for word in due.values()),
        "healthy": sum(word == "ok" for word in due.values()),
        "healthy_done": sum(found.get(trial) == "ok" for trial, word in due.items() if word == "ok"),
        "outcomes": dict(Counter(found.values())),
        "unexpected": dict(wrong),
    }


def journal(root: Path) -> list[dict[str, object]]:
    """All events so far, in order; a line that is just being written is left out."""
    events = []
    for path in (root / "ledger").glob("events-*.jsonl"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
    return sorted(events, key=lambda event: event["at"])


def continued(root: Path) -> bool:
    """Whether a driver has found room again; the disk is full but once."""
    return any(event["event"] == "continued" for event in journal(root))


def story(root: Path) -> dict[str, object]:
    """What it took, from the journals: deaths of processes, and how long the run was short of workers."""
    events = journal(root)
    counts = Counter(event["event"] for event in events)
    charged = Counter(event["batch"] for event in events if event["event"] == "batch_lost" and event["charged"])
    timeouts = sum(e["event"] == "batch_lost" and "timeout" in e["reason"] for e in events)
    lost = sum(event.get("lost", 0.0) for event in events if event["event"] == "worker_left")
    timings: Counter[str] = Counter()
    for event in events:
        for name, seconds in event.get("timings", {}).items():
            timings[name] += seconds
    return {
        "events": dict(counts),
        "worker_deaths": counts["worker_left"],
        "charged_deaths": sum(charged.values()),
        "timed_out_deaths": timeouts,
        "batches_charged": len(charged),
        "most_deaths_of_a_batch": max(charged.values(), default=0),
        "device_seconds_lost": round(lost, 1),
        "minutes_short_of_workers": round(absent(events) / 60, 2),
        "timings": {name: round(seconds, 1) for name, seconds in timings.items()},
    }


def absent(events: list[dict[str, object]]) -> float:
    """Worker-seconds between a worker's death and the coming of the next, while a driver was there."""
    gaps, open_since = 0.0, []
    for event in events:
        if event["event"] == "run_started":
            open_since.clear()
        elif event["event"] == "worker_left":
            open_since.append(event["at"])
        elif event["event"] == "worker_joined" and open_since:
            gaps += event["at"] - open_since.pop(0)
    return gaps


def gauntlet(folder: Path, given: argparse.Namespace) -> dict[str, object]:
    disk = mounted(folder, given.disk)
    campaign = written(folder, disk.mounted, given)
    command = [*disk.prefix, sys.executable, "-m", "staffa", "run", str(campaign), "--allow-dirty"]
    root = disk.seen / "v1.0_gauntlet"
    trouble = Trouble(given.seed, given.worker_kills, given.driver_kills, disk, root)
    began = time.monotonic()
    supervisor = Supervisor(command, folder / "driver.log")
    try:
        while (code := supervisor.look()) is None:
            trouble.look(settled(root), supervisor)
            time.sleep(0.1)
        minutes = (time.monotonic() - began) / 60
        report = {"trials": given.trials, "minutes": round(minutes, 2), "exit_code": code, "disk": disk.kind}
        report |= {"interventions": int(code == NO_RUN), "restarts": len(supervisor.codes) - 1}
        report |= {"exit_codes": dict(Counter(map(str, supervisor.codes)))}
        report |= {f"{word}_troubles": trouble.done[word] for word in ("worker", "driver", "disk")}
        report |= {"troubles_left": len(trouble.coming), "pauses": supervisor.pauses()}
        if code != NO_RUN:
            report |= checked(root, given) | story(root)
        report["passed"] = code != NO_RUN and passed(report, given)
        return report
    finally:
        supervisor.end()
        if given.keep:
            shutil.copytree(root, given.keep, symlinks=True, dirs_exist_ok=True)
            shutil.copy(folder / "driver.log", Path(given.keep) / "driver.log")
        disk.close()


def passed(report: dict[str, object], given: argparse.Namespace) -> bool:
    """All that the figure asks for, the minutes aside: they hold for 40,000 trials on two idle cores."""
    nothing = ("interventions", "lost", "doubled", "foreign", "troubles_left")
    whole = report["healthy_done"] == report["healthy"] and report["rows"] == report["rows_due"]
    in_time = given.trials < 40_000 or report["minutes"] < 40
    return not any(report[name] for name in nothing) and whole and not report["unexpected"] and in_time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--driver-kills", type=int, default=5)
    parser.add_argument("--workers", type=int, help="worker processes; by default one for each core")
    parser.add_argument("--retries", type=int, help="execution.retries.limit; by default Staffa's own")
    parser.add_argument("--backoff", help="execution.retries.backoff.initial; by default Staffa's own")
    parser.add_argument("--disk", choices=("auto", "loop", "tmpfs", "none"), default="auto")
    parser.add_argument("--keep", help="copy the campaign's folder here in the end")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gauntlet-"))
    try:
        report = gauntlet(folder, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
