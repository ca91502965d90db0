"""Tiers of settings, and the one function that lays tier over tier.

A tier is a tree: a mapping from key to `Node`, and every node knows where it
was written. Trees merge before anything is validated, so a complaint about the
merged declaration can still name the file and line that caused it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from staffa.errors import ConfigError

Scalar: TypeAlias = bool | int | float | str | None
Content: TypeAlias = "dict[str, Node] | tuple[Node, ...] | Scalar"
Tree: TypeAlias = "Mapping[str, Node]"
Address: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Arguments:
    - `tier`: default, cluster, campaign, profile, environment, runtime, set, python, merged or frozen.
    - `file`: the file as the user named it; for the environment the variable's name.
    - `line`: of the value's key, from 1; None outside files.
    """

    tier: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "--set" if self.tier == "set" else self.tier
        return f"{self.file}:{self.line}" if self.line else self.file

    def at(self, line: int) -> Origin:
        """The same file, at a line; itself where lines mean nothing."""
        return self if self.tier in ("environment", "runtime", "set") else Origin(self.tier, self.file, line)


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written.

    Arguments:
    - `content`: nodes by key for a mapping, a tuple of nodes for a list, else the scalar.
    - `origin`: of the key, or of the item in a list.
    - `whole`: a mapping that has replaced something else, and will replace again whatever it is laid over.
    """

    content: Content
    origin: Origin
    whole: bool = False


def merge(left: Tree, right: Tree) -> dict[str, Node]:
    """Lay `right` over `left`: mappings key by key, everything else replaced.

    Laws: `merge(a, {}) == merge({}, a) == a`; `merge(merge(a, b), c) == merge(a, merge(b, c))`;
    every leaf of `right` stands in the result.
    """
    merged = dict(left)
    for key, node in right.items():
        merged[key] = _over(merged[key], node) if key in merged else node
    return merged


def _over(left: Node, right: Node) -> Node:
    if right.whole or not isinstance(right.content, dict):
        return right
    # without `whole`, a mapping over a scalar would melt into a mapping two tiers below: not associative
    if not isinstance(left.content, dict):
        return Node(right.content, right.origin, whole=True)
    return Node(merge(left.content, right.content), right.origin, left.whole)


def values(tree: Tree) -> dict[str, Any]:
    """The plain mapping a tree stands for."""
    return {key: _value(node) for key, node in tree.items()}


def _value(node: Node) -> Any:
    if isinstance(node.content, dict):
        return values(node.content)
    if isinstance(node.content, tuple):
        return [_value(item) for item in node.content]
    return node.content


def dotted(address: Address) -> str:
    """An address as people write it: `space[0].grid.temperature`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in address).removeprefix(".")


def nearest(tree: Tree, address: Address) -> Origin | None:
    """Where the value at `address` was written, or else the closest mapping or list around it."""
    found: Origin | None = None
    content: Content = dict(tree)
    for part in address:
        node = _child(content, part)
        if node is None:
            break
        found, content = node.origin, node.content
    return found


def _child(content: Content, part: str | int) -> Node | None:
    if isinstance(content, dict) and isinstance(part, str):
        return content.get(part)
    if isinstance(content, tuple) and isinstance(part, int):
        return content[part]
    return None


def origins(tree: Tree) -> dict[str, Origin]:
    """Origin of every mapping, list, item and scalar, by dotted path."""
    return {dotted(address): node.origin for address, node in _walk(tree.items(), ())}


def _walk(items: Iterable[tuple[str | int, Node]], above: Address) -> Iterator[tuple[Address, Node]]:
    for key, node in items:
        address = (*above, key)
        yield address, node
        if isinstance(node.content, dict):
            yield from _walk(node.content.items(), address)
        elif isinstance(node.content, tuple):
            yield from _walk(enumerate(node.content), address)


def planted(path: Sequence[str], node: Node) -> dict[str, Node]:
    """The tree that says one thing: `node` at `path`."""
    for part in reversed(path[1:]):
        node = Node({part: node}, node.origin)
    return {path[0]: node}


def from_python(value: Any, origin: Origin, address: Address = ()) -> Node:
    """A node from mappings, sequences and scalars, NumPy's included; raises ConfigError for other objects."""
    where = dotted(address) or "the campaign"
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{origin}: {where}: key {key!r} is not text", f"write {str(key)!r}")
        return Node({key: from_python(item, origin, (*address, key)) for key, item in value.items()}, origin)
    if hasattr(value, "tolist"):
        return from_python(value.tolist(), origin, address)
    if isinstance(value, Path):
        return Node(str(value), origin)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(finite(value, f"{origin}: {where}"), origin)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = (from_python(item, origin, (*address, i)) for i, item in enumerate(value))
        return Node(tuple(items), origin)
    raise ConfigError(
        f"{origin}: {where}: {value!r} ({type(value).__name__}) cannot be written in a campaign",
        "use numbers, text, true/false, lists and mappings",
    )


def finite(value: Scalar, where: str) -> Scalar:
    """The same value; raises ConfigError for a NaN or an infinity, which have no place in an identity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value!r} is not a finite number", "use a finite number")
    return value


def shortened(value: Any, limit: int = 60) -> str:
    """A value as YAML would show it, cut to fit a message."""
    text = {None: "null", True: "true", False: "false"}[value] if _is_word(value) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)
