"""Who compiles a program: one worker of each pool; the others start it when it stands in the cache."""

from __future__ import annotations

from typing import TypeAlias

Program: TypeAlias = tuple[str, str]
"""Its name, and the pool: another device wants another program."""


class Warming:
    """Programs that are compiled, and those that a worker is compiling."""

    def __init__(self) -> None:
        self._warm: set[Program] = set()
        self._by: dict[Program, str] = {}
        """The one worker that compiles it, by its address."""

    def may_have(self, program: Program, address: str) -> bool:
        """Whether a worker may be given a batch of a program: it is compiled, or that worker compiles it."""
        return program in self._warm or self._by.get(program, address) == address

    def given(self, program: Program, address: str) -> None:
        """A worker got a batch of a program."""
        if program not in self._warm:
            self._by[program] = address

    def ready(self, program: Program) -> None:
        """A program stands in the cache."""
        self._warm.add(program)
        self._by.pop(program, None)

    def left(self, address: str) -> None:
        """A worker is gone: what it compiled is for another one to compile."""
        self._by = {program: one for program, one in self._by.items() if one != address}
