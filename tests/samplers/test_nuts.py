"""NUTS: the suite every sampler passes, plain blackjax draw by draw, moments, energy, and the funnel's warnings."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.chains import bfmi, check_moments, drawn, ess, of_one, rhat
from staffa.experiment.protocol import Params
from staffa.samplers.density import density, real
from staffa.samplers.known import Banana, Funnel, Normal
from staffa.samplers.nuts import Nuts
from staffa.testing import check_experiment


def scaled(x, scale):
    return -0.5 * jnp.sum((x / scale) ** 2)


Scaled = density(scaled, x=real(2))


def test_it_conforms():
    check_experiment(
        Nuts, [{"scale": 1.0}, {"scale": 0.5}], options={"target": Scaled(), "chains": 2, "warmup": 25},
        warmup=25, nan={"scale": float("nan")}, x64=(True,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def normal():
    """Four chains over three correlated coordinates of very different scale."""
    target = Normal(3, sd=[1.0, 0.1, 5.0], correlation=0.5)
    return target, of_one(drawn(Nuts(target, warmup=400, chains=4, mass="dense"), 1500))


def test_moments_of_a_normal(normal):
    _, outputs = normal
    for index, sd in enumerate([1.0, 0.1, 5.0]):
        check_moments(outputs["x"][..., index], 0.0, sd)
    found = np.corrcoef(outputs["x"].reshape(-1, 3).T)
    assert np.allclose(found[np.triu_indices(3, 1)], 0.5, atol=0.08)  # more than 6 standard errors


def test_energy_is_that_of_a_normal(normal):
    """H = -ln p + kinetic is a constant plus half a chi-square of 2 d degrees: mean d, variance d."""
    target, outputs = normal
    constant = 0.5 * np.linalg.slogdet(2 * np.pi * target.covariance)[1]
    check_moments(outputs["energy"] - constant, 3.0, np.sqrt(3.0), kurtosis=5.0)
    assert (bfmi(outputs["energy"]) > 0.7).all()
    assert not outputs["divergent"].any()
    assert np.abs(outputs["energy_error"]).mean() < 0.5
    assert rhat(outputs["log_density"]) < 1.01


def test_a_trajectory_of_depth_k_has_no_more_than_2_to_the_k_steps(normal):
    _, outputs = normal
    depth, steps = outputs["tree_depth"], outputs["num_integration_steps"]
    assert (steps < 2**depth).all() and (steps >= 2 ** (depth - 1)).all()
    short = of_one(drawn(Nuts(Normal(2), step_size=1e-3, max_num_doublings=3), 5))
    assert (short["tree_depth"] == 3).all() and (short["num_integration_steps"] == 7).all()
    assert "step_size" not in short  # it is the option


def test_draws_are_plain_blackjax_s():
    """The same keys, step size and mass, chain by chain."""
    target = Banana()
    sampler = Nuts(target, step_size=0.4, inverse_mass=[1.0, 2.5], chains=3)
    params, density = Params({}), lambda x: target.log_density(x, {})
    state = sampler.initialize(jax.random.key(5), params)
    plain = blackjax.nuts(density, step_size=0.4, inverse_mass_matrix=jnp.array([1.0, 2.5]))
    chains = jax.vmap(plain.init)(state.chains.position)
    ours, theirs = jax.jit(lambda k, s: sampler.step(k, s, params)), jax.jit(jax.vmap(plain.step))
    for index in range(20):
        key = jax.random.key(index)
        state, outputs = ours(key, state)
        chains, info = theirs(jax.random.split(key, 3), chains)
        assert np.allclose(outputs["x"], chains.position, rtol=1e-4, atol=1e-4)
        assert np.array_equal(outputs["num_integration_steps"], info.num_integration_steps)
        assert np.allclose(outputs["acceptance"], info.acceptance_rate, atol=1e-3)


def test_a_funnel_is_wide_when_white_and_warns_when_not():
    white = of_one(drawn(Nuts(Funnel(5, centred=False), warmup=300, chains=4), 1200))
    check_moments(white["v"], 0.0, 3.0)
    check_moments(white["x"][..., 0] * np.exp(-white["v"] / 2), 0.0, 1.0)
    assert not white["divergent"].any()

    plain = of_one(drawn(Nuts(Funnel(5), warmup=300, chains=4, max_num_doublings=7), 1200))
    assert plain["divergent"].mean() > 0.001
    assert bfmi(plain["energy"]).min() < 0.5 < bfmi(white["energy"]).min()
    # the neck is missed: what the warnings are about
    assert plain["v"].min() > white["v"].min() and ess(plain["v"]) < ess(white["v"]) / 4


def test_the_space_sweeps_the_step_size_and_the_target():
    outputs = drawn(Nuts(Scaled()), 60, {"step_size": [0.05, 0.8], "scale": [1.0, 1.0]})
    steps = outputs["num_integration_steps"].mean(axis=(1, 2))
    assert steps[0] > 6 * steps[1]


@pytest.mark.parametrize(("options", "complaint"), [
    ({"step_size": 0.0}, "step_size: 0.0"),
    ({"warmup": -1}, "warmup: -1"),
    ({"target_acceptance": 1.0}, "target_acceptance: 1.0"),
    ({"chains": 0}, "chains: 0"),
    ({"max_num_doublings": 0}, "max_num_doublings: 0"),
    ({"divergence_threshold": 0.0}, "divergence_threshold: 0.0"),
    ({"inverse_mass": [1.0]}, r"inverse_mass: it has shape \(1,\), but a diagonal one here has \(2,\)"),
    ({"inverse_mass": [1.0, -1.0]}, "not positive definite"),
    ({"inverse_mass": [[1.0, 2.0], [2.0, 1.0]], "mass": "dense"}, "not positive definite"),
    ({"target": 3}, "target: int is no density over positions"),
    ({"target": density(lambda energy: -energy, energy=real())()}, "it records 'energy'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Nuts(**{"target": Normal(2), **options})
