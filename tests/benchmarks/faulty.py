"""An ensemble of realizations x snapshots of which a known few misbehave; what `gauntlet.py` runs.

Which trial does what is drawn from a seed, here and in the harness alike, so that the harness knows
what should come of each.
"""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np

import staffa

FINE, NAN, RAISES, KILLS, HANGS = range(5)
OUTCOMES = {FINE: "ok", NAN: "nan", RAISES: "raised", KILLS: "killed", HANGS: "timeout"}
SHARES = {NAN: 0.015, RAISES: 0.004, KILLS: 0.0005, HANGS: 0.0005}


def kinds(realizations, snapshots, seed):
    """(realizations, snapshots): what each trial does; at least one of each sort misbehaves."""
    count = realizations * snapshots
    wanted = {kind: max(round(share * count), 1) for kind, share in SHARES.items()}
    codes = np.concatenate([np.full(number, kind, np.int8) for kind, number in wanted.items()])
    whole = np.zeros(count, np.int8)
    whole[np.random.default_rng(seed).choice(count, len(codes), replace=False)] = codes
    return whole.reshape(realizations, snapshots)


def misbehave(present):
    """What the worst of the trials on the device does."""
    if KILLS in present:
        os.kill(os.getpid(), signal.SIGKILL)
    if HANGS in present:
        time.sleep(3600)
    if RAISES in present:
        raise ValueError("this realization has no halos")


class Mock(staffa.Experiment):
    """Numbers of galaxies that diffuse from draw to draw, seen at one snapshot of one realization."""

    dims = {"counts": ("bin",)}

    def __init__(self, realizations: int, snapshots: int, faults: int, bins: int = 8):
        self.kinds = kinds(realizations, snapshots, faults)
        self.bins = bins

    def initialize(self, key, params):
        return jax.random.normal(key, (self.bins,)), jnp.int32(0)

    def step(self, key, state, params):
        # It depends on the step: what does not would be computed once, before the loop.
        x, number = state
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        place = params["realization"], params["snapshot"]
        spoilt = jax.pure_callback(self.look, shape, *place, number, vmap_method="broadcast_all")
        x = 0.9 * x + 0.1 * jax.random.normal(key, x.shape) + spoilt
        return (x, number + 1), {"counts": x, "density": jnp.exp(x).mean()}

    def look(self, realization, snapshot, number):
        """Zero for a healthy trial, NaN for a sick one; others do their worst at the first step."""
        found = self.kinds[np.asarray(realization), np.asarray(snapshot)]
        if not np.asarray(number).any():
            misbehave(found)
        return np.where(found == NAN, np.nan, 0.0).astype(np.float32)
