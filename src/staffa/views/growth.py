"""What `expand`, `shrink`, `merge` and `reconcile` did, or would do, for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from staffa.views.readings import number
from staffa.views.sheet import Sheet

LINES = {
    "added": ("added", "{trials} in {batches}"),
    "readmitted": ("readmitted", "{trials} that had been dropped"),
    "dropped": ("dropped", "{trials} that had not been issued"),
    "issued": ("too late", "{trials} that were issued stay: staffa cancel RUN for those in flight"),
    "present": ("unchanged", "{trials} of the space stand in the campaign already"),
    "outside": ("kept", "{trials} that the space does not name any more"),
    "missing_input": ("waiting", "{trials} lack an input: staffa reconcile RUN looks again"),
    "admitted": ("admitted", "{trials} whose inputs came"),
}
"""Figures by name: the word before them, and what is said of so many trials."""


def growth_sheet(facts: Mapping[str, Any]) -> Sheet:
    """What became of a campaign.

    Arguments:
    - `facts`: of `staffa.api.expand`, `shrink`, `reconcile`.
    """
    run = shlex.quote(str(facts["root"]))
    if not facts["done"]:
        return Sheet(str(facts["root"]), {"nothing": "was changed"}, notes=[f"why: {facts['why']}"])
    lines = {}
    for name, (word, text) in LINES.items():
        count = facts.get(name)
        if count:
            batches = number(facts.get("batches", 0), "batch")
            lines[word] = text.format(trials=number(count, "trial"), batches=batches).replace("RUN", run)
    lines |= {"trials": f"{facts['trials']:,} in all"} if "trials" in facts else {}
    title = f"{facts['root']}: nothing is done yet, this is what would be" if facts.get("dry_run") else facts["root"]
    return Sheet(str(title), lines, notes=[f"next: {facts['next']}"] if facts.get("next") else [])


def merged_sheet(facts: Mapping[str, Any]) -> Sheet:
    """What several campaigns came to.

    Arguments:
    - `facts`: of `staffa.api.merge`.
    """
    lines = {str(source["name"]): _came(source) for source in facts["sources"]}
    lines["trials"] = f"{facts['trials']:,} in all, {facts['with_data']:,} with data"
    for path, values in facts["explored"].items():
        lines[path] = "explored now: " + ", ".join(f"{value!r} in {name}" for name, value in values.items())
    notes = [] if facts["declared"] else [NOT_DECLARED]
    notes += [f"next: {facts['next']}"] if facts["next"] else []
    title = f"{facts['root']}: nothing is done yet, this is what would be" if facts["dry_run"] else facts["root"]
    return Sheet(str(title), lines, notes=notes)


NOT_DECLARED = "no blocks of a space say all of these trials: to expand it, say the whole space anew"


def _came(source: Mapping[str, Any]) -> str:
    words = {
        "renamed": "as further replicates",
        "duplicates": "stand in it already",
        "filled": "of these now have data",
        "left_out": "left out: without data, and sampled otherwise",
    }
    told = [f"{source[name]:,} {text}" for name, text in words.items() if source[name]]
    return ", ".join([f"{source['taken']:,} of {number(source['trials'], 'trial')}", *told])
