"""Galaxies of small mocks: their histories by the formulas, their places, whose random numbers are whose, and padding.

One program makes what nearly all tests look at: mocks of 22 Mpc with about 60 halos each, in double precision.
"""

import itertools
from collections import defaultdict
from dataclasses import replace
from functools import partial
from traceback import extract_stack

import jax
import jax.numpy as jnp
import mocks.populate as population
import numpy as np
import pytest
from diffmah.diffmahpop_kernels.bimod_censat_params import DEFAULT_DIFFMAHPOP_PARAMS
from diffmah.diffmahpop_kernels.mc_bimod_sats import mc_diffmah_params_singlesat
from mocks import draws, growth, halos, mass_function, phase_space, rooms, subhalos
from mocks.cosmology import cosmology
from mocks.draws import Stage
from mocks.populate import Settings, galaxies_room, populate, recorded
from scipy.stats import kstest

BOX, LEAST, CHUNK, DISPERSION = 22.0, 11.5, 32, 300.0
HALO_ROOM, ROOM = rooms.needed(BOX, LEAST, 0.5, CHUNK)
SETTINGS = Settings(cosmology("Planck18"), BOX, LEAST, 512, CHUNK, line_scatter=0.1, histories=True)
REDSHIFTS = (0.5, 1.0, 2.0)
MOCKS = 24
"""Of each redshift."""


@pytest.fixture(autouse=True, scope="module")
def doubly():
    with jax.enable_x64(True):
        yield


def mock(key, redshift, settings=SETTINGS, halo_room=HALO_ROOM):
    own = halos.drawn(key, redshift, BOX, LEAST, DISPERSION, halo_room, settings.chunk)
    made = populate(key, own.logm, own.position, own.velocity, own.count, redshift, settings)
    return {**made, **{f"halos.{name}": value for name, value in own._asdict().items()}}


@pytest.fixture(scope="module")
def program():
    return jax.jit(lambda keys, redshifts: jax.lax.map(lambda one: mock(*one), (keys, redshifts)))


@pytest.fixture(scope="module")
def made(program):
    """A dict of arrays (redshift, mock, …)."""
    keys = jax.random.split(jax.random.key(5), (len(REDSHIFTS), MOCKS))
    found = [program(own, jnp.full(MOCKS, z)) for own, z in zip(keys, REDSHIFTS, strict=True)]
    assert program._cache_size() == 1, "one program for all redshifts"
    return {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}


def each(made):
    """One mock after another, cut to what counts: (redshift, halos, galaxies), two dicts of arrays."""
    for z, number in np.ndindex(len(REDSHIFTS), MOCKS):
        whole = {name: value[z, number] for name, value in made.items()}
        counts = {"halos": whole["halos.count"], "galaxies": whole["n_galaxies"]}
        cut = [
            {
                name.split(".", 1)[1]: value[:count]
                for name, value in whole.items()
                if name.startswith(table + ".") and value.ndim
            }
            for table, count in counts.items()
        ]
        yield REDSHIFTS[z], *cut


# --- what there is ---------------------------------------------------------------------------------


def test_halos_are_as_many_as_the_mass_function_says(made):
    for z, number in zip(REDSHIFTS, made["halos.count"], strict=True):
        mean = mass_function.mean_count(LEAST, z, BOX)
        assert abs(number.mean() - mean) < 4 * np.sqrt(mean / MOCKS)
        assert number.var(ddof=1) / mean == pytest.approx(1, abs=4 * np.sqrt(2 / MOCKS)), "Poisson"


def test_subhalos_are_as_many_as_their_hosts_have_on_average(made):
    """Poisson given the hosts; and so are those of light hosts alone."""
    for least, most in ((LEAST, 17), (LEAST, 12.5)):
        found = wanted = 0
        for _, own, galaxies in each(made):
            within = (own["logm"] >= least) & (own["logm"] < most)
            wanted += subhalos.mean_count(own["logm"][within], LEAST).sum()
            hosts = galaxies["upid"][galaxies["upid"] >= 0]
            found += within[hosts].sum()
        assert wanted > 300 and abs(found - wanted) < 4 * np.sqrt(wanted)


def test_centrals_come_first_and_satellites_in_the_order_of_their_hosts(made):
    assert not made["lost"].any() and not made["halos.lost"].any()
    for _, own, galaxies in each(made):
        number, upid = len(own["logm"]), galaxies["upid"]
        assert (upid[:number] == -1).all() and (galaxies["logmu_t_inf"][:number] == 0).all()
        for name, other in (("position", "position"), ("velocity", "velocity"), ("logmp_t_obs", "logm")):
            np.testing.assert_array_equal(galaxies[name][:number], own[other])
        assert (upid[number:] >= 0).all() and (upid[number:] < number).all() and (np.diff(upid[number:]) >= 0).all()
        mass = galaxies["logmp_t_obs"]
        assert (mass[number:] >= LEAST).all() and (mass[number:] <= own["logm"][upid[number:]]).all()
        assert (galaxies["logmu_t_inf"] <= 0).all()
    counts = np.arange(512) < made["n_galaxies"][..., None]
    for name, value in made.items():
        if name.startswith("galaxies."):
            assert not value[~counts].any(), f"{name} is 0 where there is no galaxy"
            assert np.isfinite(value).all()


def test_satellites_follow_their_hosts_profile_and_move_with_its_virial_velocity(made):
    shares, speeds, towards = [], [], []
    for z, own, galaxies in each(made):
        number = len(own["logm"])
        host = galaxies["upid"][number:]
        apart = galaxies["position"][number:] - own["position"][host]
        apart -= BOX * np.round(apart / BOX)  # through the wall, where that is nearer
        logm = own["logm"][host]
        y = 5 * np.linalg.norm(apart, axis=1) / np.asarray(phase_space.radius(logm, SETTINGS.cosmology))
        shares += list((np.log1p(y) - y / (1 + y)) / (np.log(6) - 5 / 6))
        virial = np.asarray(phase_space.virial_velocity(logm, z, SETTINGS.cosmology))
        speeds.append((galaxies["velocity"][number:] - own["velocity"][host]) * np.sqrt(3) / virial[:, None])
        towards.append(apart / np.linalg.norm(apart, axis=1)[:, None])
    assert len(shares) > 400 and max(shares) <= 1 + 1e-9
    assert kstest(shares, "uniform").pvalue > 0.005
    assert kstest(np.concatenate(speeds).ravel(), "norm").pvalue > 0.005
    assert kstest((np.concatenate(towards) + 1).ravel() / 2, "uniform").pvalue > 0.005
    moving = np.concatenate([own["velocity"] for _, own, _ in each(made)]).ravel() / DISPERSION
    assert kstest(moving, "norm").pvalue > 0.005


def test_everything_is_within_the_box(made):
    places = np.concatenate([galaxies["position"] for _, _, galaxies in each(made)])
    assert (places >= 0).all() and (places < BOX).all()
    hosts = np.concatenate([own["position"] for _, own, _ in each(made)])
    assert kstest(hosts.ravel() / BOX, "uniform").pvalue > 0.005, "of galaxies it is not: they stand in groups"
    single = recorded({"galaxies.position": jnp.array([np.nextafter(BOX, 0), 0.0, 1.0])}, BOX)["galaxies.position"]
    assert single.dtype == jnp.float32 and single.tolist() == [0.0, 0.0, 1.0], (
        "in single precision it would be the wall"
    )


# --- histories -------------------------------------------------------------------------------------


def sigmoid(x, x0, k, low, high):
    return low + (high - low) / (1 + np.exp(-k * (x - x0)))


def mass_history(galaxies, times, lgt0):
    """lg M(t) of diffmah, in NumPy."""
    lgt = np.log10(np.minimum(times, galaxies["t_peak"][:, None]))
    index = sigmoid(
        lgt,
        *(
            np.asarray(one)[..., None]
            for one in (galaxies["logtc"], 3.5, galaxies["early_index"], galaxies["late_index"])
        ),
    )
    return galaxies["logm0"][:, None] + index * (lgt - lgt0)


def star_history(galaxies, lgm, times, fb):
    """SFR(t) of diffstar, in NumPy."""
    own = {
        name: galaxies[name][:, None]
        for name in ("lgmcrit", "lgy_at_mcrit", "indx_lo", "indx_hi", "lg_qt", "qlglgdt", "lg_drop", "lg_rejuv")
    }
    slope = sigmoid(lgm, own["lgmcrit"], 9, own["indx_lo"], own["indx_hi"])
    main = fb * 10**lgm * 10 ** (own["lgy_at_mcrit"] + slope * (lgm - own["lgmcrit"]))

    def triweight(y):
        y = np.clip(y, -3, 3)
        return -5 * y**7 / 69984 + 7 * y**5 / 2592 - 35 * y**3 / 864 + 35 * y / 96 + 0.5

    y = (np.log10(times) - own["lg_qt"]) / (10 ** own["qlglgdt"] / 12)
    falling = own["lg_drop"] * triweight(y + 3)
    rising = own["lg_drop"] - (own["lg_drop"] - own["lg_rejuv"]) * triweight(y - 3)
    return np.maximum(main * 10 ** np.where(y < 0, falling, rising), 1e-14)


def test_histories_are_what_the_formulas_say(made):
    universe = SETTINGS.cosmology
    quenched = 0
    for z, own, galaxies in itertools.islice(each(made), 0, None, 3):
        age = float(universe.age(z))
        times = np.linspace(0.01, age, 50)
        lgm = mass_history(galaxies, times, universe.lgt0)
        np.testing.assert_allclose(galaxies["mah"], lgm, rtol=1e-6)
        np.testing.assert_allclose(lgm[:, -1], galaxies["logmp_t_obs"], rtol=1e-6, err_msg="the catalogue's mass")
        today = mass_history(galaxies, np.array([10**universe.lgt0]), universe.lgt0)[:, 0]
        np.testing.assert_allclose(galaxies["logmp0"], today, rtol=1e-6)
        sfr = star_history(galaxies, lgm, times, universe.baryon_fraction)
        np.testing.assert_allclose(galaxies["sfh"], sfr, rtol=1e-6)
        formed = np.trapezoid(np.c_[np.full(len(sfr), 1e-14), sfr], np.r_[0.001, times], axis=1) * 1e9
        np.testing.assert_allclose(galaxies["logsm_t_obs"], np.log10(formed), rtol=1e-6)
        np.testing.assert_allclose(galaxies["logssfr_t_obs"], np.log10(sfr[:, -1] / formed), rtol=1e-6)
        np.testing.assert_allclose(galaxies["lg_oii"] - galaxies["lg_ha"], np.log10(7.9e-42 / 1.4e-41), rtol=1e-6)
        quenched += galaxies["quenched"].sum()
        # When a satellite fell in, and what its host was then.
        number, host = len(own["logm"]), galaxies["upid"][len(own["logm"]) :]
        satellites = {name: value[number:] for name, value in galaxies.items()}
        fell = np.minimum(satellites["t_peak"], age)[:, None]
        central = {name: value[host] for name, value in galaxies.items()}
        ratio = mass_history(satellites, fell, universe.lgt0) - mass_history(central, fell, universe.lgt0)
        np.testing.assert_allclose(satellites["logmu_t_inf"], np.minimum(ratio[:, 0], 0), rtol=1e-6, atol=1e-9)
    assert quenched > 100
    np.testing.assert_allclose(made["t_table"][0, 0], np.linspace(0.01, float(universe.age(0.5)), 50), rtol=1e-12)


def test_satellites_histories_are_diffmahs_own():
    """Its peak is drawn by erf here, by truncnorm there."""
    random = np.random.default_rng(1)
    logm, age = jnp.asarray(random.uniform(10, 15, 400)), jnp.asarray(random.uniform(1, 13.7, 400))
    keys = jax.random.split(jax.random.key(1), 400)

    def both(key, mass, at):
        arguments = (DEFAULT_DIFFMAHPOP_PARAMS, mass, at, key, 1.14)
        return growth._satellite(*arguments), mc_diffmah_params_singlesat(*arguments)

    ours, theirs = jax.jit(jax.vmap(both))(keys, logm, age)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), ours, theirs)


# --- whose random numbers are whose ----------------------------------------------------------------


def correlations(vectors):
    """The mean of products over all pairs of rows, in standard deviations of independent rows of unit variance."""
    vectors = np.asarray(vectors)
    total = vectors.sum(axis=0)
    pairs = len(vectors) * (len(vectors) - 1) / 2
    products = ((total**2).sum() - (vectors**2).sum()) / 2
    return products / pairs / vectors.shape[1] * np.sqrt(pairs * vectors.shape[1])


def shot_noise(found, z):
    """By what each mock differs from the mean: halos' numbers by mass, places and speeds, and their galaxies' lines."""
    edges = np.array([LEAST, 11.7, 12.0, 12.5, 17])
    mean = -np.diff([float(mass_function.mean_count(edge, z, BOX)) for edge in edges[:-1]] + [0.0])
    rows = min(found["halos.count"])
    for name in ("counts", "position", "velocity"):
        if name == "counts":
            logm = [own[:count] for own, count in zip(found["halos.logm"], found["halos.count"], strict=True)]
            yield name, [(np.histogram(own, edges)[0] - mean) / np.sqrt(mean) for own in logm]
        elif name == "position":
            yield name, (found["halos.position"][:, :rows].reshape(len(logm), -1) / BOX - 0.5) * np.sqrt(12)
        else:
            yield name, found["halos.velocity"][:, :rows].reshape(len(logm), -1) / DISPERSION
    rows = min(found["n_galaxies"])
    chance = found["galaxies.lg_ha"] - found["galaxies.logsm_t_obs"] - found["galaxies.logssfr_t_obs"]
    scatter = (chance[:, :rows] - chance[:, :rows].mean()) / chance[:, :rows].std()
    yield "lines", scatter


def test_realizations_share_no_noise_and_would_with_one_key(made, program):
    for number, z in enumerate(REDSHIFTS):
        for name, vectors in shot_noise({name: value[number] for name, value in made.items()}, z):
            assert abs(correlations(vectors)) < 4, (z, name)
    constant = program(jnp.repeat(jax.random.key(0)[None], MOCKS), jnp.full(MOCKS, 1.0))
    for name, vectors in shot_noise({name: np.asarray(value) for name, value in constant.items()}, 1.0):
        assert correlations(vectors) > 8, f"{name}: so the test can tell"


def test_redshifts_share_no_noise_and_stages_neither(made):
    """The same rows at other redshifts have keys of their own; a halo's mass says nothing of its place and speed."""
    rows = made["halos.count"].min()
    flat = made["halos.position"][:, :, :rows].reshape(len(REDSHIFTS), -1) / BOX - 0.5
    assert abs(correlations(flat * np.sqrt(12))) < 4
    own = [own for _, own, _ in each(made)]
    columns = np.concatenate([np.c_[one["logm"], one["position"], one["velocity"]] for one in own])
    ranks = columns.argsort(axis=0).argsort(axis=0)
    among = np.corrcoef(ranks.T)[np.triu_indices(7, 1)]
    assert np.abs(among).max() < 4 / np.sqrt(len(columns)), "of 21 pairs"


def test_each_stage_is_drawn_in_one_place(monkeypatch):
    asked = defaultdict(set)
    row_keys = draws.row_keys

    def listening(key, stage, rows):
        outside = [
            frame for frame in extract_stack() if frame.filename.endswith(("mocks/populate.py", "mocks/halos.py"))
        ]
        asked[stage].add((outside[-1].filename, outside[-1].lineno, outside[-1].colno))
        return row_keys(key, stage, rows)

    for module in (draws, population):
        monkeypatch.setattr(module, "row_keys", listening)
    jax.eval_shape(lambda key: mock(key, 1.0, replace(SETTINGS, room=96)), jax.random.key(1))
    assert set(asked) == set(Stage) - {Stage.HALO_COUNT}
    places = [place for places in asked.values() for place in places]
    assert len(places) == len(set(places)) == len(asked), "each in one place, each place of one stage"


# --- padding ---------------------------------------------------------------------------------------


def test_neither_room_nor_chunk_changes_what_there_is_and_what_does_not_fit_is_counted(made):
    """Not a byte of what is recorded; the program is another, so doubles may differ in the last bit."""
    key = jax.random.split(jax.random.key(5), (len(REDSHIFTS), MOCKS))[0, 0]
    whole = {name: jnp.asarray(value[0, 0]) for name, value in made.items()}
    number, count = int(whole["n_galaxies"]), int(whole["halos.count"])
    room = number - 3
    assert room > count + 3
    tight = mock(key, REDSHIFTS[0], replace(SETTINGS, room=room, chunk=50), HALO_ROOM + 7)
    assert (tight.pop("n_galaxies"), tight.pop("lost")) == (room, 3)
    before = recorded(whole, BOX)
    for name, value in recorded(tight, BOX).items():
        rows = slice(room) if name.startswith("galaxies.") else slice(count) if value.ndim else ()
        np.testing.assert_array_equal(np.asarray(value)[rows], np.asarray(before[name])[rows], err_msg=name)
    with pytest.raises(ValueError, match="room: 0 rows"):
        mock(key, 0.5, replace(SETTINGS, room=0))


def test_catalogued_halos_need_room_for_their_satellites():
    logm = np.array([11.6, 12.0, 14.5, 11.0])
    satellites = subhalos.mean_count(logm, LEAST).sum()
    assert satellites > 50
    room = galaxies_room(logm, LEAST, 16)
    assert room % 16 == 0 and 0 <= room - (4 + satellites + 8 * np.sqrt(satellites)) < 16
    assert galaxies_room(logm[:0], LEAST, 16) == 16
