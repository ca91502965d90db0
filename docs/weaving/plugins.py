"""The families of plug-ins, and what comes with the package in each, by its docstring."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

from staffa.experiment.plugins import FAMILIES, GROUP, Family
from weaving.words import described

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def pages() -> str:
    """A section for each family that something in the package belongs to."""
    ours = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]
    return "\n\n".join(_family(family, ours[GROUP + family.name]) for family in FAMILIES if GROUP + family.name in ours)


def _family(family: Family, offered: dict[str, str]) -> str:
    what = family.what[0].upper() + family.what[1:]
    sections = [f"### {name}\n\n{described(_loaded(value), value)}" for name, value in offered.items()]
    return f"## {family.name}\n\n{what}.\n\n" + "\n\n".join(sections)


def _loaded(value: str) -> Any:
    module, _, name = value.partition(":")
    return getattr(importlib.import_module(module), name)
