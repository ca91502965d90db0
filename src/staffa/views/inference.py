"""Draws in the form that ArviZ takes: an xarray tree, without ArviZ itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

SAMPLE_STATS = {
    "acceptance": "acceptance_rate",
    "divergent": "diverging",
    "energy": "energy",
    "energy_error": "energy_error",
    "log_density": "lp",
    "num_integration_steps": "n_steps",
    "step_size": "step_size",
    "tree_depth": "tree_depth",
}
"""Outputs that tell of the sampler, and what ArviZ calls them (its InferenceData schema, 0.8)."""

DATA = (1, 2)
"""Codes of trials that have data: `Outcome.OK`, `Outcome.NAN`."""


def inference_data(outputs: xarray.Dataset) -> xarray.DataTree:
    """A tree of `posterior` and `sample_stats` with axes (chain, draw, [trial,] own).

    Only trials with data are in it; without a chain axis there is one chain. Outputs without a draw axis, and those
    that are no numbers, are left out.
    """
    import xarray

    found = outputs
    if "trial" in found.dims:
        found = found.isel(trial=found["status"].isin(DATA).values)
    if "chain" not in found.dims:
        found = found.expand_dims("chain", 0)
    numbers = [name for name in found.data_vars if found[name].dtype.kind in "fiub"]
    drawn = found[[name for name in numbers if "draw" in found[name].dims]]
    drawn = drawn.drop_vars([name for name in ("status", "seconds") if name in drawn.coords])
    for name in drawn.data_vars:
        if "chain" not in drawn[name].dims:
            drawn[name] = drawn[name].expand_dims(chain=found.sizes["chain"])
    drawn = drawn.transpose("chain", "draw", ...)
    stats = [name for name in drawn.data_vars if name in SAMPLE_STATS]
    return xarray.DataTree.from_dict(
        {
            "posterior": drawn.drop_vars(stats),
            "sample_stats": drawn[stats].rename({name: SAMPLE_STATS[str(name)] for name in stats}),
        }
    )
