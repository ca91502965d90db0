"""What becomes of a block: Python is executed, commands are run, declarations are validated, all in one process.

The blocks of a page share a folder and a namespace, from top to bottom. A block whose first line is `# model.py` is
that file. Words in capitals (RUN, TRIAL) stand for what the page's setting says. Workers live in this process.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import LocalCluster

import staffa
from pages.blocks import ROOT, Block
from staffa.cli import main
from staffa.execution.lanes import THREADS
from staffa.experiment.plugins import GROUP, family

KIND = "STAFFA_CLUSTER__KIND"
PYPET = Path(os.environ.get("STAFFA_PYPET", ROOT / ".venv-pypet" / "bin" / "python"))
"""pypet lives in an environment of its own (`make pypet-env`); where there is none its script is left out."""
PYPET_REQUIRED = os.environ.get("STAFFA_REQUIRE_PYPET") == "1"

SOUND = (0, 1)
"""Exit codes of commands that did what they were asked for; another is to be named by the line: `# exit code 130`."""

BASE = {"campaign": {"name": "page"}, "experiment": {"use": "model.py:Walk"}}
"""What a block of YAML may leave out, on a page without a campaign file: a block is laid over that."""

COMMAND = re.compile(r"\s*(\$ )?(staffa|make|pip|python|import|from) ")


@contextlib.contextmanager
def workers(workspace: Any, machine: Any, environment: Any) -> Iterator[Any]:
    """A kind of cluster whose only worker is a thread of this process: `cluster.kind: here`."""
    with LocalCluster(
        n_workers=1, threads_per_worker=THREADS, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@dataclass
class Page:
    """A page that is gone through in a folder."""

    folder: Path
    words: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    aside: dict[str, Any] = field(default_factory=dict)

    def make_room(self, path: Path) -> None:
        """Forget a module of this name; one from elsewhere stands aside while the page is gone through."""
        there = sys.modules.pop(path.stem, None)
        if there is not None and not str(getattr(there, "__file__", None)).startswith(str(self.folder)):
            self.aside[path.stem] = there
        importlib.invalidate_caches()

    def go(self, block: Block) -> None:
        """Run a block as its language says."""
        if re.search(r"^from pypet ", block.text, re.MULTILINE):
            Path(block.file).write_text(block.text)
            return
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            self.make_room(path)
        getattr(self, f"_{block.language}")(block)

    def _python(self, block: Block) -> None:
        if block.file:
            self.names |= vars(importlib.import_module(Path(block.file).stem)) | {"__name__": "__main__"}
            return
        before = set(self.names)
        exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec"), self.names)
        for name in sorted(set(self.names) - before):
            if name.startswith("test_"):
                self.names[name]()

    def _yaml(self, block: Block) -> None:
        if block.file.startswith("profiles/"):
            staffa.load("campaign.yaml", profile=Path(block.file).stem)
            return
        said = re.findall(r"^(\w+):", block.text, re.MULTILINE)
        path, above = Path("block.yaml"), Path("campaign.yaml")
        whole = yaml.safe_load(above.read_text()) if above.exists() and "experiment" not in said else BASE
        rest = {section: value for section, value in whole.items() if section not in said}
        path.write_text(block.text + (yaml.safe_dump(rest) if rest else ""))
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(KIND)
            found = staffa.validate(path)
        path.unlink()  # whatever lies beside a campaign file is its code
        assert found["valid"], f"{block.place}: {found}"

    def _toml(self, block: Block) -> None:
        for group in tomllib.loads(block.text)["project"]["entry-points"]:
            family(group.removeprefix(GROUP))

    def _sql(self, block: Block) -> None:
        for question in block.text.split(";"):
            if question.strip():
                staffa.attach(self.words["RUN"]).query(question)

    def _text(self, block: Block) -> None:
        assert not COMMAND.match(block.text), f"{block.place}: this can be run; say ```bash, or ```python"

    def _bash(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            self.command(line, block.place)

    def _console(self, block: Block) -> None:
        for said in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, _, shown = said.partition("\n")
            if "pypet" in line and not PYPET.exists() and not PYPET_REQUIRED:
                continue
            printed = self.command(line, block.place)
            assert _alike(shown, printed), f"{block.place}: {line}\n--- shown\n{shown}\n--- printed\n{printed}"

    def command(self, line: str, place: str) -> str:
        """Run a line of a shell; what it printed."""
        words, into = self._words(line)
        if not words:
            return ""
        wanted = re.search(r"# exit code (\d+)", line)
        codes = (int(wanted[1]),) if wanted else SOUND
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = self._run(words)
        assert code in codes, f"{place}: {shlex.join(words)}: {code}\n{out.getvalue()}{errors.getvalue()}"
        if into:
            Path(into).write_text(out.getvalue())
        return out.getvalue() if code in SOUND else out.getvalue() + errors.getvalue()

    def _words(self, line: str) -> tuple[list[str], str]:
        """The words of a line, and the file its answer goes into."""
        said = [self.words.get(word, word) for word in shlex.split(line, comments=True)]
        words = [one for word in said for one in (sorted(map(str, Path().glob(word))) if "*.jsonl" in word else [word])]
        return (words[: words.index(">")], words[-1]) if ">" in words else (words, "")

    def _run(self, words: list[str]) -> int:
        program, *rest = words
        if program == "staffa":
            return main(rest)
        if program == "python" and rest[0].endswith(".py"):
            return self._script(rest)
        if program == "make":
            return _outside(["make", "--dry-run", *rest], ROOT)
        if program == "pip":
            # Whatever a page installs this environment has: nothing is fetched.
            return _outside([sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", *rest[1:]])
        if program in ("cd", "mkdir", "rm", "cat", "ls"):
            return _outside(words) if program != "cd" else (os.chdir(rest[0]) or 0)
        raise AssertionError(f"no runner for {program!r}: write one in tests/pages/running.py")

    def _script(self, rest: list[str]) -> int:
        if "from pypet " in Path(rest[0]).read_text():
            return _outside([str(PYPET), *rest])
        before, sys.argv = sys.argv, rest
        try:
            runpy.run_path(rest[0], run_name="__main__")
        finally:
            sys.argv = before
        return 0


def _outside(words: list[str], folder: Path | None = None) -> int:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def _alike(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; `...` stands for anything, spaces for any spaces."""
    pieces = [re.escape(" ".join(piece.split())) for piece in shown.split("...")]
    return re.fullmatch(r"\s*" + r".*?".join(pieces) + r"\s*", " ".join(printed.split()), re.DOTALL) is not None
