"""`parallel_tempering`: islands at a ladder of inverse temperatures that exchange their walkers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from staffa.experiment.protocol import Experiment
from staffa.samplers.exchange import SCHEMES, Scheme, round_of, stay
from staffa.samplers.moves import Scan
from staffa.samplers.options import check_count, check_number, check_positive, check_word, chosen
from staffa.samplers.schedules import Schedule
from staffa.samplers.target import Continuous, Discrete, Values
from staffa.samplers.walkers import Positions, Sequences, Walkers

Keep = Literal["coldest", "all"]
KEEPS: tuple[Keep, ...] = ("coldest", "all")
ISLANDS = 4
"""Where nothing says how many."""

OWN = (
    "replica",
    "acceptance",
    "beta",
    "mean_log_likelihood",
    "max_log_likelihood",
    "swaps_attempted",
    "swaps_accepted",
)
"""Outputs that a target of positions cannot have."""


class Ladder(NamedTuple):
    """What is carried."""

    walkers: Any
    """Trees with axes (chains, islands, population) first."""
    replica: jax.Array
    """int32 (chains, islands, population): which walker stands here, by the place where it began."""
    steps: jax.Array
    """int32, a scalar: steps done."""


class ParallelTempering(Experiment):
    """Islands draw from p(x) ∝ p0(x) exp(beta E(x)), each at its own beta, and exchange their walkers.

    E is the fitness of a sequence (p0 uniform) or the log-likelihood of a position (p0 the prior). A walker
    crosses in a hot island what it could not in a cold one (Swendsen & Wang, Phys. Rev. Lett. 57:2607, 1986;
    Geyer, Computing Science and Statistics 23:156, 1991). The last island, with the largest beta, is the
    coldest; what is recorded of walkers is of that one unless `keep: all`.

    Options:
    - `target`: a fitness of sequences, or a density over positions.
    - `betas`: of the islands, 0 or more, increasing; at most 1 for positions.
    - `schedule`: instead, its values from the first step to the last are those of the islands.
    - `islands`, `beta_min`, `beta_max`: without either, a geometric ladder; its ends may be parameters of the
      trial.
    - `kernel`: how walkers move: `metropolis` (default) or `gibbs` for sequences, `random_walk` (default),
      `mala` or `hmc` for positions.
    - `moves`: times the kernel is applied in a step.
    - `mutation_rate`: of `metropolis`, as the sampler of that name has it. `scan`: of `gibbs`.
    - `step_size`: for positions; one number, which may be a parameter of the trial, or one for each island.
    - `num_integration_steps`: of `hmc`; also a parameter of the trial.
    - `population`: walkers of an island.
    - `exchange`: who tries to exchange: `even_odd` neighbours in turn; `random` neighbours; `origin`,
      proteinsmc's choice, which does not leave the distribution as it is (see `exchange.origin`).
    - `exchange_frequency`: steps from one round of exchanges to the next; also a parameter of the trial.
    - `attempts`: in a round of `random` or `origin`.
    - `meta_beta`: of `origin`; also a parameter of the trial.
    - `keep`: `coldest` or `all` islands' walkers are recorded.
    - `chains`: independent ladders.

    Outputs of walkers, with axes chain, island where all are kept, and particle where `population` is above 1:
    `sequence`, `fitness` and `fitness.NAME` of each component; or what the target records of a position,
    `log_density` (at beta 1) and `log_likelihood`; and `replica`, which walker it is.
    By chain and island: `mean_fitness`, `max_fitness` (or `mean_log_likelihood`, `max_log_likelihood`),
    `acceptance` of the kernel. By chain and pair of islands: `swaps_attempted`, `swaps_accepted` in this step;
    pairs are (0, 1), (1, 2), … or of `origin` (0, 1), (0, 2), … (1, 2), …. By island: `beta`.
    """

    def __init__(
        self,
        target: Discrete | Continuous,
        betas: list[float] | None = None,
        schedule: Any = None,
        islands: int | None = None,
        beta_min: float = 0.1,
        beta_max: float = 1.0,
        kernel: str | None = None,
        moves: int = 1,
        mutation_rate: float | None = None,
        scan: Scan = "systematic",
        step_size: float | list[float] = 0.1,
        num_integration_steps: int = 10,
        population: int = 1,
        exchange: Scheme = "even_odd",
        exchange_frequency: int = 1,
        attempts: int = 1,
        meta_beta: float = 1.0,
        keep: Keep = "coldest",
        chains: int = 1,
    ) -> None:
        self.moves, self.population, self.chains = moves, population, chains
        self.exchange_frequency, self.attempts = exchange_frequency, attempts
        for option in ("moves", "population", "chains", "exchange_frequency", "attempts"):
            check_count(option, getattr(self, option))
        check_word("exchange", exchange, SCHEMES)
        check_word("keep", keep, KEEPS)
        check_number("meta_beta", meta_beta)
        self.exchange, self.meta_beta, self.keep = exchange, meta_beta, keep
        self.betas = _ladder(betas, schedule, islands, beta_min, beta_max)
        self.geometric = betas is None and schedule is None
        self.islands = len(self.betas)
        self.step_size = _sizes(step_size, self.islands)
        self.walkers = _walkers(target, kernel, mutation_rate, scan, num_integration_steps)
        if isinstance(target, Continuous) and self.betas[-1] > 1:
            raise ValueError(f"betas: {self.betas[-1]!r} is above 1, where positions are drawn from the posterior")
        self.static = target.static  # type: ignore[misc]
        self.dims = {**self._axes(), **self.walkers.axes(*self._leading())}  # type: ignore[misc]

    def initialize(self, key: jax.Array, params: Values) -> Ladder:
        """Every walker begins where the target says."""
        shape = (self.chains, self.islands, self.population)
        begin = lambda key: self.walkers.begin(key, params)  # noqa: E731
        walkers = jax.vmap(jax.vmap(jax.vmap(begin)))(jax.random.split(key, shape))
        number = jnp.arange(self.islands * self.population, dtype=jnp.int32).reshape(shape[1:])
        return Ladder(walkers, jnp.broadcast_to(number, shape), jnp.int32(0))

    def step(self, key: jax.Array, state: Ladder, params: Values) -> tuple[Ladder, dict[str, Any]]:
        """All walkers move, and then, if it is time, islands exchange."""
        betas = self._betas(params)

        def one(key: jax.Array, walkers: Any, replica: jax.Array) -> tuple[Any, jax.Array, dict[str, Any]]:
            moving, exchanging = jax.random.split(key)
            walkers, acceptance = self._moved(moving, walkers, betas, params)
            walkers, replica, swaps = self._exchanged(exchanging, walkers, replica, state.steps, betas, params)
            return walkers, replica, {"acceptance": acceptance, **swaps, **self._recorded(walkers, replica, params)}

        walkers, replica, outputs = jax.vmap(one)(jax.random.split(key, self.chains), state.walkers, state.replica)
        return Ladder(walkers, replica, state.steps + 1), {**outputs, "beta": betas}

    def _moved(self, key: jax.Array, walkers: Any, betas: jax.Array, params: Values) -> tuple[Any, jax.Array]:
        """Walkers of one chain after `moves` moves, and what share was accepted, (islands,)."""
        sizes = jnp.broadcast_to(jnp.asarray(chosen(params, "step_size", self.step_size), betas.dtype), betas.shape)

        def one(key: jax.Array, at: Any, beta: jax.Array, size: jax.Array) -> tuple[Any, jax.Array]:
            def move(at: Any, index: jax.Array) -> tuple[Any, jax.Array]:
                return self.walkers.move(jax.random.fold_in(key, index), at, params, beta, size)

            at, shares = jax.lax.scan(move, at, jnp.arange(self.moves))
            return at, jnp.mean(shares)

        keys = jax.random.split(key, (self.islands, self.population))
        island = jax.vmap(one, in_axes=(0, 0, None, None))
        walkers, shares = jax.vmap(island)(keys, walkers, betas, sizes)
        return walkers, jnp.mean(shares, axis=1)

    def _exchanged(
        self, key: jax.Array, walkers: Any, replica: jax.Array, steps: jax.Array, betas: jax.Array, params: Values
    ) -> tuple[Any, jax.Array, dict[str, jax.Array]]:
        """Walkers of one chain after a round, if one is due."""
        energy, frequency = self.walkers.energy(walkers), chosen(params, "exchange_frequency", self.exchange_frequency)
        meta_beta = chosen(params, "meta_beta", self.meta_beta)
        done = round_of(self.exchange, key, betas, energy, steps // frequency, self.attempts, meta_beta)
        due = (steps + 1) % frequency == 0
        done = jax.tree.map(lambda new, old: jnp.where(due, new, old), done, stay(energy, len(done.attempted)))

        def placed(leaf: jax.Array) -> jax.Array:
            return leaf.reshape(energy.size, *leaf.shape[2:])[done.order].reshape(leaf.shape)

        swaps = {"swaps_attempted": done.attempted, "swaps_accepted": done.accepted}
        return jax.tree.map(placed, walkers), placed(replica), swaps

    def _recorded(self, walkers: Any, replica: jax.Array, params: Values) -> dict[str, jax.Array]:
        energy, tempers = self.walkers.energy(walkers), self.walkers.tempers
        told = jax.vmap(jax.vmap(lambda at: self.walkers.recorded(at, params)))(walkers)
        kept = {**told, "replica": replica}
        if self.keep == "coldest":
            kept = {name: value[-1:] for name, value in kept.items()}
        leading = (self.keep == "all") * (self.islands,) + (self.population > 1) * (self.population,)
        kept = {name: value.reshape(*leading, *value.shape[2:]) for name, value in kept.items()}
        return {**kept, f"mean_{tempers}": jnp.mean(energy, axis=1), f"max_{tempers}": jnp.max(energy, axis=1)}

    def _betas(self, params: Values) -> jax.Array:
        """(islands,), in the precision of the run."""
        if not (self.geometric and {"beta_min", "beta_max"} & set(params)):
            return jnp.asarray(self.betas, float)
        first = jnp.asarray(chosen(params, "beta_min", self.betas[0]), float)
        last = jnp.asarray(chosen(params, "beta_max", self.betas[-1]), float)
        return first * (last / first) ** jnp.linspace(0.0, 1.0, self.islands)

    def _leading(self) -> tuple[str, ...]:
        return ("chain", *(("island",) if self.keep == "all" else ()), *(("particle",) if self.population > 1 else ()))

    def _axes(self) -> dict[str, tuple[str, ...]]:
        """Axes of what every kind of walker has recorded."""
        island, pair = ("chain", "island"), ("chain", "pair")
        told = {"replica": self._leading(), "acceptance": island, "beta": ("island",)}
        told |= {f"{word}_{self.walkers.tempers}": island for word in ("mean", "max")}
        return {**told, "swaps_attempted": pair, "swaps_accepted": pair}


def _ladder(
    betas: Sequence[float] | None, schedule: Schedule | None, islands: int | None, beta_min: float, beta_max: float
) -> list[float]:
    """The inverse temperatures of the islands. Raises `ValueError` for what is no ladder."""
    given = [
        name for name, value in (("betas", betas), ("schedule", schedule), ("islands", islands)) if value is not None
    ]
    if "betas" in given and len(given) > 1:
        raise ValueError(f"{given[1]}: betas already say how many islands there are, and their values")
    if betas is not None:
        found = [float(beta) for beta in betas]
    elif schedule is not None:
        found = _scheduled(schedule, islands)
    else:
        check_positive("beta_min", beta_min)
        check_positive("beta_max", beta_max)
        count = ISLANDS if islands is None else islands
        check_count("islands", count, 2)
        found = np.geomspace(beta_min, beta_max, count).tolist()
    _check_ladder(found)
    return found


def _scheduled(schedule: Schedule, islands: int | None) -> list[float]:
    """Values of a schedule at each of its steps."""
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule: {type(schedule).__name__} has no value at each step; a ladder needs one an island")
    steps = getattr(schedule, "steps", islands)
    if steps is None or islands not in (None, steps):
        raise ValueError(f"islands: {islands!r}, but the schedule has {steps!r} steps; there is one island a step")
    return [float(schedule(step)) for step in range(1, steps + 1)]


def _check_ladder(betas: Sequence[float]) -> None:
    if len(betas) < 2:
        raise ValueError(f"betas: {betas!r}; an exchange needs two islands or more")
    for beta in betas:
        check_number("betas", beta)
    if any(upper <= lower for lower, upper in pairwise(betas)):
        raise ValueError(f"betas: {betas!r} do not increase; the last island is the coldest, with the largest beta")


def _sizes(step_size: float | Sequence[float], islands: int) -> float | list[float]:
    """One number, or one for each island. Raises `ValueError`."""
    if not isinstance(step_size, Sequence):
        check_positive("step_size", step_size)
        return step_size
    if len(step_size) != islands:
        raise ValueError(f"step_size: {len(step_size)} numbers for {islands} islands")
    for size in step_size:
        check_positive("step_size", size)
    return list(step_size)


def _walkers(
    target: Any, kernel: str | None, mutation_rate: float | None, scan: Scan, num_integration_steps: int
) -> Walkers:
    """What kind of walkers a target has. Raises `ValueError` for something that is no target."""
    if isinstance(target, Discrete):
        return Sequences(target, kernel or "metropolis", mutation_rate, scan)
    if isinstance(target, Continuous):
        return Positions(target, kernel or "random_walk", num_integration_steps, OWN)
    raise ValueError(f"target: {type(target).__name__} is neither over sequences nor over positions")
