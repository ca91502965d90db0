"""The pages as a site: `make docs`. Warnings are errors; nothing is fetched, neither by the build nor by a reader."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Staffa"
version = release = importlib.metadata.version("staffa")
extensions = ["myst_parser", "weaving"]
exclude_patterns = ["weaving"]
nitpicky = True

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

html_theme = "furo"
html_title = "Staffa"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"
highlight_language = "text"
