"""`ste`: what goes forwards and backwards, what it finds, and which targets it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from samplers.landscapes import Coupled, Peaks, Wells, drawn, everything
from staffa.samplers.straight_through import StraightThrough, straight_through
from staffa.testing import check_experiment

TARGET = Coupled(4, 3)


def test_forwards_it_is_the_argmax_and_backwards_softmax():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    weights = jax.random.normal(jax.random.key(1), (4, 3))
    np.testing.assert_array_equal(straight_through(logits), jax.nn.one_hot(jnp.argmax(logits, 1), 3))
    gradient = jax.grad(lambda at: jnp.sum(weights * straight_through(at)))(logits)
    soft = jax.grad(lambda at: jnp.sum(weights * jax.nn.softmax(at)))(logits)
    np.testing.assert_allclose(gradient, soft, rtol=1e-6)


def test_the_loss_is_minus_the_fitness_of_the_argmax():
    sampler = StraightThrough(TARGET)
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    fitness, _ = TARGET.fitness(jnp.argmax(logits, 1), {})
    np.testing.assert_allclose(sampler.loss(logits, {}), -fitness, rtol=1e-5)


def test_one_step_is_one_of_adam():
    sampler, params = StraightThrough(TARGET), {"learning_rate": 0.05}
    state = sampler.initialize(jax.random.key(0), params)
    adam, logits = optax.adam(0.05), state.logits[0]
    memory = adam.init(logits)
    slope, step = jax.jit(jax.grad(sampler.loss)), jax.jit(sampler.step)
    for _ in range(3):
        gradient = slope(logits, params)
        update, memory = adam.update(gradient, memory)
        logits = optax.apply_updates(logits, update)
        state, _ = step(jax.random.key(0), state, params)
    np.testing.assert_allclose(state.logits[0], logits, rtol=1e-5)


def test_without_couplings_it_finds_the_best_of_all_sequences():
    target = Coupled(5, 4)
    target.couplings[:] = 0
    outputs = drawn(StraightThrough(target, chains=8), steps=1_000)
    best = target.h.max(axis=1).sum()
    np.testing.assert_allclose(outputs["best_fitness"], best, rtol=1e-5)
    np.testing.assert_array_equal(outputs["sequence"], np.broadcast_to(target.h.argmax(axis=1), (8, 5)))


def test_with_couplings_the_best_of_several_chains_is_the_best_of_all():
    outputs = drawn(StraightThrough(TARGET, chains=32, scale=0.5), steps=600, every=1)
    values = np.asarray(jax.vmap(lambda x: TARGET.fitness(x, {})[0])(everything(TARGET)))
    np.testing.assert_allclose(outputs["best_fitness"][-1].max(), values.max(), rtol=1e-5)
    best = outputs["best_fitness"]
    assert (np.diff(best, axis=0) >= 0).all()
    assert (best >= outputs["fitness"] - 1e-6).all()
    assert best[-1].mean() > best[0].mean() + 1
    found = jax.vmap(lambda x: TARGET.fitness(x, {})[0])(outputs["best_sequence"][-1])
    np.testing.assert_allclose(best[-1], found, rtol=1e-5)


def test_cross_entropy_leads_to_the_likeliest_state_of_each_site():
    outputs = drawn(StraightThrough(TARGET, "cross_entropy", chains=4), steps=1_000)
    np.testing.assert_array_equal(outputs["sequence"], np.broadcast_to(TARGET.h.argmax(axis=1), (4, 4)))
    least = -jax.nn.log_softmax(jnp.asarray(TARGET.h)).max(axis=1).mean()
    np.testing.assert_allclose(outputs["loss"], least, rtol=1e-5)


@pytest.mark.parametrize("objective", ["fitness", "cross_entropy"])
def test_it_conforms(objective):
    rows = [{"learning_rate": rate, "scale": 1.0} for rate in (0.01, 0.1)]
    options = {"target": TARGET, "objective": objective, "chains": 2}
    wide = (objective == "fitness",)
    check_experiment(StraightThrough, rows, options=options, x64=wide, nan={"learning_rate": 0.1, "scale": np.nan})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": Wells()}, r"target: Wells has no fitness_one_hot\(p, params\)"),
        ({"target": Wells(), "objective": "cross_entropy"}, r"target: Wells has no site_logits\(params\)"),
        ({"target": Peaks()}, "target: Peaks"),
        ({"objective": "fitnes"}, "objective: 'fitnes'.*'fitness'"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0"),
        ({"scale": -1.0}, "scale: -1.0"),
        ({"chains": 0}, "chains: 0"),
    ],
)
def test_nonsense_is_refused_with_option_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        StraightThrough(**{"target": TARGET, **options})
