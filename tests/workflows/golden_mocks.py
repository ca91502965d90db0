"""Mocks by a plain script: the reference that `workflows/mocks` has to equal, byte for byte.

    python golden_mocks.py request.json answer.npz

One halo after another, one galaxy after another, in double precision; recorded in single. It shares nothing with the
workflow but the packages diffmah and diffstar (and `jax.random`, whose draws are part of what a mock is). A request is
{"options": {…}, "mocks": [{"phase": 3000, "redshift": 0.5, "key": [1, 2]}, …]}; the answer has an array
`<number>/<column>` for each column of each mock.
"""

import json
import math
import sys

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
from diffmah.diffmah_kernels import DEFAULT_MAH_PARAMS, logmh_at_t_obs  # noqa: E402
from diffmah.diffmahpop_kernels.bimod_censat_params import DEFAULT_DIFFMAHPOP_PARAMS  # noqa: E402
from diffmah.diffmahpop_kernels.mc_bimod_cens import mc_diffmah_params_singlecen  # noqa: E402
from diffmah.diffmahpop_kernels.mc_bimod_sats import mc_diffmah_params_singlesat  # noqa: E402
from diffstar import DEFAULT_DIFFSTAR_PARAMS, calc_sfh_singlegal  # noqa: E402
from diffstar.diffstarpop import DEFAULT_DIFFSTARPOP_PARAMS  # noqa: E402
from diffstar.diffstarpop.mc_diffstarpop_mgash import mc_diffstar_params_singlegal  # noqa: E402
from scipy.special import lambertw  # noqa: E402

COSMOLOGIES = {  # h, matter, baryons
    "Planck18": (0.6766, 0.30966, 0.04897),
    "WMAP9": (0.6932, 0.2865, 0.04628),
    "AbacusSummit": (0.6736, 0.31519, 0.04930),
}
GRAVITY = 4.30091e-9  # Mpc (km/s)^2 / Msun
HUBBLE_TIME = 977.7922216807891  # Gyr, of 1 km/s/Mpc
CONCENTRATION = 5.0
SINGLE, COUNT = np.float32, np.int32


def sigmoid(x, x0, k, low, high):
    return low + (high - low) / (1 + np.exp(-k * (x - x0)))


def sig_slope(x, xtp, ytp, x0, k, low, high):
    return ytp + sigmoid(x, x0, k, low, high) * (x - xtp)


def halos_above(logm, z):
    """n(> M), comoving Mpc^-3."""
    ytp = sig_slope(z, 3, -5.330, 1.318, 0.543, -0.171, -1.344)
    x0 = sig_slope(z, 3, 13.030, 1.781, 1.559, -0.811, -0.510)
    low = sigmoid(z, 3.620, 0.693, -0.792, -2.442)
    high = sig_slope(z, 3, -3.727, 4.312, 1.113, -0.426, -0.265)
    return 10 ** sig_slope(logm, 13, ytp, x0, 1.2, low, high)


def subhalos_above(lgmu, logm):
    """<N(> mu) | M>."""
    ytp = sig_slope(logm, 13, 0.06, 13.72, 1.95, 0.06, 0.15)
    low = sig_slope(logm, 13, -0.98, 12.40, 1.67, 0.34, 0.09)
    return 10 ** sig_slope(lgmu, -1, ytp, -0.35, 10, low, -3.1)


def looked_up(uniform, table, above):
    """Inverse of a distribution, of which `above` is the (falling) number above each entry of a table."""
    below = above[0] - above
    return np.interp(uniform, below / below[-1], table)


class Universe:
    """A flat one, and when in it a mock is seen."""

    def __init__(self, name, z):
        self.z = z
        h, self.matter, baryons = COSMOLOGIES[name]
        self.density = self.matter * 3 * (100 * h) ** 2 / (8 * math.pi * GRAVITY)  # Msun per comoving Mpc^3
        self.fb = baryons / self.matter
        self.h = h
        self.t_obs, self.t0 = self.age(z), self.age(0.0)
        self.lgt0 = math.log10(self.t0)

    def age(self, z):
        ratio = math.sqrt((1 - self.matter) / self.matter)
        scale = 2 / (3 * 100 * self.h * math.sqrt(1 - self.matter)) * HUBBLE_TIME
        return scale * math.asinh(ratio * (1 + z) ** -1.5)


class Draws:
    """What a mock's rows draw: `stage` by its number, one key for each row of it."""

    def __init__(self, key):
        self.key = key

    def of(self, stage, row):
        return jax.random.fold_in(jax.random.fold_in(self.key, stage), row)

    def uniform(self, stage, row, shape=()):
        return np.asarray(jax.random.uniform(self.of(stage, row), shape))

    def normal(self, stage, row, shape=()):
        return np.asarray(jax.random.normal(self.of(stage, row), shape))


def mock(options, z, key):
    """Columns of one mock, each as it is recorded."""
    universe, draws = Universe(options["cosmology"], z), Draws(key)
    halos = made_halos(options, universe, draws)
    galaxies = [central(number, halo, universe, draws) for number, halo in enumerate(halos)]
    for host, halo in enumerate(list(galaxies)):
        for lgmu in subhalos(options, host, halo, len(galaxies) - len(halos), draws):
            number = len(galaxies) - len(halos)
            galaxies.append(satellite(options, number, host, halo, lgmu, universe, draws))
    for row, galaxy in enumerate(galaxies):
        form_stars(row, galaxy, universe, draws)
    columns = {"n_halos": COUNT(len(halos)), "n_galaxies": COUNT(len(galaxies))}
    for name in ("logm", "position", "velocity"):
        columns[f"halos.{name}"] = np.array([halo[name] for halo in halos]).astype(SINGLE)
    types = {"upid": COUNT, "quenched": np.bool_}
    for name in ("position", "velocity", "upid", "logmp_t_obs", "logmp0", "logmu_t_inf", "logsm_t_obs", "logssfr_t_obs",
                 "quenched", "lg_ha", "lg_oii"):  # fmt: skip
        columns[f"galaxies.{name}"] = np.array([one[name] for one in galaxies]).astype(types.get(name, SINGLE))
    return columns


def made_halos(options, universe, draws):
    """Poisson halos, anywhere in the box."""
    box, least = options["box"], options["lgmp_min"]
    mean = box**3 * (halos_above(least, universe.z) - halos_above(17.0, universe.z))
    table = np.linspace(least, 17.0, 200)
    above = halos_above(table, universe.z)
    return [
        {
            "logm": looked_up(draws.uniform(1, row), table, above),
            "position": box * draws.uniform(2, row, (3,)),
            "velocity": options["velocity_dispersion"] * draws.normal(3, row, (3,)),
        }
        for row in range(int(jax.random.poisson(jax.random.fold_in(draws.key, 0), mean)))
    ]


def history(kernel, key, logm, universe):
    """diffmah's parameters of one halo, shifted so that it has its mass when it is seen."""
    pick, rest = jax.random.split(key)
    early, late, chance = kernel(DEFAULT_DIFFMAHPOP_PARAMS, logm, universe.t_obs, rest, universe.lgt0)
    drawn = early if jax.random.uniform(pick) < chance else late
    drawn = DEFAULT_MAH_PARAMS._make(map(float, drawn))
    return drawn._replace(logm0=drawn.logm0 + logm - mass_at(drawn, universe.t_obs, universe))


def mass_at(params, t, universe):
    return float(logmh_at_t_obs(params, t, universe.lgt0))


def central(number, halo, universe, draws):
    params = history(mc_diffmah_params_singlecen, draws.of(9, number), float(halo["logm"]), universe)
    infall = {"upid": -1, "lgmu": 0.0, "logmhost": 0.0, "since": -100.0}
    return {**halo, **infall, "params": params, "logmu_t_inf": 0.0}


def subhalos(options, host, halo, first, draws):
    """log10 of the subhalos' masses over their host's; `first` is the number of the first of them."""
    logm = halo["logm"]
    least = options["lgmp_min"] - logm
    if least >= 0:
        return []
    count = int(jax.random.poisson(draws.of(4, host), subhalos_above(least, logm)))
    table = np.linspace(least, 0.0, 100)
    above = subhalos_above(table, logm)
    return [looked_up(draws.uniform(5, first + number), table, above) for number in range(count)]


def satellite(options, number, host, halo, lgmu, universe, draws):
    logm = float(halo["logm"])
    radius = (10**logm / (4 / 3 * math.pi * 200 * universe.density)) ** (1 / 3)  # comoving Mpc
    virial = math.sqrt(GRAVITY * 10**logm / (radius / (1 + universe.z)))
    enclosed = draws.uniform(6, number) * (math.log(1 + CONCENTRATION) - CONCENTRATION / (1 + CONCENTRATION))
    distance = radius * (-1 / lambertw(-np.exp(-enclosed - 1)).real - 1) / CONCENTRATION
    one, other = draws.uniform(7, number, (2,))
    cosine, angle = 2 * one - 1, 2 * math.pi * other
    sine = math.sqrt(1 - cosine**2)
    way = np.array([sine * math.cos(angle), sine * math.sin(angle), cosine])
    params = history(mc_diffmah_params_singlesat, draws.of(10, number), logm + float(lgmu), universe)
    fell = min(params.t_peak, universe.t_obs)
    logmhost = mass_at(halo["params"], fell, universe)
    logmu = min(mass_at(params, fell, universe) - logmhost, 0.0)
    return {
        "position": np.mod(halo["position"] + distance * way, options["box"]),
        "velocity": halo["velocity"] + virial / math.sqrt(3) * draws.normal(8, number, (3,)),
        "params": params,
        "upid": host,
        "lgmu": logmu,
        "logmu_t_inf": logmu,
        "logmhost": logmhost,
        "since": universe.t_obs - fell,
    }


def form_stars(row, galaxy, universe, draws):
    """Adds what is recorded of masses, stars and lines to a galaxy."""
    params = galaxy["params"]
    galaxy["logmp_t_obs"] = mass_at(params, universe.t_obs, universe)
    galaxy["logmp0"] = mass_at(params, universe.t0, universe)
    surroundings = (float(galaxy["upid"]), galaxy["lgmu"], galaxy["logmhost"], galaxy["since"])
    drawn = mc_diffstar_params_singlegal(
        DEFAULT_DIFFSTARPOP_PARAMS, galaxy["logmp0"], params.t_peak, *surroundings, draws.of(11, row)
    )
    galaxy["quenched"] = bool(drawn.mc_is_q)
    chosen = drawn.diffstar_params_q if galaxy["quenched"] else drawn.diffstar_params_ms
    chosen = DEFAULT_DIFFSTAR_PARAMS._make(map(float, chosen))
    times = np.linspace(0.01, universe.t_obs, 50)
    told = calc_sfh_singlegal(chosen, params, times, lgt0=universe.lgt0, fb=universe.fb, return_smh=True)
    sfr = float(told.sfh[-1])
    galaxy["logsm_t_obs"] = math.log10(float(told.smh[-1]))
    galaxy["logssfr_t_obs"] = math.log10(sfr) - galaxy["logsm_t_obs"]
    galaxy["lg_ha"], galaxy["lg_oii"] = math.log10(sfr / 7.9e-42), math.log10(sfr / 1.4e-41)


def main(request, answer):
    with open(request) as file:  # noqa: PTH123
        asked = json.load(file)
    made = {}
    for number, one in enumerate(asked["mocks"]):
        key = jax.random.wrap_key_data(np.array(one["key"], np.uint32))
        columns = mock(asked["options"], one["redshift"], key)
        made |= {f"{number}/{name}": values for name, values in columns.items()}
    np.savez(answer, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
