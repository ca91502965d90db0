"""Halos -> galaxies: one program for all redshifts and all numbers of halos.

Arrays are padded: `room` rows of which `count` count. Loops go over chunks of rows, as many as there are, so that what
is padded costs nothing. Every row draws with a key of its own: neither room nor chunk changes a draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffmah.diffmah_kernels import DiffmahParams

from mocks import emission, growth, phase_space, star_formation, subhalos
from mocks.chunks import in_chunks, only
from mocks.cosmology import Cosmology
from mocks.draws import Stage, normals, row_keys, uniforms
from mocks.star_formation import Infall

SIGMAS = 8
"""Room beyond the mean number, in standard deviations."""


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
    if not settings.chunk > 0 or settings.room < 1:
        raise ValueError(f"room: {settings.room} rows in chunks of {settings.chunk}")
    return dict(_populate(key, logm, position, velocity, count, redshift, settings))


def galaxies_room(logm: Any, lgmp_min: float, chunk: int = 256) -> int:
    """Rows that galaxies of these halos (log10 masses, NumPy) need: the mean + 8 sigma, in whole chunks."""
    satellites = float(np.sum(subhalos.mean_count(np.asarray(logm, np.float64), lgmp_min)))
    return whole_chunks(len(logm) + satellites + SIGMAS * math.sqrt(satellites), chunk)


def whole_chunks(rows: float, chunk: int) -> int:
    """So many rows or more, at least one chunk."""
    return max(math.ceil(rows / chunk), 1) * chunk


def recorded(made: dict[str, Any], box: float) -> dict[str, Any]:
    """The same in single precision (counts in int32), positions still below `box`."""
    single = {
        name: value.astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value
        for name, value in made.items()
    }
    side = jnp.float32(box)
    # Just below the box in double precision may be the box in single: the same place as 0.
    wrapped = {name: jnp.where(value >= side, 0, value) for name, value in single.items() if name.endswith(".position")}
    return single | wrapped


class _Galaxies(NamedTuple):
    """What is known of galaxies before they form stars, each (rows, …)."""

    position: Any
    velocity: Any
    logmp: Any
    logmp0: Any
    infall: Infall
    history: DiffmahParams


@partial(jax.jit, static_argnames="settings")
def _populate(
    key: Any, logm: Any, position: Any, velocity: Any, count: Any, redshift: Any, settings: Settings
) -> dict[str, Any]:
    age = settings.cosmology.age(redshift)
    hosts = jnp.minimum(count, settings.room).astype(jnp.int32)
    logm, position, velocity = (jnp.asarray(one, float) for one in (logm, position, velocity))

    def central(rows: Any) -> tuple[Any, _Galaxies]:
        return _centrals(
            key, rows, *(one.at[rows].get(mode="clip") for one in (logm, position, velocity)), age, settings
        )

    room, chunk = settings.room, settings.chunk
    number, galaxies = in_chunks(central, hosts, room, chunk)
    until = jnp.cumsum(only(number, hosts, room))
    wanted = until[-1]

    def satellite(rows: Any) -> _Galaxies:
        host = jnp.minimum(jnp.searchsorted(until, rows, side="right"), jnp.maximum(hosts - 1, 0))
        of_host = jax.tree.map(lambda array: array[host], galaxies)
        return _satellites(key, rows, host.astype(jnp.int32), of_host, age, redshift, settings)

    fitting = jnp.minimum(wanted, room - hosts)
    galaxies = in_chunks(satellite, fitting, room, chunk, galaxies, hosts)
    total = (hosts + fitting).astype(jnp.int32)
    told = in_chunks(lambda rows: _told(key, rows, galaxies, age, settings), total, room, chunk)
    lost = (jnp.asarray(count) - hosts + wanted - fitting).astype(jnp.int32)
    columns = {f"galaxies.{name}": only(value, total, room) for name, value in told.items()}
    times = {"t_table": star_formation.ages(age)} if settings.histories else {}
    return {"n_galaxies": total, "lost": lost, **columns, **times}


def _centrals(
    key: Any, rows: Any, logm: Any, position: Any, velocity: Any, age: Any, settings: Settings
) -> tuple[Any, _Galaxies]:
    """The number of subhalos of some halos, and their central galaxies."""
    means = subhalos.mean_count(logm, settings.lgmp_min)
    keys = row_keys(key, Stage.SUBHALO_COUNT, rows)
    number = jax.vmap(jax.random.poisson)(keys, means).astype(jnp.int32)
    lgt0 = settings.cosmology.lgt0
    history = growth.centrals(row_keys(key, Stage.CENTRAL_GROWTH, rows), logm, age, lgt0)
    nothing = jnp.zeros_like(logm)
    infall = Infall(jnp.full(rows.shape, -1, jnp.int32), nothing, nothing, nothing - 100.0)
    logmp0 = growth.mass_at(history, 10.0**lgt0, lgt0)
    return number, _Galaxies(position, velocity, logm, logmp0, infall, history)


def _satellites(
    key: Any, rows: Any, host: Any, of_host: _Galaxies, age: Any, redshift: Any, settings: Settings
) -> _Galaxies:
    """Some satellites, by their number among satellites, of these hosts (whose central galaxies are given)."""
    cosmology = settings.cosmology
    share = subhalos.shares(uniforms(key, Stage.SUBHALO_MASS, rows), of_host.logmp, settings.lgmp_min)
    logmp = of_host.logmp + share
    history = growth.satellites(row_keys(key, Stage.SATELLITE_GROWTH, rows), logmp, age, cosmology.lgt0)
    then = jnp.minimum(history.t_peak, age)
    logmhost = growth.mass_at(of_host.history, then, cosmology.lgt0)
    lgmu = jnp.minimum(growth.mass_at(history, then, cosmology.lgt0) - logmhost, 0.0)

    apart = phase_space.nfw_radii(uniforms(key, Stage.SATELLITE_RADIUS, rows), settings.concentration)
    apart = apart * phase_space.radius(of_host.logmp, cosmology)
    towards = phase_space.directions(uniforms(key, Stage.SATELLITE_DIRECTION, rows, (2,)))
    spread = phase_space.virial_velocity(of_host.logmp, redshift, cosmology) / math.sqrt(3)
    return _Galaxies(
        position=(of_host.position + apart[:, None] * towards) % settings.box,
        velocity=of_host.velocity + spread[:, None] * normals(key, Stage.SATELLITE_VELOCITY, rows, (3,)),
        logmp=logmp,
        logmp0=growth.mass_at(history, 10.0**cosmology.lgt0, cosmology.lgt0),
        infall=Infall(host, lgmu, logmhost, age - then),
        history=history,
    )


def _told(key: Any, rows: Any, galaxies: _Galaxies, age: Any, settings: Settings) -> dict[str, Any]:
    """The columns of some galaxies, by their rows."""
    own = jax.tree.map(lambda array: array.at[rows].get(mode="clip"), galaxies)
    cosmology = settings.cosmology
    keys = row_keys(key, Stage.STAR_FORMATION, rows)
    stars = star_formation.stars(keys, own.history, own.logmp0, own.infall, age, cosmology)
    lgsfr = jnp.log10(stars.sfr[:, -1])
    line_keys = row_keys(key, Stage.EMISSION, rows)
    lg_ha, lg_oii = emission.lines(line_keys, lgsfr, settings.line_modifier, settings.line_scatter)
    columns = {
        "position": own.position,
        "velocity": own.velocity,
        "upid": own.infall.upid,
        "logmp_t_obs": own.logmp,
        "logmp0": own.logmp0,
        "logmu_t_inf": own.infall.lgmu,
        "logsm_t_obs": stars.logsm,
        "logssfr_t_obs": lgsfr - stars.logsm,
        "quenched": stars.quenched,
        "lg_ha": lg_ha,
        "lg_oii": lg_oii,
    }
    if not settings.histories:
        return columns
    mah = growth.masses(own.history, star_formation.ages(age), cosmology.lgt0)
    return {**columns, "mah": mah, "sfh": stars.sfr, **own.history._asdict(), **stars.params._asdict()}
