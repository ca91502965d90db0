"""Exchange between islands: who goes where, at given inverse temperatures and energies.

Islands hold walkers of p_b(x) ∝ p(x) exp(b E(x)), one inverse temperature b each; E is the fitness of a
sequence, or the log-likelihood of a position. Two walkers change places with probability

    min(1, exp((b_1 - b_2) (E_2 - E_1))),

which leaves the product of all p_b as it is (Geyer, Computing Science and Statistics 23:156, 1991), as long
as the choice of the two does not depend on where the walkers are.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Scheme = Literal["even_odd", "random", "origin"]
SCHEMES: tuple[Scheme, ...] = ("even_odd", "random", "origin")


class Exchanged(NamedTuple):
    """What came of one round."""

    order: jax.Array
    """int32 (islands x population,): the number of the walker that now stands at each place."""
    attempted: jax.Array
    """int32 (pairs,)."""
    accepted: jax.Array
    """int32 (pairs,)."""


def pairs(scheme: Scheme, islands: int) -> list[tuple[int, int]]:
    """The islands that may exchange, as the counts are ordered: neighbours, or any two for `origin`."""
    return list(combinations(range(islands), 2) if scheme == "origin" else pairwise(range(islands)))


def round_of(
    scheme: Scheme, key: jax.Array, betas: jax.Array, energy: jax.Array, number: Any, attempts: int, meta_beta: Any
) -> Exchanged:
    """One round by the name of its scheme.

    Arguments:
    - `betas`: (islands,). `energy`: (islands, population).
    - `number`: how many rounds there were before.
    - `attempts`: of `random` and `origin`, one after another.
    - `meta_beta`: of `origin`.
    """
    if scheme == "even_odd":
        return even_odd(key, betas, energy, number)
    if scheme == "random":
        return random_pairs(key, betas, energy, attempts)
    return origin(key, betas, energy, attempts, meta_beta)


def stay(energy: jax.Array, count: int) -> Exchanged:
    """Nobody moves: a round that is not due, of `count` pairs."""
    none = jnp.zeros(count, jnp.int32)
    return Exchanged(jnp.arange(energy.size, dtype=jnp.int32), none, none)


def log_ratio(beta: Any, other_beta: Any, energy: Any, other_energy: Any) -> jax.Array:
    """ln of the ratio of densities, after to before, if two walkers change places."""
    return jnp.asarray((beta - other_beta) * (other_energy - energy))


def even_odd(key: jax.Array, betas: jax.Array, energy: jax.Array, number: Any) -> Exchanged:
    """All pairs of neighbours (0, 1), (2, 3), … in even rounds, (1, 2), (3, 4), … in odd ones.

    Walkers pair by their place within the island. Rounds that alternate carry a walker through the ladder
    in O(islands) rounds, where pairs drawn at random take O(islands²) (Okabe et al., Chem. Phys. Lett.
    335:435, 2001; Syed et al., J. R. Stat. Soc. B 84:321, 2022).
    """
    islands, population = energy.shape
    ratio = log_ratio(betas[:-1, None], betas[1:, None], energy[:-1], energy[1:])
    # Two islands are one pair: it is tried in every round.
    active = jnp.arange(islands - 1) % 2 == number % min(2, islands - 1)
    swapped = active[:, None] & (-jax.random.exponential(key, ratio.shape) < ratio)
    none = jnp.zeros((1, population), jnp.int32)
    step = swapped.astype(jnp.int32)
    island = jnp.arange(islands)[:, None] + jnp.concatenate([step, none]) - jnp.concatenate([none, step])
    order = island * population + jnp.arange(population)
    attempted = active.astype(jnp.int32) * population
    return Exchanged(order.ravel().astype(jnp.int32), attempted, jnp.sum(step, axis=1, dtype=jnp.int32))


def random_pairs(key: jax.Array, betas: jax.Array, energy: jax.Array, attempts: int) -> Exchanged:
    """`attempts` times two neighbours and a walker of each, all as likely: reversible."""
    islands = len(betas)

    def choose(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        lower = jax.random.randint(key, (), 0, islands - 1)
        return lower, lower + 1, lower

    return _one_by_one(key, betas, energy, attempts, choose, islands - 1, 1.0)


def origin(key: jax.Array, betas: jax.Array, energy: jax.Array, attempts: int, meta_beta: Any) -> Exchanged:
    """The scheme of proteinsmc: the first island by softmax of its mean energy, the second any other.

    Kept for comparison with results of proteinsmc: it does NOT leave the product of all p_b as it is, so that
    what the islands hold is not what their betas say. First, the choice depends on where the walkers are. It
    is made by the means at the beginning of the round, and the way back, from the means after the exchange,
    is not as likely as the way there, which the acceptance does not correct. (Only with one walker an island
    and one attempt a round does that cancel: the sum of the two islands' probabilities is then the same
    before and after.) Second, the logarithm of the ratio is multiplied by `meta_beta`, and any but 1 is detailed
    balance for another product, of p(x) exp(meta_beta b E(x)). Islands far apart are tried as often as
    neighbours, and most of those are refused.
    """
    islands = len(betas)
    index = np.zeros((islands, islands), np.int32)
    for number, (one, other) in enumerate(pairs("origin", islands)):
        index[one, other] = index[other, one] = number
    mean = jnp.mean(energy, axis=1)
    likely = jnp.where(jnp.isnan(mean), -jnp.inf, mean)

    def choose(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        first, second = jax.random.split(key)
        one = jax.random.categorical(first, likely)
        other = (one + jax.random.randint(second, (), 1, islands)) % islands
        return one, other, jnp.asarray(index)[one, other]

    return _one_by_one(key, betas, energy, attempts, choose, len(pairs("origin", islands)), meta_beta)


def _one_by_one(
    key: jax.Array, betas: jax.Array, energy: jax.Array, attempts: int, choose: Any, count: int, meta_beta: Any
) -> Exchanged:
    """Attempts in turn, each of which sees what the ones before it did; `choose` gives two islands and their pair."""
    population, flat = energy.shape[1], energy.ravel()

    def attempt(done: Exchanged, index: jax.Array) -> tuple[Exchanged, None]:
        choosing, walking, accepting = jax.random.split(jax.random.fold_in(key, index), 3)
        one, other, pair = choose(choosing)
        places = jnp.stack([one, other]) * population + jax.random.randint(walking, (2,), 0, population)
        walkers = done.order[places]
        ratio = meta_beta * log_ratio(betas[one], betas[other], flat[walkers[0]], flat[walkers[1]])
        accepted = -jax.random.exponential(accepting) < ratio
        order = done.order.at[places].set(jnp.where(accepted, walkers[::-1], walkers))
        attempted, taken = done.attempted.at[pair].add(1), done.accepted.at[pair].add(accepted.astype(jnp.int32))
        return Exchanged(order, attempted, taken), None

    return jax.lax.scan(attempt, stay(energy, count), jnp.arange(attempts))[0]
