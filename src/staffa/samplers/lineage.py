"""Who comes from whom: lineages traced back through the recorded `ancestors` of a particle sampler.

`ancestors` is (draws, particles): entry [t, i] is the particle of draw t - 1 that particle i of draw t comes
from; at draw 0 it is one of the particles that were there before. They have to be recorded at every step
(`sampling.thin: 1`). What is asked here is asked of results, so it is NumPy; each question is answered
for all particles of the last draw at once, in draws x particles operations unless said.

    ancestors = dataset["ancestors"].sel(trial=trial).values
    path = lineages(ancestors)[:, best]               # who the best one was, draw by draw
    history = traced(dataset["fitness"].values, path)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

BEFORE = -1
"""The particles before the first draw, as a draw."""
NEVER = -2
"""For lineages that do not meet, not even there."""


def lineages(ancestors: npt.ArrayLike) -> Indices:
    """(draws, particles): who each particle of the last draw was at each draw; the last row is 0, 1, 2, …

    Raises `ValueError` for what are not ancestors.
    """
    table = _checked(ancestors)
    found = np.empty_like(table)
    found[-1] = np.arange(table.shape[1])
    for draw in range(len(table) - 1, 0, -1):
        found[draw - 1] = table[draw, found[draw]]
    return found


def founders(ancestors: npt.ArrayLike) -> Indices:
    """(particles,): which of the particles before the first draw each of the last draw comes from."""
    table = _checked(ancestors)
    return np.asarray(table[0, lineages(table)[0]])


def traced(values: npt.ArrayLike, path: npt.ArrayLike) -> npt.NDArray[Any]:
    """What was recorded of a lineage.

    Arguments:
    - `values`: (draws, particles, …) of each particle of each draw.
    - `path`: (draws,) one column of `lineages`, or (draws, n) several.

    Returns (draws, …), or (draws, n, …).
    """
    recorded, chosen = np.asarray(values), np.asarray(path)
    rows = np.arange(len(chosen)).reshape(-1, *(1,) * (chosen.ndim - 1))
    return np.asarray(recorded[rows, chosen])


def survivors(ancestors: npt.ArrayLike) -> Indices:
    """(draws,): of how many particles of each draw there are descendants in the last one."""
    return np.array([len(np.unique(row)) for row in lineages(ancestors)], np.int64)


def coalescence(ancestors: npt.ArrayLike) -> int:
    """The latest draw at which one particle was the ancestor of all of the last draw.

    `BEFORE` where that was before the first draw, `NEVER` where there is no such particle.
    """
    alone = np.flatnonzero(survivors(ancestors) == 1)
    if len(alone):
        return int(alone[-1])
    return BEFORE if len(np.unique(founders(ancestors))) == 1 else NEVER


def meetings(ancestors: npt.ArrayLike) -> Indices:
    """(particles, particles): the latest draw at which two particles of the last draw were one.

    On the diagonal the last draw; `BEFORE` and `NEVER` as for `coalescence`. draws x particles^2 operations.
    """
    table = _checked(ancestors)
    first = founders(table)
    found = np.where(first[:, None] == first[None, :], BEFORE, NEVER).astype(np.int64)
    for draw, row in enumerate(lineages(table)):
        found[row[:, None] == row[None, :]] = draw
    return found


def _checked(ancestors: npt.ArrayLike) -> Indices:
    table = np.asarray(ancestors)
    if table.ndim != 2 or table.dtype.kind not in "iu" or 0 in table.shape:
        raise ValueError(f"ancestors: whole numbers of shape (draws, particles) are needed, not {_shown(table)}")
    if table.min() < 0 or table.max() >= table.shape[1]:
        worst = table.min() if table.min() < 0 else table.max()
        raise ValueError(f"ancestors: {worst} is none of {table.shape[1]} particles")
    return table.astype(np.int64)


def _shown(table: npt.NDArray[Any]) -> str:
    return f"{table.dtype} of shape {table.shape}"
