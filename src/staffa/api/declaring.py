"""What is declared: campaigns read, planned, and shown as the jobs they would become."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.ambient import current
from staffa.campaign.config import PYTHON, Declaration, from_tree, tree_of
from staffa.campaign.layers import Node, Tree, from_python, merge, planted
from staffa.campaign.runtime import defaults, read
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.storage.workspace import Workspace
from staffa.trial import canonical

if TYPE_CHECKING:
    from staffa.api.parameters import Parameters
    from staffa.campaign.declared import Offered
    from staffa.campaign.space import Space
    from staffa.execution.prepare import Prepared
    from staffa.experiment.parameters import Parameter


@dataclass
class Campaign:
    """A declaration, ready to be planned and run; until it is run its parameters may be set and explored.

        campaign.parameters.kernel.width = 2.0
        campaign.explore({"temperature": [1.0, 2.0, 3.0]})

    Whatever is said is checked at once. What a run has used is locked: it stands on disk.
    """

    declaration: Declaration
    used: Path | None = None
    """The folder of the run that has used it."""
    _offered: dict[str, list[Offered]] = field(default_factory=dict, repr=False, compare=False)
    """What its experiments declare, by their code and options: to make them may take its time."""

    @property
    def root(self) -> Path:
        """The folder the campaign lives in: `<storage.root>/<version>_<name>`."""
        title = self.declaration.campaign.campaign
        return Path(self.declaration.campaign.storage.root) / f"{title.version}_{title.name}"

    @property
    def parameters(self) -> Parameters:
        """All parameters by natural names: those of the experiment, of `parameters:` and of the space."""
        from staffa.api.parameters import Parameters

        offered = (name for each in self._offers for name, said in each.items() if said is not None)
        names = dict.fromkeys([*offered, *self.declaration.campaign.parameters, *self.explored])
        return Parameters.of(self, tuple(name for name in names if not name.startswith("experiment.")))

    @property
    def explored(self) -> tuple[str, ...]:
        """Names of the parameters that the space gives."""
        return self._space(self.declaration).names

    def explore(
        self,
        together: Mapping[str, Iterable[Any]] | None = None,
        /,
        *,
        points: int | None = None,
        when: Mapping[str, Any] | None = None,
        **kind: Any,
    ) -> None:
        """Explore parameters: one more block of the space, which multiplies with those there are.

        Arguments:
        - `together`: lists of equal length; the first values are a point, then the second: what pypet's `f_explore`
          takes, and `zip=` says, too.
        - `kind`: `grid={"temperature": [1, 2], "kernel.width": [0.5, 1.0]}` for all combinations; or `list`,
          `integers`, `linspace`, `logspace`, `sobol`, `latin`, `random`, `choice`, as in a campaign file.
        - `points`, `when`: as in a campaign file.

        Raises `ConfigError` for what cannot be, values out of a declared type or range included; nothing has
        changed then.
        """
        self._check_open("explore")
        given = {**({"zip": together} if together is not None else {}), **kind}
        block = {name: _listed(body) for name, body in given.items()}
        block |= {name: said for name, said in (("points", points), ("when", when)) if said is not None}
        tree = tree_of(self.declaration)
        blocks = tree["space"].content
        assert isinstance(blocks, tuple)
        added = from_python(block, PYTHON, ("space", len(blocks)))
        tree["space"] = Node((*blocks, added), PYTHON)
        self._become(tree, f"space[{len(blocks)}]")

    def parameter(self, name: str) -> Parameter:
        """What counts for a parameter: what the experiment declares, with what the campaign says in front."""
        from staffa.campaign.declared import overlaid
        from staffa.experiment.parameters import Parameter

        own = next((offered for each in self._offers if (offered := each.get(name))), Parameter())
        said = self.declaration.campaign.parameters.get(name)
        return own if said is None else overlaid(own, said)

    def say(self, name: str, words: Mapping[str, Any]) -> None:
        """Say something of a parameter: `say("kernel.width", {"value": 2.0, "unit": "mm"})`; others may do so by name.

        Raises `ConfigError` for a value of another type or out of range, for names the experiment does not
        know, and once the campaign is used.
        """
        from staffa.experiment.parameters import Parameter
        from staffa.views.params import in_words, told

        self._check_open(name)
        before, known = self.parameter(name), self.declaration.campaign.parameters.get(name)
        # A value takes the place of a formula, a formula that of a value.
        if words.get("derived"):
            words = {"value": None, **words}
        elif "value" in words:
            words = {"derived": "", **words}
        try:
            found = replace(before, **words)
        except ValueError as error:
            hint = f"it is so far: {in_words(told(name, before, name in self.explored))}"
            raise ConfigError(f"parameters.{name}.{error}", hint) from None
        said = {**(known.model_dump() if known else {}), **{word: getattr(found, word) for word in words}}
        nothing = Parameter()
        node = from_python({word: each for word, each in said.items() if each != getattr(nothing, word)}, PYTHON)
        change = planted(["parameters", name], Node(node.content, node.origin, whole=True))
        self._become(merge(tree_of(self.declaration), change), f"parameters.{name}")

    def _become(self, tree: Tree, place: str) -> None:
        """Take on what a tree says, unless something is wrong with it at some place."""
        from staffa.campaign.blocks import explored
        from staffa.campaign.declared import mistakes

        wanted = from_tree(tree, self.declaration.directory)
        with located(wanted):
            found = explored(wanted.campaign)
            for error in mistakes(wanted.campaign, found, self._offers_of(wanted)):
                if re.match(rf"{re.escape(place)}(?![\w])", error.message):
                    raise error
        self.declaration = wanted

    def _check_open(self, what: str) -> None:
        if self.used is not None:
            raise ConfigError(
                f"{what} is locked: the campaign is used by {self.used}",
                f"staffa.attach({str(self.used)!r}).expand(…) lets it grow; for another one load the file again, with "
                'campaign__version="v1.1"',
            )

    @property
    def _offers(self) -> list[Offered]:
        return self._offers_of(self.declaration)

    def _offers_of(self, declaration: Declaration) -> list[Offered]:
        from staffa.campaign.blocks import experiments_of
        from staffa.execution.prepare import Built
        from staffa.storage.provenance import code_digest

        built = Built(declaration.directory)
        with located(declaration):
            blocks = experiments_of(declaration.campaign)
            key = canonical([code_digest(declaration.directory), blocks])
            if key not in self._offered:
                self._offered[key] = [built.offer(block) for block in blocks]
            return self._offered[key]

    def _space(self, declaration: Declaration) -> Space:
        from staffa.campaign.space import Space

        config = declaration.campaign
        with located(declaration):
            return Space(config.space, config.seeds.pack().channel("space"))

    def __repr__(self) -> str:
        return f"Campaign({str(self.root)!r})"


def _listed(body: Any) -> Any:
    """The body of a block with its iterables as lists: ranges, arrays, whatever a notebook has."""
    if isinstance(body, Mapping):
        return {name: _listed(each) for name, each in body.items()}
    return body if isinstance(body, str) or not isinstance(body, Iterable) else list(body)


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
    """Put file and line in front of what others object to."""
    try:
        yield
    except (ConfigError, PluginError, ClusterError) as error:
        raise declaration.located(error) from None


def _cluster_facts(campaign: Campaign) -> dict[str, Any]:
    """What a campaign would ask of SLURM, compared with what there is; empty for other machines."""
    if campaign.declaration.campaign.cluster.kind != "slurm":
        return {}
    from staffa.execution.drive import considered

    with located(campaign.declaration):
        return considered(Workspace(campaign.root.absolute()), campaign.declaration)
