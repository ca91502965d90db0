"""What reading back found, on a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from staffa.views.readings import number, size
from staffa.views.sheet import Sheet

Facts = Mapping[str, Any]


def verified_sheet(facts: Facts) -> Sheet:
    """How much was read, what of it is not what was written, and what becomes of it."""
    hot, archive, root = facts["hot"], facts["archive"], shlex.quote(str(facts["root"]))
    lines = {
        "hot": f"{hot['batches']:,} of {number(hot['committed'], 'batch')}, "
        f"{number(hot['shards'], 'shard')}, {size(hot['bytes'])}",
        "archive": f"{number(archive['files'], 'file')}, {size(archive['bytes'])}",
        "damaged": ", ".join([*hot["damaged"], *archive["damaged"]][:20]),
        "done again": ", ".join(facts["again"][:20]),
    }
    title = "everything that was read is what was written" if facts["sound"] else "some data are NOT what was written"
    notes = [f"{where}: {', '.join(names)}" for where, names in [*hot["damaged"].items(), *archive["damaged"].items()]]
    following = f"staffa resume {root}" if facts["again"] else f"staffa status {root}"
    shown = {name: text for name, text in lines.items() if text}
    return Sheet(title, shown, notes=[*notes[:20], f"next: {following}"])
