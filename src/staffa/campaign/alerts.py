"""Who is told about a run: alerts, hooks, trackers. Nothing here changes what is computed.

What is told, and how, is in `staffa.execution.alerts`, `hooks` and `trackers`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictStr,
    model_validator,
)

from staffa.campaign.fields import Duration, Real, Section, Span

REFERENCE = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
"""A function of the workflow's own: `hooks.py:prepare`."""
VARIABLE = re.compile(r"\$[A-Za-z_]\w*")
FAILED = ("raised", "timeout", "killed")


def _address(text: str) -> str:
    if VARIABLE.fullmatch(text):
        return text
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("is neither an http(s) URL nor a variable such as $SLACK_WEBHOOK")
    return text


def _reference(text: str) -> str:
    if not REFERENCE.fullmatch(text):
        raise ValueError("is not module.py:function; a command is a list of its own, such as [bash, notify.sh]")
    return text


def _hook(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _reference(value)
    if isinstance(value, list | tuple) and value and all(isinstance(word, str) and word for word in value):
        return tuple(value)
    raise ValueError("is neither module.py:function nor a command such as [bash, notify.sh]")


def _together(value: Any) -> Any:
    """One hook need not be put into a list."""
    return [value] if isinstance(value, str) else value


Command = Annotated[tuple[Annotated[StrictStr, Field(min_length=1)], ...], Field(min_length=1)]
Address = Annotated[StrictStr, AfterValidator(_address)]
Reference = Annotated[StrictStr, AfterValidator(_reference)]
Hook = Annotated[Any, PlainValidator(_hook, json_schema_input_type=str | list[str])]
Hooks = Annotated[tuple[Hook, ...], BeforeValidator(_together, json_schema_input_type=list[str | list[str]] | str)]
Outcomes = tuple[Literal["nan", "raised", "timeout", "killed"], ...]


class AlertConfig(Section):
    """One item of `alerts`: when somebody is told, who, and how often."""

    # Written as it is said: the frozen campaign reads its own words back.
    model_config = ConfigDict(serialize_by_alias=True)

    on: Literal["finished", "failed", "failure_rate", "stalled", "stuck", "paused"] = Field(
        description="finished, failed (the driver gave up), failure_rate, stalled (nothing settles), stuck or paused."
    )
    above: Annotated[Real, Field(gt=0, lt=1)] | None = Field(
        default=None, description="For failure_rate: the share of settled trials that is too much, such as 0.05."
    )
    outcomes: Outcomes | None = Field(
        default=None, description=f"For failure_rate: what counts as a failure; {', '.join(FAILED)} by default."
    )
    lasting: Duration | None = Field(
        default=None, alias="for", description="How long it has to last, such as 10min; 10 minutes for stalled, else 0."
    )
    command: Command | None = Field(
        default=None, description="A command to run, such as [mail, -s, staffa, me]; the facts are its input, as JSON."
    )
    webhook: Address | None = Field(
        default=None, description="A URL to post the facts to, or the variable that holds it: $SLACK_WEBHOOK."
    )
    every: Span = Field(default=3600.0, description="While it lasts, tell at most this often, such as 5min.")
    timeout: Span = Field(default=10.0, description="How long the command or the server may take.")

    @model_validator(mode="after")
    def _whole(self) -> AlertConfig:
        if (self.command is None) == (self.webhook is None):
            raise ValueError("needs either a command or a webhook")
        if (self.above is None) == (self.on == "failure_rate"):
            raise ValueError("needs `above`, such as 0.05" if self.above is None else "has no use for `above`")
        if self.outcomes is not None and self.on != "failure_rate":
            raise ValueError("has no use for `outcomes`")
        if self.lasting is not None and self.on in ("finished", "failed"):
            raise ValueError("has no use for `for`: it happens once")
        return self


class HooksConfig(Section):
    """Section `hooks`: what is called around a run and its trials. A hook that fails never stops the run."""

    pre_run: Hooks = Field(
        default=(),
        description="Before the first batch is issued: commands ([bash, stage.sh]) and functions (hooks.py:prepare).",
    )
    post_run: Hooks = Field(default=(), description="After the run ended, however it did: as for pre_run.")
    pre_trial: Reference | None = Field(
        default=None, description="A function called with each trial that was handed to a worker: hooks.py:started."
    )
    post_trial: Reference | None = Field(
        default=None, description="A function called with each trial that was settled: hooks.py:settled."
    )
    timeout: Span = Field(
        default=600.0, description="How long one hook may take; for trials' hooks, all trials of a batch."
    )


class TrackerConfig(BaseModel):
    """One item of `trackers`. Every key but `use` is an option of the tracker's class."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: StrictStr = Field(
        min_length=1, description="The tracker: tracker.py:Class beside the campaign file, or a plug-in's name."
    )
