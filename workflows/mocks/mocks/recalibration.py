"""Stellar masses and star formation rates as a reference has them: learnt of all boxes together, applied to each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mocks.bins import Bins, counted, merged, spread
from mocks.boxes import Boxes
from mocks.references import Published
from staffa.errors import ConfigError, StaffaWarning

Arrays = Mapping[str, Any]


class Recalibration:
    """Abundance matching of halo mass to stellar mass, then matching of SFR at fixed mass, over all boxes of a
    redshift.

    A histogram H of log10 peak mass and log10 SFR is counted over all boxes. Then, with V the volume of all of them,

        f1: n_sim(> Mpeak) = n_ref(> M*),   n_sim(> m) = max(number above m, 1/2) / V, at each edge of the bins of mass,
        f2: F_sim(SFR | bin of Mpeak) = F_ref(SFR' | M* in the middle of the bin), F within [1/2N, 1 - 1/2N] for N
        galaxies,

    and between edges both are straight lines. So M* rises with Mpeak, SFR' with SFR in a bin of mass, and the numbers
    of galaxies above the stellar mass of an edge are the reference's. To be used with `by: redshift`.

    `apply` gives each galaxy new columns: `logsm` (log10 M* / Msun) and `logsfr` (log10 SFR / (Msun / yr)); rows that
    do not count are NaN. Of the histogram only cells that are not empty are kept, at most bins of mass x bins of rate.

    Options:
    - `box`: side of the mocks, comoving Mpc; by default as `shot_noise` (an output, V / rows; null for none) says,
      which it is held against.
    - `reference`: see `mocks.references`; `Published` by default.
    - `masses`, `rates`: [low, high] of log10 Mpeak / Msun and of log10 SFR; `width` of the bins, dex.
    - `peak`, `stellar`, `specific`: columns with log10 of peak mass, of M*, of SFR / M* in 1 / yr; `length`: their
      rows.
    - `redshift`: the parameter.

    Result: `boxes`, `volume` (comoving Mpc^3), `redshift`; `mass_edges` (b + 1,), `rate_edges` (r + 1,), `histogram`
    (b, r); `density` (b + 1,): n_sim above the edges; `logsm` (b + 1,): f1 there. `logsfr` (b, r + 3): f2 at the edges
    of rate, between what lies below all and above all bins, which gets one value each; a bin of mass without galaxies
    has that of the nearest which has some. `galaxies` (b,): how many it rests on. Counted: galaxies `outside` of the
    masses (taken as at their end) or of the rates, galaxies `beyond` the densities that the reference speaks about,
    boxes `left_out` (a NaN, or more rows than there is room for).

    Raises `ConfigError` for boxes of several redshifts, and for what the reference refuses.
    """

    applies = "galaxies"

    def __init__(
        self,
        box: float | None = None,
        reference: Any = None,
        masses: tuple[float, float] = (10.0, 16.0),
        rates: tuple[float, float] = (-6.0, 4.0),
        width: float = 0.02,
        peak: str = "galaxies.logmp_t_obs",
        stellar: str = "galaxies.logsm_t_obs",
        specific: str = "galaxies.logssfr_t_obs",
        length: str = "n_galaxies",
        shot_noise: str | None = "shot_noise",
        redshift: str = "redshift",
    ) -> None:
        self.boxes = Boxes(box, length, shot_noise)
        self.reference = Published() if reference is None else reference
        self.masses, self.rates = Bins(*masses, width, "masses"), Bins(*rates, width, "rates")
        self.peak, self.stellar, self.specific, self.redshift = peak, stellar, specific, redshift
        self._shape = (self.masses.number + 2, self.rates.number + 2)
        self.of = [peak, stellar, specific, *self.boxes.of]

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        sound, rows = self.boxes.rows(outputs, [self.peak, self.stellar, self.specific])
        mass = self.masses.places(outputs[self.peak][rows])
        rate = self.rates.places(self._rate(outputs)[rows])
        redshift = np.asarray(params[self.redshift], np.float64)
        for one in np.unique(redshift):
            self.reference.span(float(one))  # what it refuses is better heard of now than in the end
        return {
            **counted(mass * self._shape[1] + rate, self._shape[0] * self._shape[1]),
            **self.boxes.counted(outputs, sound),
            "redshifts": np.array([redshift.min(initial=np.inf), redshift.max(initial=-np.inf)]),
        }

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        lowest, highest = np.stack([one["redshifts"], two["redshifts"]], axis=1)
        return {
            **merged(one, two),
            **self.boxes.joined(one, two),
            "redshifts": np.array([lowest.min(), highest.max()]),
        }

    def finish(self, whole: Arrays) -> Arrays:
        low, high = whole["redshifts"]
        if not np.isfinite(low):
            raise ConfigError(f"{self.redshift}: no box is left to learn of: {whole['left_out']} were left out")
        if low < high:
            raise ConfigError(f"redshift: boxes from {low:g} to {high:g} in one histogram", f"by: {self.redshift}")
        cells = spread(whole, self._shape)
        # A mass beyond either end is taken as in the last bin there.
        inside = cells[1:-1].copy()
        inside[0] += cells[0]
        inside[-1] += cells[-1]
        volume = float(whole["boxes"]) * self.boxes.volume(whole)
        if not volume:
            raise ConfigError(f"{self.redshift}: no box at {low:g} has a galaxy to learn of")
        above = np.append(np.cumsum(inside.sum(axis=1)[::-1])[::-1], cells[-1].sum())
        density = np.maximum(above, 0.5) / volume
        logsm = np.maximum.accumulate(self.reference.log_mass(np.log10(density), float(low)))
        outside = cells[0].sum() + cells[-1].sum() + cells[1:-1, 0].sum() + cells[1:-1, -1].sum()
        return {
            "boxes": whole["boxes"],
            "left_out": whole["left_out"],
            "volume": np.array(volume),
            "redshift": np.array(low),
            "mass_edges": self.masses.edges,
            "rate_edges": self.rates.edges,
            "histogram": inside[:, 1:-1],
            "galaxies": inside.sum(axis=1),
            "density": density,
            "logsm": logsm,
            "logsfr": self._rates(inside, (logsm[1:] + logsm[:-1]) / 2, float(low)),
            "outside": np.array(outside),
            "beyond": np.array(self._beyond(inside, density, float(low))),
        }

    def apply(self, whole: Arrays, outputs: Arrays, params: Arrays) -> dict[str, Any]:
        peak, rate = outputs[self.peak], self._rate(outputs)
        known = self.boxes.there(outputs, peak.shape[1]) & ~np.isnan(peak) & ~np.isnan(rate)
        place, up = self.masses.located(peak)
        row = np.clip(place - 1, 0, self.masses.number - 1)
        mass = _between(whole["logsm"], row, row + 1, np.where(place > self.masses.number, 1.0, up))
        place, up = self.rates.located(rate)
        inside = (place > 0) & (place <= self.rates.number)
        # Columns are what lies below, the edges, what lies above: in the last bin of all the upper edge is one on.
        left = row * (self.rates.number + 3) + place + (place > self.rates.number)
        rate = _between(np.asarray(whole["logsfr"]).reshape(-1), left, left + inside, up)
        columns = {"logsm": mass, "logsfr": rate}
        return {name: np.where(known, values, np.nan).astype(np.float32) for name, values in columns.items()}

    def _rate(self, outputs: Arrays) -> Any:
        """log10 SFR."""
        return np.asarray(outputs[self.stellar], np.float64) + outputs[self.specific]

    def _rates(self, counts: Any, logsm: Any, redshift: float) -> Any:
        """f2 of each bin of mass, from counts (b, below all + r + above all); single precision is enough for it."""
        galaxies = counts.sum(axis=1)
        filled = np.flatnonzero(galaxies)
        found = np.zeros((len(counts), counts.shape[1] + 1), np.float32)
        if not len(filled):
            return found
        edges = np.cumsum(counts[filled, :-1], axis=1) / galaxies[filled, None]
        # All that lie below (or above) the bins are told apart no longer: they get the rate of those in their middle.
        below, above = edges[:, :1] / 2, (1 + edges[:, -1:]) / 2
        least = 0.5 / galaxies[filled, None]
        share = np.clip(np.concatenate([below, edges, above], axis=1), least, 1 - least)
        rates = self.reference.log_rate(share, logsm[filled], redshift)
        nearest = np.abs(np.arange(len(counts))[:, None] - filled).argmin(axis=1)
        found[:] = np.maximum.accumulate(rates, axis=1)[nearest]
        return found

    def _beyond(self, counts: Any, density: Any, redshift: float) -> int:
        least, most = self.reference.span(redshift)
        logs = np.log10(density)
        beyond = int(counts.sum(axis=1)[(logs[1:] < least) | (logs[:-1] > most)].sum())
        if beyond:
            what = (
                f"{beyond} galaxies at redshift {redshift:g} are rarer or more common than the reference speaks about"
            )
            warnings.warn(f"reference: {what}: it goes on in a straight line", StaffaWarning, stacklevel=3)
        return beyond


def _between(values: Any, left: Any, right: Any, up: Any) -> Any:
    """In a straight line, `up` of the way from one of some values to another."""
    low = np.asarray(values, np.float64)[left]
    return low + up * (np.asarray(values, np.float64)[right] - low)
