"""What is measured of a mock: how many there are by mass, and the power spectrum of galaxies."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

STELLAR_MASSES = np.arange(7.0, 12.51, 0.25)
"""Edges of the bins in which galaxies are counted, log10 Msun."""
WIDTH = 0.25
"""Of the bins in which halos are counted, dex."""


def halo_masses(lgmp_min: float) -> np.ndarray:
    """Edges of the bins in which halos are counted: from the least mass, log10 Msun, to 16 or the first beyond it."""
    return np.arange(lgmp_min, 16.0 + WIDTH, WIDTH)


def middles(edges: Any) -> list[float]:
    """Of bins, as axes are labelled."""
    return np.round((edges[1:] + edges[:-1]) / 2, 6).tolist()


def counts(values: Any, number: Any, edges: Any) -> Any:
    """How many of the first `number` values (n,) are in each bin [edge, next edge): int32. Others are in none."""
    edges = jnp.asarray(edges)
    place = jnp.searchsorted(edges, values, side="right")
    place = jnp.where(jnp.arange(len(values)) < number, place, 0)
    return jnp.zeros(len(edges) + 1, jnp.int32).at[place].add(1)[1:-1]


def wavenumbers(box: float, grid: int) -> np.ndarray:
    """k of each bin (1/Mpc): the mean |k| of the waves in it."""
    length, bins, weight = _waves(grid)
    sums = [
        np.bincount(bins.ravel(), (weight * value).ravel(), grid // 2 + 1)[1:] for value in (length, 1.0 + 0 * length)
    ]
    return np.asarray(2 * np.pi / box * sums[0] / sums[1])


def power_spectrum(position: Any, number: Any, box: float, grid: int) -> Any:
    """P(k) of the first `number` points (n, 3) in a periodic cube, Mpc^3, shot noise in it: (grid / 2,).

    Points are put on a mesh of grid^3 cells as clouds in cells. P = V <|d_k|^2> / prod(1 - 2/3 sin^2(k_i cell / 2))
    over the waves of a bin, d_k the discrete Fourier transform of the overdensity over grid^3; the product is what
    clouds in cells leave of shot noise, aliases included, so that Poisson points have V / N at all k (Jing, ApJ
    620:559, 2005, eq. 20).
    Bin b = 1 .. grid / 2 holds the waves whose length in units of 2 pi / box is within [b - 1/2, b + 1/2).
    NaN where there is no point.
    """
    mesh = clouds_in_cells(position, number, box, grid)
    overdensity = mesh / (number / grid**3) - 1.0
    return power_of(overdensity, box)


def power_of(overdensity: Any, box: float) -> Any:
    """The same from an overdensity on a mesh (grid, grid, grid)."""
    grid = len(overdensity)
    _, bins, weight = _waves(grid)
    waves = jnp.fft.rfftn(overdensity) / grid**3
    power = weight / _window(grid) * (waves.real**2 + waves.imag**2)
    total = jnp.zeros(grid // 2 + 1).at[bins.ravel()].add(power.ravel())[1:]
    return box**3 * total / np.bincount(bins.ravel(), weight.ravel(), grid // 2 + 1)[1:]


def clouds_in_cells(position: Any, number: Any, box: float, grid: int) -> Any:
    """Points' numbers on a mesh of grid^3: each is shared by the eight nearest cells' centres, (i + 1/2) box / grid."""
    place = position / box * grid - 0.5
    below = jnp.floor(place)
    apart = place - below
    below = below.astype(jnp.int32)
    counts_here = (jnp.arange(len(position)) < number).astype(apart.dtype)
    mesh = jnp.zeros((grid,) * 3, apart.dtype)
    for corner in np.ndindex(2, 2, 2):
        share = jnp.prod(jnp.where(np.array(corner) == 1, apart, 1 - apart), axis=1)
        cell = (below + np.array(corner)) % grid
        mesh = mesh.at[cell[:, 0], cell[:, 1], cell[:, 2]].add(share * counts_here)
    return mesh


def _waves(grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each wave of a real transform: its length in fundamentals, its bin (0: none), how many waves it stands for."""
    numbers = np.fft.fftfreq(grid, 1 / grid)
    half = np.arange(grid // 2 + 1)
    squared = (numbers[:, None, None] ** 2 + numbers[None, :, None] ** 2 + half**2).astype(int)
    length = np.sqrt(squared)
    bins = np.floor(length + 0.5).astype(np.int32)
    weight = np.broadcast_to(np.where((half == 0) | (2 * half == grid), 1.0, 2.0), squared.shape)
    return length, np.where(bins <= grid // 2, bins, 0).astype(np.int32), weight


def _window(grid: int) -> np.ndarray:
    """Shot noise of clouds in cells at each wave, over that of points."""
    axis = 1 - 2 / 3 * np.sin(np.pi * np.fft.fftfreq(grid)) ** 2
    return np.asarray(axis[:, None, None] * axis[None, :, None] * axis[: grid // 2 + 1])
