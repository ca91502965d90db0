"""What is said around calls instead of in them: an immutable runtime, active for the block of a `with`.

The runtime lives in a context variable, so threads and asyncio tasks never see each other's, and
blocks nest. It is asked by `staffa.campaign.runtime` (defaults of calls) and by
`staffa.experiment.plugins` (plug-ins registered by hand); every other function takes arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A plug-in registered by hand; with `gone` one that is taken away for the block."""

    family: str
    name: str
    found: Any = None
    gone: bool = False


@dataclass(frozen=True)
class Registry:
    """Plug-ins registered by hand, in the order it was done; the last word on a name counts.

    Immutable: `register` and `deregister` return another registry.
    """

    entries: tuple[Entry, ...] = ()

    def register(self, family: str, name: str, found: Any) -> Registry:
        """The same, and `found` under a name; it stands before an installed plug-in of that name."""
        return Registry((*self.entries, Entry(family, name, found)))

    def deregister(self, family: str, name: str) -> Registry:
        """The same without a name, whether it was registered or is installed."""
        return Registry((*self.entries, Entry(family, name, gone=True)))

    def said(self, family: str) -> Mapping[str, Entry]:
        """The last word on every name of a family."""
        return {entry.name: entry for entry in self.entries if entry.family == family}

    def __add__(self, inner: Registry) -> Registry:
        return Registry((*self.entries, *inner.entries))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


@dataclass(frozen=True)
class Runtime:
    """Defaults of the calls in a block.

    Arguments:
    - `cluster`, `profile`, `workflow`: as for `staffa.load`; None where the block says nothing.
    - `overrides`: `a.b=c` each, the value as YAML; a tier just below a call's own `--set`.
    - `plugins`: registered by hand.
    """

    cluster: str | Path | None = None
    profile: str | None = None
    workflow: Path | None = None
    overrides: tuple[str, ...] = ()
    plugins: Registry = field(default_factory=Registry)

    def within(self, outer: Runtime) -> Runtime:
        """This block inside another: what it leaves unsaid is as outside."""
        return Runtime(
            self.cluster if self.cluster is not None else outer.cluster,
            self.profile if self.profile is not None else outer.profile,
            self.workflow if self.workflow is not None else outer.workflow,
            (*outer.overrides, *self.overrides),
            outer.plugins + self.plugins,
        )


_BLOCKS: ContextVar[tuple[Runtime, ...]] = ContextVar("staffa.runtime", default=(Runtime(),))
"""The blocks one is in, outermost first, each with all that counts there."""


def current() -> Runtime:
    """The runtime of the innermost block one is in; an empty one outside of all."""
    return _BLOCKS.get()[-1]


@dataclass(frozen=True)
class Activation:
    """A runtime to be entered by `with`; again and again, and in several threads at once."""

    runtime: Runtime

    def __enter__(self) -> Runtime:
        blocks = _BLOCKS.get()
        _BLOCKS.set((*blocks, self.runtime.within(blocks[-1])))
        return current()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _BLOCKS.set(_BLOCKS.get()[:-1])

    def __or__(self, other: Activation) -> Activation:
        """Both at once, the other inside."""
        return replace(self, runtime=other.runtime.within(self.runtime))


def register(family: str, name: str, found: Any) -> Activation:
    """`with register("renderers", "org", render): …`: a plug-in for one block."""
    return Activation(Runtime(plugins=Registry().register(family, name, found)))


def deregister(family: str, name: str) -> Activation:
    """`with deregister("samplers", "smc"): …`: a block without that plug-in."""
    return Activation(Runtime(plugins=Registry().deregister(family, name)))
