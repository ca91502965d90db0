"""How bright galaxies are in two lines: SFR = 7.9e-42 L(H alpha) = 1.4e-41 L([O II]) (Kennicutt, ARA&A 36:189, 1998).

Lines see log SFR + c0 + c1 log SFR + c2 (log SFR)^2 and a normal scatter, both of them nothing by default.
"""

from __future__ import annotations

import math
from typing import Any

import jax

LG_HA = -math.log10(7.9e-42)
LG_OII = -math.log10(1.4e-41)
"""log10 of erg/s for each Msun/yr."""


def lines(keys: Any, lgsfr: Any, modifier: tuple[float, float, float], scatter: float) -> tuple[Any, Any]:
    """log10 erg/s of H alpha and [O II], from log10 SFR in Msun/yr."""
    constant, linear, square = modifier
    seen = lgsfr + constant + linear * lgsfr + square * lgsfr**2
    if scatter:
        seen = seen + scatter * jax.vmap(jax.random.normal)(keys)
    return seen + LG_HA, seen + LG_OII
