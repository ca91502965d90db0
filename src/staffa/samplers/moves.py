"""Moves over sequences: proposals, and kernels that leave p(x) ∝ exp(beta F(x)) as it is.

The one form of a kernel is `kernel(key, at, params, beta) -> (at, acceptance)`, for one sequence and
with its fitness carried along, so that no sequence is evaluated twice; `jax.vmap` it over chains or
particles. `beta` and `params` may be traced. `kernel(name, target, …)` makes one by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from staffa.errors import near
from staffa.samplers.target import Discrete, Values

Scan = Literal["systematic", "random"]
SCANS: tuple[Scan, ...] = ("systematic", "random")
"""Order in which Gibbs visits the sites: first to last, or each time any site."""


class Scored(NamedTuple):
    """A sequence with what is known of it; with leading axes for several."""

    x: jax.Array
    """int32 (length,)."""
    fitness: jax.Array
    """Scalar, higher is better."""
    components: dict[str, jax.Array]
    """Scalars, by the target's names of components."""


KERNELS = ("metropolis", "gibbs")
"""Names that `kernel` knows."""

Kernel = Callable[[jax.Array, Scored, Values, Any], tuple[Scored, jax.Array]]
"""(key, at, params, beta) -> where it is now, and the share of proposals that were accepted."""


def score(target: Discrete, x: jax.Array, params: Values) -> Scored:
    """Evaluate one sequence, in the precision of the run."""
    value, components = target.fitness(x, params)
    return Scored(x, jnp.asarray(value, float), {name: jnp.asarray(components[name]) for name in target.components})


def begin(target: Discrete, keys: jax.Array, params: Values) -> Scored:
    """A first sequence for each of some keys, (chains,), with its fitness."""
    return jax.vmap(lambda key: score(target, target.initial(key, params), params))(keys)


def recorded(target: Discrete, at: Scored) -> dict[str, jax.Array]:
    """Outputs of a step: `sequence`, `fitness`, and `fitness.NAME` for each component."""
    parts = {f"fitness.{name}": value for name, value in at.components.items()}
    return {"sequence": narrow(target, at.x), "fitness": at.fitness, **parts}


def narrow(target: Discrete, x: jax.Array) -> jax.Array:
    """Sequences in the smallest integers that can say each state, and one that is none: what is recorded weighs
    a quarter of what is computed with."""
    kinds = (jnp.int8, jnp.int16, jnp.int32)
    return x.astype(next(kind for kind in kinds if target.states <= jnp.iinfo(kind).max))


def axes(target: Discrete, *leading: str) -> dict[str, tuple[str, ...]]:
    """`Experiment.dims` of `recorded`, with the axes that stand before the sites."""
    names = ("fitness", *(f"fitness.{name}" for name in target.components))
    return {"sequence": (*leading, "site"), **dict.fromkeys(names, leading)}


def mutate(key: jax.Array, x: jax.Array, states: int, rate: Any = None) -> jax.Array:
    """Propose another sequence; as likely there as back, so Metropolis needs no correction.

    A site that is hit gets an offset from 1 to `states` - 1 modulo `states`, each as likely: it always
    changes.

    Arguments:
    - `x`: int32 (length,).
    - `rate`: probability of each site to be hit, on its own; None hits exactly one site.
    """
    where, by = jax.random.split(key)
    if rate is None:
        hit = jnp.arange(x.size) == jax.random.randint(where, (), 0, x.size)
        offset = jax.random.randint(by, (), 1, states, x.dtype)
    else:
        hit = jax.random.bernoulli(where, rate, x.shape)
        offset = jax.random.randint(by, x.shape, 1, states, x.dtype)
    return jnp.where(hit, (x + offset) % states, x)


def accepts(key: jax.Array, beta: Any, before: jax.Array, after: jax.Array) -> jax.Array:
    """Metropolis: whether ln u < beta (after - before), u uniform in (0, 1).

    A fitness of -inf is never entered from a finite one, and whatever is a number is accepted from it, so
    that a chain that begins outside finds its way; NaN is never accepted. (Metropolis et al., J. Chem.
    Phys. 21:1087, 1953.)
    """
    # ln u is minus an exponential variable. Where both are -inf their difference has no meaning.
    inside = -jax.random.exponential(key, jnp.shape(after)) < beta * (after - before)
    entered = (after > -jnp.inf) & inside
    return jnp.where(jnp.isneginf(before), ~jnp.isnan(after), entered)


def metropolis(
    key: jax.Array, at: Scored, target: Discrete, params: Values, beta: Any, rate: Any = None, proposals: int = 1
) -> tuple[Scored, jax.Array]:
    """`proposals` mutations, each accepted or refused; and the share of them that was accepted.

    With a `rate`, a proposal that hits no site counts as accepted, as in any random walk.
    """

    def one(at: Scored, index: Any) -> tuple[Scored, jax.Array]:
        proposing, accepting = jax.random.split(jax.random.fold_in(key, index))
        other = score(target, mutate(proposing, at.x, target.states, rate), params)
        accepted = accepts(accepting, beta, at.fitness, other.fitness)
        return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), other, at), accepted

    at, taken = jax.lax.scan(one, at, jnp.arange(proposals))
    return at, jnp.mean(taken, dtype=float)


def gibbs(
    key: jax.Array, at: Scored, target: Discrete, params: Values, beta: Any, scan: Scan = "systematic"
) -> tuple[Scored, jax.Array]:
    """One sweep: at `length` sites in turn, a state from p(state | all other sites) ∝ exp(beta F).

    Evaluates `states` x `length` sequences. Returns the share of updates that changed the site as well.
    States whose fitness is NaN or -inf are not drawn, unless all are. (Geman & Geman, IEEE Trans. Pattern
    Anal. Mach. Intell. 6:721, 1984.)
    """
    states = jnp.arange(target.states, dtype=at.x.dtype)

    def one(at: Scored, visit: tuple[jax.Array, jax.Array]) -> tuple[Scored, jax.Array]:
        index, site = visit
        candidates = jnp.broadcast_to(at.x, (target.states, at.x.size)).at[:, site].set(states)
        scored = jax.vmap(lambda x: score(target, x, params))(candidates)
        possible = scored.fitness > -jnp.inf
        logits = jnp.where(possible, beta * jnp.where(possible, scored.fitness, 0), -jnp.inf)
        chosen = jax.random.categorical(jax.random.fold_in(drawing, index), jnp.where(possible.any(), logits, 0))
        return jax.tree.map(lambda value: value[chosen], scored), chosen != at.x[site]

    ordering, drawing = jax.random.split(key)
    sites = jnp.arange(at.x.size)
    if scan == "random":
        sites = jax.random.randint(ordering, sites.shape, 0, at.x.size, sites.dtype)
    at, changed = jax.lax.scan(one, at, (jnp.arange(at.x.size), sites))
    return at, jnp.mean(changed, dtype=float)


def kernel(
    name: str, target: Discrete, mutation_rate: float | None = None, proposals: int = 1, scan: Scan = "systematic"
) -> Kernel:
    """A kernel by name, `metropolis` or `gibbs`; a trial parameter `mutation_rate` goes before the option.

    Raises `ValueError` for another name.
    """
    if name == "metropolis":
        return lambda key, at, params, beta: metropolis(
            key, at, target, params, beta, params.get("mutation_rate", mutation_rate), proposals
        )
    if name == "gibbs":
        return lambda key, at, params, beta: gibbs(key, at, target, params, beta, scan)
    raise ValueError(f"kernel: {name!r} is no kernel over sequences; {near(name, KERNELS)}")
