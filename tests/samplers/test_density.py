"""Densities over named parameters: transforms, what is recorded, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from staffa.samplers.density import (
    Density,
    Range,
    between,
    density,
    exponential,
    half_cauchy,
    normal,
    positive,
    real,
)
from staffa.samplers.known import Banana, Funnel, Normal

RANGES = (real(), positive(), between(-2.0, 5.0), Range(upper=3.0), Range(lower=-1.5))


@pytest.mark.parametrize("each", RANGES)
def test_a_range_is_filled_and_inverted(each):
    free = jnp.linspace(-6.0, 6.0, 41)
    values = each.constrain(free)
    assert (values > each.lower).all() and (values < each.upper).all()
    assert np.allclose(each.unconstrain(values), free, atol=2e-3)


@pytest.mark.parametrize("each", RANGES)
def test_the_derivative_is_the_derivative(each):
    for free in (-3.0, 0.1, 2.5):
        slope = jax.grad(lambda u: each.constrain(u))(jnp.float32(free))
        assert math.log(abs(slope)) == pytest.approx(float(each.log_derivative(jnp.float32(free))), abs=1e-5)


class Waiting(Density):
    """A scale in (0, inf) and a share in (0, 1), of priors whose normaliser is 1."""

    parameters = {"scale": positive(), "share": between(0.0, 1.0)}

    def prior(self, values, params):
        return exponential(values["scale"], 2.0)

    def likelihood(self, values, params):
        return jnp.zeros(())

    def draw(self, key, params):
        first, second = jax.random.split(key)
        return {"scale": jax.random.exponential(first) / 2, "share": jax.random.uniform(second)}


def test_a_transformed_prior_still_integrates_to_one():
    target = Waiting()
    one = jax.jit(lambda a, b: target.log_prior(jnp.stack([a, b]), {}))
    grid = jnp.linspace(-25.0, 25.0, 1001)
    cells = jnp.exp(jax.vmap(lambda a: jax.vmap(lambda b: one(a, b))(grid))(grid)) * (50.0 / 1000) ** 2
    assert float(cells.sum()) == pytest.approx(1.0, abs=1e-3)


def test_draws_from_the_prior_are_positions_of_it():
    target = Waiting()
    positions = jax.vmap(lambda key: target.sample_prior(key, {}))(jax.random.split(jax.random.key(1), 4000))
    found = jax.vmap(lambda at: target.constrain(at, {}))(positions)
    # two Kolmogorov-Smirnov tests at 1e-4 each
    assert stats.kstest(np.asarray(found["scale"]), "expon", (0, 0.5)).pvalue > 1e-4
    assert stats.kstest(np.asarray(found["share"]), "uniform").pvalue > 1e-4


def test_chains_begin_within_two_of_zero():
    starts = jax.vmap(lambda key: Waiting().initial(key, {}))(jax.random.split(jax.random.key(0), 500))
    assert starts.shape == (500, 2)
    assert -2 < starts.min() < -1.9 and 1.9 < starts.max() < 2


def test_densities_of_the_field():
    x = np.array([0.3, 1.0, 4.0])
    assert np.allclose(normal(x, 1.0, 2.0), stats.norm(1, 2).logpdf(x), atol=1e-5)
    assert np.allclose(half_cauchy(x, 5.0), stats.halfcauchy(scale=5).logpdf(x), atol=1e-5)
    assert np.allclose(exponential(x, 5.0), stats.expon(scale=0.2).logpdf(x), atol=1e-5)


# --- from a function -------------------------------------------------------------------------------


def linear(x, y, slope):
    return -0.5 * (x - slope * y) ** 2 - y


def test_a_function_becomes_a_target():
    target = density(linear, x=real(), y=positive())()
    assert (target.dimension, target.names) == (2, ("x", "y"))
    values = target.constrain(jnp.array([0.5, -1.0]), {})
    assert (float(values["x"]), float(values["y"])) == pytest.approx((0.5, math.exp(-1)))
    # -0.5 (0.5 - 2 e^-1)^2 - e^-1, and -1 for d exp(u) / du
    expected = -0.5 * (0.5 - 2 * math.exp(-1)) ** 2 - math.exp(-1) - 1
    assert float(target.log_density(jnp.array([0.5, -1.0]), {"slope": 2.0})) == pytest.approx(expected, abs=1e-6)


def test_prior_and_likelihood_are_told_apart():
    normal_draw = lambda key: {"x": jax.random.normal(key)}  # noqa: E731
    target = density(lambda x: -3.0 * x, prior=lambda x: -(x**2), draw=normal_draw, x=real())()
    at = jnp.array([2.0])
    assert (float(target.log_prior(at, {})), float(target.log_likelihood(at, {}))) == (-4.0, -6.0)
    assert target.sample_prior(jax.random.key(0), {}).shape == (1,)


def test_without_a_prior_there_is_nothing_to_draw_from():
    with pytest.raises(NotImplementedError, match="no method 'draw', which SMC needs"):
        density(linear, x=real(), y=real())().sample_prior(jax.random.key(0), {})


@pytest.mark.parametrize(("make", "complaint"), [
    (lambda: density(linear, z=real()), "linear takes no argument 'z'"),
    (lambda: density(lambda: 0.0)(), "parameters is empty"),
    (lambda: Range(2.0, 1.0), r"lower 2.0 is not below upper 1.0"),
    (lambda: real(0), r"shape \(0,\)"),
    (lambda: real(3).named("a", "b"), r"dims \('a', 'b'\)"),
    (lambda: Normal(0), "dimension: 0"),
    (lambda: Normal(3, sd=[1.0, 2.0]), r"sd: \[1.0, 2.0\]"),
    (lambda: Normal(3, correlation=-0.9), "correlation: -0.9"),
    (lambda: Normal(3, spread=0.0), "spread: 0.0"),
    (lambda: Funnel(1), "dimension: 1"),
    (lambda: Banana(scale=-1.0), "scale: -1.0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


# --- targets whose moments are known ---------------------------------------------------------------


def test_normal_is_scipy_s():
    target = Normal(3, sd=[1.0, 2.0, 0.5], correlation=0.4)
    at = np.array([0.3, -1.0, 0.8])
    assert float(target.log_density(jnp.asarray(at), {})) == pytest.approx(
        stats.multivariate_normal(cov=target.covariance).logpdf(at), abs=1e-5
    )
    assert target.covariance[0, 1] == pytest.approx(0.4 * 1.0 * 2.0)


@pytest.mark.parametrize("target", [Funnel(2), Banana(1.5, 0.7), Normal(2, correlation=0.5), Funnel(2, centred=False)])
def test_known_targets_are_normalised_and_split(target):
    at = jnp.array([0.4, -0.7])
    whole = target.log_density(at, {})
    assert float(target.log_prior(at, {}) + target.log_likelihood(at, {})) == pytest.approx(float(whole), abs=1e-5)
    # summed along the second coordinate: the marginal of the first, which is normal in all of them
    grid = jnp.linspace(-40.0, 40.0, 20_001)
    marginal = jnp.exp(jax.vmap(lambda b: target.log_density(jnp.stack([0.5, b]), {}))(grid)).sum() * (80 / 20_000)
    sd = {Funnel: 3.0 if getattr(target, "centred", True) else 1.0, Banana: 1.5, Normal: 1.0}[type(target)]
    assert float(marginal) == pytest.approx(stats.norm(0, sd).pdf(0.5), rel=1e-3)


def test_a_funnel_records_v_and_x_however_it_is_sampled():
    white = Funnel(4, centred=False).constrain(jnp.array([1.0, 2.0, 0.0, -1.0]), {})
    assert float(white["v"]) == 3.0
    assert np.allclose(white["x"], math.exp(1.5) * np.array([2.0, 0.0, -1.0]), rtol=1e-5)
    plain = Funnel(4).constrain(jnp.array([1.0, 2.0, 0.0, -1.0]), {})
    assert float(plain["v"]) == 1.0 and plain["x"].tolist() == [2.0, 0.0, -1.0]
