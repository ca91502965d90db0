"""Memory of a process, against what it is known to have taken."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from staffa.execution import gauges

PRINT = "from staffa.execution import gauges; print(gauges.memory()['rss_peak'])"


def test_what_was_taken_is_seen_and_what_was_given_back_stays_the_peak() -> None:
    before = gauges.memory()
    taken = np.ones(1 << 24)  # 128 MiB, far above what an allocator keeps for itself
    held = gauges.memory()
    del taken
    after = gauges.memory()
    assert held["rss"] >= before["rss"] + (100 << 20)
    assert after["rss"] <= held["rss"] - (100 << 20)
    # The kernel counts in portions, each of these a little apart from the other.
    assert after["rss_peak"] >= held["rss"] - (16 << 20) and after["rss_peak"] > after["rss"]


def test_a_process_does_not_inherit_the_peak_of_who_started_it() -> None:
    """As the resource module's does on Linux: a worker would look as big as its nanny."""
    taken = np.ones(1 << 26)  # 512 MiB
    own = gauges.memory()["rss_peak"]
    child = int(subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True).stdout)
    assert own > taken.nbytes > child


def test_elsewhere_the_resource_module_tells(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(gauges, "OWN", tmp_path / "no-proc")
    found = gauges.memory()
    assert found["rss_peak"] > 1 << 20 and "rss" not in found


def test_a_device_that_counts_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    class Device:
        told = {"bytes_in_use": 5, "peak_bytes_in_use": 9, "bytes_limit": 100, "num_allocs": 3}

        def memory_stats(self) -> dict[str, int] | None:
            return self.told

    device = Device()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert {"device": 5, "device_peak": 9, "device_limit": 100}.items() <= gauges.memory().items()
    device.told = None
    assert "device" not in gauges.memory()
    monkeypatch.setattr(jax, "local_devices", lambda: 1 / 0)
    assert "device" not in gauges.memory()


@pytest.mark.gpu
def test_a_gpu_counts() -> None:
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    kept = jnp.ones((1 << 22,)).block_until_ready()
    found = gauges.memory()
    assert found["device_peak"] >= found["device"] >= kept.nbytes, jax.local_devices()
    assert found["device_limit"] > found["device_peak"]
