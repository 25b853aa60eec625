"""Turn a decoded picture of any mode into upright 8-bit RGB, tile by tile, so that little is held beside the two.

Transparency becomes white as in the CLIP processor of transformers 5. 16-bit grey is scaled to 8 bits; Pillow itself,
and so that processor, would clip it to white. A picture that is too large to be held twice is reduced on the way.

>>> to_upright_rgb(Image.new("LA", (4, 2)), factor=1).getpixel((0, 0))
(255, 255, 255)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from sharpzo_mlx.images.jpeg import ORIENTATION

TILE = 1024  # side of a tile in pixels of the result

Box = tuple[int, int, int, int]  # left, top, right, bottom
Change = Callable[[Image.Image], Image.Image]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # orientations that swap the sides
_FROM_RIGHT, _FROM_BOTTOM = (2, 3, 7, 8), (3, 4, 6, 7)  # orientations that count columns, or rows, from the other end


def to_upright_rgb(image: Image.Image, factor: int) -> Image.Image:
    """Return a loaded picture as 8-bit RGB with its EXIF orientation applied.

    Args:
        image: the picture; it may be returned itself, without its EXIF, if it is upright 8-bit RGB.
        factor: squares of so many pixels a side become their mean; 1 keeps every pixel.

    Raises:
        ValueError: some pixels are not numbers.
    """
    orientation = image.getexif().get(ORIENTATION, 1)
    orientation = orientation if orientation in _TURNS else 1
    if image.mode == "RGB" and not _has_transparency(image) and orientation == 1 and image.format != "WEBP":
        image.info.clear()
        return image
    change = _choose_change(image)
    width, height = (-(-side // factor) for side in image.size)
    out = Image.new("RGB", (height, width) if orientation in _SWAPPED else (width, height))
    for box in _tiles(image.size, TILE * factor):
        tile = change(image if box == (0, 0, *image.size) else image.crop(box))
        tile = tile.reduce(factor) if factor > 1 else tile
        left, top = box[0] // factor, box[1] // factor
        left = width - left - tile.width if orientation in _FROM_RIGHT else left
        top = height - top - tile.height if orientation in _FROM_BOTTOM else top
        turned = tile if orientation == 1 else tile.transpose(_TURNS[orientation])
        out.paste(turned, (top, left) if orientation in _SWAPPED else (left, top))
    return out


def _tiles(size: tuple[int, int], side: int) -> Iterator[Box]:
    width, height = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield left, top, min(left + side, width), min(top + side, height)


def _has_transparency(image: Image.Image) -> bool:
    bands = image.getbands()
    return "A" in bands or "a" in bands or image.info.get("transparency") is not None


def _choose_change(image: Image.Image) -> Change:
    """Return what makes 8-bit RGB of a tile of this picture."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        low, high = _find_range(image)
        return lambda tile: _to_eight_bit(tile, low, high)
    return _lay_on_white if _has_transparency(image) else lambda tile: tile.convert("RGB")


def _lay_on_white(tile: Image.Image) -> Image.Image:
    layers = tile.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, (255, 255, 255, 255)), layers).convert("RGB")


def _find_range(image: Image.Image) -> tuple[float, float]:
    """Return the levels that become 0 and 255: of 16 bits all, of floats in [0, 1] 0 and 1, else the picture's own."""
    low, high = np.inf, -np.inf
    for box in _tiles(image.size, TILE):
        levels = np.asarray(image.crop(box))
        if not np.isfinite(levels).all():
            raise ValueError("some pixels are not numbers")
        low, high = min(low, float(levels.min())), max(high, float(levels.max()))
    if image.mode == "F" and low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return (0.0, 65535.0) if image.mode.startswith("I;16") or image.format == "PNG" else (low, high)


def _to_eight_bit(tile: Image.Image, low: float, high: float) -> Image.Image:
    levels = np.asarray(tile).astype(np.float64)
    with np.errstate(all="ignore"):  # levels near the largest floats
        scaled = np.rint((levels - low) * (255.0 / max(high - low, 1e-12)))
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
