"""What a campaign file names under `reduce:`, as `use: mocks/reducers.py:Joint`."""

from mocks.correlation import Correlation, Joint
from mocks.planes import Plane
from mocks.recalibration import Recalibration
from mocks.references import Published, Table
from mocks.selection import NumberDensity, Threshold

__all__ = [
    "Correlation",
    "Joint",
    "NumberDensity",
    "Plane",
    "Published",
    "Recalibration",
    "Table",
    "Threshold",
]
