"""Lanes of a batch as text: `0-255,300`."""

from __future__ import annotations

from collections.abc import Iterable


def spans(lanes: Iterable[int]) -> str:
    """Write lanes as ranges: `0-255,300`."""
    pieces: list[list[int]] = []
    for lane in sorted(lanes):
        if pieces and lane == pieces[-1][1] + 1:
            pieces[-1][1] = lane
        else:
            pieces.append([lane, lane])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pieces)


def unspan(text: str) -> list[int]:
    """The inverse of `spans`."""
    lanes: list[int] = []
    for piece in filter(None, text.split(",")):
        first, _, last = piece.partition("-")
        lanes += range(int(first), int(last or first) + 1)
    return lanes
