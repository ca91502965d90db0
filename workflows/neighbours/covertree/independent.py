"""A maximal independent set of a graph, and which points it leaves over."""

from __future__ import annotations

import hashlib

import numpy as np

from .growing import Array

UNDECIDED, CHOSEN, DOMINATED = 0, 1, 2


def draws(seed: int, numbers: Array) -> Array:
    """A number for each point that looks random, and depends on nothing but the seed and the point's number.

    The mixing of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) from a start that the seed's digest gives.
    """
    start = int.from_bytes(hashlib.sha256(f"{seed} mis".encode()).digest()[:8], "big")
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def independent(rank: Array, left: Array, right: Array) -> tuple[Array, int]:
    """The nodes that a greedy choice in the order of `rank` (smallest first, all different) would take: a mask.

    In rounds, as Luby's algorithm (SIAM J. Comput. 15:1036, 1986): whoever comes before all its undecided neighbours
    is chosen, and they are out. Returns the mask and the number of rounds.
    """
    state = np.full(len(rank), UNDECIDED)
    rounds = 0
    while (state == UNDECIDED).any():
        rounds += 1
        open_ = (state[left] == UNDECIDED) & (state[right] == UNDECIDED)
        left, right = left[open_], right[open_]
        later = np.where(rank[left] > rank[right], left, right)
        first = state == UNDECIDED
        first[later] = False
        state[first] = CHOSEN
        state[left[state[right] == CHOSEN]] = DOMINATED
        state[right[state[left] == CHOSEN]] = DOMINATED
    return state == CHOSEN, rounds
