"""From a declaration to a plan: points, names, groups, batches, parts. What can be refused is refused here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.blocks import explored, names_of
from staffa.campaign.declared import EXPERIMENT, Declared, Offer, anything, completed
from staffa.campaign.describing import described_by
from staffa.campaign.domain import Domain
from staffa.campaign.identity import find_duplicates, stand_in
from staffa.campaign.model import CampaignConfig
from staffa.campaign.objectives import Objectives
from staffa.campaign.plan import Describe, Earlier, Group, Part, Plan, Rows, Search, bytes_per_trial
from staffa.campaign.points import Column, Points
from staffa.campaign.sizes import auto_batch, search_batch
from staffa.campaign.trying import asked_for, unlike, without_options
from staffa.errors import ConfigError, near
from staffa.experiment.protocol import RESERVED_PARAMETERS, SUMMARIES, Extract, Output, Sampling, Schema
from staffa.trial import Scalar

PART_FLOOR = 20 << 20
PARTS = 8
PARTITIONS = 10_000
"""Arrow's own limit for a sane archive."""


def unfold(
    config: CampaignConfig,
    code: str,
    describe: Describe,
    vectorize: Callable[[dict[str, Any], Collection[str]], tuple[str, tuple[str, ...]]],
    earlier: Earlier | None = None,
    offer: Offer = anything,
) -> tuple[Plan, Rows]:
    """Unfold a campaign into its plan.

    Arguments:
    - `code`: digest of the workflow's code.
    - `describe`: finds out what a group's program records (`experiment.perform.describe`).
    - `vectorize`: for an experiment block and the parameters' names, how its batches run and which are static.
    - `earlier`: what the campaign grows from: the plan goes on from there, and the rows returned
      are the trials it did not have.
    - `offer`: for an experiment block what its experiment declares of its parameters.
    """
    pack, search = config.seeds.pack(), config.search
    listed = _listed(config, vectorize)
    found = explored(config, listed)
    blocks, block_codes = found.blocks, found.codes
    whole = completed(config, found, [offer(block) for block in blocks])
    points = whole.points
    trials = without_options(points)
    _check_names(trials, whole.fields)
    parameters = _parameters(whole, earlier)
    digests = names_of(config, found, whole)
    declared = _without_duplicates(config, digests, points)
    kept = declared
    if earlier is not None and search is None:
        kept = declared[~stand_in(digests[declared], earlier.digests)]
    modes = [vectorize(block, [column.name for column in trials.columns]) for block in blocks]
    partition_by = config.archive.partition_by
    sampled = _with_sampler(points, blocks, block_codes)
    _check_partition(partition_by, sampled)
    codes, keys = _group_codes(sampled, trials, block_codes, modes, partition_by)
    used, own = np.unique(codes[kept // config.replicates], return_inverse=True)
    before = earlier.plan.groups if earlier is not None else ()
    numbers = (len(before) + own.reshape(-1)).astype(np.int32)
    rows = Rows(points, config.replicates, digests[kept], kept, numbers, digests[declared])
    counts, total = np.bincount(own.reshape(-1)).tolist(), len(kept)
    if search is not None:
        had = earlier.plan.search if earlier is not None else None
        total = max(search.trials - (had.trials if had else 0), 1)
        # Any of them may be asked for all trials, also for those that were not asked for before it grew.
        rows, counts = rows.none(), [search.trials] * len(used)
    drafts = [
        _draft(len(before) + place, keys[code], blocks, modes, trials, partition_by, sampled, count)
        for place, (code, count) in enumerate(zip(used, counts, strict=True))
    ]

    def tries(places: Sequence[int]) -> Iterator[Mapping[str, Scalar]]:
        yield from unlike(trials, np.flatnonzero(np.isin(codes, used[list(places)])))
        if search is not None:
            stays = points.row(int(keys[used[places[0]]][0]))
            fixed = {name for name in found.fields if name in listed or name.startswith(EXPERIMENT)}
            yield from asked_for(config, offer, {name: stays[name] for name in fixed})

    options = [{n: v for n, v in points.row(int(keys[code][0])).items() if n.startswith(EXPERIMENT)} for code in used]
    described = described_by(drafts, options, tries, describe, before)
    sampling = sampling_of(config)
    groups = tuple(_with_batch(config, group, schema, total) for group, schema in described)
    _check_outputs([*before, *groups], {name for name, _ in parameters})
    _check_modes(config, groups, sampling)
    plan = Plan(
        generation=0,
        trials=total,
        merged=len(digests) - len(declared),
        seed=pack.channel("trials"),
        code=code,
        sampling=sampling,
        x64=config.execution.x64,
        prng=config.execution.prng,
        width=config.execution.width,
        timeout=config.execution.timeout,
        compression=config.storage.compression,
        level=config.storage.level,
        parameters=parameters,
        partition_by=partition_by,
        summaries=config.archive.summaries,
        diagnosed=config.archive.diagnosed,
        about=whole.about,
        explored=tuple(whole.explored),
        groups=groups,
        parts=tuple(
            parts_of(
                config.archive.part_size, groups, sampling.draws, len(before), len(earlier.plan.parts) if earlier else 0
            )
        ),
        search=_search(config),
    )
    return (plan if earlier is None else _joined(earlier.plan, plan)), rows


def _listed(
    config: CampaignConfig, vectorize: Callable[[dict[str, Any], Collection[str]], tuple[str, tuple[str, ...]]]
) -> set[str]:
    """Parameters of a search whose values part its trials: they are compiled in, or make partitions."""
    if config.search is None:
        return set()
    domain = Domain.read(config.search.space)
    names = [*domain.names, *config.parameters]
    modes = [vectorize(block, names) for block in explored(config).blocks]
    compiled = {name for mode, static in modes if mode != "off" for name in static}
    texts = {name for name, axis in domain.axes.items() if axis.kind == "str"}
    if any(mode != "off" for mode, _ in modes):
        compiled |= texts
    return (compiled | {*config.archive.partition_by}) & {*domain.names}


def _search(config: CampaignConfig) -> Search | None:
    search = config.search
    if search is None:
        return None
    objectives = Objectives.read(search.objectives)
    segments, rungs = config.execution.segments, tuple[int, ...]()
    if search.prune is not None:
        rungs = tuple(sorted({*(search.prune.after or _powers(1 / search.prune.keep, segments))}))
    return Search(search.trials, tuple(objectives.columns.items()), rungs)


def _powers(base: float, end: int) -> Iterator[int]:
    """1, base, base squared, … below the end, rounded."""
    place = 0
    while (power := round(base**place)) < end:
        yield power
        place += 1


def _joined(earlier: Plan, own: Plan) -> Plan:
    """The plan of a campaign that has grown: what it had, unchanged and first, then a generation more."""
    generation = earlier.generation + 1
    added = tuple(replace(group, generation=generation) for group in own.groups)
    return replace(
        own,
        generation=generation,
        trials=earlier.trials + own.trials,
        groups=earlier.groups + added,
        parts=earlier.parts + own.parts,
        inputs=earlier.inputs,
        about={**earlier.about, **own.about},
        explored=tuple(dict.fromkeys([*earlier.explored, *own.explored])),
    )


def _parameters(whole: Declared, earlier: Earlier | None) -> tuple[tuple[str, str], ...]:
    """All parameters with their types: those the campaign had come first, and keep their type."""
    known = dict(earlier.plan.parameters) if earlier is not None else {}
    for column in whole.points.columns:
        before = known.setdefault(column.name, column.type) if column.name != "experiment.use" else column.type
        if before != column.type:
            raise ConfigError(
                f"{whole.fields[column.name]}: {column.name!r} was {before} so far and would be {column.type}: "
                "1 and 1.0 are different trials, and a column of the archive has one type",
                f"write all its values as {before}, or raise campaign.version to begin anew",
            )
    return tuple(known.items())


def sampling_of(config: CampaignConfig) -> Sampling:
    """How often a step is done and what is kept of it, as the campaign says."""
    wanted = config.sampling
    return Sampling(wanted.draws, wanted.thin, wanted.discard, wanted.warmup, config.execution.segments)


def _check_names(trials: Points, fields: Mapping[str, str]) -> None:
    for column in trials.columns:
        if column.name in RESERVED_PARAMETERS:
            raise ConfigError(
                f"{fields[column.name]}: {column.name!r} is a column the archive uses itself", "rename the parameter"
            )


def _without_duplicates(
    config: CampaignConfig, digests: npt.NDArray[np.uint8], points: Points
) -> npt.NDArray[np.int64]:
    pairs = find_duplicates(digests)
    if not len(pairs):
        return np.arange(len(digests), dtype=np.int64)
    if config.duplicates == "refuse":
        first, second = (int(i) // config.replicates for i in pairs[0])
        raise ConfigError(
            f"space: point {second} repeats point {first}: {points.row(first)} ({len(pairs)} duplicated trials in all)",
            "write `duplicates: merge` to run each once, or `replicates:` for independent repetitions",
        )
    keep = np.ones(len(digests), bool)
    keep[pairs[:, 1]] = False
    return np.flatnonzero(keep)


def _with_sampler(points: Points, blocks: Sequence[Mapping[str, Any]], codes: npt.NDArray[np.int32]) -> Points:
    names = [str(block["use"]) for block in blocks]
    distinct = list(dict.fromkeys(names))
    sampler = Column(
        "sampler",
        "str",
        tuple(distinct),
        np.array([distinct.index(n) for n in names], np.int32)[codes],
        False,
    )
    others = tuple(c for c in points.columns if c.name != "experiment.use")
    return Points((sampler, *others), points.length)


def _check_partition(partition_by: Sequence[str], points: Points) -> None:
    from staffa.storage.archive import check_partition_text

    known = {column.name: column for column in points.columns}
    for name in partition_by:
        if name not in known:
            hint = "partition by 'sampler'" if name == "experiment.use" else near(name, known)
            raise ConfigError(f"archive.partition_by: {name!r} is not a parameter of the campaign", hint)
        column = known[name]
        if column.continuous:
            raise ConfigError(
                f"archive.partition_by: {name!r} is sampled from a continuous range ({len(column.values)} values)",
                "partition by a parameter with a few listed values",
            )
        for value in column.values:
            check_partition_text(name, value)
    count = _partitions([known[name] for name in partition_by])
    if count > PARTITIONS:
        raise ConfigError(
            f"archive.partition_by: {list(partition_by)} makes {count} partitions; more than {PARTITIONS} are refused",
            "leave out the column with the most values",
        )


def _partitions(columns: Sequence[Column]) -> int:
    """Combinations of values that occur: of zipped columns far fewer than there could be."""
    if math.prod(len(column.values) for column in columns) <= PARTITIONS:
        return 0
    return len(np.unique(np.stack([column.codes for column in columns]), axis=1).T)


def _group_codes(
    sampled: Points,
    trials: Points,
    block_codes: npt.NDArray[np.int32],
    modes: Sequence[tuple[str, tuple[str, ...]]],
    partition_by: Sequence[str],
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int32]]]:
    """Number the groups in order of first appearance; one key (a point's index) for each."""
    keys = [block_codes]
    for column in trials.columns:
        absent = column.codes < 0
        if absent.any():
            keys.append(absent.astype(np.int32))
        if _is_static(column, modes):
            keys.append(column.codes)
    keys += [column.codes for column in sampled.columns if column.name in partition_by]
    combined = np.zeros(len(block_codes), np.int64)
    for key in keys:
        _, dense = np.unique(key, return_inverse=True)
        combined = combined * (int(dense.max(initial=0)) + 1) + dense.reshape(-1)
        _, combined = np.unique(combined, return_inverse=True)
    _, first, codes = np.unique(combined, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes.reshape(-1)], [np.asarray([first[i], block_codes[first[i]]], np.int32) for i in order]


def _is_static(column: Column, modes: Sequence[tuple[str, tuple[str, ...]]]) -> bool:
    compiled = [static for mode, static in modes if mode != "off"]
    return bool(compiled) and (column.type == "str" or any(column.name in static for static in compiled))


def _draft(
    number: int,
    key: npt.NDArray[np.int32],
    blocks: Sequence[dict[str, Any]],
    modes: Sequence[tuple[str, tuple[str, ...]]],
    trials: Points,
    partition_by: Sequence[str],
    sampled: Points,
    count: int,
) -> Group:
    point, block = int(key[0]), int(key[1])
    mode, static_names = modes[block]
    values = trials.row(point)
    types = {column.name: str(column.type) for column in trials.columns}
    for name in static_names:
        if mode != "off" and name not in values and name not in types:
            raise ConfigError(
                f"static = {static_names!r}: {name!r} is not a parameter of the campaign",
                near(name, types) or "add it to `space`, or to `parameters`",
            )
    static = {n: v for n, v in values.items() if mode != "off" and (n in static_names or types[n] == "str")}
    traced = {n: types[n] for n in values if n not in static}
    row = sampled.row(point)
    return Group(
        name=f"g{number}",
        sampler=str(blocks[block]["use"]),
        experiment=blocks[block],
        static=static,
        traced=traced,
        partition={name: row.get(name) for name in partition_by},
        trials=count,
        batch=1,
        vectorize=mode,
    )


def _check_outputs(groups: Sequence[Group], parameters: set[str]) -> None:
    kinds: dict[str, tuple[Group, Output]] = {}
    rows: dict[str, tuple[Group, Extract]] = {}
    for group in groups:
        for axis in sorted(parameters & group.coords.keys()):
            raise ConfigError(f"{axis!r} is both a parameter and an axis of {group.sampler}", "rename one")
        for extract in group.extracts:
            if extract.name in parameters:
                raise ConfigError(
                    f"{extract.name!r} is both a parameter and a column of trials that "
                    f"{group.sampler} makes of {extract.output!r}",
                    "rename the parameter",
                )
            other, same = rows.setdefault(extract.name, (group, extract))
            if same != extract:
                raise ConfigError(
                    f"summaries[{extract.name!r}] is one thing in {other.sampler}, another in {group.sampler}",
                    "one archive has one meaning for a column: rename one of them",
                )
        for output in group.outputs:
            for name in (output.name, *(f"{output.name}.{word}" for word in SUMMARIES)):
                if name in parameters:
                    raise ConfigError(f"{name!r} is both a parameter and an output of {group.sampler}", "rename one")
            other, known = kinds.setdefault(output.name, (group, output))
            if (known.dtype, len(known.shape), known.table) != (
                output.dtype,
                len(output.shape),
                output.table,
            ):
                raise ConfigError(
                    f"output {output.name!r} is {known.dtype} with {len(known.shape)} axes in {other.sampler}, "
                    f"but {output.dtype} with {len(output.shape)} axes in {group.sampler}",
                    "one archive has one type for a column: rename one of them",
                )
            if known.encoding != output.encoding:
                raise ConfigError(
                    f"output {output.name!r} is encoded as {known.encoding or 'a number'} in {other.sampler}, "
                    f"but as {output.encoding or 'a number'} in {group.sampler}",
                    "one archive has one meaning for a column: rename one of them",
                )


def _with_batch(config: CampaignConfig, group: Group, schema: Schema, total: int) -> Group:
    asked, width = config.execution.batch, config.execution.width
    each = bytes_per_trial(group, config.sampling.draws)
    plain = group.vectorize == "off"
    size = int(asked) if asked != "auto" else auto_batch(each, total, plain=plain, seconds=schema.pilot_seconds)
    if config.search is not None and asked == "auto":
        size = min(size, search_batch(total, schema.pilot_seconds if plain else None))
    whole = 1 << max(group.trials - 1, 0).bit_length()
    if width != "auto":
        size, whole = (math.ceil(count / int(width)) * int(width) for count in (size, whole))
    return replace(group, batch=min(size, whole))


def _check_modes(config: CampaignConfig, groups: Sequence[Group], sampling: Sampling) -> None:
    for group in groups:
        if config.execution.prng != "threefry2x32" and group.vectorize == "vmap":
            raise ConfigError(
                f"execution.prng: {config.execution.prng!r} gives other keys under vmap than alone",
                "add `execution.vectorize: map`, or use threefry2x32",
            )
        if group.vectorize == "off" and sampling.segments > 1:
            raise ConfigError(
                f"execution.segments: {sampling.segments}, but {group.sampler} runs as plain Python (vectorize: off), "
                "whose state cannot be checkpointed",
                "set execution.segments: 1",
            )
        if (sampling.discard + (sampling.draws or 1)) * sampling.thin >= 1 << 32:
            raise ConfigError("sampling: more than 2**32 steps a trial", "lower sampling.draws or sampling.thin")


def parts_of(
    part_size: int, groups: Sequence[Group], draws: int | None, first_group: int, count: int
) -> Iterator[Part]:
    """Cut each group's batches into parts: at most `part_size`, several where files stay large enough.

    Arguments:
    - `draws`: of each trial of the groups.
    - `first_group`: number of the first of the groups; `count`: parts that stand before them.
    """
    for number, group in enumerate(groups, first_group):
        each = bytes_per_trial(group, draws)
        total = each * group.trials
        longest = max(part_size // (each * group.batch), 1)
        wanted = max(math.ceil(group.batches / longest), min(PARTS, total // PART_FLOOR), 1)
        edges = np.linspace(0, group.batches, min(wanted, group.batches) + 1).round().astype(int)
        for first, last in itertools.pairwise(edges):
            yield Part(f"part-{count:05d}", number, int(first), int(last))
            count += 1
