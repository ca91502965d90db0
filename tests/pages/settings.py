"""What stands in a page's folder before its first block: the pages speak of campaigns that somebody has run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

import staffa
from pages.blocks import ROOT

HERE = Path(__file__).parent / "setting"
BARE = ("README.md", "docs/tutorial.md", "docs/own-model.md", "docs/trial-fails.md", "docs/from-pypet.md")
BARE += ("docs/from-dask-jobqueue.md", "docs/from-submitit.md", "docs/samplers.md", "docs/search.md")
"""Pages that show everything they use."""

RUNS = "runs/v1.0_walk"
WORDS = {
    "RUN": RUNS,
    "TRIAL": "0",
    "CAMPAIGN": "campaign.yaml",
    "DEST": "../copy",
    "NAME": "smoke",
    "A": RUNS,
    "B": "runs/v1.1_walk",
}
"""What words in capitals stand for."""


def finished(folder: Path) -> Path:
    """A folder with two campaigns that have been run and sealed, the second from another seed."""
    shutil.copytree(HERE, folder)
    for version, seed in (("v1.0", 0), ("v1.1", 1)):
        staffa.run(
            folder / "campaign.yaml",
            set=[f"campaign.version={version}", f"seeds.global_seed={seed}", f"storage.root={folder / 'runs'}"],
            progress=False,
        )
    return folder


PEPTIDE = "MSKGEELFTGVV"
"""Stands for the README's protein."""

SMC = {
    "campaign": {"name": "smc"},
    "experiment": {
        "use": "smc",
        "population": 4,
        "target": {"use": "nk", "length": 6, "k": 1, "alphabet": "nucleotide"},
    },
    "sampling": {"draws": 3},
}
"""A population whose lineages are looked at."""


def laid_out(page: str, folder: Path, finished: Callable[[], Path]) -> dict[str, Any]:
    """Make the page's folder and go there; what its Python begins with."""
    if page in BARE:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(finished(), folder)
    os.chdir(folder)
    if page == "README.md":
        backbone = Path(find_spec("pyjess").origin).parent / "tests" / "data" / "pdb1lnb.pdb"
        atoms = [line for line in backbone.read_text().splitlines() if line.startswith("ATOM")]
        first = [line for line in atoms if int(line[22:26]) <= len(PEPTIDE)]
        Path("model.pdb").write_text("\n".join([*first, "END", ""]))
        Path("gfp.fasta").write_text(f">as long as the backbone\n{PEPTIDE}\n")
    if page == "docs/watching.md":
        shutil.copytree(ROOT / "workflows" / "protein", "workflows/protein", ignore=shutil.ignore_patterns("runs"))
        shutil.copy("workflows/protein/mlflow_tracker.py", folder)
    if page == "docs/samplers.md":
        Path("smc.yaml").write_text(yaml.safe_dump(SMC))
        return {"run": staffa.run("smc.yaml", progress=False)}
    return {}
