"""Proposals and kernels over sequences: symmetric, invariant, and right where fitness is not a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from samplers.landscapes import FALSE_ALARM, Coupled, chi_square, everything, law
from staffa.samplers import moves
from staffa.samplers.target import Discrete

TARGET = Coupled()


def proposals(x, states, rate, count=20_000):
    keys = jax.random.split(jax.random.key(7), count)
    return np.asarray(jax.vmap(lambda key: moves.mutate(key, jnp.array(x, jnp.int32), states, rate))(keys))


def test_a_proposal_changes_exactly_one_site_by_any_offset():
    x = np.array([0, 2, 1, 3])
    offsets = (proposals(x, 4, None) - x) % 4
    assert ((offsets > 0).sum(axis=1) == 1).all()
    counts = [((offsets[:, site] == offset).sum()) for site in range(4) for offset in (1, 2, 3)]
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_a_site_that_is_hit_always_changes():
    x = np.array([0, 2, 1, 3])
    offsets = (proposals(x, 4, 0.3) - x) % 4
    for site in range(4):
        counts = np.bincount(offsets[:, site], minlength=4)
        assert stats.chisquare(counts, 20_000 * np.array([0.7, 0.1, 0.1, 0.1])).pvalue > FALSE_ALARM


def test_all_sites_change_at_rate_one():
    x = np.zeros(5, int)
    assert (proposals(x, 3, 1.0, 100) != x).all()


@pytest.mark.parametrize("rate", [None, 0.4])
def test_there_is_as_likely_as_back(rate):
    there = (proposals([0, 1], 3, rate) == [2, 1]).all(axis=1).sum()
    back = (proposals([2, 1], 3, rate) == [0, 1]).all(axis=1).sum()
    assert stats.binomtest(int(there), int(there + back)).pvalue > FALSE_ALARM


KERNELS = {
    "metropolis": moves.kernel("metropolis", TARGET),
    "metropolis at a rate": moves.kernel("metropolis", TARGET, mutation_rate=0.4),
    "metropolis thrice": moves.kernel("metropolis", TARGET, proposals=3),
    "gibbs": moves.kernel("gibbs", TARGET),
    "gibbs at random": moves.kernel("gibbs", TARGET, scan="random"),
}


BETAS = (0.0, 0.7, 2.0)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_leaves_its_law_as_it_is(name):
    """Begun with exact draws, one step later they still are draws: no mixing is asked for."""
    kernel, states, laws = KERNELS[name], everything(TARGET), [law(TARGET, beta) for beta in BETAS]
    rng = np.random.default_rng(3)
    x = np.stack([states[rng.choice(len(states), 10_000, p=one)] for one in laws])

    @jax.jit
    def moved(keys, x, betas):
        def one(key, x, beta):
            return kernel(key, moves.score(TARGET, x, {}), {}, beta)[0]

        return jax.vmap(jax.vmap(one, (0, 0, None)))(keys, x, betas)

    after = moved(jax.random.split(jax.random.key(3), x.shape[:2]), x, jnp.array(BETAS))
    for beta in range(len(BETAS)):
        assert chi_square(TARGET, after.x[beta], laws[beta]) > FALSE_ALARM
    assert (np.asarray(after.x) != x).any(axis=2).mean() > 0.2
    # what is carried belongs to the sequence
    value, parts = jax.vmap(lambda x: TARGET.fitness(x, {}))(after.x.reshape(-1, 3))
    np.testing.assert_allclose(after.fitness.ravel(), value, rtol=1e-5)
    np.testing.assert_allclose(after.components["field"].ravel(), parts["field"], rtol=1e-5)
    np.testing.assert_allclose(after.components["coupling"].ravel(), parts["coupling"], rtol=1e-5)


class Holes(Discrete):
    """State 2 at the first site is NaN, state 3 impossible; all else as likely."""

    length, states = 1, 4

    def fitness(self, x, params):
        return jnp.array([0.0, 0.0, jnp.nan, -jnp.inf])[x[0]], {}


@pytest.mark.parametrize("name", ["metropolis", "gibbs"])
def test_holes_are_never_entered_and_always_left(name):
    kernel = moves.kernel(name, Holes())

    def chain(key, start, beta):
        def one(at, key):
            at = kernel(key, at, {}, beta)[0]
            return at, at.x[0]

        first = moves.score(Holes(), start[None], {})
        return jax.lax.scan(one, first, jax.random.split(key, 60))[1]

    starts, betas = jnp.repeat(jnp.array([0, 3], jnp.int32), 200), jnp.tile(jnp.array([0.0, 1.0]), 200)
    visited = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(1), 400), starts, betas))
    assert set(visited[:, 30:].ravel()) == {0, 1}
    assert set(visited[:200].ravel()) == {0, 1}
    assert 2 not in visited


def test_nan_everywhere_stays_nan():
    nan = {"scale": jnp.nan}
    for name in ("metropolis", "gibbs"):
        at = moves.score(TARGET, jnp.zeros(3, jnp.int32), nan)
        assert jnp.isnan(moves.kernel(name, TARGET)(jax.random.key(0), at, nan, 1.0)[0].fitness)


def test_a_swept_mutation_rate_goes_before_the_option():
    kernel = moves.kernel("metropolis", Coupled(30, 3))
    at = moves.score(Coupled(30, 3), jnp.zeros(30, jnp.int32), {"mutation_rate": 1.0})
    after, _ = kernel(jax.random.key(0), at, {"mutation_rate": 1.0}, 0.0)
    assert (after.x != 0).all()


def test_an_unknown_kernel_is_refused_with_the_near_ones():
    with pytest.raises(ValueError, match=r"kernel: 'gibs'.*'gibbs'"):
        moves.kernel("gibs", TARGET)
