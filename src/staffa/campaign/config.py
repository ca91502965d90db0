"""The declaration of a campaign: read, merged, checked, frozen, explained.

Tiers, weakest first: the defaults of `model` < cluster config < campaign file
< profile < `STAFFA_*` variables < `--set`. A stronger tier wins key by key;
lists are replaced whole. Everything is refused here that can be refused
without importing the experiment or unfolding the space.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from staffa.campaign.complaints import Complaint, complaints, refusal
from staffa.campaign.frozen import render
from staffa.campaign.layers import DEFAULT, Node, Origin, Tree, from_python, merge, origins, planted, values
from staffa.campaign.model import CampaignConfig, MachineConfig, ProfileConfig
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
    "explain",
    "from_mapping",
    "json_schema",
    "load",
    "load_frozen",
    "load_machine",
    "plain",
]

Row: TypeAlias = tuple[str, Any, Origin]
Model = TypeVar("Model", bound=BaseModel)
Refusal = TypeVar("Refusal", bound=StaffaError)

CLUSTER_SECTIONS = ("cluster", "execution", "storage")
"""What a cluster config may hold: a machine has a say in how work is done, never in what is computed."""

ABSENT = "(absent)"
"""Stands in a difference for a value that only the other declaration has."""

PREFIX = "STAFFA_"


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
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Declaration:
    """Read a campaign file and every tier around it.

    Arguments:
    - `path`: the campaign's YAML file.
    - `cluster`: a cluster config, by path or by name (`cluster_configs/<name>.yaml` in the current
      folder, beside the campaign file or in a folder above it). `local` needs no file.
    - `profile`: name of `profiles/<name>.yaml` beside the campaign file.
    - `overrides`: `a.b=c` each, the value read as YAML.
    - `environ`: the environment; the process's own by default.

    Raises ConfigError with one line per thing that is wrong: file:line, field, value.
    """
    path = Path(path)
    tiers = [
        _cluster_tier(cluster, path.parent),
        read_file(path, "campaign"),
        _profile_tier(profile, path.parent),
        *_environment_tiers(os.environ if environ is None else environ),
        *_override_tiers(overrides),
    ]
    return _declared(tiers, path.parent, Origin("campaign", str(path)))


def from_mapping(mapping: Mapping[str, Any], *, directory: str | Path, overrides: Iterable[str] = ()) -> Declaration:
    """A declaration from Python values in the shape of a campaign file; the environment is not asked."""
    origin = Origin("python")
    node = from_python(mapping, origin)
    if not isinstance(node.content, dict):
        raise ConfigError(f"{mapping!r} is not a mapping of sections", "give one in the shape of a campaign file")
    return _declared([node.content, *_override_tiers(overrides)], Path(directory), origin)


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
    tiers = [frozen, _cluster_tier(cluster, Path()), *_override_tiers(overrides)]
    return _declared(tiers, folder, Origin("frozen", str(path)))


def load_machine(
    cluster: str | Path | None = None, *, overrides: Iterable[str] = (), environ: Mapping[str, str] | None = None
) -> MachineConfig:
    """A cluster config without a campaign: what `doctor` looks at. Tiers and complaints as for `load`."""
    given = _environment_tiers(os.environ if environ is None else environ)
    known = [{key: node for key, node in tier.items() if key in CLUSTER_SECTIONS} for tier in given]
    tree: Tree = functools.reduce(merge, [_cluster_tier(cluster, Path()), *known, *_override_tiers(overrides)], {})
    kept = {key: node for key, node in tree.items() if node.content is not None}
    return _validated(kept, MachineConfig, Origin("cluster", str(cluster)))


def _declared(tiers: Iterable[Tree], directory: Path, blamed: Origin) -> Declaration:
    merged: Tree = functools.reduce(merge, tiers, {})
    tree = {key: node for key, node in merged.items() if node.content is not None}
    campaign = _validated(tree, CampaignConfig, blamed)
    return Declaration(campaign, origins(tree), directory.absolute())


def _validated(tree: Tree, model: type[Model], blamed: Origin) -> Model:
    try:
        return model.model_validate(values(tree))
    except ValidationError as error:
        raise refusal(complaints(error, tree, model, blamed)) from None


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


def _profile_tier(profile: str | None, beside: Path) -> Tree:
    if profile is None:
        return {}
    folder = beside / "profiles"
    found = {path.stem: path for path in _yaml_files(folder)}
    if profile not in found:
        hint = near(profile, found) or f"write {folder / profile}.yaml with `set: {{…}}`"
        raise ConfigError(f"--profile {profile}: no {folder / profile}.yaml", hint)
    tree = read_file(found[profile], "profile")
    _validated(tree, ProfileConfig, Origin("profile", str(found[profile])))
    return _mapping(tree.get("set"))


def _mapping(node: Node | None) -> Tree:
    return node.content if node is not None and isinstance(node.content, dict) else {}


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _environment_tiers(environ: Mapping[str, str]) -> Iterator[Tree]:
    """`STAFFA_EXECUTION__RETRIES__LIMIT=5` and its like; sorted, so that the longer name wins."""
    for name in sorted(environ):
        path = name.removeprefix(PREFIX).lower().split("__")
        if name.startswith(PREFIX) and path[0] in CampaignConfig.model_fields:
            yield _planted(path, environ[name], Origin("environment", name))


def _override_tiers(overrides: Iterable[str]) -> Iterator[Tree]:
    for override in overrides:
        field, equals, text = override.partition("=")
        path = field.strip().split(".")
        if not equals or not all(path):
            hint = "write for example --set sampling.draws=100"
            raise ConfigError(f"--set {override}: is not field=value", hint)
        yield _planted(path, text, Origin("set"))


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


def json_schema() -> dict[str, Any]:
    """The JSON schema of a campaign file, for editors."""
    return CampaignConfig.model_json_schema()


def _leaves(value: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        path = (*above, key)
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, path)
        else:
            yield ".".join(path), item
