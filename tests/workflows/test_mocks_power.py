"""What is measured of a mock: numbers by mass, and power spectra whose truth is known."""

import jax
import numpy as np
import pytest
from mocks import statistics

BOX, GRID = 50.0, 16


@pytest.fixture(autouse=True, scope="module")
def doubly():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def power():
    return jax.jit(lambda places, number: statistics.power_spectrum(places, number, BOX, GRID))


def test_poisson_points_have_shot_noise_at_all_scales(power):
    """V / N, up to the mesh's last wave; the spread of <|d|^2> over m waves is 1 / sqrt(m) of it."""
    random = np.random.default_rng(1)
    found = np.array([power(random.random((600, 3)) * BOX, 500) for _ in range(60)])
    numbers = np.fft.fftfreq(GRID, 1 / GRID)
    length = np.sqrt(sum(np.meshgrid(numbers**2, numbers**2, numbers**2)))
    waves = np.histogram(length, np.arange(0.5, GRID / 2 + 1))[0] / 2  # a wave and its opposite are one
    expected = BOX**3 / 500
    assert found.shape[1] == len(waves) == GRID // 2
    assert (np.abs(found.mean(0) / expected - 1) < 5 / np.sqrt(60 * waves) + 0.005).all()
    np.testing.assert_allclose(found.std(0)[2:] / expected * np.sqrt(waves[2:]), 1, atol=0.45)
    assert (found[:, 0].std() > 0.1 * expected).all(), "it is a sample"


@pytest.mark.parametrize("wave", [(0, 0, 1), (2, -1, 1), (0, 3, 4)])
def test_a_plane_wave_has_its_power_in_its_bin(wave):
    """d = A cos(k x): |d_k|^2 = A^2 / 4 at k and -k, over the waves of the bin."""
    edge = np.arange(GRID) / GRID
    along = sum(n * x for n, x in zip(wave, np.meshgrid(edge, edge, edge, indexing="ij"), strict=True))
    found = np.asarray(statistics.power_of(0.3 * np.cos(2 * np.pi * along), BOX))
    numbers = np.fft.fftfreq(GRID, 1 / GRID)
    length = np.sqrt(sum(np.meshgrid(numbers**2, numbers**2, numbers**2)))
    at = int(np.floor(np.linalg.norm(wave) + 0.5))
    waves = (np.floor(length + 0.5) == at).sum()
    window = np.prod([1 - 2 / 3 * np.sin(np.pi * n / GRID) ** 2 for n in wave])
    assert found[at - 1] == pytest.approx(BOX**3 * 2 * 0.3**2 / 4 / waves / window, rel=1e-10)
    assert np.delete(found, at - 1).max() < 1e-20


def test_points_on_a_wave_have_its_power_and_their_shot_noise(power):
    """Of very many points: the power of the wave they were drawn from, which the mesh smooths by 0.2 %."""
    random = np.random.default_rng(2)
    x = random.random(400_000)
    kept = x[random.random(400_000) < (1 + 0.5 * np.cos(2 * np.pi * x)) / 1.5]
    places = np.c_[kept, random.random((len(kept), 2))] * BOX
    found = float(power(places, len(places))[0])
    waves = 18  # of length 1 and sqrt(2): floor(l + 1/2) = 1
    assert found == pytest.approx(BOX**3 * 2 * 0.5**2 / 4 / waves, rel=0.02)


def test_clouds_share_each_point_among_eight_cells_and_wrap():
    mesh = np.asarray(statistics.clouds_in_cells(np.array([[0.2, 25.0, 49.9], [1.0, 1.0, 1.0]]), 1, BOX, 10))
    assert mesh.sum() == pytest.approx(1) and np.count_nonzero(mesh) == 8
    # centres of cells are at 2.5, 7.5, …; of 0.2 the nearest are 2.5 and, through the wall, 47.5
    np.testing.assert_allclose(mesh.sum((1, 2))[[0, 9]], [0.54, 0.46])
    np.testing.assert_allclose(mesh.sum((0, 2))[[4, 5]], [0.5, 0.5])
    np.testing.assert_allclose(mesh.sum((0, 1))[[9, 0]], [0.52, 0.48])


def test_counts_are_numpys_and_padding_is_in_none():
    values = np.array([7.0, 7.24, 7.25, 6.9, 12.0, 8.0, 7.1, 7.1])
    edges = np.arange(7.0, 9.1, 0.25)
    found = np.asarray(statistics.counts(values, 6, edges))
    assert found.dtype == np.int32 and found.tolist() == np.histogram(values[:6], edges)[0].tolist()


def test_wavenumbers_are_means_of_their_bins():
    k = statistics.wavenumbers(BOX, GRID)
    assert len(k) == GRID // 2
    np.testing.assert_allclose(k[0], 2 * np.pi / BOX * (6 + 12 * np.sqrt(2)) / 18)
    np.testing.assert_allclose(k[3:] / (2 * np.pi / BOX), np.arange(4, GRID / 2 + 1), atol=0.15)
