"""Nearest neighbours by a cover tree, beside scikit-learn's and scipy's searches: batches of queries, one thread each.

CPU milliseconds of a batch, medians of interleaved rounds; whoever uses a second thread pays for it. `all_distances` is
what the tree's own programs take without a tree, `brute` scikit-learn's matrix product. Every answer is compared.

python tests/benchmarks/neighbours.py --points 20000 --dimensions 3 4 5 6 10
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from sklearn.neighbors import BallTree, NearestNeighbors
from threadpoolctl import threadpool_limits

os.environ.setdefault("NPROC", "1")  # XLA's threads, as on our workers
sys.path.insert(0, str(Path(__file__).parents[2] / "workflows" / "neighbours"))


def timed(work):
    """CPU milliseconds of all threads of this process, and what the work came to."""
    started = time.process_time()
    found = work()
    return 1000 * (time.process_time() - started), found


def measure(points, dimension, queries, k, rounds):
    from covertree import build

    random = np.random.default_rng([points, dimension])
    data = random.normal(size=(points, dimension))
    building, tree = timed(lambda: build(data, seed=1))
    ball_building, ball_tree = timed(lambda: BallTree(data))
    kd_tree, brute = cKDTree(data), NearestNeighbors(n_neighbors=k, algorithm="brute").fit(data)
    asked = {
        "cover_tree": lambda some: tree.knn(some, k)[1],
        "ball_tree": lambda some: ball_tree.query(some, k)[0],
        "kd_tree": lambda some: kd_tree.query(some, k)[0],
        "brute": lambda some: brute.kneighbors(some)[0],
        "all_distances": lambda some: tree.knn(some, k, traversal="brute")[1],
    }
    spent = {name: [] for name in asked}
    for turn in range(rounds + 1):  # the first compiles
        some, answers = random.normal(size=(queries, dimension)), {}
        for name, ask in asked.items():
            milliseconds, answers[name] = timed(lambda ask=ask, some=some: ask(some))
            if turn:
                spent[name].append(milliseconds)
        for name, answer in answers.items():
            # scikit-learn's matrix product loses half the digits of a difference.
            assert np.allclose(answer, answers["all_distances"], rtol=1e-9, atol=1e-6), name
    found = {name: round(statistics.median(times), 1) for name, times in spent.items()}
    return {
        "points": points,
        "dimension": dimension,
        "ms": found,
        "over_ball_tree": round(found["cover_tree"] / found["ball_tree"], 2),
        "over_brute": round(found["cover_tree"] / found["brute"], 2),
        "over_all_distances": round(found["cover_tree"] / found["all_distances"], 2),
        "build_s": round(building / 1000, 2),
        "ball_tree_build_s": round(ball_building / 1000, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, nargs="+", default=[20_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[3, 4, 5, 6, 10])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rows = []
    with threadpool_limits(1):
        for points in given.points:
            for dimension in given.dimensions:
                rows.append(measure(points, dimension, given.queries, given.neighbours, given.rounds))
                print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"rows": rows}))
