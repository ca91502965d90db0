"""Distributions as an installer leaves them: a module, a `dist-info` folder, entry points."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, version: str, modules: dict[str, str], entries: str) -> None:
    """Put a distribution into a folder that stands on `sys.path`.

    Arguments:
    - `modules`: source by module name.
    - `entries`: the text of `entry_points.txt`.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entries)
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)
