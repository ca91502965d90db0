"""The posterior workflow: its models by hand, its posteriors against quadrature and published ones, and one run."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

import staffa
from samplers.chains import FALSE_ALARM, bfmi, check_moments, drawn, ess, of_one, rhat
from staffa.samplers.nuts import Nuts

WORKFLOW = Path(__file__).parents[2] / "workflows" / "posterior"


def imported():
    spec = importlib.util.spec_from_file_location("posterior_targets", WORKFLOW / "targets.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


targets = imported()


# --- eight schools ---------------------------------------------------------------------------------

POSTERIORDB = {
    "mu": (4.41051833695493, 0.0330374705950917), "tau": (3.60205952364059, 0.0318615135640706),
    "theta": (
        np.array([6.15050229334425, 4.9395811407422, 3.90590609001582, 4.79601675138494,
                  3.6144363246799, 4.0511475789675, 6.31716975886893, 4.88399694353288]),
        np.array([0.0557375282295219, 0.0462293788624847, 0.0542313705632124, 0.0474935816762281,
                  0.0461450610244603, 0.0485195392528031, 0.0498766794075794, 0.0542511606560972]),
    ),
}  # fmt: skip
"""Mean and its standard error: posteriordb, eight_schools-eight_schools_noncentered, reference draws."""


@pytest.fixture(scope="module")
def exact():
    """mu and tau by quadrature: mean and sd. Given tau, everything else is normal (BDA, section 5.4)."""
    y, error = targets.EightSchools.estimate, targets.EightSchools.error
    free = np.linspace(-12, 7, 20_001)
    tau = np.exp(free)
    total = error**2 + tau[:, None] ** 2
    precision = (1 / total).sum(axis=1) + 1 / 25
    mean = (y / total).sum(axis=1) / precision
    evidence = stats.norm.logpdf(y, 0, np.sqrt(total)).sum(axis=1) - 0.5 * np.log(25 * precision)
    log_weight = evidence + 0.5 * precision * mean**2 + stats.halfcauchy(scale=5).logpdf(tau) + free
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()

    def moments(first, second):
        return weight @ first, np.sqrt(weight @ second - (weight @ first) ** 2)

    return {"mu": moments(mean, mean**2 + 1 / precision), "tau": moments(tau, tau**2)}


def test_quadrature_agrees_with_the_published_posterior(exact):
    for name in ("mu", "tau"):
        mean, error = POSTERIORDB[name]
        assert abs(exact[name][0] - mean) < 3 * error
    assert exact["mu"] == pytest.approx((4.3968, 3.3177), abs=1e-3)
    assert exact["tau"] == pytest.approx((3.5977, 3.2200), abs=1e-3)


@pytest.fixture(scope="module")
def schools():
    return of_one(drawn(Nuts(targets.EightSchools(), warmup=600, target_acceptance=0.9, chains=4), 2500))


def test_eight_schools(exact, schools):
    check_moments(schools["mu"], *exact["mu"])
    # tau has a long tail (Cauchy prior): its square's error is estimated, not assumed
    tau = schools["tau"].astype(float)
    assert rhat(tau) < 1.01
    mean, sd = exact["tau"]
    assert abs(tau.mean() - mean) < FALSE_ALARM * sd / np.sqrt(ess(tau))
    square = (tau - mean) ** 2
    assert abs(square.mean() - sd**2) < FALSE_ALARM * square.std() / np.sqrt(ess(square))


def test_the_effects_are_posteriordb_s(schools):
    means, errors = POSTERIORDB["theta"]
    for school in range(8):
        theta = schools["theta"][..., school]
        error = np.hypot(errors[school], theta.std() / np.sqrt(ess(theta)))
        assert rhat(theta) < 1.01
        assert abs(theta.mean() - means[school]) < FALSE_ALARM * error


def test_the_energy_of_eight_schools_is_sound(schools):
    assert bfmi(schools["energy"]).min() > 0.5
    assert schools["divergent"].mean() < 0.002
    assert 0.85 < schools["acceptance"].mean() < 0.98


def test_centred_and_not_are_one_density():
    """d theta / d white = tau for each of eight schools: the densities differ by 8 ln tau."""
    white = jnp.array([3.0, 0.7, *np.linspace(-1.5, 2.0, 8)])
    values = targets.EightSchools().constrain(white, {})
    centred, plain = targets.EightSchools(centred=True), targets.EightSchools()
    at = centred.position(values)
    difference = plain.log_density(white, {}) - centred.log_density(at, {})
    assert float(difference) == pytest.approx(8 * 0.7, abs=1e-3)
    by_hand = (
        stats.norm(0, 5).logpdf(3.0) + stats.halfcauchy(scale=5).logpdf(np.exp(0.7)) + 0.7
        + stats.norm(3.0, np.exp(0.7)).logpdf(values["theta"]).sum()
        + stats.norm(values["theta"], plain.error).logpdf(plain.estimate).sum()
    )  # fmt: skip
    assert float(centred.log_density(at, {})) == pytest.approx(by_hand, abs=1e-3)


# --- logistic regression ---------------------------------------------------------------------------


def test_the_tumours_are_standardised():
    target = targets.Logistic()
    assert target.measured.shape == (569, 30) and target.dimension == 31
    assert np.allclose(target.measured.mean(axis=0), 0) and np.allclose(target.measured.std(axis=0), 1)
    assert (target.sign == 1).sum() == 357  # benign


def test_logistic_regression_by_importance_sampling():
    """The posterior's means from 30,000 draws of a t distribution, weighted.

    It has the moments of what was sampled, which only makes the weights even: were they wrong, the weights
    would say so. (Around the mode, with its curvature, one in 200 of the draws counts: the posterior is skewed.)
    """
    target = targets.Logistic()
    outputs = of_one(drawn(Nuts(target, warmup=300, chains=4), 700))
    found = np.concatenate([outputs["intercept"][..., None], outputs["weight"]], axis=-1).astype(float)
    sampled = found.reshape(-1, 31)
    proposal = stats.multivariate_t(sampled.mean(0), np.cov(sampled.T), df=20, seed=1)
    points = proposal.rvs(30_000)
    log_density = jax.jit(lambda block: jax.lax.map(lambda x: target.log_density(x, {}), block, batch_size=500))
    log_weight = np.asarray(log_density(jnp.asarray(points, jnp.float32)), float) - proposal.logpdf(points)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1 / (weight**2).sum() > 1_500
    means = weight @ points
    errors = np.sqrt(weight**2 @ (points - means) ** 2)
    for index in range(31):
        each = found[..., index]
        error = np.hypot(errors[index], each.std() / np.sqrt(ess(each)))
        assert rhat(each) < 1.01
        assert abs(each.mean() - means[index]) < FALSE_ALARM * error
    assert not outputs["divergent"].any()


# --- influenza -------------------------------------------------------------------------------------


def test_the_scheme_solves_the_equations():
    def slope(_, at):
        caught = 1.7 * at[0] * at[1] / 763
        return [-caught, caught - 0.5 * at[1]]

    expected = solve_ivp(slope, (0, 14), [762, 1], t_eval=range(1, 15), rtol=1e-10, atol=1e-10).y[1]
    found = jnp.exp(targets.Influenza().log_infected(jnp.float32(1.7), jnp.float32(0.5)))
    assert np.allclose(found, expected, rtol=1e-4)


def test_counts_are_negative_binomial():
    count, mean = np.array([0.0, 3.0, 250.0]), np.array([1e-3, 5.0, 270.0])
    log_mean = jnp.log(jnp.asarray(mean, jnp.float32))
    for phi in (1e-3, 0.2, 7.0, 1e3, 1e5):
        expected = stats.nbinom(phi, phi / (phi + mean)).logpmf(count)
        found = targets.negative_binomial(count, log_mean, jnp.float32(1 / phi))
        assert np.allclose(found, expected, rtol=3e-4, atol=3e-4), phi
    for phi_inv in (1e-9, 1e-30, 0.0):
        found, slope = jax.value_and_grad(lambda at: targets.negative_binomial(count, log_mean, at).sum())(phi_inv)
        assert np.allclose(found, stats.poisson(mean).logpmf(count).sum(), rtol=3e-4) and np.isfinite(slope)


def test_rates_have_a_normal_prior_cut_off_at_zero():
    grid = jnp.linspace(1e-6, 12.0, 40_001)
    assert float(jnp.exp(targets.above_zero(grid, 0.4, 0.5)).sum() * 12 / 40_000) == pytest.approx(1.0, abs=1e-3)


@pytest.fixture(scope="module")
def influenza():
    return of_one(drawn(Nuts(targets.Influenza(), warmup=300, chains=4), 600))


def test_influenza_by_quadrature(influenza):
    """Three dimensions: the whole posterior on a grid of ln beta, ln gamma, ln phi_inv."""
    target = targets.Influenza()
    axes = [np.linspace(0.3, 0.85, 28), np.linspace(-1.5, 0.2, 31), np.linspace(-4.5, 1.0, 23)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    log_density = jax.jit(lambda block: jax.lax.map(lambda x: target.log_density(x, {}), block, batch_size=5_000))
    log_weight = np.asarray(log_density(jnp.asarray(grid, jnp.float32)), float)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    beta, gamma, phi_inv = np.exp(grid).T
    exact = {"infection_rate": beta, "recovery_rate": gamma, "phi_inv": phi_inv}
    exact |= {"R0": beta / gamma, "recovery_time": 1 / gamma}
    for name, values in exact.items():
        mean = weight @ values
        sd = np.sqrt(weight @ values**2 - mean**2)
        kurtosis = weight @ (values - mean) ** 4 / sd**4
        check_moments(influenza[name], mean, sd, kurtosis=kurtosis)


def test_influenza_as_published(influenza):
    """Grinsztajn et al. 2021: beta about 1.7, gamma about 0.5, and so R0 above 3 and two days of illness."""
    assert influenza["infection_rate"].mean() == pytest.approx(1.7, abs=0.1)
    assert influenza["recovery_rate"].mean() == pytest.approx(0.5, abs=0.1)
    assert 2.9 < influenza["R0"].mean() < 3.6
    assert 1.6 < influenza["recovery_time"].mean() < 2.2
    assert not influenza["divergent"].any()


# --- priors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    targets.EightSchools, lambda: targets.EightSchools(centred=True), lambda: targets.Logistic(scale=2.0),
    targets.Influenza,
])  # fmt: skip
def test_draws_from_a_prior_follow_its_density(make):
    """By parts: E[d ln p / dx_i] = 0 and E[x_i d ln p / dx_i] = -1 if and only if the draws are p's."""
    target = make()
    positions = jax.vmap(lambda key: target.sample_prior(key, {}))(jax.random.split(jax.random.key(2), 20_000))
    score = np.asarray(jax.jit(jax.vmap(jax.grad(lambda x: target.log_prior(x, {}))))(positions), float)
    for values, expected in ((score, 0.0), (np.asarray(positions, float) * score, -1.0)):
        errors = values.std(axis=0) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - expected) < FALSE_ALARM * errors).all()


# --- the campaign ----------------------------------------------------------------------------------


def test_the_campaign_has_120_trials_and_a_program_a_sampler_and_target():
    plan = staffa.plan(WORKFLOW / "campaign.yaml").plan
    assert plan.trials == 6 * 5 * 4 == 120
    assert plan.programs == 6 * 3
    assert {group.partition["sampler"] for group in plan.groups} == {"nuts", "hmc", "mala"}


def test_the_smoke_profile_runs_and_answers(tmp_path, workers):
    fewer = ["replicates=1", "sampling.draws=100", "sampling.warmup=150", "experiment.warmup=150"]
    campaign = staffa.load(WORKFLOW / "campaign.yaml", profile="smoke", set=[f"storage.root={tmp_path}", *fewer])
    run = staffa.run(campaign, client=workers, progress=False, allow_dirty=True)
    assert run.ended.exit_code == 0
    rows = run.query(
        "select sampler, count(*) as n, count(distinct chain) as chains, avg(tau) as tau, avg(R0) as r0, "
        "avg(acceptance) as acceptance, count(energy) as energies from draws group by 1 order by 1"
    )
    # 2 targets x 2 chains x 100 draws each; tau and R0 are null where a target has none
    assert rows["sampler"].tolist() == ["mala", "nuts"] and rows["n"].tolist() == [400, 400]
    assert rows["chains"].tolist() == [2, 2] and rows["energies"].tolist() == [0, 400]
    assert 2.5 < rows["r0"][1] < 4.0 and 1.5 < rows["tau"][1] < 7.0
    assert 0.45 < rows["acceptance"][0] < 0.75 < rows["acceptance"][1] < 0.97
    school = run.query("select len(theta) as n from draws where theta is not null limit 1")
    assert school["n"].tolist() == [8]


@pytest.mark.soak
def test_particles_find_the_same_posteriors(tmp_path, workers, fully_compiled):
    """smc.yaml, eight schools and the outbreak: tempered from the prior, with a smaller population."""
    campaign = staffa.load(
        WORKFLOW / "smc.yaml",
        set=[f"storage.root={tmp_path}", "replicates=2", "sampling.draws=20"],
        space=[
            {"grid": {"experiment.target.use": ["targets.py:EightSchools", "targets.py:Influenza"]}},
            {"grid": {"population": [512]}},
        ],
    )
    run = staffa.run(campaign, client=workers, progress=False, allow_dirty=True)
    assert run.ended.exit_code == 0
    rows = run.query(
        'select "experiment.target.use" as target, avg(mean_tau) as tau, avg(mean_R0) as r0, max(beta) as beta, '
        "min(ess) as ess from draws where draw = 19 group by 1 order by 1"
    )
    # Standard errors of these means over 2 x 512 particles are below 0.2 and 0.02.
    assert rows["beta"].tolist() == [1.0, 1.0] and 2.6 < rows["tau"][0] < 4.6 and 3.15 < rows["r0"][1] < 3.3
    evidence = run.query('select "experiment.target.use" as target, "log_z.last" as log_z from trials order by 1')
    for _, found in evidence.groupby("target"):
        assert len(found) == 2 and abs(found["log_z"].diff().iloc[1]) < 1.5
