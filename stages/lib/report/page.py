"""Render the pages from the Jinja templates in stages/lib/report/page/."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).with_name("page")
SECTIONS = {  # of the page, in their order: stages/lib/report/page/sections/<name>.html.j2 and the title
    "run": "What was run",
    "scores": "Scores",
    "scanner": "How much of this is the scanner?",
    "segmentation": "Segmentation of lesions",
    "confusion": "Confusion matrices",
    "roc": "ROC curves",
    "patients": "Per patient",
    "pairs": "Pairs as the method saw them",
    "pretraining": "Pretraining",
    "features": "Features of held-out clips in two dimensions",
    "grad_cam": "Where the network looked",
    "us4": "Clips used and left out",
    "licences": "Data, licences and citations",
    "limits": "Limits",
}
NEEDED = {"segmentation": "segmented", "pairs": "pairs", "features": "feature_maps", "grad_cam": "explained"}


def render(template: str, **values) -> str:
    """A page. A value that the template uses but does not get is an error.

    Names of clips come from the user: HTML is escaped here, and a Markdown template (`.md.j2`) must use the filter `code`.
    """
    loader, escaping = jinja2.FileSystemLoader(TEMPLATES), jinja2.select_autoescape(["html.j2"])
    pages = jinja2.Environment(loader=loader, autoescape=escaping, undefined=jinja2.StrictUndefined, trim_blocks=True,
                               keep_trailing_newline=True)
    pages.filters |= {"linked": linked, "code": code}
    return pages.get_template(template).render(values)


def linked(citation: str) -> Markup:
    """A citation in HTML, with `arXiv 2011.13066` and `doi 10.3390/app11020672` as links."""
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(citation)))
    return Markup(re.sub(r"doi (10\.[^\s;,]*[^\s;,.])", r'<a href="https://doi.org/\1">doi \1</a>', text))


def code(name: str) -> str:
    """A name as inline code, which Markdown shows letter by letter, in tables too."""
    return "`" + re.sub(r"\s+", " ", str(name)).replace("`", "'").replace("|", "\\|") + "`"


def filled(values: dict) -> dict[str, str]:
    """The sections that have something to show: name → title.

    Args:
        values: what the templates get. NEEDED names the value without which a section is left out.
    """
    return {name: title for name, title in SECTIONS.items() if name not in NEEDED or values[NEEDED[name]]}
