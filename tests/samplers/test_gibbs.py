"""`gibbs`: the law it draws from, what it records, and what it refuses."""

import numpy as np
import pytest

from samplers.landscapes import FALSE_ALARM, Coupled, Peaks, chi_square, drawn, law
from staffa.samplers.gibbs import Gibbs
from staffa.testing import check_experiment

TARGET = Coupled()


@pytest.mark.parametrize("scan", ["systematic", "random"])
def test_draws_are_of_the_law(scan):
    """The last sweep of independent chains, long after a uniform start, against all 27 sequences."""
    outputs = drawn(Gibbs(TARGET, beta=0.8, scan=scan, chains=8_000), steps=30)
    assert chi_square(TARGET, outputs["sequence"], law(TARGET, 0.8)) > FALSE_ALARM
    assert chi_square(TARGET, outputs["sequence"], law(TARGET, 0.9)) < FALSE_ALARM


def test_thinned_draws_of_one_chain_are_of_the_law():
    outputs = drawn(Gibbs(TARGET, beta=0.5), steps=12_000, every=3)
    assert chi_square(TARGET, outputs["sequence"][20:, 0], law(TARGET, 0.5)) > FALSE_ALARM


def test_sites_without_couplings_are_independent_after_one_sweep():
    """Then one systematic sweep from anywhere is an exact draw."""
    target = Coupled(4, 3)
    target.couplings[:] = 0
    outputs = drawn(Gibbs(target, chains=20_000), steps=1)
    assert chi_square(target, outputs["sequence"], law(target, 1.0)) > FALSE_ALARM


def test_a_random_scan_leaves_some_sites_alone():
    """With beta 0 a site that is visited changes with probability 2/3; at random (3/4)^4 are never visited."""
    target = Coupled(4, 3)
    outputs = drawn(Gibbs(target, beta=0.0, scan="random", chains=20_000), steps=2, every=1)
    same = (outputs["sequence"][0] == outputs["sequence"][1]).mean()
    expected = 0.75**4 + (1 - 0.75**4) / 3
    assert abs(same - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)
    assert abs(outputs["changed"].mean() - 2 / 3) < 0.01


def test_it_records_the_fitness_and_its_components():
    outputs = drawn(Gibbs(TARGET, chains=5), steps=10)
    assert set(outputs) == {"sequence", "fitness", "fitness.field", "fitness.coupling", "changed"}
    fields = TARGET.h[np.arange(3), outputs["sequence"]].sum(axis=1)
    np.testing.assert_allclose(outputs["fitness.field"], fields, rtol=1e-5)
    np.testing.assert_allclose(outputs["fitness"], outputs["fitness.field"] + outputs["fitness.coupling"], rtol=1e-5)


def test_parameters_of_the_trial_go_before_options():
    swept = drawn(Gibbs(TARGET, beta=5.0, chains=50), 5, {"beta": 0.8})
    np.testing.assert_array_equal(swept["sequence"], drawn(Gibbs(TARGET, beta=0.8, chains=50), 5)["sequence"])


@pytest.mark.parametrize("scan", ["systematic", "random"])
def test_it_conforms(scan):
    rows = [{"beta": beta, "scale": 1.0} for beta in (0.1, 0.5, 1.0)]
    options = {"target": TARGET, "chains": 2, "scan": scan}
    check_experiment(Gibbs, rows, options=options, x64=(scan == "random",), nan={"beta": 1.0, "scale": np.nan})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta: -1.0"),
        ({"chains": 0}, "chains: 0"),
        ({"scan": "sytematic"}, "scan: 'sytematic'.*'systematic'"),
        ({"target": Peaks()}, "target: Peaks"),
    ],
)
def test_nonsense_is_refused_with_option_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Gibbs(**{"target": TARGET, **options})
