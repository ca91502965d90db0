"""What happens in a campaign, as events of one versioned schema.

The ledger holds one event a line: `{"event": name, "at": unix time, …, "schema_version": 2}`. The
version stands on every line, so a torn or lost first line makes no other unreadable; what is true of
a whole run (its id, the digests of its configuration and code, its seeds) stands once, in
`run_started`, the first thing a driver says. Lines without a version are older than it: version 1.

An event is a frozen dataclass in Python and a mapping in a journal; `record` and `parse` lead from
one to the other, and what this version does not know is kept on both ways (`more`, `Unknown`). A
field with a default is left out where it says nothing else. `events.schema.json` is made of these
classes; `staffa telemetry schema` prints it.

To add an event, or an optional field: add it to `events.py`, then `python -m staffa.telemetry.schema`.
To change what a field is called or means: raise `SCHEMA_VERSION` too, and say in `lines.py` how the
version before is brought to it.
"""

from staffa.telemetry.events import SCHEMA_ID, Event, Unknown
from staffa.telemetry.lines import (
    EVENTS,
    SCHEMA_VERSION,
    VERSION,
    name_of,
    parse,
    record,
    run_id,
    stamped,
    upgrade,
)

__all__ = [
    "EVENTS",
    "SCHEMA_ID",
    "SCHEMA_VERSION",
    "VERSION",
    "Event",
    "Unknown",
    "name_of",
    "parse",
    "record",
    "run_id",
    "stamped",
    "upgrade",
]
