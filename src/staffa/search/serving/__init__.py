"""A search served over HTTP: `open_study`, then `serve`."""

from staffa.search.serving.opening import open_study
from staffa.search.serving.server import serve

__all__ = ["open_study", "serve"]
