"""What the model sees of a backbone: each residue's 48 nearest, and how they lie to it.

Arrays are padded to a size in `BUCKETS`, so that proteins of like length share one compiled program.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from staffa.samplers.fitness.mpnn.weights import Weights
from staffa.samplers.fitness.structure import Backbone

BUCKETS = (200, 400, 800, 1200)
"""Residues that backbones are padded to."""
NEIGHBOURS = 48
DISTANCES = 16
"""Radial basis functions of each distance, from 2 to 22 Ångström."""
FARTHEST = 32
"""Places along the chain from which on all count alike."""
_LISTED = (
    "CA-CA N-N C-C O-O CB-CB CA-N CA-C CA-O CA-CB N-C N-O N-CB CB-C CB-O O-C N-CA C-CA O-CA CB-CA C-N O-N CB-N C-CB "
    "O-CB C-O"
)
PAIRS = tuple(tuple(pair.split("-")) for pair in _LISTED.split())
"""Atoms whose distances are told, in the order of the weights: of a residue and of its neighbour."""


class Padded(NamedTuple):
    """A backbone in a bucket of B residues."""

    coordinates: jax.Array | np.ndarray
    """(B, 4, 3), float32: N, CA, C, O."""
    mask: jax.Array | np.ndarray
    """(B,), bool: residues that are there."""
    places: jax.Array | np.ndarray
    """(B,), int32: places in the chain."""
    chains: jax.Array | np.ndarray
    """(B,), int32."""


def bucket(residues: int) -> int:
    """The size that so many residues are padded to. Raises `ValueError` for more than the largest."""
    if residues > BUCKETS[-1]:
        raise ValueError(f"structure: {residues} residues; there is room for {BUCKETS[-1]}")
    return next(size for size in BUCKETS if size >= residues)


def padded(backbone: Backbone, size: int) -> Padded:
    """A backbone filled up to `size` residues."""
    missing = size - len(backbone)

    def fill(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])

    there = np.arange(size) < len(backbone)
    return Padded(fill(backbone.coordinates), there, fill(backbone.places), fill(backbone.chains))


def nearest(backbone: Padded) -> tuple[jax.Array, jax.Array]:
    """Each residue's nearest by their CA atoms, itself among them: int32 (B, K), and which are there, (B, K).

    K is 48, or B where that is less.
    """
    ca = jnp.asarray(backbone.coordinates)[:, 1]
    both = jnp.asarray(backbone.mask)[:, None] & jnp.asarray(backbone.mask)[None]
    away = jnp.where(both, _distance(ca[:, None], ca[None]), jnp.inf)
    closeness, neighbours = jax.lax.top_k(-away, min(NEIGHBOURS, ca.shape[0]))
    return neighbours, jnp.isfinite(closeness)


def edges(weights: Weights, backbone: Padded, neighbours: jax.Array) -> jax.Array:
    """Features of each residue and each of its neighbours, (B, K, 128)."""
    atoms = _atoms(jnp.asarray(backbone.coordinates))
    parts = [_radial(_distance(atoms[own][:, None], atoms[other][neighbours])) for own, other in PAIRS]
    seen = jnp.concatenate([_positional(weights, backbone, neighbours), *parts], axis=-1)
    return normalized(weights, "features.norm_edges", seen @ weights["features.edge_embedding.weight"].T)


def normalized(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """Layer normalization over the last axis, with the scale and shift of that name."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    spread = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return centred * spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _atoms(coordinates: jax.Array) -> dict[str, jax.Array]:
    """The places of the four atoms, and of a CB where an ideal one would be; (B, 3) each."""
    n, ca, c, o = (coordinates[:, atom] for atom in range(4))
    b, d = ca - n, c - ca
    cb = -0.58273431 * jnp.cross(b, d) + 0.56802827 * b - 0.54067466 * d + ca
    return {"N": n, "CA": ca, "C": c, "O": o, "CB": cb}


def _distance(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum((one - other) ** 2, axis=-1) + 1e-6)


def _radial(distance: jax.Array) -> jax.Array:
    centres = np.linspace(2.0, 22.0, DISTANCES, dtype=np.float32)
    return jnp.exp(-(((distance[..., None] - centres) / (20.0 / DISTANCES)) ** 2))


def _positional(weights: Weights, backbone: Padded, neighbours: jax.Array) -> jax.Array:
    """How far along the chain, (B, K, 16): one class for each offset to 32, one more for other chains."""
    places, chains = jnp.asarray(backbone.places), jnp.asarray(backbone.chains)
    offset = jnp.clip(places[:, None] - places[neighbours] + FARTHEST, 0, 2 * FARTHEST)
    kind = jnp.where(chains[:, None] == chains[neighbours], offset, 2 * FARTHEST + 1)
    table = jnp.asarray(weights["features.embeddings.linear.weight"]).T
    return table[kind] + weights["features.embeddings.linear.bias"]
