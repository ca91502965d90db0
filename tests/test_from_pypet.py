"""The page for those who come from pypet: what it names is there. Its scripts run with all blocks, in tests/pages."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "from-pypet.md").read_text()


def test_what_it_names_is_there() -> None:
    import staffa

    for name in set(re.findall(r"`(?:staffa\.)([a-zA-Z]+)\(", PAGE)) | {"Encoding", "Parameter", "Experiment"}:
        assert hasattr(staffa, name), name
