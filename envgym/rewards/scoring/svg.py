"""Render an SVG that a model wrote, at a bounded cost and without access to anything outside it.

Only basic shapes, text and groups are kept, with their geometry and style attributes. resvg renders
them in the one font that Pillow ships, so that the image is the same on every machine. An SVG that
has another element (script, image, use, style, filter), a DTD, or too much content is rejected.
Not supported: gradients, patterns, clip paths and `use`, which matplotlib emits; letters outside
the font's plain Latin set, which all look alike.
"""

from __future__ import annotations

import atexit
import functools
import io
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError, tostring

from envgym.errors import PrerequisiteError

if TYPE_CHECKING:
    from PIL.Image import Image

_FONT = "Aileron"
"""Family name of the font that Pillow ships."""
MOST_CHARACTERS = 50_000
MOST_TEXT = 5_000
"""Maximum number of text characters; the time of resvg grows with the square of it."""
MOST_ELEMENTS = 300
"""Maximum number of elements; one that covers the whole canvas takes 4 ms."""
MOST_DEPTH = 32
MOST_SIDE = 10_000.0
"""Maximum width and height in user units of the SVG."""
WIDTH = 400
HEIGHT = 300
"""Size in pixels of the canvas that each SVG is fitted into."""
SHAPES = {
    "svg",
    "g",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "path",
    "text",
    "tspan",
}
SILENT = {"title", "desc", "metadata"}
"""Elements without a visual effect; they are dropped."""
LOOKS = {
    "x",
    "y",
    "dx",
    "dy",
    "width",
    "height",
    "cx",
    "cy",
    "r",
    "rx",
    "ry",
    "x1",
    "y1",
    "x2",
    "y2",
    "points",
    "d",
    "viewBox",
    "transform",
    "fill",
    "fill-opacity",
    "fill-rule",
    "stroke",
    "stroke-width",
    "stroke-opacity",
    "stroke-linecap",
    "stroke-linejoin",
    "color",
    "display",
    "visibility",
    "font-size",
    "font-weight",
    "font-style",
    "text-anchor",
    "dominant-baseline",
    "letter-spacing",
}
"""Attributes that are kept, also if they are part of `style`. `stroke-dasharray` is dropped,
because one line can hold millions of dashes, and so is `opacity`, because each use allocates a
canvas; use `fill-opacity`."""


class BadSvg(ValueError):
    """Invalid or unsupported SVG; the message gives the reason."""


def draw_svg(text: str) -> Image:
    """Render an SVG on white as an RGB image of `WIDTH` x `HEIGHT` pixels.

    Raises:
        BadSvg: If the text is not an SVG of the supported subset.
        PrerequisiteError: If the extra `images` is not installed.
    """
    try:
        import resvg_py
        from PIL import Image
    except ImportError as error:
        raise missing(error) from error
    clean = tostring(_clean(text), encoding="unicode")
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=clean, background="white", skip_system_fonts=True, **_font()
        )
    except ValueError as error:
        raise BadSvg(str(error)) from error
    except BaseException as error:
        # A panic of the Rust library; its class does not derive from Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise BadSvg(f"resvg failed: {error}") from error
    return Image.open(io.BytesIO(png)).convert("RGB")


def missing(error: ImportError) -> PrerequisiteError:
    """Return the error for a missing library of the extra `images`."""
    return PrerequisiteError(
        f"comparing images needs {error.name or error}. Install it: pip install 'envgym[images]'"
    )


def _clean(text: str) -> Element:
    """Return the SVG reduced to the supported elements and attributes.

    Raises:
        BadSvg: If the SVG contains an unsupported element or is too large.
    """
    root = _parse(text)
    if _name(root) != "svg":
        raise BadSvg(f"its root is <{_name(root)}>, not <svg>")
    if (count := sum(1 for _ in root.iter())) > MOST_ELEMENTS:
        raise BadSvg(f"{count:,} elements; at most {MOST_ELEMENTS:,} are drawn")
    if (count := sum(map(len, root.itertext()))) > MOST_TEXT:
        raise BadSvg(f"{count:,} characters of text; at most {MOST_TEXT:,} are written")
    clean = _kept(root, depth=0)
    clean.attrib |= {
        "viewBox": " ".join(map(str, _view(root))),
        "width": str(WIDTH),
        "height": str(HEIGHT),
    }
    return clean


def _parse(text: str) -> Element:
    try:
        import defusedxml.ElementTree as ElementTree
    except ImportError as error:
        raise missing(error) from error
    if len(text) > MOST_CHARACTERS:
        raise BadSvg(f"{len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    try:
        return ElementTree.fromstring(text, forbid_dtd=True)
    except (ParseError, ValueError) as error:
        # A DTD, an entity or an invalid character is a ValueError.
        raise BadSvg(f"{type(error).__name__}: {error}") from error


def _kept(element: Element, depth: int) -> Element:
    name = _name(element)
    if name not in SHAPES:
        raise BadSvg(f"holds <{name}>, which is not drawn")
    if depth > MOST_DEPTH:
        raise BadSvg(f"elements nest deeper than {MOST_DEPTH}")
    kept = Element(f"{{http://www.w3.org/2000/svg}}{name}", _looks(element))
    kept.text = element.text
    kept.tail = element.tail
    kept.extend([_kept(child, depth + 1) for child in element if _name(child) not in SILENT])
    return kept


def _looks(element: Element) -> dict[str, str]:
    styles = [pair.partition(":") for pair in element.get("style", "").split(";")]
    looks = dict(element.items()) | {name.strip(): value.strip() for name, _, value in styles}
    return {name: value for name, value in looks.items() if name in LOOKS}


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _view(root: Element) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the visible part in user units.

    Raises:
        BadSvg: If they are missing or out of range.
    """
    given = root.get("viewBox", "").replace(",", " ").split()
    if not given:
        given = ["0", "0", *(root.get(side, "").removesuffix("px") for side in ("width", "height"))]
    try:
        x, y, width, height = map(float, given)
    except ValueError:
        raise BadSvg("needs a viewBox of four numbers, or a width and a height") from None
    if not (
        math.isfinite(x) and math.isfinite(y) and 0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE
    ):
        raise BadSvg(
            f"is {width:g} x {height:g}; each side must be above 0 and at most {MOST_SIDE:g}"
        )
    return x, y, width, height


def _font() -> dict[str, Any]:
    """Return the resvg options that render all text in Pillow's font."""
    # Without the file no text would be rendered, and temporary files may be deleted at any time.
    if not _font_file().exists():
        _font_file.cache_clear()
    return {"font_files": [str(_font_file())], "serif_family": _FONT, "font_family": _FONT}


@functools.cache
def _font_file() -> Path:
    from PIL import ImageFont

    folder = Path(tempfile.mkdtemp(prefix="envgym-font-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    file = folder / "font.ttf"
    file.write_bytes(font.font_bytes)
    return file
