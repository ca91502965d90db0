"""A file to which whole lines are appended, whatever the disk does meanwhile."""

from __future__ import annotations

import os

_MEND = b"~\n"
"""Ends a line that the disk cut short: no JSON object ends so, hence it stays rubbish for good."""


class Lines:
    """The end of a file that only grows.

    Arguments:
    - `descriptor`: opened to read and to append; whoever opened it closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        """Bytes so far."""
        self._descriptor = descriptor
        self._torn = self.size > 0 and os.pread(descriptor, 1, self.size - 1) != b"\n"

    def append(self, line: bytes) -> None:
        """Hand a line to the operating system, with its end; one that was cut short before it is ended first.

        Raises `OSError` (disk full): then there is no such line, and the same call may be made again once there is
        space.
        """
        if self._torn:
            self._write(_MEND)
        self._write(line + b"\n")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                count = os.write(self._descriptor, rest)
            except OSError:
                self._torn = self._torn or len(rest) < len(data)
                raise
            rest = rest[count:]
            self.size += count
        self._torn = False
