"""How many trials make a batch, where nobody says."""

from __future__ import annotations

BATCH_BYTES = 32 << 20
BATCH_TRIALS = 1536
"""A batch is as many trials as fill 32 MiB, 1,536 at most: the size at which the cost of a task,
a receipt and a handful of files is spread thin (of trials of 50 kB, 96 in a batch of 4 MiB gave 0.7 of the
rate of 768). Sizes are 3 x 2**k, so that both powers of two and
three times such are widths that divide them."""
FEWEST_BATCHES = 16
SMALLEST_BATCH = 64
"""Small campaigns get smaller batches, so that there is work for several workers and something
to see on the way; below 64 trials the files per trial would outweigh it."""
PLAIN_BATCH = 768
"""Trials of a batch of plain Python experiments: bounds files per trial, whatever a trial takes."""
SEARCH_BATCHES = 64
SEARCH_BATCH = 256
SEARCH_SECONDS = 0.5
"""A search asks in 64 batches or more, of 256 trials at most, and of half a second at most where trials run one by
one: what it asks for while others are under way it asks for without knowing what they bring."""
PLAIN_SECONDS = 300.0
"""… unless the pilot trial says that such a batch would take longer than this."""


def auto_batch(each: int, total: int, *, plain: bool = False, seconds: float | None = None) -> int:
    """Trials of a batch.

    Arguments:
    - `each`: bytes a trial records; `total`: trials of the campaign.
    - `plain`: whether trials are plain Python; `seconds`: what the pilot trial of such a group took.
    """
    size = min(BATCH_TRIALS, max(BATCH_BYTES // max(each, 1), 1))
    if plain:
        size = min(size, PLAIN_BATCH)
        if seconds:
            size = min(size, max(int(PLAIN_SECONDS / seconds), 1))
    size = _rounded(size)
    while size // 2 >= SMALLEST_BATCH and total < FEWEST_BATCHES * size:
        size //= 2
    return size


def search_batch(trials: int, seconds: float | None) -> int:
    """Trials that a search asks for at a time, at most: it is to learn from the others before.

    Arguments:
    - `trials`: how many there are to be; `seconds`: what one takes, of plain Python.
    """
    size = min(max(trials // SEARCH_BATCHES, 1), SEARCH_BATCH)
    if seconds is not None:
        size = min(size, max(int(SEARCH_SECONDS / seconds), 1) if seconds else size)
    return 1 << (size.bit_length() - 1)


def _rounded(size: int) -> int:
    """The largest 3 x 2**k that is not above `size`."""
    return 3 << ((size // 3).bit_length() - 1) if size >= 3 else size
