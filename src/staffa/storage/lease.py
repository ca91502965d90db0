"""Who drives a campaign: one process at a time.

The lease is a file naming the driver and its last sign of life. A driver that
died on this machine is followed at once; one on another machine after
`SILENCE_SECONDS` without a sign. No file locks: Lustre and NFS may lack them.

Taking over is the delicate step, since two processes may find the same dead
lease at once. Only one can succeed a lease, because it must *link* its own
record to `lease.<dead id>.next`, and linking fails where a file stands. So the
holder is not simply what `lease.json` says but the end of the chain that starts
there, and a process that wakes after it was succeeded finds its heir and stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from staffa.errors import WorkspaceError
from staffa.storage.files import read_bytes, write_aside

Clock = Callable[[], float]

BEAT_SECONDS = 10.0
"""How often a driver should call `Lease.beat`."""

SILENCE_SECONDS = 60.0
"""A lease of another machine counts as abandoned after this long without a sign of life."""

_KEEP_HEIRS_SECONDS = 86_400.0
_TRIES = 1_000


@dataclass(frozen=True)
class Holder:
    """What a lease says about its driver.

    Arguments:
    - `lease_id`: sorts by time; names the driver's journal.
    - `process_started`: in the machine's own ticks; with `pid` it names a process for good.
    - `boot`: the boot and process namespace in which `pid` means something.
    - `since`, `heartbeat`: Unix times of the first and the last sign of life.
    - `job`: the SLURM job the driver runs in, if it does.
    """

    lease_id: str
    host: str
    pid: int
    process_started: float
    boot: str
    since: float
    heartbeat: float
    job: str = ""

    def alive(self, clock: Clock = time.time) -> bool:
        """Whether the driver is still to be reckoned with."""
        if self.is_here:
            lives = _process_lives(self.pid, self.process_started)
            if lives is not None:
                return lives
        return clock() - self.heartbeat < SILENCE_SECONDS

    @property
    def is_here(self) -> bool:
        """Whether its process would be visible to us: same host, boot and process namespace."""
        return (self.host, self.boot) == (os.uname().nodename, _boot())


class Lease:
    """The right to drive a campaign, held by this process until `release`."""

    def __init__(
        self, path: Path, holder: Holder, clock: Clock, over: Callable[[Holder], bool] = lambda holder: False
    ) -> None:
        self._over = over
        self.path = path
        self.holder = holder
        self._clock = clock
        self._held = False
        self._heir_of: Path | None = None

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        clock: Clock = time.time,
        pid: int | None = None,
        host: str | None = None,
        over: Callable[[Holder], bool] = lambda holder: False,
    ) -> Lease:
        """Take the lease, or succeed a dead holder.

        Arguments:
        - `path`: the lease's file (`Workspace.lease`).
        - `over`: whether a driver on another machine is known to have ended, long before its silence tells.
        - `pid`, `host`: who will drive; this process, unless a test says otherwise.

        Raises `WorkspaceError` naming the holder where one is alive.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = cls(path, _holder(clock(), pid or os.getpid(), host or os.uname().nodename), clock, over)
        claim = path.with_name(f"{path.stem}.{lease.lease_id}.claim")
        write_aside(claim, _text(lease.holder))
        try:
            if not any(lease._seize(claim) for _ in range(_TRIES)):
                raise WorkspaceError(f"the lease '{path}' changes hands too fast", _doors(path))
            _sweep(path)
        except BaseException:
            lease.release()
            raise
        finally:
            claim.unlink(missing_ok=True)
        return lease

    @property
    def lease_id(self) -> str:
        return self.holder.lease_id

    def beat(self) -> None:
        """Give a sign of life.

        Raises `WorkspaceError` when another driver has taken over or the file was removed: the
        caller must stop issuing work.
        """
        current = read_lease(self.path)
        if current is None or current.lease_id != self.lease_id:
            self._held = False
            raise _lost(self.path, current)
        self.holder = dataclasses.replace(self.holder, heartbeat=self._clock())
        write_aside(self.path, _text(self.holder), sync=False)

    def release(self) -> None:
        """Let others drive. A lease that was lost meanwhile is left alone; twice is harmless."""
        current = read_lease(self.path) if self._held else None
        self._held = False
        if current is not None and current.lease_id == self.lease_id:
            self.path.unlink(missing_ok=True)
            if self._heir_of is not None:
                self._heir_of.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _seize(self, claim: Path) -> bool:
        """Try once; False when someone else moved meanwhile."""
        before = read_lease(self.path)
        if before is not None and before.alive(self._clock) and (before.is_here or not self._over(before)):
            raise _taken(self.path, before, self._clock())
        target = self.path if before is None else _heir(self.path, before.lease_id)
        if not _link(claim, target):
            return False
        now = read_lease(self.path)
        if now is None or now.lease_id != self.lease_id:
            # We succeeded a lease that was no longer the last: its own heir has come and gone.
            target.unlink(missing_ok=True)
            return False
        self._held = True
        if before is not None:
            self._heir_of = target
            claim.replace(self.path)
        return True


def read_lease(path: Path) -> Holder | None:
    """The present holder, dead or alive; None where nobody holds the lease."""
    holder, seen = _read(path), set[str]()
    while holder is not None and holder.lease_id not in seen:
        seen.add(holder.lease_id)
        heir = _read(_heir(path, holder.lease_id))
        if heir is None:
            break
        holder = heir
    return holder


def _holder(now: float, pid: int, host: str) -> Holder:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    started = _process_started(pid)
    return Holder(
        lease_id=f"{stamp}-{os.urandom(6).hex()}",
        host=host,
        pid=pid,
        process_started=-1.0 if started is None else started,
        boot=_boot(),
        since=now,
        heartbeat=now,
        job=os.environ.get("SLURM_JOB_ID", ""),
    )


def _text(holder: Holder) -> str:
    return json.dumps(dataclasses.asdict(holder), indent=1) + "\n"


def _read(path: Path) -> Holder | None:
    data = read_bytes(path)
    if data is None:
        return None
    try:
        fields = json.loads(data)
        return Holder(
            lease_id=str(fields["lease_id"]),
            host=str(fields["host"]),
            pid=int(fields["pid"]),
            process_started=float(fields["process_started"]),
            boot=str(fields["boot"]),
            since=float(fields["since"]),
            heartbeat=float(fields["heartbeat"]),
            job=str(fields.get("job", "")),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        # Rubbish holds nothing, but whoever follows it must agree on its name.
        name = "unreadable-" + hashlib.sha256(data).hexdigest()[:12]
        return Holder(name, "", 0, -1.0, "", 0.0, -math.inf)


def _heir(path: Path, lease_id: str) -> Path:
    return path.with_name(f"{path.stem}.{lease_id}.next")


def _link(claim: Path, target: Path) -> bool:
    try:
        target.hardlink_to(claim)
    except FileExistsError:
        # NFS may repeat a request whose answer was lost: then the second link exists after all.
        return claim.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        raise WorkspaceError(
            f"the file system of '{target.parent}' has no hard links, so two drivers could not be told apart",
            "keep campaigns elsewhere: `--set storage.root=FOLDER`",
        ) from error
    return True


def _sweep(path: Path) -> None:
    """Remove heirs and claims of long ago; recent ones still tell sleepers that they lost."""
    before = time.time() - _KEEP_HEIRS_SECONDS
    for old in [*path.parent.glob(f"{path.stem}.*.next"), *path.parent.glob(f"{path.stem}.*.claim")]:
        with contextlib.suppress(OSError):
            if old.stat().st_mtime < before:
                old.unlink()


def _process_lives(pid: int, started: float) -> bool | None:
    """Whether a process of this machine still runs; None where we may not know."""
    seen = _process_started(pid)
    if seen is not None:
        return seen == started
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return None
    return None


def _process_started(pid: int) -> float | None:
    """When a process began; -2 for a zombie, None where it cannot be seen.

    Read in ticks since boot: psutil's `create_time` moves when the wall clock is set.
    """
    if not Path("/proc/self/stat").exists():
        return _process_started_elsewhere(pid)
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    return -2.0 if state in (b"Z", b"X") else float(rest[18])


def _process_started_elsewhere(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return -2.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))


def _doors(path: Path) -> str:
    run = shlex.quote(str(path.parent.parent))
    return f"look with `staffa status {run}`, end it with `staffa stop {run}`"


def _taken(path: Path, holder: Holder, now: float) -> WorkspaceError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    silent = max(now - holder.heartbeat, 0.0)
    hint = _doors(path)
    if not holder.is_here:
        hint += f"; it is taken over after {SILENCE_SECONDS:.0f} s without a sign of life"
    elif silent > SILENCE_SECONDS:
        hint += f"; if it hangs: `kill {holder.pid}`"
    return WorkspaceError(
        f"'{path.parent.parent}' already has a driver: host {holder.host}, pid {holder.pid}, since {since}, "
        f"last sign of life {silent:.0f} s ago",
        hint,
    )


def _lost(path: Path, heir: Holder | None) -> WorkspaceError:
    if heir is None:
        run = shlex.quote(str(path.parent.parent))
        return WorkspaceError(f"the lease '{path}' was removed under its driver", f"`staffa resume {run}`")
    return WorkspaceError(
        f"'{path.parent.parent}' was taken over by another driver: host {heir.host}, pid {heir.pid}",
        _doors(path),
    )
