"""What must stand in a worker's environment before its process starts.

XLA reads most of this once, when its backend comes up; setting it later does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

COMPILE_CACHE = "JAX_COMPILATION_CACHE_DIR"


def worker_environment(x64: bool, prng: str, cache: Path | None = None) -> dict[str, str]:
    """Environment of a sampling process: one core, compile cache, precision.

    Arguments:
    - `cache`: folder of the compile cache; by default the user's own.
    """
    folder = cache or compile_cache()
    return {
        # One sampling process per core: threads of two processes would only get in each other's way.
        "XLA_FLAGS": _with_flags(os.environ.get("XLA_FLAGS", ""), ("--xla_cpu_multi_thread_eigen=false",)),
        # … and this is what XLA's own pool obeys: without it two processes on two cores spend
        # 0.30 core-milliseconds on a trial of the benchmarks instead of 0.18, mostly waiting.
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "JAX_ENABLE_X64": "1" if x64 else "0",
        "JAX_DEFAULT_PRNG_IMPL": prng,
        # A batch's host buffer is given back and asked for again every second: keep its pages.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
        COMPILE_CACHE: str(folder),
        # Every program is kept, however small: a restart must not compile anything again. No
        # eviction: its time stamps are what breaks when many processes share a folder.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "JAX_COMPILATION_CACHE_MAX_SIZE": "-1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true"),
    }


def compile_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's compile cache, 0700: what lies in it is executed."""
    from importlib.metadata import version

    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = environ.get("STAFFA_CACHE") or environ.get(COMPILE_CACHE)
    folder = Path(given) if given else home / "staffa" / f"xla-{version('jaxlib')}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given:
        folder.chmod(0o700)
    return folder


def _with_flags(present: str, wanted: tuple[str, ...]) -> str:
    names = {flag.split("=")[0] for flag in present.split()}
    return " ".join([*present.split(), *(flag for flag in wanted if flag.split("=")[0] not in names)])
