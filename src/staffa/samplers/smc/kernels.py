"""How particles move: kernels by name, for the option `kernel` of `smc`.

All but `mutation` leave the distribution they are given as it is. Those over sequences are
`staffa.samplers.moves`, those over positions are blackjax's. (Its `update_and_take_last` scans over an array of keys,
which under `vmap` JAX's detector of keys used twice takes for a mistake: here keys are folded.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import blackjax
import jax
import jax.numpy as jnp

from staffa.samplers import moves
from staffa.samplers.options import check_count, check_number, check_positive, check_word
from staffa.samplers.smc.path import Distribution, Particle
from staffa.samplers.target import Continuous, Discrete, Target, Values

_PIECES = "\0pieces"
"""Under which the pieces travel through the moves over sequences: no component can have this name."""


@dataclass(frozen=True)
class Kernel:
    """A way to move all particles at once.

    Attributes:
    - `over`: the kind of target it moves on.
    - `number`: the option that pretuning finds, and a parameter of the trial may give; empty for none.
    - `invariant`: whether it leaves a distribution as it is.
    - `cpu_lanes`: as `Experiment.cpu_lanes`.
    """

    over: ClassVar[type[Discrete] | type[Continuous]]
    number: ClassVar[str] = ""
    invariant: ClassVar[bool] = True
    cpu_lanes: ClassVar[int | None] = None

    def fits(self, target: Target) -> None:
        """Raises `ValueError` for a target it cannot move on."""
        if not isinstance(target, self.over):
            kind = "sequences" if self.over is Discrete else "positions"
            raise ValueError(f"kernel: {type(self).__name__} moves {kind}, which {type(target).__name__} has not")

    def once(self) -> Kernel:
        """The same, for one move at a time."""
        raise NotImplementedError

    def moved(
        self, key: jax.Array, particles: Particle, on: Distribution, number: Any, scale: jax.Array
    ) -> tuple[Particle, jax.Array]:
        """Where the particles are after their moves, and each one's share of accepted proposals, (particles,).

        Arguments:
        - `number`: the number that may be tuned, for each particle (particles,); None where the kernel has none.
        - `scale`: standard deviation along each dimension, (dimension,), of what is sampled.
        """
        raise NotImplementedError

    def given(self, params: Values) -> Any:
        """The number that may be tuned, as the trial or the options have it; None for none."""
        return params.get(self.number, getattr(self, self.number)) if self.number else None


# --- over sequences ---------------------------------------------------------------------------


class _Tilted(Discrete):
    """Sequences whose fitness is that of a distribution on the path."""

    def __init__(self, on: Distribution) -> None:
        target: Any = on.path.target
        self.on, self.length, self.states = on, target.length, target.states
        self.components = (*target.components, _PIECES)

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = self.on.evaluate(x)
        return self.on.log_likelihood(found.pieces), {**found.components, _PIECES: found.pieces}


def _each(
    key: jax.Array,
    particles: Particle,
    on: Distribution,
    move: Callable[[jax.Array, moves.Scored, Discrete, Any], tuple[moves.Scored, jax.Array]],
    number: Any,
) -> tuple[Particle, jax.Array]:
    """Apply a move over sequences to each particle."""
    target = _Tilted(on)

    def one(key: jax.Array, at: Particle, number: Any) -> tuple[Particle, jax.Array]:
        scored = moves.Scored(at.x, on.log_likelihood(at.pieces), {**at.components, _PIECES: at.pieces})
        scored, acceptance = move(key, scored, target, number)
        components = dict(scored.components)
        return Particle(scored.x, components.pop(_PIECES), components), acceptance

    return jax.vmap(one)(jax.random.split(key, particles.x.shape[0]), particles, number)


@dataclass(frozen=True)
class Metropolis(Kernel):
    """`metropolis`: site mutations, accepted or refused.

    Options:
    - `mutation_rate`: probability of each site to be hit by a proposal; None hits exactly one.
    - `steps`: proposals at each step of SMC.
    """

    mutation_rate: float | None = None
    steps: int = 1
    over = Discrete
    number = "mutation_rate"

    def __post_init__(self) -> None:
        if self.mutation_rate is not None:
            check_number("mutation_rate", self.mutation_rate, 0, 1)
        check_count("steps", self.steps)

    def once(self) -> Kernel:
        return Metropolis(self.mutation_rate)

    def moved(
        self, key: jax.Array, particles: Particle, on: Distribution, number: Any, scale: jax.Array
    ) -> tuple[Particle, jax.Array]:
        def move(key: jax.Array, at: moves.Scored, target: Discrete, rate: Any) -> tuple[moves.Scored, jax.Array]:
            return moves.metropolis(key, at, target, on.params, 1.0, rate, self.steps)

        return _each(key, particles, on, move, number)


@dataclass(frozen=True)
class Gibbs(Kernel):
    """`gibbs`: sweeps over the sites, each drawn anew given all others.

    Options: `scan`, `systematic` or `random`; `steps`, sweeps at each step of SMC.
    """

    scan: moves.Scan = "systematic"
    steps: int = 1
    over = Discrete

    def __post_init__(self) -> None:
        check_word("scan", self.scan, moves.SCANS)
        check_count("steps", self.steps)

    def once(self) -> Kernel:
        return Gibbs(self.scan)

    def moved(
        self, key: jax.Array, particles: Particle, on: Distribution, number: Any, scale: jax.Array
    ) -> tuple[Particle, jax.Array]:
        def move(key: jax.Array, at: moves.Scored, target: Discrete, none: Any) -> tuple[moves.Scored, jax.Array]:
            def sweep(at: moves.Scored, index: jax.Array) -> tuple[moves.Scored, jax.Array]:
                return moves.gibbs(jax.random.fold_in(key, index), at, target, on.params, 1.0, self.scan)

            at, changed = jax.lax.scan(sweep, at, jnp.arange(self.steps))
            return at, jnp.mean(changed)

        return _each(key, particles, on, move, None)


@dataclass(frozen=True)
class Mutation(Kernel):
    """`mutation`: site mutations without any acceptance, for `mutation_selection` only.

    Options:
    - `mutation_rate`: probability of each site to be hit; a hit always changes it.
    - `keep_codons`: of genes (alphabet of A, C, G and T or U), take a codon back that became a stop.
    """

    mutation_rate: float = 0.1
    keep_codons: bool = False
    over = Discrete
    number = "mutation_rate"
    invariant = False

    def __post_init__(self) -> None:
        check_number("mutation_rate", self.mutation_rate, 0, 1)

    def fits(self, target: Target) -> None:
        super().fits(target)
        if self.keep_codons and isinstance(target, Discrete):
            if sorted(target.alphabet.upper().replace("U", "T")) != list("ACGT"):
                raise ValueError(f"keep_codons: the target's alphabet is {target.alphabet!r}, not nucleotides")
            if target.length % 3:
                raise ValueError(f"keep_codons: {target.length} nucleotides are no whole number of codons")

    def once(self) -> Kernel:
        return self

    def moved(
        self, key: jax.Array, particles: Particle, on: Distribution, number: Any, scale: jax.Array
    ) -> tuple[Particle, jax.Array]:
        def one(key: jax.Array, x: jax.Array, rate: Any) -> Particle:
            new = moves.mutate(key, x, on.path.target.states, rate)  # type: ignore[union-attr]
            return on.evaluate(_no_stops(x, new, on.path.target.alphabet) if self.keep_codons else new)  # type: ignore[union-attr]

        particles = jax.vmap(one)(jax.random.split(key, particles.x.shape[0]), particles.x, number)
        return particles, jnp.ones(particles.x.shape[0])


def _no_stops(before: jax.Array, after: jax.Array, alphabet: str) -> jax.Array:
    """`after` with each codon that became TAA, TAG or TGA as it was before."""
    letters = alphabet.upper().replace("U", "T")
    stops = jnp.array([[letters.index(letter) for letter in stop] for stop in ("TAA", "TAG", "TGA")])
    codons, old = after.reshape(-1, 3), before.reshape(-1, 3)
    stopped = (codons[:, None] == stops).all(-1).any(-1, keepdims=True)
    return jnp.where(stopped, old, codons).reshape(-1)


# --- over positions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stepping(Kernel):
    """A kernel of blackjax with a step size.

    Options: `step_size`, above 0; `steps`, transitions at each step of SMC.
    """

    step_size: float = 0.1
    steps: int = 5
    over = Continuous
    number = "step_size"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_count("steps", self.steps)

    def once(self) -> Kernel:
        return replace(self, steps=1)

    def algorithm(self, scale: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """blackjax's `init`, and `step(key, state, log_density, step_size)`."""
        raise NotImplementedError

    def moved(
        self, key: jax.Array, particles: Particle, on: Distribution, number: Any, scale: jax.Array
    ) -> tuple[Particle, jax.Array]:
        begin, step = self.algorithm(scale)

        def one(key: jax.Array, x: jax.Array, number: jax.Array) -> tuple[Particle, jax.Array]:
            def transition(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
                state, info = step(jax.random.fold_in(key, index), state, on.log_density, number)
                return state, jnp.nan_to_num(info.acceptance_rate)

            state, acceptance = jax.lax.scan(transition, begin(x, on.log_density), jnp.arange(self.steps))
            return on.evaluate(state.position), jnp.mean(acceptance)

        return jax.vmap(one)(jax.random.split(key, particles.x.shape[0]), particles.x, number)


@dataclass(frozen=True)
class RandomWalk(_Stepping):
    """`random_walk`: Gaussian proposals of `step_size` times the scale along each dimension."""

    def algorithm(self, scale: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
        walk = blackjax.additive_step_random_walk.build_kernel()

        def step(key: jax.Array, state: Any, log_density: Any, step_size: jax.Array) -> Any:
            def proposed(key: jax.Array, position: jax.Array) -> jax.Array:
                return step_size * scale * jax.random.normal(key, position.shape, position.dtype)

            return walk(key, state, log_density, proposed)

        return blackjax.additive_step_random_walk.init, step


@dataclass(frozen=True)
class MALA(_Stepping):
    """`mala`: x + step_size * gradient + sqrt(2 step_size) * noise, accepted or refused.

    The scale along the dimensions is not used.
    """

    def algorithm(self, scale: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return blackjax.mala.init, blackjax.mala.build_kernel()


@dataclass(frozen=True)
class HMC(_Stepping):
    """`hmc`: Hamiltonian trajectories of `num_integration_steps` leaps; mass 1 / scale^2."""

    num_integration_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_integration_steps", self.num_integration_steps)

    def algorithm(self, scale: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
        leap = blackjax.hmc.build_kernel()

        def step(key: jax.Array, state: Any, log_density: Any, step_size: jax.Array) -> Any:
            return leap(key, state, log_density, step_size, scale**2, self.num_integration_steps)

        return blackjax.hmc.init, step


@dataclass(frozen=True)
class NUTS(_Stepping):
    """`nuts`: trajectories that end where they turn, of 2^`max_num_doublings` leaps at most; mass 1 / scale^2."""

    max_num_doublings: int = 10
    cpu_lanes = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_num_doublings", self.max_num_doublings)

    def algorithm(self, scale: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
        turn = blackjax.nuts.build_kernel()

        def step(key: jax.Array, state: Any, log_density: Any, step_size: jax.Array) -> Any:
            return turn(key, state, log_density, step_size, scale**2, self.max_num_doublings)

        return blackjax.nuts.init, step
