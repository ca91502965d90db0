"""`ste`: a gradient through the argmax."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from staffa.experiment.protocol import Experiment
from staffa.samplers import moves
from staffa.samplers.options import check_count, check_discrete, check_number, check_positive, check_word, chosen
from staffa.samplers.target import Discrete, Values

Objective = Literal["fitness", "cross_entropy"]
OBJECTIVES: tuple[Objective, ...] = ("fitness", "cross_entropy")


@runtime_checkable
class Differentiable(Protocol):
    """A Discrete target whose fitness is defined, and has a gradient, between the sequences as well."""

    def fitness_one_hot(self, p: jax.Array, params: Values) -> jax.Array:
        """The fitness at (length, states), rows of which are states of a site as one-hot vectors; a scalar.

        At one-hot rows it equals `fitness`.
        """


@runtime_checkable
class Profiled(Protocol):
    """A Discrete target that says how likely each state is at each site, whatever stands at the others."""

    def site_logits(self, params: Values) -> jax.Array:
        """(length, states), up to a constant of each site."""


class Climbing(NamedTuple):
    """What is carried, with the chain axis first."""

    logits: jax.Array
    """(chains, length, states)."""
    optimizer: Any
    best: moves.Scored
    """The fittest sequence so far."""


class StraightThrough(Experiment):
    """Climbs to sequences of high fitness by gradients of logits; an optimiser, no sampler of p(x).

    Forwards, the sequence is the argmax of the logits; backwards, the gradient is that of their softmax
    (Bengio, Léonard & Courville, arXiv:1308.3432, 2013). One step is one update by Adam (Kingma & Ba, 2015).
    It may stop at sequences from which the gradient does not lead on: compare several chains.

    Options:
    - `target`: a fitness of sequences with a `fitness_one_hot(p, params)` (`Differentiable`), or for
      `cross_entropy` with `site_logits(params)` (`Profiled`).
    - `objective`: `fitness` maximises the fitness; `cross_entropy` minimises the mean over sites of
      -ln softmax(site_logits) at the sequence's own states, as proteinsmc does with the logits of a model.
    - `learning_rate`: of Adam; also a parameter of the trial.
    - `scale`: standard deviation of the logits at the beginning, above what favours the first sequence.
    - `chains`: climbs, each from another start.

    Outputs, each with the chain axis first: `sequence` (length,) and `fitness`, `fitness.NAME` after the
    update; `loss` before it; `best_fitness` and `best_sequence` so far.
    """

    # The gradient works on every state of every site: of NK over 60 sites 730 trials a second at 16 lanes, 455 at 32.
    cpu_lanes: ClassVar[int | None] = 16

    def __init__(
        self,
        target: Discrete,
        objective: Objective = "fitness",
        learning_rate: float = 1e-2,
        scale: float = 0.1,
        chains: int = 1,
    ) -> None:
        self.target: Any = check_discrete(target)
        check_word("objective", objective, OBJECTIVES)
        _check_protocol(target, objective)
        check_positive("learning_rate", learning_rate)
        check_number("scale", scale)
        check_count("chains", chains)
        self.objective, self.learning_rate, self.scale, self.chains = objective, learning_rate, scale, chains
        self.static = target.static  # type: ignore[misc]
        dims = {**moves.axes(target, "chain"), "loss": ("chain",)}
        self.dims = {**dims, "best_fitness": ("chain",), "best_sequence": ("chain", "site")}  # type: ignore[misc]

    def initialize(self, key: jax.Array, params: Values) -> Climbing:
        """Logits are normal, and as much higher as `scale` at the state the target begins with."""

        def one(key: jax.Array) -> Climbing:
            beginning, noise = jax.random.split(key)
            x = self.target.initial(beginning, params)
            shape = (self.target.length, self.target.states)
            logits = self.scale * (jax.random.normal(noise, shape) + jax.nn.one_hot(x, self.target.states))
            best = moves.score(self.target, _argmax(logits), params)
            return Climbing(logits, self._adam(params).init(logits), best)

        return jax.vmap(one)(jax.random.split(key, self.chains))

    def step(self, key: jax.Array, state: Climbing, params: Values) -> tuple[Climbing, dict[str, Any]]:
        """One update; nothing is drawn."""
        return jax.vmap(lambda one: self._climb(one, params))(state)

    def _climb(self, state: Climbing, params: Values) -> tuple[Climbing, dict[str, Any]]:
        loss, gradient = jax.value_and_grad(self.loss)(state.logits, params)
        update, optimizer = self._adam(params).update(gradient, state.optimizer, state.logits)
        logits = jnp.asarray(optax.apply_updates(state.logits, update))
        here = moves.score(self.target, _argmax(logits), params)
        # A fitness that is NaN shows in the outputs, but is never the best.
        better = here.fitness > state.best.fitness
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), here, state.best)
        found = {"best_fitness": best.fitness, "best_sequence": moves.narrow(self.target, best.x)}
        outputs = {**moves.recorded(self.target, here), "loss": loss, **found}
        return Climbing(logits, optimizer, best), outputs

    def loss(self, logits: jax.Array, params: Values) -> jax.Array:
        """What is minimised, at logits of one chain, (length, states); a scalar."""
        p = straight_through(logits)
        if self.objective == "fitness":
            return -jnp.asarray(self.target.fitness_one_hot(p, params), float)
        likely = jax.nn.log_softmax(jnp.asarray(self.target.site_logits(params), float))
        return -jnp.mean(jnp.sum(p * likely, axis=-1))

    def _adam(self, params: Values) -> optax.GradientTransformation:
        return optax.adam(chosen(params, "learning_rate", self.learning_rate))


def straight_through(logits: jax.Array) -> jax.Array:
    """One-hot rows of the argmax, whose gradient is that of softmax; (length, states) both."""
    soft = jax.nn.softmax(logits, axis=-1)
    hard = jax.nn.one_hot(_argmax(logits), logits.shape[-1], dtype=soft.dtype)
    # In this order the first term stays exactly one-hot.
    return hard + (soft - jax.lax.stop_gradient(soft))


def _argmax(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _check_protocol(target: Discrete, objective: Objective) -> None:
    needed = "fitness_one_hot(p, params)" if objective == "fitness" else "site_logits(params)"
    if not isinstance(target, Differentiable if objective == "fitness" else Profiled):
        raise ValueError(
            f"target: {type(target).__name__} has no {needed}, which objective {objective!r} needs; "
            "metropolis, gibbs and smc take any fitness"
        )
