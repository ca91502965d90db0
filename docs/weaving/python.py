"""What is public in Python, by its signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import staffa
import staffa.testing
from weaving.words import Undocumented, attributes, described, markdown

SECTIONS: dict[str, tuple[str, ...]] = {
    "To declare": ("load", "validate", "plan", "Campaign", "Parameter", "runtime", "graph"),
    "To run": ("run", "resume", "stop", "scale", "attach", "Run", "minimize", "Minimum"),
    "To look": ("status", "watch", "explain", "usage", "diff", "reproduce"),
    "To change": ("expand", "shrink", "cancel", "retry", "reconcile", "verify", "merge"),
    "To keep": ("consolidate", "schedule", "archive_list", "archive_verify", "archive_copy"),
    "To write": ("Experiment", "Encoding", "Tracker", "register", "deregister"),
    "What goes wrong": ("StaffaError", "ConfigError", "PluginError", "WorkspaceError", "ClusterError"),
}
"""Where each public name stands. One that is missing here stands under "Further"."""

ELSEWHERE = ("Experiment", "Encoding", "Tracker")
"""Public names that are protocols: their page is that of plug-ins."""


def public_face() -> str:
    """Everything `staffa` offers by name."""
    known = [name for names in SECTIONS.values() for name in names]
    sections = {**SECTIONS, "Further": tuple(name for name in staffa.__all__ if name not in known)}
    text = []
    for title, names in sections.items():
        here = [name for name in names if name in staffa.__all__]
        if here:
            text.append(f"## {title}")
            text += [_named(name, getattr(staffa, name)) for name in here]
    return "\n\n".join(text)


def _named(name: str, found: Any) -> str:
    if name in ELSEWHERE:
        described(found)
        return f"### `staffa.{name}`\n\nSee [what plug-ins are made of](/reference/protocols.md#{name.lower()})."
    return entry(f"staffa.{name}", found)


def held() -> str:
    """What one holds: results, their tables and columns, one trial."""
    from staffa.views.one import Trial
    from staffa.views.results import Results
    from staffa.views.table import Column, Table

    return "\n\n".join(entry(found.__name__, found) for found in (Results, Table, Column, Trial))


def protocols() -> str:
    """What one writes: experiments, encodings, trackers, targets, reducers."""
    from staffa.execution.trackers import Tracker
    from staffa.experiment.ensembles import Applier, Outputs, Reducer
    from staffa.samplers.density import Density
    from staffa.samplers.target import Continuous, Discrete

    found = (staffa.Experiment, staffa.Encoding, Tracker, Reducer, Applier, Outputs, Discrete, Continuous, Density)
    return "\n\n".join(entry(one.__name__, one, level=2) for one in found)


def testing() -> str:
    """What is there for the tests of those who write them."""
    return "\n\n".join(
        entry(f"staffa.testing.{name}", getattr(staffa.testing, name)) for name in staffa.testing.__all__
    )


def entry(name: str, found: Any, level: int = 3) -> str:
    """A public object: signature, docstring, and of a class what is in it."""
    shown = name if _exception(found) else f"{name}{signature(found)}"
    text = f"{'#' * level} `{name}`\n\n```text\n{shown}\n```\n\n{described(found, name)}"
    if isinstance(found, type) and not _exception(found):
        text += "\n\n" + "\n".join(_members(found, name))
    return text


def _exception(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Exception)


def _members(found: type, name: str) -> Iterator[str]:
    for attribute, (declaration, text) in attributes(found).items():
        if not attribute.startswith("_"):
            yield _item(declaration, text)
    for member, held in vars(found).items():
        inner = _behind(held)
        if member.startswith("_") or inner is None:
            continue
        text = inspect.cleandoc(inner.__doc__ or "") or _inherited(found, member)
        if not text:
            raise Undocumented(f"{name}.{member} has no docstring")
        plain = isinstance(held, property | cached_property)
        yield _item(member if plain else f"{member}{signature(inner, bound=True)}", text)


def _inherited(found: type, member: str) -> str:
    above: Iterable[Any] = (getattr(base, member, None) for base in found.__mro__[1:])
    return next((inspect.cleandoc(one.__doc__) for one in above if one is not None and one.__doc__), "")


def _behind(held: Any) -> Any:
    """The function behind a member of a class; None for anything else."""
    for kind, attribute in ((property, "fget"), (cached_property, "func"), ((classmethod, staticmethod), "__func__")):
        if isinstance(held, kind):  # type: ignore[arg-type]
            return getattr(held, attribute)
    return held if inspect.isfunction(held) else None


def _item(head: str, text: str) -> str:
    body = markdown(text).replace("\n", "\n  ")
    return f"- `{head}`\n\n  {body}\n"


def signature(found: Any, *, bound: bool = False) -> str:
    """A signature in one line, without what only a machine reads."""
    try:
        made = inspect.signature(found)
    except ValueError:
        return ""
    kept = [one for one in made.parameters.values() if not one.name.startswith("_")]
    if bound and kept and kept[0].name in ("self", "cls"):
        kept = kept[1:]
    text = str(made.replace(parameters=kept))
    text = re.sub(r"<function <lambda> at 0x\w+>|<factory>", "…", text)
    return re.sub(r": '([^']*)'|-> '([^']*)'", lambda m: f": {m[1]}" if m[1] is not None else f"-> {m[2]}", text)
