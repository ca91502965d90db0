"""What stands around a driver: each trouble is really there when it is found."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from experiment.distributions import install
from staffa.campaign.config import stray_variables
from staffa.execution import surroundings
from staffa.execution.surroundings import granted_cores, locks, mount_of, quota, threads

HERE = "here"
ROOM, INODES = (1 << 30, 10 << 30), (1_000, 100_000)


class TestPrecision:
    def test_double_precision_is_there(self):
        found = surroundings.x64(HERE, surroundings.start_x64(), True, {"JAX_ENABLE_X64": "true"})
        assert (found.result, found.found) == ("ok", "double precision computes; execution.x64: true")

    @pytest.mark.parametrize(("said", "wanted"), [("1", False), ("0", True)])
    def test_a_shell_that_contradicts_the_campaign(self, said, wanted):
        process = speaking('{"dtype": "float64", "exact": true}')
        found = surroundings.x64(HERE, process, wanted, {"JAX_ENABLE_X64": said})
        assert found.result == "warning" and f"JAX_ENABLE_X64={said} in this shell" in found.found
        assert "unset JAX_ENABLE_X64" in found.mend and f"execution.x64={str(not wanted).lower()}" in found.mend

    @pytest.mark.parametrize(("wanted", "result"), [(True, "failed"), (False, "warning")])
    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ('print(\'{"dtype": "float32", "exact": false}\')', "computes in float32"),
            ("import os; os.kill(os.getpid(), 11)", "code -11"),
            ("raise OSError('no driver')", "OSError: no driver"),
        ],
    )
    def test_a_device_without(self, wanted, result, script, words):
        found = surroundings.x64(HERE, running(script), wanted, {})
        assert found.result == result and words in found.found and found.mend


class TestThreads:
    def test_nothing_said(self):
        assert threads(HERE, {}, 4).result == "ok" and threads(HERE, {"OMP_NUM_THREADS": "4"}, 4).result == "ok"

    @pytest.mark.parametrize(
        ("environ", "words", "mend"),
        [
            ({"OMP_NUM_THREADS": "64"}, "OMP_NUM_THREADS=64, and this process may use 4 cores", "OMP_NUM_THREADS=4"),
            ({"MKL_NUM_THREADS": "many"}, "MKL_NUM_THREADS=many is no number", "unset MKL_NUM_THREADS"),
            ({"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS=0 is no number", "unset OMP_NUM_THREADS"),
            ({"OMP_NUM_THREADS": "8,2"}, "OMP_NUM_THREADS=8,2, and", "export OMP_NUM_THREADS=4"),
            ({"NPROC": "9"}, "NPROC=9, and", "export NPROC=4"),
            (
                {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"},
                "OMP_NUM_THREADS=1, MKL_NUM_THREADS=4 contradict each other",
                "unset OMP_NUM_THREADS MKL_NUM_THREADS",
            ),
            (
                {"XLA_FLAGS": "--xla_dump_to=x --xla_cpu_multi_thread_eigen=true"},
                "every worker would use all cores",
                "unset XLA_FLAGS",
            ),
            ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, "so many devices", "unset XLA_FLAGS"),
            ({"XLA_FLAGS": "intra_op_parallelism_threads=8"}, "so many threads", "unset XLA_FLAGS"),
        ],
    )
    def test_conflicts(self, environ, words, mend):
        found = threads(HERE, environ, 4)
        assert found.result == "warning" and words in found.found and mend in found.mend

    def test_flags_that_do_no_harm(self):
        flags = "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=1 --xla_dump_to=x"
        assert threads(HERE, {"XLA_FLAGS": flags}, 4).result == "ok"

    def test_more_workers_than_cores(self):
        found = threads(HERE, {}, 4, None, 16)
        assert "16 workers are asked for, and there are 4 cores" in found.found
        assert found.mend == "--set cluster.workers=4"

    def test_a_container_that_grants_less_than_it_shows(self, tmp_path):
        (tmp_path / "cpu.max").write_text("150000 100000\n")
        granted = granted_cores(tmp_path)
        found = threads(HERE, {}, 64, granted)
        assert granted == 1.5 and found.mend == "--set cluster.workers=1"
        assert "there would be 64 workers, one a core, and there are 1.5 cores granted of 64 seen" in found.found
        assert threads(HERE, {}, 64, granted, 1).result == "ok"

    def test_groups_without_a_limit(self, tmp_path):
        assert granted_cores(tmp_path) is None
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
        assert granted_cores(tmp_path) is None
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
        assert granted_cores(tmp_path) == 2.0
        (tmp_path / "cpu.max").write_text("max 100000\n")
        assert granted_cores(tmp_path) is None


class TestVariables:
    def test_one_that_goes_unheard(self):
        strays = stray_variables({"STAFFA_EXECUTON__WINDOW": "3", "STAFFA_CACHE": "x"})
        found = surroundings.variables(HERE, strays)
        assert found.result == "warning" and "STAFFA_EXECUTON__WINDOW: no such section" in found.found
        assert found.mend == "unset STAFFA_EXECUTON__WINDOW"
        assert surroundings.variables(HERE, []).result == "ok"

    def test_telemetry(self):
        assert surroundings.telemetry(HERE, True).result == "ok"
        found = surroundings.telemetry(HERE, False)
        assert found.result == "warning" and found.mend == "--set execution.telemetry=true"


class TestPlugins:
    @pytest.fixture
    def site(self, tmp_path, monkeypatch):
        own = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), own])))
        return tmp_path

    def test_one_that_does_not_load(self, site):
        install(site, "sad", "0.1", {"sad_plugin": "1 / 0"}, "[staffa.metrics]\nsad = sad_plugin:x\n")
        found = surroundings.plugins_check(HERE, surroundings.start_plugins())
        assert found.result == "warning" and "metrics 'sad' of sad 0.1 (sad_plugin:x): ZeroDivisionError" in found.found
        assert found.mend.endswith("-m pip uninstall sad")

    def test_one_that_takes_the_process_along(self, site):
        kills = {"kills_plugin": "import os; os.kill(os.getpid(), 11)"}
        install(site, "kills", "0.1", kills, "[staffa.metrics]\nkills = kills_plugin:x\n")
        found = surroundings.plugins_check(HERE, surroundings.start_plugins())
        assert found.result == "failed" and "code -11" in found.found

    def test_one_that_hangs(self, site, monkeypatch):
        hangs = {"hangs_plugin": "import time; time.sleep(600)"}
        install(site, "hangs", "0.1", hangs, "[staffa.metrics]\nhangs = hangs_plugin:x\n")
        monkeypatch.setattr(surroundings, "SECONDS", 3.0)
        process = surroundings.start_plugins()
        found = surroundings.plugins_check(HERE, process)
        assert found.result == "failed" and "nothing is heard" in found.found and process.poll() is not None

    def test_sound_ones(self, site):
        install(site, "fine", "0.1", {"fine_plugin": "def x(): ..."}, "[staffa.metrics]\nx = fine_plugin:x\n")
        found = surroundings.plugins_check(HERE, surroundings.start_plugins())
        assert found.result == "ok" and found.found.endswith("offered by installed packages, all can be used")

    def test_a_kind_of_cluster(self):
        found = surroundings.cluster_plugin(HERE, "nimbus")
        assert found.result == "failed" and "no plug-in 'nimbus' in clusters" in found.found


class TestLocks:
    def test_one_driver_keeps_another_out(self, tmp_path):
        assert locks(HERE, tmp_path).result == "ok" and list(tmp_path.iterdir()) == []

    def test_a_place_where_two_get_in(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "hardlink_to", lambda self, target: self.write_bytes(target.read_bytes()))
        monkeypatch.setattr("staffa.storage.lease.Holder.alive", lambda self, clock=None: False)
        found = locks(HERE, tmp_path)
        assert (found.result, found.found) == ("failed", "two drivers get one lease")

    def test_no_hard_links(self, tmp_path, monkeypatch):
        def refuse(self, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        found = locks(HERE, tmp_path)
        assert found.result == "failed" and "no hard links" in found.found and "storage.root" in found.mend


class TestQuota:
    @pytest.fixture
    def programs(self, tmp_path, monkeypatch):
        """Writes programs that say what they are told to, and nothing else is on the path."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))

        def write(name: str, text: str, code: int = 0) -> None:
            path = folder / name
            path.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write({text!r})\nsys.exit({code})\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

        return write

    @pytest.fixture
    def mounted(self, monkeypatch):
        monkeypatch.setattr(surroundings, "mount_of", lambda place: ("/dev/home", Path("/home")))

    HEAD = (
        "Disk quotas for user alice (uid 1000): \n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
    )

    @pytest.mark.parametrize(
        ("row", "result", "words"),
        [
            ("/dev/home 1048576 0 0 0 10 0 0 0", "ok", "1.0 GiB used on /home, without limit, any number of files"),
            ("/dev/home 0 104857600 0 0 10 0 1000000 0", "ok", "100.0 GiB left, 999,990 files left"),
            ("/dev/home 0 5242880 9999999 0 10 0 0 0", "warning", "5.0 GiB left"),
            ("/dev/home 1000* 1000 2000 1700000000 10 0 0 0", "failed", "0.0 GiB left"),
            ("/dev/home 0 0 0 0 990 1000 2000 0", "failed", "10 files left"),
            ("/dev/other 999* 999 999 0 990 1000 2000 0", "ok", "none is known on /home"),
            ("/dev/home none", "ok", "none is known"),
        ],
    )
    def test_what_quota_says(self, programs, mounted, tmp_path, row, result, words):
        programs("quota", f"{self.HEAD}{row}\n", code=1 if "*" in row else 0)
        found = quota(HERE, tmp_path, (ROOM[0], INODES[0]), (ROOM[1], INODES[1]))
        assert found.result == result and words in found.found and bool(found.mend) == (result != "ok")

    def test_what_lustre_says(self, programs, mounted, tmp_path):
        programs("lfs", "/home 1048576 2097152 3145728 - 10 0 0 -\n")
        programs("quota", "/dev/home 0 0 0 0 0 0 0 0\n")
        found = quota(HERE, tmp_path, (ROOM[0], INODES[0]), (ROOM[1], INODES[1]))
        assert found.result == "warning" and "1.0 GiB used on /home, 1.0 GiB left" in found.found

    def test_no_program_says_anything(self, programs, tmp_path):
        assert quota(HERE, tmp_path, (1, 1), (2, 2)).result == "ok"
        programs("quota", "quota: no filesystem with quota detected\n", code=1)
        assert quota(HERE, tmp_path, (1, 1), (2, 2)).result == "ok"

    def test_mounts(self, tmp_path):
        place = tmp_path / "my runs" / "deep"
        place.mkdir(parents=True)
        mounts = tmp_path / "mounts"
        name = str(tmp_path / "my runs").replace(" ", "\\040")
        mounts.write_text(f"rootfs / ext4 rw 0 0\nserver:/runs {name} nfs rw 0 0\n/dev/x /other ext4 rw 0 0\n")
        assert mount_of(place, mounts) == ("server:/runs", tmp_path / "my runs")
        assert mount_of(tmp_path, mounts) == ("rootfs", Path("/"))


def running(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def speaking(text: str) -> subprocess.Popen[bytes]:
    return running(f"print({text!r})")
