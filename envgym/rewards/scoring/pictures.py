"""How alike two pictures look, from 0.0 to 1.0, without a neural network.

A measure is any `ImageSimilarity`: a function of two PIL images. What ships (`ssim`, `perceptual_similarity`, and the two under
one weighting in `image_similarity`) needs no weights to be downloaded; a neural one (LPIPS, DreamSim, CLIP) is named in its
place, as `package.module:function`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from envgym.errors import UsageError
from envgym.rewards.scoring.svg import HEIGHT, WIDTH, BadSvg, draw_svg, missing

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ImageSimilarity = Callable[["Image", "Image"], float]
"""(picture, truth) -> 0.0 for nothing alike to 1.0 for the same."""

LAYOUT = 0.45
SHAPES = 0.50
DETAIL = 0.05
"""Shares of the perceptual hash, of SSIM at an eighth of the size, and of SSIM at full size in `image_similarity`."""
COARSE = 8
"""A shift of a pixel or two hardly shows in a picture of an eighth of the size."""
WINDOW = 7
"""Side of the squares that SSIM compares, pixels."""
INK = 12
"""A pixel shows something where a channel is this far from white, of 255."""


def ssim(a: Image, b: Image) -> float:
    """Mean structural similarity of two colour pictures; `b` is fitted into the size of `a`.

    A chart is mostly paper: against an empty page it has 0.8. For charts, take `image_similarity`.
    Raises: UsageError for a picture smaller than 7 x 7 pixels.
    Source: Wang et al. 2004, Image Quality Assessment; a negative mean (an inverted picture) counts as 0.
    """
    return max(0.0, float(_ssim_map(_rgb(a), _fitted(b, a.size)).mean()))


def perceptual_similarity(a: Image, b: Image) -> float:
    """1 for equal perceptual hashes, 0 where half of the 64 bits or more differ, as they do between strangers.

    Source: pHash, https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise missing(error) from error
    one = phash(_rgb(a))
    other = phash(_rgb(b))
    return max(0.0, 1.0 - int(one - other) / (one.hash.size / 2))


def image_similarity(a: Image, b: Image) -> float:
    """How alike two charts look: layout, shapes and details under one weighting, on a canvas of 400 x 300 pixels.

    SSIM is taken where either picture shows something, so paper that agrees earns nothing. Over random charts of the report
    environment: shifted by one pixel 0.91 to 0.99, one value 3 too high 0.85 to 0.99, a letter of a label wrong 0.97 to 0.99999,
    other items and values 0.25 to 0.58, an empty page at most 0.12. 1.0 is for no visible difference.
    """
    one, other = (_fitted(image, (WIDTH, HEIGHT)) for image in (a, b))
    if one.tobytes() == other.tobytes():
        return 1.0
    shapes = _ink_ssim(one.reduce(COARSE), other.reduce(COARSE))
    detail = _ink_ssim(one, other)
    return min(
        1.0, LAYOUT * perceptual_similarity(one, other) + SHAPES * shapes + DETAIL * detail
    )  # 1.0 + a rounding is no share


@functools.lru_cache(
    maxsize=256
)  # a chart is asked for by its own part and by the one that says whether the task is solved
def svg_similarity(
    svg: str, truth: str, *, similarity: ImageSimilarity = image_similarity
) -> float:
    """How alike two SVGs look when they are drawn; 0.0 for one that cannot be (see `envgym.rewards.scoring.svg`).

    Raises: UsageError where the truth cannot be drawn, or the measure gives something else than a share.
    """
    try:
        wanted = _true_picture(truth)
    except BadSvg as error:
        raise UsageError(f"the true picture cannot be drawn: {error}") from error
    try:
        picture = draw_svg(svg)
    except BadSvg:
        return 0.0
    value = float(similarity(picture, wanted))
    if not 0.0 <= value <= 1.0:
        raise UsageError(
            f"the image similarity {similarity!r} gave {value}; it must give a number from 0 to 1"
        )
    return value


_true_picture = functools.lru_cache(maxsize=32)(draw_svg)  # a group shares its truth


def _rgb(image: Image) -> Image:
    """The picture on white paper."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """The picture as large as it fits into a size, centred on white paper."""
    from PIL import ImageOps

    return _rgb(image) if image.size == size else ImageOps.pad(_rgb(image), size, color="white")


def _ssim_map(a: Image, b: Image) -> np.ndarray[Any, Any]:
    """Structural similarity around each pixel, (height, width, 3), from -1 to 1."""
    try:
        import numpy as np
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise missing(error) from error
    if min(a.size) < WINDOW:
        raise UsageError(
            f"a picture of {a.width} x {a.height} pixels is too small to compare; SSIM needs {WINDOW} x {WINDOW}"
        )
    return structural_similarity(
        np.asarray(a), np.asarray(b), win_size=WINDOW, channel_axis=-1, data_range=255, full=True
    )[1]


def _ink_ssim(a: Image, b: Image) -> float:
    """Mean structural similarity of the pixels where either picture shows something."""
    import numpy as np

    shown = (np.minimum(np.asarray(a), np.asarray(b)) < 255 - INK).any(axis=-1)  # (height, width)
    return max(0.0, float(_ssim_map(a, b)[shown].mean())) if shown.any() else 1.0
