"""Profiles: named sets of values for one kind of work, such as a smoke test, kept beside a workflow.

A profile is a file `profiles/<name>.yaml` in the folder of the campaign file, or of the workflow that
is named. It says what it is for (`description`, `workload`, `tags`) and, under `set`, values in the
shape of a campaign file. What it says is checked as soon as it is read, with or without a campaign.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from staffa.campaign.complaints import Complaint, check_piece, refusal, validated
from staffa.campaign.frozen import as_yaml
from staffa.campaign.layers import Node, Origin, Tree, nearest, values
from staffa.campaign.model import CampaignConfig, ProfileConfig
from staffa.campaign.reading import read_file
from staffa.errors import ConfigError, near

FOLDER = "profiles"
FORMATS = ("yaml", "json")


@dataclass(frozen=True)
class Profile:
    """A profile as it was read.

    Arguments:
    - `tree`: the values under `set`, with where each was written.
    """

    name: str
    description: str
    workload: str
    tags: tuple[str, ...]
    path: Path
    tree: Tree = field(repr=False)

    @property
    def values(self) -> dict[str, Any]:
        """What it sets, in the shape of a campaign file."""
        return values(self.tree)


def folder(beside: Path, workflow: Path | str | None = None) -> Path:
    """Where profiles are looked for: in a workflow's folder, by default the campaign file's."""
    place = beside if workflow is None else Path(workflow)
    if place.is_file():
        place = place.parent
    if workflow is not None and not place.is_dir():
        raise ConfigError(f"--workflow {workflow}: there is no such folder", "name the folder of a campaign file")
    return place / FOLDER


def find(name: str, place: Path) -> Profile:
    """A profile by name. Raises `ConfigError` with the near names, or all that is wrong with it."""
    found = files(place)
    if name not in found:
        hint = near(name, found) or f"write {place / name}.yaml with `set: {{…}}`"
        raise ConfigError(f"--profile {name}: no {place / name}.yaml", hint)
    return read(found[name])


def read(path: Path) -> Profile:
    """Read a profile. Raises `ConfigError`, with file and line, for keys no campaign has, and for wrong values."""
    tree = read_file(path, "profile")
    said = validated(tree, ProfileConfig, Origin("profile", str(path)))
    if said.name not in ("", path.stem):
        origin = nearest(tree, ("name",)) or Origin("profile", str(path))
        text = f"{said.name!r} is not the name of its file, {path.stem!r}"
        raise refusal([Complaint(origin, "name", text, "a profile is asked for by the name of its file", said.name)])
    wanted = _sections(tree.get("set"))
    check_piece(wanted, CampaignConfig, Origin("profile", str(path)))
    return Profile(path.stem, said.description, said.workload, said.tags, path, wanted)


def listed(place: Path) -> Iterator[dict[str, Any]]:
    """Every profile of a folder by name; of one that cannot be used, why (`flaw`)."""
    for name, path in files(place).items():
        try:
            profile = read(path)
        except ConfigError as error:
            yield {
                "name": name,
                "description": "",
                "workload": "",
                "tags": [],
                "path": str(path),
                "flaw": error.message,
            }
        else:
            yield {**_head(profile), "flaw": ""}


def described(profile: Profile) -> dict[str, Any]:
    """Everything a profile says."""
    return {**_head(profile), "set": profile.values}


def shown(facts: Mapping[str, Any], form: str) -> str:
    """What a profile says as text: `yaml` (fit to be its file, but for `path`) or `json`."""
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: a profile is shown as yaml or json", near(form, FORMATS))
    if form == "json":
        return json.dumps(dict(facts), indent=2)
    return as_yaml(facts).rstrip("\n")


def files(place: Path) -> dict[str, Path]:
    """Profiles' files by name. Raises `ConfigError` where two have one name."""
    found: dict[str, Path] = {}
    for path in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]):
        if path.stem in found:
            raise ConfigError(f"{path}: there is {found[path.stem].name}, too", "keep one of the two")
        found[path.stem] = path
    return found


def _head(profile: Profile) -> dict[str, Any]:
    head = {name: value for name, value in asdict(profile).items() if name != "tree"}
    return {**head, "tags": list(profile.tags), "path": str(profile.path)}


def _sections(node: Node | None) -> Tree:
    """The sections under `set`; one whose lines are all commented out says nothing."""
    content = node.content if node is not None and isinstance(node.content, dict) else {}
    return {key: section for key, section in content.items() if section.content is not None}
