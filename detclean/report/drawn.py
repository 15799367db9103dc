"""A figure as inline SVG: text stays text, nothing of today in it, and no two figures of a page share an id."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detclean.show.progress import clean_text

WIDTH = 4.4  # inches of 72 units: on a phone it is shown at some four fifths of its size, beside another one on a desk larger than it is
INK, LINE = "#6b7075", "#9aa0a6"  # greys that can be read on white and on black
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "detclean",
    "text.parse_math": False,  # a category may be called $x$
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.0,
    "legend.handleheight": 0.9,
    "legend.labelcolor": INK,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
}


def draw_svg(name: str, draw: Callable[[Axes], None], height: float = 2.9) -> Markup:
    """What `draw` draws, as an SVG element. name: of the figure on its page, the beginning of every id; height: inches."""
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's browser has fonts of its own
        rcdefaults()  # a user's own style has no say here
        with rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, height), layout="constrained")
            draw(figure.add_subplot())
            out = io.BytesIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_as_element(out.getvalue(), name))


def _as_element(document: bytes, name: str) -> str:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
        for key, value in parent.attrib.items():
            if key == "id":
                parent.set(key, f"{name}-{value}")
            elif key.endswith("href"):
                parent.set(key, re.sub(r"^#", f"#{name}-", value))
            else:
                parent.set(key, value.replace("url(#", f"url(#{name}-"))
    for style in root.iter(f"{{{SVG}}}style"):
        style.text = None  # matplotlib's rule for every line of the page
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # the sentence above it says what it shows
    return ElementTree.tostring(root, encoding="unicode")


def label(text: str, length: int = 22) -> str:
    """A name beside an axis: one line, and its middle left out where it is long."""
    from detclean.report.words import shorten

    return clean_text(shorten(text, length))
