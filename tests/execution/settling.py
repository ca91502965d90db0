"""Campaigns that are planned, computed, sealed and pruned in this very process: by the engine's own graphs, at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from staffa.campaign.config import from_mapping
from staffa.execution.bench import Order
from staffa.execution.consolidate import Consolidation
from staffa.execution.ensemble import blocks_in
from staffa.execution.graph import batch_graph, reduce_graph
from staffa.execution.prepare import create, load_plan, open_stores, plan_digest, unfolded
from staffa.storage.books import fold
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

PLAIN = '''
"""Two chains of two draws: numbers, an array, some of them ragged; one point fails."""
import numpy as np
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"
    dims = {"x": ("chain",)}
    ragged = {"star": "stars"}

    def __init__(self, power: int = 1, deep: dict | None = None):
        self.power = power

    def initialize(self, key, params):
        return np.random.default_rng(key)

    def step(self, key, state, params):
        if params["a"] == 13:
            raise ValueError("thirteen")
        z = float(params["a"]) ** self.power
        noise = state.normal(size=2)
        return state, {"z": z, "x": z + noise, "star": np.arange(3) + z, "stars": np.int32(1 + (noise[0] > 0))}
'''


def planned(folder: Path, space: list[Any], model: str = PLAIN, **sections: Any) -> Path:
    """A campaign that is planned; its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(model)
    base: dict[str, Any] = {
        "campaign": {"name": folder.name},
        "experiment": {"use": "model.py:Plain"},
        "space": space,
        "sampling": {"draws": 2},
        "execution": {"batch": 4},
        "storage": {"root": str(folder.parent / "runs")},
    }
    declaration = from_mapping(base | sections, directory=folder)
    workspace = Workspace(folder.parent / "runs" / f"v1.0_{folder.name}")
    create(unfolded(declaration), workspace)
    return workspace.root


def computed(root: Path, chosen: Callable[[int, int], bool] = lambda group, batch: True) -> Path:
    """Compute what is open of some batches (group, batch): by default of all."""
    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    for number, group in enumerate(plan.groups):
        for batch in range(group.batches):
            if chosen(number, batch):
                order = Order(str(root), plan_digest(plan), plan.generation, number, batch)
                batch_graph(order, plan.sampling).compute(scheduler="synchronous")
    return root


def sealed(root: Path, chosen: Callable[[int], bool] = lambda part: True, *, prune: bool = False) -> Path:
    """Seal some parts, what of them is not yet; with `prune` remove their shards."""
    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    books, stores = fold(history(workspace)), open_stores(workspace, plan)
    from staffa.campaign.config import load_frozen

    frozen = load_frozen(workspace.frozen, directory=workspace.code).campaign
    archive = Consolidation(workspace, plan, plan_digest(plan), stores, blocks_in(workspace, frozen.reduce, plan.code))
    for number, part in enumerate(plan.parts):
        order = archive.order(part, books) if chosen(number) else None
        if order is not None:
            receipt = reduce_graph(order, plan.sampling.segments).compute(scheduler="synchronous")
            assert "damaged" not in receipt, receipt
            if receipt["files"]:
                archive.enter(part.name, receipt)
        if prune and part.name in archive.sealed:
            left = reduce_graph(archive.pruning(part), plan.sampling.segments).compute(scheduler="synchronous")
            assert not left["differ"], left
    archive.failed(books)
    archive.reduced()
    return root


def fingerprint(root: Path) -> dict[str, str]:
    """What every file of a folder holds."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
