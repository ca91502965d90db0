"""A campaign's parameters by natural names, to be set until the campaign is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from staffa.experiment.parameters import Parameter
from staffa.trial import Scalar
from staffa.views.names import Names

if TYPE_CHECKING:
    import pandas

WORDS = tuple(field.name for field in fields(Parameter))


class Draft(Protocol):
    """What a tree of parameters is about: a campaign."""

    def parameter(self, name: str) -> Parameter:
        """What counts for a parameter now."""

    def say(self, name: str, words: Mapping[str, Any]) -> None:
        """Say something of a parameter."""

    @property
    def explored(self) -> tuple[str, ...]:
        """Parameters that the space gives."""


class One:
    """One parameter of a campaign: `value`, `comment`, `unit`, `range` and so on, which may be read and set."""

    _draft: Draft
    _name: str

    def __init__(self, draft: Draft, name: str) -> None:
        self.__dict__.update(_draft=draft, _name=name)

    def __getattr__(self, word: str) -> Any:
        if word not in WORDS:
            raise AttributeError(f"a parameter has {', '.join(WORDS)}, and no {word!r}")
        return getattr(self._draft.parameter(self._name), word)

    def __setattr__(self, word: str, said: Any) -> None:
        if word not in WORDS:
            raise AttributeError(f"a parameter has {', '.join(WORDS)}, and no {word!r}")
        self._draft.say(self._name, {word: said})

    @property
    def explored(self) -> bool:
        """Whether the space gives its values."""
        return self._name in self._draft.explored

    def __dir__(self) -> list[str]:
        return [*WORDS, "explored"]

    def __repr__(self) -> str:
        from staffa.views.params import in_words, told

        facts = told(self._name, self._draft.parameter(self._name), self.explored)
        return f"<{self._name}: {in_words(facts)}>"


class _Leaves:
    def __init__(self, draft: Draft) -> None:
        self.draft = draft

    def __call__(self, name: str) -> One:
        return One(self.draft, name)


class Parameters(Names[One]):
    """A campaign's parameters: `parameters.kernel.width = 2.0`, `parameters.kernel.width.comment = "…"`.

    An attribute that is set must be there, wherever it is below: a slip is refused with the near names. Brackets
    take whole names, and new ones: `parameters["kernel.depth"] = staffa.Parameter(3, unit="layers")`.
    """

    _leaf: _Leaves

    @classmethod
    def of(cls, draft: Draft, names: tuple[str, ...]) -> Parameters:
        leaves: Callable[[str], One] = _Leaves(draft)
        return cls(names, leaves, "parameters")

    def describe(self) -> pandas.DataFrame:
        """What is said of them, one row a parameter: type, unit, comment, whether it is explored, its formula, …"""
        from staffa.views.params import frame, told

        draft, names = self._leaf.draft, [self._prefix + name for name in self]
        return frame([told(name, draft.parameter(name), name in draft.explored) for name in names])

    def __setattr__(self, name: str, said: Parameter | Scalar) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, said)
            return
        found = getattr(self, name)
        if not isinstance(found, One):
            ways = ", ".join(f"{found._place}.{each}" for each in found)
            raise AttributeError(f"{found._place} is a branch: set {ways}")
        self._say(found._name, said)

    def __setitem__(self, name: str, said: Parameter | Scalar) -> None:
        self._say(self._prefix + name, said)

    def _say(self, name: str, said: Parameter | Scalar) -> None:
        self._leaf.draft.say(name, _words(said) if isinstance(said, Parameter) else {"value": said})


def _words(parameter: Parameter) -> dict[str, Any]:
    """Everything a parameter says, but for what it leaves open."""
    plain = Parameter()
    return {word: said for word in WORDS if (said := getattr(parameter, word)) != getattr(plain, word)}
