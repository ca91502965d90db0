"""Optimal experimental design: which NK settings tell most about what a population does on them?

    python workflows/design/design.py                           # 20 designs at random, then 100 chosen ones
    python workflows/design/design.py --seeding 5 --iterations 3 --root /tmp/runs
    python workflows/design/design.py --manifest                # what there is so far, one JSON a line

One campaign holds all designs and grows by one at a time. It is all the state there is: what was tried and what came
of it is read from its plan and its archive, and the next design follows from that and the seed. So this may be killed
at any moment; started again it goes on, and no finished design is run twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import staffa
from staffa.storage.workspace import Workspace

HERE = Path(__file__).parent
if __name__ != "__main__":  # `python design.py` has put its folder there itself
    sys.path.insert(0, str(HERE))
from criterion import Design, Variable, best, places, random_designs, read_bounds, surrogates  # noqa: E402

OUTPUTS = ("information_gain", "barrier_crossing", "entropy", "divergence", "geometric_fitness")
CANDIDATES = 100


@dataclass(frozen=True)
class Tried:
    """A design of the campaign, and the mean over its replicates of each output; None until it has one."""

    design: Design
    outputs: dict[str, float] | None


@dataclass(frozen=True)
class Search:
    """What is looked for: `seeding` designs at random, then `iterations` chosen ones."""

    campaign: staffa.Campaign
    variables: tuple[Variable, ...]
    seeding: int = 20
    iterations: int = 100
    seed: int = 0

    @property
    def root(self) -> Path:
        return self.campaign.root

    def tried(self) -> list[Tried]:
        """All designs of the campaign, in the order in which they came."""
        return tried(self.root, [one.name for one in self.variables]) if planned(self.root) else []

    def seeds(self) -> list[Design]:
        """The designs to begin with."""
        return list(
            itertools.islice(random_designs(self.variables, np.random.default_rng([self.seed, 0])), self.seeding)
        )

    def next(self, known: Sequence[Tried]) -> Design:
        """The design to come after these: of 100 at random the one that tells most."""
        done = [one for one in known if one.outputs is not None]
        random = np.random.default_rng([self.seed, len(known)])
        seen = [one.design for one in known]
        fresh = (design for design in random_designs(self.variables, random) if design not in seen)
        candidates = list(itertools.islice(fresh, CANDIDATES))
        if len(done) < 2:
            return candidates[0]
        points = places(self.variables, [one.design for one in done])
        results = np.array([[one.outputs[name] for name in OUTPUTS] for one in done if one.outputs])
        return candidates[best(surrogates(points, results), points, places(self.variables, candidates))]


def planned(root: Path) -> bool:
    return Workspace(root.absolute()).is_planned


def tried(root: Path, names: Sequence[str]) -> list[Tried]:
    """The designs of a campaign and what came of them, from its plan and its archive."""
    results = staffa.attach(root).results
    columns = [f"{output}.mean" for output in OUTPUTS]
    found = results.trials.to_pandas(["trial", *columns]).set_index("trial")
    found.columns = OUTPUTS
    everything = results.params.to_pandas().join(found)
    rows = []
    for values, trials in everything.groupby(list(names), sort=False):
        means = trials[list(OUTPUTS)].dropna().mean()
        design = {
            name: value.item() if hasattr(value, "item") else value for name, value in zip(names, values, strict=True)
        }
        rows.append(Tried(design, None if means.isna().any() else means.to_dict()))
    return rows


def space(designs: Sequence[Design]) -> list[dict[str, Any]]:
    """The designs as the space of a campaign."""
    return [{"zip": {name: [design[name] for design in designs] for name in designs[0]}}]


def steps(search: Search, client: Any = None) -> Iterator[list[Tried]]:
    """Go on until all is done; after each design all there are."""
    begin(search, client)
    while True:
        known = search.tried()
        yield known
        if len(known) >= search.seeding + search.iterations:
            return
        staffa.expand(search.root, space=space([*(one.design for one in known), search.next(known)]))
        staffa.resume(search.root, client=client, progress=False)


def begin(search: Search, client: Any = None) -> None:
    """Plan and run the first designs, or finish what was planned when somebody was cut short."""
    if planned(search.root):
        staffa.resume(search.root, client=client, progress=False)
    else:
        staffa.run(search.campaign, client=client, progress=False, allow_dirty=True)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeding", type=int, default=20, help="designs at random to begin with")
    parser.add_argument("--iterations", type=int, default=100, help="designs chosen one after another")
    parser.add_argument("--seed", type=int, default=0, help="of designs at random")
    parser.add_argument("--root", default="runs", help="folder that holds the campaign's folder")
    parser.add_argument("--bounds", type=Path, default=HERE / "bounds.yaml", help="where designs are looked for")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--manifest", action="store_true", help="only tell what there is, one JSON a line")
    return parser.parse_args(words)


def made(given: argparse.Namespace) -> Search:
    """The search that is asked for. Raises `ValueError` for numbers that make none."""
    if given.seeding < 2 or given.iterations < 0:
        raise ValueError(
            f"--seeding {given.seeding} --iterations {given.iterations}: 2 or more to begin with are needed"
        )
    variables = read_bounds(given.bounds)
    first = Search(None, variables, given.seeding, given.iterations, given.seed)  # type: ignore[arg-type]
    campaign = staffa.load(HERE / "campaign.yaml", space=space(first.seeds()), storage={"root": given.root})
    return Search(campaign, variables, given.seeding, given.iterations, given.seed)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    search = made(given)
    if given.manifest:
        for number, one in enumerate(search.tried()):
            kind = "seed" if number < search.seeding else "chosen"
            say(json.dumps({"design": number, "kind": kind, **one.design, "outputs": one.outputs}))
        return 0
    from distributed import Client, LocalCluster
    from distributed.security import Security

    # One cluster for all iterations: starting one takes longer than a design. It listens with TLS only.
    shape = {"n_workers": given.workers, "threads_per_worker": 4, "dashboard_address": None}
    with LocalCluster(**shape, protocol="tls://", security=Security.temporary()) as cluster, Client(cluster) as client:
        for known in steps(search, client):
            values = known[-1].outputs
            told = ", ".join(f"{name} {value:.3g}" for name, value in values.items()) if values else "no outputs"
            say(f"{len(known)} of {search.seeding + search.iterations}: {known[-1].design} -> {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
