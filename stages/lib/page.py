"""Pages for people from the Jinja templates in stages/page/."""

from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parents[1] / "page"


def render(template: str, **values) -> str:
    """A page, all text escaped in HTML: names of clips are the user's. A value that the template needs must be given."""
    loader, escape = jinja2.FileSystemLoader(TEMPLATES), jinja2.select_autoescape(["html.j2"])
    pages = jinja2.Environment(loader=loader, autoescape=escape, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return pages.get_template(template).render(values)
