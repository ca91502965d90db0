"""The warm-up, step by step, against blackjax's own from the first step to the last; and cut in pieces."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.adaptation.staged_adaptation import build_schedule

from staffa.experiment.batch import Carried, Inputs, checkpoint, restored
from staffa.experiment.perform import Lane, Program, Spec
from staffa.experiment.protocol import Params, Sampling
from staffa.samplers.gradient import State
from staffa.samplers.hmc import Hmc
from staffa.samplers.known import Normal
from staffa.samplers.mala import Mala
from staffa.samplers.nuts import Nuts
from staffa.samplers.warmup import Warmup
from staffa.seeds import KEY_WORDS
from staffa.storage import checkpoints

TARGET = Normal(3, sd=[1.0, 0.1, 5.0], correlation=0.3)


def warmed(sampler, keys):
    """Positions and tuning after a warm-up, one `adapt` at a time; keys of the chain's own, one a step."""
    state = sampler.initialize(jax.random.key(7), Params({}))
    begin = state.chains.position[0]

    def step(state, key):
        # `adapt` splits a key for its chains; here the one chain is given the key itself.
        chain = jax.tree.map(lambda leaf: leaf[0], state.chains)
        tuning = jax.tree.map(lambda leaf: leaf[0], state.tuning)
        density = lambda x: TARGET.log_density(x, {})  # noqa: E731
        chain, told = sampler.moved(key, chain, density, tuning, {})
        tuning = sampler.rules.update(state.warmed, tuning, chain.position, told["acceptance"], 0.8)
        grown = jax.tree.map(lambda leaf: leaf[None], (chain, tuning))
        return State(*grown, state.warmed + 1), None

    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    return begin, state


@pytest.mark.parametrize(("mass", "steps"), [("diagonal", 10), ("diagonal", 200), ("dense", 40)])
def test_it_takes_the_steps_that_blackjax_takes(mass, steps, fully_compiled):
    """10 steps have no window, 40 have one that is squeezed, 200 have two. Both have to be rounded alike."""
    sampler = Hmc(TARGET, step_size=0.3, num_integration_steps=4, warmup=steps, mass=mass)
    keys = jax.random.split(jax.random.key(3), steps)
    begin, state = warmed(sampler, keys)
    reference = blackjax.window_adaptation(
        blackjax.hmc, lambda x: TARGET.log_density(x, {}), is_mass_matrix_diagonal=mass == "diagonal",
        initial_step_size=0.3, target_acceptance_rate=0.8, num_integration_steps=4,
    )  # fmt: skip
    (expected, found), _ = reference.run(jax.random.key(3), begin, steps)
    assert np.allclose(state.chains.position[0], expected.position, rtol=1e-4, atol=1e-5)
    assert float(state.tuning.step_size[0]) == pytest.approx(float(found["step_size"]), rel=1e-4)
    assert np.allclose(state.tuning.inverse_mass[0], found["inverse_mass_matrix"], rtol=1e-4, atol=1e-7)


def test_the_schedule_is_stan_s():
    """1,000 steps: 75 for the step size, windows of 25, 50, 100, 200, 500, and 50 for the step size again."""
    schedule = Warmup(1000, "diagonal").schedule()
    assert np.flatnonzero(schedule[:, 1]).tolist() == [99, 149, 249, 449, 949]
    assert schedule[:, 0].tolist() == [0] * 75 + [1] * 875 + [0] * 50
    assert np.array_equal(schedule, build_schedule(1000))
    assert not Warmup(1000).schedule().any()  # without a mass there are no windows


@pytest.mark.parametrize("make", [
    lambda: Hmc(TARGET, warmup=60, chains=2, mass="dense"), lambda: Mala(TARGET, warmup=60, chains=2),
], ids=["with a mass", "without"])  # fmt: skip
def test_a_warm_up_cut_in_pieces_and_put_on_disk_is_the_same(make, tmp_path):
    """All gradient samplers warm up alike, and keep the same state."""
    sampling = Sampling(draws=4, warmup=60)
    program = Program(Lane(make(), Spec("it", "", (), (), sampling)), 3, tmp_path)
    words = np.random.default_rng(5).integers(0, 2**32, (3, KEY_WORDS), np.uint32)
    whole = program.adapt(1, words, {}, program.initialize(1, words, {}), 0, 60)

    state = program.initialize(1, words, {})
    for first, last in ((0, 7), (7, 33), (33, 60)):
        state = program.adapt(1, words, {}, state, first, last)
        inputs = Inputs(1, words, {}, np.ones(3, bool))
        carried = Carried(inputs, 3, [(np.arange(3), state)], np.zeros(3, np.uint8), {})
        checkpoints.save(tmp_path / "state", checkpoint(carried), {})
        ((_, state),) = restored(checkpoints.load(tmp_path / "state").arrays, {}, inputs, program).slices
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        assert np.array_equal(one, other)
    drawn, again = (program.sample(1, words, {}, each, 0)[1] for each in (whole, state))
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)


def test_nothing_is_tuned_after_the_last_step():
    sampler = Hmc(TARGET, warmup=30)
    params = Params({})
    state = sampler.initialize(jax.random.key(0), params)
    adapt = jax.jit(lambda key, state: sampler.adapt(key, state, params))
    for index in range(33):
        state = adapt(jax.random.key(index), state)
        if index == 29:
            kept = state.tuning
    assert all(map(np.array_equal, jax.tree.leaves(kept), jax.tree.leaves(state.tuning)))
    # what is in force is the average of the last interval, not its last try
    assert float(kept.step_size[0]) == pytest.approx(float(jnp.exp(kept.averaging.log_step_size_avg[0])))
    assert float(kept.step_size[0]) != pytest.approx(float(jnp.exp(kept.averaging.log_step_size[0])), rel=1e-3)


def test_it_finds_the_acceptance_and_the_mass(tmp_path):
    sampler = Nuts(TARGET, warmup=500, target_acceptance=0.9, chains=2)
    program = Program(Lane(sampler, Spec("it", "", (), (), Sampling(400, warmup=500))), 1, tmp_path)
    words = np.ones((1, KEY_WORDS), np.uint32)
    state = program.adapt(1, words, {}, program.initialize(1, words, {}), 0, 500)
    # 150 correlated steps of the longest window: sds within a third (five standard errors)
    sd = np.sqrt(state.tuning.inverse_mass[0])
    assert np.allclose(sd / [1.0, 0.1, 5.0], 1.0, atol=0.33)
    _, outputs, _ = program.sample(1, words, {}, state, 0)
    assert 0.85 < np.asarray(outputs["acceptance"]).mean() < 0.98
    assert (outputs["step_size"] == outputs["step_size"][:, :, :1]).all()


def test_without_the_option_a_warm_up_is_refused():
    sampler = Nuts(TARGET)
    state = sampler.initialize(jax.random.key(0), Params({}))
    assert state.tuning.averaging is None
    with pytest.raises(ValueError, match=r"warmup: 0, but there is a warm-up: .*sampling\.warmup"):
        sampler.adapt(jax.random.key(1), state, Params({}))
