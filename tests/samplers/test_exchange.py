"""Exchange between islands: detailed balance where it is promised, and where it is not."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from staffa.samplers.exchange import even_odd, log_ratio, origin, pairs, random_pairs, round_of, stay

FALSE_ALARM = 1e-4
BETAS = np.array([0.2, 0.5, 1.0])
ENERGIES = np.array([0.0, 2.0, 4.0])
STATES = list(permutations(range(3)))
"""Which of three walkers stands on which of three islands: all there is."""
LAW = np.exp([np.sum(BETAS * ENERGIES[list(state)]) for state in STATES])
LAW /= LAW.sum()
COUNT = 20_000


def moves(scheme):
    """How often each state was followed by each, of `COUNT` rounds from every one: (6, 6)."""

    @jax.jit
    @jax.vmap
    def one(key, energy):
        return scheme(key, jnp.asarray(BETAS), energy[:, None]).order

    found = np.zeros((6, 6), int)
    for number, state in enumerate(STATES):
        energy = jnp.broadcast_to(ENERGIES[list(state)], (COUNT, 3))
        orders = np.asarray(one(jax.random.split(jax.random.key(number), COUNT), energy))
        after, counts = np.unique(np.array(state)[orders], axis=0, return_counts=True)
        for walkers, count in zip(after, counts, strict=True):
            found[number, STATES.index(tuple(walkers))] = count
    return found


def apart(scheme):
    """How many standard errors each pair of states is from detailed balance."""
    there = moves(scheme) / COUNT
    flow = LAW[:, None] * there
    error = np.sqrt((LAW[:, None] ** 2 * there * (1 - there) + (LAW[:, None] ** 2 * there * (1 - there)).T) / COUNT)
    return np.abs(flow - flow.T)[error > 0] / error[error > 0]


def drift(scheme):
    """How many standard errors the law is from itself after one round."""
    there = moves(scheme) / COUNT
    error = np.sqrt(LAW**2 @ (there * (1 - there)) / COUNT)
    return np.max(np.abs(LAW @ there - LAW) / error)


SCHEMES = {
    "even rounds": lambda *of: even_odd(*of, 0),
    "odd rounds": lambda *of: even_odd(*of, 1),
    "one random pair": lambda *of: random_pairs(*of, 1),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_round_is_in_detailed_balance(name):
    flows = apart(SCHEMES[name])
    assert len(flows)
    # of 30 flows at most, each as good as normal: one seed in 10,000 has one beyond 4.7
    assert flows.max() < 4.7


def test_several_random_pairs_leave_the_law_as_it_is():
    """In turn they are not reversible, but invariant: begun with exact draws, they still are."""
    assert drift(lambda *of: random_pairs(*of, 3)) < 4.5


def test_the_scheme_of_proteinsmc_is_not_with_another_meta_beta():
    assert apart(lambda *of: origin(*of, 1, 1.0)).max() < 4.7
    assert apart(lambda *of: origin(*of, 1, 0.5)).max() > 20


def test_the_scheme_of_proteinsmc_is_not_with_several_attempts():
    """The softmax of the state at the beginning of the round decides who tries in all of them."""
    assert drift(lambda *of: origin(*of, 3, 1.0)) > 6


def test_the_scheme_of_proteinsmc_is_not_with_several_walkers():
    """The flow between two states, one exchange apart, is a quarter smaller one way than the other."""
    betas = jnp.array([0.9, 1.0, 1.1])
    before = np.array([[0.0, 3.0], [4.0, 0.5], [2.0, 2.5]], np.float32)
    after = np.array([[4.0, 3.0], [0.0, 0.5], [2.0, 2.5]], np.float32)

    @jax.jit
    @jax.vmap
    def attempted(key, energy):
        return energy.ravel()[origin(key, betas, energy, 1, 1.0).order].reshape(3, 2)

    def likely(energy, other):
        keys = jax.random.split(jax.random.key(0), COUNT)
        ends = np.asarray(attempted(keys, jnp.broadcast_to(energy, (COUNT, 3, 2))))
        return (ends == other).all(axis=(1, 2)).mean()

    there, back = likely(before, after), likely(after, before)
    ratio = np.exp(np.sum(np.asarray(betas)[:, None] * (after - before)))
    assert there < 0.9 * ratio * back


def test_a_pair_is_exchanged_as_often_as_the_formula_says():
    there = moves(SCHEMES["even rounds"])
    for number, state in enumerate(STATES):
        one, other = ENERGIES[list(state)[:2]]
        likely = min(1.0, np.exp((BETAS[0] - BETAS[1]) * (other - one)))
        swapped = there[number, STATES.index((state[1], state[0], state[2]))]
        assert stats.binomtest(int(swapped), COUNT, likely).pvalue > FALSE_ALARM


def test_a_better_walker_always_gets_to_the_colder_island():
    assert np.exp(log_ratio(1.0, 0.5, 0.0, 3.0)) > 1
    assert np.exp(log_ratio(0.5, 1.0, 0.0, 3.0)) < 1


@pytest.mark.parametrize("scheme", ["even_odd", "random", "origin"])
def test_every_walker_stands_somewhere_and_swaps_are_counted(scheme):
    energy = jax.random.normal(jax.random.key(0), (5, 4))
    done = jax.jit(lambda key: round_of(scheme, key, jnp.linspace(0, 1, 5), energy, 2, 20, 1.0))(jax.random.key(1))
    assert sorted(np.asarray(done.order)) == list(range(20))
    assert done.attempted.shape == done.accepted.shape == (len(pairs(scheme, 5)),)
    assert int(done.attempted.sum()) == {"even_odd": 8, "random": 20, "origin": 20}[scheme]
    assert (done.accepted <= done.attempted).all()
    if scheme == "even_odd":
        assert list(done.attempted) == [4, 0, 4, 0]
        # each accepted swap moves two walkers, each a step up or down
        moved = np.asarray(done.order).reshape(5, 4) // 4 - np.arange(5)[:, None]
        assert (np.abs(moved) == 1).sum() == 2 * int(done.accepted.sum())


def test_two_islands_try_in_every_round():
    energy = jnp.zeros((2, 1))
    for number in range(3):
        assert list(even_odd(jax.random.key(0), jnp.array([0.0, 1.0]), energy, number).attempted) == [1]


@pytest.mark.parametrize("scheme", ["even_odd", "random", "origin"])
def test_what_is_not_a_number_stays_where_it_is(scheme):
    energy = jnp.array([[jnp.nan], [1.0], [jnp.nan]])
    done = round_of(scheme, jax.random.key(0), jnp.asarray(BETAS), energy, 0, 30, 1.0)
    assert list(done.order) == list(stay(energy, 2).order)
    assert done.attempted.sum() > 0 and done.accepted.sum() == 0


def test_an_impossible_walker_leaves_the_cold_island_and_never_enters():
    def swapped(cold, hot):
        done = even_odd(jax.random.key(0), jnp.array([0.1, 1.0]), jnp.array([[hot], [cold]]), 0)
        return bool(done.accepted[0])

    assert swapped(cold=-jnp.inf, hot=0.0)
    assert not swapped(cold=0.0, hot=-jnp.inf)
    assert not swapped(cold=-jnp.inf, hot=-jnp.inf)
