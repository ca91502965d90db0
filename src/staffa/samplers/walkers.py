"""What tempering moves: sequences or positions, told apart nowhere else."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from staffa.samplers import moves, walks
from staffa.samplers.gradient import check_continuous
from staffa.samplers.options import check_count, check_discrete, check_share, check_word
from staffa.samplers.target import Continuous, Discrete, Values


class Walkers(Protocol):
    """One kind of walker. A walker is a tree of arrays; each function takes one."""

    tempers: str
    """Name of the energy: what beta multiplies."""

    def begin(self, key: jax.Array, params: Values) -> Any:
        """A first walker."""

    def move(self, key: jax.Array, at: Any, params: Values, beta: Any, step_size: Any) -> tuple[Any, jax.Array]:
        """The walker after one application of the kernel, and the share of its proposals that were accepted."""

    def energy(self, at: Any) -> jax.Array:
        """What beta multiplies."""

    def recorded(self, at: Any, params: Values) -> dict[str, jax.Array]:
        """Outputs of one walker."""

    def axes(self, *leading: str) -> dict[str, tuple[str, ...]]:
        """Names of their axes, with those that stand before each walker's own."""


class Sequences:
    """Walkers of a Discrete target: `moves.Scored`."""

    tempers = "fitness"

    def __init__(self, target: Discrete, kernel: str, mutation_rate: float | None, scan: moves.Scan) -> None:
        self.target = check_discrete(target)
        if mutation_rate is not None:
            check_share("mutation_rate", mutation_rate)
        check_word("scan", scan, moves.SCANS)
        self.kernel = moves.kernel(kernel, target, mutation_rate, scan=scan)

    def begin(self, key: jax.Array, params: Values) -> moves.Scored:
        return moves.score(self.target, self.target.initial(key, params), params)

    def move(
        self, key: jax.Array, at: moves.Scored, params: Values, beta: Any, step_size: Any
    ) -> tuple[moves.Scored, jax.Array]:
        return self.kernel(key, at, params, beta)

    def energy(self, at: moves.Scored) -> jax.Array:
        return at.fitness

    def recorded(self, at: moves.Scored, params: Values) -> dict[str, jax.Array]:
        return moves.recorded(self.target, at)

    def axes(self, *leading: str) -> dict[str, tuple[str, ...]]:
        return moves.axes(self.target, *leading)


class Positions:
    """Walkers of a Continuous target: `walks.Located`."""

    tempers = "log_likelihood"

    def __init__(self, target: Continuous, kernel: str, num_integration_steps: int, own: tuple[str, ...]) -> None:
        self.target = check_continuous(target, ("log_density", "log_likelihood", *own))
        check_count("num_integration_steps", num_integration_steps)
        self.kernel = walks.walk(kernel, target, num_integration_steps)

    def begin(self, key: jax.Array, params: Values) -> walks.Located:
        return walks.locate(self.target, self.target.initial(key, params), params)

    def move(
        self, key: jax.Array, at: walks.Located, params: Values, beta: Any, step_size: Any
    ) -> tuple[walks.Located, jax.Array]:
        return self.kernel(key, at, params, beta, step_size)

    def energy(self, at: walks.Located) -> jax.Array:
        return at.log_likelihood

    def recorded(self, at: walks.Located, params: Values) -> dict[str, jax.Array]:
        density = at.log_prior + at.log_likelihood
        return {**self.target.constrain(at.x, params), "log_density": density, "log_likelihood": at.log_likelihood}

    def axes(self, *leading: str) -> dict[str, tuple[str, ...]]:
        known: dict[str, tuple[str, ...]] = dict(getattr(self.target, "dims", {}))
        for name, own in self._constrained().items():
            # What the target does not name is numbered, as everywhere.
            known.setdefault(name, tuple(f"{name}_{axis}" for axis in range(own)))
        # Where its shapes depend on parameters that are not known here, all axes but the first are numbered.
        named = {name: (*leading, *known[name]) if name in known else leading[:1] for name in self.target.names}
        return {**named, "log_density": leading, "log_likelihood": leading}

    def _constrained(self) -> dict[str, int]:
        """Number of axes of what the target records, if that can be told without parameters of a trial."""
        with contextlib.suppress(Exception):
            position = jax.ShapeDtypeStruct((self.target.dimension,), jnp.float32)
            shapes = jax.eval_shape(lambda x: self.target.constrain(x, {}), position)
            return {name: len(value.shape) for name, value in shapes.items()}
        return {}
