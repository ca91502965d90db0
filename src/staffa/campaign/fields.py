"""What fields of a declaration are made of: strict numbers, durations, sizes, and complaints about pairs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from staffa.campaign.quantities import duration, size


def integer(value: Any) -> Any:
    """Refuse what pydantic would quietly take for an integer: `yes`, '5'."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "")
    return value


def real(value: Any) -> Any:
    """Refuse what pydantic would quietly take for a number."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("float_type", "")
    return value


def clash(field: str, complaint: str, hint: str = "") -> PydanticCustomError:
    """Two fields that do not go together.

    Arguments:
    - `field`: the one to look at first, as a dotted path from the top of the declaration.
    - `hint`: what to do; the field's description by default.
    """
    context = {"field": field, "complaint": complaint}
    return PydanticCustomError("clash", "{complaint}", {**context, "hint": hint} if hint else context)


Natural = Annotated[int, Field(ge=0), BeforeValidator(integer)]
Count = Annotated[int, Field(ge=1), BeforeValidator(integer)]
Real = Annotated[float, BeforeValidator(real)]
Duration = Annotated[float, BeforeValidator(duration, json_schema_input_type=float | str)]
Span = Annotated[Duration, Field(gt=0)]
Size = Annotated[int, Field(gt=0), BeforeValidator(size, json_schema_input_type=int | str)]


class Section(BaseModel):
    """A section of a declaration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
