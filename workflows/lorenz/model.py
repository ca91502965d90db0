"""Orbits of a system of three differential equations, and how fast neighbours of an orbit leave it.

The system is a part of its own: a class beside the experiment, named in the campaign file with its options, and
swept like a parameter (`experiment.system.use`).
"""

import jax
import jax.numpy as jnp

import staffa


class Lorenz:
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z (J. Atmos. Sci. 20:130, 1963).

    Parameter of a trial: `rho`.
    """

    def __init__(self, sigma: float = 10.0, beta: float = 8 / 3) -> None:
        self.sigma, self.beta = sigma, beta

    def __call__(self, at, params):
        x, y, z = at
        return jnp.stack([self.sigma * (y - x), x * (params["rho"] - z) - y, x * y - self.beta * z])


class Roessler:
    """x' = -y - z, y' = x + a y, z' = b + z (x - c) (Phys. Lett. A 57:397, 1976).

    Parameter of a trial: `c`.
    """

    def __init__(self, a: float = 0.2, b: float = 0.2) -> None:
        self.a, self.b = a, b

    def __call__(self, at, params):
        x, y, z = at
        return jnp.stack([-y - z, x + self.a * y, self.b + z * (x - params["c"])])


class Orbit(staffa.Experiment):
    """The classical Runge-Kutta scheme, a step of `dt`; an orbit begins at the parameters `x`, `y`, `z`.

    Outputs: `place`, and `exponent`, the mean rate at which a neighbour has left so far: after a long time
    the largest Lyapunov exponent.
    """

    dims = {"place": ("axis",)}
    coords = {"axis": ("x", "y", "z")}
    summaries = {"lyapunov": ("last", "exponent")}  # a column of the table of trials

    def __init__(self, system: object, dt: float = 0.01) -> None:
        self.system, self.dt = system, dt

    def initialize(self, key, params):
        at = jnp.stack([params["x"], params["y"], params["z"]])
        away = jax.random.normal(key, (3,), at.dtype)
        return at, away / jnp.linalg.norm(away), jnp.zeros((), at.dtype), jnp.zeros((), at.dtype)

    def step(self, key, state, params):
        at, away, grown, time = state
        at, away = jax.jvp(lambda place: self.forward(place, params), (at,), (away,))
        length = jnp.linalg.norm(away)
        grown, time = grown + jnp.log(length), time + self.dt
        return (at, away / length, grown, time), {"place": at, "exponent": grown / time}

    def forward(self, at, params):
        first = self.system(at, params)
        second = self.system(at + self.dt / 2 * first, params)
        third = self.system(at + self.dt / 2 * second, params)
        fourth = self.system(at + self.dt * third, params)
        return at + self.dt / 6 * (first + 2 * second + 2 * third + fourth)
