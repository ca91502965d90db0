"""What a probe job runs in a worker's place: it looks at its node, and tells the doctor what it sees.

The job script is the pool's own, so prologue, container, staging and interpreter are tried as they
are. Doctor and probe talk through two files, which each rewrites again and again: that tries the
shared folder, and bounds how far their clocks are apart, without a word about the network.

Whatever is not there on a node is what this program is for: it imports nothing but the standard
library and Staffa's files before it has said that it is there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from staffa.execution.slurm.node import job_id
from staffa.storage.files import read_bytes, write_aside
from staffa.storage.workspace import Workspace

BEAT_SECONDS = 0.1
WORDS = 15
"""So many words of the doctor are read before the probe says that it has seen enough."""
DEAF_SECONDS = 15.0
"""A probe that cannot hear the doctor for so long says what it has seen anyway."""
PATIENCE_SECONDS = 90.0
"""Then it leaves by itself."""
CONNECT_SECONDS = 10.0
PADDING = "·" * 30_000
"""A file of one block is never seen half written: these are larger."""

JAX_SECONDS = 75.0
JAX = """
import json, os, traceback
from importlib.metadata import distributions
named = {f"{found.name} {found.version}" for found in distributions() if (found.name or "").startswith("jax")}
said = {"plugins": sorted(name for name in named if "plugin" in name)}
try:
    import jax, jaxlib
    import jax.numpy as jnp
    said |= {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    said["devices"] = [{"platform": one.platform, "kind": one.device_kind} for one in jax.local_devices()]
    squares = jax.jit(lambda x: (x * x).sum())
    sums = [float(squares(jax.device_put(jnp.arange(100.0), one))) for one in jax.local_devices()]
    if set(sums) != {328350.0}:
        said["error"] = f"a jitted sum of squares is {sums}, should be 328350"
except BaseException as error:
    words = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
    asked = os.environ.get("JAX_PLATFORMS")
    said["error"] = f"{type(error).__name__}: {words}" + (f" (JAX_PLATFORMS={asked})" if asked else "")
print("\\n" + json.dumps(said))
"""
"""In a process of its own: a driver that does not fit may kill whoever looks for devices."""


def main(arguments: Sequence[str] | None = None) -> int:
    said = _said(arguments)
    workspace, rank = Workspace(said.root), int(os.environ.get("SLURM_NODEID") or 0)
    talk = Talk(answer_file(workspace, said.pool, rank), call_file(workspace, said.pool, rank))
    facts = whereabouts() | {"pool": said.pool, "rank": rank}
    try:
        talk.say(facts)
        return asyncio.run(_visit(workspace, talk, facts, said.interface))
    except OSError as error:
        sys.stdout.write(f"staffa: the probe cannot answer the doctor: {error}\n")
        return 1


def call_file(workspace: Workspace, pool: str, rank: int) -> Path:
    """What the doctor says to a probe."""
    return workspace.control / f"{pool}-{rank}.call"


def answer_file(workspace: Workspace, pool: str, rank: int) -> Path:
    """What a probe says to the doctor."""
    return workspace.control / f"{pool}-{rank}.answer"


class Talk:
    """One end of a conversation through two files, each replaced by its writer as fast as the other reads."""

    def __init__(self, own: Path, other: Path) -> None:
        self.own, self.other = own, other
        self.said = 0
        self.words = 0
        """Different words heard."""
        self.torn = 0
        """Times a file was gone or cut short that had been there: a rename that was none."""
        self.behind = math.inf
        """Seconds: the other's clock is behind ours by at most so much."""
        self._last = 0

    def say(self, facts: Mapping[str, Any]) -> None:
        """Replace what was said before. Raises `OSError` where that is not possible."""
        self.said += 1
        words = {**facts, "number": self.said, "at": time.time(), "padding": PADDING}
        write_aside(self.own, json.dumps(words, ensure_ascii=False), sync=False)

    def hear(self) -> dict[str, Any] | None:
        """What the other says now; None where it says nothing, or nothing whole."""
        data = read_bytes(self.other)
        now = time.time()
        if data is None:
            self.torn += self._last > 0
            return None
        try:
            heard = json.loads(data)
        except ValueError:
            self.torn += 1
            return None
        if heard["number"] != self._last:
            self.words, self._last = self.words + 1, heard["number"]
            self.behind = min(self.behind, now - heard["at"])
        return dict(heard)

    @property
    def report(self) -> dict[str, Any]:
        """What this end noticed of the other."""
        return {"words": self.words, "torn": self.torn, "behind": None if self.behind == math.inf else self.behind}


async def _visit(workspace: Workspace, talk: Talk, facts: dict[str, Any], interface: str | None) -> int:
    """Look at everything, then say it until the doctor has heard enough, or is gone."""
    looking = start_jax(os.environ)
    began = time.monotonic()
    facts |= software(workspace) | {"links": _links(talk.own), "temporary": temporary(), "cache": cache(os.environ)}
    async with _network(workspace, interface) as network:
        facts |= network
        while time.monotonic() - began < PATIENCE_SECONDS:
            heard = talk.hear() or {}
            facts["heard"] = talk.report
            if "jax" not in facts and (looking.poll() is not None or time.monotonic() - began > JAX_SECONDS):
                facts["jax"] = jax_facts(looking)
            deaf = time.monotonic() - began > DEAF_SECONDS
            talk.say({**facts, "done": "jax" in facts and (talk.words >= WORDS or deaf)})
            if heard.get("enough"):
                return 0
            await asyncio.sleep(BEAT_SECONDS)
    return 0


# --- the node --------------------------------------------------------------------------------------


def whereabouts() -> dict[str, Any]:
    """Who we are and what SLURM gave us."""
    return {
        "node": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "host": platform.node(),
        "pid": os.getpid(),
        "job": job_id(os.environ),
        "python": platform.python_version(),
        "executable": sys.executable,
        "given": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "platforms": os.environ.get("JAX_PLATFORMS", ""),
    }


def software(workspace: Workspace) -> dict[str, Any]:
    """What differs from the driver's software, as `scheduler.json` has it."""
    try:
        from staffa.execution.slurm.worker import differences, look, versions
    except ImportError as error:
        return {"differences": f"{type(error).__name__}: {error}", "versions": {}}
    found, here = look(workspace.scheduler_file), versions()
    if found is None:
        return {"differences": None, "versions": here}
    return {"differences": differences(found.versions, here), "versions": here}


def temporary() -> dict[str, Any]:
    """The folder for what a worker keeps aside, and whether it can be written."""
    try:
        with tempfile.NamedTemporaryFile(prefix="staffa-") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            folder = str(Path(file.name).parent)
        return {"folder": folder, "free": shutil.disk_usage(folder).free, "error": ""}
    except OSError as error:
        return {"folder": os.environ.get("TMPDIR", ""), "free": 0, "error": str(error)}


def cache(environ: Mapping[str, str]) -> dict[str, Any]:
    """The compile cache as a worker would find it."""
    folder = Path(environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.gettempdir())
    found: dict[str, Any] = {"folder": str(folder), "mode": None, "owner": None, "error": ""}
    try:
        status = folder.stat()
        found |= {"mode": stat.S_IMODE(status.st_mode), "owner": status.st_uid, "user": os.getuid()}
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder):
            pass
    except OSError as error:
        found["error"] = str(error)
    return found


def _links(path: Path) -> str:
    """Why there are no hard links, with which drivers are told apart; empty where there are."""
    second = path.with_suffix(".link")
    try:
        second.hardlink_to(path)
        second.unlink()
    except OSError as error:
        return str(error)
    return ""


# --- JAX -------------------------------------------------------------------------------------------


def start_jax(environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Begin to look for JAX's devices and to compile something on each."""
    # Looking must neither take the memory of devices in use nor leave anything behind.
    own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.Popen(
        [sys.executable, "-c", JAX],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environ, **own},
    )


def jax_facts(process: subprocess.Popen[bytes], seconds: float = 0.5) -> dict[str, Any]:
    """What was found: `devices` (`platform` and `kind` each), versions, `plugins`, `error`."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"devices": [], "error": "JAX did not come up in time: looking for devices hangs"}
    lines = out.decode(errors="replace").splitlines()
    try:
        return {"devices": [], "error": "", **json.loads(lines[-1])}
    except (IndexError, ValueError):
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        return {"devices": [], "error": " ".join([f"JAX's process ended with code {process.returncode}", *last])}


# --- network ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _network(workspace: Workspace, interface: str | None) -> AsyncIterator[dict[str, Any]]:
    """Knock at the driver, and have a port of our own that it can knock at: `connected`, `address`, their errors."""
    facts: dict[str, Any] = {"connected": None, "connect_error": "", "address": "", "listen_error": ""}
    server = None
    try:
        from distributed.core import Server

        security, protocol, driver = _credentials(workspace)
        facts["driver"] = driver
        server = Server({"clock": _clock}, needs_workdir=False)
        facts |= await _listen(server, f"{protocol}://", interface, security)
        facts |= await _knock(driver, security)
    except Exception as error:
        facts["connect_error"] = facts["connect_error"] or _words(error)
    try:
        yield facts
    finally:
        if server is not None:
            with contextlib.suppress(Exception):
                await server.close()


def _credentials(workspace: Workspace) -> tuple[Any, str, str]:
    """Dask's security settings, protocol, and the driver's address. Raises where they cannot be read."""
    from distributed import Security

    from staffa.execution.cluster import secured
    from staffa.execution.slurm.worker import look
    from staffa.storage.credentials import existing

    found = look(workspace.scheduler_file)
    if found is None:
        raise FileNotFoundError(f"{workspace.scheduler_file} is not seen on this node")
    if found.secure:
        return secured(existing(workspace.secrets)), "tls", found.address
    return Security(), "tcp", found.address


async def _listen(server: Any, protocol: str, interface: str | None, security: Any) -> dict[str, Any]:
    from distributed.utils import get_ip_interface

    try:
        host = get_ip_interface(interface) if interface else ""
        await server.listen(f"{protocol}{host}", **security.get_listen_args("worker"))
        return {"address": server.address}
    except (OSError, ValueError, KeyError) as error:
        return {"listen_error": _words(error)}


async def _knock(address: str, security: Any) -> dict[str, Any]:
    from distributed.core import rpc

    began = time.monotonic()
    try:
        async with rpc(
            address, connection_args=security.get_connection_args("worker"), timeout=CONNECT_SECONDS
        ) as driver:
            await asyncio.wait_for(driver.identity(), CONNECT_SECONDS + 1)
        return {"connected": time.monotonic() - began}
    except Exception as error:
        return {"connect_error": _words(error)}


async def _clock() -> float:
    return time.time()


def _words(error: BaseException) -> str:
    """An error with what it came from in the first place, on one line."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join((said if first is error else f"{said} ({first})").split())


def _said(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of `node`, of which a probe needs few."""
    parser = argparse.ArgumentParser(prog="staffa.execution.slurm.probe", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--interface")
    return parser.parse_known_args(arguments)[0]


if __name__ == "__main__":
    sys.exit(main())
