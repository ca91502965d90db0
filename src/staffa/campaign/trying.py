"""Which trials of a program are tried to learn what it records, as long as they raise: a few, unlike each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from staffa.campaign.blocks import explored_at
from staffa.campaign.declared import EXPERIMENT, Offer, completed
from staffa.campaign.domain import Domain
from staffa.campaign.model import CampaignConfig
from staffa.campaign.points import Points
from staffa.campaign.searched import points_of
from staffa.trial import Scalar

Params = Mapping[str, Scalar]

GOLDEN = 0.618033988749895
"""The golden section. Its multiples, without their whole parts, spread over the unit interval however many there are,
and fit no grid."""
DRAWN = 64
"""Points of a search to choose from."""


def unlike(points: Points, members: npt.NDArray[np.int64]) -> Iterator[dict[str, Scalar]]:
    """Parameters of the first of some points, then of others, each in as much as may be unlike all before it.

    What is wrong with one value of a parameter is escaped at the second point wherever that can be. Of many that are
    equally unlike one is chosen such that they come to lie all over the space. None comes twice.
    """
    codes = [column.codes[members] for column in points.columns]
    shared = np.zeros(len(members), np.int64)
    place = 0
    for count in itertools.count(1):
        yield points.row(int(members[place]))
        same = sum((code == code[place] for code in codes), np.zeros(len(members), np.int64))
        shared += same
        shared[same == len(codes)] = np.iinfo(np.int64).max // 2
        least = shared.min()
        if least >= np.iinfo(np.int64).max // 4:
            return
        ties = np.flatnonzero(shared == least)
        place = int(ties[np.abs(ties - len(members) * (count * GOLDEN % 1)).argmin()])


def asked_for(config: CampaignConfig, offer: Offer, fixed: Params) -> Iterator[dict[str, Scalar]]:
    """Parameters that a search may ask for.

    Arguments:
    - `offer`: for an experiment block what its experiment declares of its parameters.
    - `fixed`: what makes the program, and is to stay.
    """
    assert config.search is not None
    domain = Domain.read(config.search.space)
    columns = dict(domain.decode_columns(np.random.default_rng(0).random((DRAWN, domain.dimension))))
    columns |= {name: np.array([value] * DRAWN, object) for name, value in fixed.items()}
    found = explored_at(config, domain, points_of(domain, columns))
    whole = completed(config, found, [offer(block) for block in found.blocks])
    yield from unlike(without_options(whole.points), np.arange(DRAWN))


def without_options(points: Points) -> Points:
    """What trials are given: options of the experiment are none of it."""
    return Points(tuple(c for c in points.columns if not c.name.startswith(EXPERIMENT)), points.length)
