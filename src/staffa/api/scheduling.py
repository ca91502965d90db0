"""Consolidation by cron, or by SLURM's own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from staffa.errors import ConfigError, StaffaError
from staffa.storage.workspace import Workspace

BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What cron leaves of an environment."""
FIELD = re.compile(r"[\d*,/-]+|[A-Za-z]{3}")
CHECK_SECONDS = 120.0


def schedule(
    runs: Iterable[str | Path],
    every: str = "6h",
    *,
    scrontab: bool = False,
    prune: bool = False,
    log: str | Path | None = None,
) -> dict[str, Any]:
    """The lines that have campaigns consolidated again and again, and whether they would work.

    Arguments:
    - `every`: `30m`, `6h`, `1d`, or the five fields of a crontab.
    - `scrontab`: for SLURM's `scrontab` instead of cron.
    - `prune`: remove shards whose rows were verified in the archive.
    - `log`: what the command says goes there; by default into the first campaign's `logs`.

    Returns `lines`, `install` (the command that takes them), and `checks`: `{what, sound, why}` each.
    """
    folders = [Path(os.path.abspath(run)) for run in runs]  # noqa: PTH100  cron has another directory
    if not folders:
        raise ConfigError("which campaigns?", "staffa schedule runs/v1.0_walk runs/v1.0_protein --every 6h")
    when = cron_fields(every)
    to = Path(os.path.abspath(log)) if log is not None else folders[0] / "logs" / "consolidate.log"  # noqa: PTH100
    words = [sys.executable, "-m", "staffa", "consolidate", *map(str, folders), *["--prune"] * prune]
    command = " ".join(shlex.quote(word) for word in words)
    # A percent sign ends the command in a crontab.
    line = f"{when} {command} >> {shlex.quote(str(to))} 2>&1".replace("%", r"\%")
    lines = [line]
    if scrontab:
        lines = ["#SCRON --job-name=staffa-consolidate", "#SCRON --time=02:00:00", f"#SCRON --output={to}", line]
    checks = [*(_opens(folder) for folder in folders), _starts(), _writable(to), _taken(scrontab)]
    return {
        "lines": lines,
        "install": "scrontab -e" if scrontab else "crontab -e",
        "checks": checks,
        "sound": all(check["sound"] for check in checks),
    }


def cron_fields(every: str) -> str:
    """`30m`, `6h`, `1d` as the five fields of a crontab; five fields as they are.

    Raises `ConfigError` for what a crontab cannot say: every 7 minutes begins anew each hour.
    """
    fields = every.split()
    if len(fields) == 5 and all(FIELD.fullmatch(field) for field in fields):
        return every
    match = re.fullmatch(r"(\d+)\s*(m|min|h|d)", every.strip())
    count = int(match[1]) if match else 0
    unit = match[2][0] if match else ""
    whole = {"m": 60, "h": 24, "d": 1}.get(unit, 0)
    if not count or not whole or whole % count:
        raise ConfigError(
            f"--every {every!r} is nothing a crontab can say",
            "minutes that divide 60 (15m), hours that divide 24 (6h), 1d, or five fields: '0 3 * * 1-5'",
        )
    # Not on the hour, when everybody's jobs start.
    return {"m": f"*/{count} * * * *", "h": f"17 */{count} * * *", "d": "17 3 * * *"}[unit]


def _check(what: str, sound: bool, why: str) -> dict[str, Any]:
    return {"what": what, "sound": sound, "why": why}


def _opens(folder: Path) -> dict[str, Any]:
    try:
        Workspace.open(folder)
    except StaffaError as error:
        return _check(f"campaign {folder.name}", False, error.message)
    return _check(f"campaign {folder.name}", True, str(folder))


def _starts() -> dict[str, Any]:
    """Whether the command starts in cron's environment."""
    home = {"HOME": os.environ.get("HOME", "/")}
    asked = [sys.executable, "-m", "staffa", "consolidate", "--help"]
    try:
        done = subprocess.run(
            asked, env=BARE | home, cwd="/", capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _check("command", False, f"{shlex.join(asked)}: {error}")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return _check("command", not done.returncode, last if done.returncode else f"{sys.executable} -m staffa")


def _writable(to: Path) -> dict[str, Any]:
    sound = to.parent.is_dir() and os.access(to if to.exists() else to.parent, os.W_OK)
    return _check("log", sound, str(to) if sound else f"'{to}' cannot be written")


def _taken(scrontab: bool) -> dict[str, Any]:
    """Whether there is somebody who takes the lines."""
    program = "scrontab" if scrontab else "crontab"
    found = shutil.which(program)
    if not found:
        return _check(program, False, f"there is no {program} here: enter the lines where there is one")
    if not scrontab:
        return _check(program, True, found)
    told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    enabled = re.search(r"ScronParameters\s*=.*\benable\b", told) is not None
    return _check(program, enabled, found if enabled else "SLURM has it switched off (ScronParameters=enable)")
