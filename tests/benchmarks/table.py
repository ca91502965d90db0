"""`make bench`: one table, all rows measured in one run, interleaved, medians.

Every ratio compares things measured side by side: this machine's own speed drifts by a third.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRIALS = 40960


def script(name: str, *arguments: object) -> dict:
    """Run a benchmark script in a process of its own and read the JSON it prints last."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds(command: list[str], times: int = 5) -> float:
    """Median wall time of a command."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def middle(rows: list[dict], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def throughput(rounds: int, trials: int) -> tuple[list[tuple[str, str, str]], dict]:
    """Trials per second: raw limit, Staffa, joblib, naive Dask; interleaved."""
    raw: dict[int, list[dict]] = {64: [], 256: [], 1024: []}
    ours: dict[str, list[dict]] = {"auto": [], "256": []}
    others: dict[str, list[dict]] = {"joblib_npz.py": [], "naive.py": []}
    for turn in range(rounds):
        for batch, rows in raw.items():
            rows.append(script("raw.py", "--trials", trials, "--batch", batch))
            if batch == 64:
                ours["auto"].append(script("engine.py", "--trials", trials))
            if batch == 256 and turn % 2 == 0:
                ours["256"].append(script("engine.py", "--trials", trials, "--batch", 256))
        if turn < 3:
            others["joblib_npz.py"].append(script("joblib_npz.py", "--trials", 8192))
            others["naive.py"].append(script("naive.py", "--trials", 1024))
    speed = {batch: middle(rows, "trials_per_second") for batch, rows in raw.items()}
    best = max(speed.values())
    own = middle(ours["auto"], "trials_per_second")
    small = middle(ours["256"], "trials_per_second")
    joblib = middle(others["joblib_npz.py"], "trials_per_second")
    naive = middle(others["naive.py"], "trials_per_second")
    kinds = {
        kind: statistics.median(row["cpu_ms"].get(kind, 0.0) for row in ours["auto"])
        for kind in ("driver", "worker", "disk", "write", "commit", "device")
    }
    split = ", ".join(f"{kind} {value:.4f}" for kind, value in kinds.items())
    rows = [
        *((f"raw two-process limit, batch {b}", f"{v:,.0f} trials/s", "") for b, v in speed.items()),
        ("Staffa, auto batch, all stored, synced, recorded", f"{own:,.0f} trials/s", ""),
        ("Staffa, batch 256", f"{small:,.0f} trials/s", ""),
        ("joblib + npz", f"{joblib:,.0f} trials/s", ""),
        ("naive Dask + one Zarr store a trial", f"{naive:,.0f} trials/s", ""),
        ("Staffa / raw limit at its best", f"{own / best:.3f}", "0.90"),
        ("Staffa / naive Dask + Zarr", f"{own / naive:.0f}", "60"),
        ("Staffa / joblib + npz", f"{own / joblib:.1f}", "4"),
        ("time from the command to the first commit", f"{middle(ours['auto'], 'first_commit'):.1f} s", ""),
        ("CPU outside initialize and sample", f"{middle(ours['auto'], 'outside_ms'):.4f} core-ms/trial", "0.06"),
        ("… by kind (of which device: inside)", split, ""),
        ("… at batch 256", f"{middle(ours['256'], 'outside_ms'):.4f} core-ms/trial", ""),
        ("inodes per 1,000 trials, walk", f"{middle(ours['auto'], 'inodes_per_1000'):.1f}", "20"),
        ("compiles per program and process, all runs", str([row["compiles"] for row in ours["auto"]][-1]), "0 cached"),
    ]
    return rows, {"raw": raw, "ours": ours, "others": others}


def planning() -> list[tuple[str, str, str]]:
    rows = []
    for trials, limit in ((100_000, "3 s, 600 MB"), (1_000_000, "40 s")):
        found = script("planning.py", "--trials", trials)
        rows.append((f"plan {trials:,} trials", f"{found['seconds']:.2f} s, {found['rss_mb']:.0f} MB", limit))
    return rows


def looking() -> list[tuple[str, str, str]]:
    """Resume scan and status of 100,000 trials, `--help`, inodes of a plain Python campaign."""
    found = script("looking.py")
    staffa = str(Path(sys.executable).with_name("staffa"))
    return [
        ("resume scan, 100,000 trials", f"{found['scan']:.3f} s", "1 s"),
        ("status, 100,000 trials (whole command)", f"{found['status']:.2f} s", "1 s"),
        ("inodes per 1,000 trials, vectorize: off", f"{found['inodes_per_1000_off']:.1f}", "20"),
        ("staffa --help", f"{seconds([staffa, '--help']):.2f} s", "0.3 s"),
    ]


def managing() -> list[tuple[str, str, str]]:
    """Expanding 100,000 trials by 1,000; 100,000 trivial trials against 10,000."""
    grown, large = script("growing.py"), script("hundred_thousand.py")
    untouched = "old files untouched" if grown["untouched"] else "OLD FILES CHANGED"
    return [
        ("expand 100,000 trials by 1,000 (whole command)", f"{grown['seconds']:.2f} s, {untouched}", "5 s, untouched"),
        ("a trial of 100,000 / a trial of 10,000", f"{large['cost_ratio']:.2f}", "1.10 at most"),
        ("driver's memory, 100,000 trials", f"{large['driver_mb_at_most']:.0f} MB", "700 MB"),
        ("status during that run, longest", f"{large['status']['longest']:.2f} s", "1 s"),
    ]


def cooling(rounds: int, trials: int) -> list[tuple[str, str, str]]:
    """Consolidation against a plain pyarrow write."""
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:
        script("engine.py", "--trials", trials, "--keep", folder)
        rows = [script("cooling.py", f"{folder}/v1.0_walk", "--folder", folder, "--times", 1) for _ in range(rounds)]
    plain, ours = middle(rows, "plain"), middle(rows, "ours")
    return [("consolidation / plain pyarrow write", f"{plain / ours:.2f} ({ours:.2f} s / {plain:.2f} s)", "0.7")]


def ensembles() -> list[tuple[str, str, str]]:
    """A reducer that comes late, over a sealed archive, against a plain read of its column."""
    found = script("ensemble.py")
    own, limit = found["megabytes_per_second"]["ours"], found["megabytes_per_second"]["plain"]
    told = f"{found['ratio']:.2f} ({own:.0f} / {limit:.0f} MB/s)"
    return [
        ("late reducer over an archive / plain pyarrow read of its column", told, "0.5"),
        (f"… whole command, {found['rows']:,} trials", f"{found['command']:.1f} s", ""),
    ]


def slurm() -> list[tuple[str, str, str]]:
    """From `staffa run` to the first sample on an idle SLURM, against a plain array; empty without SLURM."""
    found = script("startup.py")
    if "skipped" in found:
        return [("run to first sample on SLURM", f"not measured: {found['skipped']}", "3 s behind")]
    seconds = f"{found['behind']:.1f} s ({found['ours']:.1f} s / {found['plain']:.1f} s)"
    return [("run to first sample on SLURM, behind a plain array", seconds, "3 s")]


def sampling() -> list[tuple[str, str, str]]:
    """Each sampler against its own raw loop, and NUTS against plain blackjax."""
    rows = [
        (f"{found['sampler']} / its raw loop", f"{found['ratio']:.2f} ({found['ours']:,.0f} trials/s)", "0.9")
        for found in script("samplers.py")
    ]
    found = script("samplers_nuts.py")
    return [*rows, ("NUTS: effective samples per second / plain blackjax", f"{found['ratio']:.3f}", "0.95")]


def reading() -> list[tuple[str, str, str]]:
    """One trial of 100,000 in a pruned archive, and an average over 4 million rows."""
    found = script("reading.py")
    one, mean = found["one"], found["average"]
    return [
        ("open an archive of 100,000, read one trial", f"{one['milliseconds']:.0f} ms", "150 ms"),
        ("… bytes read", f"{one['megabytes']:.2f} MB", "2 MB"),
        ("average by two parameters, 4 M rows / DuckDB on one flat file", f"{mean['ratio']:.2f}", "1.3 at most"),
    ]


def page() -> list[tuple[str, str, str]]:
    """The Campaign page, with one browser open."""
    found = script("page.py")
    if "skipped" in found:
        return [("Campaign page", f"not measured: {found['skipped']}", "20 ms")]
    wide, run = found["wide"], found["run"]
    every = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in wide["scheduler_ms"].items())
    return [
        ("Campaign page, 100,000 trials, 500 workers: scheduler time a second", f"{wide['page_ms']:.1f} ms", "20 ms"),
        ("… CPU of that scheduler, ms a second", every, ""),
        ("… CPU seconds of the page / of a run of 100,000 trials", f"{100 * run['share']:.2f} %", "2 %"),
    ]


def reporting() -> list[tuple[str, str, str]]:
    """The report of 100,000 trials in a pruned archive."""
    found = script("reporting.py")
    told = f"{found['seconds']:.1f} s, {found['megabytes']:.2f} MB"
    return [("report of 100,000 trials (whole command)", told, "20 s, 10 MB")]


def beside() -> list[tuple[str, str, str]]:
    """Sealing while trials of 5 ms run."""
    found = script("beside.py")
    sealed = f"{100 * found['sealed']:.0f} % sealed by the last commit"
    return [
        ("sealing slows a run (5 ms a trial) by", f"{100 * found['slower']:.1f} % ({sealed})", "5 %"),
        ("… beyond the CPU seconds of sealing", f"{100 * found['beyond']:.1f} %", "2 %"),
    ]


def merging() -> list[tuple[str, str, str]]:
    """Two campaigns of 50,000 trials as one, and storing 2,000 results against pypet."""
    found, stored = script("merging.py"), script("pypet_store.py")
    seconds = f"{found['seconds']:.1f} s, {found['megabytes']:.0f} MB"
    rows = [
        ("merge of two 50,000-trial campaigns", seconds, "20 s"),
        ("… memory / that of two of 5,000", f"{found['growth']:.2f}", "flat"),
    ]
    if "skipped" in stored:
        return [*rows, ("storing 2,000 results / pypet", f"not measured: {stored['skipped']}", "30")]
    ratio = f"{stored['ratio']:.0f} ({stored['ours']:,.0f} / {stored['pypet']:.0f} a second)"
    return [*rows, ("storing 2,000 results / pypet", ratio, "30")]


def searching() -> list[tuple[str, str, str]]:
    """Our own search against TPE, at equal trials."""
    rows = []
    for name, found in script("searching.py", "--seeds", 5, "--against", "sobol", "tpe").items():
        own, tpe, sobol = (found[way]["median"] for way in ("explore", "tpe", "sobol"))
        what, limit = ("regret", "1.1 tpe + 1e-3") if name != "zdt1" else ("hypervolume", "0.95 tpe")
        rows.append((f"search, {name}: median {what}, 5 seeds", f"{own:.3g} (tpe {tpe:.3g}, sobol {sobol:.3g})", limit))
    served, resumed = script("search_serving.py"), script("search_resume.py")
    dask = script("search_engine.py")
    return [
        *rows,
        ("ask + tell over REST, at 10,000 trials", f"{served['latency']['ask_tell_median_ms']:.1f} ms", "10 ms"),
        ("64 REST threads, idle between trials of 1 s", f"{served['one_worker']['idle_percent']:.3f} %", "3 %"),
        ("8 Dask workers, idle", f"{100 * dask['idle']:.2f} %", "3 %"),
        ("a served search of 100,000, first answer", f"{served['resume']['resume_seconds']:.1f} s", "3 s"),
        ("a driver takes up a search of 100,000", f"{resumed['resume_seconds']:.1f} s", "3 s"),
    ]


def neighbours() -> list[tuple[str, str, str]]:
    """1,000 queries of 20,000 points in 3 to 6 dimensions, k = 10: cover tree against other searches, CPU time."""
    found = script("neighbours.py", "--points", 20_000, "--dimensions", 3, 4, 5, 6)["rows"]

    def ratios(name: str) -> str:
        return ", ".join(f"{row[name]:.2f}" for row in found)

    return [
        ("cover tree / BallTree, 20,000 points, 3, 4, 5, 6 dimensions", ratios("over_ball_tree"), "5 at most"),
        ("… / all distances by the tree's own programs", ratios("over_all_distances"), "1 at most"),
        ("… / scikit-learn's brute force (a matrix product)", ratios("over_brute"), "1 at most"),
    ]


def mocks() -> list[tuple[str, str, str]]:
    """40,000 galaxy mocks of workflows/mocks with one command: planned, run, sealed, reduced, recalibrated."""
    found = script("mocks.py")
    each = f"{found['halos_each']:,.0f} halos, {found['galaxies_each']:,.0f} galaxies each"
    told = f"{found['seconds'] / 60:.1f} min; {each}"
    memory = (found[who]["tenths_mb"] for who in ("driver", "largest_worker"))
    courses = "; ".join(f"{own[0]:,} to {own[-1]:,} MB" for own in memory)
    return [
        (f"{found['mocks']:,} mocks, one command", told, "1,000 halos, 500 galaxies"),
        ("… memory of driver; of the largest worker, first to last tenth", courses, "flat"),
        ("… hot; archive", f"{found['hot_gb']:.1f} GB; {found['archive_gb']:.1f} GB", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS)
    given = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    rows, details = throughput(given.rounds, given.trials)
    rows += cooling(min(given.rounds, 3), given.trials)
    rows += ensembles()
    rows += planning()
    rows += looking()
    rows += managing()
    rows += reading()
    rows += page()
    rows += reporting()
    rows += beside()
    rows += merging()
    rows += slurm()
    rows += sampling()
    rows += searching()
    rows += neighbours()
    rows += mocks()
    width = max(len(name) for name, _, _ in rows)
    print(f"{'figure':{width}}  {'measured':32}  must reach")
    for name, value, limit in rows:
        print(f"{name:{width}}  {value:32}  {limit}")
    (ROOT / "bench-details.json").write_text(json.dumps(details, indent=1))


if __name__ == "__main__":
    main()
