"""Visual similarity of two images, from 0.0 to 1.0, without a neural network.

A measure is any `ImageSimilarity`: a function of two PIL images. `ssim`, `perceptual_similarity`
and their combination `image_similarity` need no model weights. To use a neural measure (LPIPS,
DreamSim, CLIP), name it as `package.module:function`.
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
"""(image, true image) -> similarity, from 0.0 to 1.0 for identical images."""

LAYOUT = 0.45
SHAPES = 0.50
DETAIL = 0.05
"""Weights in `image_similarity`: the perceptual hash, SSIM at an eighth of the size, and SSIM at
full size."""
COARSE = 8
"""Reduction factor of the coarse SSIM, which hardly changes if a shape moves by a pixel or two."""
WINDOW = 7
"""Side of the SSIM window in pixels."""
INK = 12
"""Difference from white, of 255, above which a pixel counts as drawn."""


def ssim(a: Image, b: Image) -> float:
    """Return the mean structural similarity of two colour images.

    `b` is resized to fit `a`. An empty page scores about 0.8 against a chart, which is mostly
    white; use `image_similarity` for charts. A negative mean (an inverted image) counts as 0.

    Raises:
        UsageError: If an image is smaller than 7 x 7 pixels.

    References:
        Wang et al. 2004, Image Quality Assessment.
    """
    return max(0.0, float(_ssim_map(_rgb(a), _fitted(b, a.size)).mean()))


def perceptual_similarity(a: Image, b: Image) -> float:
    """Return 1.0 for equal perceptual hashes, and 0.0 if at least half of the 64 bits differ.

    Hashes of unrelated images differ in about half of the bits.

    References:
        pHash, https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise missing(error) from error
    one = phash(_rgb(a))
    other = phash(_rgb(b))
    return max(0.0, 1.0 - int(one - other) / (one.hash.size / 2))


def image_similarity(a: Image, b: Image) -> float:
    """Return the similarity of two charts: layout, shapes and details on a 400 x 300 canvas.

    SSIM covers only pixels that are drawn in either image, so matching white space earns no credit.
    Measured on random charts of the report environment: shifted by one pixel 0.91 to 0.99; one
    value 3 too high 0.85 to 0.99; one wrong letter in a label 0.97 to 0.99999; other items and
    values 0.25 to 0.58; an empty page at most 0.12. 1.0 means no visible difference.
    """
    one, other = (_fitted(image, (WIDTH, HEIGHT)) for image in (a, b))
    if one.tobytes() == other.tobytes():
        return 1.0
    shapes = _ink_ssim(one.reduce(COARSE), other.reduce(COARSE))
    detail = _ink_ssim(one, other)
    # The sum of the weights may exceed 1.0 by a rounding error.
    return min(1.0, LAYOUT * perceptual_similarity(one, other) + SHAPES * shapes + DETAIL * detail)


# Cached because two parts compare the same chart: `image_match` and `artefacts_match`.
@functools.lru_cache(maxsize=256)
def svg_similarity(
    svg: str, truth: str, *, similarity: ImageSimilarity = image_similarity
) -> float:
    """Return the similarity of two SVGs after rendering; 0.0 if the first cannot be rendered.

    See `envgym.rewards.scoring.svg` for the supported subset of SVG.

    Raises:
        UsageError: If the true SVG cannot be rendered, or the measure returns a value outside 0 to
            1.
    """
    try:
        wanted = _true_picture(truth)
    except BadSvg as error:
        raise UsageError(f"the true image cannot be rendered: {error}") from error
    try:
        picture = draw_svg(svg)
    except BadSvg:
        return 0.0
    value = float(similarity(picture, wanted))
    if not 0.0 <= value <= 1.0:
        raise UsageError(
            f"image similarity {similarity!r} returned {value}, but it must be from 0 to 1"
        )
    return value


_true_picture = functools.lru_cache(maxsize=32)(draw_svg)  # all episodes of a group share it


def _rgb(image: Image) -> Image:
    """Return the image on a white background."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """Resize the image to fit a size, centred on a white background."""
    from PIL import ImageOps

    return _rgb(image) if image.size == size else ImageOps.pad(_rgb(image), size, color="white")


def _ssim_map(a: Image, b: Image) -> np.ndarray[Any, Any]:
    """Return the structural similarity map, shape (height, width, 3), from -1 to 1."""
    try:
        import numpy as np
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise missing(error) from error
    if min(a.size) < WINDOW:
        raise UsageError(
            f"image of {a.width} x {a.height} pixels is too small to compare. "
            f"SSIM needs at least {WINDOW} x {WINDOW}"
        )
    return structural_similarity(
        np.asarray(a), np.asarray(b), win_size=WINDOW, channel_axis=-1, data_range=255, full=True
    )[1]


def _ink_ssim(a: Image, b: Image) -> float:
    """Return the mean structural similarity of the pixels that are drawn in either image."""
    import numpy as np

    shown = (np.minimum(np.asarray(a), np.asarray(b)) < 255 - INK).any(axis=-1)  # (height, width)
    return max(0.0, float(_ssim_map(a, b)[shown].mean())) if shown.any() else 1.0
