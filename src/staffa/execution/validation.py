"""Everything that is wrong with a campaign file, as data: what `plan` would refuse, all of it at once.

`plan` stops at the first thing another room objects to. Here each room is asked for itself, and asked
again without what it objected to; whoever rests on an unsound section is not asked at all. Warnings
are what would run and surprise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from staffa.campaign.blocks import explored
from staffa.campaign.complaints import Complaint, Refused, complaint_of
from staffa.campaign.config import Declaration, examine, plain, stray_variables
from staffa.campaign.declared import flaws, lookalikes
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import bytes_per_trial
from staffa.campaign.space import Space
from staffa.errors import ClusterError, ConfigError, PluginError, StaffaError
from staffa.execution.prepare import Built, Prepared, unfolded
from staffa.experiment.registry import build
from staffa.storage.workspace import Workspace

ERROR, WARNING = "error", "warning"


def validation(
    path: str | Path,
    *,
    cluster: str | Path | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    overrides: Iterable[str] = (),
    ambient: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Look at a campaign file to the end; arguments as for `config.load`. Writes nothing.

    Returns `valid`, the counts `errors` and `warnings`, and `complaints`: each with `level`, `tier`, `file`,
    `line`, `field`, `value`, `text`, `hint`. Where nothing is wrong, `plan` holds its sizes.
    """
    variables = os.environ if environ is None else environ
    seen = examine(
        path,
        cluster=cluster,
        profile=profile,
        workflow=workflow,
        overrides=overrides,
        ambient=ambient,
        environ=variables,
    )
    errors, warnings = list(seen.complaints), stray_variables(variables)
    prepared = None
    if seen.declaration is not None:
        errors += _rooms(seen.declaration, seen.unsound)
        warnings += _without_meaning(seen.declaration)
        if not errors:
            wrong, slips = _parameters(seen.declaration)
            errors, warnings = errors + wrong, warnings + slips
        if not errors:
            prepared = _whole(seen.declaration, errors)
    if prepared is not None:
        errors += _too_large(prepared)
        warnings += _large(prepared)
    complaints = [_facts(one, ERROR) for one in errors] + [_facts(one, WARNING) for one in warnings]
    return {
        "campaign": str(path),
        "valid": not errors,
        "errors": len(errors),
        "warnings": len(warnings),
        "complaints": complaints,
        "plan": _sizes(prepared) if prepared is not None and not errors else None,
    }


def _facts(complaint: Complaint, level: str) -> dict[str, Any]:
    origin = complaint.origin
    return {
        "level": level,
        "tier": origin.tier,
        "file": origin.file,
        "line": origin.line,
        "field": complaint.field,
        "value": complaint.value,
        "text": complaint.text,
        "hint": complaint.hint,
    }


def _sizes(prepared: Prepared) -> dict[str, Any]:
    plan = prepared.plan
    return {
        "trials": plan.trials,
        "groups": len(plan.groups),
        "programs": plan.programs,
        "batches": plan.batches,
        "parts": len(plan.parts),
        "bytes": prepared.bytes,
        "files": prepared.files,
    }


# --- one room after another ------------------------------------------------------------------------


def _rooms(declaration: Declaration, unsound: frozenset[str]) -> Iterator[Complaint]:
    """What the space and the experiment object to, each by itself."""
    if not unsound & {"space", "seeds"}:
        yield from _space(declaration)
    if "experiment" not in unsound:
        yield from _experiment(declaration)


def _space(declaration: Declaration) -> Iterator[Complaint]:
    """Every block that is wrong; what others miss of a block that was left out is not held against them."""
    config = declaration.campaign
    seed, kept = config.seeds.pack().channel("space"), list(enumerate(config.space))
    lacking: set[str] = set()
    while True:
        try:
            Space([block for _, block in kept], seed)
            return
        except ConfigError as error:
            place = re.match(r"space\[(\d+)\]", error.message)
            if place is None:
                if not lacking:
                    yield _told(declaration, error)
                return
            index, block = kept.pop(int(place[1]))
            if not any(repr(name) in error.message for name in lacking):
                words = f"space[{index}]{error.message[place.end() :]}"
                yield _told(declaration, ConfigError(words, error.hint))
            bodies = (body for body in block.values() if isinstance(body, Mapping))
            lacking |= {str(name) for body in bodies for name in body}


def _experiment(declaration: Declaration) -> Iterator[Complaint]:
    """Every option that is wrong, besides a class that is not there."""
    config = declaration.campaign.experiment
    swept = {name for block in declaration.campaign.space for name in _swept(block)}
    block = {"use": config.use, **config.options}
    if "use" in swept or any(name.partition(".")[0] in swept for name in block):
        return  # each combination is another experiment: the plan judges them all
    dropped: set[str] = set()
    while True:
        try:
            build(block, declaration.directory)
            return
        except (PluginError, ConfigError) as error:
            option = re.match(r"experiment\.(\w+)", error.message)
            name = option[1] if option else ""
            if name not in dropped:
                yield _told(declaration, error)
            if name not in block or name in ("use", *dropped):
                return
            dropped.add(name)
            block = {key: value for key, value in block.items() if key != name}


def _parameters(declaration: Declaration) -> tuple[list[Complaint], list[Complaint]]:
    """What is wrong with parameters, and what is probably a slip; nothing where points cannot be made at all."""
    config, built = declaration.campaign, Built(declaration.directory)
    try:
        found = explored(config)
        offers = [built.offer(block) for block in found.blocks]
        wrong = [_told(declaration, error) for error in flaws(config, found, offers)]
    except (ConfigError, PluginError):
        return [], []  # the plan will say so
    slips = lookalikes(config, found, offers)
    return wrong, [Complaint(declaration.where(field), field, text, hint) for field, text, hint in slips]


def _swept(block: Mapping[str, Any]) -> Iterator[str]:
    """Options of the experiment that a block of the space varies."""
    for body in block.values():
        if isinstance(body, Mapping):
            yield from (str(name).split(".")[1] for name in body if str(name).startswith("experiment."))


def _whole(declaration: Declaration, errors: list[Complaint]) -> Prepared | None:
    """The plan, or the first thing that stands against it, which is added to `errors`."""
    try:
        prepared = unfolded(declaration)
        if declaration.campaign.cluster.kind == "slurm":
            from staffa.execution.drive import considered

            considered(Workspace(declaration.directory), declaration)
    except (ConfigError, PluginError, ClusterError) as error:
        errors.append(_told(declaration, error))
        return None
    return prepared


def _told(declaration: Declaration, error: StaffaError) -> Complaint:
    if isinstance(error, Refused) and len(error.complaints) == 1:
        return error.complaints[0]
    return complaint_of(error, declaration.where, lambda field: value_at(plain(declaration), field))


def value_at(values: Any, field: str) -> Any:
    """What stands at a dotted path such as `space[0].grid.a`; None where nothing does."""
    for part in re.findall(r"[^.\[\]]+", field):
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values if field else None


# --- what would surprise ---------------------------------------------------------------------------


def _without_meaning(declaration: Declaration) -> Iterator[Complaint]:
    """Settings that say nothing beside the others."""
    config = declaration.campaign
    if config.sampling.draws is None:
        for name, neutral in (("thin", 1), ("discard", 0)):
            value = getattr(config.sampling, name)
            if value != neutral:
                field, text = f"sampling.{name}", f"{value} says nothing without sampling.draws: a trial is one step"
                yield Complaint(declaration.where(field), field, text, "set sampling.draws", value)
        segments = config.execution.segments
        if segments > 1:
            text = f"{segments} says nothing without sampling.draws: there is nothing to cut"
            field = "execution.segments"
            yield Complaint(declaration.where(field), field, text, "set sampling.draws", segments)


def _too_large(prepared: Prepared) -> Iterator[Complaint]:
    """What this machine could never hold."""
    config = prepared.declaration.campaign
    place = _existing(Path(config.storage.root))
    disk = os.statvfs(place)
    if disk.f_files and prepared.files > disk.f_favail:
        text = f"the campaign makes {prepared.files:,} files, {place} has room for {disk.f_favail:,}"
        yield _size(prepared, "storage.root", text, "raise execution.batch, or name another disk")
    if config.cluster.kind != "local":
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in prepared.plan.groups:
        each = bytes_per_trial(group, prepared.plan.sampling.segment_draws) + group.state_bytes
        if each > memory:
            text = f"one trial of {group.sampler} holds {_gibibytes(each)}, this machine has {_gibibytes(memory)}"
            yield _size(prepared, "sampling.draws", text, "raise execution.segments: they are held one at a time")


def _large(prepared: Prepared) -> Iterator[Complaint]:
    """What may not fit, as far as uncompressed sizes tell."""
    config: CampaignConfig = prepared.declaration.campaign
    place = _existing(Path(config.storage.root))
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if prepared.bytes > free:
        text = f"outputs are {_gibibytes(prepared.bytes)} before compression, {place} has {_gibibytes(free)} free"
        yield _size(prepared, "storage.root", text, "raise sampling.thin, record less, or name another disk")
    if config.cluster.kind != "local":
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    flying = config.execution.window * (config.cluster.workers or config.execution.workers or os.cpu_count() or 1)
    for group in prepared.plan.groups:
        each = bytes_per_trial(group, prepared.plan.sampling.segment_draws) * group.batch
        if each * flying > memory >= each / max(group.batch, 1):
            text = f"{flying} batches in flight hold {_gibibytes(each * flying)} of {_gibibytes(memory)} memory"
            yield _size(prepared, "execution.batch", text, "lower execution.batch or window, or raise segments")
            return


def _size(prepared: Prepared, field: str, text: str, hint: str) -> Complaint:
    declaration = prepared.declaration
    return Complaint(declaration.where(field), field, text, hint, value_at(plain(declaration), field))


def _existing(place: Path) -> Path:
    """The folder, or what there is of the way to it."""
    absolute = place.expanduser().absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _gibibytes(size: int) -> str:
    return f"{size / (1 << 30):,.2f} GiB"
