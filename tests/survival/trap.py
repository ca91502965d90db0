"""Stops a process at a file operation that a test has named, so that it can be killed right there.

Loaded into the driver by `drive.py`, and into workers as a preload of Dask. It listens to Python's
own audit events: the package under test knows nothing of it. A trap is a JSON file in the folder
`$SURVIVAL_TRAPS`; it catches the first process that comes by, once, and leaves `<name>.hit`.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

FOLDER = "SURVIVAL_TRAPS"
EVENTS = ("os.rename", "os.link", "os.mkdir", "os.remove", "open")
_inside = threading.local()


def install(who):
    """Set the traps laid for this kind of process: `driver` or `worker`."""
    folder = os.environ.get(FOLDER)
    traps = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))] if folder else []
    traps = [{**trap, "seen": 0} for trap in traps if trap["who"] == who]
    if traps:
        sys.addaudithook(lambda event, arguments: event in EVENTS and _look(traps, event, arguments))


def _look(traps, event, arguments):
    if getattr(_inside, "it", False):
        return
    _inside.it = True
    try:
        # Of a rename or a link the target counts.
        path = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
        for trap in traps:
            if trap["event"] == event and isinstance(path, str | os.PathLike) and re.search(trap["path"], str(path)):
                trap["seen"] += 1
                if trap["seen"] > trap["skip"]:
                    _spring(trap, str(path), str(arguments[0]))
    finally:
        _inside.it = False


def _spring(trap, path, source):
    hit = Path(os.environ[FOLDER], trap["name"] + ".hit")
    aside = hit.with_name(f"{hit.name}.{os.getpid()}.{threading.get_ident()}")
    aside.write_text(json.dumps({"pid": os.getpid(), "path": path, "source": source}))
    try:
        hit.hardlink_to(aside)
    except FileExistsError:
        return
    finally:
        aside.unlink()
    os.kill(os.getpid(), signal.SIGSTOP)
    # The signal may be taken by another thread, and this one would go on until it is told.
    time.sleep(0.5)


def dask_setup(worker):
    install("worker")
