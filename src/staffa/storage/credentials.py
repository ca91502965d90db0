"""TLS credentials of a campaign: made once, kept in `secrets/`, for its owner alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from staffa.errors import WorkspaceError

NAMES = ("ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True)
class Credentials:
    """Paths of the PEM files that driver, scheduler and workers share."""

    ca: Path
    cert: Path
    key: Path


def credentials(secrets: Path, make: Callable[[], tuple[str, str, str]]) -> Credentials:
    """The campaign's credentials, made on first use.

    Arguments:
    - `make`: returns CA, certificate and key as PEM text.

    Raises `WorkspaceError` where others could read the key.
    """
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = [secrets / name for name in NAMES]
    if not all(path.exists() for path in paths):
        for path, text in zip(paths, make(), strict=True):
            aside = path.with_suffix(f".{os.getpid()}.partial")
            descriptor = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            aside.rename(path)
    return existing(secrets)


def existing(secrets: Path) -> Credentials:
    """The credentials that were made before: what workers on other machines use.

    Raises `WorkspaceError` where there are none, or others could read the key.
    """
    paths = [secrets / name for name in NAMES]
    for path in (secrets, *paths):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            raise WorkspaceError(f"{path} is missing", f"`staffa resume {secrets.parent}` makes it again") from None
        if mode & 0o077:
            raise WorkspaceError(
                f"{path} can be read by others (mode {mode:04o}): whoever has the key can run code as you",
                f"chmod -R go-rwx {secrets}",
            )
    return Credentials(*paths)
