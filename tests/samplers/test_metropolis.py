"""`metropolis`: the law it draws from, what it records, and what it refuses."""

import functools

import numpy as np
import pytest

from samplers.landscapes import FALSE_ALARM, Coupled, Peaks, chi_square, drawn, everything, law, numbered
from staffa.errors import PluginError
from staffa.experiment.registry import build
from staffa.samplers.metropolis import Metropolis
from staffa.testing import check_experiment

TARGET = Coupled()


OPTIONS = [{}, {"mutation_rate": 0.3}, {"proposals": 3}]


@functools.cache
def lasts(which):
    """The last step of independent chains, long after a uniform start."""
    return drawn(Metropolis(TARGET, beta=0.8, chains=8_000, **OPTIONS[which]), steps=90)["sequence"]


@pytest.mark.parametrize("which", [0, 1, 2], ids=lambda which: str(OPTIONS[which]))
def test_draws_are_of_the_law(which):
    """Against all 27 sequences."""
    assert chi_square(TARGET, lasts(which), law(TARGET, 0.8)) > FALSE_ALARM


def test_thinned_draws_of_one_chain_are_of_the_law():
    outputs = drawn(Metropolis(TARGET, beta=0.5, proposals=3), steps=60_000, every=15)
    assert chi_square(TARGET, outputs["sequence"][20:, 0], law(TARGET, 0.5)) > FALSE_ALARM


def test_parameters_of_the_trial_go_before_options():
    swept = drawn(Metropolis(TARGET, beta=5.0, chains=8_000), 90, {"beta": 0.8, "mutation_rate": 0.3})
    np.testing.assert_array_equal(swept["sequence"], lasts(1))


def test_the_law_of_another_beta_is_told_apart():
    assert chi_square(TARGET, lasts(0), law(TARGET, 0.9)) < FALSE_ALARM


def test_it_records_the_fitness_and_its_components():
    outputs = drawn(Metropolis(TARGET, proposals=4, chains=5), steps=10)
    assert set(outputs) == {"sequence", "fitness", "fitness.field", "fitness.coupling", "acceptance"}
    np.testing.assert_allclose(outputs["fitness"], outputs["fitness.field"] + outputs["fitness.coupling"], rtol=1e-5)
    fields = TARGET.h[np.arange(3), outputs["sequence"]].sum(axis=1)
    np.testing.assert_allclose(outputs["fitness.field"], fields, rtol=1e-5)
    assert set(np.round(outputs["acceptance"] * 4, 5)) <= {0, 1, 2, 3, 4}


def test_acceptance_is_what_enumeration_says():
    """Mean over the law and all one-site proposals of min(1, p'/p)."""
    p, states = law(TARGET, 1.0), everything(TARGET)
    expected = 0.0
    for site in range(3):
        for offset in (1, 2):
            other = states.copy()
            other[:, site] = (other[:, site] + offset) % 3
            expected += np.sum(np.minimum(p, p[numbered(TARGET, other)])) / 6
    rates = drawn(Metropolis(TARGET, chains=20_000), steps=60)["acceptance"]
    assert abs(rates.mean() - expected) < 4 * rates.std() / np.sqrt(len(rates))


def test_it_conforms():
    rows = [{"beta": beta, "scale": 1.0} for beta in (0.1, 0.5, 1.0)]
    options = {"target": TARGET, "chains": 2, "proposals": 2}
    check_experiment(Metropolis, rows, options=options, x64=(True,), nan={"beta": 1.0, "scale": np.nan})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta: -1.0"),
        ({"beta": float("nan")}, "beta: nan"),
        ({"chains": 0}, "chains: 0"),
        ({"proposals": 0}, "proposals: 0"),
        ({"mutation_rate": 0.0}, "mutation_rate: 0.0"),
        ({"mutation_rate": 1.0}, "mutation_rate: 1.0"),
        ({"target": Peaks()}, "target: Peaks"),
        ({"target": Coupled(3, 1)}, r"target: Coupled.states = 1"),
    ],
)
def test_nonsense_is_refused_with_option_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Metropolis(**{"target": TARGET, **options})


def test_a_component_may_not_be_called_as_a_summary():
    target = Coupled()
    target.components = ("mean",)
    with pytest.raises(ValueError, match=r"component 'mean'"):
        Metropolis(target)


FLAT = """
import jax.numpy as jnp
from staffa.samplers.target import Discrete

class Flat(Discrete):
    length, states = 4, 2

    def __init__(self, level: float = 0.0) -> None:
        self.level = level

    def fitness(self, x, params):
        return jnp.float32(self.level), {}
"""


def test_a_campaign_block_makes_it_and_is_refused_by_name(tmp_path):
    (tmp_path / "model.py").write_text(FLAT)
    block = {"use": "metropolis", "beta": 2, "target": {"use": "model.py:Flat", "level": 3.0}}
    assert build(block, tmp_path).target.level == 3.0
    with pytest.raises(PluginError, match="chains: 0"):
        build({**block, "chains": 0}, tmp_path)
    with pytest.raises(PluginError, match=r"experiment\.chains: 'two'"):
        build({**block, "chains": "two"}, tmp_path)
    with pytest.raises(PluginError, match=r"(?s)has no option 'proposal'.*'proposals'"):
        build({**block, "proposal": 2}, tmp_path)
