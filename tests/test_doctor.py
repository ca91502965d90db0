"""The doctor of this machine: each kind of failure is really there when it is found."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from staffa import doctor
from staffa.campaign.machine import ClusterConfig, shapes
from staffa.execution.slurm import findings
from staffa.execution.slurm.commands import Limits
from staffa.execution.slurm.probe import JAX_SECONDS, Talk, jax_facts, start_jax
from staffa.execution.slurm.probing import Sight
from staffa.views.checks import doctor_sheet
from staffa.views.sheet import plain

SLURM = {"kind": "slurm", "pools": {"cpu": {"workers": 2, "cores": 1}}}


def test_a_healthy_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("STAFFA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    checks = {check.what: check for check in doctor.examine(ClusterConfig(), tmp_path / "runs")}
    order = "Python, packages, imports, JAX, x64, threads, variables, storage.root, locks, room, quota, compile cache"
    assert list(checks) == [*order.split(", "), "telemetry", "plug-ins", "graphviz"]
    assert [name for name, check in checks.items() if check.result == "failed"] == []
    assert "jitted function runs" in checks["JAX"].found and "cpu" in checks["JAX"].found
    # Looking leaves nothing behind, not even the folder that campaigns will make.
    assert [path.name for path in tmp_path.rglob("*")] == ["cache"]


class TestPackages:
    def test_an_older_one(self, tmp_path, monkeypatch):
        installed(tmp_path, "duckdb", "0.1")
        monkeypatch.syspath_prepend(tmp_path)
        found = doctor.packages()
        assert found.result == "failed" and "duckdb 0.1 is here, staffa needs duckdb>=" in found.found
        assert found.mend.startswith(f"{sys.executable} -m pip install") and "'duckdb>=" in found.mend

    def test_neighbours_that_do_not_fit(self, tmp_path, monkeypatch):
        # JAX names the versions of jaxlib that go with it; Staffa does not.
        installed(tmp_path, "jaxlib", "0.4.1")
        monkeypatch.syspath_prepend(tmp_path)
        assert "jaxlib 0.4.1 is here, jax needs jaxlib" in doctor.packages().found

    def test_a_neighbour_that_needs_what_is_not_there(self, tmp_path, monkeypatch):
        installed(tmp_path, "tornado", "99.0", "Requires-Dist: not-there-at-all>=3")
        monkeypatch.syspath_prepend(tmp_path)
        assert "not-there-at-all is missing, tornado needs not-there-at-all>=3" in doctor.packages().found

    def test_one_that_breaks_at_import(self, tmp_path, monkeypatch):
        (tmp_path / "duckdb.py").write_text("raise OSError('libduckdb.so: undefined symbol')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        found = doctor.imports(doctor._importing())
        assert (found.result, found.found) == ("failed", "duckdb: OSError: libduckdb.so: undefined symbol")
        assert found.mend.endswith("--force-reinstall duckdb")

    def test_one_that_kills_the_process(self, tmp_path, monkeypatch):
        (tmp_path / "duckdb.py").write_text("import os; os.kill(os.getpid(), 11)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        found = doctor.imports(doctor._importing())
        assert found.result == "failed" and "code -11" in found.found


class TestJax:
    def test_a_platform_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("JAX_PLATFORMS", "cuda")
        found = doctor.devices(start_jax(os.environ))
        assert found.result == "failed" and "(JAX_PLATFORMS=cuda)" in found.found and "jax.devices()" in found.mend

    def test_a_process_that_dies(self, tmp_path):
        (tmp_path / "jax.py").write_text("import os; os.kill(os.getpid(), 11)")
        found = jax_facts(start_jax({**os.environ, "PYTHONPATH": str(tmp_path)}), JAX_SECONDS)
        assert found["devices"] == [] and "code -11" in found["error"]

    def test_one_that_hangs(self, tmp_path):
        (tmp_path / "jax.py").write_text("import time; time.sleep(600)")
        process = start_jax({**os.environ, "PYTHONPATH": str(tmp_path)})
        assert "hangs" in jax_facts(process, 1.0)["error"]
        assert process.poll() is not None


class TestStorage:
    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "runs").touch()
        found = doctor.folder(tmp_path / "runs")
        assert found.result == "failed" and f"{tmp_path}/runs is no folder" in found.found
        assert "--set storage.root=FOLDER" in found.mend

    def test_a_folder_nobody_writes_to(self):
        found = doctor.folder(Path("/proc/staffa/runs"))
        assert found.result == "failed" and "/proc cannot be written" in found.found

    def test_no_hard_links(self, tmp_path, monkeypatch):
        def refuse(self, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        found = doctor.folder(tmp_path)
        assert found.result == "failed" and "has no hard links (Operation not permitted)" in found.found
        assert not list(tmp_path.iterdir())

    def test_a_clock_of_its_own(self, tmp_path, monkeypatch):
        now = doctor.time.time
        monkeypatch.setattr(doctor.time, "time", lambda: now() + 90)
        found = doctor.folder(tmp_path)
        assert found.result == "warning" and "90 s behind this machine's" in found.found

    def test_little_room(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        # Only the namespace of the process sees the small disk.
        script = (
            f"mount -t tmpfs -o size=8m,nr_inodes=50 tmpfs {disk} && exec {sys.executable} -c "
            f'"from pathlib import Path; from staffa import doctor; print(doctor.room(Path({str(disk)!r})))"'
        )
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
        if "doctor" not in done.stdout and "Check" not in done.stdout:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()[-200:]}")
        assert "'failed'" in done.stdout and "49 inodes free" in done.stdout and "df -i" in done.stdout


class TestCompileCache:
    @pytest.mark.parametrize(("mode", "result"), [(0o777, "failed"), (0o755, "warning"), (0o700, "ok")])
    def test_modes(self, tmp_path, monkeypatch, mode, result):
        place = tmp_path / "cache"
        place.mkdir()
        place.chmod(mode)
        monkeypatch.setenv("STAFFA_CACHE", str(place))
        found = doctor.cache()
        assert (found.result, found.mend) == (result, "" if result == "ok" else f"chmod 700 {place}")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
    def test_somebody_elses(self, tmp_path, monkeypatch):
        os.chown(tmp_path, 4321, -1)
        monkeypatch.setenv("STAFFA_CACHE", str(tmp_path))
        assert doctor.cache().result == "failed" and "belongs to somebody else" in doctor.cache().found

    def test_where_nothing_can_be_written(self, monkeypatch):
        monkeypatch.setenv("STAFFA_CACHE", "/proc/staffa-cache")
        found = doctor.cache()
        assert found.result == "failed" and "export STAFFA_CACHE=FOLDER" in found.mend


def test_no_graphviz(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = doctor.graphviz()
    assert found.result == "warning" and "(dot)" in found.found and "apt install graphviz" in found.mend


class TestCluster:
    def test_not_on_a_slurm_host(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        facts = doctor.facts(doctor.examine(ClusterConfig.model_validate(SLURM), tmp_path))
        last = facts["checks"][-1]
        assert (last["where"], last["what"], last["result"]) == ("the cluster", "SLURM", "failed")
        assert last["found"] == "there is no `scontrol` on this machine"
        assert "login node" in last["mend"] and facts["exit_code"] == 3

    def test_an_interface_that_is_not_there(self):
        found = doctor.interface(ClusterConfig.model_validate({**SLURM, "interface": "hsn9"}))
        assert found.result == "failed" and "'hsn9'" in found.found and "lo" in found.mend

    def test_no_tls(self):
        found = doctor.security(ClusterConfig.model_validate({**SLURM, "insecure": True}))
        assert found.result == "warning" and "run code as you" in found.found

    def test_too_few_open_files(self):
        pools = {"cpu": {"workers": 10**9, "cores": 1}}
        found = doctor.open_files(ClusterConfig.model_validate({**SLURM, "pools": pools}))
        assert found.result == "warning" and "ulimit -n 4000000512" in found.mend

    def test_outside_of_an_allocation(self):
        assert doctor.allocation({}).result == "failed" and "salloc" in doctor.allocation({}).mend
        given = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
        assert doctor.allocation(given).result == "ok"


def test_settings_of_the_campaign_are_looked_at(tmp_path, monkeypatch):
    """What `execution` says reaches the checks; a folder that cannot hold campaigns spares what rests on it."""
    monkeypatch.setattr(doctor.surroundings, "cores", lambda: 2)
    monkeypatch.setattr(doctor.surroundings, "granted_cores", lambda: None)
    (tmp_path / "runs").touch()
    checks = {
        check.what: check
        for check in doctor.examine(ClusterConfig(), tmp_path / "runs", x64=True, telemetry=False, workers=50)
    }
    assert checks["x64"].found == "double precision computes; execution.x64: true"
    assert checks["threads"].result == "warning" and "50 workers are asked for" in checks["threads"].found
    assert checks["telemetry"].result == "warning"
    assert checks["storage.root"].result == "failed" and "locks" not in checks


@pytest.mark.parametrize(
    ("results", "code", "strict"),
    [(["ok"], 0, 0), (["ok", "warning"], 0, 1), (["warning", "failed"], 3, 3), ([], 0, 0)],
)
def test_exit_codes(results, code, strict):
    checks = [doctor.Check("here", "what", result, "found") for result in results]
    assert doctor.facts(checks)["exit_code"] == code
    assert doctor.facts(checks, fail_on_warning=True)["exit_code"] == strict


def test_the_sheet():
    failed = doctor.Check("pool gpu on n1", "clock", "failed", "40 s\noff", "chronyc tracking")
    facts = doctor.facts([doctor.Check("this machine", "Python", "ok", "3.11"), failed])
    assert facts["exit_code"] == 3 and json.loads(json.dumps(facts)) == facts
    lines = list(plain(doctor_sheet(facts)))
    assert lines[0] == "2 checks: 1 failed"
    assert lines[-2].split() == ["FAILED", "pool", "gpu", "on", "n1", "clock", "40", "s", "off"]
    assert lines[-1] == "mend: pool gpu on n1, clock: chronyc tracking"


class TestNodes:
    """Judgements on what a probe cannot see on every machine: `tests/slurm` has the probes themselves."""

    MACHINE = ClusterConfig.model_validate({"kind": "slurm", "pools": {"gpu": {"workers": 2, "gpus": 2}}})

    @pytest.mark.parametrize(
        ("given", "kinds", "result", "words"),
        [
            ("0,1", ["A100", "A100"], "ok", "JAX sees 2 x A100"),
            ("0,1", ["A100"], "failed", "but JAX sees 1 x A100"),
            ("0,1", [], "failed", "but JAX sees no GPU, only cpu"),
            ("1", ["A100"], "failed", "cluster.pools.gpu.gpus wants 2"),
            (None, [], "failed", "SLURM gave CUDA_VISIBLE_DEVICES=None"),
        ],
    )
    def test_devices(self, tmp_path, given, kinds, result, words):
        seen = [{"platform": "gpu", "kind": kind} for kind in kinds] or [{"platform": "cpu", "kind": "cpu"}]
        jax = {"devices": seen, "error": "", "jax": "0.10.2", "plugins": ["jax-cuda12-plugin 0.10.2"]}
        found = self.judged(findings.devices, tmp_path, given=given, jax=jax, platforms="")
        assert found.result == result and words in found.found

    @pytest.mark.parametrize(
        ("ahead", "result", "words"),
        [
            ((-0.1, 0.2), "ok", "0.1 s"),
            ((2.5, 2.7), "warning", "2.6 s ahead of"),
            ((-9.0, -3.0), "warning", "6.0 s behind this machine's (± 3.0 s)"),
            ((-1.0, 9.0), "ok", "± 5.0 s"),  # it need not be off
            ((-90.0, -80.0), "failed", "taken for dead"),
            ((-math.inf, 1.0), "warning", "not known"),
        ],
    )
    def test_clocks(self, tmp_path, ahead, result, words):
        found = self.judged(findings.clock, tmp_path, ahead=ahead)
        assert found.result == result and words in found.found

    def test_the_driver_is_not_heard(self, tmp_path):
        found = self.judged(findings.workspace, tmp_path, heard={"words": 0, "torn": 0, "behind": None}, links="")
        assert found.result == "failed" and "not seen on the node" in found.found

    def test_a_write_seen_half_done(self, tmp_path):
        one, two = Talk(tmp_path / "a", tmp_path / "b"), Talk(tmp_path / "b", tmp_path / "a")
        assert one.hear() is None and one.torn == 0  # nobody has said anything yet
        two.say({"node": "n1"})
        assert one.hear()["node"] == "n1"
        whole = (tmp_path / "b").read_bytes()
        (tmp_path / "b").write_bytes(whole[:4096])
        assert one.hear() is None and one.torn == 1
        (tmp_path / "b").unlink()
        assert one.hear() is None and one.torn == 2
        heard = {"words": 20, "torn": 0, "behind": 0.1}
        found = self.judged(findings.workspace, tmp_path, talk=one, heard=heard, links="")
        assert found.result == "failed" and "2 of 21 renames were seen half done" in found.found

    def judged(self, judge, folder, *, talk=None, ahead=(0.0, 0.0), **facts):
        sight = Sight(
            0, talk or Talk(folder / "own", folder / "other"), {"executable": "/python", **facts}, ahead=ahead
        )
        return judge("pool gpu on n1", sight, shapes(self.MACHINE)["gpu"], self.MACHINE)


def test_limits_on_jobs():
    machine = ClusterConfig.model_validate(SLURM)
    assert doctor.submissions(machine, Limits("24.05", 1001, None, False)).result == "ok"
    assert doctor.submissions(machine, Limits("24.05", 1001, 4, True)).result == "ok"
    found = doctor.submissions(machine, Limits("24.05", 100, 3, True))
    assert found.result == "warning" and "arrays of up to 100" in found.found
    assert "3 jobs queued at once (MaxSubmitJobs); 2 are wanted, and 2 for a driver" in found.found


def installed(folder, name, version, *lines):
    """A package that says it is here, in front of the one that is."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )
