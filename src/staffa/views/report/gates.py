"""What is asked of every trial's draws, and which trials do not meet it: numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.qa import diagnosed
from staffa.experiment.diagnostics import FEWEST_DRAWS
from staffa.views.report.evidence import WORDS, Evidence

Row = npt.NDArray[Any]

NAMES = {"rhat": "R-hat", "ess": "ESS", "ess_tail": "tail ESS", "divergences": "divergences"}
UPPER = frozenset({"rhat", "divergences"})
"""Gates that a value has to stay below."""
USUAL = {"rhat": 1.01, "ess": 400.0}
"""What Vehtari et al. (Bayesian Analysis 16:667, 2021) advise, where a campaign does not say."""
STUCK = {"rhat": math.inf, "ess": 1.0, "ess_tail": 1.0}
"""What draws that never move are worth."""
WORST = 20


@dataclass(frozen=True)
class Gate:
    """What is asked of one quantity of every trial.

    Arguments:
    - `word`: `rhat`, `ess`, `ess_tail` or `divergences`; `limit`: the largest it may be, or the least.
    - `declared`: by the campaign; otherwise it is advice.
    """

    word: str
    limit: float
    declared: bool

    def missed(self, values: Row) -> Row:
        """Whether values are beyond the limit; NaN is not."""
        with np.errstate(invalid="ignore"):
            return np.asarray(values > self.limit if self.word in UPPER else values < self.limit)

    def worst(self, values: Row) -> Row:
        """Places of values, the worst first; NaN last."""
        return np.argsort(-values if self.word in UPPER else values, kind="stable")

    def __str__(self) -> str:
        sign = "at most" if self.word in UPPER else "at least"
        return f"{NAMES[self.word]} {sign} {self.limit:g}"


def gates_of(evidence: Evidence) -> list[Gate]:
    """What the campaign asks, and where it does not, what is usual."""
    asked = {word: getattr(evidence.qa, word) for word in NAMES}
    own = [Gate(word, float(limit), True) for word, limit in asked.items() if limit is not None]
    said = {gate.word for gate in own}
    return own + [Gate(word, limit, False) for word, limit in USUAL.items() if word not in said]


def outputs_of(evidence: Evidence) -> tuple[str, ...]:
    return evidence.qa.of or diagnosed(evidence.plan)


def asked_of(gate: Gate, outputs: tuple[str, ...]) -> tuple[str, ...]:
    return ("",) if gate.word == "divergences" else outputs


def values_of(evidence: Evidence, word: str, output: str) -> Row:
    """(trials,) of a quantity; NaN where nothing can be said. Of an output's several numbers the worst counts."""
    found = _column(evidence, f"{output}.{word}" if output else word, np.max if word in UPPER else np.min)
    found = np.where(evidence.with_data, found, np.nan)
    if word in STUCK:
        found[stuck(evidence, output)] = STUCK[word]
    return found


def stuck(evidence: Evidence, output: str) -> Row:
    """(trials,): whether an output that varies in other trials is the same in all draws of this one.

    R-hat cannot be made of such draws, and each of them counts as an effective one: a chain that never moves would
    be the best of all.
    """
    if (evidence.plan.sampling.draws or 0) < FEWEST_DRAWS:
        return np.zeros(len(evidence.trials), bool)
    spread = _column(evidence, f"{output}.sd", np.min)
    there = evidence.with_data & np.isfinite(spread)
    still = there & (spread == 0)
    return still if (there & ~still).any() else np.zeros(len(still), bool)


def _column(evidence: Evidence, name: str, pick: Callable[[Row], Any]) -> Row:
    """(trials,) of a column of the table of trials; of lists what is picked of their numbers."""
    if name not in evidence.trials:
        return np.full(len(evidence.trials), np.nan)
    column = evidence.trials[name]
    if column.dtype != object:
        return np.array(column.to_numpy(np.float64, na_value=np.nan))
    lists = [np.asarray(cell, float) if isinstance(cell, np.ndarray | list) else np.array([]) for cell in column]
    lists = [cell[np.isfinite(cell)] for cell in lists]
    return np.array([pick(cell) if len(cell) else np.nan for cell in lists], float)


def judged(evidence: Evidence, gate: Gate, output: str) -> dict[str, Any]:
    values = values_of(evidence, gate.word, output)
    told = ~np.isnan(values)
    worst = int(gate.worst(values)[0]) if told.any() else None
    return {
        "gate": gate.word,
        "output": output,
        "limit": gate.limit,
        "declared": gate.declared,
        "judged": int(told.sum()),
        "not_judged": int((evidence.with_data & ~told).sum()),
        "missed": int(gate.missed(values).sum()),
        "stuck": int(stuck(evidence, output).sum()) if gate.word in STUCK else 0,
        "worst": None if worst is None else float(values[worst]),
        "trial": None if worst is None else str(evidence.trials["trial"].iloc[worst]),
    }


def passed(judged: list[dict[str, Any]]) -> bool | None:
    """Whether every declared gate judged something and nothing missed it; None where none is declared."""
    declared = [row for row in judged if row["declared"]]
    if not declared:
        return None
    words = {row["gate"] for row in declared}
    able = all(any(row["judged"] for row in declared if row["gate"] == word) for word in words)
    return able and not any(row["missed"] for row in declared)


def missing_any(evidence: Evidence, gates: list[Gate], outputs: tuple[str, ...]) -> Row:
    """(trials,): whether a trial misses any of some gates."""
    missed = np.zeros(len(evidence.trials), bool)
    for gate in gates:
        for output in asked_of(gate, outputs):
            missed |= gate.missed(values_of(evidence, gate.word, output))
    return missed


def summary(evidence: Evidence, output: str) -> dict[str, Any]:
    """What there is to say of an output over all trials with data."""
    row: dict[str, Any] = {"output": output, "stuck": int(stuck(evidence, output).sum())}
    for word in WORDS:
        values = values_of(evidence, word, output)
        own = values[np.isfinite(values)]
        ends = (0.5, 0.99, 1.0) if word in UPPER else (0.5, 0.01, 0.0)
        row[word] = (
            dict(zip(("median", "percentile", "worst"), map(float, np.quantile(own, ends)), strict=True))
            if len(own)
            else None
        )
        row["judged"] = max(len(own), row.get("judged", 0))
    return row


def worst_trials(evidence: Evidence, gates: list[Gate], outputs: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The trials that miss gates by most, gate by gate."""
    for gate in gates:
        found = []
        for output in asked_of(gate, outputs):
            values = values_of(evidence, gate.word, output)
            missed = gate.missed(values)
            found += [(values[place], output, place) for place in gate.worst(values)[: min(int(missed.sum()), WORST)]]
        found.sort(key=lambda one: -one[0] if gate.word in UPPER else one[0])
        for value, output, place in found[:WORST]:
            trial = str(evidence.trials["trial"].iloc[place])
            row = {"gate": gate.word, "limit": gate.limit, "declared": gate.declared, "output": output}
            told = {"value": float(value), "stuck": bool(stuck(evidence, output)[place]) if output else False}
            yield {**row, **told, "trial": trial, "parameters": evidence.point(int(place))}
