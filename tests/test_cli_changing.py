"""Words of the command line that change what a campaign is to do, without a live driver."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from staffa import api
from staffa.cli import main
from staffa.storage.workspace import Workspace


@pytest.fixture
def copy(mixed: Any, tmp_path: Path) -> Path:
    root = tmp_path / "run"
    shutil.copytree(mixed.root, root)
    return root


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The exit code of a command, what it wrote and what it complained."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        seen = capsys.readouterr()
        assert "Traceback" not in seen.err
        return code, seen.out, seen.err

    return call


def failed(root: Path) -> list[str]:
    table = api.attach(root).query("select trial from failed order by trial")
    return [str(trial) for trial in table["trial"]]


def test_retry_and_cancel_by_name_and_by_condition(copy: Path, said: Any) -> None:
    lost = failed(copy)
    assert len(lost) > 1
    told = json.loads(said("retry", str(copy), lost[0], "--json")[1])
    assert told["trials"] == 1 and told["next"] == f"staffa resume {copy}"
    code, out, _ = said("cancel", str(copy), lost[0], "--why", "never again")
    assert code == 0 and "cancelled 1 trial" in out
    assert "never again" in said("explain", str(copy), lost[0])[1]
    told = json.loads(said("cancel", str(copy), "--where", "outcome = 'ok'", "--json")[1])
    assert told["trials"] == 0 and told["kept"] > 0, "what has data keeps it"
    assert json.loads(said("retry", str(copy), "--where", "outcome = 'cancelled'", "--json")[1])["trials"] == 1
    rest = json.loads(said("cancel", str(copy), "--all", "--json")[1])
    assert rest["trials"] == len(lost)
    assert api.status(copy)["figures"]["outcomes"]["cancelled"] == len(lost)


def test_the_same_by_the_number_of_a_trial(copy: Path, said: Any) -> None:
    lost = failed(copy)
    facts = json.loads(said("explain", str(copy), lost[0], "--json")[1])
    assert json.loads(said("retry", str(copy), str(facts["index"]), "--json")[1])["trials"] == 1
    assert json.loads(said("retry", str(copy), lost[1][:12], "--json")[1])["trials"] == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["cancel"], "which trials?"),
        (["cancel", "3", "--all"], "which trials?"),
        (["retry", "3", "--quarantined"], "the same thing twice"),
        (["retry", "--where", "scal > 1"], "there is no parameter 'scal'"),
        (["retry", "--where", "scale > 1; drop table trials"], "--where"),
        (["cancel", "ffffffffff"], "names no trial"),
    ],
)
def test_what_makes_no_sense_is_refused(copy: Path, said: Any, words: list[str], complaint: str) -> None:
    before = sorted(copy.rglob("events-*.jsonl"))
    code, _, err = said(words[0], str(copy), *words[1:])
    assert code == 2 and complaint in err
    assert sorted(copy.rglob("events-*.jsonl")) == before, "nothing was written"


def test_verify_finds_damage_and_has_it_done_again(copy: Path, said: Any) -> None:
    code, out, _ = said("verify", str(copy), "--all")
    assert code == 0 and "everything that was read is what was written" in out
    shard = next(path for path in sorted(Workspace.open(copy).hot.rglob("x/c.*")) if path.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    code, out, _ = said("verify", str(copy), "--all")
    assert code == 1 and "NOT what was written" in out and "done again" in out and f"staffa resume {copy}" in out
    assert said("verify", str(copy), "--all")[0] == 0, "it is to be computed again, and says so"
    figures = api.status(copy)["figures"]
    assert figures["settled"] < figures["trials"]


def test_verify_finds_damage_in_the_archive(copy: Path, said: Any) -> None:
    part = next(path for path in sorted(copy.rglob("part-*.parquet")) if "draws" in str(path))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(bytes(data))
    told = json.loads(said("verify", str(copy), "--all", "--json")[1])
    assert not told["sound"] and next(iter(told["archive"]["damaged"].values()))[0].endswith(part.name)
