"""Lineages against walking back one particle at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from staffa.samplers.lineage import BEFORE, NEVER, coalescence, founders, lineages, meetings, survivors, traced

TABLES = st.tuples(st.integers(1, 7), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.integers(0, shape[1] - 1))
)


def walk(ancestors: Any, particle: int) -> list[int]:
    """Who a particle of the last draw was, from the last draw back to before the first."""
    path = [particle]
    for row in ancestors[::-1]:
        path.append(int(row[path[-1]]))
    return path


@settings(max_examples=150, deadline=None)
@given(TABLES)
def test_everything_is_what_walking_back_finds(ancestors: Any) -> None:
    draws, particles = ancestors.shape
    walks = [walk(ancestors, particle)[::-1] for particle in range(particles)]  # before, draw 0, …, last
    paths = lineages(ancestors)
    assert paths.T.tolist() == [path[1:] for path in walks]
    assert founders(ancestors).tolist() == [path[0] for path in walks]
    assert survivors(ancestors).tolist() == [len({path[1 + draw] for path in walks}) for draw in range(draws)]

    def met(group: list[list[int]]) -> int:
        draws_met = [draw for draw in range(BEFORE, draws) if len({path[1 + draw] for path in group}) == 1]
        return max(draws_met, default=NEVER)

    assert coalescence(ancestors) == met(walks)
    assert meetings(ancestors).tolist() == [[met([one, other]) for other in walks] for one in walks]


def test_what_was_recorded_of_a_lineage() -> None:
    random = np.random.default_rng(1)
    ancestors, values = random.integers(0, 5, (6, 5)), random.normal(size=(6, 5, 3))
    paths = lineages(ancestors)
    for particle in range(5):
        expected = [values[draw, paths[draw, particle]] for draw in range(6)]
        np.testing.assert_array_equal(traced(values, paths[:, particle]), expected)
        np.testing.assert_array_equal(traced(values, paths)[:, particle], expected)


def test_descent_is_true_in_a_population_whose_particles_keep_a_name() -> None:
    """Names given before the first draw and inherited since say who the founders were."""
    random = np.random.default_rng(2)
    names, recorded, ancestors = np.arange(50), [], []
    for _ in range(30):
        chosen = random.integers(0, 50, 50)
        names = names[chosen]
        ancestors.append(chosen)
        recorded.append(names)
    np.testing.assert_array_equal(founders(ancestors), names)
    assert (traced(recorded, lineages(ancestors)) == names).all()
    left = survivors(ancestors)
    assert left[-1] == 50 and (np.diff(left) >= 0).all() and len(np.unique(names)) <= left[0]


def test_without_selection_nobody_meets() -> None:
    still = np.tile(np.arange(4), (5, 1))
    assert coalescence(still) == NEVER and survivors(still).tolist() == [4] * 5
    assert meetings(still).tolist() == (np.where(np.eye(4, dtype=bool), 4, NEVER)).tolist()
    assert coalescence([[2, 2, 2]]) == BEFORE and coalescence([[0]]) == 0


@pytest.mark.parametrize(
    ("ancestors", "message"),
    [
        ([0, 1], r"not int64 of shape \(2,\)"),
        ([[0.0, 1.0]], "float64"),
        ([[0, 3]], "3 is none of 2 particles"),
        ([[0, -1]], "-1 is none of 2 particles"),
        (np.zeros((0, 4), int), r"shape \(0, 4\)"),
    ],
)
def test_what_are_no_ancestors_is_refused(ancestors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lineages(ancestors)
