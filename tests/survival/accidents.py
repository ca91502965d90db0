"""A laboratory for accidents: real drivers and workers, held, stopped and killed from outside."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

import staffa

HERE = Path(__file__).parent
PATIENCE = 240.0
"""Seconds any condition may take to come true on a machine that has much else to do."""

INCIDENTAL = ("seconds", "attempts", "node")
"""Columns in which a disturbed run may differ from an undisturbed one."""

BASE = {
    "campaign": {"name": "walk"},
    "experiment": {"use": "model.py:Walk", "dimension": 4},
    "space": [{"grid": {"population": [1, 2]}}, {"linspace": {"scale": [0.1, 1.0, 16]}}],
    "replicates": 2,
    "sampling": {"draws": 8, "thin": 2},
    "seeds": {"global_seed": 7},
    "execution": {
        "segments": 2, "batch": 4, "width": 2, "workers": 1, "patience": "60s",
        "retries": {"limit": 1, "backoff": {"initial": "0.2s"}},
    },
    "archive": {"partition_by": ["population"], "part_size": 1280, "every": {"trials": 8}},
    "cluster": {"dashboard": False},
}  # fmt: skip
"""64 trials in two groups that share a program; 16 batches of two segments; 8 parts."""


class Driver:
    """A driver process and, in its process group, its workers."""

    def __init__(self, words, log, environment, prefix=()):
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, HERE / "drive.py", *words],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
            )  # fmt: skip

    @property
    def pid(self):
        return self.process.pid

    @property
    def said(self):
        return self.log.read_text()

    def wait(self, timeout=PATIENCE):
        """The exit code."""
        try:
            code = self.process.wait(timeout)
            assert "this is a bug" not in self.said, self.said
            return code
        except subprocess.TimeoutExpired:
            # It writes down where all its threads are.
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(1)
            self.end()
            pytest.fail(f"the driver did not end in {timeout:.0f} s; it said:\n{self.said}")

    def kill(self):
        """`kill -9` of the driver alone; its workers notice and go, unless they are stopped."""
        self.process.kill()
        self.process.wait()

    def members(self):
        """Pids of the driver's processes, its workers included, that still exist."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == self.pid and not gone(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def interrupt(self):
        """Ctrl-C: a terminal sends it to the whole group, workers included."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self):
        """Leave nothing of it behind, not even what is stopped."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Lab:
    """One test's workflow, gates, traps and drivers."""

    def __init__(self, folder, cache, client=None):
        self.folder, self.cache, self.client = folder, cache, client
        self.gates, self.traps, self.workflow = folder / "gates", folder / "traps", folder / "workflow"
        for path in (self.gates, self.traps, self.workflow, folder / "logs"):
            path.mkdir()
        self.runs = folder / "runs"
        self.view = Path("/")
        self.drivers = []

    @property
    def root(self):
        return self.runs / "v1.0_walk"

    @property
    def seen(self):
        """The same folder from here, where the drivers live in a mount namespace of their own."""
        return self.view / self.root.relative_to("/")

    # The campaign

    def campaign(self, model="Walk", **changes):
        """Write the workflow: the base campaign with `execution={"batch": 4}` and the like."""
        shutil.copy(HERE / "models.py", self.workflow / "model.py")
        whole = json.loads(json.dumps(BASE))
        whole["experiment"]["use"] = f"model.py:{model}"
        for section, value in changes.items():
            if isinstance(value, dict) and isinstance(whole.get(section), dict):
                whole[section].update(value)
            else:
                whole[section] = value
        path = self.workflow / "campaign.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    def poisoned(self, model, kinds, **changes):
        """A campaign of 64 trials, some of which misbehave: `kinds` says how, by their place."""
        kind = [kinds.get(place, 0) for place in range(64)]
        scale = [round(0.1 + 0.01 * place, 2) for place in range(64)]
        space = [{"zip": {"scale": scale, "kind": kind}}]
        archive = {"partition_by": [], **changes.pop("archive", {})}
        return self.campaign(model, space=space, replicates=1, archive=archive, **changes)

    # Drivers

    def start(self, verb, where, *words, prefix=(), **environment):
        added = [f"storage.root={self.runs}"] if verb in ("run", "graph", "oracle") else []
        if verb == "run":
            added = ["--set", *added]
        path = self.folder / "logs" / f"{len(self.drivers)}.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STAFFA_")}
        driver = Driver([verb, str(where), *words, *added], path, {
            **inherited, "STAFFA_CACHE": str(self.cache), "SURVIVAL_GATES": str(self.gates),
            "SURVIVAL_TRAPS": str(self.traps), "DASK_DISTRIBUTED__WORKER__PRELOAD": str(HERE / "trap.py"),
            **environment,
        }, prefix)  # fmt: skip
        self.drivers.append(driver)
        return driver

    def go(self, verb, where, *words, **options):
        """Start a driver and see it through; the exit code."""
        return self.start(verb, where, *words, **options).wait()

    def complete(self):
        """Resume until the campaign is done; says what went wrong if that takes more than one run.

        By this process, with the client's worker: those of their own take longer to start than this takes.
        """
        ended = staffa.resume(self.root, client=self.client, progress=False).ended
        assert ended.exit_code == 0, f"{ended}\n{self.tail()}"

    # Waiting

    def until(self, condition, what, driver=None):
        """Wait for a condition, as long as the driver (the last one started) lives."""
        driver = driver or self.drivers[-1]
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            if driver.process.poll() is not None:
                if found := condition():
                    break
                pytest.fail(f"the driver ended ({driver.process.returncode}) before {what}; it said:\n{driver.said}")
            if time.monotonic() > end:
                pytest.fail(f"no sign of {what}; the driver said:\n{driver.said}\n{self.tail()}")
            time.sleep(0.01)
        return found

    def hold(self, name):
        (self.gates / f"{name}.held").touch()

    def reached(self, name):
        """Wait until a process stands at a gate; its pid."""
        path = self.gates / f"{name}.reached"
        return int(self.until(lambda: path.exists() and path.read_text(), f"gate {name}"))

    def release(self, name):
        (self.gates / f"{name}.reached").unlink(missing_ok=True)
        (self.gates / f"{name}.held").unlink(missing_ok=True)

    def trap(self, name, who, path, event="os.rename", skip=0):
        """Stop the first driver or worker that renames something to a path like this (after `skip`)."""
        trap = {"name": name, "who": who, "event": event, "path": path, "skip": skip}
        (self.traps / f"{name}.json").write_text(json.dumps(trap))

    def caught(self, name):
        """Wait until a process sits in a trap; its pid."""
        hit = self.traps / f"{name}.hit"
        self.until(hit.exists, f"trap {name}")
        pid = json.loads(hit.read_text())["pid"]
        self.until(lambda: state(pid) == "T", f"process {pid} stopping")
        return pid

    def target(self, name):
        """The path a trapped process was about to rename something to."""
        return Path(json.loads((self.traps / f"{name}.hit").read_text())["path"])

    def source(self, name):
        """What it was about to rename."""
        return Path(json.loads((self.traps / f"{name}.hit").read_text())["source"])

    # Looking

    def mark(self, pid):
        """What a worker's start mark says; None where it is not on the device."""
        path = next((self.seen / "state" / "started").glob(f"*-{pid}.json"))
        text = path.read_text().strip()
        return json.loads(text) if text else None

    def journal(self, *names):
        """Everything recorded so far, or the events of some names."""
        events = history(self.seen)
        return [event for event in events if event["event"] in names] if names else events

    def flying(self):
        """Batches issued and not yet settled or lost, as the journal has it."""
        up = set()
        for event in self.journal("run_started", "batch_issued", "batch_settled", "batch_lost"):
            if event["event"] == "run_started":
                up.clear()
            elif event["event"] == "batch_issued":
                up.add(event["batch"])
            else:
                up.discard(event["batch"])
        return up

    def settled(self):
        return {event["batch"] for event in self.journal("batch_settled")}

    def tail(self):
        return "\n".join(json.dumps(event)[:300] for event in self.journal()[-12:])

    def close(self):
        for driver in self.drivers:
            driver.end()


class SmallDisk:
    """A tmpfs of a few MiB on which a lab's campaigns stand, in a mount namespace of its own."""

    def __init__(self, lab, size="6M"):
        lab.runs.mkdir()
        words = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
        mount = f"mount -t tmpfs -o size={size} tmpfs '{lab.runs}' && echo ready && exec sleep infinity"
        try:
            self.holder = subprocess.Popen(
                [*words, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            pytest.skip(f"NOT TESTED: no disk can be filled up here: {error}")
        said = self.holder.stdout.readline()
        if said != "ready\n":
            self.holder.wait()
            pytest.skip(f"NOT TESTED: no disk can be filled up here: {said or 'no unshare'}")
        users = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        self.prefix = ("nsenter", "-t", str(self.holder.pid), "-m", *users, "--")
        lab.view = Path(f"/proc/{self.holder.pid}/root")
        self.ballast = lab.view / lab.runs.relative_to("/") / "ballast"

    def fill(self):
        """Leave not a byte."""
        with contextlib.suppress(OSError), self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def make_room(self):
        self.ballast.unlink()

    def close(self):
        self.holder.kill()
        self.holder.wait()


def state(pid):
    """`R`, `S`, `T` (stopped), `Z`, …; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def gone(pid):
    return state(pid) in ("", "Z", "X")


def eventually(condition, what):
    """Wait for something that needs no driver."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"not so in {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)
    return found


def history(root):
    """All journals, oldest first, read by the test itself."""
    journals = []
    for path in (root / "ledger").glob("events-*.jsonl"):
        lines = path.read_bytes().split(b"\n")[:-1]
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        if events:
            journals.append(events)
    return [event for events in sorted(journals, key=lambda events: events[0]["at"]) for event in events]


# --- what must be true afterwards --------------------------------------------------------------------


def table(root, name):
    """One table of the archive in an order of its own, hive partitions restored."""
    folder = root / "archive" / name
    if not folder.exists():
        return None
    read = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    keys = [key for key in ("trial", "chain", "draw") if key in read.column_names]
    return read.sort_by([(key, "ascending") for key in keys]).select(sorted(read.column_names))


def failed(root):
    """failed.parquet as a list of rows."""
    return pq.read_table(root / "archive" / "failed.parquet").to_pylist()


def hot_files(root):
    """Every file of the hot stores with its bytes, timings and what killed writers left aside left out."""
    hot = root / "hot"
    files = [path for path in sorted(hot.rglob("*")) if path.is_file() and path.parent.name != "seconds"]
    files = [path for path in files if path.suffix != ".partial"]
    return {str(path.relative_to(hot)): path.read_bytes() for path in files}


def stores(root):
    return sorted((root / "hot").glob("*/*.zarr"))


def status(root):
    """Outcome codes of every committed batch, by (store, batch)."""
    found = {}
    for store in stores(root):
        for chunk in (store / "status").glob("c.*"):
            if not chunk.name.endswith(".partial"):
                found[store.name, int(chunk.name[2:])] = np.frombuffer(chunk.read_bytes(), np.uint8)
    return found


def assert_same(root, reference):
    """A disturbed run's results are those of an undisturbed one, row for row and byte for byte."""
    for name in ("draws", "trials"):
        here, there = table(root, name), table(reference, name)
        kept = [column for column in there.column_names if column not in INCIDENTAL]
        assert here.select(kept).equals(there.select(kept)), f"archive/{name} differs"
    here, there = hot_files(root), hot_files(reference)
    assert here.keys() == there.keys(), sorted(here.keys() ^ there.keys())
    assert [name for name in there if here[name] != there[name]] == []


def assert_whole(root, trials, failures=0):
    """Nothing is lost, nothing stands twice, every checksum is right, nothing lies about."""
    planned = pq.read_table(root / "metadata" / "trials-0.parquet")["trial"].to_pylist()
    assert len(planned) == len(set(planned)) == trials
    warm, draws = table(root, "trials"), table(root, "draws")
    archived, without = warm["trial"].to_pylist(), [row["trial"] for row in failed(root)]
    assert len(without) == failures
    assert sorted(archived + without) == sorted(planned)
    keys = draws.select(["trial", "chain", "draw"])
    assert keys.group_by(keys.column_names).aggregate([]).num_rows == draws.num_rows
    counted = draws.group_by("trial").aggregate([("draw", "count_distinct")])
    assert sorted(counted["trial"].to_pylist()) == sorted(archived)
    assert len(set(counted["draw_count_distinct"].to_pylist())) == 1
    assert_checksums(root)
    assert_manifest(root)
    assert not list((root / "state").glob("*.safetensors")), "a checkpoint outlived its batch"


def assert_checksums(root):
    """Each shard of a committed batch is, byte for byte, what was committed."""
    for store in stores(root):
        layout = json.loads((store / "zarr.json").read_text())["attributes"]["staffa"]
        for batch in [number for name, number in status(root) if name == store.name]:
            marks = np.frombuffer((store / "status" / f"c.{batch}").read_bytes(), "u1")
            if not np.isin(marks, range(1, 6)).any():
                continue  # nobody was computed to the end
            sums = np.frombuffer((store / "checksum" / f"c.{batch}.0.0").read_bytes(), "<u4")
            for place, recorded in enumerate(sums.tolist()):
                segment, output = divmod(place, len(layout["arrays"]))
                array = layout["arrays"][output]
                indices = [batch, *[segment] * (layout["draws"] is not None), *[0] * len(array["shape"])]
                shard = store / array["name"] / ("c." + ".".join(map(str, indices)))
                found = google_crc32c.value(shard.read_bytes()) if shard.exists() else 0
                assert found == recorded, shard


def assert_manifest(root):
    """The manifest lists exactly the files that are there."""
    archive = root / "archive"
    parts = json.loads((archive / "manifest.json").read_text())["parts"]
    listed = [file["path"] for part in parts.values() for file in part["files"]]
    found = [str(path.relative_to(archive)) for path in archive.rglob("part-*.parquet")]
    assert sorted(listed) == sorted(found)
