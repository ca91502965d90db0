"""Section `cluster`: the machine, and the shape of the jobs a campaign asks SLURM for. Pure.

`ClusterConfig` is what a file says. `shapes` is what it means: for every pool one `JobShape` with
nothing left open, presets of the job type and `defaults` filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from staffa.campaign.fields import Count, Natural, Section, Size, Span, clash, integer
from staffa.campaign.words import Directive, Directives, Line, Place, Program, Prologue, Variables
from staffa.experiment.plugins import offers

Task = Literal["sample", "reduce"]
WORK: tuple[Task, ...] = ("sample", "reduce")
"""What a worker may do: run batches, or seal parts of the archive."""

SITE = ("partition", "account", "qos", "constraint", "reservation")
"""Fields that are directives under their own name."""

DRIVER = "driver"
"""Name of the detached driver's own job among the pools; no pool may be called so."""

ALLOCATION = "allocation"
"""Name of the one pool inside an allocation that is there already."""

GIBIBYTE = 1024**3


@dataclass(frozen=True)
class JobType:
    """What a pool asks for on each node where it says nothing itself.

    Arguments:
    - `cores`, `memory` (bytes): for every GPU, where there are some.
    """

    gpus: int
    cores: int
    memory: int
    directives: Mapping[str, str] = field(default_factory=dict)


JOB_TYPES = {
    "gpu_intensive": JobType(1, 8, 32 * GIBIBYTE),
    # Two hyperthreads of a core share its arithmetic: sampling gains nothing from the second.
    "cpu_intensive": JobType(0, 16, 32 * GIBIBYTE, {"hint": "nomultithread"}),
    "memory_intensive": JobType(0, 8, 128 * GIBIBYTE),
    "io_intensive": JobType(0, 4, 16 * GIBIBYTE),
    "balanced": JobType(0, 4, 16 * GIBIBYTE),
}
"""Presets by name."""


def _pool_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ValueError("is not a pool's name: a small letter, then small letters, digits, '_' or '-'")
    if name in (DRIVER, ALLOCATION):
        raise ValueError("is a name Staffa needs itself: call the pool something else")
    return name


KINDS = ("local", "slurm", "allocation")
"""What starts the workers; plug-ins of family `clusters` bring others."""


def _kind(name: Any) -> str:
    known = [*KINDS, *(offer.name for offer in offers("clusters"))] if name not in KINDS else KINDS
    if name not in known:
        expected = ", ".join(f"'{word}'" for word in known[:-1]) + f" or '{known[-1]}'"
        raise PydanticCustomError("literal_error", "", {"expected": expected})
    return str(name)


PoolName = Annotated[str, AfterValidator(_pool_name)]
Work = Annotated[tuple[Task, ...], Field(min_length=1)]


class StageConfig(Section):
    """Field `stage`: an environment brought to every node's own disk before the workers start."""

    source: Place = Field(
        alias="from",
        description="What is staged: an archive (.tar, .tar.gz, .tar.zst) packed from inside, or a folder.",
    )
    to: Place = Field(
        default="${TMPDIR:-/tmp}/staffa-env",
        description="Where to, on the node's own disk; the job's id is added. Shell variables are filled in.",
    )

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        return {"from": self.source, "to": self.to}


class SiteConfig(Section):
    """What every job may say of the site it is for."""

    partition: Line | None = Field(default=None, description="Partition; null for the site's default.")
    account: Line | None = Field(default=None, description="Account that is charged; null for your default.")
    qos: Line | None = Field(default=None, description="Quality of service, such as regular; null for none.")
    constraint: Line | None = Field(default=None, description="Features a node must have, such as gpu&hbm80g.")
    reservation: Line | None = Field(default=None, description="Reservation to run in; null for none.")
    directives: Directives = Field(
        default_factory=dict,
        description="Lines `#SBATCH --name=value`, added or replaced; `name: true` is a flag, `name: null` drops it.",
    )
    prologue: Prologue | None = Field(
        default=None, description="Shell lines before anything starts, such as [module load cuda]; never quoted."
    )


class JobConfig(SiteConfig):
    """Section `cluster.defaults`, and what a pool may say of its jobs.

    Null means unsaid: a pool then takes what `defaults` say, these what the job type says.
    """

    job_type: Literal["gpu_intensive", "cpu_intensive", "memory_intensive", "io_intensive", "balanced"] | None = Field(
        default=None, description=f"Preset of gpus, cores, memory: {', '.join(JOB_TYPES)} (default balanced)."
    )
    nodes: Count | None = Field(default=None, description="Nodes of one job; null for 1.")
    gpus: Natural | None = Field(default=None, description="GPUs on each node; null as the job type says.")
    workers_per_gpu: Count | None = Field(
        default=None, description="Worker processes that share a GPU in equal parts of its memory; null for 1."
    )
    workers_per_node: Count | None = Field(
        default=None, description="Worker processes on each node of a pool without GPUs; null for 1."
    )
    cores: Count | None = Field(default=None, description="Cores on each node; null as the job type says.")
    memory: Size | None = Field(
        default=None, description="Memory on each node, such as 64GiB; null as the job type says."
    )
    walltime: Span | None = Field(default=None, description="Longest time of a job, such as 4h; null for 1h.")
    throttle: Count | None = Field(default=None, description="Jobs of an array that may run at once; null for all.")
    interface: Line | None = Field(
        default=None, description="Network interface of these workers, such as ib0; null for cluster.interface."
    )
    python: Program | None = Field(
        default=None, description="Interpreter on the nodes; null for the one the driver runs with."
    )
    container: Line | None = Field(
        default=None, description="Command before the interpreter, such as `apptainer exec --nv image.sif`."
    )
    stage: StageConfig | None = Field(
        default=None, description="Environment staged to the node's disk: {from: /shared/env.tar.gz}."
    )
    environment: Variables = Field(default_factory=dict, description="Variables of the workers: {NAME: value}.")


class PoolConfig(JobConfig):
    """Section `cluster.pools.<name>`: workers of one shape, and what they are for."""

    work: Work = Field(default=WORK, description="What these workers do: [sample], [reduce] or both.")
    workers: Natural = Field(description="Worker processes wanted in all, such as 16: one for each GPU.")


class DriverConfig(SiteConfig):
    """Section `cluster.driver`: the small job a detached driver runs in. `defaults` count for it, too."""

    walltime: Span = Field(default=86400.0, description="Longest time of one driver, such as 24h; the next takes over.")
    cores: Count = Field(default=1, description="Cores of the driver's job.")
    memory: Size = Field(default=4 * GIBIBYTE, description="Memory of the driver's job, such as 4GiB.")


class PollConfig(Section):
    """Section `cluster.poll`: how often the queue is asked. One question serves all jobs."""

    initial: Span = Field(default=5.0, description="Wait between questions while something changes, such as 5s.")
    maximum: Span = Field(default=180.0, description="Longest wait between questions, such as 3min.")


class SubmitConfig(Section):
    """Section `cluster.submit`: how jobs are handed in."""

    every: Span = Field(default=1.0, description="Shortest time between two submissions, such as 1s.")
    attempts: Count = Field(default=8, description="Tries of a submission that fails, with growing waits between.")
    array: Count = Field(default=500, description="Most jobs of one array; the site's own limit counts as well.")


class ClusterConfig(Section):
    """Section `cluster`: the machine. It usually has a file of its own, `cluster_configs/<name>.yaml`.

    Three kinds, and those of plug-ins; what each may say besides `dashboard` and `dashboard_port`:

    - `local`: processes on this machine. `workers`, `memory`.
    - `slurm`: jobs in named `pools`; everything else below but `workers` and `memory`. `defaults` holds
      what all pools share. A pool's own word wins; `directives` and `environment` are merged key by key.
    - `allocation`: everything inside one allocation that is there already (salloc, or a job of your
      own): no pools, nothing is submitted. `interface`, `insecure`, `reconnect`, and in `defaults`
      what still has a meaning there: `workers_per_gpu`, `workers_per_node`, `python`, `container`,
      `stage`, `environment`, `prologue`, `interface`.
    - that of a plug-in (family `clusters`): what the plug-in listens to; its own settings under `options`.

    What a pool asks for on each node unless it says so itself (with GPUs: for each of them):

        job_type           gpus   cores   memory    directives
        gpu_intensive         1       8   32 GiB
        cpu_intensive         0      16   32 GiB    hint=nomultithread
        memory_intensive      0       8   128 GiB
        io_intensive          0       4   16 GiB
        balanced (default)    0       4   16 GiB
    """

    kind: Annotated[str, BeforeValidator(_kind)] = Field(
        default="local", description="What starts the workers: local, slurm, allocation, or a plug-in's name."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="What a plug-in's kind wants to know besides: {NAME: value}."
    )
    workers: Count | None = Field(
        default=None, description="Worker processes of kind local; null for `execution.workers`."
    )
    memory: Size | None = Field(
        default=None, description="Memory per worker of kind local, such as 4GiB; null to share the machine's."
    )
    dashboard: StrictBool = Field(default=True, description="Whether the Dask dashboard is served: true or false.")
    dashboard_port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(integer)] = Field(
        default=8787, description="Port of the dashboard; 0 for any free one."
    )
    interface: Line | None = Field(
        default=None, description="Network interface of driver and workers, such as hsn0; null for the host's name."
    )
    insecure: StrictBool = Field(
        default=False, description="No TLS between driver and workers: true or false. Anyone on the network may join."
    )
    reconnect: Span = Field(
        default=600.0, description="How long workers look for a resumed driver before they give up, such as 10min."
    )
    poll: PollConfig = Field(default=PollConfig(), description="How often the queue is asked: {initial, maximum}.")
    submit: SubmitConfig = Field(
        default=SubmitConfig(), description="How jobs are handed in: {every, attempts, array}."
    )
    failures: Count = Field(default=5, description="Jobs in a row that fail to start before their pool pauses.")
    driver: DriverConfig = Field(default=DriverConfig(), description="The job of a detached driver: walltime, cores, …")
    defaults: JobConfig = Field(default=JobConfig(), description="What all pools share: account, python, prologue, …")
    pools: dict[PoolName, PoolConfig] = Field(
        default_factory=dict, description="Workers by name: {gpu: {work: [sample], workers: 16, gpus: 1}}."
    )

    @model_validator(mode="after")
    def _kind_fits(self) -> ClusterConfig:
        for name in _changed(self):
            if name in MEANINGLESS.get(self.kind, ()):
                text = f"has no meaning with cluster.kind: {self.kind}"
                raise clash(f"cluster.{name}", text, _INSTEAD.get((self.kind, name), "take it out"))
        if self.kind == "allocation":
            for name in _changed(self.defaults):
                if name not in IN_ALLOCATION:
                    text = "has no meaning with cluster.kind: allocation, which asks SLURM for nothing"
                    raise clash(f"cluster.defaults.{name}", text, "take it out")
        return self

    @model_validator(mode="after")
    def _pools_fit(self) -> ClusterConfig:
        if self.kind != "slurm":
            return self
        if not any("sample" in pool.work for pool in self.pools.values()):
            text = "no pool does the sampling" if self.pools else "is missing: cluster.kind: slurm needs a pool"
            raise clash("cluster.pools", text, "write for example pools: {gpu: {work: [sample], workers: 16, gpus: 1}}")
        for name, pool in self.pools.items():
            _judge(f"cluster.pools.{name}", pool, _shape(name, self, pool))
        return self

    @model_validator(mode="after")
    def _poll_ordered(self) -> ClusterConfig:
        if self.poll.maximum < self.poll.initial:
            text = f"{self.poll.maximum:g} s is less than cluster.poll.initial: {self.poll.initial:g} s"
            raise clash("cluster.poll.maximum", text)
        return self


_QUEUE = ("poll", "submit", "failures", "driver", "pools")
MEANINGLESS: Mapping[str, tuple[str, ...]] = {
    "local": ("interface", "insecure", "reconnect", "defaults", "options", *_QUEUE),
    "slurm": ("workers", "memory", "options"),
    "allocation": ("workers", "memory", "options", *_QUEUE),
}
"""Fields of the section that make no sense for a kind."""

IN_ALLOCATION: tuple[str, ...] = ("workers_per_gpu", "workers_per_node", "interface", "python", "container")
IN_ALLOCATION += ("stage", "environment", "prologue")
"""Fields of `defaults` that keep their meaning inside an allocation."""

_INSTEAD = {
    ("local", "pools"): "use cluster.workers, or cluster.kind: slurm",
    ("slurm", "workers"): "use cluster.pools.<name>.workers",
    ("slurm", "memory"): "use cluster.pools.<name>.memory or cluster.defaults.memory",
    ("allocation", "workers"): "use cluster.defaults.workers_per_gpu or workers_per_node",
    ("allocation", "pools"): "every GPU of the allocation gets a worker; for jobs of their own use cluster.kind: slurm",
}


def _changed(section: Section) -> Iterator[str]:
    """Fields that are not at their default; a frozen campaign says all of them, so presence means nothing."""
    for name, info in type(section).model_fields.items():
        if getattr(section, name) != info.get_default(call_default_factory=True):
            yield name


# --- shapes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What is brought to a node's own disk: an archive or a folder, and where to (shell variables allowed)."""

    source: str
    target: str


@dataclass(frozen=True)
class JobShape:
    """The jobs of one pool, with nothing left open.

    Arguments:
    - `workers`: worker processes wanted in all.
    - `gpus`, `workers_per_node`, `cores`, `memory` (bytes): of each node.
    - `walltime`: seconds.
    - `throttle`: jobs of an array that may run at once; None for all.
    - `directives`: everything site-specific, `partition` and its like included; True is a flag, None
      drops what Staffa would write itself.
    - `python`: None for the driver's interpreter.
    """

    pool: str
    work: tuple[str, ...]
    workers: int
    nodes: int
    gpus: int
    workers_per_gpu: int
    workers_per_node: int
    cores: int
    memory: int
    walltime: float
    throttle: int | None = None
    interface: str | None = None
    directives: Mapping[str, Directive] = field(default_factory=dict)
    prologue: tuple[str, ...] = ()
    python: str | None = None
    container: str | None = None
    stage: Stage | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def workers_per_job(self) -> int:
        """Worker processes that come and go together."""
        return self.nodes * self.workers_per_node

    def jobs(self, workers: int) -> int:
        """Jobs it takes to have so many workers."""
        return math.ceil(workers / self.workers_per_job)


def shapes(cluster: ClusterConfig) -> dict[str, JobShape]:
    """The shape of every pool by name, in the order they are declared; empty for other kinds than slurm."""
    return {name: _shape(name, cluster, pool) for name, pool in cluster.pools.items()}


def driver_shape(cluster: ClusterConfig) -> JobShape:
    """The detached driver's own job: one node, no GPU, and what `defaults` say of the site."""
    driver, common = cluster.driver, cluster.defaults
    return JobShape(
        pool=DRIVER,
        work=(),
        workers=1,
        nodes=1,
        gpus=0,
        workers_per_gpu=1,
        workers_per_node=1,
        cores=driver.cores,
        memory=driver.memory,
        walltime=driver.walltime,
        interface=cluster.interface,
        directives=_directives(common, driver),
        prologue=_first(driver.prologue, common.prologue, ()),
        environment=dict(common.environment),
    )


def allocation_shape(cluster: ClusterConfig, *, nodes: int, gpus: int, cores: int, memory: int) -> JobShape:
    """The workers inside an allocation.

    Arguments:
    - `nodes`, and on each of them `gpus`, `cores`, `memory` (bytes): what SLURM says was given.
    """
    common = cluster.defaults
    sharing = common.workers_per_gpu or 1
    per_node = gpus * sharing if gpus else common.workers_per_node or 1
    return JobShape(
        pool=ALLOCATION,
        work=WORK,
        workers=nodes * per_node,
        nodes=nodes,
        gpus=gpus,
        workers_per_gpu=sharing if gpus else 1,
        workers_per_node=per_node,
        cores=cores,
        memory=memory,
        walltime=math.inf,
        interface=_first(common.interface, cluster.interface),
        prologue=_first(common.prologue, ()),
        python=common.python,
        container=common.container,
        stage=_stage(common.stage),
        environment=dict(common.environment),
    )


def _shape(name: str, cluster: ClusterConfig, pool: PoolConfig) -> JobShape:
    common = cluster.defaults
    preset = JOB_TYPES[_first(pool.job_type, common.job_type, "balanced")]
    gpus = _first(pool.gpus, common.gpus, preset.gpus)
    sharing = _first(pool.workers_per_gpu, common.workers_per_gpu, 1) if gpus else 1
    return JobShape(
        pool=name,
        work=tuple(word for word in WORK if word in pool.work),
        workers=pool.workers,
        nodes=_first(pool.nodes, common.nodes, 1),
        gpus=gpus,
        workers_per_gpu=sharing,
        workers_per_node=gpus * sharing if gpus else _first(pool.workers_per_node, common.workers_per_node, 1),
        cores=_first(pool.cores, common.cores, preset.cores * max(gpus, 1)),
        memory=_first(pool.memory, common.memory, preset.memory * max(gpus, 1)),
        walltime=_first(pool.walltime, common.walltime, 3600.0),
        throttle=_first(pool.throttle, common.throttle),
        interface=_first(pool.interface, common.interface, cluster.interface),
        directives={**preset.directives, **_directives(common, pool)},
        prologue=_first(pool.prologue, common.prologue, ()),
        python=_first(pool.python, common.python),
        container=_first(pool.container, common.container),
        stage=_stage(_first(pool.stage, common.stage)),
        environment={**common.environment, **pool.environment},
    )


def _first(*said: Any) -> Any:
    """The first that was said at all."""
    return next((value for value in said if value is not None), None)


def _stage(said: StageConfig | None) -> Stage | None:
    return Stage(said.source, said.to) if said else None


def _directives(*ranks: SiteConfig) -> dict[str, Directive]:
    """Directives of all ranks, later ones over earlier; in each, `directives` over the fields of their name."""
    merged: dict[str, Directive] = {}
    for rank in ranks:
        merged |= {name: value for name in SITE if (value := getattr(rank, name)) is not None}
        merged |= rank.directives
    return merged


def _judge(where: str, pool: PoolConfig, shape: JobShape) -> None:
    """Refuse what no job could be."""
    if shape.gpus and pool.workers_per_node is not None:
        text = f"{pool.workers_per_node} does not go with {where}.gpus: {shape.gpus}: every GPU has its own worker"
        raise clash(f"{where}.workers_per_node", text, "take it out, or share GPUs with workers_per_gpu")
    if not shape.gpus and (pool.workers_per_gpu or 1) > 1:
        raise clash(f"{where}.workers_per_gpu", f"{pool.workers_per_gpu} workers would share no GPU", "set gpus")
    if shape.cores < shape.workers_per_node:
        text = f"{shape.cores} is less than the {shape.workers_per_node} workers on a node"
        raise clash(f"{where}.cores", text, "give each worker a core")
