"""The points of a search: a few that stand for all until it runs, then those that are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Axis, Categorical, Domain, Integer, Lattice
from staffa.campaign.points import Column, Kind, Points, distinct
from staffa.errors import ConfigError
from staffa.trial import Scalar

EXPERIMENT = "experiment."
FIELD = "search.space"
COMBINATIONS = 256
"""Combinations of values that are compiled in, or make partitions: each is a program and a store of its own."""


def fields_of(domain: Domain) -> dict[str, str]:
    """Where each parameter of a search is declared."""
    return {name: f"{FIELD}.{name}" for name in domain.names}


def representatives(domain: Domain, listed: Collection[str] = ()) -> Points:
    """Points that stand for those a search may ask for.

    Every combination of the values of some parameters: options of the experiment, and those that are `listed`, since
    they are compiled in or make partitions. Of the others there is one value.
    """
    values = {name: _values(name, axis, name in listed) for name, axis in domain.axes.items()}
    count = math.prod(map(len, values.values()))
    if count > COMBINATIONS:
        many = {name: len(own) for name, own in values.items() if len(own) > 1}
        told = " x ".join(f"{size} of {name}" for name, size in many.items())
        raise ConfigError(
            f"{FIELD}: {told} are {count} combinations, each a program or a partition of its own; more than "
            f"{COMBINATIONS} are refused",
            "list fewer values, or have the experiment take them without compiling them in",
        )
    rows = list(itertools.product(*(range(len(own)) for own in values.values())))
    codes = np.array(rows, np.int32).reshape(len(rows), len(values))
    return Points(
        tuple(
            Column(name, domain.axes[name].kind, own, codes[:, place], not _listable(domain.axes[name]))
            for place, (name, own) in enumerate(values.items())
        ),
        len(rows),
    )


def points_of(domain: Domain, columns: Mapping[str, npt.NDArray[Any]]) -> Points:
    """Points from the values of each parameter, (n,) each."""
    made = tuple(_column(name, axis, columns[name].tolist()) for name, axis in domain.axes.items())
    return Points(made, len(made[0].codes))


def _column(name: str, axis: Axis, values: Sequence[Scalar]) -> Column:
    kind: Kind = axis.kind
    each, codes = distinct(values)
    return Column(name, kind, each, codes, not _listable(axis))


def _values(name: str, axis: Axis, listed: bool) -> tuple[Scalar, ...]:
    if not (listed or name.startswith(EXPERIMENT)):
        return (axis.decode(0.5),)
    if isinstance(axis, Categorical | Lattice):
        return axis.values
    if isinstance(axis, Integer):
        if axis.high - axis.low >= COMBINATIONS:
            raise ConfigError(
                f"{FIELD}.{name}: {axis.low} to {axis.high}, and every value is a program or a partition of its own",
                f"list a few of them: {name}: {{grid: [{axis.low}, {axis.high}]}}",
            )
        return tuple(range(axis.low, axis.high + 1))
    raise ConfigError(
        f"{FIELD}.{name}: a range of floats, but it is compiled in, or makes partitions",
        f"list its values: {name}: {{linspace: [{axis.decode(0.0)}, {axis.decode(1.0)}, 4]}}",
    )


def _listable(axis: Axis) -> bool:
    return isinstance(axis, Categorical | Lattice | Integer)
