"""A real SLURM on this one host: two nodes with two GPUs each, by itself, as root, all on loopback.

By hand, for trying things out (stays up until Ctrl-C; a second shell takes over the line it prints):

    PYTHONPATH=tests python -m slurm.machine up [--folder /tmp/new] [--accounting]
    export SLURM_CONF=/tmp/new/etc/slurm.conf
    sinfo; sbatch --gpus-per-node=1 --wrap 'echo $CUDA_VISIBLE_DEVICES'

In tests: `with Machine() as machine:`, or the fixture `machine`. Several machines can stand at once.

What SLURM 22.05 was seen to do here, and the tests rest on:

- A job starts within a second of its submission; a cancelled one that ignores SIGTERM is COMPLETING for KillWait (5 s).
- A shell without `trap` dies of that SIGTERM, and what it started is killed at once: no grace for the worker.
- Time limits are looked at every 30 s: a job of one minute ends after 60 to 90 s.
- A failed prolog: PENDING, `launch failed requeued held`, no node; the node drains with the reason `Prolog error`.
  A job with --no-requeue is CANCELLED instead, in arrays sometimes with its siblings, or stays RUNNING as a ghost.
- A node down: its jobs are PENDING for two minutes (`BeginTime`) under the same id; NODE_FAIL with --no-requeue.
- A node that is killed and back at once loses the jobs older than 20 s; younger ones stay RUNNING as ghosts.
- A controller that is killed forgets jobs of its last seconds; without one every command but `scontrol ping` tries for
  9 s, exits with 1 (scancel: 8) and says `Unable to contact slurm controller`.
- After its restart idle nodes are `unknown` for 4 s.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.leftovers import MARK, PATIENCE, end, watchdog

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb-install-db")
PARTITIONS = {
    "gpu": "Default=YES MaxTime=4:00:00 DefaultTime=1:00:00",
    "short": "MaxTime=2 DefaultTime=1",
    "cpu": "MaxTime=1-00:00:00 DefaultTime=1:00:00",
}
"""All of them on all nodes."""

ACCOUNT = "staffa"
"""The one account there is, where accounting is on."""

SETTINGS = {
    "ClusterName": "staffa",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SwitchType": "switch/none",
    "MpiDefault": "none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SlurmdParameters": "config_overrides",
    "GresTypes": "gpu",
    "ReturnToService": "1",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
    "EnforcePartLimits": "ALL",
    "DefMemPerCPU": "2000",
    "KillWait": "5",
    "OverTimeLimit": "0",
    "InactiveLimit": "0",
    "MessageTimeout": "10",
    "SlurmdTimeout": "30",
    "SlurmctldTimeout": "30",
    "MailProg": "/bin/true",
    "SlurmctldDebug": "verbose",
    "SlurmdDebug": "verbose",
}
"""slurm.conf, beside paths, ports, nodes and partitions."""

PROLOG = """#!/bin/sh
# Fails on the nodes that have a file of their name in this folder.
[ ! -e "{folder}/failing/$SLURMD_NODENAME" ]
"""


class MachineError(RuntimeError):
    """A part of the machine does not do what it should; says what its logs said last."""


@dataclass(frozen=True)
class Job:
    """One line of `squeue`: one task of an array, or one job."""

    id: str
    name: str
    state: str
    reason: str
    node: str
    partition: str


def missing(programs: Sequence[str] = PROGRAMS) -> str:
    """Why the machine cannot stand here; empty if it can."""
    if os.getuid() != 0:
        return "only root can start SLURM's daemons"
    absent = [program for program in programs if locate(program) is None]
    return f"{', '.join(absent)} missing: sudo make slurm-deps" if absent else ""


def locate(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Machine:
    """munged, slurmctld and a slurmd per node, their state in one temporary folder.

    With `accounting` also MariaDB and slurmdbd, and one account for root. `settings` adds to slurm.conf or replaces
    what is in SETTINGS. Everything is killed by `stop`, at the exit of this process, and where this process is killed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        accounting: bool = False,
        settings: Mapping[str, str] | None = None,
        nodes: Sequence[str] = ("gpu0", "gpu1"),
        gpus: int = 2,
        cpus: int = 16,
        memory: int = 64_000,
    ) -> None:
        self.folder = (folder or Path(tempfile.mkdtemp(prefix="staffa-slurm-"))).resolve()
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise MachineError(f"{self.folder} is not empty, and it would be deleted in the end: name a new folder")
        self.accounting, self.nodes = accounting, tuple(nodes)
        self.gpus, self.cpus, self.memory = gpus, cpus, memory
        self.settings = dict(settings or {})
        self.logs = self.folder / "log"
        self.configuration = self.folder / "etc" / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None
        names = ("slurmctld", "slurmdbd", "mariadbd", *self.nodes)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    # Up and down

    def __enter__(self) -> Machine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Machine:
        """Ready for jobs when it returns, seconds later; nothing is left if it raises."""
        atexit.register(self.stop)
        try:
            self._prepare()
            self._watchdog = watchdog(self.folder)
            self._start_munged()
            if self.accounting:
                self._start_database()
                self._start_slurmdbd()
            self._launch("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self._launch(node, "slurmd", "-D", "-N", node)
            self.until(self._controller_answers, "slurmctld")
            self.wait_nodes("idle")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """No process and no file of it remains."""
        atexit.unregister(self.stop)
        for daemon in self._daemons.values():
            daemon.kill()
        end(self.folder)
        for daemon in self._daemons.values():
            daemon.wait()
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait()
        self._daemons, self._watchdog = {}, None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        for name in ("etc", "log", "state", "spool", "munge", "dev", "failing"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(self.gpus):
            # SLURM wants character devices, and asks no more of them.
            os.mknod(self.folder / "dev" / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        prolog = self.folder / "etc" / "prolog"
        prolog.write_text(PROLOG.format(folder=self.folder))
        prolog.chmod(0o755)
        self.configuration.write_text(self._slurm_conf())
        (self.folder / "etc" / "cgroup.conf").write_text("CgroupAutomount=no\n")
        devices = f"{self.folder}/dev/nvidia[0-{self.gpus - 1}]" if self.gpus > 1 else f"{self.folder}/dev/nvidia0"
        (self.folder / "etc" / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(self.nodes)} Name=gpu Flags=nvidia_gpu_env File={devices}\n"
        )

    def _slurm_conf(self) -> str:
        host = socket.gethostname().split(".")[0]
        settings = {
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": str(self.ports["slurmctld"]),
            "AuthInfo": f"socket={self.folder}/munge/socket",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
            "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/%n.pid",
            "SlurmctldLogFile": f"{self.logs}/slurmctld.log",
            "SlurmdLogFile": f"{self.logs}/%n.log",
            "Prolog": f"{self.folder}/etc/prolog",
            **SETTINGS,
        }
        if self.accounting:
            settings |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": str(self.ports["slurmdbd"]),
                "AccountingStoragePass": f"{self.folder}/munge/socket",
                "AccountingStorageEnforce": "associations,limits,qos",
                "AccountingStorageTRES": "gres/gpu",
                "JobAcctGatherType": "jobacct_gather/linux",
            }
        lines = [f"{name}={value}" for name, value in {**settings, **self.settings}.items()]
        shape = f"CPUs={self.cpus} Sockets=1 CoresPerSocket={self.cpus} ThreadsPerCore=1 RealMemory={self.memory}"
        for node in self.nodes:
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self.ports[node]}"
            lines.append(f"NodeName={node} {where} {shape} Gres=gpu:{self.gpus}")
        lines += [f"PartitionName={name} Nodes={','.join(self.nodes)} {rest}" for name, rest in PARTITIONS.items()]
        return "\n".join(lines) + "\n"

    # Daemons

    def _launch(self, name: str, program: str, *arguments: object) -> None:
        executable = locate(program)
        if executable is None:
            raise MachineError(f"{program} is missing: sudo make slurm-deps")
        with (self.logs / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**self.environment, MARK: str(self.folder)},
                start_new_session=True,
            )

    def _start_munged(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        socket_file = folder / "socket"
        self._launch(
            "munged",
            "munged",
            "--foreground",
            "--num-threads=10",
            # It would refuse a folder that others cannot enter; here all are root.
            "--force",
            f"--socket={socket_file}",
            f"--key-file={folder}/key",
            f"--pid-file={folder}/pid",
            f"--seed-file={folder}/seed",
            f"--log-file={self.logs}/munged.log",
        )
        self.until(socket_file.exists, "munged")

    def _start_database(self) -> None:
        data, listening = self.folder / "database", self.folder / "database.socket"
        installed = subprocess.run(
            [
                str(locate("mariadb-install-db")),
                "--no-defaults",
                "--user=root",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                f"--datadir={data}",
            ],
            capture_output=True,
            text=True,
        )
        if installed.returncode:
            raise MachineError(f"mariadb-install-db failed:\n{installed.stdout}{installed.stderr}")
        accounts = self.folder / "etc" / "accounts.sql"
        accounts.write_text(
            "CREATE DATABASE slurm_acct_db;\n"
            "CREATE USER 'slurm'@'%' IDENTIFIED BY 'staffa';\n"
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'%';\n"
        )
        self._launch(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={listening}",
            f"--port={self.ports['mariadbd']}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--init-file={accounts}",
            f"--pid-file={self.folder}/mariadbd.pid",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        )
        self.until(lambda: self._listens("mariadbd"), "mariadbd")

    def _start_slurmdbd(self) -> None:
        configuration = self.folder / "etc" / "slurmdbd.conf"
        configuration.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.folder}/munge/socket\n"
            f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={self.ports['slurmdbd']}\nSlurmUser=root\n"
            f"LogFile={self.logs}/slurmdbd.log\nPidFile={self.folder}/slurmdbd.pid\nDebugLevel=verbose\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={self.ports['mariadbd']}\n"
            "StorageUser=slurm\nStoragePass=staffa\nStorageLoc=slurm_acct_db\n"
        )
        configuration.chmod(0o600)
        self._launch("slurmdbd", "slurmdbd", "-D")
        self.until(lambda: self.run(["sacctmgr", "-n", "list", "cluster"], check=False).returncode == 0, "slurmdbd")
        for words in (
            ["cluster", SETTINGS["ClusterName"]],
            ["account", ACCOUNT, "Description=staffa", "Organization=staffa"],
            ["user", "root", f"Account={ACCOUNT}"],
        ):
            self.run(["sacctmgr", "-i", "add", *words])

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def _controller_answers(self) -> bool:
        return self.run(["scontrol", "ping"], check=False).returncode == 0

    def until(self, holds: Callable[[], bool], who: str, patience: float = PATIENCE) -> None:
        """Look again and again, ever less often: each look starts one of SLURM's programs."""
        deadline, pause = time.monotonic() + patience, 0.05
        while not holds():
            daemon = self._daemons.get(who)
            if daemon is not None and daemon.poll() is not None:
                raise MachineError(f"{who} ended with code {daemon.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise MachineError(f"{who} is not ready after {patience:.0f} s\n{self.tail()}")
            time.sleep(pause)
            pause = min(1.1 * pause, 0.5)

    def tail(self, lines: int = 15) -> str:
        """The last lines of every log."""
        said = []
        for log in sorted([*self.logs.glob("*.log"), *self.logs.glob("*.out")]):
            text = log.read_text(errors="replace").splitlines()[-lines:]
            if text:
                said.append("\n".join([f"--- {log.name}", *text]))
        return "\n".join(said)

    # What tests use

    @property
    def environment(self) -> dict[str, str]:
        """This process's variables, without any other SLURM's, with what leads commands to this one."""
        foreign = ("SLURM", "SBATCH_", "SQUEUE_", "SALLOC_", "SINFO_", "SACCT_", "SCANCEL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{kept.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return {**kept, "PATH": path, "SLURM_CONF": str(self.configuration)}

    def run(self, argv: Sequence[str], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command on this cluster; raises with its words and the logs if it fails and `check`."""
        options = {"capture_output": True, "text": True, "env": self.environment, "timeout": 120, **options}
        done = subprocess.run(list(argv), **options)
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise MachineError(f"{' '.join(argv)} exited with {done.returncode}: {said}\n{self.tail()}")
        return done

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job; `script` may leave out its first line."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
        return self.run(["sbatch", "--parsable", *options], input=text, cwd=self.folder).stdout.strip()

    def jobs(self, states: str = "PD,R,CG,S,CF,RQ,RH,SE,SO") -> list[Job]:
        """What `squeue` knows; `states="all"` includes what ended in the last five minutes."""
        listed = self.run(["squeue", "-h", "-r", "-t", states, "-o", "%i|%j|%T|%r|%N|%P"]).stdout
        return [Job(*line.split("|")) for line in listed.splitlines()]

    def job(self, id: str) -> dict[str, str]:
        """`scontrol show job` of one job, by field."""
        shown = self.run(["scontrol", "show", "job", "-o", id]).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait_state(self, id: str, *states: str, patience: float = PATIENCE) -> Job:
        """The job once it is in one of `states`; it must be one that squeue still knows."""
        found: list[Job] = []

        def there() -> bool:
            found[:] = [job for job in self.jobs("all") if job.id == id and job.state in states]
            return bool(found)

        self.until(there, f"job {id} ({' or '.join(states)})", patience)
        return found[0]

    def node_states(self) -> dict[str, str]:
        """`sinfo`'s word for each node: idle, mixed, allocated, drained, down* …"""
        listed = self.run(["sinfo", "-h", "-N", "-o", "%N %T"]).stdout.splitlines()
        return dict(line.split() for line in listed)

    def wait_nodes(self, *states: str, patience: float = PATIENCE) -> None:
        self.until(lambda: set(self.node_states().values()) <= set(states), f"nodes ({states})", patience)

    def stop_controller(self, *, hard: bool = False) -> None:
        """slurmctld leaves in peace, its state written (`hard`: is killed)."""
        self._end("slurmctld", signal.SIGKILL if hard else signal.SIGTERM)

    def start_controller(self) -> None:
        if not self._runs("slurmctld"):
            self._launch("slurmctld", "slurmctld", "-D")
        self.until(self._controller_answers, "slurmctld")

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """slurmdbd goes, as on a site where it is down."""
        self._end("slurmdbd", signal.SIGTERM)

    def start_accounting(self) -> None:
        if not self._runs("slurmdbd"):
            self._launch("slurmdbd", "slurmdbd", "-D")
        self.until(lambda: self.run(["sacctmgr", "-n", "list", "cluster"], check=False).returncode == 0, "slurmdbd")

    def down(self, node: str, reason: str = "test") -> None:
        """The administrator says DOWN: its jobs are requeued or fail with NODE_FAIL."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", f"Reason={reason}"])

    def drain(self, node: str, reason: str = "test") -> None:
        """The administrator says DRAIN: jobs stay, no new one comes."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}"])

    def resume(self, node: str) -> None:
        """Back from down or drained; a node that is neither refuses."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"])

    def kill_node(self, node: str) -> None:
        """The power is cut: slurmd and all processes of its jobs are killed; slurmctld is told nothing.

        It finds out by itself in about 45 s (SlurmdTimeout); `down` says it at once.
        """
        self._end(node, signal.SIGKILL)
        end(self.folder, node)

    def start_node(self, node: str) -> None:
        if not self._runs(node):
            self._launch(node, "slurmd", "-D", "-N", node)
        self.until(lambda: self._listens(node), node)

    def set_prolog(self, node: str, failing: bool) -> None:
        """From now on the prolog of jobs on `node` fails (SLURM drains the node and holds the job) or does not."""
        mark = self.folder / "failing" / node
        mark.touch() if failing else mark.unlink(missing_ok=True)

    def cancel_all(self) -> None:
        """Every job; returns when the last one's processes are gone."""
        if any(self.jobs()):
            self.run(["scancel", "--user=root"])
            self.until(lambda: not self.jobs(), "scancel")

    def wait_idle(self, patience: float = PATIENCE) -> None:
        """No job is queued, running or completing."""
        self.until(lambda: not self.jobs(), "an empty queue", patience)

    def reset(self) -> None:
        """As it was when it came up, but for job ids and history."""
        if self.accounting:
            self.start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.set_prolog(node, failing=False)
            self.start_node(node)
        self.cancel_all()
        for node, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                self.resume(node)
        self.wait_nodes("idle")

    def _runs(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _end(self, name: str, with_signal: signal.Signals) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(with_signal)
        try:
            daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those that systems hand out for outgoing connections."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = random.SystemRandom().randrange(20_000, 32_000)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("", port))
                found.append(port)
        return found


# By hand


def up(folder: Path | None, accounting: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Machine(folder, accounting=accounting) as machine:
        print(f"export SLURM_CONF={machine.configuration}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m slurm.machine", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--accounting", action="store_true")
    chosen = parser.parse_args()
    if reason := missing(PROGRAMS + ACCOUNTING_PROGRAMS * chosen.accounting):
        sys.exit(f"no SLURM here: {reason}")
    else:
        up(chosen.folder, chosen.accounting)


if __name__ == "__main__":
    main()
