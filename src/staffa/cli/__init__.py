"""The command line: words -> one call of `staffa.api` -> a sheet. Decides nothing.

Exit codes: 0 all trials ok; 1 finished, some flagged, quarantined or missing; 2 bad input;
3 infrastructure; 130 interrupted, resumable.
"""

# In the order of `staffa --help`.
from staffa.cli import declaring, driving, looking, searching, changing, archiving  # isort: skip
from staffa.cli.complaints import main
from staffa.cli.words import app

__all__ = ["app", "archiving", "changing", "declaring", "driving", "looking", "main", "searching"]
