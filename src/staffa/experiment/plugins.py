"""Plug-ins: who offers what, under which name, and whether it can be used.

A family is one line of `FAMILIES`. An installed distribution offers plug-ins of it by entry points
of the group `staffa.<family>`; in Python one is registered for a block (`staffa.ambient`), which then
stands before an installed one of its name. Looking who is there reads metadata only: nothing of a
plug-in is imported before it is used, or listed with its status.

A plug-in that cannot be imported harms nobody who does not use it. Two distributions that offer
different things under one name are both refused: which of them counted would depend on the order
of `sys.path`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from staffa.ambient import current
from staffa.errors import PluginError, near
from staffa.experiment.encoding import Encoding
from staffa.experiment.protocol import Experiment

GROUP = "staffa."
VARIABLE = "STAFFA_PLUGINS"
"""How workers are told what was registered in their driver: JSON, `{"by": process, "plugins": [[family, name,
module:attribute], …]}`. Dask leaves it in the driver's own environment, too, where it must not outlive its block."""


def _experiment(found: Any) -> str:
    sound = isinstance(found, type) and issubclass(found, Experiment)
    return "" if sound else "is not a subclass of staffa.Experiment"


def _callable(found: Any) -> str:
    return "" if callable(found) else "cannot be called"


def _encoding(found: Any) -> str:
    sound = isinstance(found, type) and issubclass(found, Encoding)
    return "" if sound else "is not a subclass of staffa.Encoding"


def _command(found: Any) -> str:
    # Typer itself is only imported by the command line.
    app = hasattr(found, "registered_commands") and hasattr(found, "registered_groups")
    return "" if app or inspect.isroutine(found) else "is neither a function nor a typer.Typer"


@dataclass(frozen=True)
class Family:
    """One kind of plug-in.

    Arguments:
    - `what`: what one of them is, and the word by which a user asks for it.
    - `fits`: says what is wrong with an object that was offered; empty for nothing.
    - `options`: options of an experiment block whose `use: NAME` is looked up here first.
    - `far`: whether worker processes need it, too.
    """

    name: str
    what: str
    fits: Callable[[Any], str] = _callable
    options: tuple[str, ...] = ()
    far: bool = False


FAMILIES = (
    Family("experiments", "how a trial is done: `experiment.use: NAME`", _experiment, far=True),
    Family("samplers", "how a target is sampled: `experiment.use: NAME`", _experiment, far=True),
    Family(
        "schedules", "how a quantity changes along a trial: `schedule: {use: NAME}`", options=("schedule",), far=True
    ),
    Family("resampling", "who survives a step: `resampling: {use: NAME}`", options=("resampling",), far=True),
    Family("kernels", "how particles move: `kernel: {use: NAME}`", options=("kernel",), far=True),
    Family("fitness", "what is sampled: `target: {use: NAME}`", options=("target", "fitness"), far=True),
    Family("metrics", "how far two things are apart: `metric: {use: NAME}`", options=("metric",), far=True),
    Family("traversals", "how an index is searched: `traversal: {use: NAME}`", options=("traversal",), far=True),
    Family(
        "conflicts",
        "which points cannot enter an index together: `conflict: {use: NAME}`",
        options=("conflict",),
        far=True,
    ),
    Family("encodings", "how a value that is no number is recorded: `encodings = {OUTPUT: NAME}`", _encoding, far=True),
    Family("strategies", "what a search asks for next: `search.strategy.use: NAME`"),
    Family("reducers", "what all trials come to: `reduce: {use: NAME}`", options=("reduce",), far=True),
    Family("renderers", "how a table is written: `--format NAME`"),
    Family("figures", "what a report shows besides: `qa: {figures: [{use: NAME}]}`"),
    Family("clusters", "what starts the workers: `cluster.kind: NAME`"),
    Family("commands", "a word of the command line: `staffa NAME`", _command),
    Family("trackers", "who is told what happens in a run"),
)

BROKEN = "?"
"""Stands for the family where a distribution's entry points cannot be read."""

WHOLE = ("experiments", "samplers")
"""Families of what `experiment.use` may name."""


@dataclass(frozen=True)
class Offer:
    """A plug-in, as far as metadata tell.

    Arguments:
    - `value`: `module:attribute`; empty for an object registered by hand.
    - `distribution`, `version`: who installed it; empty for one registered by hand.
    - `flaw`: why nothing more is known.
    """

    family: str
    name: str
    value: str
    distribution: str = ""
    version: str = ""
    found: Any = field(default=None, compare=False)
    flaw: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if self.distribution:
            return " ".join(filter(None, [self.distribution, self.version, f"({self.value})" if self.value else ""]))
        return f"registered ({self.value or _described(self.found)})"

    def load(self) -> Any:
        """The object itself. Raises whatever its import raises."""
        if not self.value:
            return self.found
        return importlib.metadata.EntryPoint(self.name, self.value, GROUP + self.family).load()


def family(name: str) -> Family:
    """A family by its name. Raises `PluginError` with the near names."""
    found = {known.name: known for known in FAMILIES}
    if name not in found:
        raise PluginError(f"{name!r} is no family of plug-ins", near(name, found))
    return found[name]


def offers(of: str, *others: str) -> list[Offer]:
    """What is offered in a family (or several), by name; nothing is imported.

    A name that is offered twice is there twice.
    """
    families, here = [family(name).name for name in (of, *others)], current().plugins
    said = {(one, name): offer for one in families for name, offer in {**_inherited(one), **_registered(one)}.items()}
    gone = {(one, name) for one in families for name, entry in here.said(one).items() if entry.gone}
    installed = [offer for offer in _installed() if offer.family in families]
    found = [*said.values(), *(one for one in installed if (one.family, one.name) not in {*said, *gone})]
    return sorted(found, key=lambda offer: (families.index(offer.family), offer.name, offer.distribution))


def load(of: str, name: str, asked: str = "") -> Any:
    """A plug-in by family and name.

    Arguments:
    - `asked`: where the name was given, such as `cluster.kind`; for messages.

    Raises `PluginError` for a name that is not there, is there twice, cannot be imported or does not fit.
    """
    return search((of,), name, asked)


def search(families: Iterable[str], name: str, asked: str = "") -> Any:
    """A plug-in by name from the first of some families that has it; otherwise as `load`."""
    wanted = list(families)
    found = offers(*wanted)
    named = [offer for offer in found if offer.name == name]
    if named:
        return loaded([offer for offer in named if offer.family == named[0].family], asked)
    where = f"{asked}: " if asked else ""
    hint = near(name, [offer.name for offer in found])
    hint = hint or "no plug-in of this kind is installed: staffa plugins list"
    raise PluginError(f"{where}there is no plug-in {name!r} in {' or '.join(wanted)}", hint)


def part_families(option: str) -> tuple[tuple[str, ...], ...]:
    """Where the plug-in of an experiment's option is looked for: its own families, then all other parts."""
    own = tuple(one.name for one in FAMILIES if option in one.options)
    others = tuple(one.name for one in FAMILIES if (one.options or one.name in WHOLE) and one.name not in own)
    return (own, others) if own else (others,)


def listed(of: str | None = None) -> Iterator[dict[str, Any]]:
    """Every plug-in with where it comes from and whether it works: each is imported, none can end this.

    Yields `family`, `name`, `value`, `distribution`, `version`, `origin`, `file`, `status` (ok or failed)
    and `reason`.
    """
    installed = list(_installed())
    for one in FAMILIES if of is None else (family(of),):
        found = offers(one.name)
        for offer in found:
            rivals = [other for other in found if other.name == offer.name and other.value != offer.value]
            file, reason = _tried(one, offer)
            if rivals:
                reason = f"{rivals[0].distribution} {rivals[0].version} offers another {offer.name!r}"
            yield _row(offer, file, reason)
    known = {one.name for one in FAMILIES}
    for offer in installed if of is None else ():
        if offer.family not in known:
            yield _row(offer, "", offer.flaw or f"no such family; {near(offer.family, known)}")


def exported() -> dict[str, str]:
    """Environment that tells a worker what was registered here; empty where nothing was.

    Raises `PluginError` for a plug-in that a worker could not import.
    """
    rows = []
    for one in FAMILIES:
        if one.far:
            said = {**_inherited(one.name), **_registered(one.name)}
            rows += [[one.name, offer.name, offer.value or _importable(offer)] for offer in said.values()]
    return {VARIABLE: json.dumps({"by": _process(), "plugins": rows})} if rows else {}


def _registered(of: str) -> dict[str, Offer]:
    said = current().plugins.said(of)
    return {name: Offer(of, name, "", found=entry.found) for name, entry in said.items() if not entry.gone}


def _inherited(of: str) -> dict[str, Offer]:
    """What the driver of this worker had registered."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = json.loads(os.environ.get(VARIABLE) or "{}")
        if told and told["by"] != _process():
            return {name: Offer(of, name, value) for kind, name, value in told["plugins"] if kind == of}
    return {}


def _process() -> str:
    return f"{os.uname().nodename} {os.getpid()}"


def _installed() -> Iterator[Offer]:
    """Entry points of all distributions; of one that is there twice the first on `sys.path` counts."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        text = _entry_points(distribution)
        if GROUP not in text:
            continue
        name, version = _called(distribution)
        if name.lower() in seen or _hidden(name, text):
            continue
        seen.add(name.lower())
        try:
            points = [point for point in distribution.entry_points if point.group.startswith(GROUP)]
        except Exception as error:
            yield Offer(BROKEN, "entry_points.txt", "", name, version, flaw=_words(error))
            continue
        for point in points:
            yield Offer(point.group.removeprefix(GROUP), point.name, point.value, name, version)


def _entry_points(distribution: importlib.metadata.Distribution) -> str:
    with contextlib.suppress(Exception):  # not a file, not text, not ours: somebody else's trouble
        return distribution.read_text("entry_points.txt") or ""
    return ""


def _called(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version; of a distribution without them the name of its folder."""
    with contextlib.suppress(Exception):
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name and version:
            return name, version
    return str(getattr(distribution, "_path", "an unnamed distribution")), ""


def _hidden(name: str, text: str) -> bool:
    """Whether another copy, earlier on `sys.path`, is the one that is imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return _entry_points(importlib.metadata.distribution(name)) != text
    return False


def loaded(named: Sequence[Offer], asked: str = "") -> Any:
    """What the offers of one name in one family agree upon, imported.

    Raises `PluginError` where they do not agree, or it cannot be used.
    """
    where, offer = f"{asked}: " if asked else "", named[0]
    if len({other.value for other in named}) > 1:
        owners = " and ".join(f"{other.distribution} {other.version} ({other.value})" for other in named)
        raise PluginError(
            f"{where}{offer.name!r} is offered in {offer.family} by {owners}",
            f"uninstall one of them: pip uninstall {named[-1].distribution}",
        )
    try:
        found = offer.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{where}plug-in {offer.name!r} ({offer.value}) cannot be imported: {_words(error)}",
            f"mend or reinstall {offer.distribution or 'it'}; staffa plugins list --family {offer.family}",
        ) from error
    if wrong := family(offer.family).fits(found):
        raise PluginError(
            f"{where}plug-in {offer.name!r} of {offer.origin} {wrong}", f"{offer.family}: {family(offer.family).what}"
        )
    return found


def _row(offer: Offer, file: str, reason: str) -> dict[str, Any]:
    row = {name: getattr(offer, name) for name in ("family", "name", "value", "distribution", "version", "origin")}
    return {**row, "file": file, "status": "failed" if reason else "ok", "reason": reason}


def _tried(of: Family, offer: Offer) -> tuple[str, str]:
    """The file a plug-in is written in, and why it cannot be used."""
    try:
        found = offer.load()
        wrong = of.fits(found)
    except (Exception, SystemExit) as error:
        return "", _words(error)
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsourcefile(found) or "", wrong
    return "", wrong


def _importable(offer: Offer) -> str:
    """`module:attribute` of an object that was registered, where another process finds it by that."""
    found = offer.found
    module, name = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        there: Any = importlib.import_module(module)
        for word in name.split("."):
            there = getattr(there, word)
        if there is found and module != "__main__" and not module.startswith("_staffa_"):
            return f"{module}:{name}"
    raise PluginError(
        f"{offer.family}: {offer.name!r} was registered as {_described(found)}, which workers cannot import",
        "put it into an installed module, or beside the campaign file and write `use: model.py:Class`",
    )


def _described(found: Any) -> str:
    module, name = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    return f"{module}:{name}" if module and name else repr(found)


def _words(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"


def facts(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`listed` for `--json` and a sheet."""
    found = [dict(row) for row in rows]
    return {
        "families": [{"name": one.name, "group": GROUP + one.name, "what": one.what} for one in FAMILIES],
        "plugins": found,
        "failed": sum(row["status"] == "failed" for row in found),
    }
