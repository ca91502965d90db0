"""How long a driver takes to take up a search of 100,000 trials: journal, stores, what is known.

The trials are asked for, seated and marked as a run does it, but for the processes that would compute them.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import staffa
from staffa.campaign.plan import Plan
from staffa.execution.board import Board, Retries
from staffa.execution.prepare import create, load_plan, open_stores, unfolded
from staffa.execution.refilling import refill_of
from staffa.execution.takeover import take_stock
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

MODEL = """
import staffa

class Bowl(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return None
    def step(self, key, state, params):
        return state, {"loss": params["x"] ** 2 + params["y"] ** 2}
"""
CAMPAIGN = """
campaign: {name: bowl}
experiment: {use: "model.py:Bowl"}
search:
  space: {x: [-1.0, 1.0], y: [-1.0, 1.0], z: [0.1, 10.0, log]}
  objectives: {loss: minimize}
  trials: %d
  strategy: {use: sobol}
execution: {batch: %d}
"""


def main(trials: int = 100_000, batch: int = 16) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.py").write_text(MODEL)
        path = Path(folder) / "campaign.yaml"
        path.write_text(CAMPAIGN % (trials, batch))
        campaign = staffa.load(path, storage__root=f"{folder}/runs")
        workspace = Workspace(campaign.root.absolute())
        create(unfolded(campaign.declaration), workspace)
        began = time.perf_counter()
        _search(workspace, campaign)
        made = time.perf_counter() - began
        took = sorted(_take_up(workspace, campaign) for _ in range(3))
        return {"trials": trials, "batch": batch, "asked_seconds": round(made, 2), "resume_seconds": round(took[1], 3)}


def _search(workspace: Workspace, campaign: Any) -> None:
    """Ask for everything; each batch comes back at once."""
    rng = np.random.default_rng(0)
    plan, board, refill, ledger = _driver(workspace, campaign)
    with ledger:
        refill.begin(board, ledger.append)
        stores = open_stores(workspace, plan)
        while refill.more(board):
            chosen = board.take(lambda group: True)
            assert chosen is not None
            group, number = chosen.batch
            store, size = stores[group], plan.groups[group].batch
            status = np.full(size, Outcome.PADDING, np.uint8)
            status[: store.seats(number)] = Outcome.OK
            (store.path / "objectives" / f"c.{number}.0").write_bytes(rng.random((size, 1)).tobytes())
            (store.path / "status" / f"c.{number}").write_bytes(status.tobytes())
            of = {"batch": f"g{group}/{number}", "attempt": 1}
            ledger.append({"event": "batch_issued", **of, "worker": "w", "node": "n"})
            ledger.append({"event": "batch_settled", **of, "outcomes": {"ok": size}})
            board.settled(chosen.batch, {"ok": size}, {}, ())
            refill.settled(chosen.batch, board)
        refill.close()


def _take_up(workspace: Workspace, campaign: Any) -> float:
    workspace.lease.unlink()
    began = time.perf_counter()
    plan, board, refill, ledger = _driver(workspace, campaign)
    with ledger:
        refill.begin(board, ledger.append)
        stores = open_stores(workspace, plan)
        for event in take_stock(board, stores, ledger.books, {}):
            raise AssertionError(event)
        took = time.perf_counter() - began
    assert board.finished or board.vacant
    return took


def _driver(workspace: Workspace, campaign: Any) -> tuple[Plan, Board, Any, Ledger]:
    plan = load_plan(workspace)
    lease = Lease.acquire(workspace.lease)
    ledger = Ledger.open(workspace, lease)
    stores = open_stores(workspace, plan)
    refill = refill_of(workspace, campaign.declaration.campaign, plan, stores, ledger.books)
    return plan, Board(plan, Retries(), time.time, random.Random(0)), refill, ledger


if __name__ == "__main__":
    print(json.dumps(main(*(int(word) for word in sys.argv[1:]))))
