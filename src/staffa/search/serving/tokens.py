"""What a server and its clients share as files in `secrets/`: two tokens and, for other machines, a certificate."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets as chance
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from staffa.errors import WorkspaceError
from staffa.storage.credentials import Credentials, credentials

DAYS = 825
"""How long a certificate is good for."""


@dataclass(frozen=True)
class Tokens:
    """Who says `write` may do everything, who says `read` may look."""

    write: str
    read: str


def tokens(secrets: Path) -> Tokens:
    """The tokens of a run, made on first use: `write.token` and `read.token`.

    Raises `WorkspaceError` where others could read them.
    """
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Tokens(*(_token(secrets / f"{name}.token") for name in ("write", "read")))


def _token(path: Path) -> str:
    if not path.exists():
        aside = path.with_suffix(f".{os.getpid()}.partial")
        descriptor = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(chance.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        aside.rename(path)
    for place in (path.parent, path):
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & 0o077:
            raise WorkspaceError(
                f"{place} can be read by others (mode {mode:04o}): whoever has a token can change the search",
                f"chmod -R go-rwx {path.parent}",
            )
    token = path.read_text().strip()
    if len(token) < 16:
        raise WorkspaceError(f"{path} holds no token", f"rm {path}; the next start makes another one")
    return token


def certificate(secrets: Path, host: str) -> Credentials:
    """A certificate for the server at `host`, signed by itself, made when there is none that is good for it.

    Clients are given `ca.pem` of the same folder.
    """
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = secrets / "serving"
    names = _names(host)
    if not _good(folder / "cert.pem", names):
        for path in folder.glob("*.pem"):
            path.unlink()
    return credentials(folder, lambda: _made(names))


def _names(host: str) -> list[str]:
    here = [socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"]
    anywhere = host in ("0.0.0.0", "::", "")
    return list(dict.fromkeys([*([] if anywhere else [host]), *here]))


def _good(path: Path, names: list[str]) -> bool:
    """Whether a certificate names all of these and will for another week."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    known = {str(name.value) for name in said}
    week = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=7)
    return known >= set(names) and found.not_valid_after_utc > week


def _made(names: list[str]) -> tuple[str, str, str]:
    """CA, certificate and key as PEM; the first two are the same."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "staffa search")])
    now = datetime.datetime.now(datetime.UTC)
    found = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = found.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return public, public, private


def _general(name: str) -> x509.GeneralName:  # type: ignore[name-defined]  # noqa: F821  imported where it is used
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
