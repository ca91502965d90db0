"""`nk`: Kauffman's landscapes, from smooth (K = 0) to rugged (K = N - 1).

Each of N sites contributes a number from U(0, 1) that depends on its own state and on those of K other sites,
drawn at random; fitness is the mean of the contributions (Kauffman & Weinberger, J. Theor. Biol. 141:211, 1989).
With K = 0 the best sequence has at each site its best state.
"""

from __future__ import annotations

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.samplers.fitness.alphabets import letters_of
from staffa.samplers.fitness.sequences import check_length, start_of
from staffa.samplers.target import Discrete, Values

TABLE = 1 << 22
"""Contributions that are tabulated (16 MiB); those of a larger landscape are computed when they are asked for."""
MOST = 1 << 31
"""Combinations of states that a site's contribution may depend on: they are numbered with 32 bits."""


class Nk(Discrete):
    """An NK landscape; fitness is in (0, 1).

    Contribution c of site i at combination m (the site's own state first, then its neighbours', as digits) is the
    uniform number of the Threefry key folded from `seed`, i and m. So it is the same whether tabulated or not, and
    does not depend on other options.

    Options:
    - `length`: N; or `sequence`, letters or a FASTA file to begin with.
    - `k`: other sites that a contribution depends on.
    - `states`, or `alphabet`: a name (`protein`, `proteinmpnn`, `nucleotide`) or letters.
    - `p_connect`: probability that each of the K neighbours is there; one that is not makes no difference.
    - `seed`: of neighbours and contributions.

    A site that is, or has a neighbour, outside of the alphabet contributes nothing.
    """

    unknown = True

    def __init__(
        self,
        length: int = 0,
        k: int = 0,
        states: int = 0,
        alphabet: str = "",
        p_connect: float = 1.0,
        seed: int = 0,
        sequence: str = "",
    ) -> None:
        self.alphabet = letters_of(alphabet) if alphabet else ""
        self.states = _states(states, self.alphabet)
        if sequence and not self.alphabet:
            raise ValueError(f"sequence: {sequence!r} needs an alphabet")
        self.start = start_of("sequence", sequence, self.alphabet)
        self.length = check_length("length", length, self.start)
        if not 0 <= k < self.length:
            raise ValueError(f"k: {k!r}; a site of {self.length} has 0 to {self.length - 1} neighbours")
        if self.states ** (k + 1) > MOST:
            raise ValueError(
                f"k: {k!r} with {self.states} states: {self.states ** (k + 1)} combinations a site, of {MOST}"
            )
        if not 0 <= p_connect <= 1:
            raise ValueError(f"p_connect: {p_connect!r} is not a probability")
        self.k, self.seed = k, seed
        self.neighbours = neighbours(self.length, k, p_connect, seed)
        if self.length * self.states ** (k + 1) <= TABLE:
            self.fitness_one_hot = self._expected

    @cached_property
    def table(self) -> npt.NDArray[np.float32] | None:
        """Contributions, (N, states^(K+1)); None where they are too many."""
        combinations = self.states ** (self.k + 1)
        if self.length * combinations > TABLE:
            return None
        with jax.ensure_compile_time_eval():
            sites, numbers = jnp.arange(self.length)[:, None], jnp.arange(combinations, dtype=jnp.uint32)[None]
            return np.asarray(_contributions(self.seed, sites, numbers))

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean contribution of one sequence."""
        there = self.neighbours >= 0
        others = jnp.where(there, x[jnp.where(there, self.neighbours, 0)], 0)
        seen = jnp.concatenate([x[:, None], others], axis=1)
        number = jnp.sum(seen.astype(jnp.uint32) * self._digits, axis=1, dtype=jnp.uint32)
        sites = jnp.arange(self.length)
        if self.table is None:
            value = _contributions(self.seed, sites, number)
        else:
            value = jnp.asarray(self.table).at[sites, number.astype(jnp.int32)].get(mode="clip")
        return jnp.mean(jnp.where(jnp.any(seen >= self.states, axis=1), 0.0, value)), {}

    def _expected(self, p: jax.Array, params: Values) -> jax.Array:
        """Expected fitness where each site is drawn on its own: the multilinear extension."""
        there = (self.neighbours >= 0)[..., None]
        absent = jnp.zeros(self.states, p.dtype).at[0].set(1)
        others = jnp.where(there, p[jnp.where(there[..., 0], self.neighbours, 0)], absent)
        left = jnp.asarray(self.table, p.dtype)
        for place in reversed(range(self.k)):
            left = jnp.einsum("nmq,nq->nm", left.reshape(self.length, -1, self.states), others[:, place])
        return jnp.mean(jnp.sum(left * p, axis=1))

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """The sequence given, or any."""
        return super().initial(key, params) if self.start is None else jnp.asarray(self.start)

    @property
    def _digits(self) -> npt.NDArray[np.uint32]:
        return np.array([self.states**place for place in reversed(range(self.k + 1))], np.uint32)


def neighbours(length: int, k: int, p_connect: float, seed: int) -> npt.NDArray[np.int32]:
    """The sites each site depends on besides itself, (length, k), sorted; -1 stands last, for one that is missing."""
    random = np.random.default_rng(seed)
    order = random.random((length, length))
    np.fill_diagonal(order, np.inf)
    chosen = np.argsort(order, axis=1)[:, :k]
    chosen = np.where(random.random(chosen.shape) < p_connect, chosen, length)
    chosen.sort(axis=1)
    return np.where(chosen < length, chosen, -1).astype(np.int32)


@partial(jax.jit, static_argnums=0)
def _contributions(seed: int, sites: jax.Array, numbers: jax.Array) -> jax.Array:
    """The uniform numbers of some sites at some combinations of states; both broadcast."""
    key = jax.random.key(seed, impl="threefry2x32")

    def one(site: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, site), number), (), jnp.float32)

    sites, numbers = jnp.broadcast_arrays(sites, numbers)
    return jax.vmap(one)(sites.reshape(-1), numbers.reshape(-1)).reshape(numbers.shape)


def _states(states: int, letters: str) -> int:
    if letters and states not in (0, len(letters)):
        raise ValueError(f"states: {states!r}, but the alphabet {letters} has {len(letters)}")
    if not letters and states < 2:
        raise ValueError(f"states: {states!r}; give 2 or more, or an alphabet")
    return states or len(letters)
