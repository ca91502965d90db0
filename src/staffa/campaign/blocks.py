"""The experiment blocks a space makes, and the names of all trials of a declaration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.identity import name_trials
from staffa.campaign.model import CampaignConfig
from staffa.campaign.points import Points
from staffa.campaign.space import Space
from staffa.errors import ConfigError
from staffa.trial import Scalar, experiment_text


def trial_names(config: CampaignConfig) -> npt.NDArray[np.uint8]:
    """The digests of all trials a declaration names, (trials, 16), duplicates included."""
    points = Space(config.space, config.seeds.pack().channel("space")).expand()
    blocks, codes = experiments(config, points)
    return name_trials(points, config.replicates, [identity(block) for block in blocks], codes)


def experiments(config: CampaignConfig, points: Points) -> tuple[list[dict[str, Any]], npt.NDArray[np.int32]]:
    """The distinct experiment blocks the space makes, and each point's block."""
    base = {"use": config.experiment.use, **config.experiment.options}
    swept = [column for column in points.columns if column.name.startswith("experiment.")]
    if not swept:
        return [base], np.zeros(points.length, np.int32)
    stacked = np.stack([column.codes for column in swept], axis=1)
    combos, codes = np.unique(stacked, axis=0, return_inverse=True)
    blocks = []
    for combo in combos:
        block = json.loads(json.dumps(base))
        for column, code in zip(swept, combo, strict=True):
            if code >= 0:
                _set(block, column.name.split(".")[1:], column.values[code], column.name)
        blocks.append(block)
    return blocks, codes.reshape(-1).astype(np.int32)


def _set(block: dict[str, Any], path: list[str], value: Scalar, field: str) -> None:
    for name in path[:-1]:
        block = block.setdefault(name, {})
        if not isinstance(block, dict):
            raise ConfigError(f"space: {field}: {name!r} is not a block in the experiment", "check the dotted path")
    block[path[-1]] = value


def identity(block: Mapping[str, Any]) -> str:
    return experiment_text(str(block["use"]), {key: value for key, value in block.items() if key != "use"})
