"""Warm-up of gradient samplers, one step at a time: step size, and mass in windows.

Stan's scheme (Stan Reference Manual, "HMC Algorithm Parameters"), with blackjax's parts: a first interval
in which only the step size is adapted, windows that double in length at whose ends the mass is estimated
anew, a last interval for the step size again. What one step needs of the ones before stands in `Tuning`,
so a warm-up may be cut anywhere and carried on by another process.

blackjax's own host of these parts runs from the first step to the last in one call; ours takes the same
steps (a test holds the two against one another).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import blackjax.adaptation.metric_recipes as recipes
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from blackjax.adaptation.staged_adaptation import build_schedule
from blackjax.adaptation.step_size import dual_averaging_adaptation

Mass = Literal["diagonal", "dense"]

RECIPES = {"diagonal": "welford_diag", "dense": "welford_dense"}


class Tuning(NamedTuple):
    """What a chain is moved with, and how it came about.

    Arguments:
    - `step_size`: ().
    - `inverse_mass`: (dimension,) or (dimension, dimension); None where the kernel has no mass.
    - `averaging`: blackjax's state of the dual averaging; None without a warm-up.
    - `estimate`: blackjax's state of the mass estimate; None where there is none.
    """

    step_size: Any
    inverse_mass: Any = None
    averaging: Any = None
    estimate: Any = None


@dataclass(frozen=True)
class Warmup:
    """The rules of a warm-up.

    Arguments:
    - `steps`: how many there are; 0 for none, which keeps `Tuning` as it begins.
    - `mass`: what is estimated of the mass; None for a kernel without one.
    """

    steps: int
    mass: Mass | None = None

    def schedule(self) -> npt.NDArray[np.int32]:
        """For each step whether it belongs to a window (1), and whether it ends one (1); (steps, 2)."""
        if self.mass is None:
            return np.zeros((self.steps, 2), np.int32)
        with jax.ensure_compile_time_eval():
            return np.asarray(build_schedule(self.steps), np.int32)

    def begin(self, step_size: jax.Array, inverse_mass: jax.Array | None = None) -> Tuning:
        """Before the first step: what the options say."""
        if self.steps == 0:
            return Tuning(step_size, inverse_mass)
        averaging = dual_averaging_adaptation(0.0)[0](step_size)
        estimate = None if inverse_mass is None else self._estimator(inverse_mass).init(inverse_mass.shape[0])
        return Tuning(step_size, inverse_mass, averaging, estimate)

    def update(
        self,
        index: jax.Array,
        tuning: Tuning,
        position: jax.Array,
        acceptance: jax.Array,
        target_acceptance: jax.Array | float,
    ) -> Tuning:
        """After step `index` led to `position`: the tuning of the next one.

        After the last step the step size is the average of the last interval's. Beyond it nothing changes.
        """
        _, learn, average = dual_averaging_adaptation(target_acceptance)  # type: ignore[arg-type]
        at = jnp.asarray(self.schedule())[jnp.minimum(index, self.steps - 1)]
        averaging = learn(tuning.averaging, acceptance)
        new = tuning._replace(step_size=jnp.exp(averaging.log_step_size), averaging=averaging)
        if self.mass is not None:
            new = self._windowed(new, position, at[0] == 1, at[1] == 1)
        last = index == self.steps - 1
        new = new._replace(step_size=jnp.where(last, average(new.averaging), new.step_size))
        return Tuning(*_where(index < self.steps, new, tuning))

    def _windowed(self, tuning: Tuning, position: jax.Array, inside: jax.Array, ends: jax.Array) -> Tuning:
        """The mass estimate takes a position up, and at a window's end becomes the mass in force."""
        estimator = self._estimator(tuning.inverse_mass)
        begin, _, average = dual_averaging_adaptation(0.0)
        estimate = _where(inside, estimator.update(tuning.estimate, position, None), tuning.estimate)
        final = estimator.final(estimate)
        averaging = begin(average(tuning.averaging))
        ended = Tuning(jnp.exp(averaging.log_step_size), final.inverse_mass_matrix, averaging, final)
        return Tuning(*_where(ends, ended, tuning._replace(estimate=estimate)))

    def _estimator(self, inverse_mass: jax.Array) -> recipes.MetricCore:
        recipe = recipes.lookup_recipe(RECIPES[str(self.mass)])
        return recipe.build_core(initial_inverse_mass_matrix=inverse_mass)


def _where(condition: jax.Array, chosen: Any, other: Any) -> Any:
    """One of two like trees, in the types of the second."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b).astype(jnp.asarray(b).dtype), chosen, other)
