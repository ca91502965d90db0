"""Trials that others do: programs in any language, which ask a served search what to do and tell what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from staffa.experiment.protocol import Experiment


class External(Experiment):
    """`experiment: {use: external, outputs: [loss]}`: what is told of a trial is all that is known of it.

    Arguments:
    - `outputs`: names of the numbers that are told, the search's objectives.
    """

    vectorize = "off"

    def __init__(self, outputs: tuple[str, ...]) -> None:
        if not outputs or not all(isinstance(name, str) for name in outputs):
            raise ValueError(f"outputs: {outputs!r} names no numbers")
        self.outputs = tuple(outputs)

    def initialize(self, key: Any, params: Mapping[str, Any]) -> None:
        """Nothing: the trial is done elsewhere."""

    def step(self, key: Any, state: None, params: Mapping[str, Any]) -> tuple[None, dict[str, float]]:
        """What is recorded, before anything was told."""
        return None, dict.fromkeys(self.outputs, math.nan)
