"""Relations that mocks are made of, each against the formula it stands for or a quadrature of its own."""

import itertools

import jax
import numpy as np
import pytest
from mocks import emission, mass_function, phase_space, rooms, subhalos
from mocks.cosmology import COSMOLOGIES, GRAVITY, cosmology
from mocks.draws import Stage, row_keys
from scipy import constants
from scipy.integrate import quad
from scipy.special import lambertw
from scipy.stats import kstest, poisson

MPC = 1e6 * constants.parsec
SUN = 1.98841e30
GYR = 1e9 * constants.Julian_year


@pytest.fixture(autouse=True)
def doubly():
    with jax.enable_x64(True):
        yield


def sigmoid(x, x0, k, low, high):
    return low + (high - low) / (1 + np.exp(-k * (x - x0)))


def lg_density(logm, z):
    """lg n(>M), written anew; of complex numbers, too."""
    value = -5.330 + sigmoid(z, 1.318, 0.543, -0.171, -1.344) * (z - 3)
    middle = 13.030 + sigmoid(z, 1.781, 1.559, -0.811, -0.510) * (z - 3)
    low = sigmoid(z, 3.620, 0.693, -0.792, -2.442)
    high = -3.727 + sigmoid(z, 4.312, 1.113, -0.426, -0.265) * (z - 3)
    return value + sigmoid(logm, middle, 1.2, low, high) * (logm - 13)


def density(logm, z):
    """-dn/dlgM, by a step into the complex plane: exact to rounding."""
    step = 1e-30
    return -(10 ** lg_density(logm + 1j * step, z)).imag / step


@pytest.mark.parametrize("z", [0.0, 0.7, 2.0, 3.0])
def test_halos_are_the_integral_of_their_density(z):
    for low, high in ((11.5, 12.5), (12.0, 14.0), (10.0, 17.0)):
        found = mass_function.density_above(low, z) - mass_function.density_above(high, z)
        assert found == pytest.approx(quad(density, low, high, (z,), epsrel=1e-10, limit=200)[0], rel=1e-8)
    assert mass_function.mean_count(11.5, z, 50.0) == pytest.approx(50**3 * quad(density, 11.5, 17, (z,))[0], rel=1e-6)
    assert (density(np.linspace(10, 17, 200), z) > 0).all(), "fewer of them the heavier they are"


def test_masses_are_distributed_as_the_mass_function_says():
    """A table of 200 points, straight in between: 0.1 % of the number of halos, at most."""
    uniform = np.linspace(0.0005, 0.9995, 1000)
    for z in (0.2, 3.0):
        found = np.asarray(mass_function.masses(uniform, 11.5, z))
        below = np.array([quad(density, 11.5, logm, (z,))[0] for logm in found[::100]])
        np.testing.assert_allclose(below / quad(density, 11.5, 17, (z,))[0], uniform[::100], atol=1e-3)
        assert (np.diff(found) > 0).all() and found[0] >= 11.5


def test_subhalos_are_as_many_as_the_relation_says():
    def expected(lgmu, logm):
        value = 0.06 + sigmoid(logm, 13.72, 1.95, 0.06, 0.15) * (logm - 13)
        low = -0.98 + sigmoid(logm, 12.40, 1.67, 0.34, 0.09) * (logm - 13)
        return 10 ** (value + sigmoid(lgmu, -0.35, 10, low, -3.1) * (lgmu + 1))

    for logm in (11.0, 12.0, 13.7, 15.0):
        wanted = expected(10.5 - logm, logm)
        assert subhalos.mean_count(logm, 10.5) == pytest.approx(wanted, rel=1e-12)
        uniform = np.linspace(0.001, 0.999, 200)
        found = np.asarray(subhalos.shares(uniform, np.full(200, logm), 10.5))
        assert ((found >= 10.5 - logm) & (found <= 0)).all()
        np.testing.assert_allclose(
            (wanted - expected(found, logm)) / (wanted - expected(0.0, logm)), uniform, atol=4e-3
        )
    assert subhalos.mean_count(10.5, 10.5) == subhalos.mean_count(10.2, 10.5) == 0


@pytest.mark.parametrize("concentration", [1.0, 5.0, 20.0])
def test_radii_enclose_what_they_should(concentration):
    share = np.concatenate([[1e-14, 1e-9, 1e-4], np.linspace(0.001, 1, 500)])
    y = concentration * np.asarray(phase_space.nfw_radii(share, concentration))
    mass = np.log1p(concentration) - concentration / (1 + concentration)
    np.testing.assert_allclose((np.log1p(y) - y / (1 + y))[2:] / mass, share[2:], rtol=1e-9)
    closed = -1 / lambertw(-np.exp(-share * mass - 1)).real - 1
    np.testing.assert_allclose(y[3:], closed[3:], rtol=1e-10)
    assert y[-1] == pytest.approx(concentration, rel=1e-12) and (np.diff(y) > 0).all()
    np.testing.assert_allclose(y[:2], np.sqrt(2 * share[:2] * mass), rtol=1e-4)
    assert np.isfinite(phase_space.nfw_radii(np.zeros(1), concentration)).all()


def test_directions_are_even_over_the_sphere():
    found = np.asarray(phase_space.directions(np.random.default_rng(1).random((2000, 2))))
    np.testing.assert_allclose((found**2).sum(1), 1, rtol=1e-12)
    for axis in found.T:  # Archimedes: each coordinate is even
        assert kstest((axis + 1) / 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", sorted(COSMOLOGIES))
def test_universes_are_as_old_and_dense_as_friedmann_says(name):
    universe = cosmology(name)
    hubble = 100e3 * universe.hubble / MPC

    def slower(z):
        return 1 / ((1 + z) * hubble * np.sqrt(universe.matter * (1 + z) ** 3 + 1 - universe.matter))

    for z in (0.0, 0.5, 3.0):
        assert float(universe.age(z)) == pytest.approx(quad(slower, z, np.inf)[0] / GYR, rel=1e-6)
    assert 10**universe.lgt0 == pytest.approx(float(universe.age(0.0)), rel=1e-12)
    assert pytest.approx(constants.G * SUN / MPC / 1e6, rel=1e-4) == GRAVITY
    critical = 3 * hubble**2 / (8 * np.pi * constants.G) * MPC**3 / SUN
    assert universe.matter_density == pytest.approx(universe.matter * critical, rel=1e-4)
    radius = float(phase_space.radius(14.0, universe))
    assert 4 / 3 * np.pi * radius**3 * 200 * universe.matter_density == pytest.approx(1e14, rel=1e-10)
    speed = np.sqrt(constants.G * 1e14 * SUN / (radius / 1.7 * MPC)) / 1e3
    assert float(phase_space.virial_velocity(14.0, 0.7, universe)) == pytest.approx(speed, rel=1e-4)
    assert 0.14 < universe.baryon_fraction < 0.17


def test_lines_are_kennicutts_and_may_be_modified():
    keys = row_keys(jax.random.key(1), Stage.EMISSION, np.arange(500))
    lgsfr = np.linspace(-3, 2, 500)
    ha, oii = emission.lines(keys, lgsfr, (0.0, 0.0, 0.0), 0.0)
    np.testing.assert_allclose(10**ha * 7.9e-42, 10**lgsfr, rtol=1e-12)
    np.testing.assert_allclose(10**oii * 1.4e-41, 10**lgsfr, rtol=1e-12)
    bent, _ = emission.lines(keys, lgsfr, (0.1, -0.2, 0.03), 0.0)
    np.testing.assert_allclose(bent - ha, 0.1 - 0.2 * lgsfr + 0.03 * lgsfr**2, atol=1e-12)
    scattered, other = emission.lines(keys, lgsfr, (0.0, 0.0, 0.0), 0.25)
    assert np.std(scattered - ha) == pytest.approx(0.25, rel=0.15)
    np.testing.assert_allclose(scattered - ha, other - oii, atol=1e-12)


def test_every_stage_and_row_has_a_key_of_its_own():
    keys = [
        jax.random.key_data(row_keys(jax.random.key(seed), stage, np.arange(300)))
        for seed, stage in itertools.product(range(3), Stage)
    ]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 3 * len(Stage) * 300
    assert sorted(Stage) == list(range(13))


def test_there_is_room_for_what_may_be_drawn():
    """Drawn in NumPy: Poisson halos with Poisson subhalos, at the redshift that has most of them."""
    box, least, chunk = 30.0, 11.5, 64
    halo_room, room = rooms.needed(box, least, 0.2, chunk)
    assert halo_room % chunk == room % chunk == 0
    random = np.random.default_rng(1)
    edges = np.linspace(least, 16, 300)
    mean = -np.diff(box**3 * mass_function.density_above(edges, 0.2))
    halos = random.poisson(mean, (4000, len(mean)))
    galaxies = halos.sum(1) + random.poisson(halos * subhalos.mean_count((edges[1:] + edges[:-1]) / 2, least)).sum(1)
    assert (galaxies.max() - galaxies.mean()) / galaxies.std() > 8, "so 8 sigma would not do"
    assert galaxies.max() < room < 4 * galaxies.max() and halos.sum(1).max() < halo_room
    assert poisson.sf(halo_room, mean.sum()) < 1e-6
    assert rooms.needed(box, least, 2.0, chunk)[1] < room, "there are fewer early on"
