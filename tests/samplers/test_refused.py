"""Bad input is refused when a campaign is planned: with its line, its field and its value, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import staffa

BITS = {"use": "nk", "length": 8, "states": 2}
ALPHA_CARBON = "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00  0.00           C\nEND\n"
TRACE = {"use": "mpnn", "structure": "trace.pdb"}
LETTERS = {"use": "nk", "alphabet": "protein", "sequence": "MKBL"}
APART = {"use": "weighted", "signs": {"use": "nk", "length": 9, "states": 3}, "cai": {"use": "cai", "length": 9}}
BACKBONE = r"structure: trace\.pdb: no residue has the backbone atoms N, CA, C, O"


def smc(**options: Any) -> dict[str, Any]:
    return {"use": "smc", "target": BITS, **options}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (smc(schedule={"use": "linear", "stop": 1.5}), r"experiment\.schedule\.stop: 1\.5 is not a number of 0 to 1"),
        (smc(schedule={"use": "static", "stop": -1}), r"experiment\.schedule\.stop: -1.* is not a number of 0 to 1"),
        (smc(target=TRACE), rf"experiment\.target\.{BACKBONE}"),
        (smc(target=LETTERS), r"experiment\.target\.sequence: 'B' at 3 is none of the letters"),
        (smc(population=0), r"experiment\.population: 0; it must be 1 or more"),
        (smc(target=APART), r"experiment\.target\.signs: Nk: an alphabet of ACGT cannot be mapped"),
        (smc(kernel={"use": "nuts"}), r"experiment\.kernel: NUTS moves positions"),
        ({"use": "nuts", "warmup": 9, "target": {"use": "normal"}}, r"experiment\.warmup: 9, but sampling\.warmup: 0"),
        ({"use": "gibbs", "target": {"use": "normal"}}, r"experiment\.target: Normal: .*Discrete"),
        ({"use": "hmc", "target": BITS}, r"experiment\.target: Nk"),
    ],
    ids=lambda given: given["use"] if isinstance(given, dict) else "",
)
def test_refused_at_plan(block: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "campaign.yaml"
    content = {"campaign": {"name": "bad"}, "experiment": block, "sampling": {"draws": 4}}
    file.write_text(yaml.safe_dump(content))
    (tmp_path / "trace.pdb").write_text(ALPHA_CARBON)
    with pytest.raises(staffa.StaffaError, match=rf"campaign\.yaml:\d+: {message}"):
        staffa.plan(file, set=[f"storage.root={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


def test_an_own_targets_mistake_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from staffa.samplers.target import Discrete\n"
        "class Mine(Discrete):\n"
        "    def __init__(self, length: int):\n"
        "        raise ValueError('length: too short')\n"
    )
    file = tmp_path / "campaign.yaml"
    block = {"use": "gibbs", "target": {"use": "model.py:Mine", "length": 3}}
    file.write_text(yaml.safe_dump({"campaign": {"name": "bad"}, "experiment": block, "sampling": {"draws": 4}}))
    with pytest.raises(staffa.PluginError, match=r"model\.py:4: in __init__: ValueError: length: too short"):
        staffa.plan(file)
