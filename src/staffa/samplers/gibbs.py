"""`gibbs`: visit the sites in turn and draw each anew."""

from __future__ import annotations

from typing import Any

import jax

from staffa.experiment.protocol import Experiment
from staffa.samplers import moves
from staffa.samplers.options import check_count, check_discrete, check_number, check_word, chosen
from staffa.samplers.target import Discrete, Values


class Gibbs(Experiment):
    """Draws sequences from p(x) ∝ exp(beta F(x)), a site at a time given all others (`moves.gibbs`).

    One step is one sweep of `length` updates, each of which evaluates all states of a site.

    Options:
    - `target`: a fitness of sequences.
    - `beta`: inverse temperature, 0 or more; also a parameter of the trial.
    - `scan`: `systematic` visits the sites from first to last; `random` draws a site for each update,
      which makes the chain reversible.
    - `chains`: independent chains.

    Outputs, each with the chain axis first: `sequence` (length,), `fitness`, `fitness.NAME` of each
    component, `changed` (share of this sweep's updates that changed their site; all are accepted).
    """

    def __init__(self, target: Discrete, beta: float = 1.0, scan: moves.Scan = "systematic", chains: int = 1) -> None:
        self.target = check_discrete(target)
        check_number("beta", beta)
        check_word("scan", scan, moves.SCANS)
        check_count("chains", chains)
        self.beta, self.chains = beta, chains
        self.kernel = moves.kernel("gibbs", target, scan=scan)
        self.static = target.static  # type: ignore[misc]
        self.dims = {**moves.axes(target, "chain"), "changed": ("chain",)}  # type: ignore[misc]

    def initialize(self, key: jax.Array, params: Values) -> moves.Scored:
        """Each chain begins where the target says."""
        return moves.begin(self.target, jax.random.split(key, self.chains), params)

    def step(self, key: jax.Array, state: moves.Scored, params: Values) -> tuple[moves.Scored, dict[str, Any]]:
        """One sweep in each chain."""
        beta = chosen(params, "beta", self.beta)
        keys = jax.random.split(key, self.chains)
        state, changed = jax.vmap(lambda key, at: self.kernel(key, at, params, beta))(keys, state)
        return state, {**moves.recorded(self.target, state), "changed": changed}
