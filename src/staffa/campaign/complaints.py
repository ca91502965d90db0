"""pydantic's validation errors, said to the person who wrote the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from staffa.campaign.layers import Address, Origin, Tree, dotted, nearest, shortened
from staffa.campaign.model import SCHEDULED
from staffa.errors import ConfigError, near

BRANCHES = ((SCHEDULED,), ("off",))


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong, where it was written, and what was probably meant."""

    origin: Origin
    field: str
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.field}: {self.text}"


def refusal(complaints: Iterable[Complaint]) -> ConfigError:
    """One error for all complaints: each on its line, hints behind them unless there is only one."""
    listed = sorted(complaints, key=lambda complaint: (complaint.origin.file or "", complaint.origin.line or 0))
    if len(listed) == 1:
        return ConfigError(str(listed[0]), listed[0].hint)
    lines = [f"{complaint} ({complaint.hint})" if complaint.hint else str(complaint) for complaint in listed]
    return ConfigError("\n".join(lines), f"mend these {len(lines)} lines")


def complaints(error: ValidationError, tree: Tree, model: type[BaseModel], origin: Origin) -> list[Complaint]:
    """Translate what pydantic says about `model` validated against `tree`.

    Arguments:
    - `origin`: blamed for what is missing altogether.
    """
    return [_complaint(item, tree, model, origin) for item in error.errors(include_url=False)]


def _complaint(item: ErrorDetails, tree: Tree, model: type[BaseModel], origin: Origin) -> Complaint:
    address = _address(item)
    context: Mapping[str, Any] = item.get("ctx", {})
    hint = context.get("hint") or _hint(item, address, model)
    return Complaint(nearest(tree, address) or origin, dotted(address), _text(item, context), hint)


def _address(item: ErrorDetails) -> Address:
    if field := item.get("ctx", {}).get("field"):
        return tuple(str(field).split("."))
    loc = tuple(part for part in item["loc"] if part != "[key]")
    # pydantic names the branch of a union as if it were a field
    return (*loc[:2], *loc[3:]) if loc[:2] == ("archive", "every") and loc[2:3] in BRANCHES else loc


def _hint(item: ErrorDetails, address: Address, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return _meant(address, model)
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        return near(item["input"], re.findall(r"'([^']+)'", item["ctx"]["expected"]))
    above = _model_at(address[:-1], model)
    field = _fields(above).get(str(address[-1])) if above and address else None
    return (field.description or "") if field else ""


def _meant(address: Address, model: type[BaseModel]) -> str:
    """What an unknown key was probably meant to be: a near name, or the same name in another section."""
    homes = [dotted(known) for known in _addresses(model, ()) if known[-1] == address[-1]]
    if len(homes) == 1:
        return f"did you mean '{homes[0]}'?"
    above = _model_at(address[:-1], model)
    return near(str(address[-1]), _fields(above)) if above else ""


def _addresses(model: type[BaseModel], above: Address) -> Iterator[Address]:
    for name, field in _fields(model).items():
        yield (*above, name)
        if inner := _model_in(field.annotation):
            yield from _addresses(inner, (*above, name, "<name>") if _by_name(field) else (*above, name))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the name they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(address: Address, model: type[BaseModel]) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    parts = iter(address)
    for part in parts:
        field = _fields(here).get(str(part)) if here else None
        here = _model_in(field.annotation) if field else None
        if field and _by_name(field):
            next(parts, None)
    return here


def _by_name(field: FieldInfo) -> bool:
    """Whether names of the user's own stand between a field and its models, as in `cluster.pools`."""
    return get_origin(field.annotation) is dict


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _text(item: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind, value = item["type"], shortened(item.get("input"))
    if kind in ("clash", "channel"):
        return item["msg"]
    if kind == "value_error":
        return f"{value} {context['error']}"
    if phrase := _PHRASES.get(kind):
        return phrase.format(value=value, **context)
    return f"{value} {item['msg']}" if kind in ("automatic", "every") else f"{value}: {item['msg']}"


_PHRASES = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "int_type": "{value} is not an integer",
    "int_from_float": "{value} is not an integer",
    "int_parsing": "{value} is not an integer",
    "float_type": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "bool_type": "{value} is not true or false",
    "string_type": "{value} is not text",
    "string_too_short": "{value} is not a name",
    "model_type": "{value} is not a mapping",
    "dict_type": "{value} is not a mapping",
    "tuple_type": "{value} is not a list",
    "string_pattern_mismatch": "{value} does not match {pattern}",
    "literal_error": "{value} is not {expected}",
    "greater_than_equal": "{value} must be at least {ge:g}",
    "greater_than": "{value} must be more than {gt:g}",
    "less_than_equal": "{value} must be at most {le:g}",
}
