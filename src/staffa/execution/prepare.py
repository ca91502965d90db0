"""From a declaration to a planned workspace: what is described, snapshotted and created.

`campaign.yaml` is written last: a folder without it is an unfinished plan, which the next
`staffa run` makes again from the start.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from staffa.campaign.config import Declaration, difference, dump, load_frozen
from staffa.campaign.cost import Cost
from staffa.campaign.declared import Offered
from staffa.campaign.domain import Domain
from staffa.campaign.identity import FREE, is_free, run_facts
from staffa.campaign.inputs import Inputs, check_filled, missing_of, names_in, paths_of, without
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Earlier, Group, Plan, Rows, bytes_per_trial, group_parameters
from staffa.campaign.qa import check_qa
from staffa.campaign.unfolding import sampling_of, unfold
from staffa.errors import ConfigError, PluginError, WorkspaceError
from staffa.execution.bench import spec_of
from staffa.execution.company import check_company
from staffa.execution.ensemble import blocks_of
from staffa.execution.ensemble import check as check_reducers
from staffa.experiment.external import EXTERNAL
from staffa.experiment.protocol import Experiment, Params, Sampling, Schema
from staffa.experiment.registry import build, offered
from staffa.experiment.simulate import Pilots
from staffa.rows import array_layout
from staffa.rows.objective import check_objectives
from staffa.search.strategies import Strategy
from staffa.search.strategies import build as build_strategy
from staffa.storage.files import write_aside
from staffa.storage.hot import HotStore
from staffa.storage.layouts import GroupLayout
from staffa.storage.provenance import code_digest, dirty_files, gather, snapshot_code
from staffa.storage.roster import hexadecimal, write_roster
from staffa.storage.workspace import Workspace
from staffa.trial import Scalar

AHEAD = 64
"""Trials that are looked at for one with all of its inputs, to learn from it what is recorded."""


@dataclass(frozen=True)
class Prepared:
    """A declaration unfolded in memory; nothing is written."""

    declaration: Declaration
    plan: Plan
    rows: Rows
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """What SLURM would be asked for, where it is SLURM's."""
    missing: int = 0
    """Trials of `rows` that lack an input: they wait for it."""
    costs: Sequence[Cost] = ()
    """What its programs take, as a pilot or an earlier run has told."""
    estimate: Mapping[str, Any] = field(default_factory=dict)
    """What it will take (`staffa.campaign.estimate.estimate`), where that was asked for."""

    @property
    def own(self) -> dict[int, Group]:
        """Groups that `rows` are the trials of: all, unless the campaign grows."""
        generation = self.plan.generation
        return {number: group for number, group in enumerate(self.plan.groups) if group.generation == generation}

    def layout(self, group: Group) -> GroupLayout:
        return group_layout(self.plan, group)

    @property
    def bytes(self) -> int:
        """Bytes of recorded outputs, uncompressed."""
        return sum(bytes_per_trial(g, self.plan.sampling.draws) * g.trials for g in self.plan.groups)

    @property
    def files(self) -> int:
        """Inodes of the whole campaign when it is done."""
        hot = sum(self.layout(group).files for group in self.plan.groups)
        tables = 2 + len({output.table for output in self.plan.outputs() if output.table})
        return hot + len(self.plan.parts) * tables + len(self.plan.groups) * tables + 40

    def __repr__(self) -> str:
        title, batches = self.declaration.campaign.campaign, sum(group.batches for group in self.plan.groups)
        names = ", ".join(name for name, _ in self.plan.parameters)
        counts = f"{self.plan.trials:,} trials over {names or 'nothing'}; {batches:,} batches, {self.files:,} files"
        return f"<plan of {title.version}_{title.name}: {counts}, {self.bytes / 1e6:,.3g} MB before compression>"


def unfolded(declaration: Declaration, earlier: Earlier | None = None, inputs: Inputs | None = None) -> Prepared:
    """Unfold a declaration, refusing whatever cannot run; nothing is written.

    Arguments:
    - `earlier`: what the campaign grows from; the rows are then the trials it did not have.
    - `inputs`: with absolute templates; by default those of the declaration, beside it.

    Raises `ConfigError` or `PluginError` naming file, line, field, value and what to do.
    """
    config, directory = declaration.campaign, declaration.directory
    if inputs is None:
        inputs = Inputs(config.inputs.paths, config.inputs.together).resolved(directory)
    built = Built(directory)

    def vectorize(block: Mapping[str, Any], names: Collection[str]) -> tuple[str, tuple[str, ...]]:
        found = built(block)
        mode = config.execution.vectorize
        always = type(found).static
        # What only an object names (its target's parameters, say) may be a parameter, and need not be one.
        own = [name for name in found.static if name in names and name not in always]
        return (found.vectorize if mode == "auto" else mode), (*always, *own)

    pilots = Pilots(config.seeds.pack().channel("trials"), sampling_of(config), directory)

    def describe(group: Group, trials: Iterable[Mapping[str, Scalar]]) -> Schema:
        if group.vectorize == "off":
            return pilots(built(group.experiment), (_given(inputs, one) for one in _ready_first(trials, inputs)))
        return _describe(built(group.experiment), group, config, directory)

    with _located(declaration):
        check_company(declaration)
        plan, rows = unfold(config, code_digest(directory), describe, vectorize, earlier, built.offer)
        plan = replace(plan, inputs=inputs)
        check_reducers(blocks_of(config.reduce, plan.code), directory, plan)
        check_qa(config.qa, plan, directory)
        check_objectives(plan)
        if config.search is not None:
            strategy_of(config)
        return Prepared(declaration, plan, rows, missing=_without_inputs(plan, rows))


def strategy_of(config: CampaignConfig) -> Strategy:
    """The strategy a search names. Raises `ConfigError` or `PluginError` that names the field."""
    search = config.search
    assert search is not None
    words, domain = {"use": search.strategy.use, **search.strategy.options}, Domain.read(search.space)
    return build_strategy(words, domain, search.trials, config.seeds.pack().channel("space"))


def check_reducing(declaration: Declaration, workspace: Workspace) -> None:
    """Refuse reducers that cannot be made, or that want outputs which the campaign does not record."""
    plan = load_plan(workspace)
    with _located(declaration):
        check_reducers(blocks_of(declaration.campaign.reduce, plan.code), workspace.code, plan)


class Built:
    """Experiments by their blocks, each made once.

    Arguments:
    - `directory`: where file references start.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Experiment] = {}

    def __call__(self, block: Mapping[str, Any]) -> Experiment:
        key = json.dumps(block, sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = build(block, self._directory)
        return self._known[key]

    def offer(self, block: Mapping[str, Any]) -> Offered:
        """What an experiment declares of its parameters."""
        return offered(self(block))


def create(prepared: Prepared, workspace: Workspace) -> Plan:
    """Write the plan down: code, provenance, trials, hot stores, and last `campaign.yaml`."""
    plan, source = prepared.plan, prepared.declaration.directory
    shutil.rmtree(workspace.hot, ignore_errors=True)
    for left in (*workspace.metadata.glob("plan-*.json"), *workspace.metadata.glob("campaign-*.yaml")):
        left.unlink()
    Workspace.create(workspace.root)
    snapshot_code(source, workspace.code)
    facts = {**gather(source), "source": str(source), "code": plan.code, "dirty_files": dirty_files(source)}
    facts |= {**run_facts(prepared.declaration, plan.code), "trials": plan.trials}
    write_aside(workspace.provenance, json.dumps(facts, indent=1, default=str))
    write_trials(prepared, workspace.trials(plan.generation), workspace.hot / str(plan.generation))
    write_aside(workspace.plan(plan.generation), plan.dumps())
    write_aside(workspace.campaign_yaml, dump(prepared.declaration))
    return plan


def write_trials(prepared: Prepared, roster: Path, stores: Path) -> None:
    """Write the list of a generation's trials, and make their hot stores.

    Arguments:
    - `roster`, `stores`: the file of the one, the folder of the others.
    """
    from staffa.seeds import key_words

    _write_roster(prepared, roster)
    stores.mkdir(parents=True, exist_ok=True)
    rows = prepared.rows
    for number, group in prepared.own.items():
        digests = rows.digests[rows.members(number)]
        names = [text.decode() for text in hexadecimal(digests)]
        columns = group_parameters(prepared.plan, rows, number)
        HotStore.create(stores / f"{group.name}.zarr", prepared.layout(group), key_words(digests), names, columns)


def check_unchanged(declaration: Declaration, workspace: Workspace, *, grows: bool = False) -> None:
    """Refuse a declaration that differs from the frozen one in anything that matters.

    Arguments:
    - `grows`: the campaign grows by itself: it may also be declared as it was at first.
    """
    frozen = load_frozen(workspace.frozen, directory=declaration.directory)
    first = workspace.declared(0)
    if grows and first.is_file():
        begun = load_frozen(first, directory=declaration.directory)
        frozen = frozen if _changes(begun, declaration, FREE) else begun
    hint = (
        f"to let it grow: staffa expand {workspace.root} CAMPAIGN.yaml; for another one raise campaign.version, "
        f"or go on with the frozen one: staffa resume {workspace.root}"
    )
    complaint = f"{workspace.root} holds another campaign of this name and version"
    check_differences(frozen, declaration, FREE, complaint, hint)


def check_differences(
    frozen: Declaration, declaration: Declaration, free: Sequence[str], complaint: str, hint: str
) -> None:
    """Refuse a declaration that differs from the frozen one in more than what is `free`, with the difference."""
    changed = _changes(frozen, declaration, free)
    if changed:
        rows = "\n".join(f"  {path}: {there!r} there, {here!r} here" for path, there, here in changed)
        raise WorkspaceError(f"{complaint}:\n{rows}", hint)


def _changes(frozen: Declaration, declaration: Declaration, free: Sequence[str]) -> list[tuple[str, Any, Any]]:
    return [(path, there, here) for path, there, here in difference(frozen, declaration) if not is_free(path, free)]


def current_plan(workspace: Workspace, *, accept_code_change: bool = False) -> tuple[Plan, tuple[str, str] | None]:
    """The frozen plan, after making sure that the code is still the one it was planned with.

    Returns the plan and, where a change is accepted, the old and the new code digest: once that is
    recorded, `adopt_code` makes it so.
    """
    plan = load_plan(workspace)
    if all(group.sampler == EXTERNAL for group in plan.groups):
        return plan, None  # whatever lies beside it computes nothing here
    source = source_of(workspace)
    here = code_digest(source) if source is not None else plan.code
    if source is not None and here == plan.code and not workspace.code.exists():
        # A driver died between the two renames that put a new snapshot in the place of the old.
        snapshot_code(source, workspace.code)
    kept = code_digest(workspace.code)
    if here == plan.code == kept:
        return plan, None
    if not accept_code_change:
        place = workspace.code if kept != plan.code else source
        raise WorkspaceError(
            f"the model's code in {place} is not the one this campaign was planned with",
            f"undo the change, raise campaign.version, or: staffa resume {workspace.root} --accept-code-change",
        )
    new = here if here != plan.code else kept
    return replace(plan, code=new), (plan.code, new)


def adopt_code(workspace: Workspace, plan: Plan) -> None:
    """Take the snapshot of the accepted code that `plan` names, then write the plan down."""
    source = source_of(workspace)
    if source is not None and code_digest(source) == plan.code:
        snapshot_code(source, workspace.code)
    write_aside(workspace.plan(plan.generation), plan.dumps())


def load_plan(workspace: Workspace, generation: int | None = None) -> Plan:
    """Read the frozen plan: by default that of the latest generation, which holds all."""
    generation = workspace.generation if generation is None else generation
    try:
        return Plan.loads(workspace.plan(generation).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{workspace.plan(generation)} cannot be read: {error}",
            f"restore it, or move {workspace.root} away and plan anew",
        ) from None


def plan_digest(plan: Plan) -> str:
    """Names a plan to the workers, so that none serves a stale one."""
    return hashlib.sha256(plan.dumps().encode()).hexdigest()[:16]


def open_stores(workspace: Workspace, plan: Plan, groups: Iterable[int] | None = None) -> dict[int, HotStore]:
    """The hot stores of a plan, by group: all, or those of some groups."""
    numbers = range(len(plan.groups)) if groups is None else groups
    return {n: HotStore.open(workspace.group(plan.groups[n].generation, plan.groups[n].name)) for n in numbers}


def group_layout(plan: Plan, group: Group) -> GroupLayout:
    """How a group stands on disk."""
    coords = {axis: values for axis, values in group.coords.items() if any(axis in o.dims for o in group.outputs)}
    own = {*group.static, *group.traced}
    columns = [name for name, _ in plan.parameters if name in own or name.startswith("experiment.")]
    attributes = {
        "sampler": group.sampler,
        "experiment": json.dumps(group.experiment),
        "group": group.name,
        "parameters": [*columns, "replicate"],
        # Names as netCDF's conventions have them: plots take them for labels.
        "about": {name: _labels(plan.about[name].said) for name in columns if name in plan.about},
    }
    return GroupLayout(
        group.name,
        group.trials,
        group.batch,
        plan.sampling.segments,
        plan.sampling.draws,
        tuple(array_layout(output) for output in group.outputs),
        coords,
        plan.compression,
        plan.level,
        attributes,
        plan.search is not None,
        tuple(name for name, _ in plan.search.objectives) if plan.search else (),
        plan.search.rungs if plan.search else (),
    )


def _labels(said: Mapping[str, str]) -> dict[str, str]:
    return {{"unit": "units", "comment": "long_name"}.get(word, word): text for word, text in said.items()}


def _given(inputs: Inputs, values: Mapping[str, Scalar]) -> Params:
    """A trial's parameters, and the files it needs."""
    try:
        return Params(values, paths_of(inputs, values))
    except (ValueError, TypeError):
        return Params(values)  # a template that cannot be filled is refused by its name, once all trials are known


def _describe(experiment: Experiment, group: Group, config: Any, directory: Path) -> Schema:
    from staffa.experiment.perform import describe

    probe = _probe(config, group, sampling_of(config))
    return describe(experiment, spec_of(probe, group), directory)


def _probe(config: Any, group: Group, sampling: Sampling) -> Plan:
    execution = config.execution
    return Plan(
        0,
        0,
        0,
        0,
        "",
        sampling,
        execution.x64,
        execution.prng,
        execution.width,
        execution.timeout,
        "zstd",
        1,
        (),
        (),
        (group,),
        (),
    )


def _write_roster(prepared: Prepared, path: Path) -> None:
    plan, rows = prepared.plan, prepared.rows
    everyone = np.arange(len(rows.kept))
    place = np.empty(len(everyone), np.int64)
    for number in prepared.own:
        members = rows.members(number)
        place[members] = np.arange(len(members))
    columns: dict[str, tuple[str, Any]] = {
        "group": ("int", rows.group.astype(np.int64)),
        "row": ("int", place),
        "replicate": ("int", rows.replicate(everyone)),
    }
    columns |= {name: (kind, rows.column(name, everyone)) for name, kind in plan.parameters}
    write_roster(path, rows.digests, columns, plan.trials - len(everyone))


def _ready_first(trials: Iterable[Mapping[str, Scalar]], inputs: Inputs) -> Iterator[Mapping[str, Scalar]]:
    """Of the next few trials those that lack an input last: without it they tell nothing."""
    late = []
    for params in itertools.islice(trials, AHEAD):
        try:
            lacking = missing_of(inputs, params)
        except (ValueError, TypeError):  # a template that cannot be filled, which is told of later
            lacking = []
        if lacking:
            late.append(params)
        else:
            yield params
    yield from late


def _without_inputs(plan: Plan, rows: Rows) -> int:
    """How many of the trials lack an input. Refuses templates that cannot be filled."""
    if not plan.inputs:
        return 0
    everyone = np.arange(len(rows.kept))
    known = ["replicate", *(name for name, _ in plan.parameters)]
    asked = names_in(plan.inputs, known)
    columns = {name: rows.column(name, everyone) if name != "replicate" else rows.replicate(everyone) for name in asked}
    check_filled(plan.inputs, columns)
    return int(without(plan.inputs, columns, len(everyone)).sum())


def source_of(workspace: Workspace) -> Path | None:
    """The folder the workflow was planned from, if it is still there."""
    from staffa.storage.files import read_json

    facts = read_json(workspace.provenance)
    text = facts.get("source") if isinstance(facts, dict) else None
    return Path(text) if text and Path(text).is_dir() else None


@contextmanager
def _located(declaration: Declaration) -> Iterator[None]:
    """Put file and line in front of what other rooms complain about."""
    try:
        yield
    except (ConfigError, PluginError) as error:
        raise declaration.located(error) from None
