"""A cover tree is one after every change, old versions stay what they were, and what makes no sense is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from covertree import Dense, Euclidean, Hanging, Rbf, ResidualCorrelation, build, compact
from covertree.conflicts import Arrivals
from covertree.copying import FLOOR
from covertree.independent import draws, independent
from covertree.pool import TWIN, levels_over, scales
from covertree.questions import parents
from covertree.walk import Walker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import staffa
from staffa.errors import ConfigError, PluginError
from workflows.grove import data_sets, same_neighbours, straight


@pytest.fixture(scope="module")
def cloud():
    return np.random.default_rng(1).normal(size=(600, 3))


@pytest.fixture(scope="module")
def tree(cloud):
    return build(cloud, seed=4)


def shape(tree):
    """Everything a version says of its nodes."""
    return {name: column.tolist() for name, column in tree.nodes().items()}


# --- what a tree is ---------------------------------------------------------------------------------


def test_trees_of_ten_kinds_of_data_are_sound():
    for name, points in data_sets(10):
        report = build(points).validate()
        assert report.sound and report.nodes == len(points), (name, report.told)


@pytest.mark.soak
def test_trees_of_fifty_data_sets_are_sound_after_changes():
    for number, (name, points) in enumerate(data_sets(50)):
        tree, random = build(points, seed=number), np.random.default_rng(number)
        less = tree.delete(random.permutation(len(points))[: len(points) // 2])
        more = less.insert(points[: len(points) // 3] + 0.5)
        for version in (less, more, tree):
            assert version.validate().sound, (name, version.validate().told)


def spoiled(tree, column, change, which):
    """The tree with one number of one node changed."""
    other = compact(tree)
    records = other.pool.records[column]
    node = int(np.flatnonzero(which(other.pool.records))[0])
    records[node] = change(records[node])
    return other.validate()


def inner(records):
    """Nodes below the root with children."""
    return (records["count"] > 0) & (np.arange(len(records)) > 0)


@pytest.mark.parametrize(
    ("column", "change", "kind"),
    [
        ("level", lambda level: level + 40, "nesting"),
        ("level", lambda level: level - 3, "covering"),
        ("level", lambda level: level + 2, "separation"),
        ("radius", lambda radius: radius * 0.99, "radius"),
        ("gap", lambda gap: gap * 1.01, "covering"),
        ("size", lambda size: size + 1, "sums"),
        ("least", lambda least: least + 1, "sums"),
    ],
)
def test_validate_finds_one_wrong_number(tree, column, change, kind):
    assert tree.validate().sound
    report = spoiled(tree, column, change, inner)
    assert not report.sound and report.faults[kind] >= 1
    assert any(line.startswith(kind) for line in report.told)


def test_twins_hang_below_the_point_they_lie_on():
    nodes = build(np.repeat([[0.0, 1.0], [3.0, 1.0]], 5, axis=0)).nodes()
    twins = nodes["level"] == TWIN
    assert twins.sum() == 8 and (nodes["gap"][twins] == 0).all()
    assert not twins[nodes["parent"][twins]].any()


def test_levels_are_powers_of_two_to_the_last_bit():
    exact = np.ldexp(1.0, np.array([-1000, -3, 0, 1, 900]))
    assert levels_over(exact).tolist() == [-1000, -3, 0, 1, 900]
    assert levels_over(np.nextafter(exact, np.inf)).tolist() == [-999, -2, 1, 2, 901]
    assert levels_over(np.nextafter(exact, 0)).tolist() == [-1000, -3, 0, 1, 900]
    assert scales(np.array([TWIN, -2, 3])).tolist() == [-1.0, 0.25, 8.0]


# --- building ---------------------------------------------------------------------------------------


def test_equal_seeds_make_equal_trees(cloud, tree):
    assert shape(build(cloud, seed=4)) == shape(tree)
    assert shape(build(cloud, seed=5)) != shape(tree)


def test_both_ways_to_find_conflicts_make_the_same_tree(cloud, tree):
    assert shape(build(cloud, seed=4, conflict="dense")) == shape(tree)
    assert shape(build(cloud, seed=4, conflict=Hanging(dense=0))) == shape(tree)


def test_conflicts_are_those_of_all_pairs(cloud, tree):
    points = np.random.default_rng(6).normal(size=(300, 3)) * 0.3
    walker = Walker(tree.pool, tree.root, tree.fitted, points)
    gap, way = parents(walker, np.full(300, FLOOR))
    distances, nodes = straight(points, cloud), tree.nodes()
    # The parent is the nearest of those that reach so far; its level gives that of the point.
    allowed = np.where(distances <= scales(nodes["level"]), distances, np.inf)
    assert np.allclose(gap, allowed.min(axis=1))
    level = levels_over(gap) - 1
    near = straight(points, points) <= np.minimum.outer(scales(level), scales(level))
    expected = {(int(one), int(other)) for one, other in np.argwhere(near) if one < other}
    assert len(expected) > 50
    for strategy in (Dense(), Hanging(dense=0)):
        edges = strategy(Arrivals(walker, level, way))
        assert {tuple(sorted(map(int, pair))) for pair in zip(edges.left, edges.right, strict=True)} == expected
        assert len(edges) == len(expected)


def test_batches_double_and_tell_what_was_done(tree):
    assert [batch.size for batch in tree.batches] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 88]
    last = tree.batches[-2]
    assert 0 < last.chosen < last.size and last.dominated >= last.size - last.chosen
    assert last.edges >= last.size - last.chosen and last.rounds >= 2 and last.copied > 0


def test_the_independent_set_is_the_greedy_one():
    random = np.random.default_rng(3)
    left, right = random.integers(0, 200, (2, 500))
    left, right = left[left != right], right[left != right]
    rank = random.permutation(200)
    chosen, rounds = independent(rank, left, right)
    expected: set[int] = set()
    neighbours = {node: set(right[left == node]) | set(left[right == node]) for node in range(200)}
    for node in np.argsort(rank).tolist():
        if not expected & neighbours[node]:
            expected.add(node)
    assert set(np.flatnonzero(chosen).tolist()) == expected and 1 < rounds < 30


def test_draws_depend_on_seed_and_number_alone():
    every = draws(7, np.arange(1000))
    assert np.array_equal(draws(7, np.array([3, 999])), every[[3, 999]])
    assert len(np.unique(every)) == 1000 and not np.array_equal(every, draws(8, np.arange(1000)))
    assert abs((every / 2**64).mean() - 0.5) < 0.05


# --- versions ---------------------------------------------------------------------------------------


def test_old_versions_stay_what_they_were_and_share_what_is_the_same(cloud, tree):
    before, records = shape(tree), len(tree.pool.records)
    inserted = tree.insert(np.array([[0.1, 0.2, 0.3]]))
    depth = len(tree.pool.records) - records
    assert depth < 15, "a new node, and copies of those above it"
    deleted, other = inserted.delete([5, 600]), tree.insert(np.full((2, 3), 9.0))
    assert shape(tree) == before and len(tree) == 600 and len(inserted) == 601
    assert inserted.numbers[-1] == 600 and other.numbers[-2:].tolist() == [601, 602]
    assert sorted({*range(600)} - {5}) == deleted.numbers.tolist()
    for version in (inserted, deleted, other):
        assert version.validate().sound


def test_a_tree_without_its_root_is_a_tree(cloud, tree):
    top = int(np.flatnonzero(tree.nodes()["parent"] < 0)[0])
    without = tree.delete([top])
    assert top not in without.numbers and without.validate().sound
    kept = np.delete(np.arange(600), top)
    numbers, distances = without.knn(cloud[:50], 4)
    same_neighbours((np.searchsorted(kept, numbers), distances), straight(cloud[:50], cloud[kept]))
    last = tree.delete(np.arange(599))
    assert len(last) == 1 and last.knn(cloud[:2])[0].tolist() == [[599], [599]]


COORDINATES = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=12)


class Changing(RuleBasedStateMachine):
    """Points come and go on a small lattice, where everything is a tie or a twin."""

    @initialize(points=COORDINATES, seed=st.integers(0, 3))
    def begin(self, points, seed):
        self.points = {0: (0.0, 0.0), 1: (1.0, 0.0), **{n + 2: point for n, point in enumerate(points)}}
        self.tree = build(list(self.points.values()), seed=seed)
        self.given = len(self.points)

    @rule(points=COORDINATES)
    def insert(self, points):
        self.tree = self.tree.insert(points)
        self.points |= {self.given + n: point for n, point in enumerate(points)}
        self.given += len(points)

    @rule(data=st.data())
    def delete(self, data):
        gone = data.draw(st.sets(st.sampled_from(sorted(self.points)), max_size=len(self.points) - 1))
        self.tree = self.tree.delete(sorted(gone))
        for number in gone:
            del self.points[number]

    @rule(queries=COORDINATES, data=st.data())
    def query(self, queries, data):
        k = data.draw(st.integers(1, len(self.points)))
        numbers = np.array(sorted(self.points))
        found, distances = self.tree.knn(queries, k)
        points = np.array([self.points[number] for number in numbers], float)
        same_neighbours((np.searchsorted(numbers, found), distances), straight(np.array(queries, float), points), True)

    @invariant()
    def sound(self):
        report = self.tree.validate()
        assert report.sound, report.told
        assert self.tree.numbers.tolist() == sorted(self.points)


TestChanging = Changing.TestCase
TestChanging.settings = settings(
    max_examples=10, stateful_step_count=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


# --- what is refused, and parts by name -------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """No kernel: its matrices have negative eigenvalues."""

    def __call__(self, left, right):
        import jax.numpy as jnp

        return jnp.cos(3 * jnp.sum((left - right) ** 2, axis=-1))


@dataclass(frozen=True)
class Rising:
    """No kernel: two points have more in common than each with itself."""

    def __call__(self, left, right):
        import jax.numpy as jnp

        return 1 + jnp.sum((left - right) ** 2, axis=-1)


@dataclass(frozen=True)
class Taxicab:
    """A metric of somebody else's: the sum of the distances along the axes."""

    def fitted(self, points, seed):
        return replace(Euclidean().fitted(points, seed), form=Blocks())


@dataclass(frozen=True)
class Blocks:
    def __call__(self, left, right):
        import jax.numpy as jnp

        return jnp.sum(jnp.abs(left - right), axis=-1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda tree: build([[0.0, 1.0], [np.nan, 2.0]]), "points: nan at row 1, column 0 (1 in all)"),
        (lambda tree: build([[0.0, np.inf], [1.0, 2.0]]), "points: inf at row 0, column 1"),
        (lambda tree: build([[1.0, 2.0]]), "points: 1, and at least 2 are needed"),
        (lambda tree: build(np.zeros((0, 2))), "points: 0, and at least 2"),
        (lambda tree: build([1.0, 2.0]), "shape (2,)"),
        (lambda tree: build([["a"], ["b"]]), "points: could not convert string to float"),
        (lambda tree: build([[1e200], [0.0]]), "1e+200 is more than 1e150"),
        (lambda tree: tree.knn([[0.0, 0.0, 0.0]], 601), "k: 601 of 600 points"),
        (lambda tree: tree.knn([[0.0, 0.0, 0.0]], 0), "k: 0 is not a whole number of 1 or more"),
        (lambda tree: tree.knn([[0.0, 0.0, 0.0]], True), "k: True is not"),
        (lambda tree: tree.knn([[0.0, 0.0]], 1), "queries: 2 dimensions, the tree has 3"),
        (lambda tree: tree.knn([[0.0, 0.0, np.nan]], 1), "queries: nan at row 0, column 2"),
        (lambda tree: tree.knn([[0.0, 0.0, 0.0]], 1, before=[1, 2]), "before: 2 numbers for 1 queries"),
        (lambda tree: tree.insert([[np.nan, 0.0, 0.0]]), "points: nan at row 0"),
        (lambda tree: tree.delete([600]), "numbers: the tree has no point 600"),
        (lambda tree: tree.delete([0.5]), "are no numbers of points"),
        (lambda tree: tree.delete(np.arange(600)), "nothing would be left"),
        (lambda tree: build(np.eye(4), ResidualCorrelation(inducing=5)), "inducing: 5 of 4 points"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(tree, wrong, words):
    with pytest.raises(ConfigError) as refusal:
        wrong(tree)
    assert words in refusal.value.message


def test_a_kernel_that_is_not_positive_definite_is_named(cloud):
    with pytest.raises(ConfigError, match=r"kernel Wave\(\) is not positive definite"):
        build(cloud, ResidualCorrelation(Wave(), 20))
    with pytest.raises(ConfigError, match=r"kernel Rising\(\) is not positive definite: point"):
        build(cloud, ResidualCorrelation(Rising(), 1))
    for wrong in ({"length": 0.0}, {"variance": -1.0}, {"length": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: .* is not above 0"):
            Rbf(**wrong)
    with pytest.raises(ValueError, match="inducing: 0"):
        ResidualCorrelation(inducing=0)


def test_parts_are_plug_ins(cloud):
    with staffa.register("metrics", "taxicab", Taxicab):
        tree = build(cloud, "taxicab")
        found = tree.knn(cloud[:30], 5)
        distances = np.abs(cloud[:30, None] - cloud[None]).sum(axis=-1)
        same_neighbours(found, distances)
        assert tree.validate().sound
    with pytest.raises(PluginError, match="metrics: there is no 'taxicab'") as refusal:
        build(cloud, "taxicab")
    assert "euclidean" in refusal.value.hint
    with pytest.raises(PluginError, match="'level'") as refusal:
        tree.knn(cloud[:1], traversal="level")
    assert refusal.value.hint == "did you mean 'levels'?"
    with pytest.raises(PluginError, match="conflicts: there is no 'dens'"):
        build(cloud, conflict="dens")


def test_the_example_of_the_page_runs(cloud):
    page = (Path(__file__).parents[2] / "workflows" / "neighbours" / "README.md").read_text()
    names = {"points": cloud[:200], "queries": cloud[200:240]}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), names)
    assert len(names["less"]) == 248 and names["numbers"].shape == (40, 10)
    assert names["vecchia"].predecessors([20], 20)[0].tolist() != [[-1] * 20]
