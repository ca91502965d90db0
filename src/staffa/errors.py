"""What can go wrong, as one small tree.

    StaffaError
    ├── ConfigError       what was asked for makes no sense           exit 2
    ├── PluginError       an experiment or plug-in cannot be used     exit 2
    │   └── PilotError        none of the trials that were tried works
    ├── WorkspaceError    the campaign's folder is not as it must be  exit 2
    └── ClusterError      the machine let us down (disk, cluster)     exit 3

The message quotes the value; the hint is a command or the near names. What
happens to a single trial is data (`staffa.trial.Outcome`), never an exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StaffaWarning(UserWarning):
    """Something that works but will surprise; a failure in our own tests."""


class StaffaError(Exception):
    """An error meant for the user: a message and what to do next.

    Arguments:
    - `message`: what is wrong, quoting the offending value and where it came from.
    - `hint`: the command that helps, or the names that were probably meant.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(StaffaError):
    """The declaration is wrong: unknown key, wrong type, impossible request."""


class PluginError(StaffaError):
    """An experiment (or another plug-in) cannot be found, imported or traced."""


class PilotError(PluginError):
    """None of the trials that were tried before a campaign starts works; of others nobody knows."""


class WorkspaceError(StaffaError):
    """The folder of a campaign is missing, foreign, held by another driver, or changed."""


class ClusterError(StaffaError):
    """The infrastructure failed: disk full, no workers, cluster refused."""

    exit_code = 3


def near(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to `name`, for use as a hint."""
    names = sorted({str(k) for k in known})
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names) if names else ""
