"""`mala`: the Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from typing import Any

import blackjax.mcmc.hmc
import blackjax.mcmc.mala
import jax

from staffa.samplers.gradient import GradientSampler, LogDensity
from staffa.samplers.target import Continuous, Values
from staffa.samplers.warmup import Tuning, Warmup

OPTIMAL = 0.574
"""Acceptance at which MALA moves fastest in many dimensions (Roberts & Rosenthal 1998)."""


class Mala(GradientSampler):
    """Langevin steps x' = x + step_size ∇ln p(x) + sqrt(2 step_size) z, accepted or refused.

    G. O. Roberts, R. L. Tweedie. Exponential convergence of Langevin distributions and their discrete
    approximations. *Bernoulli* 2:341-363, 1996; G. O. Roberts, J. S. Rosenthal. Optimal scaling of discrete
    approximations to Langevin diffusions. *JRSS B* 60:255-268, 1998.

    Options:
    - `target`: a density over positions. There is no mass: it should be of one scale in all directions.
    - `step_size`: as in the formula; where the warm-up begins, if there is one. Without a warm-up also a
      parameter of the trial.
    - `warmup`: warm-up steps, by dual averaging; must equal `sampling.warmup`.
    - `target_acceptance`: what the warm-up aims at; also a parameter of the trial.
    - `chains`: independent chains.

    Outputs, each with the chain axis first: what the target records; `log_density` (of the unconstrained
    position), `acceptance`, and with a warm-up `step_size`.
    """

    def __init__(
        self,
        target: Continuous,
        step_size: float = 0.1,
        warmup: int = 0,
        target_acceptance: float = OPTIMAL,
        chains: int = 1,
    ) -> None:
        super().__init__(target, step_size, Warmup(warmup), target_acceptance, chains, ("acceptance",))
        self.kernel = blackjax.mcmc.mala.build_kernel()

    def moved(
        self, key: jax.Array, at: Any, log_density: LogDensity, tuning: Tuning, params: Values
    ) -> tuple[Any, dict[str, jax.Array]]:
        state = blackjax.mcmc.mala.MALAState(*at)
        new, info = self.kernel(key, state, log_density, tuning.step_size)
        return blackjax.mcmc.hmc.HMCState(*new), {"acceptance": info.acceptance_rate}
