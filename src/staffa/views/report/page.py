"""A report as one page of HTML that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from staffa.views.drawing.style import DARK, THEMED
from staffa.views.readings import utc
from staffa.views.report.content import Section
from staffa.views.report.verdict import MARKS, WORDS

TEMPLATE = "page.html"


def page(facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page of a report's facts and sections."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"utc": utc, "drawing": Markup}
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        sections=sections,
        marks=MARKS,
        words=WORDS,
        light={name: colour for colour, name in THEMED.items()},
        dark=DARK,
    )
