"""The sections of a campaign file, read from the models that check it: words, types, defaults."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, PlainValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import TypeAliasType

from staffa.campaign import quantities
from staffa.campaign.machine import ClusterConfig
from staffa.campaign.model import CampaignConfig, ProfileConfig
from weaving.words import Undocumented, cell, described

DURATION, SIZE = "duration", "size"
BOUNDS = {Ge: "at least {}", Gt: "above {}", Le: "at most {}", Lt: "below {}"}
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything", type(None): "null"}
TIMES = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
SIZES = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def campaign_file() -> str:
    """Every section of a campaign file but `cluster`."""
    return "\n\n".join(_sections(CampaignConfig, "", leave=(ClusterConfig,)))


def cluster_config() -> str:
    """Section `cluster`, which usually is a file of its own."""
    return "\n\n".join(_sections(ClusterConfig, "cluster", leave=()))


def profile() -> str:
    """What a profile may hold."""
    return _table(ProfileConfig, "")


def _sections(model: type[BaseModel], path: str, leave: tuple[type, ...]) -> Iterator[str]:
    title = f"## `{path}`\n\n{_said(model)}\n\n" if path else "## Top level\n\n"
    yield title + _table(model, path)
    for name, info in model.model_fields.items():
        within = f"{path}.{info.alias or name}" if path else (info.alias or name)
        for inner, suffix in _models(info.annotation):
            if inner not in leave:
                yield from _sections(inner, within + suffix, leave)


def _said(model: type[BaseModel]) -> str:
    if not model.__doc__:
        raise Undocumented(f"{model.__name__} has no docstring")
    text = re.sub(r"^(?:Section|Field) `[^`]+`(?:, and [^:]*)?: ", "", described(model))
    return text[0].upper() + text[1:]


def _table(model: type[BaseModel], path: str) -> str:
    lines = ["| word | type | default | what it says |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        if not info.description:
            raise Undocumented(f"{model.__name__}.{name} has no description")
        said = (f"`{info.alias or name}`", kind(info.annotation, info.metadata), default(info), info.description)
        lines.append("| " + " | ".join(cell(text) for text in said) + " |")
    if model.model_config.get("extra") == "allow":
        lines.append("| … | anything | | every other key is an option of what `use` names |")
    return "\n".join(lines)


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The sections inside of a field, and how its path goes on: `.<name>` in a mapping, `[]` in a list."""
    if isinstance(annotation, TypeAliasType):
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    suffix = {dict: ".<name>", tuple: "[]"}.get(get_origin(annotation), "")  # type: ignore[call-overload]
    for argument in get_args(annotation):
        for model, rest in _models(argument):
            yield model, suffix + rest


def kind(annotation: Any, metadata: Any = ()) -> str:
    """A type in words."""
    if isinstance(annotation, TypeAliasType):
        return "mapping"
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return kind(inner, [*more, *metadata])
    if measured := _measured(metadata):
        return measured
    return _simple(annotation) + _bounds(metadata)


def _simple(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{'true' if word is True else word}`" for word in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(argument) for argument in arguments))
    if origin in (tuple, list):
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"mapping to {kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return PLAIN[annotation]


def _measured(metadata: Any) -> str:
    """Durations and sizes are known by what reads them; others by what they say of themselves in the schema."""
    for item in metadata:
        reader = getattr(item, "func", None)
        if reader is quantities.duration:
            return DURATION
        if reader is quantities.size:
            return SIZE
        schema = getattr(item, "json_schema_input_type", PydanticUndefined)
        if isinstance(item, PlainValidator | BeforeValidator) and schema not in (PydanticUndefined, Any):
            return kind(schema)
    return ""


def _bounds(metadata: Any) -> str:
    found = []
    for item in metadata:
        items = item.metadata if isinstance(item, FieldInfo) else [item]
        for one in items:
            if text := BOUNDS.get(type(one)):
                found.append(text.format(next(iter(vars_of(one)))))
    return "".join(f", {text}" for text in found)


def vars_of(bound: Any) -> Iterator[Any]:
    """The number of a bound."""
    for name in ("ge", "gt", "le", "lt"):
        if hasattr(bound, name):
            yield getattr(bound, name)


def default(info: FieldInfo) -> str:
    """A default as one would write it; empty for a section, whose own words have defaults."""
    if info.is_required():
        return "has to be said"
    found = info.get_default(call_default_factory=True)
    if isinstance(found, BaseModel):
        return ""
    said = kind(info.annotation, info.metadata)
    if isinstance(found, float | int) and not isinstance(found, bool):
        if DURATION in said:
            return f"`{_in(found, TIMES, 's')}`"
        if SIZE in said:
            return f"`{_in(found, SIZES, 'B')}`"
    return f"`{_plain(found)}`"


def _in(value: float, units: tuple[tuple[str, int], ...], smallest: str) -> str:
    unit, size = next(((unit, size) for unit, size in units if value >= size and value % size == 0), (smallest, 1))
    return f"{value / size:g}{unit}"


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value) if value != "" else '""'
