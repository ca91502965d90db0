"""Mock catalogues of galaxies in the halos of a simulation: populated as `model.py` does its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from mocks import statistics
from mocks.catalogues import Halos, Layout, read
from mocks.cosmology import cosmology as _cosmology
from mocks.populate import Settings, galaxies_room, populate, recorded

import staffa
from staffa.errors import ConfigError

LEAST_ROOM = 256


class Observed(staffa.Experiment):
    """One box of galaxies (or a slab of it) in the halos of one file: that of the campaign's section `inputs`.

    Records what `model.py:Mock` does, but no power spectrum of slabs. A file that is not as it should be makes its own
    trial fail, with file, column, row and value; so does one with more halos or galaxies than there is room for.

    Options:
    - `catalogue`: how files are written, see `mocks.catalogues.Layout`: `{box: 500.0, hubble: 0.6736, mass: …}`.
    - `halo_room`, `galaxy_room`: rows there are for halos and galaxies of a trial, recorded or not.
    - `lgmp_min`: log10 of the least mass of a halo or subhalo, Msun; lighter halos are left out.
    - `slabs`: equal ones along y that a file is done in; the parameter `slab` says which.
    - `cosmology`, `concentration`, `grid`: as of `model.py:Mock`.

    Parameters: `phase` names a realization; `redshift`; `slab` counts from 0.
    """

    vectorize = "off"  # files are read, and each has its own number of halos
    parameters = {
        "phase": staffa.Parameter(type="int", comment="names a realization"),
        "redshift": staffa.Parameter(type="float", range=(0.0, 10.0)),
        "slab": staffa.Parameter(0, comment="of how many `slabs` says"),
    }
    ragged = {"halos": "n_halos", "galaxies": "n_galaxies"}

    def __init__(
        self,
        catalogue: Mapping[str, Any],
        halo_room: int,
        galaxy_room: int,
        lgmp_min: float = 11.0,
        slabs: int = 1,
        cosmology: str = "AbacusSummit",
        concentration: float = 5.0,
        grid: int = 64,
    ) -> None:
        for name, value in (("halo_room", halo_room), ("galaxy_room", galaxy_room), ("slabs", slabs)):
            if value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
        if grid < 4 or grid % 2:
            raise ValueError(f"grid: {grid} is no even number from 4 on")
        self.layout = Layout.of(catalogue)
        self.box = self.layout.box * self.layout.length
        self.rooms = {"halos": int(halo_room), "galaxies": int(galaxy_room)}
        self.slabs, self.grid = int(slabs), grid
        self.settings = Settings(
            _cosmology(cosmology), self.box, float(lgmp_min), room=LEAST_ROOM, concentration=float(concentration)
        )
        self.halo_masses = statistics.halo_masses(lgmp_min)
        self.dims = {"counts.halos": ("halo_mass",), "counts.galaxies": ("stellar_mass",)}
        self.coords = {
            "halo_mass": statistics.middles(self.halo_masses),
            "stellar_mass": statistics.middles(statistics.STELLAR_MASSES),
        }
        if self.slabs == 1:
            self.dims |= {"power": ("wavenumber",)}
            self.coords |= {"wavenumber": statistics.wavenumbers(self.box, grid).tolist()}

    def initialize(self, key: Any, params: Mapping[str, Any]) -> Halos:
        if len(params.inputs) != 1:
            raise ConfigError(
                f"inputs: {len(params.inputs)} files for a trial, and it takes one",
                "inputs: {paths: ['halos/ph{phase:04d}/z{redshift:.3f}.hdf5']}",
            )
        halos = read(params.inputs[0], self.layout, params["slab"], self.slabs, self.settings.lgmp_min)
        self._check_room("halos", len(halos))
        return halos

    def step(self, key: np.random.SeedSequence, state: Halos, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with jax.enable_x64(True):
            outputs = self._populated(jax.random.wrap_key_data(key.generate_state(2)), state, params["redshift"])
        found = {name: np.asarray(value) for name, value in outputs.items()}
        return state, {name: self._padded(name, value) for name, value in found.items()}

    def _populated(self, key: Any, halos: Halos, redshift: float) -> dict[str, Any]:
        """In arrays of as many rows as the next power of two: few programs for files of all sizes.

        They never have more than a trial may record: a file of far too many galaxies is refused, and fills no memory.
        """
        count, own = len(halos), {"logm": halos.logm, "position": halos.position, "velocity": halos.velocity}
        own = {name: _grown(values, _power_of_two(count)) for name, values in own.items()}
        room, lost = _power_of_two(galaxies_room(halos.logm, self.settings.lgmp_min)), 1
        while lost:
            settings = Settings(**{**vars(self.settings), "room": min(room, _power_of_two(self.rooms["galaxies"]))})
            made = populate(key, *own.values(), count, redshift, settings)
            lost, room = int(made.pop("lost")), 2 * room
            self._check_room("galaxies", int(made["n_galaxies"]) + lost)
        measured = _measured(
            own["logm"],
            count,
            made["galaxies.logsm_t_obs"],
            made["galaxies.position"],
            made["n_galaxies"],
            self.settings.lgmp_min,
            self.box,
            self.grid if self.slabs == 1 else 0,
        )
        measured["shot_noise"] = self.box**3 / self.slabs / made["n_galaxies"]
        halo_columns = {f"halos.{name}": values for name, values in own.items()}
        return recorded({"n_halos": jax.numpy.int32(count), **_arrays(halo_columns), **made, **measured}, self.box)

    def _check_room(self, table: str, rows: int) -> None:
        if rows > self.rooms[table]:
            option = {"halos": "halo_room", "galaxies": "galaxy_room"}[table]
            raise ConfigError(
                f"{option}: {rows:,} {table}, and there is room for {self.rooms[table]:,}",
                f"experiment: {{{option}: {_power_of_two(rows)}}}",
            )

    def _padded(self, name: str, values: Any) -> Any:
        table = name.partition(".")[0]
        if table not in self.rooms:
            return values
        return _grown(values[: self.rooms[table]], self.rooms[table])


@partial(jax.jit, static_argnums=(5, 6, 7))
def _measured(
    logm: Any, count: Any, logsm: Any, position: Any, number: Any, lgmp_min: float, box: float, grid: int
) -> dict[str, Any]:
    """What is measured of a mock; the power spectrum where there is a grid."""
    edges = statistics.halo_masses(lgmp_min)
    counts = {
        "counts.halos": statistics.counts(logm, count, edges),
        "counts.galaxies": statistics.counts(logsm, number, statistics.STELLAR_MASSES),
    }
    return {**counts, "power": statistics.power_spectrum(position, number, box, grid)} if grid else counts


def _power_of_two(rows: int) -> int:
    return max(LEAST_ROOM, 1 << (rows - 1).bit_length())


def _grown(values: Any, rows: int) -> Any:
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])


def _arrays(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: jax.numpy.asarray(values) for name, values in columns.items()}
