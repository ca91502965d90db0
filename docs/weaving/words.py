"""What all woven pages share: docstrings as Markdown, cells of tables."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any


class Undocumented(Exception):
    """A public name that says nothing of itself. The pages are not built."""


def described(found: Any, name: str = "") -> str:
    """The docstring of a public object as Markdown. Raises `Undocumented` where there is none of its own."""
    text = inspect.cleandoc(found.__doc__ or "") if not isinstance(found, str) else inspect.cleandoc(found)
    if not text:
        raise Undocumented(f"{name or getattr(found, '__qualname__', found)} has no docstring")
    return markdown(text)


def markdown(text: str) -> str:
    """A docstring as the pages take it: lists stand apart, indented code is fenced."""
    text = re.sub(r"(?m)^([A-Z]\w+:)\n- ", r"\1\n\n- ", text)
    text = re.sub(r"(?<!\n)\n\n((?:    .*\n?|\n(?=    ))+)", _fenced, text)
    return re.sub(r"(?<!`)<(\w+)>(?!`)", r"&lt;\1&gt;", text)


def _fenced(match: re.Match[str]) -> str:
    return f"\n\n```text\n{textwrap.dedent(match[1]).rstrip()}\n```\n"


def cell(text: str) -> str:
    """Text that stands in a table's cell; what is not code says nothing in HTML."""
    line = " ".join(text.split()).replace("|", "\\|")
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", line)


def attributes(of: type) -> dict[str, tuple[str, str]]:
    """The documented attributes of a class: by name its declaration, and the text that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(one.target)] = (ast.unparse(one), inspect.cleandoc(str(below.value.value)))
    return found
