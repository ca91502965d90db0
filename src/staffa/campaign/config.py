"""The declaration of a campaign: read, merged, checked, frozen, explained.

Tiers, weakest first: the defaults of `model` < cluster config < campaign file
< profile < `STAFFA_*` variables < the runtime around the call < `--set`. A
stronger tier wins key by key; lists are replaced whole. Everything is refused here that can be refused
without importing the experiment or unfolding the space.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from staffa.campaign import profiles
from staffa.campaign.complaints import Complaint, Refused, complaint_of, refusal, validated
from staffa.campaign.fields import Section
from staffa.campaign.frozen import render
from staffa.campaign.layers import (
    DEFAULT,
    Address,
    Node,
    Origin,
    Tree,
    dotted,
    from_python,
    merge,
    origins,
    planted,
)
from staffa.campaign.model import CampaignConfig, MachineConfig, ProfileConfig
from staffa.campaign.parameters import whole_names
from staffa.campaign.reading import read_file, read_text
from staffa.errors import ConfigError, StaffaError, near
from staffa.trial import canonical

__all__ = [
    "ABSENT",
    "CampaignConfig",
    "Declaration",
    "Origin",
    "config_hash",
    "difference",
    "dump",
    "examine",
    "explain",
    "from_mapping",
    "from_tree",
    "json_schema",
    "load",
    "load_frozen",
    "load_machine",
    "plain",
    "stray_variables",
    "tree_of",
]

Row: TypeAlias = tuple[str, Any, Origin]
Refusal = TypeVar("Refusal", bound=StaffaError)

CLUSTER_SECTIONS = ("cluster", "execution", "storage")
"""What a cluster config may hold: a machine has a say in how work is done, never in what is computed."""

SCHEMAS: Mapping[str, type[Section]] = {"campaign": CampaignConfig, "cluster": MachineConfig, "profile": ProfileConfig}
"""Files that editors may check."""

ABSENT = "(absent)"
"""Stands in a difference for a value that only the other declaration has."""

PREFIX = "STAFFA_"
PYTHON = Origin("python")


@dataclass(frozen=True)
class Declaration:
    """A campaign as declared: every tier merged, every value checked.

    Arguments:
    - `campaign`: the values.
    - `origins`: where each was written, by dotted path; what stands nowhere is a default.
    - `directory`: folder of the campaign file; file references such as `model.py:Walk` start there.
    """

    campaign: CampaignConfig
    origins: Mapping[str, Origin]
    directory: Path

    def where(self, path: str) -> Origin:
        """Origin of the value at a dotted path, or of the closest mapping or list around it.

        Items of lists count: `space[0].grid.temperature` names the line of that very key.
        """
        ends = [len(path), *(match.start() for match in re.finditer(r"[.\[]", path))]
        around = (path[:end] for end in sorted(ends, reverse=True))
        return next((self.origins[name] for name in around if name in self.origins), DEFAULT)

    def located(self, error: Refusal) -> Refusal:
        """The same error with file and line in front, for complaints that begin with a dotted path."""
        match = re.match(r"[\w.\[\]]+", error.message)
        origin = self.where(match[0].rstrip(".")) if match else DEFAULT
        return error if origin == DEFAULT else type(error)(f"{origin}: {error.message}", error.hint)


def load(
    path: str | Path,
    *,
    cluster: str | Path | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    overrides: Iterable[str] = (),
    ambient: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Declaration:
    """Read a campaign file and every tier around it.

    Arguments:
    - `path`: the campaign's YAML file.
    - `cluster`: a cluster config, by path or by name (`cluster_configs/<name>.yaml` in the current
      folder, beside the campaign file or in a folder above it). `local` needs no file.
    - `profile`: name of `profiles/<name>.yaml` beside the campaign file, or in `workflow`.
    - `overrides`: `a.b=c` each, the value read as YAML.
    - `ambient`: the same, said around the call (`staffa.runtime`); `overrides` win.
    - `environ`: the environment; the process's own by default.

    Raises ConfigError with one line per thing that is wrong: file:line, field, value.
    """
    path = Path(path)
    tiers = [read() for read in _tiers(path, cluster, profile, workflow, overrides, ambient, environ)]
    return _declared(tiers, path.parent, Origin("campaign", str(path)))


def _tiers(
    path: Path,
    cluster: str | Path | None,
    profile: str | None,
    workflow: str | Path | None,
    overrides: Iterable[str],
    ambient: Iterable[str],
    environ: Mapping[str, str] | None,
) -> Iterator[Callable[[], Tree]]:
    """How each tier is read, the weakest first."""
    yield lambda: _cluster_tier(cluster, path.parent)
    yield lambda: read_file(path, "campaign")
    yield lambda: _profile_tier(profile, path.parent, workflow)
    variables = os.environ if environ is None else environ
    for name in _variables(variables):
        yield functools.partial(_variable_tier, name, variables[name])
    for override in ambient:
        yield functools.partial(override_tier, override, "runtime")
    for override in overrides:
        yield functools.partial(override_tier, override, "set")


def from_mapping(mapping: Mapping[str, Any], *, directory: str | Path, overrides: Iterable[str] = ()) -> Declaration:
    """A declaration from Python values in the shape of a campaign file; the environment is not asked."""
    node = from_python(mapping, PYTHON)
    if not isinstance(node.content, dict):
        raise ConfigError(f"{mapping!r} is not a mapping of sections", "give one in the shape of a campaign file")
    return _declared([node.content, *map(override_tier, overrides)], Path(directory), PYTHON)


def tree_of(declaration: Declaration) -> dict[str, Node]:
    """A declaration as the tiers it was made of would say it in one: every value, with where it was written."""
    return {name: _node(value, (name,), declaration.origins) for name, value in plain(declaration).items()}


def from_tree(tree: Tree, directory: Path) -> Declaration:
    """The declaration that a tree says; complaints as for `load`."""
    return _declared([tree], directory, PYTHON)


def _node(value: Any, address: Address, origins: Mapping[str, Origin]) -> Node:
    content: Any = value
    if isinstance(value, Mapping):
        content = {key: _node(item, (*address, key), origins) for key, item in value.items()}
    elif isinstance(value, list):
        content = tuple(_node(item, (*address, place), origins) for place, item in enumerate(value))
    return Node(content, origins.get(dotted(address), DEFAULT))


def dump(declaration: Declaration) -> str:
    """YAML of every value, a trailing comment naming its tier and place; `load_frozen` reads it back."""
    return render(plain(declaration), declaration.origins)


def load_frozen(
    path: str | Path,
    *,
    directory: str | Path | None = None,
    cluster: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> Declaration:
    """Read back what `dump` wrote: no other tier has a say any more, but what is said on the spot.

    Arguments:
    - `directory`: where file references start; the file's own folder by default.
    - `cluster`: another cluster config, as for `load`: it stands in the place of the frozen section,
      whole, since half of one machine and half of another is none.
    - `overrides`: `a.b=c` each, as for `load`.
    """
    path = Path(path)
    folder = path.parent if directory is None else Path(directory)
    frozen = dict(read_file(path, "frozen"))
    if cluster is not None:
        frozen.pop("cluster", None)
    tiers = [frozen, _cluster_tier(cluster, Path()), *map(override_tier, overrides)]
    return _declared(tiers, folder, Origin("frozen", str(path)))


def load_machine(
    cluster: str | Path | None = None, *, overrides: Iterable[str] = (), environ: Mapping[str, str] | None = None
) -> MachineConfig:
    """A cluster config without a campaign: what `doctor` looks at. Tiers and complaints as for `load`."""
    variables = os.environ if environ is None else environ
    given = [_variable_tier(name, variables[name]) for name in _variables(variables)]
    known = [{key: node for key, node in tier.items() if key in CLUSTER_SECTIONS} for tier in given]
    tree = _merged([_cluster_tier(cluster, Path()), *known, *map(override_tier, overrides)])
    return validated(tree, MachineConfig, Origin("cluster", str(cluster)))


def _declared(tiers: Iterable[Tree], directory: Path, blamed: Origin) -> Declaration:
    tree = _merged(map(whole_names, tiers))
    return Declaration(validated(tree, CampaignConfig, blamed), origins(tree), directory.absolute())


def _merged(tiers: Iterable[Tree]) -> Tree:
    """All tiers as one; a section that a tier has emptied is as if nobody had written it."""
    merged: Tree = functools.reduce(merge, tiers, {})
    return {key: node for key, node in merged.items() if node.content is not None}


# --- everything that is wrong ----------------------------------------------------------------------

CAMPAIGN_TIER = 1
"""Place of the campaign file among the tiers."""

STAND_INS = {
    "campaign": Node({"name": Node("unnamed", DEFAULT)}, DEFAULT),
    "experiment": Node({"use": Node("unknown", DEFAULT)}, DEFAULT),
}
"""What takes the place of a section without which nothing else could be looked at."""


@dataclass(frozen=True)
class Examined:
    """A declaration that was looked at to the end, whatever was found.

    Arguments:
    - `complaints`: all that is wrong with it by itself.
    - `declaration`: what is left of it: the sections somebody complained of stand at their defaults.
      None where the file itself cannot be read.
    - `unsound`: those sections.
    """

    complaints: tuple[Complaint, ...]
    declaration: Declaration | None
    unsound: frozenset[str]


def examine(
    path: str | Path,
    *,
    cluster: str | Path | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    overrides: Iterable[str] = (),
    ambient: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Examined:
    """What `load` reads, with every complaint instead of an error; arguments as there."""
    path, found, tiers = Path(path), list[Complaint](), list[Tree]()
    blamed, readable = Origin("campaign", str(path)), True
    for number, read in enumerate(_tiers(path, cluster, profile, workflow, overrides, ambient, environ)):
        try:
            tiers.append(whole_names(read()))
        except ConfigError as error:
            found += _taken_apart(error)
            readable = readable and number != CAMPAIGN_TIER
    declaration, unsound = _what_is_left(_merged(tiers), path.parent, blamed, found) if readable else (None, set())
    return Examined(_each_once(found), declaration, frozenset(unsound))


def _what_is_left(
    tree: Tree, directory: Path, blamed: Origin, found: list[Complaint]
) -> tuple[Declaration | None, set[str]]:
    """A declaration without the sections that are complained of, which is added to `found`."""
    unsound: set[str] = set()
    while True:
        try:
            return _declared([tree], directory, blamed), unsound
        except Refused as error:
            found += error.complaints
            named = {section_of(complaint.field) for complaint in error.complaints}
            if named <= unsound:
                return None, unsound
            unsound |= named
            kept = {key: node for key, node in tree.items() if key not in named}
            tree = kept | {key: node for key, node in STAND_INS.items() if key in named}


def section_of(field: str) -> str:
    """`space` of `space[0].grid.a`."""
    return re.split(r"[.\[]", field, maxsplit=1)[0]


def _taken_apart(error: ConfigError) -> tuple[Complaint, ...]:
    if isinstance(error, Refused):
        return error.complaints
    return (complaint_of(error, lambda field: DEFAULT, lambda field: None),)


def _each_once(found: Iterable[Complaint]) -> tuple[Complaint, ...]:
    seen = {(str(complaint), complaint.hint): complaint for complaint in found}
    return tuple(seen.values())


# --- tiers -----------------------------------------------------------------------------------------


def _cluster_tier(cluster: str | Path | None, beside: Path) -> Tree:
    path = _cluster_file(cluster, beside) if cluster is not None else None
    if path is None:
        return {}
    tree = read_file(path, "cluster")
    foreign = [
        Complaint(node.origin, key, "has no place in a cluster config", near(key, CLUSTER_SECTIONS))
        for key, node in tree.items()
        if key not in CLUSTER_SECTIONS
    ]
    if foreign:
        raise refusal(foreign)
    return tree


def _cluster_file(cluster: str | Path, beside: Path) -> Path | None:
    """The file meant by a path or a name; None for `local` where nobody wrote one."""
    if isinstance(cluster, Path) or cluster.endswith((".yaml", ".yml")) or os.sep in cluster:
        return Path(cluster)
    found = _cluster_files(beside)
    if cluster not in found and cluster != "local":
        names = [*found, "local"]
        raise ConfigError(f"--cluster {cluster}: no cluster_configs/{cluster}.yaml", near(cluster, names))
    return found.get(cluster)


def _cluster_files(beside: Path) -> dict[str, Path]:
    """Cluster configs in sight by name; the closest folder wins, the current one first."""
    folder = beside.absolute()
    places = [Path(), folder, *folder.parents]
    found: dict[str, Path] = {}
    for place in places:
        for path in _yaml_files(place / "cluster_configs"):
            found.setdefault(path.stem, path)
    return found


def _profile_tier(profile: str | None, beside: Path, workflow: str | Path | None) -> Tree:
    if profile is None:
        return {}
    return profiles.find(profile, profiles.folder(beside, workflow)).tree


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _variables(environ: Mapping[str, str]) -> list[str]:
    """`STAFFA_EXECUTION__RETRIES__LIMIT` and its like; sorted, so that the longer name wins."""
    return [
        name for name in sorted(environ) if name.startswith(PREFIX) and _path(name)[0] in CampaignConfig.model_fields
    ]


def _path(variable: str) -> list[str]:
    return variable.removeprefix(PREFIX).lower().split("__")


def stray_variables(environ: Mapping[str, str]) -> list[Complaint]:
    """`STAFFA_*` variables that look like settings, and are none."""
    sections = list(CampaignConfig.model_fields)
    strays = []
    for name in sorted(environ):
        section = _path(name)[0]
        meant = "__" in name or difflib.get_close_matches(section, sections, n=1, cutoff=0.8)
        if name.startswith(PREFIX) and section not in sections and meant:
            hint = near(section, sections)
            strays.append(Complaint(Origin("environment", name), section, "no such section", hint, environ[name]))
    return strays


def _variable_tier(name: str, text: str) -> Tree:
    return _planted(_path(name), text, Origin("environment", name))


def override_tier(override: str, tier: str = "set") -> Tree:
    """The tree that `a.b=c` says. Raises ConfigError where it says nothing."""
    field, equals, text = override.partition("=")
    path = field.strip().split(".")
    if not equals or not all(path):
        hint = "write for example --set sampling.draws=100"
        said = Origin(tier) if tier != "set" else "--set"
        raise ConfigError(f"{said} {override}: is not field=value", hint)
    return _planted(path, text, Origin(tier))


def _planted(path: list[str], text: str, origin: Origin) -> Tree:
    return planted(path, read_text(text, origin, tuple(path)))


# --- questions -------------------------------------------------------------------------------------


def plain(declaration: Declaration) -> dict[str, Any]:
    """Every value as mappings, lists and scalars, defaults included; durations in seconds, sizes in bytes."""
    return declaration.campaign.model_dump(mode="json")


def explain(declaration: Declaration) -> list[Row]:
    """Every leaf with its value and where that came from, sorted by dotted path."""
    leaves = sorted(_leaves(plain(declaration), ()))
    return [(path, value, declaration.origins.get(path, DEFAULT)) for path, value in leaves]


def difference(first: Declaration, second: Declaration) -> list[tuple[str, Any, Any]]:
    """Leaves that differ, with both values or `ABSENT`; 1 and 1.0 differ, as in identities."""
    one, two = dict(_leaves(plain(first), ())), dict(_leaves(plain(second), ()))
    rows = [(path, one.get(path, ABSENT), two.get(path, ABSENT)) for path in sorted(one.keys() | two.keys())]
    return [(path, a, b) for path, a, b in rows if canonical(a) != canonical(b)]


def config_hash(declaration: Declaration) -> str:
    """16 hexadecimal characters that name the values, whatever tier they came from."""
    return hashlib.sha256(canonical(plain(declaration)).encode()).hexdigest()[:16]


def json_schema(of: str = "campaign") -> dict[str, Any]:
    """The JSON schema of a campaign file, a `cluster` config or a `profile`, for editors."""
    if of not in SCHEMAS:
        raise ConfigError(f"there is no schema of a {of!r}", near(of, SCHEMAS))
    return SCHEMAS[of].model_json_schema()


def _leaves(value: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        path = (*above, key)
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, path)
        else:
            yield ".".join(path), item
