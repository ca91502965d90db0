"""The code blocks of the pages: README.md and docs/**/*.md, as a reader of Markdown sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
LANGUAGES = ("bash", "console", "python", "sql", "text", "toml", "yaml")
FILE = re.compile(r"^# ([\w./-]+\.(?:py|yaml|toml))\b.*\n")


@dataclass(frozen=True)
class Block:
    """One block.

    Arguments:
    - `line`: of its first line of text; `language`: the word behind the fence.
    - `file`: the name its first line gives it, `# model.py`: what it says is a file's content.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        found = FILE.match(self.text)
        return found[1] if found else ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page by its path in the repository."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order. Sphinx's directives are none; indented ones have no language."""
    found = []
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text()):
        if token.type in ("fence", "code_block") and not token.info.startswith("{"):
            assert token.map is not None
            fenced = token.type == "fence"
            found.append(Block(page, token.map[0] + 1 + fenced, token.info.strip() if fenced else "", token.content))
    return found
