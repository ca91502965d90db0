"""YAML as campaigns use it: safe, with the line of every key, and without the traps of YAML 1.1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from staffa.campaign.layers import Address, Content, Node, Origin, Scalar, dotted, finite, shortened
from staffa.errors import ConfigError, near

NODE_LIMIT = 2_000_000
"""Values one file may unfold to. Reached by aliases of aliases, not by people."""

TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "!ambiguous"
SIGNED = list("-+.0123456789")

INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+)$")
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_BOOLEAN = re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")


# The pure-Python loader: libyaml's overflows the C stack on a thousandfold "[" and takes the process along.
class _Reader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number, and neither a date nor `1:30` is anything but text."""

    yaml_implicit_resolvers = {}


_Reader.add_implicit_resolver(TAG + "merge", re.compile("<<$"), ["<"])
_Reader.add_implicit_resolver(TAG + "null", re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Reader.add_implicit_resolver(TAG + "bool", _BOOLEAN, list("yYnNtTfFoO"))
_Reader.add_implicit_resolver(TAG + "int", INTEGER, SIGNED)
_Reader.add_implicit_resolver(TAG + "float", FLOAT, SIGNED)
_Reader.add_implicit_resolver(_AMBIGUOUS, re.compile(r"[-+]?0[0-9_]+$"), SIGNED)


def read_file(path: Path, tier: str) -> dict[str, Node]:
    """The tree of a YAML file; raises ConfigError if it is missing, unreadable, empty or no mapping."""
    origin = Origin(tier, str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", _near_files(path)) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "name a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})", "name a YAML file") from None
    node = read_text(text, origin)
    if node.content is None:
        raise ConfigError(f"{path}: is empty", "write at least `campaign: {name: …}`")
    if not isinstance(node.content, dict):
        raise ConfigError(f"{path}: is not a mapping of sections", "write at least `campaign: {name: …}`")
    # a section whose lines are all commented out is null: it says nothing, and must not erase a weaker tier
    return {key: section for key, section in node.content.items() if section.content is not None}


def _near_files(path: Path) -> str:
    folder = path.parent
    return near(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else ""


def read_text(text: str, origin: Origin, address: Address = ()) -> Node:
    """The node of a YAML text: a file's, or the value that `--set` or a variable gives to `address`.

    Raises ConfigError, with the line, for bad syntax, tags, duplicate keys and numbers that are not finite.
    """
    field = f": {dotted(address)}" if address else ""
    try:
        reader = _Reader(text)
        root = reader.get_single_node()
        content = None if root is None else _Converter(origin, reader).content(root, address)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(error, origin, field), "mend the syntax, or quote it") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}{field}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{origin}{field}: is nested too deeply") from None
    return Node(content, origin)


def _syntax(error: yaml.MarkedYAMLError, origin: Origin, field: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = origin.at(mark.line + 1) if mark else origin
    # what was left open began lines above the place where PyYAML noticed
    opened = f" {error.context} (line {error.context_mark.line + 1})" if error.context_mark else ""
    return f"{where}{field}: not valid YAML: {error.problem or error.context}{opened}"


class _Converter:
    """Turns PyYAML's nodes into ours; knows which it has met, for aliases."""

    def __init__(self, origin: Origin, reader: _Reader) -> None:
        self.origin = origin
        self.reader = reader
        self.open: set[int] = set()
        self.known: dict[int, tuple[Content, int]] = {}
        self.count = 0

    def content(self, node: yaml.Node, address: Address) -> Content:
        if isinstance(node, yaml.ScalarNode):
            self._charge(1, node, address)
            return self._scalar(node, address)
        if id(node) in self.known:
            content, count = self.known[id(node)]
            self._charge(count, node, address)
            return content
        if id(node) in self.open:
            raise self._refusal(node, address, "contains itself", "remove the alias")
        before = self.count
        self.open.add(id(node))
        content = self._collection(node, address)
        self.open.remove(id(node))
        self.known[id(node)] = content, self.count - before
        return content

    def _charge(self, count: int, node: yaml.Node, address: Address) -> None:
        self.count += count
        if self.count > NODE_LIMIT:
            raise self._refusal(node, address, f"unfolds to more than {NODE_LIMIT:,} values", "use fewer aliases")

    def _collection(self, node: yaml.Node, address: Address) -> Content:
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            items = enumerate(node.value)
            return tuple(Node(self.content(item, (*address, i)), self._at(item)) for i, item in items)
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            self._refuse_duplicates(node, address)
            self.reader.flatten_mapping(node)
            return dict(self._entry(key, value, address) for key, value in node.value)
        raise self._tagged(node, address)

    def _entry(self, key: yaml.Node, value: yaml.Node, address: Address) -> tuple[str, Node]:
        name = self._key(key, address)
        return name, Node(self.content(value, (*address, name)), self._at(key))

    def _key(self, key: yaml.Node, address: Address) -> str:
        if isinstance(key, yaml.ScalarNode) and key.tag == TAG + "str":
            return str(key.value)
        if isinstance(key, yaml.ScalarNode) and (key.value, address[:1]) == ("on", ("alerts",)):
            # A word to YAML 1.2 and to people; a truth value to YAML 1.1.
            return "on"
        if isinstance(key, yaml.ScalarNode):
            raise self._refusal(key, address, f"key {key.value!r} is not text", f"quote it: {key.value!r}")
        raise self._refusal(key, address, "a key is a list or a mapping", "write a name before the colon")

    def _refuse_duplicates(self, node: yaml.MappingNode, address: Address) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == TAG + "merge":
                continue
            name = self._key(key, address)
            if name in first:
                place = f"line {first[name]}"
                raise self._refusal(key, (*address, name), f"given twice, first in {place}", "keep one of the two")
            first[name] = key.start_mark.line + 1

    def _scalar(self, node: yaml.ScalarNode, address: Address) -> Scalar:
        text, kind = str(node.value), node.tag.removeprefix(TAG)
        if kind == _AMBIGUOUS:
            hint = f"write {text.lstrip('-+0_') or 0}, or {text!r} in quotes if it is a name"
            raise self._refusal(node, address, f"{text} is octal to some readers and decimal to others", hint)
        if kind not in ("null", "bool", "int", "float", "str"):
            raise self._tagged(node, address)
        try:
            value = _SCALARS[kind](text)
        except (ValueError, KeyError):
            raise self._refusal(node, address, f"{shortened(text)} cannot be read as {kind}", "") from None
        return finite(value, self._place(node, address))

    def _at(self, node: yaml.Node) -> Origin:
        return self.origin.at(node.start_mark.line + 1)

    def _place(self, node: yaml.Node, address: Address) -> str:
        return f"{self._at(node)}: {dotted(address)}" if address else str(self._at(node))

    def _tagged(self, node: yaml.Node, address: Address) -> ConfigError:
        tag = node.tag.replace(TAG, "!!")
        return self._refusal(node, address, f"the tag {tag} is refused", "write plain YAML, without tags")

    def _refusal(self, node: yaml.Node, address: Address, text: str, hint: str) -> ConfigError:
        return ConfigError(f"{self._place(node, address)}: {text}", hint)


def _integer(text: str) -> int:
    return int(text.replace("_", ""), 0)


def _real(text: str) -> float:
    return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Any] = {
    "null": lambda _: None,
    "bool": lambda text: {"yes": True, "true": True, "on": True}.get(text.lower(), False),
    "int": _integer,
    "float": _real,
    "str": str,
}
