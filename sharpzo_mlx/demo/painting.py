"""Paint a figure in a style: three drawn styles, imitation photographs, and three styles that the model never saw.

The parts of a figure become coverage masks, drawn at twice the size and averaged. A style colours the masks and adds
ground, light and grain in NumPy and Pillow. Every random number comes from the caller's generator, so that a picture is
a function of its seed.

>>> picture = paint("cat", "photo", generator_for(0, "cat", 1))  # doctest: +SKIP
>>> picture.image.size  # doctest: +SKIP
(64, 64)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sharpzo_mlx.demo.figures import FIGURES
from sharpzo_mlx.demo.pose import Placement, pose
from sharpzo_mlx.demo.shapes import ROLES

SIZE = 64
INK = np.full(3, 0.1, np.float32)
PIXELS = npt.NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 40),
    "orange": (235, 135, 35),
    "yellow": (240, 210, 60),
    "green": (60, 150, 70),
    "blue": (50, 95, 200),
    "purple": (130, 65, 165),
    "pink": (240, 140, 175),
    "brown": (130, 85, 50),
    "white": (240, 240, 235),
}
GROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "grass": ((150, 200, 240), (90, 160, 70)),
    "sand": ((190, 220, 240), (225, 200, 145)),
    "water": ((200, 225, 245), (60, 120, 180)),
    "snow": ((170, 190, 215), (240, 245, 250)),
    "a table": ((200, 185, 165), (135, 95, 60)),
}
DRAWN_STYLES = ("drawing", "poster", "sketch")
UNSEEN_STYLES = ("dusk", "night", "pencil")


@dataclass(frozen=True)
class Picture:
    """A painted figure with the facts that a caption may mention (`ground` is None on plain paper)."""

    image: Image.Image
    colour: str
    ground: str | None
    small: bool


@dataclass(frozen=True)
class Sheet:
    """The input of a style: the coverage of each role and of the outlines, and the colours drawn at random."""

    cover: dict[str, PIXELS]  # role -> [SIZE, SIZE], 0..1
    lines: PIXELS  # [SIZE, SIZE], 0..1
    colours: dict[str, PIXELS]  # role -> [3], 0..1
    ground: str
    rng: np.random.Generator

    @property
    def shape(self) -> PIXELS:
        """Return the coverage of the whole figure [SIZE, SIZE]."""
        return np.minimum(np.sum(list(self.cover.values()), axis=0, dtype=np.float32), np.float32(1))


def _measure_coverage(label: Image.Image, value: int) -> PIXELS:
    hit = np.asarray(label) == value
    cover: PIXELS = hit.reshape(SIZE, 2, SIZE, 2).mean((1, 3)).astype(np.float32)
    return cover


def _blur(plane: PIXELS, radius: float) -> PIXELS:
    """Blur a plane 0..1 by a Gaussian, in Pillow's whole numbers."""
    levels = Image.fromarray(np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return (np.asarray(levels.filter(ImageFilter.GaussianBlur(radius))) / 255).astype(np.float32)


def _draw_sheet(name: str, rng: np.random.Generator, *, place: Placement, colour: str, line: int) -> Sheet:
    label, lines = (Image.new("L", (2 * SIZE, 2 * SIZE), 0) for _ in range(2))
    draw, ink = ImageDraw.Draw(label), ImageDraw.Draw(lines)
    for role, points in pose(FIGURES[name], rng, size=2 * SIZE, place=place):
        draw.polygon(points, fill=ROLES.index(role) + 1)
        # a part hides the lines behind it
        ink.polygon(points, fill=0)
        ink.line([*points, points[0]], fill=255, width=line)
    second = str(rng.choice([other for other in COLOURS if other != colour]))
    return Sheet(
        cover={role: _measure_coverage(label, index + 1) for index, role in enumerate(ROLES)},
        lines=_measure_coverage(lines, 255),
        colours={
            "body": _tint(COLOURS[colour], rng),
            "second": _tint(COLOURS[second], rng),
            "dark": _tint((35, 30, 35), rng),
            "light": _tint((245, 240, 225), rng),
        },
        ground=str(rng.choice(list(GROUNDS))),
        rng=rng,
    )


def _tint(colour: tuple[int, int, int], rng: np.random.Generator) -> PIXELS:
    return np.clip(np.array(colour, np.float32) / 255 + rng.uniform(-0.07, 0.07, 3), 0, 1).astype(np.float32)


def _blend(canvas: PIXELS, cover: PIXELS, colour: PIXELS) -> PIXELS:
    """Blend a colour into the canvas [SIZE, SIZE, 3] by the mask `cover`."""
    return canvas + cover[..., None] * (colour - canvas)


def _fill_parts(canvas: PIXELS, sheet: Sheet) -> PIXELS:
    for role in ROLES:
        canvas = _blend(canvas, sheet.cover[role], sheet.colours[role])
    return canvas


def _fill_plain(colour: PIXELS) -> PIXELS:
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)


def _paint_drawing(sheet: Sheet) -> PIXELS:
    """Paint flat colours and dark outlines on plain pale paper."""
    paper = _fill_plain((1 - 0.3 * sheet.rng.random(3)).astype(np.float32))
    return _blend(_fill_parts(paper, sheet), sheet.lines, INK)


def _paint_poster(sheet: Sheet) -> PIXELS:
    """Paint flat colours and thin dark outlines in front of a sky and a ground."""
    sky, ground = (_tint(colour, sheet.rng) for colour in GROUNDS[sheet.ground])
    horizon = float(sheet.rng.uniform(0.45, 0.75)) * SIZE
    below = np.clip(np.arange(SIZE, dtype=np.float32) - horizon, 0, 1)
    scene = _blend(_fill_plain(sky), np.repeat(below[:, None], SIZE, 1), ground)
    return _blend(_fill_parts(scene, sheet), 0.8 * sheet.lines, INK)


def _paint_sketch(sheet: Sheet) -> PIXELS:
    """Paint outlines in coloured ink on white paper."""
    paper = _fill_plain(np.full(3, float(sheet.rng.uniform(0.9, 1.0)), np.float32))
    return _blend(paper, sheet.lines, 0.5 * sheet.colours["body"])


def _paint_clutter(sheet: Sheet) -> PIXELS:
    """Paint a background out of focus: soft blobs in the ground's colours below a sky."""
    rng = sheet.rng
    sky, ground = (_tint(colour, rng) for colour in GROUNDS[sheet.ground])
    horizon = float(rng.uniform(0.35, 0.7)) * SIZE
    below = np.clip((np.arange(SIZE, dtype=np.float32) - horizon) / 8, 0, 1)
    scene = _blend(_fill_plain(sky), np.repeat(below[:, None], SIZE, 1), ground)
    for _ in range(int(rng.integers(4, 9))):
        blob = Image.new("L", (SIZE, SIZE), 0)
        x, y, w, h = (int(v) for v in rng.integers([-10, -10, 8, 8], [SIZE - 10, SIZE - 10, 34, 34]))
        box = (x, y, x + w, y + h)
        draw = ImageDraw.Draw(blob)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=255)
        mask = _blur((np.asarray(blob) / 255).astype(np.float32), float(rng.uniform(1, 4)))
        near = sky if rng.random() < 0.5 else ground
        scene = _blend(scene, 0.7 * mask, np.clip(near + rng.uniform(-0.35, 0.35, 3), 0, 1).astype(np.float32))
    return scene


def _paint_photo(sheet: Sheet) -> PIXELS:
    """Imitate a photograph: a rounded, lit body with a shadow in front of clutter, blurred and noisy."""
    rng = sheet.rng
    light = rng.uniform(-1, 1, 2)
    shape = sheet.shape
    scene = _paint_clutter(sheet)
    shadow = np.roll(_blur(shape, 3), (int(rng.integers(2, 6)), int(-4 * light[0])), (0, 1))
    scene = scene * (1 - 0.55 * shadow[..., None])
    down, right = np.gradient(_blur(shape, 4))
    lit = 0.85 - 3.0 * (right * light[0] + down * (0.8 + 0.4 * light[1]))
    grain = _blur(rng.random((SIZE, SIZE)).astype(np.float32), 1) - 0.5
    # outlines are darker, because less light reaches creases and rims
    lined = _blend(_fill_parts(scene, sheet), 0.55 * sheet.lines, INK)
    body = lined * np.clip(lit + 0.8 * grain, 0.25, 1.35)[..., None]
    scene = np.clip(scene + shape[..., None] * (body - scene), 0, 1).astype(np.float32)
    radius = float(rng.uniform(0.6, 1.4))
    soft = np.stack([_blur(scene[..., channel], radius) for channel in range(3)], -1)
    exposure = float(rng.uniform(0.75, 1.1))
    return exposure * soft + rng.normal(0, 0.03, soft.shape).astype(np.float32)


def _paint_dim(sheet: Sheet, light: tuple[float, float, float]) -> PIXELS:
    """Imitate a photograph with part of the light, given per colour, and with more grain."""
    dim = _paint_photo(sheet) * np.array(light, np.float32)
    return dim + sheet.rng.normal(0, 0.035, dim.shape).astype(np.float32)


def _paint_dusk(sheet: Sheet) -> PIXELS:
    """Imitate a photograph at dusk: half the light, and reddish."""
    return _paint_dim(sheet, (0.6, 0.47, 0.44))


def _paint_night(sheet: Sheet) -> PIXELS:
    """Imitate a photograph at night: a third of the light, and bluish."""
    return _paint_dim(sheet, (0.28, 0.32, 0.45))


def _paint_pencil(sheet: Sheet) -> PIXELS:
    """Paint grey hatching on paper: the parts keep their brightness and lose their colours."""
    rng = sheet.rng
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    hatch = 0.5 + 0.5 * np.sign(np.sin((rows + columns) * float(rng.uniform(0.9, 1.4))))
    shade = _fill_parts(_fill_plain(np.ones(3, np.float32)), sheet).mean(-1)
    grey = 1 - (1 - shade) * hatch * 0.8
    paper = np.minimum(grey, 1 - 0.75 * sheet.lines) + rng.normal(0, 0.03, grey.shape)
    return np.repeat(np.float32(0.95) * paper[..., None], 3, -1)


_STYLES: dict[str, Callable[[Sheet], PIXELS]] = {
    "drawing": _paint_drawing,
    "poster": _paint_poster,
    "sketch": _paint_sketch,
    "photo": _paint_photo,
    "dusk": _paint_dusk,
    "night": _paint_night,
    "pencil": _paint_pencil,
}


def paint(name: str, style: str, rng: np.random.Generator) -> Picture:
    """Paint one picture of a figure.

    Args:
        name: a key of FIGURES.
        style: one of DRAWN_STYLES, "photo", or one of UNSEEN_STYLES.
        rng: the generator of all random numbers of the picture.

    Returns:
        A picture of SIZE x SIZE pixels in RGB.
    """
    small = bool(rng.random() < 0.2)
    scale = float(rng.uniform(0.28, 0.33) if small else rng.uniform(0.38, 0.46))
    x, y = (0.5 + float(rng.uniform(-0.06, 0.06)) for _ in range(2))
    colour = str(rng.choice(list(COLOURS)))
    line = int(rng.integers(5, 8))
    sheet = _draw_sheet(name, rng, place=Placement(x, y, scale), colour=colour, line=line)
    pixels = np.rint(np.clip(_STYLES[style](sheet), 0, 1) * 255).astype(np.uint8)
    grounded = style not in ("drawing", "sketch", "pencil")
    return Picture(Image.fromarray(pixels), colour, sheet.ground if grounded else None, small)
