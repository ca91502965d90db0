"""Natural naming: dotted names as a tree, `params.kernel.width`, with shortcuts and wildcards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from staffa.errors import ConfigError, near

Leaf = TypeVar("Leaf")
SHOWN = 8
"""Names listed in an error or a text before it says how many more there are."""


class Names(Generic[Leaf]):
    """Dotted names as a tree: `names.kernel.width`, `names["kernel.width"]`, `names["kernel.*"]`.

    An attribute that is not there is looked for further down, the shallowest first: `names.width` is
    `kernel.width` if only one name says so. What is ambiguous is an error that lists the candidates; so is
    a name that is both a value and a branch, of which `names["kernel"]` is the value.

    Arguments:
    - `names`: all dotted names below this node.
    - `leaf`: what stands at one of them; called when it is asked for.
    - `title`: what the tree is of, for errors.
    - `prefix`: where this node is, with a dot at its end; empty for the root.
    """

    def __init__(self, names: Sequence[str], leaf: Callable[[str], Leaf], title: str, prefix: str = "") -> None:
        self._names, self._leaf, self._title, self._prefix = tuple(names), leaf, title, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._found(name)
        except ConfigError as error:
            raise AttributeError(str(error)) from None

    def __getitem__(self, path: str) -> Any:
        """A value by its dotted name, a branch, or with `*`, `?`, `[` a dict of all names that fit."""
        if path in self._names:
            return self._leaf(self._prefix + path)
        if any(sign in path for sign in "*?["):
            fitting = [name for name in self._names if fnmatchcase(name, path)]
            if not fitting:
                raise self._unknown(path)
            return {self._prefix + name: self._leaf(self._prefix + name) for name in fitting}
        branch = self._branch(path)
        if branch is None:
            raise self._unknown(path)
        return branch

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __dir__(self) -> list[str]:
        heads = dict.fromkeys(name.partition(".")[0] for name in self._names)
        return [*super().__dir__(), *(head for head in heads if head.isidentifier())]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def __repr__(self) -> str:
        return f"<{self._place}: {_few(self._names)}>"

    @property
    def _place(self) -> str:
        return f"{self._title}.{self._prefix}".rstrip(".")

    def _found(self, name: str) -> Any:
        branch = self._branch(name)
        if name in self._names:
            if branch is None:
                return self._leaf(self._prefix + name)
            below = [one for one in self._names if one.startswith(f"{name}.")]
            raise self._ambiguous(name, [name, *below])
        return branch if branch is not None else self._deeper(name)

    def _deeper(self, word: str) -> Any:
        """The shallowest node called so, wherever it is below."""
        places: dict[str, int] = {}
        for name in self._names:
            parts = name.split(".")
            for depth, part in enumerate(parts):
                if part == word:
                    places.setdefault(".".join(parts[: depth + 1]), depth)
        least = min(places.values(), default=0)
        nearest = [path for path, depth in places.items() if depth == least]
        if not nearest:
            raise self._unknown(word)
        if len(nearest) > 1:
            raise self._ambiguous(word, nearest)
        return self[nearest[0]] if nearest[0] in self._names else self._branch(nearest[0])

    def _branch(self, path: str) -> Names[Leaf] | None:
        below = [name[len(path) + 1 :] for name in self._names if name.startswith(f"{path}.")]
        return type(self)(below, self._leaf, self._title, f"{self._prefix}{path}.") if below else None

    def _unknown(self, name: str) -> ConfigError:
        words = {word for known in self._names for word in known.split(".")}
        return ConfigError(f"{self._place} has no {name!r}", near(name, {*self._names, *words}))

    def _ambiguous(self, name: str, candidates: Sequence[str]) -> ConfigError:
        ways = [f"{self._place}[{candidate!r}]" for candidate in candidates]
        return ConfigError(f"{self._place}.{name} is ambiguous", f"it may be {_few(ways)}")


def _few(words: Sequence[str]) -> str:
    rest = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
