"""HMC: the suite every sampler passes, plain blackjax draw by draw, moments, energy and its error."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.chains import bfmi, check_moments, drawn, of_one
from staffa.experiment.protocol import Params
from staffa.samplers.density import density, real
from staffa.samplers.hmc import Hmc
from staffa.samplers.known import Banana, Normal
from staffa.testing import check_experiment

Scaled = density(lambda x, scale: -0.5 * jnp.sum((x / scale) ** 2), x=real(2))


def test_it_conforms():
    check_experiment(
        Hmc, [{"scale": 1.0}, {"scale": 0.5}], options={"target": Scaled(), "chains": 2, "warmup": 25},
        warmup=25, nan={"scale": float("nan")}, x64=(False,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def outputs():
    target = Normal(4, sd=[1.0, 2.0, 0.5, 1.0])
    return of_one(drawn(Hmc(target, num_integration_steps=6, warmup=400, chains=4), 2000))


def test_moments_of_a_normal(outputs):
    for index, sd in enumerate([1.0, 2.0, 0.5, 1.0]):
        check_moments(outputs["x"][..., index], 0.0, sd)


def test_energy_is_that_of_a_normal(outputs):
    """A constant plus half a chi-square of 2 d degrees of freedom; ln of the sds' product is 0 here."""
    check_moments(outputs["energy"] - 2 * np.log(2 * np.pi), 4.0, 2.0, kurtosis=4.5)
    assert (bfmi(outputs["energy"]) > 0.7).all()
    assert not outputs["divergent"].any()


def test_the_mean_of_exp_of_minus_the_energy_error_is_one(outputs):
    """M. Creutz. Global Monte Carlo algorithms for many-fermion systems. Phys. Rev. D 38:1228, 1988."""
    ratio = np.exp(-outputs["energy_error"].astype(float))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(ratio.size / 4)  # a quarter of them independent
    assert ratio.std() > 0.05  # there is an error to speak of
    assert np.allclose(np.minimum(1, ratio), outputs["acceptance"], atol=1e-3)
    # The average of ln step_size lies below the step size of mean acceptance 0.8: more is accepted.
    assert 0.75 < outputs["acceptance"].mean() < 0.95


def test_the_energy_error_is_of_second_order():
    """Half the step, twice the number: the error is a quarter; standard error of a ratio of sds is below 5 %."""
    errors = [
        drawn(Hmc(Banana(), step_size=step, num_integration_steps=steps, chains=8), 400)["energy_error"].std()
        for step, steps in ((0.1, 6), (0.05, 12))
    ]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)


def test_draws_are_plain_blackjax_s():
    target = Banana()
    sampler = Hmc(target, step_size=0.3, num_integration_steps=5, inverse_mass=[1.0, 2.5], chains=3)
    params, log_density = Params({}), lambda x: target.log_density(x, {})
    state = sampler.initialize(jax.random.key(5), params)
    plain = blackjax.hmc(log_density, 0.3, jnp.array([1.0, 2.5]), 5)
    chains = jax.vmap(plain.init)(state.chains.position)
    ours, theirs = jax.jit(lambda k, s: sampler.step(k, s, params)), jax.jit(jax.vmap(plain.step))
    for index in range(30):
        key = jax.random.key(index)
        state, outputs = ours(key, state)
        before, (chains, info) = chains, theirs(jax.random.split(key, 3), chains)
        assert np.allclose(outputs["x"], chains.position, rtol=1e-4, atol=1e-4)
        # the energy of the draw: of the proposal where it was accepted, else of where it began
        kinetic = 0.5 * (info.momentum**2 * jnp.array([1.0, 2.5])).sum(axis=1)
        kept = jnp.where(info.is_accepted, info.energy, kinetic - before.logdensity)
        assert np.allclose(outputs["energy"], kept, rtol=1e-4, atol=1e-4)


def test_the_space_sweeps_the_length_of_trajectories():
    """A trajectory of half a period turns a standard normal into its negative: x' = -x."""
    steps = [314, 628]  # pi / 0.01, and twice that
    outputs = drawn(
        Hmc(density(lambda x: -0.5 * x**2, x=real())(), step_size=0.01), 12, {"num_integration_steps": steps}
    )
    half, whole = outputs["x"][:, 0]
    assert np.allclose(half[1:], -half[:-1], atol=0.03) and np.allclose(whole[1:], whole[:-1], atol=0.03)
    assert np.abs(half).max() > 0.1


@pytest.mark.parametrize(("options", "complaint"), [
    ({"num_integration_steps": 0}, "num_integration_steps: 0"),
    ({"step_size": float("nan")}, "step_size: nan"),
    ({"inverse_mass": [[1.0, 0.5], [0.1, 1.0]], "mass": "dense"}, "not positive definite"),
    ({"target": density(lambda divergent: -divergent, divergent=real())()}, "it records 'divergent'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Hmc(**{"target": Normal(2), **options})
