"""What a process computes with: everything beside the program itself that decides the last bit of a result."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from staffa.trial import canonical

SETTINGS = (
    "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DISABLE_JIT", "JAX_ENABLE_X64", "JAX_NUMPY_DTYPE_PROMOTION",
    "JAX_PLATFORMS", "JAX_THREEFRY_PARTITIONABLE", "NPROC", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
"""Variables that, with `XLA_FLAGS`, decide which code XLA makes."""

PLAIN = ("numpy", "processor", "python")
"""All that counts where no JAX is involved."""


def backend() -> dict[str, str]:
    """This process's backend, as JAX has it.

    `device` (its kind), `runtime` (of the accelerator), `processor`, `flags`, and the versions of
    `jax`, `jaxlib`, `numpy` and `python`.
    """
    import jax

    device = jax.local_devices()[0]
    return {
        "device": str(device.device_kind),
        "runtime": " ".join(str(device.client.platform_version).split()),
        "processor": processor(),
        "flags": flags(os.environ),
        "jax": _version("jax"),
        "jaxlib": _version("jaxlib"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
    }


def backend_name(facts: Mapping[str, str]) -> str:
    """12 hexadecimal characters that name a backend."""
    return hashlib.sha256(canonical(dict(facts)).encode()).hexdigest()[:12]


def flags(environ: Mapping[str, str]) -> str:
    """XLA's flags and what else of the environment decides the code it makes, in an order of their own."""
    words = sorted(set(environ.get("XLA_FLAGS", "").split()))
    return " ".join([*words, *(f"{name}={environ[name]}" for name in SETTINGS if environ.get(name))])


def processor() -> str:
    """The processor's model and a digest of its features: XLA makes code for exactly those."""
    fields = _cpu_fields()
    model = fields.get("model name") or platform.processor() or platform.machine()
    features = fields.get("flags") or fields.get("Features")
    if not features:
        return f"{model} ({sys.platform})"
    return f"{model} (features {hashlib.sha256(' '.join(sorted(features.split())).encode()).hexdigest()[:8]})"


def _cpu_fields() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
