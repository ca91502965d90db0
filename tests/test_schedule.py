"""Crontab lines: what they say, and whether cron could carry them out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import staffa
from staffa.api.scheduling import BARE, cron_fields
from staffa.cli import app
from staffa.errors import ConfigError

FOLDER = Path(__file__).parent / "views" / "mixed"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two campaigns, of which nothing is sealed; there is a blank and a percent sign in their path."""
    folder = tmp_path_factory.mktemp("schedule") / "100 % mixed"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return [
        staffa.run(
            folder / "campaign.yaml",
            set=[f"storage.root={folder / 'runs'}", "archive.every=off", f"campaign.version={version}"],
            progress=False,
        ).root
        for version in ("v1.0", "v2.0")
    ]


@pytest.mark.parametrize(
    ("every", "fields"),
    [
        ("30m", "*/30 * * * *"), ("15min", "*/15 * * * *"), ("6h", "17 */6 * * *"), ("1d", "17 3 * * *"),
        ("0 3 * * 1-5", "0 3 * * 1-5"), ("5,35 * * * mon", "5,35 * * * mon"),
    ],
)  # fmt: skip
def test_times(every: str, fields: str) -> None:
    assert cron_fields(every) == fields


@pytest.mark.parametrize("every", ["7m", "5h", "2d", "0m", "", "often", "* * * *", "* * * * * *", "1 2 3 4 $(x)"])
def test_times_that_no_crontab_can_say(every: str) -> None:
    with pytest.raises(ConfigError, match="nothing a crontab can say"):
        cron_fields(every)


def test_the_line_does_it(roots: list[Path]) -> None:
    """It is carried out as cron would: by `sh`, in another folder, with next to no environment."""
    facts = staffa.schedule(roots, "30m", prune=True)
    told = {check["what"]: check["sound"] for check in facts["checks"]}
    assert told["command"] and told["log"] and told["campaign v1.0_mixed"] and told["campaign v2.0_mixed"]
    (line,) = facts["lines"]
    assert line.startswith("*/30 * * * * ") and r"100 \%" in line
    command = line.split(" ", 5)[5].replace(r"\%", "%")
    home = {"HOME": str(Path.home()), "JAX_PLATFORMS": "cpu"}
    subprocess.run(["sh", "-c", command], cwd="/", env=BARE | home, check=True)
    for root in roots:
        results = staffa.attach(root).results
        assert results.sealed and len(results.draws) == 132
        assert not list((root / "hot").rglob("energy/c.*"))
    assert "16 of 16" in (roots[0] / "logs" / "consolidate.log").read_text()


def test_what_would_not_work_is_said(roots: list[Path], tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["schedule", str(roots[0]), str(tmp_path / "none"), "--json"])
    assert said.exit_code == 1
    facts = json.loads(said.stdout)
    bad = {check["what"]: check["why"] for check in facts["checks"] if not check["sound"]}
    assert "is not a campaign's folder" in bad["campaign none"]
    assert not staffa.schedule(roots, log=tmp_path / "nowhere" / "log")["sound"]


def test_for_slurm(roots: list[Path]) -> None:
    facts = staffa.schedule(roots[:1], "6h", scrontab=True)
    assert facts["install"] == "scrontab -e" and facts["lines"][-1].startswith("17 */6 * * * ")
    assert all(line.startswith("#SCRON --") for line in facts["lines"][:-1]) and len(facts["lines"]) == 4


def test_one_that_cannot_be_does_not_keep_the_others_waiting(roots: list[Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots[0], tmp_path / "copy"))
    shutil.rmtree(root / "archive")
    (root / "archive").mkdir()
    said = CliRunner().invoke(app, ["consolidate", str(tmp_path / "none"), str(root)])
    assert said.exit_code == 2 and "is not a campaign's folder" in said.output
