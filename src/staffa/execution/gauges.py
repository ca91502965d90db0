"""What a worker process has in memory, read in a fraction of a millisecond."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

OWN = Path("/proc/self/status")
KINDS = {"VmRSS": "rss", "VmHWM": "rss_peak"}
DEVICE = {"bytes_in_use": "device", "peak_bytes_in_use": "device_peak", "bytes_limit": "device_limit"}
"""What JAX calls it, and what an event does (`staffa.telemetry.events.Memory`)."""


def memory() -> dict[str, int]:
    """Bytes in memory and on the device, now and at most; what this machine does not tell is missing."""
    return _resident() | _on_device()


def _resident() -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        rows = (line.split() for line in OWN.read_text().splitlines())
        return {KINDS[row[0][:-1]]: int(row[1]) << 10 for row in rows if row and row[0][:-1] in KINDS}
    # On Linux this one is inherited from whoever started the process, so it is the second choice there.
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return {"rss_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _on_device() -> dict[str, int]:
    """Nothing on a CPU, where JAX keeps no count, and before JAX is used."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {}
    with contextlib.suppress(Exception):  # a backend that keeps no count says so in many ways
        told = jax.local_devices()[0].memory_stats() or {}
        return {name: int(told[key]) for key, name in DEVICE.items() if key in told}
    return {}
