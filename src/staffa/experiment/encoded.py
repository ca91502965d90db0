"""Which encoding an output has: as the experiment says, or as its value tells; and back, from how it is told."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.ambient import current
from staffa.errors import PluginError
from staffa.experiment.encoding import Encoding, described
from staffa.experiment.plugins import Offer, load, loaded, offers
from staffa.experiment.protocol import Experiment
from staffa.trial import tupled

Row = npt.NDArray[Any]
FAMILY = "encodings"
OWN = "staffa"
"""Our own distribution: a value that we encode ourselves is offered to no plug-in."""
NUMBERS = "fiub"


def encoding_of(experiment: Experiment, name: str, values: Sequence[Any]) -> tuple[str, Encoding] | None:
    """The encoding of an output and its name, by the values of one trial; None for numbers and bools.

    Raises `PluginError` for what nobody encodes.
    """
    there = [value for value in values if value is not None and type(value).__name__ != "NaTType"]
    telling = next((value for value in there if not _is_empty(value)), there[0] if there else None)
    if name in experiment.encodings:
        return _declared(name, experiment.encodings[name], telling)
    if telling is None:
        raise PluginError(
            f"output {name!r} was {values[0]!r} in the pilot trial, which tells nothing of its type",
            f'say it in the experiment: encodings = {{"{name}": "text"}}, or any other of {", ".join(_known())}',
        )
    if numbers(telling) is not None:
        return None
    return _recognised(name, telling)


def numbers(value: Any) -> Row | None:
    """A value as an array of numbers or bools; None where it is none, or is left to an encoding."""
    if not isinstance(value, np.ndarray | np.generic | bool | int | float | list | tuple):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in NUMBERS else None


def told(name: str, encoding: Encoding) -> str:
    """An encoding as the plan, the hot store and the archive tell it: JSON, as it would stand in `encodings`.

    Raises `PluginError` where its details do not survive that.
    """
    try:
        text = json.dumps({"use": name, **encoding.details}, sort_keys=True, allow_nan=False)
        same = _made(type(encoding), json.loads(text)) == encoding or not encoding.details
    except (ValueError, TypeError) as error:
        raise PluginError(f"encoding {name!r}: its fields cannot be told as JSON: {error}") from None
    if not same:
        raise PluginError(
            f"encoding {name!r}: {encoding!r} does not come back from JSON as it was",
            "its fields are to be text, numbers, bools, None, and tuples of them",
        )
    return text


def restored(text: str) -> Encoding:
    """An encoding by how it is told.

    Raises `PluginError` where the plug-in is not there, or is another by now.
    """
    said = [(one.name, id(one.found), one.gone) for one in current().plugins if one.family == FAMILY]
    return _restored(text, tuple(said))


@functools.lru_cache(maxsize=1024)
def _restored(text: str, registered: tuple[Any, ...]) -> Encoding:
    block = json.loads(text)
    found = load(FAMILY, block["use"], "an output's encoding")
    try:
        return _made(found, block)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"encoding {block['use']!r} does not know what it was when it was recorded: {error}",
            "install the version of its plug-in that recorded",
        ) from None


def fitted(name: str, encoding: Encoding, values: Sequence[Any]) -> None:
    """Refuse values that cannot stand beside those of the pilot trial."""
    for value in values:
        wrong = "" if value is None else encoding.misfit(value)
        if wrong:
            raise PluginError(f"output {name!r} {wrong}; the pilot trial's {_was(encoding)}")


def encoding_errors(name: str, error: Exception) -> PluginError:
    """What an encoding raised, said of its output."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    plain = isinstance(error, ValueError) and not isinstance(error, pa.ArrowException)
    return PluginError(f"output {name!r} {first}" if plain else f"output {name!r}: {type(error).__name__}: {first}")


def _was(encoding: Encoding) -> str:
    details = ", ".join(f"{name}={value!r}" for name, value in encoding.details.items())
    shown = f" ({details})" if 0 < len(details) < 200 else ""
    return f"was a {type(encoding).__name__.lower()}{shown}"


def _made(found: type[Encoding], block: Mapping[str, Any]) -> Encoding:
    return found(**{name: tupled(value) for name, value in block.items() if name != "use"})


def _declared(name: str, said: Any, telling: Any) -> tuple[str, Encoding]:
    place = f"encodings[{name!r}] = {said!r}"
    block = {"use": said} if isinstance(said, str) else dict(said) if isinstance(said, Mapping) else {}
    use = block.get("use")
    if not isinstance(use, str):
        raise PluginError(f"{place} names no encoding", 'such as "json", or {"use": "category", "categories": […]}')
    found: type[Encoding] = load(FAMILY, use, place)
    try:
        own = found.of(telling) if len(block) == 1 and telling is not None else None
        return use, own if own is not None else _made(found, block)
    except TypeError as error:
        what = f"of {described(telling)} it makes nothing" if len(block) == 1 else str(error)
        raise PluginError(f"{place}: {what}", f"{use}: {_first_line(found)}") from None
    except ValueError as error:
        raise PluginError(f"{place}: the output {error}", f"{use}: {_first_line(found)}") from None


def _recognised(name: str, value: Any) -> tuple[str, Encoding] | None:
    """What fits of our own encodings, else of the plug-ins."""
    own = [offer for offer in offers(FAMILY) if offer.distribution == OWN]
    others = [offer for offer in offers(FAMILY) if offer.distribution != OWN]
    failed: list[str] = []
    for group in (own, others):
        found = list(_fitting(name, value, group, failed))
        if len(found) > 1:
            raise PluginError(
                f"output {name!r} is {described(value)}, which several encodings know: "
                f"{' and '.join(use for use, _ in found)}",
                f'say which: encodings = {{"{name}": "{found[0][0]}"}}',
            )
        if found:
            return found[0]
    if _array_of_numbers(value):
        return None
    raise PluginError(
        f"output {name!r} is {described(value)}, and nobody knows how to record that"
        + (f" ({'; '.join(failed)})" if failed else ""),
        _advice(name, value),
    )


def _fitting(name: str, value: Any, group: Sequence[Offer], failed: list[str]) -> Iterator[tuple[str, Encoding]]:
    for offer in group:
        try:
            kind: type[Encoding] = loaded([one for one in group if one.name == offer.name])
            found = kind.of(value) if kind.automatic else None
        except ValueError as error:
            raise PluginError(f"output {name!r} {error}") from None
        except Exception as error:
            # A plug-in that is broken, or stumbles over a value that is not its own, harms nobody else.
            failed.append(f"{offer.name}: {error}")
            continue
        if found is not None:
            yield offer.name, found


def _is_empty(value: Any) -> bool:
    """Whether nothing is in it that would tell a type."""
    shape = getattr(value, "shape", None)
    return 0 in shape if isinstance(shape, tuple) else isinstance(value, list | dict) and not value


def _array_of_numbers(value: Any) -> bool:
    """Of a JAX array, say."""
    try:
        return np.asarray(value).dtype.kind in NUMBERS
    except Exception:
        return False


def _advice(name: str, value: Any) -> str:
    if isinstance(value, int):
        return "beyond 64 bits: record str(…), or put it into a list or a dict of JSON"
    if isinstance(value, dict):
        return f'to record a dict whole: encodings = {{"{name}": "json"}}'
    if isinstance(value, complex) or getattr(getattr(value, "dtype", None), "kind", "") == "c":
        return "record .real and .imag"
    return f"numbers, bools, and {', '.join(_known())}; to add a type, see docs/plugins.md"


def _known() -> list[str]:
    return [offer.name for offer in offers(FAMILY)]


def _first_line(found: type) -> str:
    return (found.__doc__ or "see docs/results.md").strip().splitlines()[0]
