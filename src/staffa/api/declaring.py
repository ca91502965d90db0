"""What is declared: campaigns read, planned, and shown as the jobs they would become."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.ambient import current
from staffa.campaign.config import Declaration
from staffa.campaign.runtime import defaults, read
from staffa.errors import ClusterError, ConfigError
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.execution.prepare import Prepared


@dataclass(frozen=True)
class Campaign:
    """A declaration, ready to be planned and run."""

    declaration: Declaration

    @property
    def root(self) -> Path:
        """The folder the campaign lives in: `<storage.root>/<version>_<name>`."""
        title = self.declaration.campaign.campaign
        return Path(self.declaration.campaign.storage.root) / f"{title.version}_{title.name}"

    def __repr__(self) -> str:
        return f"Campaign({str(self.root)!r})"


def load(
    path: str | Path,
    *,
    cluster: str | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    set: Iterable[str] = (),
    **overrides: Any,
) -> Campaign:
    """Read a campaign file.

    Arguments:
    - `cluster`, `profile`: a cluster config's and a profile's name.
    - `workflow`: folder whose `profiles/` are meant; the campaign file's by default.
    - `set`: `a.b=c` each, as on the command line.
    - `overrides`: the same for Python: `replicates=2, sampling={"draws": 10}` or `sampling__draws=10`.

    What is left out is taken from the block around (`staffa.runtime`). Raises `ConfigError` naming file,
    line, field, value.
    """
    said = [*set, *_dotted(overrides, Path(path).parent)]
    return Campaign(read(path, cluster=cluster, profile=profile, workflow=workflow, overrides=said))


def validate(
    path: str | Path,
    *,
    cluster: str | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    set: Iterable[str] = (),
) -> dict[str, Any]:
    """Everything that is wrong with a campaign file: file, line, field, value, hint; arguments as for `load`."""
    from staffa.execution.validation import validation

    return validation(path, overrides=tuple(set), **defaults(cluster, profile, workflow))


def profiles(place: str | Path = ".", *, workflow: str | Path | None = None) -> dict[str, Any]:
    """The profiles beside a campaign file, or in a workflow's folder."""
    from staffa.campaign.profiles import folder, listed

    found = folder(Path(place), workflow if workflow is not None else current().workflow)
    return {"folder": str(found), "profiles": list(listed(found))}


def describe_profile(name: str, place: str | Path = ".", *, workflow: str | Path | None = None) -> dict[str, Any]:
    """Everything a profile says."""
    from staffa.campaign.profiles import described, find, folder

    return described(find(name, folder(Path(place), workflow if workflow is not None else current().workflow)))


def plugins(family: str | None = None) -> dict[str, Any]:
    """All plug-ins, or those of a family: where each comes from, and whether it can be used."""
    from staffa.experiment.plugins import facts, listed

    return facts(listed(family))


def plan(
    campaign: Campaign | str | Path,
    *,
    pilot: bool = False,
    past: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Prepared:
    """Unfold a campaign in memory: what will run, in how many batches and files, and what it takes (`estimate`).

    Arguments:
    - `pilot`: find out what it takes: a few trials of each program, on a worker of each pool that samples.
    - `past`: read it from the receipts of this run instead. Left out, a run in the campaign's own folder,
      or of the same programs beside it, is used by itself.
    - `tell`: told what a pilot is waiting for.

    Nothing stays on the disk but what a pilot compiled, in the compile cache. Raises `ConfigError` for
    what cannot be or fit, a cluster's limits included where SLURM can be asked.
    """
    from staffa.execution.estimating import estimated
    from staffa.execution.prepare import unfolded

    campaign = campaign_of(campaign, options)
    prepared = replace(unfolded(campaign.declaration), cluster=_cluster_facts(campaign))
    run = None if past is None else Path(past)
    return estimated(prepared, campaign.root, pilot=pilot, past=run, tell=tell)


def scripts(campaign: Campaign | str | Path, **options: Any) -> dict[str, str]:
    """The job scripts a run would hand in, by pool; the detached driver's own is called `driver`."""
    from staffa.execution.drive import job_scripts

    campaign = campaign_of(campaign, options)
    return job_scripts(Workspace(campaign.root.absolute()), campaign.declaration)


def campaign_of(campaign: Campaign | str | Path, options: dict[str, Any]) -> Campaign:
    if isinstance(campaign, Campaign):
        if options:
            raise ConfigError(f"options {sorted(options)} go to staffa.load, the campaign is already loaded")
        return campaign
    return load(campaign, **options)


def _dotted(overrides: Mapping[str, Any], directory: Path, prefix: str = "") -> Iterator[str]:
    """Python's overrides as `a.b=c`; a class stands for its reference, unless it lives in a notebook."""
    import json

    from staffa.experiment.registry import reference_of

    for name, value in overrides.items():
        path = prefix + name.replace("__", ".")
        if isinstance(value, Mapping):
            yield from _dotted(value, directory, path + ".")
        elif isinstance(value, type):
            yield f"{path}={json.dumps(reference_of(value, directory))}"
        else:
            yield f"{path}={json.dumps(value)}"


@contextlib.contextmanager
def located(declaration: Declaration) -> Iterator[None]:
    """Put file and line in front of what SLURM or its limits object to."""
    try:
        yield
    except (ConfigError, ClusterError) as error:
        raise declaration.located(error) from None


def _cluster_facts(campaign: Campaign) -> dict[str, Any]:
    """What a campaign would ask of SLURM, compared with what there is; empty for other machines."""
    if campaign.declaration.campaign.cluster.kind != "slurm":
        return {}
    from staffa.execution.drive import considered

    with located(campaign.declaration):
        return considered(Workspace(campaign.root.absolute()), campaign.declaration)
