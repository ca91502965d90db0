"""Reducers of the mocks: in pieces, joined in any order, as in one pass; what cannot be answered is said."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mocks import moments, references
from mocks.reducers import Correlation, Joint, NumberDensity, Plane, Published, Recalibration, Table, Threshold

from staffa.errors import ConfigError, StaffaWarning

BOX = 40.0
ROOM = 90
LENGTH = {"box": BOX, "shot_noise": "shot_noise"}


def boxes(trials: int, seed: int = 1) -> dict[str, Any]:
    """Galaxies whose masses and rates are correlated and of two kinds, padded with what must not count."""
    random = np.random.default_rng(seed)
    length = random.integers(0, ROOM + 1, trials)
    peak = 11.3 + random.exponential(0.35, (trials, ROOM))
    stellar = 0.9 * peak + 0.2 * random.normal(size=peak.shape)
    quenched = random.random(peak.shape) < 0.3
    specific = np.where(quenched, -11.5, -10.0) + 0.3 * random.normal(size=peak.shape)
    specific[random.random(peak.shape) < 0.02] = -22.0  # a floor
    columns = {"logmp_t_obs": peak, "logsm_t_obs": stellar, "logssfr_t_obs": specific}
    padding = np.arange(ROOM) >= length[:, None]
    found = {f"galaxies.{name}": np.where(padding, 99.0, values).astype(np.float32) for name, values in columns.items()}
    with np.errstate(divide="ignore"):
        shot_noise = np.where(length > 0, BOX**3 / length, np.nan).astype(np.float32)
    return {**found, "galaxies.quenched": quenched, "n_galaxies": length.astype(np.int32), "shot_noise": shot_noise}


def rows(outputs: dict[str, Any], column: str, sound: Any = True) -> Any:
    """A column's values that count."""
    there = (np.arange(ROOM) < outputs["n_galaxies"][:, None]) & np.reshape(sound, (-1, 1))
    return np.asarray(outputs[f"galaxies.{column}"], np.float64)[there]


def in_pieces(reducer: Any, outputs: dict[str, Any], params: dict[str, Any], seed: int) -> Any:
    """What comes of random batches that are joined two at a time, in random order; some batches are empty."""
    random = np.random.default_rng(seed)
    trials = len(next(iter(outputs.values())))
    ends = [0, *np.sort(random.integers(0, trials + 1, 6)), trials]
    asked = {name: values for name, values in outputs.items() if name in reducer.of}
    pieces = [
        reducer.map({name: v[a:b] for name, v in asked.items()}, {name: v[a:b] for name, v in params.items()})
        for a, b in pairwise(ends)
    ]
    while len(pieces) > 1:
        one, two = random.choice(len(pieces), 2, replace=False)
        rest = [piece for place, piece in enumerate(pieces) if place not in (one, two)]
        pieces = [*rest, reducer.reduce(pieces[one], pieces[two])]
    return reducer.finish(pieces[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_correlation_is_that_of_one_pass(seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(60, 5)) @ random.normal(size=(5, 5)) * [1, 1e3, 1, 1e-3, 1] + 7
    counts, power = rows[:, :3].copy(), rows[:, 3:].copy()
    counts[:, 1] = 4.0  # nothing varies there
    power[11, 0] = np.nan
    found = in_pieces(Correlation(["counts", "power"], fitted=2), {"counts": counts, "power": power}, {}, seed)
    kept = np.delete(np.concatenate([counts, power], axis=1), 11, axis=0)
    assert found["count"] == 59 and found["left_out"] == 1 and found["constant"].tolist() == [False, True, *3 * [False]]
    np.testing.assert_allclose(found["mean"], kept.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["covariance"], np.cov(kept.T), rtol=1e-9, atol=1e-9)
    varying = np.ix_([0, 2, 3, 4], [0, 2, 3, 4])
    np.testing.assert_allclose(found["correlation"][varying], np.corrcoef(kept.T[[0, 2, 3, 4]]), rtol=1e-9)
    assert not found["correlation"][1].any() and not found["precision"][1].any()
    assert found["hartlap"] == pytest.approx((59 - 4 - 2) / 58)
    product = found["precision"][varying] @ found["covariance"][varying]
    np.testing.assert_allclose(product, found["hartlap"] * np.eye(4), atol=1e-8)


def test_precision_and_errors_are_right_on_average():
    """Over many small ensembles of known covariance: the inverse has no bias, and `error` is the scatter."""
    random, size, count = np.random.default_rng(5), 3, 12
    true = np.array([[2.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 0.5]])
    draws = random.multivariate_normal(np.zeros(size), true, (4000, count))
    found = [moments.described(moments.of_rows(rows), None) for rows in draws]
    precision = np.mean([one["precision"] for one in found], axis=0)
    np.testing.assert_allclose(precision, np.linalg.inv(true), atol=0.06 * np.abs(np.linalg.inv(true)).max())
    scatter = np.std([one["covariance"] for one in found], axis=0)
    known = np.sqrt((np.outer(np.diagonal(true), np.diagonal(true)) + true**2) / (count - 1))
    np.testing.assert_allclose(scatter, known, rtol=0.08)
    np.testing.assert_allclose(np.mean([one["error"] for one in found], axis=0), known, rtol=0.1)


def test_the_scatter_of_fitted_parameters_is_what_percival_says():
    """Fits of two parameters to data, each with a covariance of its own few realizations, m1 after Hartlap."""
    random, size, count = np.random.default_rng(8), 20, 60
    design = random.normal(size=(size, 2))
    data = random.normal(size=(3000, size))
    fits, told = [], []
    for one, sample in zip(data, random.normal(size=(3000, count, size)), strict=True):
        precision = moments.described(moments.of_rows(sample), None)["precision"]
        covariance = np.linalg.inv(design.T @ precision @ design)
        fits.append(covariance @ design.T @ precision @ one)
        told.append(covariance)
    ratio = np.trace(np.cov(np.array(fits).T)) / np.trace(np.mean(told, axis=0))
    assert ratio == pytest.approx(moments.percival(count, size, 2), rel=0.06)
    assert moments.percival(count, size, 2) > 1.3 and moments.percival(10, 6, 2) == np.inf


def test_too_few_realizations_are_said():
    rows = np.random.default_rng(2).normal(size=(4, 3))
    few = in_pieces(Correlation("x"), {"x": rows}, {}, 0)
    assert few["hartlap"] == 0 and not few["precision"].any() and np.isfinite(few["covariance"]).all()
    with pytest.warns(StaffaWarning, match="1 realizations have no covariance"):
        assert np.isnan(in_pieces(Correlation("x"), {"x": rows[:1]}, {}, 0)["covariance"]).all()
    twice = np.repeat(np.random.default_rng(2).normal(size=(30, 1)), 2, axis=1)
    with pytest.warns(StaffaWarning, match="depend on one another"):
        assert not in_pieces(Correlation("x"), {"x": twice}, {}, 0)["precision"].any()


def test_all_redshifts_of_a_phase_are_one_vector():
    random = np.random.default_rng(4)
    phase, redshift = (grid.ravel() for grid in np.meshgrid(np.arange(3000, 3025), [0.2, 1.0, 3.0], indexing="ij"))
    latent = random.normal(size=25)[:, None, None]
    vectors = latent + random.normal(size=(25, 3, 2))
    table = vectors.reshape(-1, 2).copy()
    table[3 * 5 + 1] = np.inf
    keep = np.delete(random.permutation(75), 0)
    params = {"phase": phase[keep], "redshift": redshift[keep], "replicate": np.zeros(74, int)}
    lost = {5, int(phase[np.setdiff1d(np.arange(75), keep)[0]]) - 3000}
    founds = [in_pieces(Joint("x"), {"x": table[keep]}, params, seed) for seed in (1, 2)]
    whole = np.delete(vectors, sorted(lost), axis=0).reshape(-1, 6)
    for found in founds:
        assert found["count"] == len(whole) == 23 and found["lacking"] == len(lost) and found["left_out"] == 1
        assert found["at"].tolist() == [0.2, 1.0, 3.0]
        np.testing.assert_allclose(found["covariance"], np.cov(whole.T), rtol=1e-12)
    # In whatever order they came, to the last bit.
    assert all(np.array_equal(founds[0][name], founds[1][name]) for name in founds[0])
    params["replicate"] = np.arange(74)
    with pytest.warns(StaffaWarning):
        assert in_pieces(Joint("x"), {"x": table[keep]}, params, 1)["count"] == 0
    with pytest.raises(ConfigError, match=r"realization: 73 trials of one = 1 at redshift = 0\.2"):
        in_pieces(Joint("x", "one"), {"x": table[keep]}, {"one": np.ones(74, int), "redshift": np.full(74, 0.2)}, 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_plane_is_numpys_histogram(seed):
    outputs = boxes(40, seed)
    outputs["galaxies.logsm_t_obs"][3, 0] = np.nan
    outputs["n_galaxies"][[3, 5]] = [4, ROOM + 1]
    plane = Plane("galaxies.logsm_t_obs", "galaxies.logssfr_t_obs", [9.0, 11.5], [-13.0, -9.0], width=0.1)
    found = in_pieces(plane, outputs, {}, seed)
    sound = ~np.isin(np.arange(40), [3, 5])
    marked = rows(outputs, "quenched", sound).astype(bool)
    mass, rate = rows(outputs, "logsm_t_obs", sound), rows(outputs, "logssfr_t_obs", sound)
    for mark, counts in enumerate(found["counts"]):
        expected, *_ = np.histogram2d(mass[marked == mark], rate[marked == mark], [found["x_edges"], found["y_edges"]])
        np.testing.assert_array_equal(counts, expected)
    assert found["outside"] == len(mass) - found["counts"].sum() > 0
    assert found["boxes"] == 38 and found["left_out"] == 2


class Own:
    """A reference that is what some galaxies are already, by their sorted values."""

    def __init__(self, mass: Any, rate: Any, volume: float) -> None:
        order = np.argsort(mass)
        self.mass, self.rate, self.volume = mass[order], rate[order], volume

    def span(self, redshift: float) -> tuple[float, float]:
        return -np.inf, np.inf

    def log_mass(self, log_density: Any, redshift: float) -> Any:
        above = 10**log_density * self.volume
        return np.interp(len(self.mass) - above, np.arange(len(self.mass)) + 0.5, self.mass)

    def log_rate(self, share: Any, log_mass: Any, redshift: float) -> Any:
        middle = np.searchsorted(self.mass, log_mass)
        near = [self.rate[max(place - 400, 0) : place + 400] for place in middle]
        return np.stack([np.quantile(rates, one) for rates, one in zip(near, share, strict=True)])


def recalibrated(reducer: Recalibration, outputs: dict[str, Any], redshift: float, seed: int) -> Any:
    params = {"redshift": np.full(len(outputs["n_galaxies"]), redshift)}
    whole = in_pieces(reducer, outputs, params, seed)
    return whole, reducer.apply(whole, outputs, params)


def test_a_recalibration_to_itself_changes_nothing():
    outputs = boxes(600)
    peak = rows(outputs, "logmp_t_obs")
    rate = rows(outputs, "logsm_t_obs") + rows(outputs, "logssfr_t_obs")
    reference = Own(peak, rate, 600 * BOX**3)
    whole, columns = recalibrated(Recalibration(reference=reference, **LENGTH), outputs, 1.0, 3)
    there = np.arange(ROOM) < outputs["n_galaxies"][:, None]
    off = np.abs(columns["logsm"][there] - peak)
    assert np.quantile(off, 0.999) < 0.02 and np.isnan(columns["logsm"][~there]).all()
    common = (peak < 12.2) & (rate > -5)
    assert np.median(np.abs(columns["logsfr"][there] - rate)[common]) < 0.03
    assert whole["boxes"] == 600 and whole["volume"] == 600 * BOX**3 and whole["left_out"] == 0
    assert whole["outside"] == (rate < -6).sum() > 0


@pytest.mark.parametrize("seed", range(2))
def test_a_recalibration_is_that_of_one_pass_and_has_the_references_numbers(seed):
    outputs, reference, redshift = boxes(300, seed), Published(), 1.0
    reducer = Recalibration(**LENGTH)
    whole, columns = recalibrated(reducer, outputs, redshift, seed)
    peak = rows(outputs, "logmp_t_obs")
    rate = rows(outputs, "logsm_t_obs") + rows(outputs, "logssfr_t_obs")
    expected, *_ = np.histogram2d(peak, rate, [whole["mass_edges"], whole["rate_edges"]])
    np.testing.assert_array_equal(whole["histogram"], expected)
    there = np.arange(ROOM) < outputs["n_galaxies"][:, None]
    mass, star_formation = columns["logsm"][there].astype(float), columns["logsfr"][there].astype(float)
    # More mass, more stars; at one mass, faster is faster.
    order = np.argsort(peak)
    assert (np.diff(mass[order]) >= -1e-6).all() and np.isfinite(star_formation).all()
    bin_ = np.digitize(peak, whole["mass_edges"])
    for number in np.unique(bin_):
        ranks = np.argsort(rate[bin_ == number])
        assert (np.diff(star_formation[bin_ == number][ranks]) >= -1e-5).all()
    # At the edges of the bins the numbers are the reference's, exactly; between them nearly.
    for edge in (11.4, 11.8, 12.2):
        place = int(np.argmin(np.abs(whole["mass_edges"] - edge)))
        above = (peak > whole["mass_edges"][place]).sum() / whole["volume"]
        assert reference.density(whole["logsm"][place], redshift) == pytest.approx(above, rel=1e-3)
    ranked = np.sort(mass)[::-1]
    share = np.arange(1, len(ranked) + 1) / whole["volume"] / reference.density(ranked, redshift)
    assert np.abs(share[100:] - 1).max() < 0.08
    # Quenched galaxies, and the width of the main sequence, are the reference's, too.
    near = np.abs(mass - np.median(mass)) < 0.1
    excess = star_formation[near] - reference.main_sequence(mass[near], redshift)
    assert (excess < -0.9).mean() == pytest.approx(reference.quenched(np.median(mass), redshift), abs=0.04)
    assert np.std(excess[np.abs(excess) < 0.6]) == pytest.approx(0.2, abs=0.02)


def test_boxes_that_cannot_be_counted_are_left_out_and_said():
    outputs = boxes(50)
    outputs["n_galaxies"][:4] = [ROOM + 3, 10, 10, 0]
    outputs["shot_noise"] = np.where(outputs["n_galaxies"] > 0, BOX**3 / np.maximum(outputs["n_galaxies"], 1), np.nan)
    outputs["galaxies.logsm_t_obs"][1, 9] = np.nan
    outputs["shot_noise"][2] = np.nan  # galaxies were lost
    whole, columns = recalibrated(Recalibration(**LENGTH), outputs, 0.5, 1)
    told = in_pieces(Recalibration(), outputs, {"redshift": np.full(50, 0.5)}, 2)
    assert told["volume"] == pytest.approx(whole["volume"], rel=1e-6) and told["boxes"] == 47
    np.testing.assert_allclose(told["logsm"], whole["logsm"], atol=1e-6)
    assert whole["boxes"] == 47 and whole["left_out"] == 3 and whole["volume"] == 47 * BOX**3
    assert whole["galaxies"].sum() == outputs["n_galaxies"][4:].sum()
    assert np.isfinite(columns["logsm"][1, :9]).all() and np.isnan(columns["logsm"][1, 9:]).all()
    assert np.isfinite(columns["logsm"][2, :10]).all()


def test_what_a_recalibration_cannot_do_is_refused_or_said():
    outputs, reducer = boxes(20), Recalibration(**LENGTH)
    two = {"redshift": np.repeat([0.5, 1.0], 10)}
    with pytest.raises(ConfigError, match=r"redshift: boxes from 0\.5 to 1 in one histogram\n  by: redshift"):
        in_pieces(reducer, outputs, two, 1)
    with pytest.raises(ConfigError, match=r"redshift 3\.5 is not between 0\.2 and 3\.0"):
        recalibrated(reducer, outputs, 3.5, 1)
    with pytest.raises(ConfigError, match=r"box: 41 is not the side .* by 'shot_noise'\n  box: 40"):
        recalibrated(Recalibration(box=41, shot_noise="shot_noise"), outputs, 1.0, 1)
    nothing = {name: values[:0] for name, values in outputs.items()}
    both = {name: np.concatenate([values, values]) for name, values in outputs.items()}
    both["shot_noise"] = both["shot_noise"] * np.repeat([1, 8], 20)
    with pytest.raises(ConfigError, match=r"box: mocks of 40 to 80 comoving Mpc are reduced as one"):
        recalibrated(Recalibration(), both, 1.0, 1)
    with pytest.raises(ConfigError, match="no box is left to learn of: 0 were left out"):
        reducer.finish(reducer.map(nothing, {"redshift": np.zeros(0)}))
    with pytest.raises(ValueError, match=r"masses: \[12.0, 11.0\] is not an interval"):
        Recalibration(box=BOX, masses=(12.0, 11.0))
    with pytest.raises(ValueError, match="box: 0 is not the side"):
        Recalibration(box=0)
    with pytest.raises(ValueError, match="neither it nor shot_noise tells"):
        Recalibration(shot_noise=None)
    empty = {name: values[:1] * 0 for name, values in outputs.items()} | {"shot_noise": np.array([np.nan])}
    with pytest.raises(ConfigError, match="no box at 1 has a galaxy to learn of"):
        recalibrated(Recalibration(), empty, 1.0, 1)
    assert (
        Threshold({"galaxies.quenched": [1, None]}).finish(Threshold({"galaxies.quenched": [1, None]}).map(empty, {}))[
            "density"
        ]
        == 0
    )


def test_published_numbers():
    """The mass function's integral against its density, its slope, and the quantiles against draws."""
    reference = Published()
    mass = np.linspace(9.0, 12.0, 31)
    steps = np.linspace(9.0, 14.0, 50001)
    for redshift, knee, first in ((0.2, 10.79, -2.44), (1.6, 10.88, -3.08), (3.0, 10.84, -4.14)):
        second = {0.2: -2.89, 1.6: -3.29, 3.0: -3.51}[redshift]
        x = 10 ** (steps - knee)
        density = np.log(10) * np.exp(-x) * (10**first * x**0.72 + 10**second * x**-0.48)
        trapezoids = (density[1:] + density[:-1]) / 2 * np.diff(steps)
        above = np.append(np.cumsum(trapezoids[::-1])[::-1], 0.0)
        np.testing.assert_allclose(reference.density(mass, redshift), np.interp(mass, steps, above), rtol=1e-5)
        np.testing.assert_allclose(
            reference.log_mass(np.log10(reference.density(mass, redshift)), redshift), mass, atol=1e-4
        )
    # Speagle et al.'s own example of the age: 13.47 Gyr today, so at z = 1 5.75 Gyr and slope 0.69.
    assert reference.main_sequence(10.0, 1.0) == pytest.approx(8.4 - 6.51 + 5.75 * (0.11 - 0.26), abs=0.01)
    random = np.random.default_rng(1)
    quenched = random.random(400_000) < reference.quenched(10.8, 0.5)
    draws = np.where(quenched, 10.8 - 11.8 + 0.36 * random.normal(size=400_000), 0.0)
    draws += np.where(quenched, 0.0, reference.main_sequence(10.8, 0.5) + 0.2 * random.normal(size=400_000))
    share = np.array([0.01, 0.2, 0.4, 0.7, 0.95])
    np.testing.assert_allclose(
        reference.log_rate(share[None], np.array([10.8]), 0.5)[0], np.quantile(draws, share), atol=0.02
    )


def tabulated(share: Any) -> dict[str, Any]:
    """A reference as arrays: a power law, and log-normal rates."""
    mass, score = np.linspace(9.0, 11.5, 26), {0.16: -1.0, 0.5: 0.0, 0.84: 1.0}
    rates = np.stack([0.7 * (mass - 10) + 0.994458 * 0.3 * score[one] for one in share], axis=1)
    return {"log_mass": mass, "density": 10 ** (-2.5 - 0.8 * (mass - 10)), "share": share, "log_rate": rates}


def test_tables_of_either_kind_are_the_same_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "FOLDER", tmp_path)
    told = tabulated(np.array([0.16, 0.5, 0.84]))
    np.savez(tmp_path / "one.npz", **told)
    two = {**told, "redshift": np.array([0.5, 2.0])}
    two |= {name: np.stack([told[name], told[name] + add]) for name, add in (("density", 1e-3), ("log_rate", 0.5))}
    np.savez(tmp_path / "two.npz", **two)
    lines = ["redshift,log_mass,density,rate_0.5,rate_0.16,rate_0.84"]
    for row, redshift in enumerate(two["redshift"]):
        for mass, density, rates in zip(told["log_mass"], two["density"][row], two["log_rate"][row], strict=True):
            lines.append(f"{redshift},{float(mass)!r},{float(density)!r},{rates[1]},{rates[0]},{rates[2]}")
    (tmp_path / "two.csv").write_text("\n".join(lines) + "\n")
    one, table, csv = Table("one.npz"), Table("two.npz"), Table("two.csv")
    logs, share = np.linspace(-4.5, -1.0, 9), np.array([[0.01, 0.3, 0.9]])
    np.testing.assert_allclose(one.log_mass(logs, 9.0), 10 - (logs + 2.5) / 0.8, atol=1e-9)  # beyond its ends, too
    expected = 0.7 * 0.33 + 0.3 * np.array([-2.32635, -0.524401, 1.281552])
    np.testing.assert_allclose(one.log_rate(share, np.array([10.33]), 9.0)[0], expected, atol=1e-3)
    for redshift in (0.5, 2.0):
        np.testing.assert_allclose(table.log_mass(logs, redshift), csv.log_mass(logs, redshift), rtol=1e-12)
        mass = np.array([9.7])
        np.testing.assert_allclose(
            table.log_rate(share, mass, redshift), csv.log_rate(share, mass, redshift), rtol=1e-12
        )
    assert csv.log_rate(share, mass, 2.0)[0] == pytest.approx(one.log_rate(share, mass, 2.0)[0] + 0.5)
    with pytest.raises(ConfigError, match=r"redshift 1\.1 is not in 'two\.csv'\n  it has 0\.5, 2"):
        csv.log_mass(logs, 1.1)
    outputs = boxes(30)
    with pytest.warns(StaffaWarning, match=r"\d+ galaxies at redshift 1 are rarer or more common than the reference"):
        whole, _ = recalibrated(Recalibration(reference=one, **LENGTH), outputs, 1.0, 1)
    assert 0 < whole["beyond"] < whole["galaxies"].sum() and np.isfinite(whole["logsm"]).all()


BROKEN = {
    "no_rates.npz": (lambda told: {k: v for k, v in told.items() if k != "log_rate"}, "has no 'log_rate', but"),
    "shapes.npz": (lambda told: told | {"density": told["density"][:-1]}, r"'density' .* has shape \(25,\), not"),
    "rising.npz": (lambda told: told | {"density": told["density"][::-1]}, "'density' is not above 0 and descending"),
    "mass.npz": (lambda told: told | {"log_mass": told["log_mass"][::-1]}, "'log_mass' does not ascend"),
    "share.npz": (lambda told: told | {"share": np.array([0.0, 0.5, 1.0])}, "'share' is not between 0 and 1"),
    "rate.npz": (lambda told: told | {"log_rate": -told["log_rate"]}, "'log_rate' does not ascend"),
    "text.csv": ("log_mass,density,rate_0.5\n9.0,many,1.0\n", "line 2: 'many' in column 'density' is no finite"),
    "nan.csv": ("log_mass,density,rate_0.5\n9.0,1e-2,1.0\n9.5,nan,1.0\n", "line 3: 'nan' in column 'density'"),
    "column.csv": ("log_mass,density,rate_half\n9.0,1e-2,1.0\n", "column 'rate_half' names no share"),
    "lacks.csv": ("log_mass,rate_0.5\n9.0,1.0\n", r"has no 'density', but \['log_mass', 'log_rate', 'share'\]"),
    "masses.csv": (
        "redshift,log_mass,density,rate_0.5\n1,9.0,1e-2,1.0\n1,9.5,1e-3,1.0\n2,9.0,1e-2,1.0\n2,9.6,1e-3,1.0\n",
        "has not the same 'log_mass' at all redshifts",
    ),
    "empty.csv": ("log_mass,density\n", "'empty.csv' has no rows"),
    "other.txt": ("", "'other.txt' is neither .npz nor .csv"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_reference_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "FOLDER", tmp_path)
    content, words = BROKEN[name]
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.savez(tmp_path / name, **content(tabulated(np.array([0.16, 0.5, 0.84]))))
    with pytest.raises(ValueError, match=words):
        Table(name)


def test_a_file_that_is_not_there_is_told_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "FOLDER", tmp_path)
    np.savez(tmp_path / "one.npz", x=1)
    with pytest.raises(ValueError, match=r"'on\.npz' is not beside the campaign file; there is one\.npz"):
        Table("on.npz")


@pytest.mark.parametrize("seed", range(3))
def test_a_number_density_is_met_by_one_threshold_for_all(seed):
    outputs, targets = boxes(200, seed), {"few": 1e-5, "some": 2e-4}
    limits = {"galaxies.quenched": [None, 0], "galaxies.logmp_t_obs": [11.35, None]}
    reducer = NumberDensity("galaxies.logssfr_t_obs", targets, range=[-13.0, -8.0], where=limits, **LENGTH)
    found = in_pieces(reducer, outputs, {}, seed)
    columns = reducer.apply(found, outputs, {})
    values = rows(outputs, "logssfr_t_obs")
    candidates = (rows(outputs, "logmp_t_obs") >= 11.35) & (rows(outputs, "quenched") == 0)
    ranked, volume = np.sort(values[candidates])[::-1], 200 * BOX**3
    for place, (name, target) in enumerate(targets.items()):
        wanted = round(target * volume)
        # Between the last that is wanted and the first that is not, but for the width of a bin.
        assert ranked[wanted] - 2e-4 <= found["threshold"][place] <= ranked[wanted - 1] + 2e-4
        assert found["reached"][place]
        assert columns[name].sum() / volume == found["density"][place] == pytest.approx(target, rel=0.02)
        there = np.arange(ROOM) < outputs["n_galaxies"][:, None]
        np.testing.assert_array_equal(columns[name][there], candidates & (values >= found["threshold"][place]))
        assert not columns[name][~there].any()
    # The table n(> x).
    assert found["edges"][:2] == pytest.approx([-13.0, -12.98])
    for edge in (0, 75, 160):
        above = (ranked >= found["edges"][edge]).sum() / volume
        assert found["cumulative"][edge] == pytest.approx(above, rel=1e-9)


def test_a_density_that_is_not_to_be_had_is_said_and_nobody_is_chosen():
    outputs = boxes(20)
    outputs["galaxies.logmp_t_obs"][:] = np.minimum(outputs["galaxies.logmp_t_obs"], 12.0)
    total, targets = outputs["n_galaxies"].sum(), {"all": 1.0, "half": outputs["n_galaxies"].sum() / (40 * BOX**3)}
    with pytest.warns(
        StaffaWarning, match=rf"density: 1 \(all\) .*: there are {total} galaxies in 1\.28e\+06 comoving"
    ):
        reducer = NumberDensity("galaxies.logmp_t_obs", targets, [10.0, 13.0])
        found = in_pieces(reducer, outputs, {}, 1)
    assert found["reached"].tolist() == [False, True] and found["threshold"][0] == np.inf
    columns = reducer.apply(found, outputs, {})
    assert not columns["all"].any() and columns["half"].any()
    for density, limits, words in (
        (1e-5, [10.0, 11.4], r"\d+ galaxies lie above the range, to 11\.4,"),
        (targets["half"], [11.9, 13.0], r"only \d+ galaxies lie in the range, from 11\.9,"),
        (1e-8, [10.0, 13.0], r"that is 0\.013 galaxies"),
    ):
        with pytest.warns(StaffaWarning, match=words):
            assert not in_pieces(NumberDensity("galaxies.logmp_t_obs", density, limits), outputs, {}, 1)["reached"]
    for wrong, words in (({"density": -1.0}, "density: -1.0"), ({"range": [2, 1]}, r"range: \[2, 1\]")):
        with pytest.raises(ValueError, match=words):
            NumberDensity(**{"of": "x", "density": 1.0, "box": BOX, "range": [0, 1], **wrong})


def test_limits_choose_and_count():
    outputs = boxes(100)
    reducer = Threshold({"galaxies.logmp_t_obs": [11.5, 12.0], "galaxies.quenched": [1, None]}, **LENGTH)
    found = in_pieces(reducer, outputs, {}, 4)
    chosen = reducer.apply(found, outputs, {})["selected"]
    peak, quenched = outputs["galaxies.logmp_t_obs"], outputs["galaxies.quenched"]
    there = np.arange(ROOM) < outputs["n_galaxies"][:, None]
    np.testing.assert_array_equal(chosen, there & (peak >= 11.5) & (peak <= 12.0) & quenched)
    density = chosen.sum(axis=1) / BOX**3
    assert found["density"] == pytest.approx(density.mean()) and found["scatter"] == pytest.approx(density.std(ddof=1))
    assert found["share"] == pytest.approx(chosen.sum() / there.sum()) and found["boxes"] == 100
    for wrong, words in (({}, "no limits"), ({"x": 3}, "x: 3 is not"), ({"x": [2, 1]}, "holds nothing")):
        with pytest.raises(ValueError, match=words):
            Threshold(wrong, BOX)


def test_reducers_can_be_named_in_a_campaign_file():
    from staffa.experiment.registry import build

    folder = Path(__file__).parents[2] / "workflows" / "mocks"
    block = {"use": "mocks/reducers.py:Recalibration", "box": 64.0, "reference": {"use": "mocks/reducers.py:Published"}}
    made = build(block, folder, "reduce.recalibrated")
    assert made.applies == "galaxies" and made.boxes.box == 64.0
