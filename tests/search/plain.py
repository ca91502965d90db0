"""A search in plain Python that several tests run, and a listener that ends its driver."""

from __future__ import annotations

from collections import Counter
from typing import Any

MODEL = """
import math
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"

    def __init__(self, kind: str = "a"):
        self.kind = kind

    def initialize(self, key, params):
        return None

    def step(self, key, state, params):
        if params["x"] > 1.8:
            raise ValueError("too large")
        loss = (params["x"] - 0.3) ** 2 + (math.log(params["y"]) - 1) ** 2 + (0.5 if self.kind == "b" else 0.0)
        return state, {"loss": loss, "cost": float(params["n"])}
"""
CAMPAIGN = """
campaign: {name: plain}
experiment: {use: "model.py:Plain"}
search:
  space: {x: [-1.0, 2.0], y: [0.1, 10.0, log], n: [1, 8, int], experiment.kind: {choice: [a, b]}}
  objectives: {loss: {target: 0.0, limit: 4.0}, cost: {of: "cost / 2", target: 0, limit: 4, group: 1}}
  trials: TRIALS
  strategy: {use: random}
archive: {partition_by: [experiment.kind], every: off}
execution: {batch: 4, retries: {limit: 0}}
cluster: {dashboard: false}
"""


def campaign(trials: int) -> str:
    """The declaration of a search with so many trials."""
    return CAMPAIGN.replace("TRIALS", str(trials))


class Enough(Exception):
    pass


def stop_after(batches: int) -> Any:
    """A listener that has the driver fall over once so many batches are settled."""
    seen = Counter[str]()

    def listen(event: Any) -> None:
        seen[event["event"]] += 1
        if event["event"] == "batch_settled" and seen["batch_settled"] == batches:
            raise Enough

    return listen
