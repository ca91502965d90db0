"""Randomness from identity.

One global seed, and named channels derived from it by sha256, so that no two
consumers share a stream and none depends on the order in which it was asked.
A trial's key is folded from the `trials` channel and the first two 32-bit
words of its digest, inside the compiled program (see `staffa.experiment.perform`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

CHANNELS = ("trials", "space", "retry")
"""`trials`: keys of the trials; `space`: random, latin and sobol points; `retry`: jitter of back-off."""

KEY_WORDS = 4
"""32-bit words of the digest that are folded into a trial's key (128 bits: all of it)."""


@dataclass(frozen=True)
class SeedPack:
    """The seeds of a campaign.

    Arguments:
    - `global_seed`: the one number a user gives. Change it for an independent repetition.
    - `pinned`: channels given by hand instead of derived, to vary one thing alone.
    """

    global_seed: int = 0
    pinned: Mapping[str, int] = field(default_factory=dict)

    def channel(self, name: str) -> int:
        """The seed of a channel: 31 bits, pinned or derived by sha256."""
        if name in self.pinned:
            return int(self.pinned[name])
        text = f"{self.global_seed}/{name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") & 0x7FFFFFFF


def key_words(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """The words folded into keys: (n, 16) bytes of digest -> (n, KEY_WORDS) big-endian words."""
    words = np.ascontiguousarray(digests).view(">u4").astype(np.uint32)
    return words[:, :KEY_WORDS]
