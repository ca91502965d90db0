"""Words of a declaration that end up in a job script: directives, shell lines, variables, paths.

They are judged here, where the complaint can still name file and line; the script quotes them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, StrictStr

OWNED = {
    "array": "arrays are made by Staffa: see cluster.submit.array and the pool's `throttle`",
    "job-name": "jobs are found again by the name Staffa gives them",
    "output": "the log goes to the campaign's `logs` folder, where `staffa explain` reads it",
    "error": "the log goes to the campaign's `logs` folder, where `staffa explain` reads it",
    "wrap": "the script is Staffa's",
    "test-only": "use `staffa doctor --cluster`",
    "parsable": "it is always given",
    "wait": "the driver waits for nobody",
}
"""Directives that are not the user's, and why."""

SAID_BY_FIELD = {"nodes": "nodes", "time": "walltime"}
"""Directives whose value Staffa reckons with, and the field that sets them. They may be dropped."""

SHORT = {"A": "account", "C": "constraint", "G": "gpus", "L": "licenses", "N": "nodes", "c": "cpus-per-task"}
SHORT |= {"d": "dependency", "n": "ntasks", "p": "partition", "q": "qos", "t": "time", "w": "nodelist"}
SHORT |= {"D": "chdir", "J": "job-name", "M": "clusters", "a": "array", "e": "error", "o": "output", "x": "exclude"}
"""sbatch's short options."""

Directive = str | Literal[True] | None


def _directive_name(name: str) -> str:
    bare = name.lstrip("-")
    if bare in SHORT:
        raise ValueError(f"is short for an option of sbatch: write '{SHORT[bare]}'")
    if bare in OWNED:
        raise ValueError(f"is not a directive to set: {OWNED[bare]}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]+", name):
        raise ValueError("is not the name of a directive: write a long option of sbatch without dashes, such as 'qos'")
    return name


def _directive_value(value: Any) -> Directive:
    if value is None or value is True:
        return value
    if value is False:
        raise ValueError("does not drop a directive: write null")
    if not isinstance(value, str | int | float):
        raise ValueError("is not the value of a directive: write text, a number, true for a flag, null to drop it")
    return _one_line(str(value))


def _unsaid(directives: dict[str, Directive]) -> dict[str, Directive]:
    for name, by in SAID_BY_FIELD.items():
        if directives.get(name) is not None:
            raise ValueError(f"sets '{name}': use the field `{by}`, which Staffa reckons with")
    return directives


def _one_line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("holds a line break or another control character")
    return text


def _program(path: str) -> str:
    if path.startswith("~"):
        raise ValueError("begins with a tilde, which stays as it is: write $HOME")
    return _one_line(path)


def _place(path: str) -> str:
    if not path.startswith(("/", "$")) and not path.startswith("~"):
        raise ValueError("is relative, and jobs start anywhere: write it in full, or from a variable such as $HOME")
    return _program(path)


def _prologue_line(line: str) -> str:
    if "\0" in line:
        raise ValueError("holds a zero byte")
    if re.search(r"^\s*#SBATCH", line, re.MULTILINE):
        raise ValueError("is a directive: write it under `directives`")
    return line


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is not the name of a variable")
    return name


def _variable_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("is not the value of a variable: write text or a number")
    return _one_line(str(value))


Line = Annotated[StrictStr, Field(min_length=1), AfterValidator(_one_line)]
Program = Annotated[StrictStr, Field(min_length=1), AfterValidator(_program)]
Place = Annotated[StrictStr, Field(min_length=1), AfterValidator(_place)]
Directives = Annotated[
    dict[
        Annotated[str, AfterValidator(_directive_name)],
        Annotated[
            Directive,
            PlainValidator(_directive_value, json_schema_input_type=str | int | float | Literal[True] | None),
        ],
    ],
    AfterValidator(_unsaid),
]
Prologue = tuple[Annotated[StrictStr, AfterValidator(_prologue_line)], ...]
Variables = dict[
    Annotated[str, AfterValidator(_variable)],
    Annotated[str, PlainValidator(_variable_value, json_schema_input_type=str | int | float)],
]
