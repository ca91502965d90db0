"""Strategies by name: those of the plug-in families `metrics`, `traversals` and `conflicts`, and the tree's own."""

from __future__ import annotations

import importlib
from typing import Any

from staffa.errors import PluginError, near
from staffa.experiment import plugins

OWN = {
    "metrics": {"euclidean": "metrics:Euclidean", "residual_correlation": "metrics:ResidualCorrelation"},
    "traversals": {
        "blocks": "traversals:Blocks",
        "levels": "traversals:Levels",
        "preorder": "traversals:Preorder",
        "brute": "traversals:Brute",
    },
    "conflicts": {"hanging": "conflicts:Hanging", "dense": "conflicts:Dense"},
}
"""What comes with the tree, whether or not the package is installed."""


def part(family: str, given: Any) -> Any:
    """A strategy: an object as it is, a name as that plug-in made with no options.

    What is registered or installed stands before the tree's own. Raises `PluginError` with the near names.
    """
    if not isinstance(given, str):
        return given
    offered = {offer.name for offer in plugins.offers(family)}
    if given in offered:
        return plugins.load(family, given)()
    if given not in OWN[family]:
        raise PluginError(f"{family}: there is no {given!r}", near(given, offered | OWN[family].keys()))
    module, name = OWN[family][given].split(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)()
