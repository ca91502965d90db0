"""The declaration of a campaign as typed, frozen models: what may be said, and what is meant by default.

Every field carries its description: it is what a complaint shows as a hint and
what the JSON schema offers an editor. Space blocks and an experiment's options
are only shaped here; what they may hold is judged by `space` and the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StrictBool,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from staffa.campaign.alerts import AlertConfig, HooksConfig, Reference, TrackerConfig
from staffa.campaign.fields import Count, Duration, Natural, Real, Section, Size, Span, clash, integer
from staffa.campaign.machine import ClusterConfig
from staffa.campaign.parameters import Parameters
from staffa.campaign.search import SearchConfig
from staffa.errors import near
from staffa.seeds import CHANNELS, SeedPack

SCHEDULED = "scheduled"
"""Name of the branch `archive.every: {…}` in pydantic's error locations; never part of a dotted path."""


def _automatic(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("automatic", "is neither auto nor an integer of at least 1")


def _off(value: Any) -> str:
    # YAML 1.1 reads a bare `off` as false
    if value is False or value == "off":
        return "off"
    raise PydanticCustomError("every", "is neither off nor a mapping such as {trials: 1000, minutes: 10}")


def _is_scheduled(value: Any) -> str:
    return SCHEDULED if isinstance(value, Mapping | EveryConfig) else "off"


def _channel(name: str) -> str:
    if name not in CHANNELS:
        raise PydanticCustomError("channel", "no such channel", {"hint": near(name, CHANNELS)})
    return name


Automatic = Annotated[
    Literal["auto"] | int,
    PlainValidator(_automatic, json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1)]),
]
Channel = Annotated[str, AfterValidator(_channel)]


class TitleConfig(Section):
    """Section `campaign`: what the campaign is called. Its folder is `<version>_<name>`."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9._-]*$",
        description="Name of the campaign: a letter, then letters, digits, '.', '_' or '-'.",
    )
    version: str = Field(
        default="v1.0",
        pattern=r"^v\d+(\.\d+)*$",
        description="Version such as v1.0; raise it to run a changed campaign beside the old one.",
    )
    description: str = Field(default="", description="One sentence for people who find the results later.")
    tags: tuple[str, ...] = Field(default=(), description="Words to find the campaign by.")
    tag: StrictBool | Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        default=False,
        description="A git tag staffa/<version>_<name> for this production: true, false, or a suffix for its name.",
    )


class ExperimentConfig(BaseModel):
    """Section `experiment`: which experiment, and its options.

    Every key but `use` is an option of the experiment's class, checked against its signature at plan.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(
        min_length=1,
        description="The experiment: `model.py:Walk` relative to the campaign file, or a plug-in's name.",
    )

    @property
    def options(self) -> dict[str, Any]:
        """Every key but `use`."""
        return dict(self.model_extra or {})


class SamplingConfig(Section):
    """Section `sampling`: how many steps each trial takes and which of them are kept."""

    draws: Count | None = Field(
        default=None,
        description="Draws kept per trial, such as 1000; leave out (null) for an experiment of one shot.",
    )
    thin: Count = Field(default=1, description="Steps per kept draw; raise it when neighbouring draws are too alike.")
    discard: Natural = Field(default=0, description="First draws that are computed and not kept.")
    warmup: Natural = Field(default=0, description="Steps of `adapt` before the first draw.")


class SeedsConfig(Section):
    """Section `seeds`: where randomness starts. Trials fold their own key from it and their identity."""

    global_seed: Natural = Field(default=0, description="The one seed; change it for an independent repetition.")
    pinned: dict[Channel, Natural] = Field(
        default_factory=dict,
        description=f"Channels given by hand, to vary one thing alone: {', '.join(CHANNELS)}.",
    )

    def pack(self) -> SeedPack:
        """The seeds as the other rooms take them."""
        return SeedPack(self.global_seed, dict(self.pinned))


class BackoffConfig(Section):
    """Section `execution.retries.backoff`: the n-th retry waits `initial * factor**n`, shaken by `jitter`."""

    initial: Duration = Field(default=30.0, description="Wait before the first retry, such as 30s.")
    factor: Real = Field(default=2.0, ge=1, allow_inf_nan=False, description="Growth of the wait from retry to retry.")
    jitter: Real = Field(default=0.1, ge=0, le=1, description="Random share of the wait, 0 to 1: retries spread out.")
    maximum: Duration = Field(default=3600.0, description="Longest wait, such as 1h.")

    @model_validator(mode="after")
    def _ordered(self) -> BackoffConfig:
        if self.maximum < self.initial:
            field = "execution.retries.backoff.maximum"
            text = f"{self.maximum:g} s is less than execution.retries.backoff.initial: {self.initial:g} s"
            raise clash(field, text)
        return self


FailureClass = Literal["raised", "timeout", "killed", "nan", "infrastructure"]
"""Why a try brought nothing: the outcome's word, or the machinery itself."""


class RetriesConfig(Section):
    """Section `execution.retries`: what happens after a failure."""

    limit: Natural = Field(default=3, description="Retries of a failed trial before it is quarantined; 0 for none.")
    per_class: dict[FailureClass, Natural] = Field(
        default_factory=dict,
        description="Retries for one class of failures, counted by itself, such as {timeout: 1, killed: 2}. Unless "
        "said: limit; for nan 0 (flagged data are kept), for infrastructure 3 (then the run stops).",
    )
    backoff: BackoffConfig = Field(default=BackoffConfig(), description="How long retries wait: initial, factor, …")


class BudgetConfig(Section):
    """Section `execution.budget`: what a campaign may hold of its machines, all its runs together.

    Where one of them is reached no more batches are issued, those in flight end, and so does the run:
    it goes on with a larger budget.
    """

    gpu_hours: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="GPU-hours, from a worker's coming to its leaving; null for no limit."
    )
    node_hours: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Node-hours, from the first worker's coming to the last one's leaving; null for none."
    )
    hours: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Hours by the clock during which there is any worker; null for no limit."
    )


class ExecutionConfig(Section):
    """Section `execution`: how the work is cut and carried out. Nothing here changes a trial's identity."""

    segments: Count = Field(
        default=1,
        description="Pieces the draws are cut into, a checkpoint after each; raise it for trials of hours.",
    )
    batch: Automatic = Field(
        default="auto",
        description="Trials computed and written together: auto (from their bytes) or a number.",
    )
    width: Automatic = Field(
        default="auto",
        description="Lanes of one vmap call: auto (from device memory) or a number that divides the batch.",
    )
    retries: RetriesConfig = Field(default=RetriesConfig(), description="What happens after a failure: limit, backoff.")
    budget: BudgetConfig = Field(
        default=BudgetConfig(), description="What the campaign may hold of its machines: {gpu_hours: 200}."
    )
    timeout: Span | None = Field(
        default=None, description="Longest time a trial may take, such as 2h; null for no limit."
    )
    patience: Duration = Field(
        default=600.0, description="How long the driver waits for a full disk or lost workers, then gives up."
    )
    window: Count = Field(default=3, description="Batches in flight per worker; raise it if workers wait for work.")
    x64: StrictBool = Field(default=False, description="Double precision in JAX: true or false.")
    prng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = Field(
        default="threefry2x32", description="JAX's generator; rbg is faster on TPUs, needs `vectorize: map`."
    )
    vectorize: Literal["auto", "vmap", "map", "off"] = Field(
        default="auto",
        description="How a batch runs: auto (as the experiment says), vmap, map (lanes one by one) or off.",
    )
    workers: Count | None = Field(default=None, description="Local worker processes; null for one per core.")
    telemetry: StrictBool = Field(default=True, description="Measure memory with every batch: true or false.")
    logs: Literal["none", "failed", "all"] = Field(
        default="none", description="Whose prints and log records are kept in logs/trials: none, failed or all trials'."
    )

    @model_validator(mode="after")
    def _generator_fits(self) -> ExecutionConfig:
        if self.prng != "threefry2x32" and self.vectorize == "vmap":
            text = f"'{self.prng}' keys differ under execution.vectorize: vmap; use map"
            raise clash("execution.prng", text)
        return self

    @model_validator(mode="after")
    def _width_fits(self) -> ExecutionConfig:
        batch, width = self.batch, self.width
        if isinstance(batch, int) and isinstance(width, int) and batch % width:
            raise clash("execution.width", f"{width} does not divide execution.batch: {batch}")
        return self


def _listed(value: Any) -> Any:
    """`inputs: [path, …]` says the paths alone."""
    return {"paths": value} if isinstance(value, list | tuple) else value


class InputsConfig(Section):
    """Section `inputs`: files that trials need; those without are not run until they come."""

    paths: tuple[str, ...] = Field(
        default=(),
        description="Templates such as halos/{phase}/z{redshift:.3f}.hdf5, relative to the campaign file.",
    )
    together: tuple[str, ...] = Field(
        default=(),
        description="Parameters that name a realization, such as [phase]: one that lacks a file is left out whole.",
    )

    @model_validator(mode="after")
    def _of_something(self) -> InputsConfig:
        if self.together and not self.paths:
            raise clash("inputs.together", f"{list(self.together)} of no inputs: inputs.paths is empty")
        return self


class StorageConfig(Section):
    """Section `storage`: where and how data are written."""

    root: str = Field(default="runs", min_length=1, description="Folder that holds the campaigns' folders.")
    compression: Literal["lz4", "zstd", "none"] = Field(
        default="lz4",
        description="Codec of the hot store: lz4 (of shuffled bits) costs a third of the processor time of zstd, "
        "which is smaller. The archive is written with zstd; none is none for both.",
    )
    level: Annotated[int, Field(ge=1, le=22), BeforeValidator(integer)] = Field(
        default=1, description="Level of zstd, 1 (fast) to 22 (small)."
    )


class EveryConfig(Section):
    """Section `archive.every`: when ripe parts are looked for during a run, whichever comes first."""

    trials: Count | None = Field(default=1000, description="After so many settled trials; null to go by time alone.")
    minutes: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=10.0, description="After so many minutes; null to go by trials alone."
    )


Summary = Literal["count", "mean", "sd", "min", "max", "ess", "ess_tail", "rhat", "mcse", "mcse_sd"]
"""`experiment.protocol.SUMMARIES`."""


class ArchiveConfig(Section):
    """Section `archive`: the Parquet archive the campaign cools into."""

    partition_by: tuple[str, ...] = Field(
        default=(),
        description="Columns whose values become folders of the archive; few values each, such as [sampler].",
    )
    summaries: tuple[Summary, ...] = Field(
        default=get_args(Summary),
        description=f"What the table of trials says of each output: {', '.join(get_args(Summary))}.",
    )
    diagnosed: Count = Field(
        default=1,
        description="Elements an output may have for ess, rhat, mcse of each; 1: only of single numbers.",
    )
    part_size: Size = Field(default=256 * 1024**2, description="Largest size of one Parquet file, such as 256MiB.")
    every: Annotated[
        Annotated[Literal["off"], BeforeValidator(_off, json_schema_input_type=Literal["off", False]), Tag("off")]
        | Annotated[EveryConfig, Tag(SCHEDULED)],
        Discriminator(_is_scheduled),
    ] = Field(default=EveryConfig(), description="Sealing during a run: {trials: 1000, minutes: 10}, or off.")
    prune: Literal["never", "verified"] = Field(
        default="never", description="Whether hot data go once archived rows are verified: never or verified."
    )


def _several(value: Any) -> Any:
    """`by: redshift` names one."""
    return (value,) if isinstance(value, str) else value


class ReduceConfig(BaseModel):
    """Entry of section `reduce`: a statistic over all trials, and its options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(
        min_length=1, description="The reducer: a plug-in's name, such as covariance, or `model.py:Class`."
    )
    by: Annotated[tuple[str, ...], BeforeValidator(_several, json_schema_input_type=str | tuple[str, ...])] = Field(
        default=(), description="Parameters (and replicate): a result for each of their values, in their order."
    )


class FigureConfig(BaseModel):
    """Item of `qa.figures`: what a campaign adds to its report. Every key but `use` is an option of it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(
        min_length=1, description="What makes it: plots.py:function beside the campaign file, or a plug-in's name."
    )


class QaConfig(Section):
    """Section `qa`: what a report asks of the trials, and what it shows. Nothing here changes what is computed."""

    rhat: Annotated[Real, Field(gt=1, allow_inf_nan=False)] | None = Field(
        default=None, description="The largest R-hat an output of a trial may have, such as 1.01; null: not asked."
    )
    ess: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="The least effective draws an output of a trial may have, such as 400; null: not asked.",
    )
    ess_tail: Annotated[Real, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="The same of its tails, the 5 % and 95 % quantiles; null: not asked."
    )
    divergences: Natural | None = Field(
        default=None, description="The most divergent transitions a trial may have, such as 0; null: not asked."
    )
    of: tuple[str, ...] = Field(
        default=(), description="Outputs that rhat and ess are asked of; by default all that are diagnosed."
    )
    plot: tuple[str, ...] = Field(
        default=(),
        description="Outputs shown against the parameters, such as [energy, 'x[0]']; by default the first few.",
    )
    over: Annotated[tuple[str, ...], Field(max_length=2)] = Field(
        default=(), description="The parameters that maps are over, two at most; by default those that tell most."
    )
    figures: tuple[FigureConfig, ...] = Field(
        default=(), description="Figures and tables of your own: [{use: plots.py:mass_function}]."
    )


class AfterConfig(Section):
    """Section `after`: who is asked for more once all trials are settled (`staffa.api.rounds`)."""

    use: Reference = Field(
        description="A function (results, new) that answers with more to do, or with nothing: adapt.py:grow."
    )
    rounds: Count = Field(default=100, description="How often it is asked at most.")
    timeout: Span = Field(default=3600.0, description="How long it may take.")


class CampaignConfig(Section):
    """A whole campaign, as declared after all tiers have been merged."""

    campaign: TitleConfig = Field(description="What the campaign is called: {name: walk}.")
    experiment: ExperimentConfig = Field(description="Which experiment: {use: model.py:Walk}, and its options.")
    space: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Blocks whose product is the parameter space, such as [{grid: {temperature: [1, 2]}}].",
    )
    search: SearchConfig | None = Field(
        default=None,
        exclude_if=lambda said: said is None,  # a campaign without one is frozen, and hashed, as before
        description="Points that are asked for as results come in, instead of `space`: {space, objectives, trials}.",
    )
    parameters: Parameters = Field(
        default={},
        exclude_if=lambda said: not said,  # a campaign without any is frozen, and hashed, as it was before there were
        description="Values of what the space does not explore; units, comments, ranges: {kernel: {width: 1.0}}.",
    )
    duplicates: Literal["refuse", "merge"] = Field(
        default="refuse", description="What to do when the space names a point twice: refuse or merge."
    )
    replicates: Count = Field(default=1, description="Trials per point of the space, each with a key of its own.")
    inputs: Annotated[InputsConfig, BeforeValidator(_listed, json_schema_input_type=InputsConfig | tuple[str, ...])] = (
        Field(default=InputsConfig(), description="Files that trials need: [halos/{phase}.hdf5], or {paths, together}.")
    )
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="Draws per trial, thinning, warm-up.")
    seeds: SeedsConfig = Field(default=SeedsConfig(), description="Where randomness starts.")
    execution: ExecutionConfig = Field(default=ExecutionConfig(), description="How the work is cut and carried out.")
    storage: StorageConfig = Field(default=StorageConfig(), description="Where and how data are written.")
    archive: ArchiveConfig = Field(default=ArchiveConfig(), description="The Parquet archive.")
    reduce: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ReduceConfig] = Field(
        default={}, description="Statistics over all trials: {spread: {use: covariance, of: energy}}."
    )
    qa: QaConfig = Field(
        default=QaConfig(), description="What a report asks of the trials: {rhat: 1.01, ess: 400}; and what it shows."
    )
    after: AfterConfig | None = Field(
        default=None, description="What is asked for more once all trials are settled: {use: adapt.py:grow}."
    )
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="The machine.")
    alerts: tuple[AlertConfig, ...] = Field(
        default=(), description="Who is told when: [{on: finished, webhook: $URL}]."
    )
    hooks: HooksConfig = Field(default=HooksConfig(), description="What is called around a run and its trials.")
    trackers: tuple[TrackerConfig, ...] = Field(
        default=(), description="Who follows runs elsewhere: [{use: tracker.py:Class}]."
    )

    @model_validator(mode="after")
    def _segments_fit(self) -> CampaignConfig:
        draws, segments = self.sampling.draws, self.execution.segments
        if draws is not None and draws % segments:
            raise clash("execution.segments", f"{segments} does not divide sampling.draws: {draws}")
        return self

    @model_validator(mode="after")
    def _search_is_alone(self) -> CampaignConfig:
        search = self.search
        if search is None:
            return self
        if self.space:
            hint = "leave one of them out: constants go into `parameters`"
            raise clash("space", "lists points where `search` asks for them", hint)
        if self.replicates > 1:
            hint = "set replicates: 1, and average within the experiment"
            raise clash("replicates", f"{self.replicates} of each point, but a search asks for points one by one", hint)
        if self.after is not None:
            raise clash("after", "a search asks by itself what comes next", "leave out `after`, or `search`")
        segments = self.execution.segments
        if search.prune is not None and segments == 1:
            hint = "set execution.segments, such as 8, or leave out search.prune"
            raise clash("search.prune", "trials are compared between segments, and execution.segments is 1", hint)
        late = [number for number in (search.prune.after if search.prune else ()) if number >= segments]
        if late:
            raise clash("search.prune.after", f"{late[0]} is not before the last of execution.segments: {segments}")
        return self

    @model_validator(mode="after")
    def _gates_have_columns(self) -> CampaignConfig:
        for word in ("rhat", "ess", "ess_tail"):
            if getattr(self.qa, word) is not None and word not in self.archive.summaries:
                said = ", ".join(self.archive.summaries)
                raise clash(f"qa.{word}", f"{word} is asked of the trials, but archive.summaries is [{said}]")
        return self


class MachineConfig(Section):
    """A cluster config by itself: the sections a machine has a say in, without a campaign."""

    execution: ExecutionConfig = Field(default=ExecutionConfig(), description="How the work is cut and carried out.")
    storage: StorageConfig = Field(default=StorageConfig(), description="Where and how data are written.")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="The machine.")


class ProfileConfig(Section):
    """A file `profiles/<name>.yaml`: a named set of values for one kind of work, such as a smoke test."""

    name: str = Field(default="", description="Name of the profile.")
    description: str = Field(default="", description="What the profile is for.")
    workload: str = Field(default="", description="The kind of work it suits, such as smoke or production.")
    tags: tuple[str, ...] = Field(default=(), description="Words to find the profile by.")
    set: dict[str, Any] = Field(default_factory=dict, description="Values, in the shape of a campaign file.")
