"""What is said to a served search and what it answers, as JSON: the types of its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from staffa.search.study import MOST

Number = Annotated[float, Field(strict=True)]
Name = Annotated[str, Field(strict=True, max_length=200)]
TrialNumber = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Parameter = (
    Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Number
    | Annotated[str, Field(strict=True, max_length=10_000)]
)
State = Literal["pending", "waiting", "recorded", "quarantined", "cancelled"]


class Said(BaseModel):
    """A body somebody sends: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid")


class Ask(Said):
    count: Annotated[int, Field(strict=True, ge=1, le=MOST)] = Field(1, description="At most so many trials.")
    worker: Name = Field("", description="Under which name heartbeats will come.")


class Tell(Said):
    """The result of a trial, or why a try brought none, or (without `trial`) a trial that nobody asked for."""

    trial: TrialNumber | None = Field(None, description="Its number; left out for a trial that was not asked for.")
    attempt: Annotated[int, Field(strict=True, ge=1, le=2**31)] | None = Field(None, description="As `ask` said it.")
    values: dict[str, Number | None] | None = Field(None, description="By objective; null where there is no number.")
    failed: Annotated[str, Field(strict=True, max_length=20_000)] = Field("", description="Why this try failed.")
    params: dict[str, Parameter] | None = Field(None, description="What was computed; checked against the trial.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Tell:
        if bool(self.failed) == (self.values is not None):
            raise ValueError("say either `values` or `failed`")
        if self.trial is None and (self.params is None or self.failed or self.attempt):
            raise ValueError("say `trial`, or `params` and `values` of a trial that was not asked for")
        return self


class Cancel(Said):
    trials: Annotated[list[TrialNumber], Field(min_length=1, max_length=10_000)]
    again: Annotated[bool, Field(strict=True)] = Field(False, description="Somebody else is to run them.")
    worker: Name | None = Field(None, description="Only those that are held under this name.")


class Heartbeat(Said):
    worker: Name = Field("", description="All trials held under this name are extended, unless some are named.")
    trials: Annotated[list[TrialNumber], Field(max_length=10_000)] = Field(
        default_factory=list, description="Trials they believe to have: these alone are extended."
    )


class Change(Said):
    """What is to change of an objective; null takes a target or limit away."""

    target: Number | None = None
    limit: Number | None = None
    direction: Literal["minimize", "maximize"] | None = None
    priority: Number | None = None
    group: Annotated[int, Field(strict=True, ge=0, le=1000)] | None = None


class Handed(BaseModel):
    trial: int
    params: dict[str, Any]
    attempt: int
    lease_until: float | None


class Given(BaseModel):
    trials: list[Handed]
    finished: bool = Field(description="Nothing will come any more: the budget is used up and nothing is under way.")


class Taken(BaseModel):
    trial: int
    status: Literal["recorded", "replayed", "ignored"]
    state: State
    scores: list[float | None] = Field(description="In each group; null is infinite. Empty without a result.")
    why: str = Field(description="Why it is not ranked.")


class Cancelled(BaseModel):
    states: dict[str, State] = Field(description="Where each of these trials stands now, by number.")


class Heard(BaseModel):
    held: list[int]
    lost: list[int] = Field(description="Named trials that are not theirs: to be stopped.")
    finished: bool


class Recorded(BaseModel):
    trial: int
    params: dict[str, Any]
    state: State
    attempt: int
    worker: str
    values: dict[str, float | None] | None
    scores: list[float | None]
    why: str


class Listed(BaseModel):
    trials: list[Recorded]
    next: int | None = Field(description="Say it as `since` for the following ones; null at the end.")


class Best(BaseModel):
    trials: list[Recorded]


class Fronts(BaseModel):
    fronts: list[list[Recorded]]


class Changed(BaseModel):
    objectives: dict[str, Any]


class Status(BaseModel):
    trials: dict[str, int]
    asked: int
    budget: int | None
    finished: bool
    workers: dict[str, int] = Field(description="Trials each of them holds.")
    best: dict[str, Any] | None
    objectives: dict[str, Any]
    space: dict[str, Any]
    lease: float | None
    cursor: int = Field(description="Say it as `since` of /events for what happens from now on.")


class Error(BaseModel):
    error: str
    field: str = Field(description="Which field is to blame; empty where none is.")
    hint: str
