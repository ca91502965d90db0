"""The workflows and notebooks of the repository, as they describe themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pages() -> str:
    """A section for each workflow, then the notebooks."""
    found = sorted((ROOT / "workflows").glob("*/README.md"))
    return "\n\n".join([*(_workflow(readme) for readme in found), _notebooks()])


def _workflow(readme: Path) -> str:
    name, text = readme.parent.name, readme.read_text()
    body = re.sub(r"(?m)^#+ (.*)$", r"**\1**", text).strip()
    body = re.sub(r"\]\((?!https?:|#|/)([^)]+)\)", rf"](../workflows/{name}/\1)", body)
    files = sorted(path for path in readme.parent.glob("*") if path.suffix in (".py", ".yaml"))
    links = " · ".join(f"[{path.name}](../workflows/{name}/{path.name})" for path in files)
    return f"## {name}\n\n{body}\n\n{links}"


def _notebooks() -> str:
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    lines = [f"- [{_title(path)}](../notebooks/{path.name})" for path in found]
    return "## Notebooks\n\n" + "\n".join(lines)


def _title(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
