"""What a campaign file names: `metric: {use: parts.py:ResidualCorrelation, kernel: {use: parts.py:Matern52}}`.

Where the package is installed (`pip install workflows/neighbours`) plug-ins have names: `metric: {use: euclidean}`.
"""

from covertree import Blocks, Brute, Dense, Euclidean, Hanging, Levels, Matern52, Preorder, Rbf, ResidualCorrelation

__all__ = [
    "Blocks",
    "Brute",
    "Dense",
    "Euclidean",
    "Hanging",
    "Levels",
    "Matern52",
    "Preorder",
    "Rbf",
    "ResidualCorrelation",
]
