"""A campaign that stands still at a point of its life, for as long as somebody looks at it.

Plain Python trials: some raise, some return a NaN. Those of the side `right` from the second batch on wait until
the file `go` is there; batches are issued in order, so all others are settled by then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

MODEL = '''"""Waits for a file."""

import time
from pathlib import Path

import numpy as np

import staffa

GO = Path({go!r})


class Held(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        while params["side"] == "right" and params["place"] >= {batch} and not GO.exists():
            time.sleep(0.05)
        return 0.0

    def step(self, key, state, params):
        if params["place"] % 13 == 5:
            raise ValueError(f"no value at place {{params['place']}} <b>of this kind</b>")
        value = np.nan if params["place"] == 2 else np.random.default_rng(key).normal()
        return state, {{"value": np.float32(value)}}
'''
TRIALS, BATCH = 30, 6
"""Of each side."""
FREE = TRIALS + BATCH
"""Trials that wait for nothing."""
STAFFA = [sys.executable, "-m", "staffa"]


class HeldRun:
    """Such a campaign, to be run in a process of its own.

    Arguments:
    - `folder`: an empty one.
    - `settings`: more of the campaign file.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder, self.go = folder, folder / "go"
        flow = folder / "flow"
        flow.mkdir(parents=True)
        (flow / "model.py").write_text(MODEL.format(go=str(self.go), batch=BATCH))
        self.campaign = flow / "campaign.yaml"
        self.campaign.write_text(yaml.safe_dump(declared(folder) | (settings or {})))
        self.root = folder / "runs" / "v1.0_held"

    @property
    def command(self) -> list[str]:
        return [*STAFFA, "run", str(self.campaign), "--allow-dirty"]

    def status(self) -> dict[str, Any]:
        """What `staffa status --json` says now."""
        done = subprocess.run([*STAFFA, "status", str(self.root), "--json"], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def until_held(self, seconds: float = 240.0) -> dict[str, Any]:
        """Wait until every trial that does not wait is settled; what `status --json` says then."""
        summary = self.root / "ledger" / "summary.json"

        def reached() -> dict[str, Any] | None:
            try:
                figures = json.loads(summary.read_text())["figures"]
            except (OSError, ValueError, KeyError):
                return None
            # States are counted less often than the rest.
            waits = figures.get("settled", 0) == FREE and figures["states"].get("issued", 0) == 2 * TRIALS - FREE
            return self.status() if waits else None

        return dict(wait(reached, seconds))

    def release(self) -> None:
        self.go.touch()


def declared(folder: Path) -> dict[str, Any]:
    return {
        "campaign": {"name": "held"},
        "experiment": {"use": "model.py:Held"},
        "space": [{"grid": {"side": ["left", "right"]}}, {"grid": {"place": list(range(TRIALS))}}],
        "execution": {"batch": BATCH, "workers": 2, "retries": {"limit": 0}},
        "archive": {"partition_by": ["side"], "part_size": 160},
        "storage": {"root": str(folder / "runs")},
        "cluster": {"dashboard_port": 0},
    }


def wait(look: Callable[[], Any], seconds: float = 240.0) -> Any:
    """Look until there is something to see."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s")
