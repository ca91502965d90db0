"""How galaxies formed their stars: diffstar and its population model (Alarcon et al., MNRAS 518:562, 2023).

    SFR = fb M(t) 10^(lgy + s (lg M - lgmcrit)) 10^q(lg t),    s = sigmoid(lg M; lgmcrit, 9, indx_lo, indx_hi)

q is how star formation is quenched, and rejuvenates. The kernels are diffstar's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from diffmah.diffmah_kernels import DiffmahParams
from diffstar import DiffstarParams, calc_sfh_galpop
from diffstar.diffstarpop import DEFAULT_DIFFSTARPOP_PARAMS
from diffstar.diffstarpop.mc_diffstarpop_mgash import mc_diffstar_params_singlegal

from mocks.cosmology import Cosmology

TIMES = 50
FIRST = 0.01
"""A history is told at `TIMES` ages, evenly spaced from `FIRST` Gyr until now."""


class Infall(NamedTuple):
    """What a galaxy's surroundings were, each (n,), as diffstar wants it; of a central -1, 0, 0 and -100."""

    upid: Any
    """Row of the host's central."""
    lgmu: Any
    """log10 of its mass over the host's when it fell in."""
    logmhost: Any
    """log10 Msun of the host then."""
    since: Any
    """Gyr ago."""


class Stars(NamedTuple):
    """`quenched` (n,), `params` diffstar's (n,), `sfr` (n, times) Msun/yr, `logsm` (n,) log10 Msun formed."""

    quenched: Any
    params: DiffstarParams
    sfr: Any
    logsm: Any


def ages(age: Any) -> Any:
    """The ages, Gyr, at which histories are told."""
    return jnp.linspace(FIRST, age, TIMES)


def stars(keys: Any, history: DiffmahParams, logmp0: Any, infall: Infall, age: Any, cosmology: Cosmology) -> Stars:
    """Draw how galaxies form stars, and follow it until an age (Gyr).

    `logmp0` is each halo's mass (log10 Msun) today. Stellar mass is the integral of SFR by trapezoids.
    """
    drawn = jax.vmap(mc_diffstar_params_singlegal, (None, *[0] * 7))(
        DEFAULT_DIFFSTARPOP_PARAMS, logmp0, history.t_peak, *infall, keys
    )
    pairs = zip(drawn.diffstar_params_q, drawn.diffstar_params_ms, strict=True)
    params = DiffstarParams(*(jnp.where(drawn.mc_is_q, *pair) for pair in pairs))
    told = calc_sfh_galpop(
        params, history, ages(age), lgt0=cosmology.lgt0, fb=cosmology.baryon_fraction, return_smh=True
    )
    return Stars(drawn.mc_is_q, params, told.sfh, jnp.log10(told.smh[:, -1]))
