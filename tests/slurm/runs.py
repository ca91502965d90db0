"""Campaigns on the test cluster: their files, their driver as a process, and what is looked at afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import yaml

from staffa.cli import main
from staffa.storage.lease import Holder, read_lease
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

Found = TypeVar("Found")

MODEL = '''
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import staffa


class Walk(staffa.Experiment):
    """A random walk; each step takes `pause` seconds, for all lanes of a call together.

    WALK_PAUSE in a worker's environment is said instead, and changes nothing but the time; in WALK_NOTES, a folder,
    each process writes down which interpreter it is.
    """

    dims = {"x": ("dimension",)}

    def __init__(self, pause: float = 0.0):
        self.pause = pause

    def initialize(self, key, params):
        return jnp.zeros(2)

    def step(self, key, x, params):
        if self.pause:
            late = jax.pure_callback(self.sleep, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="broadcast_all")
            x = x + late
        x = x + params["scale"] * jax.random.normal(key, (2,))
        return x, {"x": x, "energy": 0.5 * x @ x}

    def sleep(self, x):
        import numpy

        if notes := os.environ.get("WALK_NOTES"):
            Path(notes, str(os.getpid())).write_text(sys.prefix)
        time.sleep(float(os.environ.get("WALK_PAUSE", self.pause)))
        return numpy.zeros(x.shape[:-1], numpy.float32)


class Deadly(Walk):
    """One scale takes its process down."""

    def step(self, key, x, params):
        dead = jax.pure_callback(
            self.die, jax.ShapeDtypeStruct((), jnp.float32), params["scale"], vmap_method="broadcast_all"
        )
        return super().step(key, x + dead, params)

    def die(self, scale):
        import numpy

        if (abs(numpy.asarray(scale) - 3.0) < 1e-6).any():
            os.kill(os.getpid(), 9)
        return numpy.zeros(numpy.shape(scale), numpy.float32)
'''

POOLS: dict[str, Any] = {
    "gpu": {"work": ["sample", "reduce"], "partition": "gpu", "workers": 4, "gpus": 1, "walltime": "10min"}
}


def workflow(
    folder: Path,
    *,
    trials: int = 32,
    batch: int = 4,
    draws: int = 8,
    segments: int = 1,
    pause: float = 0.0,
    use: str = "Walk",
    pools: Mapping[str, Any] = POOLS,
    machine: Mapping[str, Any] | None = None,
    execution: Mapping[str, Any] | None = None,
) -> Path:
    """A campaign file, with a cluster config for the test cluster beside it as `cluster.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "campaign.yaml").write_text(
        yaml.safe_dump(
            {
                "campaign": {"name": "walk"},
                "experiment": {"use": f"model.py:{use}", "pause": pause},
                "space": [{"linspace": {"scale": [1.0, float(trials), trials]}}],
                "sampling": {"draws": draws},
                "seeds": {"global_seed": 7},
                "execution": {
                    "batch": batch,
                    "segments": segments,
                    "retries": {"backoff": {"initial": "100ms"}},
                    **(execution or {}),
                },
                "storage": {"root": str(folder / "runs")},
            }
        )
    )
    section = {
        "kind": "slurm",
        "interface": "lo",
        "dashboard": False,
        "poll": {"initial": "1s", "maximum": "5s"},
        "driver": {"partition": "cpu", "memory": "1GiB"},
        "defaults": {"cores": 1, "memory": "1GiB"},
        "pools": dict(pools),
        **(machine or {}),
    }
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"cluster": section}))
    return folder / "campaign.yaml"


class Driver:
    """The command line in a process of its own; what it says is kept in a file."""

    def __init__(self, *words: str | Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "staffa", *map(str, words)], stdout=out, stderr=out, start_new_session=True
            )

    def ends(self, *codes: int, within: float = 600.0) -> str:
        """Wait for its end; what it said."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {within:.0f} s:\n{self.said}") from None
        assert code in (codes or (0,)), f"exit code {code}:\n{self.said}"
        return self.said

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text()


class Campaign:
    """A campaign under test: starts drivers, looks at the workspace."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        self.root = self.folder / "runs" / "v1.0_walk"
        self.drivers: list[Driver] = []

    def run(self, *more: str) -> Driver:
        return self._start("run", self.file, "--cluster", self.folder / "cluster.yaml", "--allow-dirty", *more)

    def resume(self, *more: str) -> Driver:
        return self._start("resume", self.root, *more)

    def detach(self, *more: str | Path) -> dict[str, Any]:
        """Run it without a shell; the command's answer."""
        cluster = ("--cluster", self.folder / "cluster.yaml")
        return self.call("run", self.file, *cluster, "--allow-dirty", "--detach", *more)

    def aside(self, *words: str | Path) -> Driver:
        """Another command that goes on in a shell of its own."""
        return self._start(*words)

    def holder(self) -> Holder | None:
        """Who drives it now."""
        found = read_lease(self.workspace.lease)
        return found if found is not None and found.alive() else None

    def call(self, *words: str | Path, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Another command, answered as JSON: said in this process, where it does not leave one behind."""
        command = [*map(str, words), "--json"]
        code, out, error = _in_a_process(command) if "--detach" in command else _here(command)
        assert code in codes, f"{words}: {code}\n{out}{error}"
        return dict(json.loads(out.strip() or error.strip()))

    def _start(self, *words: str | Path) -> Driver:
        driver = Driver(*words, log=self.folder / f"driver-{len(self.drivers)}.txt")
        self.drivers.append(driver)
        return driver

    def end(self) -> None:
        """Leave nothing running."""
        for driver in self.drivers:
            if driver.process.poll() is None:
                driver.kill()

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def events(self, *names: str) -> list[dict[str, Any]]:
        if not self.root.exists():
            return []
        return [event for event in history(self.workspace) if not names or event["event"] in names]

    def settled(self) -> int:
        """Trials that are committed, as far as the ledger knows."""
        return sum(sum(e["outcomes"].values()) for e in self.events("batch_settled") if not e["duplicate"])

    def until(self, holds: Callable[[], Found], what: str, within: float = 240.0) -> Found:
        """What `holds` finds; it is asked ever less often, as it reads the whole journal."""
        deadline, pause = time.monotonic() + within, 0.1
        while True:
            found = holds()
            if found:
                return found
            dead = [d for d in self.drivers[-1:] if d.process.poll() not in (None, 0)]
            if time.monotonic() > deadline or dead:
                said = self.drivers[-1].said if self.drivers else ""
                last = "\n".join(json.dumps(e) for e in self.events()[-25:])
                raise AssertionError(f"waited in vain for: {what}\n{said}\n{last}\n{self.logs()}")
            time.sleep(pause)
            pause = min(1.1 * pause, 0.5)

    def logs(self) -> str:
        """The last lines of all workers' logs."""
        found = sorted((self.root / "logs").glob("*.log")) if self.root.exists() else []
        return "\n".join(f"--- {p.name}\n" + "\n".join(p.read_text().splitlines()[-6:]) for p in found)

    def joined(self) -> list[dict[str, Any]]:
        return self.events("worker_joined")

    def status(self) -> dict[str, Any]:
        return self.call("status", self.root)

    def pool(self, name: str = "gpu") -> dict[str, Any]:
        """What the driver tells of a pool; nothing before it told anything."""
        pools = (self.status()["figures"] or {}).get("pools") or {} if self.workspace.is_planned else {}
        return dict(pools.get(name) or {})

    def present(self) -> list[dict[str, Any]]:
        """Workers that have joined and not left, as far as the ledger knows."""
        here: dict[str, dict[str, Any]] = {}
        for event in self.events("worker_joined", "worker_left", "run_started"):
            if event["event"] == "run_started":
                here.clear()
            elif event["event"] == "worker_joined":
                here[event["name"]] = event
            else:
                here.pop(event["name"], None)
        return list(here.values())

    def whole(self, trials: int) -> None:
        """Every trial stands in the archive, once, and with all of its draws."""
        table = pq.read_table(self.root / "archive" / "trials")
        digests = table["trial"].to_pylist()
        assert len(digests) == trials, f"{len(digests)} trials in the archive, {trials} were asked for"
        assert len(set(digests)) == trials, "a trial stands twice"
        draws = Counter(pq.read_table(self.root / "archive" / "draws", columns=["trial"])["trial"].to_pylist())
        assert set(draws) == set(digests) and len(set(draws.values())) == 1

    def unspent(self) -> None:
        """No try was spent, and nothing charged."""
        charged = [event for event in self.events("batch_lost") if event["charged"]]
        assert not charged, charged
        assert not self.events("retry_planned", "quarantined")
        assert {event["attempt"] for event in self.events("batch_settled")} <= {1}


def _in_a_process(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and complaints of a command."""
    words = [sys.executable, "-m", "staffa", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout, done.stderr


def _here(command: list[str]) -> tuple[int, str, str]:
    """The same without a Python of its own: starting one takes longer than most commands, and some are polled."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        code = main(command)
    return code, out.getvalue(), error.getvalue()


class Campaigns:
    """Makes campaigns under test in a folder, and ends their drivers with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Campaign] = []

    def __call__(self, **shape: Any) -> Campaign:
        self.made.append(Campaign(workflow(self.folder / f"flow{len(self.made)}", **shape)))
        return self.made[-1]

    def end(self) -> None:
        for campaign in self.made:
            campaign.end()


def same(there: Path, here: Path) -> None:
    """Two archives hold the same, but for who computed it and how long that took."""
    for table, own in (("trials", {"seconds", "node", "attempts"}), ("draws", set())):
        tables = [pq.read_table(root / "archive" / table) for root in (there, here)]
        one, other = (found.drop_columns([name for name in found.column_names if name in own]) for found in tables)
        order = [(name, "ascending") for name in ("trial", "chain", "draw") if name in one.column_names]
        assert one.sort_by(order).equals(other.sort_by(order)), table


def content(root: Path) -> dict[str, bytes]:
    """The archive, file by file."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "archive").glob("*/**/*.parquet"))}
