"""Where satellites are in their host and how they move: the profile of Navarro, Frenk & White (ApJ 490:493, 1997).

Radii hold 200 times the mean density of matter: M = 4/3 pi 200 rho_m R^3, comoving, so the same at all redshifts.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from mocks.cosmology import GRAVITY, Cosmology

NEWTON = 10
"""Steps until a radius is exact; 7 are enough for concentrations up to 30."""


def radius(logm: Any, cosmology: Cosmology) -> Any:
    """R200m, comoving Mpc, of a mass (log10 Msun)."""
    return (10.0**logm / (4 / 3 * math.pi * 200 * cosmology.matter_density)) ** (1 / 3)


def virial_velocity(logm: Any, redshift: Any, cosmology: Cosmology) -> Any:
    """sqrt(G M / R), km/s, R in physical Mpc."""
    return jnp.sqrt(GRAVITY * 10.0**logm * (1 + redshift) / radius(logm, cosmology))


def enclosed(y: Any) -> Any:
    """Mass within y scale radii, but for a factor: ln(1 + y) - y / (1 + y)."""
    return jnp.log1p(y) - y / (1 + y)


def nfw_radii(uniform: Any, concentration: float) -> Any:
    """r / R at which a share `uniform` of the mass is enclosed.

    That is (-1 / W0(-exp(-u m(c) - 1)) - 1) / c; Lambert's W is had by Newton's method, from its series about the
    centre. The mass is convex in y below 1 and concave above: the start is below the root above 1, so all steps end.
    """
    mass = jnp.maximum(uniform, 1e-30) * (math.log1p(concentration) - concentration / (1 + concentration))
    root = jnp.sqrt(2 * mass)
    y = root + 2 / 3 * mass * 2
    for _ in range(NEWTON):
        y = y - (enclosed(y) - mass) * (1 + y) ** 2 / y
    return y / concentration


def directions(uniform: Any) -> Any:
    """(n, 3) unit vectors, even over the sphere, from (n, 2) uniforms."""
    cosine, angle = 2 * uniform[:, 0] - 1, 2 * math.pi * uniform[:, 1]
    sine = jnp.sqrt(1 - cosine**2)
    return jnp.stack([sine * jnp.cos(angle), sine * jnp.sin(angle), cosine], axis=1)
