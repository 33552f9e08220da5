"""HTML of a page in one file that loads nothing: template, style and scripts lie inside."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup

_FOLDER = Path(__file__).parent
_TEMPLATE, _STYLE, _SCRIPT = "page.html.jinja", "page.css", "page.js"


def render(heading: dict, sections: Sequence[dict]) -> str:
    """Returns the page.

    Args:
      heading: `title`, `subtitle`, `cards` and `problems`.
      sections: each `title`, `note` and `blocks`; the item of a block of kind "figure" is moved out of it.
    """
    items = []
    for section in sections:
        for block in section["blocks"]:
            if block["kind"] == "figure":
                block["number"] = len(items)
                items.append(_json(block.pop("item")))
    scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, (_FOLDER / _SCRIPT).read_text(encoding="utf-8")]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(_TEMPLATE).render(
        heading=heading,
        sections=sections,
        items=items,
        style=Markup((_FOLDER / _STYLE).read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
    )
    return text.encode(errors="replace").decode()  # Names of files may hold what no text file can.


def _json(item: Any) -> Markup:
    """Returns JSON that ends no element of HTML."""
    return Markup(json.dumps(item).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _hash(script: str) -> str:
    """Returns the hash by which the page's policy lets this script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
