"""What values that are no numbers cost: by kind, microseconds a value and bytes on disk, hot and archived.

One batch of a plain Python experiment that records one kind, without workers: encoding (what a trial's values cost
beyond computing them), writing the shard, making and writing the rows of the archive, reading them back. Beside each
kind an array of 64 numbers, recorded as ever. Prints JSON.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import scipy.sparse

from staffa import rows
from staffa.campaign.plan import Group, Part, Plan
from staffa.execution.prepare import group_layout
from staffa.experiment.batch import unguarded
from staffa.experiment.protocol import Experiment, Sampling
from staffa.experiment.simulate import Loop, one_trial, pilot
from staffa.storage.archive import Archive
from staffa.storage.hot import HotStore
from staffa.views.decoding import pandas_frame

LABELS = ["ice", "water", "vapour"]
BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
KINDS = {
    "64 numbers": (lambda n, r: r.normal(size=64), None),
    "text": (lambda n, r: f"trial {n} ended well", None),
    "datetime": (lambda n, r: BEGIN + datetime.timedelta(seconds=n), None),
    "category": (lambda n, r: LABELS[n % 3], {"use": "category", "categories": LABELS}),
    "json": (lambda n, r: {"seed": n, "runs": [1, None, {"a": n / 3}]}, "json"),
    "ragged, 64": (lambda n, r: r.normal(size=32 + n % 64), "ragged"),
    "categorical, 64": (lambda n, r: pd.Categorical.from_codes(r.integers(0, 3, 64), LABELS), None),
    "frame, 64 x 3": (
        lambda n, r: pd.DataFrame({"a": r.normal(size=64), "n": r.integers(0, 9, 64), "s": LABELS[n % 3]}), None
    ),
    "sparse, 64": (lambda n, r: scipy.sparse.random_array((64, 64), density=1 / 64, format="csr", rng=r), None),
}  # fmt: skip


class One(Experiment):
    vectorize = "off"

    def __init__(self, values, declared):
        self.values, self.encodings = values, {"x": declared} if declared else {}

    def initialize(self, key, params):
        return 0

    def step(self, key, draw, params):
        return draw + 1, {"x": self.values[params["n"]]}


def timed(action):
    began = time.perf_counter()
    found = action()
    return time.perf_counter() - began, found


def measured(kind: str, trials: int, folder: Path) -> dict[str, float]:
    make, declared = KINDS[kind]
    random = np.random.default_rng(0)
    model = One([make(n, random) for n in range(trials)], declared)
    words, params, sampling = np.zeros((trials, 4), np.uint32), [{"n": n} for n in range(trials)], Sampling(draws=1)
    words[:, 3] = range(trials)
    schema = pilot(model, 1, words[0], params[0], sampling, folder)
    bare, _ = timed(lambda: [one_trial(model, 1, words[n], params[n], sampling) for n in range(trials)])
    loop = Loop(model, 1, words, params, sampling, schema, folder)
    encode, _ = timed(lambda: loop.run(range(trials), unguarded, lambda: None))
    assert set(loop.outcomes) == {1}, loop.messages
    group = Group("g0", "One", {"use": "One"}, {}, {"n": "int"}, {}, trials, trials, schema.outputs, vectorize="off")
    plan = Plan(
        0, trials, 0, 1, "", sampling, False, "threefry2x32", "auto", None, "lz4", 1, (("n", "int"),), (), (group,),
        (Part("part-00000", 0, 0, 1),),
    )  # fmt: skip
    names = [f"{n:032x}" for n in range(trials)]
    columns = {"n": np.arange(trials), "replicate": np.zeros(trials, np.int64)}
    store = HotStore.create(folder / "g0.zarr", group_layout(plan, group), words, names, columns)
    write, path = timed(lambda: store.write("x", 0, 0, loop.outputs["x"], folder / "scratch"))
    store.commit(0, loop.outcomes, np.array([[store.checksum("x", 0, 0)]], np.uint32), np.zeros(trials, np.float32))
    layout = rows.archive_layout(plan)

    def seal():
        pieces = [rows.read(store, group, 0, 0)]
        made = rows.tables(layout, pieces)
        trial = rows.warm(layout, rows.summary(layout, pieces[0]), made[rows.TRIALS], rows.Tries())
        Archive(folder / "archive", layout).seal("part-00000", {}, {"draws": [made["draws"]]}, trial)

    sealing, _ = timed(seal)
    file = folder / "archive" / "draws" / "part-00000.parquet"
    read, _ = timed(lambda: pandas_frame(pq.read_table(file, columns=["x"], schema=layout.draws())))
    each = {"encode": encode - bare, "write": write, "seal": sealing, "read": read}
    archived = pq.read_metadata(file).row_group(0).to_dict()["columns"]
    stood = sum(column["total_compressed_size"] for column in archived if column["path_in_schema"].startswith("x"))
    return {
        **{f"{name} us": 1e6 * seconds / trials for name, seconds in each.items()},
        "hot bytes": path.stat().st_size / trials,
        "archived bytes": stood / trials,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(given.rounds):
        for kind, rounds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(measured(kind, given.trials, Path(folder)))
    medians = {
        kind: {name: round(statistics.median(one[name] for one in rounds), 1) for name in rounds[0]}
        for kind, rounds in found.items()
    }
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
