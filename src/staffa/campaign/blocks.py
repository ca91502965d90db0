"""The experiment blocks a space makes, the parameters of all its points, and the names of all trials."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.declared import EXPERIMENT, Declared, Explored, Offer, anything, completed
from staffa.campaign.domain import Domain
from staffa.campaign.formulas import Formula
from staffa.campaign.identity import name_trials
from staffa.campaign.model import CampaignConfig
from staffa.campaign.points import Points
from staffa.campaign.searched import fields_of, representatives
from staffa.campaign.space import Space
from staffa.errors import ConfigError
from staffa.trial import Scalar, experiment_text


def trial_names(config: CampaignConfig, offer: Offer = anything) -> npt.NDArray[np.uint8]:
    """The digests of all trials a declaration names, (trials, 16), duplicates included.

    Arguments:
    - `offer`: for an experiment block what its experiment declares of its parameters.
    """
    found = explored(config)
    return names_of(config, found, completed(config, found, [offer(block) for block in found.blocks]))


def names_of(config: CampaignConfig, found: Explored, whole: Declared) -> npt.NDArray[np.uint8]:
    """The same of points that were made already."""
    texts = [identity(block, formulas) for block, formulas in zip(found.blocks, whole.formulas, strict=True)]
    return name_trials(whole.underived, config.replicates, texts, found.codes)


def explored(config: CampaignConfig, listed: Collection[str] = ()) -> Explored:
    """The points of a campaign's space, and the experiments they make.

    Arguments:
    - `listed`: of a search, whose points are not known yet, the parameters of which every value is to be among them.
    """
    if config.search is not None:
        domain = Domain.read(config.search.space)
        return explored_at(config, domain, representatives(domain, listed))
    space = Space(config.space, config.seeds.pack().channel("space"))
    points = space.expand()
    blocks, codes = experiments(config, points)
    return Explored(points, space.fields, blocks, codes)


def explored_at(config: CampaignConfig, domain: Domain, points: Points) -> Explored:
    """Points of a search, and the experiments they make."""
    blocks, codes = experiments(config, points)
    return Explored(points, fields_of(domain), blocks, codes)


def experiments_of(config: CampaignConfig) -> list[dict[str, Any]]:
    """The distinct experiment blocks of a campaign; its points are made only where they make a difference."""
    if config.search is not None:
        return list(explored(config).blocks)
    names = Space(config.space, config.seeds.pack().channel("space")).names
    if any(name.startswith(EXPERIMENT) for name in names):
        return list(explored(config).blocks)
    return [{"use": config.experiment.use, **config.experiment.options}]


def experiments(config: CampaignConfig, points: Points) -> tuple[list[dict[str, Any]], npt.NDArray[np.int32]]:
    """The distinct experiment blocks the space makes, and each point's block."""
    base = {"use": config.experiment.use, **config.experiment.options}
    swept = [column for column in points.columns if column.name.startswith(EXPERIMENT)]
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


def identity(block: Mapping[str, Any], formulas: Mapping[str, Formula]) -> str:
    """What of a trial's name comes from its experiment: the reference, the options, and how parameters are derived."""
    options = {key: value for key, value in block.items() if key != "use"}
    return experiment_text(str(block["use"]), options, {name: formula.tree for name, formula in formulas.items()})
