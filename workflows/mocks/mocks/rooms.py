"""How many rows a synthetic mock needs: mean numbers and their spread, by quadrature over the mass function.

In NumPy: it is asked before any program is made.
"""

from __future__ import annotations

import math

import numpy as np

from mocks import mass_function, subhalos
from mocks.populate import SIGMAS, whole_chunks

HIGHEST_REDSHIFT = 10.0
POINTS = 400


def needed(box: float, lgmp_min: float, lowest_redshift: float, chunk: int) -> tuple[int, int]:
    """Rows for halos and for galaxies: the most that any redshift from the lowest on has, the mean + 8 sigma.

    Halos are Poisson. A halo with s subhalos on average is 1 + s galaxies, of a variance of s about that: over all
    halos a compound Poisson number, with variance sum of (1 + s)^2 + s.
    """
    redshifts = np.linspace(lowest_redshift, HIGHEST_REDSHIFT, 200)[:, None]
    edges = np.linspace(lgmp_min, mass_function.HIGHEST, POINTS + 1)
    halos = -np.diff(box**3 * mass_function.density_above(edges, redshifts), axis=1)
    satellites = subhalos.mean_count((edges[1:] + edges[:-1]) / 2, lgmp_min)
    return (
        whole_chunks(_most(halos.sum(1), halos.sum(1)), chunk),
        whole_chunks(_most((halos * (1 + satellites)).sum(1), (halos * ((1 + satellites) ** 2 + satellites)).sum(1)), chunk),
    )


def _most(mean: np.ndarray, variance: np.ndarray) -> float:
    return max(float(one + SIGMAS * math.sqrt(other)) for one, other in zip(mean, variance, strict=True))
