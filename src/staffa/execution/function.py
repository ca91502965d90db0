"""A plain function on Dask's workers: how it gets there, and one call of it.

It travels by value, once to each worker process, also to those that come later, and stays in memory: neither the
function nor what it closes over is ever written to a file. A process that was given the same function before goes on
with the object it has, and so with all that JAX compiled for it.

While a call runs a file of its name stands in the search's temporary folder, on the same machine: when the process
dies that tells the call that took it down from those that waited behind it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
from distributed import WorkerPlugin, get_worker

from staffa.errors import ConfigError, PluginError
from staffa.trial import Outcome, Scalar

Call = Callable[[dict[str, Scalar]], Any]

ALONE = ""
"""The name under which a function that returns one number tells it."""
MESSAGE, TRACE = 300, 4000
"""Characters that are kept of what was raised, and of its traceback."""
KEPT = 4
"""Functions a worker process keeps: searches of one session often share one."""


class Function(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Brings a function to all workers of a client.

    Arguments:
    - `code`: as `packed` makes it.
    - `name`: of this search; also the topic under which its workers tell what came of a call.
    - `marks`: the folder of the files that say what runs.
    """

    def __init__(self, code: bytes, name: str, marks: str) -> None:
        self.code, self.name, self.marks = code, name, marks

    def setup(self, worker: Any) -> None:
        try:
            self.call = loaded(self.code)
        except Exception as error:
            raise PluginError(
                f"fn: cannot be loaded on worker {worker.address}: {type(error).__name__}: {error}",
                "define it in this script or notebook, or install its module where the workers run",
            ) from error


def packed(function: Call) -> bytes:
    """A function as bytes. Raises `ConfigError` for what cannot leave this process."""
    try:
        return bytes(cloudpickle.dumps(function))
    except Exception as error:
        raise ConfigError(
            f"fn: cannot be sent to workers: {type(error).__name__}: {error}",
            "open files, locks and connections inside of it, not around it",
        ) from error


@functools.lru_cache(maxsize=KEPT)
def loaded(code: bytes) -> Call:
    """The function of these bytes, the same object for the same bytes."""
    found: Call = cloudpickle.loads(code)
    return found


def called(name: str, key: str, params: dict[str, Scalar]) -> None:
    """One call, on a worker. What came of it goes to the driver by itself, ahead of Dask's word that it is done."""
    worker = get_worker()
    function = worker.plugins[name]
    mark = Path(function.marks) / key
    with contextlib.suppress(OSError):  # another machine: the folder is not there
        mark.touch()
    begun, started = time.time(), time.perf_counter()
    answer = _answer(function.call, params)
    seconds = time.perf_counter() - started
    with contextlib.suppress(OSError):
        mark.unlink()
    worker.log_event(name, {"key": key, "begun": begun, "seconds": seconds, **answer})


def _answer(call: Call, params: dict[str, Scalar]) -> dict[str, Any]:
    try:
        found = call(params)
    except BaseException as error:  # `sys.exit` and Ctrl-C's exception must not end the worker: nobody pressed it here
        text = f"{type(error).__name__}: {error}"[:MESSAGE]
        return {"outcome": Outcome.RAISED.word, "message": text, "trace": traceback.format_exc()[-TRACE:]}
    try:
        values = answered(found)
    except (TypeError, ValueError) as error:
        return {"outcome": Outcome.RAISED.word, "message": str(error)[:MESSAGE], "trace": "", "odd": True}
    bad = any(value is None or math.isnan(value) for value in values.values())
    return {"outcome": (Outcome.NAN if bad else Outcome.OK).word, "values": values}


def answered(found: object) -> dict[str, float | None]:
    """What a function returned, by objective; one number alone is that of `ALONE`.

    Raises `TypeError` for what is neither.
    """
    if not isinstance(found, Mapping):
        return {ALONE: _number(found, "fn returned")}
    if not found or not all(isinstance(name, str) and name for name in found):
        raise TypeError(f"fn returned {_shown(found)}, whose keys are not names of objectives")
    return {name: None if one is None else _number(one, f"fn returned {name} =") for name, one in found.items()}


def _number(value: object, said: str) -> float:
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{said} {_shown(value)}, not a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{said} {_shown(value)}, not a number ({error})") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
