"""The frozen `campaign.yaml` of a workspace: every value, and behind it the tier it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from staffa.campaign.layers import DEFAULT, Origin
from staffa.campaign.reading import FLOAT, INTEGER, SIGNED, TAG

HEADER = "# Frozen by Staffa: every value with where it came from. Change the campaign file, not this one.\n"


class _Writer(yaml.SafeDumper):
    """Quotes whatever Staffa's reader or plain PyYAML would take for something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # only the double-quoted style keeps line breaks and oddities on one line, ahead of the comment
    style = None if value.isprintable() and value.strip() == value else '"'
    return writer.represent_scalar(TAG + "str", value, style=style)


_Writer.add_representer(str, _text)
_Writer.add_implicit_resolver(TAG + "int", INTEGER, SIGNED)
_Writer.add_implicit_resolver(TAG + "float", FLOAT, SIGNED)


def render(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    """The text of the file: a line per value, and for lists of mappings a line per item."""
    return HEADER + "".join(f"{line}\n" for line in _lines(values, (), origins))


def as_yaml(values: Mapping[str, Any]) -> str:
    """Values as YAML that Staffa reads back the same, without any comment."""
    return "".join(f"{line}\n" for line in _lines(values, (), None))


def _lines(section: Mapping[str, Any], above: tuple[str, ...], origins: Mapping[str, Origin] | None) -> Iterator[str]:
    pad = "  " * len(above)
    for key, value in section.items():
        path = (*above, key)
        comment = "" if origins is None else _comment(origins.get(".".join(path), DEFAULT))
        if isinstance(value, Mapping) and value:
            yield f"{pad}{_flow(key)}:"
            yield from _lines(value, path, origins)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{pad}{_flow(key)}:{comment}"
            yield from (f"{pad}  - {_flow(item)}" for item in value)
        else:
            yield f"{pad}{_flow(key)}: {_flow(value)}{comment}"


def _comment(origin: Origin) -> str:
    words = origin.tier if origin.file is None else f"{origin.tier} {origin}"
    return "  # " + "".join(c if c.isprintable() else "?" for c in words)


def recorded(text: str) -> dict[str, Origin]:
    """Where each value was written once, by dotted path: what the comments of a frozen file say."""
    found: dict[str, Origin] = {}
    above: list[str] = []
    for line in text.removeprefix(HEADER).splitlines():
        body, _, comment = line.rpartition("  # ")
        entry = (body or line).strip()
        if entry.startswith("- "):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], str(next(iter(yaml.safe_load(entry))))]
        if body:
            found[".".join(above)] = _origin(comment)
    return found


def _origin(words: str) -> Origin:
    tier, _, place = words.partition(" ")
    file, colon, line = place.rpartition(":")
    if colon and line.isdecimal():
        return Origin(tier, file, int(line))
    return Origin(tier, place or None)


def _flow(value: Any) -> str:
    text = yaml.dump(
        value, Dumper=_Writer, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return str(text).removesuffix("\n...\n").rstrip("\n")
