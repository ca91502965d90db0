"""Plain Python that records a value of every kind, each of them made of one number."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import scipy.sparse

import staffa

ROME = ZoneInfo("Europe/Rome")
MIDNIGHT = datetime.datetime(2024, 3, 30, 23, 30, tzinfo=datetime.UTC)
BEGIN = datetime.datetime(2024, 3, 30, 23, 30)
LABELS = ("ice", "liquid water", "vapour")


def values(seed):
    """What a trial records at one draw: a function of `seed` alone."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(0, 4))
    moments = pd.date_range("2024-03-31", periods=rows, freq="h", tz="Europe/Rome", unit="us")
    return {
        "energy": random.normal(),
        "flag": bool(seed % 2),
        "name": None if seed % 3 == 0 else "\uffff" if seed == 1 else "ünï\0code " * (seed % 4),
        "words": np.array([f"a{seed}", ""]),
        "notes": {"runs": [1, None, {"große": 2**70}], "empty": {}, "seed": seed},
        "list": ["x", seed],
        "moment": (MIDNIGHT + datetime.timedelta(hours=seed, microseconds=seed)).astimezone(ROME),
        "naive": BEGIN + datetime.timedelta(days=seed),
        "day": datetime.date(2024, 2, 28) + datetime.timedelta(days=seed),
        "stamp": pd.NaT if seed % 4 == 3 else pd.Timestamp("2024-10-27 00:30", tz="UTC") + pd.Timedelta(hours=seed),
        "ticks": np.array([seed, "NaT"], "datetime64[ms]"),
        "took": datetime.timedelta(seconds=seed, microseconds=1),
        "phase": None if seed % 5 == 4 else LABELS[seed % 3],
        "states": pd.Categorical.from_codes(random.integers(-1, 3, rows), LABELS, ordered=True),
        "path": random.normal(size=(rows, 2)),
        "sites": np.array([f"s{n}" for n in range(rows)], dtype=str),
        "table": pd.DataFrame(
            {
                "time": moments,
                "x": random.normal(size=rows),
                "label": pd.array([None, "b", "c", "d"][:rows], dtype="str"),
                "count": pd.array([1, None, 3, 4][:rows], dtype="Int64"),
                "phase": pd.Categorical.from_codes(random.integers(0, 3, rows), LABELS),
            },
            index=pd.Index(np.arange(rows) + seed, name="event"),
        ),
        "curve": None if rows == 3 else pd.Series(random.normal(size=rows), name="height"),
        "matrix": scipy.sparse.random_array((rows + 1, 3), density=0.5, format="csr", rng=random),
    }


ENCODINGS = {
    "notes": "json",
    "phase": {"use": "category", "categories": list(LABELS), "ordered": True},
    "path": "ragged",
    "sites": "ragged",
}


class Once(staffa.Experiment):
    """One shot."""

    vectorize = "off"
    encodings = ENCODINGS

    def initialize(self, key, params):
        return None

    def step(self, key, state, params):
        found = values(params["seed"])
        if params["seed"] == 9:
            found["table"] = found["table"].rename(columns={"x": "y"})
        return state, found


class Often(Once):
    """Draws, two chains, and a ragged table of text."""

    dims = {"spins": ("chain", "site")}
    ragged = {"found": "count"}
    summaries = {"last.name": ("last", "name"), "best.name": ("argmax", "energy", "name")}

    def initialize(self, key, params):
        return 0

    def step(self, key, draw, params):
        seed = 10 * params["seed"] + draw
        more = {
            "spins": np.array([["up", "down"], [f"{seed}", ""]]),
            "found": np.array([f"f{seed}", "g", "h"]),
            "count": seed % 4,
        }
        return draw + 1, {**values(seed), **more}
