"""What a search asks for, as trials: all their parameters, their names, and the groups they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.blocks import explored_at, identity
from staffa.campaign.declared import Declared, Explored, Offer, completed
from staffa.campaign.domain import Domain
from staffa.campaign.identity import name_trials
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan, Rows
from staffa.campaign.points import Points
from staffa.campaign.searched import points_of
from staffa.errors import ConfigError
from staffa.trial import canonical


class Asking:
    """Makes trials of points.

    Arguments:
    - `config`: of a search; `plan`: as it was planned.
    - `offer`: for an experiment block what its experiment declares of its parameters.
    """

    def __init__(self, config: CampaignConfig, plan: Plan, offer: Offer) -> None:
        assert config.search is not None
        self._config, self._plan, self._offer = config, plan, offer
        self.domain = Domain.read(config.search.space)

    def rows(self, columns: Mapping[str, npt.NDArray[Any]], replicates: Sequence[int] = ()) -> Rows:
        """The trials at some points.

        Arguments:
        - `columns`: by name what the search varies, (n,) each.
        - `replicates`: of each how often its point was asked for before; empty for never.
        """
        found = explored_at(self._config, self.domain, points_of(self.domain, columns))
        whole = completed(self._config, found, [self._offer(block) for block in found.blocks])
        digests = self._names(found, whole, replicates)
        everyone = np.arange(whole.points.length, dtype=np.int64)
        groups = self._groups(found, whole.points)
        return Rows(whole.points, 1, digests, everyone, groups, digests)

    def _names(self, found: Explored, whole: Declared, replicates: Sequence[int]) -> npt.NDArray[np.uint8]:
        texts = [identity(block, formulas) for block, formulas in zip(found.blocks, whole.formulas, strict=True)]
        names = name_trials(whole.underived, 1, texts, found.codes)
        for row in np.flatnonzero(replicates).tolist():
            one = whole.underived.select([row])
            names[row] = name_trials(one, replicates[row] + 1, texts, found.codes[[row]])[-1]
        return names

    def _groups(self, found: Explored, points: Points) -> npt.NDArray[np.int32]:
        blocks = [canonical(block) for block in found.blocks]
        columns = {column.name: column for column in points.columns}
        groups = np.full(points.length, -1, np.int32)
        for number, group in enumerate(self._plan.groups):
            there = np.isin(
                found.codes, [code for code, text in enumerate(blocks) if text == canonical(group.experiment)]
            )
            for name, value in _parting(group).items():
                if name in columns:
                    column = columns[name]
                    places = [place for place, one in enumerate(column.values) if one == value]
                    there &= np.isin(column.codes, places)
            groups[there] = number
        if (groups < 0).any():
            point = points.row(int(np.argmax(groups < 0)))
            raise ConfigError(f"search: {point} belongs to no group of the plan", "the plan is another search's")
        return groups


def _parting(group: Group) -> dict[str, Any]:
    """What tells a group from the others that run the same experiment."""
    return {name: value for name, value in {**group.partition, **group.static}.items() if value is not None}
