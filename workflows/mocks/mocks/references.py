"""What galaxies are to be like: how many there are above a stellar mass, and how fast they form stars at that mass.

A reference is any class with these three methods; one of yours goes beside the campaign file.

    log_mass(log_density, redshift)         log10 M* above which there are so many galaxies (log10 of n / comoving
    Mpc^3) log_rate(share, log_mass, redshift)     log10 SFR below which lies this share of the galaxies at a mass;
                                            share (m, s), log_mass (m,) -> (m, s)
    span(redshift)                          log10 n, from the fewest to the most, that it speaks about

Masses in Msun, rates in Msun / yr. What a reference does not speak about it refuses with a `ConfigError`, or continues
in a straight line: `span` tells where that begins.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import gamma, gammaincc, ndtr, ndtri

from staffa.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1]
"""The campaign's own: its file stands here, and the files it names."""


class Published:
    """Fits to observed galaxies from z = 0.2 to 3; Chabrier's initial mass function, or one within 0.03 dex of it.

    - Stellar masses: the sum of two Schechter functions whose parameters are parabolas in z, Leja et al. (ApJ 893:111,
      2020, "continuity model"), n per comoving Mpc^3 at h = 0.7. Below the completeness of their surveys it is the
      fit's own slope, -1.48, that goes on.
    - Main sequence: log SFR = (0.84 - 0.026 t) log M* - (6.51 - 0.11 t), t the age in Gyr for Om = 0.3, h = 0.7, with a
      normal scatter of 0.2 dex that is no error of measurement: Speagle et al. (ApJS 214:15, 2014, eq. 28).
    - Quenched galaxies: their share is 1 / (1 + (M* / 10^(10.2 + 0.5 z))^-1.3), Behroozi, Wechsler & Conroy (ApJ
      770:57, 2013), after Brammer et al. (ApJ 739:24, 2011); log SFR / M* is normal about -11.8 with 0.36 dex, as in
      Behroozi et al. (Mon. Not. R. Astron. Soc. 488:3143, 2019).

    Options:
    - `scatter`: of the main sequence, dex.
    - `quenched_rate`, `quenched_scatter`: log10 of SFR / M* per yr, and dex.
    """

    ANCHORS = (0.2, 1.6, 3.0)
    DENSITY = ((-2.44, -3.08, -4.14), (-2.89, -3.29, -3.51))
    """log10 of phi* at the anchors, per comoving Mpc^3 and dex, of the two functions."""
    KNEE = (10.79, 10.88, 10.84)
    SLOPES = (-0.28, -1.48)

    def __init__(self, scatter: float = 0.2, quenched_rate: float = -11.8, quenched_scatter: float = 0.36) -> None:
        for name, value in (("scatter", scatter), ("quenched_scatter", quenched_scatter)):
            if not value > 0:
                raise ValueError(f"{name}: {value!r} is not above 0")
        self.scatter, self.quenched_rate, self.quenched_scatter = scatter, quenched_rate, quenched_scatter
        self._grid = np.arange(4.0, 12.8, 0.005)

    def span(self, redshift: float) -> tuple[float, float]:
        found = np.log10(self.density(self._grid, redshift))
        return float(found[-1]), float(found[0])

    def density(self, log_mass: Any, redshift: float) -> Any:
        """Galaxies above a stellar mass, per comoving Mpc^3."""
        self._check(redshift)
        knee = self._at(self.KNEE, redshift)
        ratio = 10 ** (np.asarray(log_mass, np.float64) - knee)
        parts = zip(self.DENSITY, self.SLOPES, strict=True)
        return sum(10 ** self._at(density, redshift) * _upper_gamma(slope + 1, ratio) for density, slope in parts)

    def log_mass(self, log_density: Any, redshift: float) -> Any:
        known = np.log10(self.density(self._grid, redshift))
        return straight(log_density, known[::-1], self._grid[::-1])

    def main_sequence(self, log_mass: Any, redshift: float) -> Any:
        """log10 of its middle SFR."""
        age = 2 / 3 * 977.792 / 70 / np.sqrt(0.7) * np.arcsinh(np.sqrt(0.7 / 0.3) * (1 + redshift) ** -1.5)
        return (0.84 - 0.026 * age) * log_mass - (6.51 - 0.11 * age)

    def quenched(self, log_mass: Any, redshift: float) -> Any:
        """The share of galaxies that are."""
        return 1 / (1 + 10 ** (-1.3 * (log_mass - 10.2 - 0.5 * redshift)))

    def log_rate(self, share: Any, log_mass: Any, redshift: float) -> Any:
        self._check(redshift)
        rows = zip(
            share,
            self.main_sequence(log_mass, redshift),
            self.quenched_rate + log_mass,
            self.quenched(log_mass, redshift),
            strict=True,
        )
        return np.stack([self._quantiles(*row) for row in rows])

    def _quantiles(self, share: Any, active: float, passive: float, quenched: float) -> Any:
        """Of two normal distributions mixed: its inverse at points 0.002 dex apart, and straight lines between them."""
        low = min(active - 7 * self.scatter, passive - 7 * self.quenched_scatter)
        high = max(active + 7 * self.scatter, passive + 7 * self.quenched_scatter)
        rates = np.arange(low, high, 0.002)
        below = quenched * ndtr((rates - passive) / self.quenched_scatter)
        below += (1 - quenched) * ndtr((rates - active) / self.scatter)
        return np.interp(share, below, rates)

    def _at(self, values: tuple[float, ...], redshift: float) -> float:
        """The parabola through values at the anchors."""
        return float(np.polyval(np.polyfit(self.ANCHORS, values, 2), redshift))

    def _check(self, redshift: float) -> None:
        if not self.ANCHORS[0] - 1e-6 <= redshift <= self.ANCHORS[-1] + 1e-6:
            raise ConfigError(
                f"reference: redshift {redshift:g} is not between {self.ANCHORS[0]} and {self.ANCHORS[-1]}",
                "a table of yours: reference: {use: mocks/reducers.py:Table, file: reference.csv}",
            )


def _upper_gamma(a: float, x: Any) -> Any:
    """Gamma(a, x) for a > -1, not 0."""
    if a > 0:
        return gamma(a) * gammaincc(a, x)
    return (gamma(a + 1) * gammaincc(a + 1, x) - x**a * np.exp(-x)) / a


class Table:
    """A reference in a file beside the campaign's own, `.npz` or `.csv`.

    | | what | .npz | .csv |
    |---|---|---|---|
    | `redshift` | which; to be left out if it is the same for all | (z,) | a column |
    | `log_mass` | log10 M* / Msun, ascending | (m,) | a column |
    | `density` | galaxies above it per comoving Mpc^3, descending | (m,) or (z, m) | a column |
    | `share` | which shares of galaxies at a mass, between 0 and 1, ascending | (s,) | in the names: `rate_0.16` |
    | `log_rate` | log10 SFR below which they lie, ascending with share | (m, s) or (z, m, s) | `rate_0.16`, `rate_0.5`,
    … |

    Between masses all is straight in log M* and log n, between shares in units of the normal distribution (of a
    log-normal one two shares tell all); so it goes on beyond the first and the last. A redshift that is not there is
    refused.

    Options:
    - `file`: its name.
    """

    NEEDED = ("log_mass", "density", "share", "log_rate")

    def __init__(self, file: str) -> None:
        path, self.file = FOLDER / file, file
        if path.suffix not in (".npz", ".csv"):
            raise ValueError(f"file: {file!r} is neither .npz nor .csv")
        if not path.is_file():
            there = sorted(found.name for found in FOLDER.iterdir() if found.suffix in (".npz", ".csv"))
            raise ValueError(f"file: {file!r} is not beside the campaign file; there is {', '.join(there) or 'none'}")
        found = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
        lacking = [name for name in self.NEEDED if name not in found]
        if lacking:
            raise ValueError(f"file: {file!r} has no {' and no '.join(map(repr, lacking))}, but {sorted(found)}")
        self.mass, self.share = found["log_mass"], found["share"]
        self.redshifts = found.get("redshift")
        shape = () if self.redshifts is None else (len(self.redshifts),)
        self.density = self._shaped(found, "density", (*shape, len(self.mass)))
        self.rates = self._shaped(found, "log_rate", (*shape, len(self.mass), len(self.share)))
        self._check()

    def span(self, redshift: float) -> tuple[float, float]:
        density = np.log10(self.density[self._row(redshift)])
        return float(density[-1]), float(density[0])

    def log_mass(self, log_density: Any, redshift: float) -> Any:
        known = np.log10(self.density[self._row(redshift)])
        return straight(log_density, known[::-1], self.mass[::-1])

    def log_rate(self, share: Any, log_mass: Any, redshift: float) -> Any:
        rates = self.rates[self._row(redshift)]
        inside = np.clip(log_mass, self.mass[0], self.mass[-1])
        at = np.stack([np.interp(inside, self.mass, column) for column in rates.T], axis=1)
        return np.stack([straight(ndtri(one), ndtri(self.share), row) for one, row in zip(share, at, strict=True)])

    def _row(self, redshift: float) -> int:
        if self.redshifts is None:
            return 0
        row = int(np.argmin(np.abs(self.redshifts - redshift)))
        if abs(self.redshifts[row] - redshift) > 1e-6:
            raise ConfigError(
                f"reference: redshift {redshift:g} is not in {self.file!r}",
                "it has " + ", ".join(f"{one:g}" for one in self.redshifts),
            )
        return row

    def _shaped(self, found: dict[str, Any], name: str, shape: tuple[int, ...]) -> Any:
        if found[name].shape != shape:
            raise ValueError(f"file: {name!r} in {self.file!r} has shape {found[name].shape}, not {shape}")
        return found[name] if self.redshifts is not None else found[name][None]

    def _check(self) -> None:
        asked = {
            "'log_mass' does not ascend": (np.diff(self.mass) > 0).all() and len(self.mass) > 1,
            "'density' is not above 0 and descending": (self.density > 0).all() and (np.diff(self.density) < 0).all(),
            "'share' is not between 0 and 1, ascending": (
                len(self.share) > 1
                and self.share[0] > 0
                and self.share[-1] < 1
                and bool((np.diff(self.share) > 0).all())
            ),
            "'log_rate' does not ascend with share": (np.diff(self.rates, axis=-1) >= 0).all(),
        }
        for what, right in asked.items():
            if not right:
                raise ValueError(f"file: {what} in {self.file!r}")


def straight(x: Any, known: Any, values: Any) -> Any:
    """Straight lines through (known, values), the first and the last of which go on; `known` ascends."""
    place = np.clip(np.searchsorted(known, x) - 1, 0, len(known) - 2)
    slope = np.diff(values) / np.diff(known)
    return values[place] + slope[place] * (x - known[place])


def _from_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as found:
        return {name: np.asarray(found[name], np.float64) for name in found.files}


def _from_csv(path: Path) -> dict[str, Any]:
    """Columns as arrays: those that are one for each redshift, and for each share, beside one another."""
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines, skipinitialspace=True))
    if not rows:
        raise ValueError(f"file: {path.name!r} has no rows")
    columns = {name: [_number(path, row, name, line) for line, row in enumerate(rows, 2)] for name in rows[0]}
    named = {name: _share(path, name) for name in columns if str(name).startswith("rate_")}
    order = sorted(named, key=lambda name: named[name])
    found = {name: np.array(values) for name, values in columns.items() if name not in named}
    if order:
        found["share"] = np.array([named[name] for name in order])
        found["log_rate"] = np.stack([columns[name] for name in order], axis=1)
    return _by_redshift(path, found) if "redshift" in found else found


def _by_redshift(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    redshifts = np.unique(found["redshift"])
    pieces = [
        {name: values[found["redshift"] == one] for name, values in found.items() if name != "share"}
        for one in redshifts
    ]
    masses = [piece.get("log_mass", redshifts) for piece in pieces]
    if "log_mass" in found and not all(np.array_equal(masses[0], other) for other in masses[1:]):
        raise ValueError(f"file: {path.name!r} has not the same 'log_mass' at all redshifts")
    stacked = {name: np.stack([piece[name] for piece in pieces]) for name in found if name not in ("share", "log_mass")}
    return {**found, **stacked, "redshift": redshifts, **({"log_mass": masses[0]} if "log_mass" in found else {})}


def _number(path: Path, row: dict[str, str], name: str, line: int) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"file: {path.name!r}, line {line}: {row[name]!r} in column {name!r} is no finite number")
    return value


def _share(path: Path, name: str) -> float:
    try:
        return float(name.removeprefix("rate_"))
    except ValueError:
        raise ValueError(f"file: {path.name!r}: column {name!r} names no share, as rate_0.5 does") from None
