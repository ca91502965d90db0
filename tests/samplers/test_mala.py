"""MALA: the suite every sampler passes, plain blackjax draw by draw, moments, and its warm-up."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers.chains import check_moments, drawn, of_one
from staffa.experiment.protocol import Params
from staffa.samplers.density import density, real
from staffa.samplers.known import Banana, Normal
from staffa.samplers.mala import Mala
from staffa.testing import check_experiment

Scaled = density(lambda x, scale: -0.5 * jnp.sum((x / scale) ** 2), x=real(2))


def test_it_conforms(fully_compiled):
    check_experiment(
        Mala, [{"scale": 1.0}, {"scale": 0.5}], options={"target": Scaled(), "chains": 2, "warmup": 25},
        warmup=25, nan={"scale": float("nan")}, x64=(True,),
    )  # fmt: skip


def test_moments_and_acceptance_of_a_normal():
    outputs = of_one(drawn(Mala(Normal(3, sd=[1.0, 0.7, 1.3]), warmup=500, chains=4), 8000))
    for index, sd in enumerate([1.0, 0.7, 1.3]):
        check_moments(outputs["x"][..., index], 0.0, sd)
    # Dual averaging ends within a few hundredths of what it aims at.
    assert outputs["acceptance"].mean() == pytest.approx(0.574, abs=0.06)
    assert (outputs["step_size"] == outputs["step_size"][:, :1]).all()


def test_moments_of_a_bent_normal():
    """sd of x[1]: sqrt(1 + 2 bend² scale⁴) = sqrt(1.5); its kurtosis is (3 + 3 + 3.75) / 1.5² = 4.333.

    With z = x[0]² - 1, E z² = 2, E z⁴ = 60: E x⁴ = 3 + 6 b² 2 + b⁴ 60 at b = 1/2.
    """
    outputs = of_one(drawn(Mala(Banana(bend=0.5), step_size=0.25, chains=4), 20_000))
    check_moments(outputs["x"][..., 0], 0.0, 1.0)
    check_moments(outputs["x"][..., 1], 0.0, np.sqrt(1.5), kurtosis=(3 + 6 * 0.25 * 2 + 60 / 16) / 1.5**2)


def test_draws_are_plain_blackjax_s():
    target = Banana()
    sampler = Mala(target, step_size=0.3, chains=3)
    params = Params({})
    state = sampler.initialize(jax.random.key(5), params)
    plain = blackjax.mala(lambda x: target.log_density(x, {}), 0.3)
    chains = jax.vmap(plain.init)(state.chains.position)
    ours, theirs = jax.jit(lambda k, s: sampler.step(k, s, params)), jax.jit(jax.vmap(plain.step))
    for index in range(30):
        key = jax.random.key(index)
        state, outputs = ours(key, state)
        chains, info = theirs(jax.random.split(key, 3), chains)
        assert np.allclose(outputs["x"], chains.position, rtol=1e-4, atol=1e-4)
        assert np.allclose(outputs["acceptance"], info.acceptance_rate, atol=1e-4)


def test_the_space_sweeps_what_the_warm_up_aims_at():
    outputs = drawn(Mala(Normal(4), warmup=300), 1000, {"target_acceptance": [0.4, 0.8]})
    found = outputs["acceptance"].mean(axis=(1, 2))
    assert np.allclose(found, [0.4, 0.8], atol=0.08)
    assert outputs["step_size"][0, 0, 0] > outputs["step_size"][1, 0, 0]


@pytest.mark.parametrize(("options", "complaint"), [
    ({"step_size": -0.1}, "step_size: -0.1"),
    ({"target_acceptance": 0.0}, "target_acceptance: 0.0"),
    ({"target": density(lambda acceptance: -acceptance, acceptance=real())()}, "it records 'acceptance'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Mala(**{"target": Normal(2), **options})
