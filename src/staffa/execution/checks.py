"""What the doctor says of one thing, and the judgements that this machine and a compute node share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Result = Literal["ok", "warning", "failed"]
OK: Result = "ok"
WARNING: Result = "warning"
FAILED: Result = "failed"

GIBIBYTE = 1 << 30
CLOCK_SECONDS = 2.0
"""File systems tell young files from old by their clocks, drivers the living from the dead: more is looked into."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Arguments:
    - `where`: this machine, the cluster, or a pool and its node.
    - `found`: what is the case.
    - `mend`: the command or setting that helps; empty where all is well.
    """

    where: str
    what: str
    result: Result
    found: str
    mend: str = ""


def compile_cache_check(where: str, folder: str, mode: int, *, own: bool) -> Check:
    """Compiled programs are executed: whoever may write there may run code as the user.

    Arguments:
    - `mode`: permission bits of the folder; `own`: whether it is this user's.
    """
    what, found = "compile cache", f"{folder} (mode {mode:04o})"
    if not own:
        words = f"{found} belongs to somebody else, and what lies there is executed"
        return Check(where, what, FAILED, words, "export STAFFA_CACHE=FOLDER, one of your own")
    mend = f"chmod 700 {shlex.quote(folder)}"
    if mode & 0o022:
        return Check(where, what, FAILED, f"{found} can be written by others, and what lies there is executed", mend)
    if mode & 0o055:
        return Check(where, what, WARNING, f"{found} can be read by others", mend)
    return Check(where, what, OK, found)


def devices_seen(jax: Mapping[str, Any]) -> str:
    """`2 x NVIDIA A100`, or `only cpu`, and by which JAX."""
    kinds = [str(device["kind"]) for device in jax.get("devices", ()) if device["platform"] != "cpu"]
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return f"{counted or 'only cpu'} (JAX {jax.get('jax', '?')})"


def accelerators(jax: Mapping[str, Any]) -> int:
    """Devices JAX sees that are no processor."""
    return sum(device["platform"] != "cpu" for device in jax.get("devices", ()))


def plugins(jax: Mapping[str, Any]) -> str:
    """JAX's plug-ins for devices, in words."""
    return ", ".join(jax.get("plugins") or ()) or "no CUDA plug-in of JAX is installed"


def mend_devices(jax: Mapping[str, Any], executable: str) -> str:
    """What to do where JAX does not see GPUs that are there."""
    if not jax.get("plugins"):
        return f"{install(executable)} 'jax[cuda12]=={jax['jax']}'" if "jax" in jax else f"{install(executable)} jax"
    return "nvidia-smi there; in a container: apptainer exec --nv; JAX_PLATFORMS must not say cpu"


def install(executable: str) -> str:
    """The command that installs packages for an interpreter."""
    return f"{shlex.quote(executable)} -m pip install"


def gibibytes(size: int) -> str:
    return f"{size / GIBIBYTE:,.1f} GiB"
