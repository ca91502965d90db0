"""The covariance of numbers and clustering across realizations, where theory says what it is: of Poisson samples."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mocks import halos, mass_function, rooms, statistics
from mocks.reducers import Correlation

BOX, LEAST, Z, GRID = 22.0, 11.5, 0.5, 16
ROOM, _ = rooms.needed(BOX, LEAST, Z, 32)
EDGES = np.array([LEAST, 11.6, 11.8, 12.1, 12.6, 17.0])
MOCKS = 2_000


@pytest.fixture(scope="module")
def program():
    """Numbers of halos in five bins of mass, and the power spectrum of their places."""

    def one(key):
        own = halos.drawn(key, Z, BOX, LEAST, 300.0, ROOM, 32)
        power = statistics.power_spectrum(own.position, own.count, BOX, GRID)
        return {"counts": statistics.counts(own.logm, own.count, EDGES), "power": power * own.count / BOX**3}

    return jax.jit(lambda keys: jax.lax.map(one, keys))


@pytest.fixture(scope="module")
def made(program):
    with jax.enable_x64(True):
        return {name: np.asarray(value) for name, value in program(jax.random.split(jax.random.key(3), MOCKS)).items()}


def covariance(outputs, of):
    """As the campaign makes it: batches of different sizes, reduced."""
    reducer = Correlation(of)
    ends = [0, 700, 1_000, 1_999, MOCKS]
    parts = [
        reducer.map({name: value[low:high] for name, value in outputs.items()}, {})
        for low, high in itertools.pairwise(ends)
    ]
    return reducer.finish(functools.reduce(reducer.reduce, parts))


def test_numbers_have_the_covariance_of_poisson_numbers(made):
    """cov(N_i, N_j) = mean(N_i) where i = j, else 0; a variance scatters by sqrt((2 + 1/mean) / N) of itself."""
    mean = -np.diff([float(mass_function.mean_count(edge, Z, BOX)) for edge in EDGES])
    mean[-1] += float(mass_function.mean_count(EDGES[-1], Z, BOX))
    found = covariance(made, "counts")
    scatter = np.sqrt(np.outer(mean, mean) / MOCKS)
    np.fill_diagonal(scatter, mean * np.sqrt((2 + 1 / mean) / MOCKS))
    assert (np.abs(found["mean"] - mean) < 4 * np.sqrt(mean / MOCKS)).all()
    assert (np.abs(found["covariance"] - np.diag(mean)) < 4 * scatter).all()


def test_power_has_the_covariance_of_poisson_points(made):
    """In units of V / N, the number of points being known: 1 / m in a bin of m waves (a wave and its opposite are one),
    since each |d_k|^2 is exponential; nothing between bins."""
    numbers = np.fft.fftfreq(GRID, 1 / GRID)
    length = np.sqrt(sum(np.meshgrid(numbers**2, numbers**2, numbers**2)))
    waves = np.histogram(length, np.arange(0.5, GRID / 2 + 1))[0] / 2
    # Short waves are folded onto long ones near the mesh's end: bins are judged up to half of that.
    kept = slice(0, GRID // 4)
    expected = 1 / waves[kept]
    found = covariance(made, "power")
    scatter = np.sqrt(np.outer(expected, expected) / MOCKS)
    np.fill_diagonal(scatter, expected * np.sqrt((2 + 6 / waves[kept]) / MOCKS))  # the kurtosis of m exponentials
    assert (np.abs(found["mean"][kept] - 1) < 5 * np.sqrt(expected / MOCKS) + 0.005).all()
    assert (np.abs(found["covariance"][kept, kept] - np.diag(expected)) < 5 * scatter).all()


@pytest.mark.parametrize("constant", [False, True])
def test_power_of_one_realization_says_nothing_of_another(made, program, constant):
    """Residuals of all pairs, in standard deviations; with one key for all, as the origin had it, they are the same."""
    count = 40
    power = made["power"][:count]
    if constant:
        with jax.enable_x64(True):
            power = np.asarray(program(jnp.repeat(jax.random.key(0)[None], count))["power"])
    residuals = (power - made["power"].mean(0)) / made["power"].std(0)
    products = ((residuals.sum(0) ** 2).sum() - (residuals**2).sum()) / 2
    deviation = products / math.sqrt(count * (count - 1) / 2 * residuals.shape[1])
    assert deviation > 8 if constant else abs(deviation) < 4
