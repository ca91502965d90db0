"""pydantic's validation errors, said to the person who wrote the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from staffa.campaign.layers import DEFAULT, Address, Origin, Tree, dotted, nearest, shortened, values
from staffa.campaign.model import SCHEDULED
from staffa.campaign.parameters import ParameterConfig, whole_names
from staffa.errors import ConfigError, StaffaError, near

Model = TypeVar("Model", bound=BaseModel)

FIELD = r"[a-z_][\w-]*(?:\.[\w-]+|\[\d+\])*"
"""A dotted path, as messages begin with it."""

BRANCHES = ((SCHEDULED,), ("off",))


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong, where it was written, and what was probably meant.

    Arguments:
    - `field`: dotted path from the top of the declaration; empty where no field is to blame.
    - `value`: what was written there; None where nothing was.
    """

    origin: Origin
    field: str
    text: str
    hint: str
    value: Any = None

    def __str__(self) -> str:
        place = "" if self.origin == DEFAULT else f"{self.origin}: "
        return f"{place}{self.field}: {self.text}" if self.field else f"{place}{self.text}"


class Refused(ConfigError):
    """A declaration that is wrong, complaint by complaint."""

    def __init__(self, message: str, hint: str = "", complaints: tuple[Complaint, ...] = ()) -> None:
        super().__init__(message, hint)
        self.complaints = complaints


def refusal(complaints: Iterable[Complaint]) -> ConfigError:
    """One error for all complaints: each on its line, hints behind them unless there is only one."""
    listed = tuple(sorted(complaints, key=lambda found: (found.origin.file or "", found.origin.line or 0)))
    if len(listed) == 1:
        return Refused(str(listed[0]), listed[0].hint, listed)
    lines = [f"{complaint} ({complaint.hint})" if complaint.hint else str(complaint) for complaint in listed]
    return Refused("\n".join(lines), f"mend these {len(lines)} lines", listed)


def validated(tree: Tree, model: type[Model], blamed: Origin) -> Model:
    """The tree as a model. Raises `Refused` with all that is wrong; `blamed` for what is missing."""
    try:
        return model.model_validate(values(tree))
    except ValidationError as error:
        raise refusal(complaints(error, tree, model, blamed)) from None


def check_piece(tree: Tree, model: type[BaseModel], blamed: Origin) -> None:
    """Refuse what is wrong in a piece of a declaration, whatever the rest will be.

    What is missing may stand elsewhere, and what two fields make of each other is judged with the rest.
    """
    tree = whole_names(tree)
    try:
        model.model_validate(values(tree))
    except ValidationError as error:
        kinds = [item["type"] for item in error.errors(include_url=False)]
        found = complaints(error, tree, model, blamed)
        own = [one for one, kind in zip(found, kinds, strict=True) if kind not in ("missing", "clash")]
        if own:
            raise refusal(own) from None


def complaint_of(error: StaffaError, whereabouts: Callable[[str], Origin], value: Callable[[str], Any]) -> Complaint:
    """What another room said in one sentence, taken apart.

    Arguments:
    - `whereabouts`, `value`: where a dotted path was written, and what stands there.
    """
    words, field = error.message.split(": "), ""
    origin = _origin_in(words[0])
    if (origin is not None and not words[0].startswith("--")) or words[0] == "--set":
        words = words[1:]
    if len(words) > 1 and re.fullmatch(FIELD, words[0]):
        field, words = words[0], words[1:]
    elif begins := re.match(rf"({FIELD}) (?=is |needs |cannot |has )", words[0]):
        field, words = begins[1], [words[0][begins.end() :], *words[1:]]
    known = whereabouts(field)
    if origin is None or str(known) == str(origin):
        origin = known  # which also knows the tier
    return Complaint(origin, field, ": ".join(words), error.hint, value(field))


def _origin_in(word: str) -> Origin | None:
    """What the first word of a message tells of its place: a file and line, a variable, an option."""
    if place := re.fullmatch(r"(.+\.(ya?ml|py))(?::(\d+))?", word):
        tier = "code" if place[2] == "py" else "campaign"
        return Origin(tier, place[1], int(place[3]) if place[3] else None)
    if option := re.match(r"--(set|profile|cluster|workflow)\b", word):
        return Origin("profile" if option[1] == "workflow" else option[1])
    return Origin("environment", word) if re.fullmatch(r"STAFFA_\w+", word) else None


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
    value = None if item["type"] == "missing" else item.get("input")
    for word in context.get("below", ()):
        value = value.get(word) if isinstance(value, Mapping) else value
    return Complaint(nearest(tree, address) or origin, dotted(address), _text(item, context), hint, value)


def _address(item: ErrorDetails) -> Address:
    if field := item.get("ctx", {}).get("field"):
        return tuple(str(field).split("."))
    loc = (*(part for part in item["loc"] if part != "[key]"), *item.get("ctx", {}).get("below", ()))
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


def addresses(model: type[BaseModel]) -> list[str]:
    """Every field of a declaration, as a dotted path."""
    return [dotted(address) for address in _addresses(model, ())]


def _meant(address: Address, model: type[BaseModel]) -> str:
    """What an unknown key was probably meant to be: a near name, or the same name in another section."""
    above = _model_at(address[:-1], model)
    homes = [dotted(known) for known in _addresses(model, ()) if known[-1] == address[-1]]
    # In a parameter any word may be meant as the name of another one: no section is a likely home of it.
    if len(homes) == 1 and above is not ParameterConfig:
        return f"did you mean '{homes[0]}'?"
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
    if kind in ("clash", "channel", "said"):
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
