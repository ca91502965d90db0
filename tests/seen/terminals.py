"""Terminals of any width, as tmux makes them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

REQUIRED = os.environ.get("STAFFA_REQUIRE_BROWSER") == "1"


class Terminals:
    """A tmux server of its own."""

    def __init__(self, folder: str) -> None:
        self._socket = f"{folder}/socket"

    def open(self, name: str, command: Sequence[str], width: int, height: int = 30) -> None:
        """Run a command in a new terminal; what it left stays to be read."""
        # Whoever has these in his environment would be believed more than the terminal.
        kept = f"unset COLUMNS LINES; {shlex.join(command)}; code=$?; echo; echo ended with $code; exec sleep 1000"
        self._tmux("new-session", "-d", "-s", name, "-x", str(width), "-y", str(height), kept)

    def lines(self, name: str) -> list[str]:
        """What stands there, and stood before it was scrolled away; what the terminal broke is joined again."""
        text = self._tmux("capture-pane", "-p", "-J", "-S", "-2000", "-t", name)
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def type(self, name: str, keys: str) -> None:
        self._tmux("send-keys", "-t", name, keys)

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", self._socket, "-f", "/dev/null", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def terminals() -> Iterator[Terminals]:
    if shutil.which("tmux") is None:
        if REQUIRED:
            pytest.fail("STAFFA_REQUIRE_BROWSER=1, but there is no tmux", pytrace=False)
        pytest.skip("there is no tmux here: apt-get install tmux")
    # A socket's path may have some 100 characters, which those of pytest's folders exceed.
    with tempfile.TemporaryDirectory(prefix="tmux-") as folder:
        found = Terminals(folder)
        try:
            yield found
        finally:
            found.close()
