"""Neighbours found by a cover tree are those that all distances give."""

from __future__ import annotations

import numpy as np
import pytest
from covertree import Blocks, Levels, Matern52, Rbf, ResidualCorrelation, blocks, build
from covertree.walk import Walker
from scipy.linalg import cho_solve
from sklearn.gaussian_process.kernels import RBF, Matern

from workflows.grove import data_sets, nearest, queries_for, same_neighbours, straight

WHOLE = ("lattice", "same", "line")
"""Kinds whose distances have no rounding but that of the root, and many ties."""


def searched(count, queries_each, traversal):
    for number, (name, points) in enumerate(data_sets(count)):
        tree = build(points, seed=number, traversal=traversal)
        queries = queries_for(points, queries_each, number)
        exact = name.startswith(WHOLE)
        if exact:
            queries = np.round(queries)
        k = (1, 3, 10)[number % 3]
        same_neighbours(tree.knn(queries, k), straight(queries, points), exact)
        yield len(queries)


@pytest.mark.parametrize("traversal", ["levels", Blocks(least=1)])
def test_ten_kinds_of_data(traversal):
    assert sum(searched(10, 60, traversal)) == 600


@pytest.mark.soak
def test_ten_thousand_queries_over_fifty_data_sets():
    assert sum(searched(50, 200, "blocks")) == 10_000


@pytest.mark.soak
@pytest.mark.parametrize("traversal", ["levels", "preorder", "brute"])
def test_the_other_traversals_over_fifty_data_sets(traversal):
    assert sum(searched(50, 200, traversal)) == 10_000


@pytest.fixture(scope="module")
def lattice():
    return np.random.default_rng(5).integers(0, 6, (300, 3)).astype(float)


@pytest.mark.parametrize("traversal", ["preorder", "brute", Levels(together=7), Blocks(least=1)])
def test_traversals_agree_to_the_last_tie(lattice, traversal):
    tree, queries = build(lattice, traversal="levels"), np.round(queries_for(lattice, 60, 1))
    for found, expected in zip(tree.knn(queries, 10, traversal=traversal), tree.knn(queries, 10), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("room", [blocks.ROOM, 1 << 10])
def test_blocks_find_what_levels_find_to_the_last_bit(monkeypatch, room):
    """Of every version, also with more heads than fit beside many queries."""
    monkeypatch.setattr(blocks, "ROOM", room)
    random = np.random.default_rng(3)
    centres, queries = random.normal(size=(30, 4)), random.normal(size=(600, 4))
    points = centres[random.integers(0, 30, 3000)] + 0.05 * random.normal(size=(3000, 4))
    points[:300] = points[0]  # many twins
    tree = build(points, seed=2)
    for version in (tree, tree.insert(queries[:200]), tree.delete(np.arange(5, 2000)), tree):
        for k in (1, 40):
            found, expected = (version.knn(queries, k, traversal=way) for way in ("blocks", "levels"))
            assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def test_a_point_stands_in_one_block_within_its_radius():
    points = np.random.default_rng(4).normal(size=(2000, 3))
    points[100:150] = points[99]
    tree = build(points)
    found = blocks.blocks_of(Walker(tree.pool, tree.root, tree.fitted, points))
    assert np.array_equal(np.sort(found.points[found.points >= 0]), np.arange(2000))
    heads, radius, head, least = map(np.asarray, found.heads)
    for block in np.flatnonzero(found.count):
        first = int(found.first[block])
        members = found.points.reshape(-1, blocks.TILE)[first : first + int(found.count[block])]
        own = members[members >= 0]
        away = np.linalg.norm(points[own] - heads[block], axis=1)
        assert (
            head[block] in own and least[block] == own.min() and radius[block] == pytest.approx(away.max(), abs=1e-12)
        )
        assert (np.diff(away) <= 1e-12).all()
        assert len(own) <= blocks.MOST or (away < 1e-12).sum() > 1
    assert len(found) >= (found.count > 0).sum() > 2000 / blocks.MOST


def test_k_may_be_all_of_them(lattice):
    tree = build(lattice[:30])
    numbers, distances = tree.knn(lattice[40:45], 30)
    assert np.array_equal(np.sort(numbers), np.tile(np.arange(30), (5, 1)))
    assert (np.diff(distances) >= 0).all()
    assert tree.knn(np.zeros((0, 3)), 4)[0].shape == (0, 4)


@pytest.mark.parametrize("traversal", ["blocks", "levels", "preorder", "brute"])
def test_predecessors_are_those_of_smaller_number(lattice, traversal):
    tree = build(lattice, traversal=traversal)
    numbers, distances = tree.predecessors(np.arange(300), 5)
    allowed = np.where(np.arange(300)[None, :] < np.arange(300)[:, None], straight(lattice, lattice), np.inf)
    expected, expected_distances = nearest(allowed, 5)
    there = np.isfinite(expected_distances)
    assert there.sum(axis=1).tolist() == [min(number, 5) for number in range(300)]
    assert np.array_equal(numbers, np.where(there, expected, -1))
    assert np.allclose(distances[there], expected_distances[there]) and np.isinf(distances[~there]).all()


# --- residual correlation ---------------------------------------------------------------------------


def residual(points, queries, known, kernel):
    """sqrt(1 - |rho|) from scikit-learn's kernels, by solving where the metric multiplies factors."""
    jitter = 1e-6 * np.eye(len(known))
    lower = np.linalg.cholesky(kernel(known, known) + jitter)

    def covariance(one, other):
        return kernel(one, other) - kernel(one, known) @ cho_solve((lower, True), kernel(known, other))

    def own(some):
        return np.maximum(np.diag(covariance(some, some)), 1e-9)

    rho = covariance(queries, points) / np.sqrt(own(queries)[:, None] * own(points))
    return np.sqrt(np.maximum(1 - np.abs(rho), 0))


@pytest.mark.parametrize(
    ("kernel", "reference"), [(Rbf(0.7), RBF(0.7)), (Matern52(0.7), Matern(0.7, nu=2.5))], ids=["rbf", "matern"]
)
def test_residual_correlations(kernel, reference):
    points = np.random.default_rng(8).normal(size=(300, 2))
    metric = ResidualCorrelation(kernel, inducing=12)
    tree = build(points, metric, seed=3)
    assert tree.validate().sound
    queries = np.random.default_rng(9).normal(size=(60, 2))
    known = metric.fitted(points, 3).features.known
    assert {tuple(row) for row in known} <= {tuple(row) for row in points} and len(known) == 12
    distances = residual(points, queries, known, reference)
    # What cancels in 1 - |rho| is 1e-16 of a variance of which 1e-6 may be left: 1e-10, 1e-5 after the root.
    same_neighbours(tree.knn(queries, 6), distances, rounding=1e-5)
    brute = tree.knn(queries, 6, traversal="brute")
    assert np.array_equal(tree.knn(queries, 6)[0], brute[0])
    assert np.array_equal(tree.knn(queries, 6, traversal=Blocks(least=1))[0], brute[0])


def test_residual_correlations_satisfy_the_triangle_inequality_and_1_less_rho_does_not():
    points = np.random.default_rng(2).normal(size=(60, 2))
    distances = residual(points, points, points[:12], RBF(0.7))
    np.fill_diagonal(distances, 0)

    def violations(table):
        return int((table[:, None, :] > table[:, :, None] + table[None, :, :] + 1e-9).sum())

    assert violations(distances) == 0 and violations(distances**2) > 500
