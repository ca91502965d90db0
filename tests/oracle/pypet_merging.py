"""What pypet makes of trajectories that are merged: cases as JSON on standard input, answers on standard output.

Run by the Python of pypet's own environment (`make pypet-env`); nothing of Staffa is imported. A case:

    {"trajectories": [{"parameters": {"x": 1}, "explored": {"x": [1, 2]}}, ...], "remove_duplicates": false,
     "trial_parameter": null, "many": false}

Every run stores the result `z`: the product of its numbers, the number of its letters added. An answer: `points` (in
the order of runs, every parameter), `explored` (names), `z` of every run; or `error`, the exception's class.
"""

import json
import logging
import math
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

from pypet import Trajectory  # noqa: E402, I001


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def product(values):
    numbers = [float(value) for value in values if not isinstance(value, str)]
    return math.prod(numbers) + sum(len(value) for value in values if isinstance(value, str))


def trajectory(folder, number, declared):
    """A trajectory with the results of all its runs; stored, without the environment that would have run them."""
    file = str(Path(folder) / f"t{number}.hdf5")
    traj = Trajectory(name=f"t{number}", filename=file, add_time=False)
    for parameter, value in declared["parameters"].items():
        traj.f_add_parameter(parameter, value)
    traj.f_explore(declared["explored"])
    for run in range(len(traj)):
        traj.v_idx = run
        traj.f_add_result("runs.$.z", product(traj.f_get_parameters(fast_access=True).values()))
        traj.f_get_run_information(run, copy=False)["completed"] = 1
    traj.v_idx = -1
    traj.f_store()
    return traj


def merged(folder, case):
    first, *others = [trajectory(folder, number, declared) for number, declared in enumerate(case["trajectories"])]
    options = {"backup": False, "merge_config": False}
    if case.get("remove_duplicates"):
        options["remove_duplicates"] = True
    if case.get("trial_parameter"):
        options["trial_parameter"] = case["trial_parameter"]
    if case.get("many"):
        first.f_merge_many(others, **options)
    else:
        for other in others:
            first.f_merge(other, **options)
    first.f_load(load_parameters=2, load_results=2)
    names = {parameter.v_full_name.split(".", 1)[1]: parameter for parameter in first.f_get_parameters().values()}
    points = [
        {
            name: plain(parameter.f_get_range()[run] if parameter.f_has_range() else parameter.f_get())
            for name, parameter in names.items()
        }
        for run in range(len(first))
    ]
    found = first.f_get_from_runs("z", fast_access=True, auto_load=True)
    explored = [name for name, parameter in names.items() if parameter.f_has_range()]
    return {"points": points, "explored": explored, "z": [plain(found[run]) for run in sorted(found)]}


def plain(value):
    return value.item() if hasattr(value, "item") else value


def answer(case):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        try:
            return merged(folder, case)
        except (TypeError, ValueError, RecursionError) as error:
            return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    print(json.dumps([answer(case) for case in json.load(sys.stdin)]))
