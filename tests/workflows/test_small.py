"""The three small workflows people copy from: what they compute, against what is known of it."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import staffa
from staffa.testing import check_experiment

WORKFLOWS = Path(__file__).parents[2] / "workflows"
LINES = 80
"""A small model stays small."""


def imported(workflow):
    spec = importlib.util.spec_from_file_location(f"{workflow}_model", WORKFLOWS / workflow / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sir, lorenz, multiplication = (imported(name) for name in ("sir", "lorenz", "multiplication"))


def smoke(workflow, tmp_path_factory, workers):
    root = f"storage.root={tmp_path_factory.mktemp('runs')}"
    campaign = staffa.load(WORKFLOWS / workflow / "campaign.yaml", profile="smoke", set=[root])
    return staffa.run(campaign, client=workers, progress=False, allow_dirty=True)


@pytest.fixture(scope="module")
def epidemics(tmp_path_factory, workers):
    return smoke("sir", tmp_path_factory, workers)


@pytest.fixture(scope="module")
def orbits(tmp_path_factory, workers):
    return smoke("lorenz", tmp_path_factory, workers)


@pytest.mark.parametrize(("workflow", "trials"), [("sir", 8_000), ("lorenz", 2_400), ("multiplication", 10_000)])
def test_each_is_small_and_can_be_planned(workflow, trials):
    assert len((WORKFLOWS / workflow / "model.py").read_text().splitlines()) <= LINES
    assert len((WORKFLOWS / workflow / "README.md").read_text().splitlines()) <= 20
    assert staffa.plan(WORKFLOWS / workflow / "campaign.yaml").plan.trials == trials


def test_each_is_what_the_engine_takes_for_granted():
    """Each in the precision that its own runs below do not use."""
    rates = {"infection_rate": 0.4, "recovery_rate": 0.1}
    check_experiment(sir.Epidemic, rates, options={"people": 500}, thin=4, x64=[True])
    place = {"x": 2.0, "y": 0.02, "z": 0.02}
    check_experiment(lorenz.Orbit, {**place, "rho": 28.0}, options={"system": lorenz.Lorenz()}, x64=[False])
    check_experiment(multiplication.Multiplication, {"x": 6.0, "y": 7.0}, draws=None, stochastic=False)


# --- an epidemic -----------------------------------------------------------------------------------


def large_town(infection_rate, recovery_rate, people=20_000, infected=50, dt=0.25):
    """Kermack and McKendrick's relation, solved by another way than the workflow's own."""
    ratio = infection_rate * dt / -np.expm1(-recovery_rate * dt)
    begin = 1 - infected / people
    return 1 - brentq(lambda z: np.log(z / begin) + ratio * (1 - z), 1e-12, begin - 1e-9 if ratio < 1 else 1 / ratio)


def test_final_sizes_are_those_of_a_large_town(epidemics):
    """sd of the final share is of order 1/sqrt(20,000) times a few; near R0 = 1 it is larger: 0.01 for R0 >= 1.5."""
    assert epidemics.ended.outcomes == {"ok": 32}
    ends = epidemics.query(
        "select infection_rate, recovery_rate, avg(recovered) / 20000 as share, max(infected) as left, count(*) as n "
        "from draws where draw = 199 group by all"
    )
    assert len(ends) == 8 and ends["n"].tolist() == [4] * 8
    for row in ends.itertuples():
        expected = large_town(row.infection_rate, row.recovery_rate)
        assert float(sir.final_size(row.infection_rate, row.recovery_rate)) == pytest.approx(expected, abs=1e-4)
        if row.infection_rate / row.recovery_rate >= 1.5 and row.left < 20:
            assert row.share == pytest.approx(expected, abs=0.02)
    over = ends[(ends["left"] < 20) & (ends["infection_rate"] >= 1.5 * ends["recovery_rate"])]
    assert len(over) >= 6, "most epidemics are over after 200 days"


def test_people_are_neither_made_nor_lost(epidemics):
    draws = epidemics.results.to_xarray()
    assert draws.sizes["draw"] == 200 and draws.sizes["trial"] == 32
    assert (draws["susceptible"] + draws["infected"] + draws["recovered"] == 20_000).all()
    assert (draws["susceptible"].diff("draw") <= 0).all() and (draws["recovered"].diff("draw") >= 0).all()
    # the same rates, other chance
    assert len(np.unique(draws["infected"].sel(draw=50).values)) > 24


def test_the_first_day_is_what_its_probabilities_say():
    """The means of many first steps: 100 infected of 20,000 at a rate of 2 a day, 0.25 days."""
    import jax

    town = sir.Epidemic(20_000, 100)
    params = {"infection_rate": 2.0, "recovery_rate": 1.0}
    step = jax.vmap(lambda key: town.step(key, town.initialize(key, params), params)[1])
    counts = {name: np.asarray(value) for name, value in step(jax.random.split(jax.random.key(1), 4000)).items()}
    caught, healed = 19_900 - counts["susceptible"], counts["recovered"]
    catching, healing = -np.expm1(-2.0 * 100 / 20_000 / 4), -np.expm1(-1.0 / 4)
    for found, people, chance in ((caught, 19_900, catching), (healed, 100, healing)):
        assert found.mean() == pytest.approx(people * chance, abs=4 * np.sqrt(people * chance / 4000))
        assert found.var() == pytest.approx(people * chance * (1 - chance), rel=0.15)


# --- orbits ----------------------------------------------------------------------------------------


def orbit(system, begin, times):
    found = solve_ivp(lambda _, at: system(at), (0, times[-1]), begin, "DOP853", times, rtol=1e-11, atol=1e-11)
    return found.y.T


def lorenz_1963(rho):
    return lambda at: (10 * (at[1] - at[0]), at[0] * (rho - at[2]) - at[1], at[0] * at[1] - 8 / 3 * at[2])


def roessler_1976(c):
    return lambda at: (-at[1] - at[2], at[0] + 0.2 * at[1], 0.2 + at[2] * (at[0] - c))


def test_orbits_are_those_of_another_integrator(orbits):
    """Before chaos has taken over: 4 time units, in which the scheme (dt = 0.01) stays within 0.002."""
    assert orbits.ended.outcomes == {"ok": 8}
    tree = orbits.results.to_xarray()
    times = np.arange(1, 81) * 0.05  # a draw is 5 steps of 0.01
    seen = 0
    for node in tree.leaves:
        found = node.to_dataset()
        system, knob = (lorenz_1963, "rho") if "rho" in found.coords else (roessler_1976, "c")
        assert list(found["axis"].values) == ["x", "y", "z"]
        for row in range(found.sizes["trial"]):
            one = found.isel(trial=row)
            begin = [float(one[name]) for name in "xyz"]
            expected = orbit(system(float(one[knob])), begin, times)
            assert np.abs(one["place"].values[:80] - expected).max() < 2e-3
            assert one["place"].dtype == np.float64
            seen += 1
    assert seen == 8


def test_exponents_are_the_known_ones(orbits):
    """rho = 10: a stable fixed point's eigenvalue; c = 2.5: a limit cycle, 0; the others by Sprott (2003), table A.

    Over 100 time units a chaotic exponent is known to about 0.1 (Lorenz) and 0.03 (Roessler).
    """
    found = orbits.query("select coalesce(rho, c) as knob, lyapunov from trials order by 1").to_numpy()
    root = np.sqrt(8 / 3 * 9)
    jacobian = np.array([[-10, 10, 0], [1, -1, -root], [root, root, -8 / 3]])
    known = {2.5: (0.0, 0.02), 5.7: (0.0714, 0.04), 10.0: (np.linalg.eigvals(jacobian).real.max(), 0.03),
             28.0: (0.9056, 0.2)}  # fmt: skip
    assert found[:, 0].tolist() == [2.5, 2.5, 5.7, 5.7, 10.0, 10.0, 28.0, 28.0]
    for knob, exponent in found:
        expected, error = known[knob]
        assert exponent == pytest.approx(expected, abs=error), knob


# --- products --------------------------------------------------------------------------------------


def test_products_are_products(tmp_path_factory, workers):
    run = smoke("multiplication", tmp_path_factory, workers)
    assert run.ended.outcomes == {"ok": 12}
    found = run.query("select x, y, z from draws order by x, y").to_records(index=False).tolist()
    assert found == [(x, y, x * y) for x, y in itertools.product([1.0, 2.0, 3.0, 4.0], [6.0, 7.0, 8.0])]
