"""How many rows a synthetic mock needs, by quadrature over the mass function; in NumPy, before any program is made.

Eight standard deviations would be too few: a box has few clusters, and one more of them brings hundreds of satellites.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mocks import mass_function, subhalos
from mocks.populate import whole_chunks

HIGHEST_REDSHIFT = 10.0
CHANCE = 1e-6
"""Of a mock that does not fit, at most."""


def needed(box: float, lgmp_min: float, lowest_redshift: float, chunk: int) -> tuple[int, int]:
    """Rows for halos and for galaxies, whole chunks: one mock in a million needs more, from the lowest redshift on."""
    edges = np.linspace(lgmp_min, mass_function.HIGHEST, 161)
    satellites = np.asarray(subhalos.mean_count((edges[1:] + edges[:-1]) / 2, lgmp_min))
    bounds = []
    for redshift in np.linspace(lowest_redshift, HIGHEST_REDSHIFT, 50):
        halos = -np.diff(box**3 * mass_function.density_above(edges, redshift))
        bounds.append((_bound(halos, np.zeros_like(halos)), _bound(halos, satellites)))
    halo_room, room = (whole_chunks(max(found), chunk) for found in zip(*bounds, strict=True))
    return halo_room, room


def _bound(halos: Any, satellites: Any) -> float:
    """The number that galaxies exceed with a chance of one in a million at most.

    `halos` are Poisson means of bins, `satellites` the mean number of those of a halo in each. Chernoff's bound:
    P(N >= n) <= exp(K(t) - t n) for all t > 0, K(t) = sum of halos (exp(t + satellites (exp(t) - 1)) - 1).
    """
    tilt = np.geomspace(1e-4, 5, 120)[:, None]
    with np.errstate(over="ignore"):
        generating = (halos * np.expm1(tilt + satellites * np.expm1(tilt))).sum(axis=1)
    return float(((generating - math.log(CHANCE)) / tilt[:, 0]).min())
