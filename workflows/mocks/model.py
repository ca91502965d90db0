"""Mock catalogues of galaxies with halos of their own: very many of them tell what noise a box of the universe has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from mocks import halos, rooms, statistics
from mocks.cosmology import cosmology
from mocks.mass_function import HIGHEST
from mocks.populate import Settings, populate, recorded

import staffa

MOST = 2**26
"""Rows for galaxies that a mock may ask for: 4 GiB of them."""
OF = {"halos": "halo", "galaxies": "galaxy"}
HISTORIES = {"galaxies.mah": ("galaxy",), "galaxies.sfh": ("galaxy",), "t_table": ()}
"""Outputs with an axis of time, and their other axes."""


class Mock(staffa.Experiment):
    """One box of galaxies at one redshift.

    The key of the (one) step makes all of it: see `mocks.draws`. What a mock draws beyond the room there is for it (one
    in a million does, see `mocks.rooms`) is not cut in silence: `shot_noise` is then NaN, so that its trial is flagged,
    as is that of a mock without any galaxy. `n_halos` and `n_galaxies` say how many are recorded.

    Options:
    - `box`: side of the periodic cube, comoving Mpc.
    - `lgmp_min`: log10 of the least mass of a halo or subhalo, Msun.
    - `cosmology`: Planck18, WMAP9 or AbacusSummit.
    - `lowest_redshift`: the lowest that there is sure to be room for.
    - `velocity_dispersion`: of halos, km/s per axis.
    - `concentration`: of the NFW profiles that satellites follow.
    - `line_modifier`, `line_scatter`: what the lines make of star formation, see `mocks.emission`.
    - `grid`: cells per side of the power spectrum's mesh.
    - `histories`: whether each galaxy's growth and star formation at 50 times, and their parameters, are recorded.
    - `chunk`: rows computed at a time; changes no number.

    Parameters: `phase` names a realization (nothing but its key depends on it); `redshift`.
    """

    vectorize = "map"  # under vmap all mocks would wait for the one with most galaxies, and copy whole tables
    parameters = {
        "phase": staffa.Parameter(type="int", comment="names a realization"),
        "redshift": staffa.Parameter(type="float", range=(0.0, rooms.HIGHEST_REDSHIFT)),
    }
    ragged = {"halos": "n_halos", "galaxies": "n_galaxies"}

    def __init__(
        self,
        box: float = 62.0,
        lgmp_min: float = 11.5,
        cosmology: str = "Planck18",
        lowest_redshift: float = 0.2,
        velocity_dispersion: float = 300.0,
        concentration: float = 5.0,
        line_modifier: Sequence[float] = (0.0, 0.0, 0.0),
        line_scatter: float = 0.0,
        grid: int = 32,
        histories: bool = False,
        chunk: int = 256,
    ) -> None:
        _within("box", box, 1e-3, 1e5, "comoving Mpc")
        _within("lgmp_min", lgmp_min, 8.0, HIGHEST - 1, "log10 Msun")
        _within("lowest_redshift", lowest_redshift, 0.0, rooms.HIGHEST_REDSHIFT)
        _within("velocity_dispersion", velocity_dispersion, 0.0, 1e5, "km/s")
        _within("concentration", concentration, 0.1, 30.0)
        _within("line_scatter", line_scatter, 0.0, 10.0, "dex")
        _within("grid", grid, 4, 1024)
        _within("chunk", chunk, 1, 2**16)
        if grid % 2:
            raise ValueError(f"grid: {grid} is odd")
        if len(line_modifier) != 3 or not all(math.isfinite(one) for one in line_modifier):
            raise ValueError(f"line_modifier: {list(line_modifier)} is not three numbers: c0, c1, c2")
        self.halo_room, room = rooms.needed(box, lgmp_min, lowest_redshift, chunk)
        if room > MOST:
            raise ValueError(
                f"box: {box} Mpc with lgmp_min: {lgmp_min} has {room:,} galaxies, there is room for {MOST:,}"
            )
        self.settings = Settings(
            cosmology=_cosmology(cosmology),
            box=float(box),
            lgmp_min=float(lgmp_min),
            room=room,
            chunk=chunk,
            concentration=float(concentration),
            line_modifier=tuple(map(float, line_modifier)),
            line_scatter=float(line_scatter),
            histories=histories,
        )
        self.dispersion, self.grid = float(velocity_dispersion), grid
        self.halo_masses = statistics.halo_masses(lgmp_min)
        self.dims = {
            **{f"{table}.{name}": (OF[table], "axis") for table in self.ragged for name in ("position", "velocity")},
            **({name: (*own, "time") for name, own in HISTORIES.items()} if histories else {}),
            "counts.halos": ("halo_mass",),
            "counts.galaxies": ("stellar_mass",),
            "power": ("wavenumber",),
        }
        self.coords = {
            "axis": ("x", "y", "z"),
            "halo_mass": statistics.middles(self.halo_masses),
            "stellar_mass": statistics.middles(statistics.STELLAR_MASSES),
            "wavenumber": statistics.wavenumbers(box, grid).tolist(),
        }

    def initialize(self, key: Any, params: Mapping[str, Any]) -> Any:
        return ()

    def step(self, key: Any, state: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        redshift, settings = params["redshift"], self.settings
        box, chunk = settings.box, settings.chunk
        own = halos.drawn(key, redshift, box, settings.lgmp_min, self.dispersion, self.halo_room, chunk)
        made = populate(key, own.logm, own.position, own.velocity, own.count, redshift, settings)
        lost = own.lost + made.pop("lost")
        number = made["n_galaxies"]
        fits = (lost == 0) & (number > 0)
        outputs = {
            "n_halos": own.count,
            "halos.logm": own.logm,
            "halos.position": own.position,
            "halos.velocity": own.velocity,
            **made,
            "counts.halos": statistics.counts(own.logm, own.count, self.halo_masses),
            "counts.galaxies": statistics.counts(made["galaxies.logsm_t_obs"], number, statistics.STELLAR_MASSES),
            "power": statistics.power_spectrum(made["galaxies.position"], number, box, self.grid),
            "shot_noise": jnp.where(fits, box**3 / number, jnp.nan),
        }
        return state, recorded(outputs, box)


_cosmology = cosmology  # the option of this name hides it


def _within(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} is not within [{low:g}, {high:g}]{unit and ' '}{unit}")
