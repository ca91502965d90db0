"""The posteriors of this workflow; README.md has the sources of models and data."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from staffa.samplers.density import Density, exponential, half_cauchy, normal, positive, real
from staffa.samplers.target import Values

Named = Mapping[str, jax.Array]


class EightSchools(Density):
    """Effects of coaching on a test's score in eight schools, given as estimates with standard errors.

    mean ~ N(0, 5²), spread ~ half-Cauchy(5), effect[j] ~ N(mean, spread²), estimate[j] ~ N(effect[j], error[j]²).

    Options:
    - `centred`: sample the effects as they are; otherwise (effect - mean) / spread, which is standard normal.
    """

    estimate = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    """Points of the test."""

    def __init__(self, centred: bool = False) -> None:
        self.centred = centred
        schools = real(8).named("school")
        self.parameters = {"mu": real(), "tau": positive(), "theta" if centred else "white": schools}
        if not centred:
            self.derived, self.dims = ("theta",), {"theta": ("school",)}
        super().__init__()

    def prior(self, values: Named, params: Values) -> jax.Array:
        top = normal(values["mu"], 0.0, 5.0) + half_cauchy(values["tau"], 5.0)
        if self.centred:
            return top + jnp.sum(normal(values["theta"], values["mu"], values["tau"]))
        return top + jnp.sum(normal(values["white"], 0.0, 1.0))

    def likelihood(self, values: Named, params: Values) -> jax.Array:
        return jnp.sum(normal(self.estimate, self._effects(values), self.error))

    def draw(self, key: jax.Array, params: Values) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 3)
        values = {
            "mu": 5.0 * jax.random.normal(keys[0]),
            "tau": jnp.abs(5.0 * jax.random.cauchy(keys[1])),
            "white": jax.random.normal(keys[2], (8,)),
        }
        return {**values, "theta": values["mu"] + values["tau"] * values["white"]}

    def derive(self, values: Named, params: Values) -> dict[str, jax.Array]:
        return {} if self.centred else {"theta": self._effects(values)}

    def _effects(self, values: Named) -> jax.Array:
        return values["theta"] if self.centred else values["mu"] + values["tau"] * values["white"]


class Logistic(Density):
    """Logistic regression of a tumour's being benign on 30 measurements, each standardised.

    intercept, weight[k] ~ N(0, scale²), benign[i] ~ Bernoulli(sigmoid(intercept + measured[i] weight)).

    Options:
    - `scale`: prior standard deviation.
    """

    def __init__(self, scale: float = 1.0) -> None:
        # Only whoever fits this model needs the package.
        from sklearn.datasets import load_breast_cancer

        if not scale > 0:
            raise ValueError(f"scale: {scale} is not above 0")
        data = load_breast_cancer()
        raw = np.asarray(data.data, float)
        self.scale = scale
        self.measured = (raw - raw.mean(axis=0)) / raw.std(axis=0)
        self.sign = np.where(np.asarray(data.target) == 1, 1.0, -1.0)
        self.parameters = {"intercept": real(), "weight": real(raw.shape[1]).named("measurement")}
        super().__init__()

    def prior(self, values: Named, params: Values) -> jax.Array:
        every = jnp.append(values["weight"], values["intercept"])
        return jnp.sum(normal(every, 0.0, self.scale))

    def likelihood(self, values: Named, params: Values) -> jax.Array:
        weight = values["weight"]
        logit = values["intercept"] + jnp.asarray(self.measured, weight.dtype) @ weight
        return jnp.sum(jax.nn.log_sigmoid(jnp.asarray(self.sign, weight.dtype) * logit))

    def draw(self, key: jax.Array, params: Values) -> dict[str, jax.Array]:
        first, second = jax.random.split(key)
        weight = self.scale * jax.random.normal(first, (self.measured.shape[1],))
        return {"intercept": self.scale * jax.random.normal(second), "weight": weight}


class Influenza(Density):
    """An outbreak in a boarding school: susceptible, infected, recovered, observed through boys in bed.

    dS/dt = -b S I / N, dI/dt = b S I / N - r I; S(0) = N - 1, I(0) = 1, time in days;
    in_bed[t] ~ NegativeBinomial(mean I(t), variance I + I² phi_inv), t = 1 … 14;
    infection_rate b ~ N(2, 1) and recovery_rate r ~ N(0.4, 0.5), both above 0, phi_inv ~ Exponential(5).

    Options:
    - `steps_a_day`: of the fourth-order Runge-Kutta scheme.
    """

    in_bed = np.array([3.0, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4])
    boys = 763.0
    derived = ("R0", "recovery_time")

    def __init__(self, steps_a_day: int = 4) -> None:
        if steps_a_day < 1:
            raise ValueError(f"steps_a_day: {steps_a_day} is not above 0")
        self.steps_a_day = steps_a_day
        self.parameters = {"infection_rate": positive(), "recovery_rate": positive(), "phi_inv": positive()}
        super().__init__()

    def prior(self, values: Named, params: Values) -> jax.Array:
        rates = above_zero(values["infection_rate"], 2.0, 1.0) + above_zero(values["recovery_rate"], 0.4, 0.5)
        return rates + exponential(values["phi_inv"], 5.0)

    def likelihood(self, values: Named, params: Values) -> jax.Array:
        log_infected = self.log_infected(values["infection_rate"], values["recovery_rate"])
        return jnp.sum(negative_binomial(self.in_bed, log_infected, values["phi_inv"]))

    def draw(self, key: jax.Array, params: Values) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 3)
        return {
            "infection_rate": 2.0 + 1.0 * jax.random.truncated_normal(keys[0], -2.0, jnp.inf),
            "recovery_rate": 0.4 + 0.5 * jax.random.truncated_normal(keys[1], -0.8, jnp.inf),
            "phi_inv": jax.random.exponential(keys[2]) / 5.0,
        }

    def derive(self, values: Named, params: Values) -> dict[str, jax.Array]:
        return {"R0": values["infection_rate"] / values["recovery_rate"], "recovery_time": 1 / values["recovery_rate"]}

    def log_infected(self, infection_rate: jax.Array, recovery_rate: jax.Array) -> jax.Array:
        """ln of the boys infected at the end of each day, (14,).

        ln S and ln I are integrated: neither can fall below zero, and where an outbreak dies out at once
        the gradient still says so.
        """
        step = 1.0 / self.steps_a_day

        def slope(at: jax.Array) -> jax.Array:
            susceptible, infected = jnp.exp(at) / self.boys
            return jnp.stack([-infection_rate * infected, infection_rate * susceptible - recovery_rate])

        def forward(at: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            first = slope(at)
            second = slope(at + step / 2 * first)
            third = slope(at + step / 2 * second)
            fourth = slope(at + step * third)
            at = at + step / 6 * (first + 2 * second + 2 * third + fourth)
            return at, at[1]

        begin = jnp.log(jnp.array([self.boys - 1.0, 1.0], infection_rate.dtype))
        _, path = jax.lax.scan(forward, begin, None, len(self.in_bed) * self.steps_a_day)
        return path[self.steps_a_day - 1 :: self.steps_a_day]


def above_zero(x: jax.Array, mean: float, sd: float) -> jax.Array:
    """ln of a normal density cut off at zero, normalised."""
    return normal(x, mean, sd) - jax.scipy.special.log_ndtr(mean / sd)


def negative_binomial(count: np.ndarray, log_mean: jax.Array, phi_inv: jax.Array) -> jax.Array:
    """ln of the probability of counts with mean m and variance m + m² phi_inv.

    Γ(c + phi) / (Γ(phi) phi^c) is the product of 1 + j phi_inv over j < c. As a difference of ln Γ it would lose
    all its digits in single precision where phi_inv is small, and be taken for a likelihood far above 1.
    """
    before = np.arange(count.max()) < count[:, None]
    product = jnp.sum(jnp.where(before, jnp.log1p(np.arange(count.max()) * phi_inv), 0.0), axis=-1)
    excess = jnp.exp(log_mean) * phi_inv
    small = excess < 1e-4
    # phi ln(1 + m phi_inv), which is m where phi_inv is 0
    spread = jnp.where(small, 1 - excess / 2, jnp.log1p(excess) / jnp.where(small, 1.0, excess)) * jnp.exp(log_mean)
    factorial = jax.lax.lgamma(jnp.asarray(count + 1.0, log_mean.dtype))
    return product + count * (log_mean - jnp.log1p(excess)) - spread - factorial
