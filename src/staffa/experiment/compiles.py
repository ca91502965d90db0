"""Counting what XLA compiles in this process: programs come once, or from the persistent cache."""

from __future__ import annotations

import functools
from collections import Counter

COMPILED = "/jax/core/compile/backend_compile_duration"
FROM_CACHE = "/jax/compilation_cache/cache_hits"


def compiles() -> int:
    """Programs compiled by this process since it first asked, those found in the cache left out."""
    counts = _counts()
    return counts[COMPILED] - counts[FROM_CACHE]


@functools.lru_cache(maxsize=1)
def _counts() -> Counter[str]:
    import jax.monitoring

    counts: Counter[str] = Counter()

    def _seconds(event: str, duration_secs: float, **_: object) -> None:
        counts.update([event])

    jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
    jax.monitoring.register_event_duration_secs_listener(_seconds)
    return counts
