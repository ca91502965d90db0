"""What Dask is told, in the driver and in every worker; light, since its logging is set up at import."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    # A lost batch is re-issued by the driver, which knows what it was charged for.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "30 minutes",
    # Nannies bring dead workers back. A cluster that looks after 15 s and finds one dead once more
    # (several trials that kill their process) would give that worker up for good.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.scheduler.active-memory-manager.start": False,
    # Outputs wait in memory for their write and are never big enough to spill; a paused worker
    # would stall the campaign in silence.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    # Watching every 10 ms costs more than all bookkeeping of a batch.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.log-length": 600,
    "distributed.admin.log-length": 1000,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.tick.limit": "30s",
    "distributed.comm.timeouts.connect": "30s",
    "distributed.diagnostics.nvml": False,
    "distributed.logging": {
        "distributed": "error",
        "distributed.nanny": "critical",
        "bokeh": "error",
        "tornado": "error",
    },
}
