"""A compressed cover tree: nearest neighbours in any metric, with versions that share what they have in common."""

from .conflicts import Dense, Hanging
from .kernels import Matern52, Rbf
from .metrics import Euclidean, Fitted, Metric, ResidualCorrelation
from .traversals import Blocks, Brute, Levels, Preorder
from .tree import CoverTree, build, compact

__all__ = [
    "Blocks",
    "Brute",
    "CoverTree",
    "Dense",
    "Euclidean",
    "Fitted",
    "Hanging",
    "Levels",
    "Matern52",
    "Metric",
    "Preorder",
    "Rbf",
    "ResidualCorrelation",
    "build",
    "compact",
]
