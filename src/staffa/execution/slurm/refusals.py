"""What SLURM's commands mean when they fail: nobody there, too many jobs, or no.

SLURM tells by its words alone: every command exits with 1.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from staffa.errors import ClusterError


class SlurmError(ClusterError):
    """A command of SLURM failed."""


class Unreachable(SlurmError):
    """The controller or a daemon did not answer: what is the case is unknown. Try again later."""


class Refused(SlurmError):
    """SLURM said no; the message is its own words.

    `field` is the setting of the pool it most likely speaks of (`partition`, `account`, `walltime`, …), or empty.
    """

    def __init__(self, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message, hint)
        self.field = field


class Full(Refused):
    """More jobs than this user may have queued at once; fewer, or later, may be accepted."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


DOUBT = re.compile(
    r"unable to contact|timed out|connect(ion)? (failure|refused|reset)|"
    r"zero bytes were transmitted|transport endpoint|standby mode|temporarily un(available|able)|try again|"
    r"authentication (error|credential)|munge|no route to host|network is unreachable|unable to establish|"
    r"could not establish a configuration|unable to process configuration|fetch_config|cannot stat file|"
    r"i/o error writing|unexpected message|message (send|receive) failure|partition not available|rate limit|"
    r"no configuration",
    re.IGNORECASE,
)
"""Nobody answered, or somebody who cannot answer now."""

LIMIT = re.compile(
    r"(max|grp)\w*(submit|jobs)\w*limit|too many jobs|maximum (number of )?jobs|maxjobcount", re.IGNORECASE
)
"""Too many jobs of ours at once."""

VAGUE = re.compile(r"job submit limit, user's size and/or time limits", re.IGNORECASE)
"""Too many jobs, or a too large one. Most often the line before tells which; if not, waiting does no harm."""

CODE = re.compile(r"\b(assoc|qos|maxjob)\w+limit\b", re.IGNORECASE)

GONE = re.compile(
    r"invalid job id|already completing or completed|no longer pending|not pending|no error|already finished|^\s*$",
    re.IGNORECASE,
)
"""Said of jobs that are over, or run already: no complaint for those who wanted them changed."""

ASKED = "`cores`, `memory` and `nodes` as well: sinfo -o '%P %N %c %m %G'"

FIELDS = (
    (r"maxwall|time limit", "walltime", "sinfo -s"),
    (r"invalid account|account\b.*combination", "account", "sacctmgr show assoc user=$USER"),
    (r"array", "submit.array", "scontrol show config | grep MaxArraySize"),
    (r"partition", "partition", "sinfo -s"),
    (r"invalid qos", "qos", "sacctmgr show assoc user=$USER format=account,qos"),
    (r"account\b", "account", "sacctmgr show assoc user=$USER"),
    (r"feature|constraint", "constraint", "sinfo -o '%P %N %f'"),
    (r"reservation", "reservation", "scontrol show reservation"),
    (r"memory|permem|maxmem", "memory", "sinfo -o '%P %N %m'"),
    (r"node name|license|dependency", "directives", "sinfo -N"),
    (r"node config|node count|generic resource|gres|cpu count|max(node|cpu|tres)", "gpus", ASKED),
    (r"option|invalid", "directives", "sbatch --help"),
)
"""What SLURM's words speak of, most telling first: words, field of the pool, command that shows what there is."""


def complain(argv: Sequence[str], answer: Answer) -> NoReturn:
    """Raise what the failure of a command means."""
    said = words(answer) or f"exit code {answer.code}"
    message = f"{argv[0]}: {said}"
    code = CODE.search(said)
    if LIMIT.search(code[0] if code else said) or (code is None and VAGUE.search(said)):
        raise Full(message, "jobs that wait count as well: squeue --me", "workers")
    if DOUBT.search(said):
        raise Unreachable(message, "scontrol ping")
    for pattern, field, command in FIELDS:
        if re.search(pattern, said, re.IGNORECASE):
            raise Refused(message, f"see `{field}` in the cluster config; {command}", field)
    raise Refused(message, shlex.join(word for word in argv if len(word) < 200))


def words(answer: Answer) -> str:
    """What a command said, on one line and without its name before every sentence."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line).strip() for line in (answer.err or answer.out).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def harmless(answer: Answer) -> bool:
    """Whether a command failed only because jobs it speaks of are over, or no longer wait."""
    lines = f"{answer.err}\n{answer.out}".split("\n")
    return any(map(str.strip, lines)) and all(GONE.search(line) for line in lines)
