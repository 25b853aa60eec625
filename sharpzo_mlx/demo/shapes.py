"""Build the parts of a figure: filled polygons in the square [-1, 1] x [-1, 1], with y pointing down.

>>> box("body", -1, 0, 1, 1).points
((-1, 0), (1, 0), (1, 1), (-1, 1))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
ROLES = ("body", "second", "dark", "light")


@dataclass(frozen=True)
class Part:
    """One filled polygon of a figure.

    Attributes:
        role: one of ROLES; the painter chooses a colour for each role.
        points: the corners.
    """

    role: str
    points: tuple[Point, ...]


Figure = tuple[Part, ...]


def ellipse(role: str, x: float, y: float, rx: float, ry: float | None = None, *, turn: float = 0.0) -> Part:
    """Return an ellipse around (x, y) as a polygon of 20 corners, turned by `turn` degrees."""
    ry = rx if ry is None else ry
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    corners = []
    for step in range(20):
        a, b = rx * math.cos(math.pi * step / 10), ry * math.sin(math.pi * step / 10)
        corners.append((x + a * cos - b * sin, y + a * sin + b * cos))
    return Part(role, tuple(corners))


def polygon(role: str, *numbers: float) -> Part:
    """Return a polygon with the corners x, y, x, y, ..."""
    return Part(role, tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def box(role: str, left: float, top: float, right: float, bottom: float) -> Part:
    """Return a rectangle."""
    return polygon(role, left, top, right, top, right, bottom, left, bottom)


def bar(role: str, start: Point, end: Point, *, width: float = 0.12) -> Part:
    """Return a thick straight stroke."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    scale = width / 2 / math.hypot(dx, dy)
    nx, ny = -dy * scale, dx * scale
    return polygon(
        role,
        *(start[0] + nx, start[1] + ny, end[0] + nx, end[1] + ny),
        *(end[0] - nx, end[1] - ny, start[0] - nx, start[1] - ny),
    )


def star(role: str, *, corners: int, inner: float) -> Part:
    """Return a star of radius 1 whose notches lie at radius `inner`."""
    points = []
    for step in range(2 * corners):
        radius = 1.0 if step % 2 == 0 else inner
        angle = math.pi * step / corners - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return Part(role, tuple(points))


def crescent(role: str) -> Part:
    """Return a crescent that opens to the right."""
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 16)]
    inner = [(0.35 + 0.8 * math.cos(a), 0.8 * math.sin(a)) for a in np.linspace(1.62 * math.pi, 0.38 * math.pi, 12)]
    return Part(role, tuple((0.2 + float(x), float(y)) for x, y in outer + inner))


def petals(count: int) -> Figure:
    """Return the petals of a flower, around a centre above the middle."""
    turns = [2 * math.pi * step / count for step in range(count)]
    return tuple(
        ellipse("body", 0.5 * math.cos(a), -0.35 + 0.5 * math.sin(a), 0.34, 0.24, turn=math.degrees(a)) for a in turns
    )
