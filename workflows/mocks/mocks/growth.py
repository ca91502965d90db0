"""How halos came to their masses: diffmah's population of histories (Hearin et al., Open J. Astrophys. 4:7, 2021).

    lg M(t) = logm0 + a(t) (lg t - lg t0),    a = sigmoid(lg t; logtc, 3.5, early, late);    as it is from t_peak on

The kernels are diffmah's. Halos form early or late; which, is drawn here, as diffmah does it for whole populations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from diffmah.diffmah_kernels import DiffmahParams, logmh_at_t_obs
from diffmah.diffmahpop_kernels.bimod_censat_params import DEFAULT_DIFFMAHPOP_PARAMS, get_component_model_params
from diffmah.diffmahpop_kernels.mc_bimod_cens import mc_diffmah_params_singlecen
from diffmah.diffmahpop_kernels.mc_bimod_sats import mc_diffmah_params_singlesat
from diffmah.diffmahpop_kernels.t_peak_kernels import tp_pdf_sats, utp_pdf_kernels


def centrals(keys: Any, logm: Any, age: Any, lgt0: float) -> DiffmahParams:
    """Histories of halos that have these masses (log10 Msun) at this age of the universe (Gyr)."""
    return _drawn(mc_diffmah_params_singlecen, keys, logm, age, lgt0)


def satellites(keys: Any, logm: Any, age: Any, lgt0: float) -> DiffmahParams:
    """The same of subhalos: they have grown until they fell into their hosts."""
    return _drawn(_satellite, keys, logm, age, lgt0)


def mass_at(history: DiffmahParams, age: Any, lgt0: float) -> Any:
    """log10 Msun of each halo at an age, or each at its own."""
    return logmh_at_t_obs(history, age, lgt0)


def masses(history: DiffmahParams, ages: Any, lgt0: float) -> Any:
    """(halos, ages): log10 Msun."""
    return jax.vmap(logmh_at_t_obs, (0, None, None))(history, ages, lgt0)


def _drawn(kernel: Callable[..., Any], keys: Any, logm: Any, age: Any, lgt0: float) -> DiffmahParams:
    def one(key: Any, mass: Any) -> DiffmahParams:
        pick, rest = jax.random.split(key)
        early, late, chance = kernel(DEFAULT_DIFFMAHPOP_PARAMS, mass, age, rest, lgt0)
        is_early = jax.random.uniform(pick) < chance
        return DiffmahParams(*(jnp.where(is_early, *pair) for pair in zip(early, late, strict=True)))

    history = jax.vmap(one)(keys, logm)
    # Parameters are drawn around their mean given the mass: shifted, the mass is it exactly.
    return history._replace(logm0=history.logm0 + logm - mass_at(history, age, lgt0))


def _satellite(params: Any, logm: Any, age: Any, key: Any, lgt0: float) -> Any:
    """diffmah's `mc_diffmah_params_singlesat`, told t_peak: it would else draw that twice, at most of a mock's cost."""
    peak_key, _ = jax.random.split(key)  # as it does itself
    return mc_diffmah_params_singlesat(params, logm, age, key, lgt0, _peak(params, logm, age, peak_key))


def _peak(params: Any, logm: Any, age: Any, key: Any) -> Any:
    """diffmah's `mc_tpeak_singlesat`: t_peak / age is normal between 0.1 and 1, drawn by a table of its distribution.

    The distribution is had from erf in the place of `jax.scipy.stats.truncnorm`: the same to rounding (the mean is
    never far outside), and twenty times cheaper.
    """
    known = get_component_model_params(params)[1]
    mean, spread = tp_pdf_sats._get_utp_loc(known, logm, age), tp_pdf_sats._get_utp_scale(known, logm, age)
    low, high, margin = utp_pdf_kernels.X_MIN, utp_pdf_kernels.X_MAX, utp_pdf_kernels.EPS

    def mass_from_low(x: Any) -> Any:
        return jax.scipy.special.erf((x - mean) / (spread * 2**0.5)) - jax.scipy.special.erf(
            (low - mean) / (spread * 2**0.5)
        )

    begin = jnp.maximum(mean - 4 * spread, low + margin)
    end = jnp.minimum(mean + 4 * spread, high - margin)
    table = jnp.linspace(begin, end, utp_pdf_kernels.NPTS_CDF_TABLE)
    share = jnp.interp(jax.random.uniform(key), mass_from_low(table) / mass_from_low(high), table)
    return share * age
