"""`metropolis`: mutate a sequence, accept or refuse."""

from __future__ import annotations

from typing import Any

import jax

from staffa.experiment.protocol import Experiment
from staffa.samplers import moves
from staffa.samplers.options import check_count, check_discrete, check_number, check_share, chosen
from staffa.samplers.target import Discrete, Values


class Metropolis(Experiment):
    """Draws sequences from p(x) ∝ exp(beta F(x)) by site mutations (`moves.metropolis`).

    A proposal is as likely there as back and is accepted if ln u < beta (F' - F), so the chain is
    reversible for p, and it reaches every sequence. Where all sequences are as fit (beta 0), sites have two
    states and a proposal changes exactly one of them, every step flips a site: then record every step, or an
    odd number of steps to a draw.

    Options:
    - `target`: a fitness of sequences.
    - `beta`: inverse temperature, 0 or more; also a parameter of the trial.
    - `mutation_rate`: probability of each site to be hit by a proposal, above 0 and below 1; also a parameter of the
      trial. Without it, a proposal changes exactly one site.
    - `proposals`: mutations tried in one step. As many as there are sites make a sweep.
    - `chains`: independent chains.

    Outputs, each with the chain axis first: `sequence` (length,), `fitness`, `fitness.NAME` of each
    component, `acceptance` (share of this step's proposals).
    """

    def __init__(
        self,
        target: Discrete,
        beta: float = 1.0,
        mutation_rate: float | None = None,
        proposals: int = 1,
        chains: int = 1,
    ) -> None:
        self.target = check_discrete(target)
        check_number("beta", beta)
        if mutation_rate is not None:
            check_share("mutation_rate", mutation_rate)
        check_count("proposals", proposals)
        check_count("chains", chains)
        self.beta, self.chains = beta, chains
        self.kernel = moves.kernel("metropolis", target, mutation_rate, proposals)
        self.static = target.static  # type: ignore[misc]
        self.dims = {**moves.axes(target, "chain"), "acceptance": ("chain",)}  # type: ignore[misc]

    def initialize(self, key: jax.Array, params: Values) -> moves.Scored:
        """Each chain begins where the target says."""
        return moves.begin(self.target, jax.random.split(key, self.chains), params)

    def step(self, key: jax.Array, state: moves.Scored, params: Values) -> tuple[moves.Scored, dict[str, Any]]:
        """`proposals` mutations in each chain."""
        beta = chosen(params, "beta", self.beta)
        keys = jax.random.split(key, self.chains)
        state, acceptance = jax.vmap(lambda key, at: self.kernel(key, at, params, beta))(keys, state)
        return state, {**moves.recorded(self.target, state), "acceptance": acceptance}
