"""The entry point, and errors in words: message, hint, exit code."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from staffa.cli.answers import BAD_INPUT, INFRASTRUCTURE, INTERRUPTED, OK, Interrupted
from staffa.cli.words import app
from staffa.errors import StaffaError, near

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `staffa`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us (head, less) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        code, message, hint = _complaint(error, words)
        _complain(message, hint, "--json" in words)
    return code


def _run(words: list[str]) -> int:
    code = typer.main.get_command(app).main(words, prog_name="staffa", standalone_mode=False)
    return code if isinstance(code, int) else OK


def _complaint(error: BaseException, words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, message and hint for an error."""
    if isinstance(error, StaffaError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, Interrupted):
        again = f"staffa resume {shlex.quote(str(error.root))}"
        return INTERRUPTED, "interrupted; whatever is committed is kept", again
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted", ""
    if hasattr(error, "format_message"):
        return BAD_INPUT, str(error.format_message()), _usage_hint(error)
    if isinstance(error, OSError) and error.errno not in DISK:
        return BAD_INPUT, str(error), "check that the file or folder is there and that you may read and write it"
    if isinstance(error, OSError):
        return INFRASTRUCTURE, str(error), "make room, then run the same command again"
    again = shlex.join(["staffa", *words, "--debug"])
    return INFRASTRUCTURE, f"unexpected {type(error).__name__}: {error}", f"this is a bug; where it happens: {again}"


def _usage_hint(error: Any) -> str:
    """For words the command line does not know: the near ones, or its help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "staffa"
    message = str(error.format_message())
    commands = getattr(getattr(context, "command", None), "commands", None)
    if commands and "No such command" in message and "Did you mean" not in message:
        return near(message.split("'")[1], commands)
    return f"{path} --help"


def _complain(message: str, hint: str, as_json: bool) -> None:
    if as_json:
        text = json.dumps({"error": message, "hint": hint})
    else:
        text = "\n".join(filter(None, [f"staffa: {message}", f"  {hint}" if hint else ""]))
    sys.stderr.write(text + "\n")
