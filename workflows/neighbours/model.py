"""How long a cover tree takes, and whether it is right: one trial builds one tree, or asks one.

Times are CPU time of all threads of the process, so that nobody gains by using more than one, and a busy machine does
not count. All that compete in a trial do so one after another in the same process, on the same points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from covertree import Blocks, CoverTree, Euclidean, Hanging, build
from covertree.attach import Batch
from covertree.metrics import Metric
from datasets import drawn
from scipy.spatial import cKDTree
from sklearn.neighbors import BallTree, NearestNeighbors
from threadpoolctl import threadpool_limits

import staffa
from staffa.errors import near

WORKS = ("build", "query")
TELLING = tuple(field.name for field in fields(Batch))


class Benchmark(staffa.Experiment):
    """Options:
    - `work`: build, or query: what each trial does and records.
    - `metric`, `conflict`, `traversal`: strategies of the tree.
    - `k`: neighbours of a query; `queries`: of a batch; `batches`: how many are asked.
    - `baselines`: whether scipy's and scikit-learn's searches are timed beside it (Euclidean only).
    - `audit`: whether each tree is looked at node by node (all distances), and a faulty one fails its trial.

    Parameters: `dataset`, `points`, `dimension`.

    Of a build: `seconds.*` by who builds, and of each batch of insertion what was done (`batch.*`). Of queries:
    `ms.*`, a number for each batch, by who answers; `wrong`: queries that all distances answer otherwise.
    """

    vectorize = "off"

    def __init__(
        self,
        work: str = "query",
        metric: Any = None,
        conflict: Any = None,
        traversal: Any = None,
        k: int = 10,
        queries: int = 1000,
        batches: int = 3,
        baselines: bool = True,
        audit: bool = False,
    ) -> None:
        if work not in WORKS:
            raise ValueError(f"work: {work!r}; {near(work, WORKS)}")
        self.work = work
        self.encodings = {f"batch.{name}": "ragged" for name in TELLING} if work == "build" else {}
        self.metric: Metric = metric or Euclidean()
        self.conflict, self.traversal = conflict or Hanging(), traversal or Blocks()
        self.k, self.queries, self.batches = k, queries, batches
        self.baselines, self.audit = baselines and self._known(), audit

    def _known(self) -> bool:
        # By name: a campaign's parts are imported apart, each with classes of its own.
        return getattr(self.metric, "known_as", "") == Euclidean.known_as

    def initialize(self, key: Any, params: Mapping[str, Any]) -> Any:
        random = np.random.default_rng(key)
        return random, drawn(params["dataset"], random, int(params["points"]), int(params["dimension"]))

    def step(self, key: Any, state: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        random, points = state
        with threadpool_limits(1):
            if self.work == "build":
                return state, self._built(points, int(random.integers(2**31)))
            queries = drawn(params["dataset"], random, self.queries * self.batches, points.shape[1])
            return state, self._asked(points, queries.reshape(self.batches, self.queries, -1))

    def _tree(self, points: Any, seed: int) -> CoverTree:
        return build(points, self.metric, conflict=self.conflict, traversal=self.traversal, seed=seed)

    def _built(self, points: Any, seed: int) -> dict[str, Any]:
        tree, spent = timed(lambda: self._tree(points, seed))
        seconds = {"cover_tree": spent}
        if self.baselines:
            seconds |= {"kd_tree": timed(lambda: cKDTree(points))[1], "ball_tree": timed(lambda: BallTree(points))[1]}
        rows = [asdict(batch) for batch in tree.batches]
        return {
            "seconds": seconds,
            "batch": {name: np.array([row[name] for row in rows]) for name in TELLING},
            "nodes": len(tree),
            "depth": depth_of(tree),
            "faults": self._faults(tree),
        }

    def _asked(self, points: Any, queries: Any) -> dict[str, Any]:
        tree = self._tree(points, 0)
        faults = self._faults(tree)
        asked: dict[str, Callable[[Any], Any]] = {
            "cover_tree": lambda some: tree.knn(some, self.k)[1],
            "all_distances": lambda some: tree.knn(some, self.k, traversal="brute")[1],
        }
        if self.baselines:
            kd_tree, ball_tree = cKDTree(points), BallTree(points)
            brute = NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(points)
            asked |= {
                "kd_tree": lambda some: kd_tree.query(some, self.k)[0],
                "ball_tree": lambda some: ball_tree.query(some, self.k)[0],
                "brute": lambda some: brute.kneighbors(some)[0],
            }
        for ask in asked.values():
            ask(queries[0])  # what is compiled and allocated once is not a query's
        ms, wrong = {name: np.zeros(len(queries)) for name in asked}, 0
        for number, some in enumerate(queries):
            answers = {}
            for name, ask in asked.items():
                answers[name], spent = timed(lambda ask=ask, some=some: ask(some))
                ms[name][number] = 1000 * spent
            found, expected = (np.reshape(answers[name], (len(some), -1)) for name in ("cover_tree", "all_distances"))
            wrong += int((np.abs(found - expected) > 1e-9 * (1 + expected)).any(axis=1).sum())
        return {"ms": ms, "wrong": wrong, "faults": faults}

    def _faults(self, tree: CoverTree) -> int:
        if not self.audit:
            return 0
        report = tree.validate()
        if not report.sound:
            raise RuntimeError(f"the tree is faulty: {report.faults}; {'; '.join(report.told)}")
        return sum(report.faults.values())


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work comes to, and the CPU seconds of this process that it took."""
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


def depth_of(tree: CoverTree) -> int:
    """Generations of a tree below its root."""
    parent = tree.nodes()["parent"]
    place = np.searchsorted(tree.numbers, parent)
    depth, above = 0, np.flatnonzero(parent >= 0)
    while len(above):
        depth, above = depth + 1, place[above]
        above = above[parent[above] >= 0]
    return depth
