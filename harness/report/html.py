"""Renders the report as one self-contained HTML file: it works offline, in light and dark and in print.

Plots are Vega-Lite, drawn by the page; `templates/` has what it looks like and does. Not covered: what the page says,
which is in `sections/`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import cache_root
from harness.report.chart_style import Spec, dark_rules
from harness.report.elements import Custom
from harness.report.format import wordy
from harness.report.sections import Part, parts_of
from harness.report.table import Report
from harness.store import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class PageSection:
    """A stretch of the page: a section of the whole report, or all sections of one block. `anchor` is its place in the
    page, `link` what the navigation calls it."""

    anchor: str
    title: str
    link: str
    parts: list[Part] = field(default_factory=list)


def environment() -> Environment:
    """Sets up Jinja over the templates of the report; an undefined name in a template is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["wordy"] = wordy
    jinja.filters["json"] = script_json
    return jinja


def render(report: Report) -> str:
    """Returns the HTML text of the report's page."""
    from markupsafe import Markup

    charts: dict[str, Spec] = {}
    jinja = environment()

    def keep(chart: Spec) -> str:
        """Puts a chart into the page; returns the name by which the page's script finds it."""
        name = f"c{len(charts)}"
        charts[name] = chart
        return name

    def custom(element: Custom) -> Markup:
        return Markup(jinja.get_template(element.template).render(**element.values))

    jinja.globals |= {"keep": keep, "custom": custom}
    body = jinja.get_template("sections.html.jinja").render(sections=(sections := page_sections(report)))
    return str(
        jinja.get_template("report.html.jinja").render(
            run=report.run,
            started=f"{report.run.started:%Y-%m-%d}",
            environment=report.run.environment,
            sections=sections,
            body=Markup(body),
            cells=report.cells,
            charts=charts,
            dark_rules={
                "system": Markup(dark_rules(':root:not([data-theme="light"]) ')),
                "chosen": Markup(dark_rules(':root[data-theme="dark"] ')),
            },
            vega=Markup(vega()),
            script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        )
    )


def page_sections(report: Report) -> list[PageSection]:
    """Returns the parts of the page: one for each section of the whole report, and one for all sections of a block."""
    several_models = len({block.model for block in report.blocks}) > 1
    sections: list[PageSection] = []
    for part in parts_of(report, "page"):
        section, block = part.section, part.subject.its_block
        if block is None:
            link = section.link or section.title
            sections.append(PageSection(section.name, section.title, link, [part]))
        elif sections and sections[-1].anchor == part.subject.anchor:
            sections[-1].parts.append(part)
        else:
            link = f"{block.task}, {block.model}" if several_models else block.task
            sections.append(PageSection(part.subject.anchor, f"{block.task}, {block.model}", link, [part]))
    return sections


def script_json(value: object) -> Markup:
    """Returns a value as JSON for a script element: nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def finite(value: object) -> object:
    """Prepares a value for JSON: numbers that are not finite become None (null)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def vega_kept_at() -> Path:
    """Returns the path in the cache at which `vega` keeps the script that belongs to the installed version of
    vl-convert."""
    from importlib.metadata import version

    return cache_root() / "page" / f"vega-{version('vl-convert-python')}.js"


def vega() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script, from vl-convert. Bundling them takes seconds, so the script
    is kept in the cache."""
    import vl_convert

    path = vega_kept_at()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")
    write_atomically(path, script)
    return script
