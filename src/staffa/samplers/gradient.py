"""What `hmc`, `nuts` and `mala` have in common: chains of positions moved along a gradient.

The kernels are blackjax's. Chains are lanes of a vmap inside a step, each with its own tuning, as Stan
has it; their state is the position with its log density and gradient, the tuning, and how many warm-up
steps there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import blackjax.mcmc.hmc
import blackjax.mcmc.metrics
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.experiment.protocol import Experiment
from staffa.samplers.options import SUMMARIES, check_count, check_positive, chosen
from staffa.samplers.target import Continuous, Values
from staffa.samplers.warmup import Mass, Tuning, Warmup

LogDensity = Callable[[jax.Array], jax.Array]


class State(NamedTuple):
    """Arguments:
    - `chains`: blackjax's state (position, log density, gradient), the chain axis first.
    - `tuning`: of each chain.
    - `warmed`: warm-up steps done; ().
    """

    chains: Any
    tuning: Tuning
    warmed: Any


class GradientSampler(Experiment):
    """Chains over positions. A sampler gives `moved`, and names of what it tells of a step.

    Arguments:
    - `told`: outputs of the kernel, one number a chain each.
    - `warmup`: rules of the warm-up.
    """

    def __init__(
        self,
        target: Continuous,
        step_size: float,
        warmup: Warmup,
        target_acceptance: float,
        chains: int,
        told: Sequence[str],
    ) -> None:
        check_positive("step_size", step_size)
        check_count("warmup", warmup.steps, 0)
        check_count("chains", chains)
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance: {target_acceptance!r} is not between 0 and 1")
        own = ("log_density", *told, *(["step_size"] if warmup.steps else []))
        self.target, self.step_size, self.chains = check_continuous(target, own), step_size, chains
        self.target_acceptance, self.rules, self.warmup = target_acceptance, warmup, warmup.steps
        self.static = target.static  # type: ignore[misc]
        axes = getattr(target, "dims", {})
        self.dims = {  # type: ignore[misc]
            **{name: ("chain", *axes.get(name, ())) for name in target.names},
            **dict.fromkeys(own, ("chain",)),
        }

    def moved(
        self, key: jax.Array, at: Any, log_density: LogDensity, tuning: Tuning, params: Values
    ) -> tuple[Any, dict[str, jax.Array]]:
        """One step of one chain: its new state, and what is told of it, `acceptance` among it."""
        raise NotImplementedError

    def inverse_mass_at_first(self) -> npt.NDArray[np.float64] | None:
        """The inverse mass before any warm-up; None for a kernel without one."""
        return None

    def initialize(self, key: jax.Array, params: Values) -> State:
        """Each chain begins where the target says."""
        keys = jax.random.split(key, self.chains)
        begin = lambda key: jnp.asarray(self.target.initial(key, params), float)  # noqa: E731
        positions = jax.vmap(begin)(keys)
        chains = jax.vmap(lambda at: blackjax.mcmc.hmc.init(at, self._log_density(params)))(positions)
        tuning = jax.vmap(lambda _: self._tuning(params, positions.dtype))(keys)
        return State(chains, tuning, jnp.int32(0))

    def adapt(self, key: jax.Array, state: State, params: Values) -> State:
        """One step of the warm-up."""
        if not self.warmup:
            raise ValueError("warmup: 0, but there is a warm-up: give the experiment the number in sampling.warmup")
        goal = chosen(params, "target_acceptance", self.target_acceptance)
        chains, told = self._moved(key, state, params)

        def tuned(tuning: Tuning, at: Any, acceptance: jax.Array) -> Tuning:
            return self.rules.update(state.warmed, tuning, at.position, acceptance, goal)

        tuning = jax.vmap(tuned)(state.tuning, chains, told["acceptance"])
        return State(chains, tuning, state.warmed + 1)

    def step(self, key: jax.Array, state: State, params: Values) -> tuple[State, dict[str, Any]]:
        """One draw of each chain."""
        chains, told = self._moved(key, state, params)
        recorded = jax.vmap(lambda at: self.target.constrain(at, params))(chains.position)
        outputs = {**recorded, "log_density": chains.logdensity, **told}
        if self.warmup:
            outputs["step_size"] = state.tuning.step_size
        return state._replace(chains=chains), outputs

    def _moved(self, key: jax.Array, state: State, params: Values) -> tuple[Any, dict[str, jax.Array]]:
        log_density = self._log_density(params)

        def one(key: jax.Array, at: Any, tuning: Tuning) -> tuple[Any, dict[str, jax.Array]]:
            return self.moved(key, at, log_density, tuning, params)

        keys = jax.random.split(key, self.chains)
        return jax.vmap(one)(keys, state.chains, state.tuning)

    def _log_density(self, params: Values) -> LogDensity:
        return lambda position: self.target.log_density(position, params)

    def _tuning(self, params: Values, dtype: Any) -> Tuning:
        step_size = jnp.asarray(chosen(params, "step_size", self.step_size), dtype)
        inverse_mass = self.inverse_mass_at_first()
        return self.rules.begin(step_size, None if inverse_mass is None else jnp.asarray(inverse_mass, dtype))


def check_continuous(target: Any, own: Sequence[str]) -> Continuous:
    """The target itself. Raises `ValueError` for one that is no density, or records what the sampler does."""
    if not isinstance(target, Continuous):
        raise ValueError(
            f"target: {type(target).__name__} is no density over positions (staffa.samplers.target.Continuous); "
            "gibbs and metropolis take a fitness of sequences"
        )
    dimension = getattr(target, "dimension", None)
    if not isinstance(dimension, int) or dimension < 1:
        raise ValueError(f"target: {type(target).__name__}.dimension = {dimension!r}; it must be 1 or more")
    for name in target.names:
        if name in own or name in SUMMARIES:
            raise ValueError(f"target: it records {name!r}, which is a name of the sampler's own; rename it")
    return target


def check_inverse_mass(value: Sequence[Any] | None, mass: Mass, dimension: int) -> npt.NDArray[np.float64]:
    """The inverse mass an option gives; ones where it gives none.

    Raises `ValueError` for one that is not of the target's dimension, or not positive definite.
    """
    shape = (dimension,) if mass == "diagonal" else (dimension, dimension)
    if value is None:
        return np.ones(shape) if mass == "diagonal" else np.eye(dimension)
    given = np.asarray(value, float)
    if given.shape != shape:
        raise ValueError(f"inverse_mass: it has shape {given.shape}, but a {mass} one here has {shape}")
    symmetric = mass == "diagonal" or np.allclose(given, given.T)
    least = given.min() if mass == "diagonal" else np.linalg.eigvalsh(given).min()
    if not (symmetric and np.isfinite(given).all() and least > 0):
        raise ValueError(f"inverse_mass: {value!r} is not positive definite")
    return given


def energy_before(at: Any, momentum: jax.Array, inverse_mass: jax.Array) -> jax.Array:
    """The Hamiltonian, -ln p(x) + kinetic energy, where a trajectory begins; a scalar."""
    metric = blackjax.mcmc.metrics.default_metric(inverse_mass)
    return jnp.asarray(metric.kinetic_energy(momentum) - at.logdensity)
