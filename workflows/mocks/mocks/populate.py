"""Halos -> galaxies: one program for all redshifts and all numbers of halos.

Arrays are padded: `room` rows of which `count` count. Loops go over chunks of rows, as many as there are, so that what
is padded costs nothing. Every row draws with a key of its own: neither room nor chunk changes a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mocks.cosmology import Cosmology


@dataclass(frozen=True)
class Settings:
    """What is the same for all mocks of a program; hashable, since it is compiled in.

    Attributes:
    - `cosmology`: see `mocks.cosmology`.
    - `box`: side of the periodic cube, comoving Mpc.
    - `lgmp_min`: log10 of the least mass of a halo or subhalo, Msun.
    - `room`: rows for galaxies, centrals and satellites (`galaxies_room` says how many catalogued halos need).
    - `chunk`: rows computed at a time.
    - `concentration`: of the halos' NFW profiles.
    - `line_modifier`: c0, c1, c2: log SFR as lines see it is log SFR + c0 + c1 log SFR + c2 (log SFR)^2.
    - `line_scatter`: standard deviation of that, in dex.
    - `histories`: whether each galaxy's history is told, too.
    """

    cosmology: Cosmology
    box: float
    lgmp_min: float
    room: int
    chunk: int = 256
    concentration: float = 5.0
    line_modifier: tuple[float, float, float] = (0.0, 0.0, 0.0)
    line_scatter: float = 0.0
    histories: bool = False


def populate(
    key: Any, logm: Any, position: Any, velocity: Any, count: Any, redshift: Any, settings: Settings
) -> dict[str, Any]:
    """Galaxies in halos; to be called within `jax.jit` or as it is (it is jitted, `settings` static).

    Arguments:
    - `key`: of this mock and no other: a typed key of `jax.random`.
    - `logm`: (halo room,), log10 of masses, Msun, physical. Rows from `count` on may hold anything.
    - `position`, `velocity`: (halo room, 3), comoving Mpc in [0, box), km/s.
    - `count`: halos there are, at most the room.
    - `redshift`: a number; dynamic.

    Returns, in the precision it is computed in (`recorded` makes single of it):
    - `n_galaxies`: rows that count; first the centrals in the order of halos, then satellites in the order of hosts.
    - `lost`: galaxies that there was no room for; 0 as a rule. What is there is right, but not all.
    - `galaxies.position`, `galaxies.velocity`: (room, 3); `galaxies.upid` (int32: row of the host's central, -1 of
      a central); `galaxies.logmp_t_obs`, `.logmp0`, `.logmu_t_inf`, `.logsm_t_obs`, `.logssfr_t_obs`, `.quenched`,
      `.lg_ha`, `.lg_oii`: (room,). Rows that do not count are 0.
    - with `settings.histories`: `galaxies.mah`, `galaxies.sfh` (room, 50) at the times `t_table` (50,), and
      diffmah's and diffstar's parameters by their names.
    """
    raise NotImplementedError


def galaxies_room(logm: Any, lgmp_min: float, chunk: int = 256) -> int:
    """Rows that galaxies of these halos (log10 masses, NumPy) need: the mean + 8 sigma, in whole chunks."""
    raise NotImplementedError


def recorded(made: dict[str, Any], box: float) -> dict[str, Any]:
    """The same in single precision (counts in int32), positions still below `box`."""
    raise NotImplementedError
