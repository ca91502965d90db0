"""NK landscapes against plain Python, and where their optimum is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.samplers.fitness import nk
from staffa.samplers.fitness.alphabets import PROTEIN
from staffa.samplers.fitness.nk import Nk, neighbours


def plain(target, x):
    """The definition, in plain Python."""
    total = 0.0
    for site in range(target.length):
        number = x[site]
        for other in target.neighbours[site]:
            number = number * target.states + (x[other] if other >= 0 else 0)
        total += float(target.table[site, number])
    return total / target.length


def every(target):
    return np.array(list(itertools.product(range(target.states), repeat=target.length)), np.int32)


def values(target, xs):
    return np.asarray(jax.jit(jax.vmap(lambda x: target.fitness(x, {})[0]))(xs))


def test_without_neighbours_the_best_sequence_is_found_site_by_site():
    target = Nk(length=6, states=3, seed=7)
    xs = every(target)
    found = values(target, xs)
    assert xs[found.argmax()].tolist() == target.table.argmax(axis=1).tolist()
    assert found.max() == pytest.approx(target.table.max(axis=1).mean(), rel=1e-6)
    assert found.min() == pytest.approx(target.table.min(axis=1).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("k", "states", "p_connect"), [(1, 4, 1.0), (2, 3, 1.0), (3, 2, 0.5), (4, 2, 0.0), (5, 2, 1.0)]
)
def test_against_plain_python(k, states, p_connect):
    target = Nk(length=6, k=k, states=states, p_connect=p_connect, seed=3)
    xs = np.random.default_rng(0).integers(0, states, (40, 6)).astype(np.int32)
    np.testing.assert_allclose(values(target, xs), [plain(target, x) for x in xs], rtol=1e-6)


def test_neighbours_are_others_and_each_as_likely():
    found = neighbours(200, 3, 1.0, seed=1)
    assert all(len({site, *row}) == 4 for site, row in enumerate(found.tolist()))
    counts = np.bincount(neighbours(200, 20, 1.0, seed=2).ravel(), minlength=200)
    # a site is drawn by each of 199 others with probability 20/199: sd 4.2; six of them is 2e-9 a site
    assert np.abs(counts - 20).max() < 6 * 4.3


def test_probability_of_a_neighbour():
    found = neighbours(400, 5, 0.3, seed=4)
    share = (found >= 0).mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.21 / found.size)  # 6e-7
    assert all(row == sorted(row, key=lambda site: (site < 0, site)) for row in found.tolist())
    assert (neighbours(9, 5, 0.0, 1) == -1).all() and (neighbours(9, 5, 1.0, 1) >= 0).all()


def test_contributions_are_uniform_and_follow_the_seed():
    table = Nk(length=50, k=2, states=8, seed=5).table
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand
    gap = np.abs(np.sort(table.ravel()) - (np.arange(table.size) + 0.5) / table.size).max()
    assert gap < 1.95 / np.sqrt(table.size)
    assert (Nk(length=50, k=2, states=8, seed=5).table == table).all()
    assert not (Nk(length=50, k=2, states=8, seed=6).table == table).any()


def test_a_large_landscape_is_the_same_without_its_table(monkeypatch):
    small = Nk(length=20, k=2, states=4, seed=2)
    xs = np.random.default_rng(1).integers(0, 4, (10, 20)).astype(np.int32)
    expected = values(small, xs)
    monkeypatch.setattr(nk, "TABLE", 0)
    large = Nk(length=20, k=2, states=4, seed=2)
    assert large.table is None and not hasattr(large, "fitness_one_hot")
    np.testing.assert_array_equal(values(large, xs), expected)


def test_the_largest_landscape_asked_for_is_computed():
    target = Nk(length=200, k=5, states=20, p_connect=0.9)
    found = values(target, np.random.default_rng(1).integers(0, 20, (64, 200)).astype(np.int32))
    # the mean of 12,800 uniforms: 0.5, sd 0.0026
    assert abs(found.mean() - 0.5) < 5 * 0.0026 and len(set(found.tolist())) == 64


def test_relaxed_is_the_expectation():
    target = Nk(length=5, k=2, states=3, p_connect=0.7, seed=9)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (5, 3)))
    xs = every(target)
    chances = np.prod(np.asarray(p)[np.arange(5), xs], axis=1)
    assert float(target.fitness_one_hot(p, {})) == pytest.approx(float(chances @ values(target, xs)), rel=1e-5)
    corner = jax.nn.one_hot(xs[77], 3)
    assert float(target.fitness_one_hot(corner, {})) == pytest.approx(plain(target, xs[77]), rel=1e-5)
    assert np.abs(jax.jit(jax.grad(lambda p: target.fitness_one_hot(p, {})))(p)).max() > 0


def test_a_letter_it_does_not_know_contributes_nothing():
    target = Nk(length=4, k=1, alphabet="protein", seed=1)
    assert target.alphabet == PROTEIN and target.states == 20
    x = jnp.array([20, 3, 4, 5], jnp.int32)
    untouched = [site for site in range(1, 4) if target.neighbours[site, 0] != 0]
    expected = sum(float(target.table[site, x[site] * 20 + x[target.neighbours[site, 0]]]) for site in untouched) / 4
    assert float(target.fitness(x, {})[0]) == pytest.approx(expected, rel=1e-6)


def test_begins_with_the_sequence_given():
    target = Nk(k=1, alphabet="protein", sequence="MKTAY")
    assert target.length == 5 and target.initial(jax.random.key(0), {}).tolist() == [PROTEIN.index(a) for a in "MKTAY"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"states": 2}, r"^length: 0"),
        ({"length": 5}, r"^states: 0; give 2 or more"),
        ({"length": 5, "states": 1}, r"^states: 1"),
        ({"length": 5, "states": 3, "alphabet": "HP"}, r"^states: 3, but the alphabet HP has 2"),
        ({"length": 5, "states": 2, "k": 5}, r"^k: 5; a site of 5 has 0 to 4"),
        ({"length": 5, "states": 2, "k": -1}, r"^k: -1"),
        ({"length": 50, "states": 20, "k": 8}, r"^k: 8 with 20 states"),
        ({"length": 5, "states": 2, "p_connect": 1.5}, r"^p_connect: 1.5"),
        ({"length": 5, "states": 2, "sequence": "HHPPH"}, r"^sequence: 'HHPPH' needs an alphabet"),
        ({"length": 5, "alphabet": "protien"}, r"^alphabet: 'protien'"),
    ],
)
def test_refusals(options, reason):
    with pytest.raises(ValueError, match=reason):
        Nk(**options)
