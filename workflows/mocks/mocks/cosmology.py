"""Flat universes of matter and a cosmological constant, by name.

Units of all the package: physical solar masses and comoving Mpc (no h in either), km/s, Gyr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from staffa.errors import near

GRAVITY = 4.30091e-9
"""Newton's constant, Mpc (km/s)^2 / Msun."""

HUBBLE_GYR = 977.7922216807891
"""Gyr that 1 / (km/s/Mpc) lasts: Mpc 3.0856775814913673e19 km, Gyr 3.15576e16 s."""


@dataclass(frozen=True)
class Cosmology:
    """One of them.

    Attributes:
    - `hubble`: h, in 100 km/s/Mpc.
    - `matter`, `baryons`: shares of the critical density today.
    """

    name: str
    hubble: float
    matter: float
    baryons: float

    @property
    def baryon_fraction(self) -> float:
        """Baryons' share of matter."""
        return self.baryons / self.matter

    @property
    def matter_density(self) -> float:
        """Mean density of matter, Msun / comoving Mpc^3."""
        return self.matter * 3 * (100 * self.hubble) ** 2 / (8 * math.pi * GRAVITY)

    @property
    def age_today(self) -> float:
        """Gyr."""
        return self._scale * math.asinh(self._ratio)

    @property
    def lgt0(self) -> float:
        """log10 of the age today in Gyr, as diffmah and diffstar want it."""
        return math.log10(self.age_today)

    def age(self, redshift: Any) -> Any:
        """Gyr since the beginning at a redshift: 2 / (3 H0 sqrt(OL)) asinh(sqrt(OL / Om) (1 + z)^-1.5)."""
        return self._scale * jnp.arcsinh(self._ratio * (1 + redshift) ** -1.5)

    @property
    def _ratio(self) -> float:
        return math.sqrt((1 - self.matter) / self.matter)

    @property
    def _scale(self) -> float:
        return 2 / 3 * HUBBLE_GYR / (100 * self.hubble) / math.sqrt(1 - self.matter)


COSMOLOGIES: Mapping[str, Cosmology] = {
    known.name: known
    for known in (
        Cosmology("Planck18", 0.6766, 0.30966, 0.04897),  # Astron. Astrophys. 641:A6 (2020)
        Cosmology("WMAP9", 0.6932, 0.2865, 0.04628),  # Astrophys. J. Suppl. 208:19 (2013)
        Cosmology("AbacusSummit", 0.6736, 0.31519, 0.04930),  # Mon. Not. R. Astron. Soc. 508:4017 (2021), c000
    )
}


def cosmology(name: str) -> Cosmology:
    """The one of this name. Raises `ValueError` with the near names."""
    if name not in COSMOLOGIES:
        raise ValueError(f"cosmology: {name!r}; {near(str(name), COSMOLOGIES)}")
    return COSMOLOGIES[name]
