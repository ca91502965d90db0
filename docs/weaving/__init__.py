"""Sphinx extension: reference pages woven from the code, and links that leave the pages.

A page says `<!-- woven: NAME -->` where text made from the code is to stand; on GitHub it is a comment. Links to
folders of the repository lead to the page that shows them, links to single files become downloads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from weaving import campaign, commands, plugins, python, workflows

WOVEN = {
    "campaign-file": campaign.campaign_file,
    "cluster-config": campaign.cluster_config,
    "profile": campaign.profile,
    "commands": commands.pages,
    "public-face": python.public_face,
    "held": python.held,
    "protocols": python.protocols,
    "testing": python.testing,
    "plugins": plugins.pages,
    "workflows": workflows.pages,
}
"""What may be woven, by name."""

MARK = re.compile(r"^<!-- woven: ([a-z-]+) -->$", re.MULTILINE)

SHOWN = (
    (re.compile(r"\]\((?:\.\./)+workflows/([a-z]+)(?:/README\.md)?/?\)"), r"](/workflows.md#\1)"),
    (re.compile(r"\]\((?:\.\./)*docs/([\w./-]+\.md(?:#[\w-]+)?)\)"), r"](/\1)"),
    (re.compile(r"\]\((?:\.\./)+notebooks/?\)"), "](/workflows.md#notebooks)"),
)
"""Links to folders, and the page that shows each."""


LATER = re.compile(r"^(.*<([\w/-]+)>)\?\n", re.MULTILINE)
"""An entry of a table of contents that counts where its page is there: `Searches <search>?`."""


def weave(app: Any, docname: str, source: list[str]) -> None:
    """Sphinx's `source-read`: the page with everything in its place."""
    text = MARK.sub(lambda match: WOVEN[match[1]](), source[0])
    text = LATER.sub(lambda match: f"{match[1]}\n" if Path(app.srcdir, f"{match[2]}.md").exists() else "", text)
    for link, target in SHOWN:
        text = link.sub(target, text)
    source[0] = text


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", weave)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
