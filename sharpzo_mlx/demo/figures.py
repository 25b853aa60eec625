"""The things that the demonstration draws: twenty-four silhouettes, each a short list of polygons.

A figure lives in the square [-1, 1] x [-1, 1] with y pointing down. Each part carries a role (body, second, dark,
light) and leaves the colours to the painter. `pose` places a figure in a picture: turned, stretched, mirrored and
bent a little, so that no two drawings of a thing are alike.

>>> parts = pose(FIGURES["cat"], generator_for(0, "cat"), size=128)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
ROLES = ("body", "second", "dark", "light")


@dataclass(frozen=True)
class Part:
    """One filled polygon of a figure: the role that chooses its colour, and its corners."""

    role: str
    points: tuple[Point, ...]


Figure = tuple[Part, ...]


def _ellipse(role: str, x: float, y: float, rx: float, ry: float | None = None, *, turn: float = 0.0) -> Part:
    """An ellipse as a polygon of 20 corners, turned by degrees."""
    ry = rx if ry is None else ry
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    corners = []
    for step in range(20):
        a, b = rx * math.cos(math.pi * step / 10), ry * math.sin(math.pi * step / 10)
        corners.append((x + a * cos - b * sin, y + a * sin + b * cos))
    return Part(role, tuple(corners))


def _polygon(role: str, *numbers: float) -> Part:
    """A polygon from x, y, x, y, ..."""
    return Part(role, tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def _box(role: str, left: float, top: float, right: float, bottom: float) -> Part:
    return _polygon(role, left, top, right, top, right, bottom, left, bottom)


def _bar(role: str, start: Point, end: Point, *, width: float = 0.12) -> Part:
    """A thick straight stroke."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    scale = width / 2 / math.hypot(dx, dy)
    nx, ny = -dy * scale, dx * scale
    return _polygon(
        role,
        *(start[0] + nx, start[1] + ny, end[0] + nx, end[1] + ny),
        *(end[0] - nx, end[1] - ny, start[0] - nx, start[1] - ny),
    )


def _star(role: str, *, corners: int, inner: float) -> Part:
    points = []
    for step in range(2 * corners):
        radius = 1.0 if step % 2 == 0 else inner
        angle = math.pi * step / corners - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return Part(role, tuple(points))


def _crescent(role: str) -> Part:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 16)]
    inner = [(0.35 + 0.8 * math.cos(a), 0.8 * math.sin(a)) for a in np.linspace(1.62 * math.pi, 0.38 * math.pi, 12)]
    return Part(role, tuple((0.2 + float(x), float(y)) for x, y in outer + inner))


def _petals(count: int) -> Figure:
    turns = [2 * math.pi * step / count for step in range(count)]
    return tuple(
        _ellipse("body", 0.5 * math.cos(a), -0.35 + 0.5 * math.sin(a), 0.34, 0.24, turn=math.degrees(a)) for a in turns
    )


ANIMALS: dict[str, Figure] = {
    "fish": (
        _ellipse("body", -0.15, 0.0, 0.75, 0.45),
        _polygon("second", 0.45, 0.0, 1.0, -0.45, 0.85, 0.0, 1.0, 0.45),
        _polygon("second", -0.3, -0.38, 0.1, -0.75, 0.25, -0.35),
        _ellipse("light", -0.55, -0.1, 0.12),
        _ellipse("dark", -0.56, -0.1, 0.06),
    ),
    "bird": (
        _ellipse("body", 0.0, 0.0, 0.6, 0.4, turn=-20),
        _ellipse("body", 0.5, -0.45, 0.3),
        _polygon("second", 0.75, -0.5, 1.05, -0.38, 0.75, -0.3),
        _polygon("body", -0.45, 0.05, -1.05, 0.25, -0.95, 0.5, -0.4, 0.3),
        _polygon("second", -0.3, -0.1, 0.35, -0.1, -0.1, 0.25, -0.5, 0.2),
        _bar("dark", (-0.05, 0.35), (-0.05, 0.85), width=0.08),
        _bar("dark", (0.2, 0.35), (0.2, 0.85), width=0.08),
        _ellipse("dark", 0.58, -0.5, 0.07),
    ),
    "cat": (
        _bar("body", (-0.5, 0.5), (-0.95, -0.2), width=0.16),
        _ellipse("body", 0.0, 0.5, 0.5, 0.5),
        _ellipse("body", 0.0, -0.3, 0.48, 0.42),
        _polygon("body", -0.46, -0.3, -0.45, -0.95, -0.08, -0.62),
        _polygon("body", 0.46, -0.3, 0.45, -0.95, 0.08, -0.62),
        _ellipse("second", 0.0, 0.6, 0.25, 0.32),
        _ellipse("dark", -0.18, -0.35, 0.08),
        _ellipse("dark", 0.18, -0.35, 0.08),
        _polygon("light", -0.08, -0.16, 0.08, -0.16, 0.0, -0.06),
    ),
    "rabbit": (
        _ellipse("body", 0.0, 0.55, 0.48, 0.42),
        _ellipse("body", 0.0, -0.05, 0.36, 0.34),
        _ellipse("body", -0.2, -0.65, 0.13, 0.4, turn=-8),
        _ellipse("body", 0.2, -0.65, 0.13, 0.4, turn=8),
        _ellipse("second", -0.2, -0.65, 0.06, 0.28, turn=-8),
        _ellipse("second", 0.2, -0.65, 0.06, 0.28, turn=8),
        _ellipse("light", 0.42, 0.75, 0.16),
        _ellipse("dark", -0.14, -0.1, 0.07),
        _ellipse("dark", 0.14, -0.1, 0.07),
    ),
    "snail": (
        _polygon("second", -0.95, 0.75, -0.9, 0.45, -0.6, 0.3, 0.6, 0.5, 1.0, 0.75),
        _bar("second", (-0.8, 0.5), (-0.75, -0.1), width=0.2),
        _bar("second", (-0.75, -0.05), (-0.95, -0.45), width=0.07),
        _bar("second", (-0.7, -0.05), (-0.55, -0.45), width=0.07),
        _ellipse("body", 0.2, 0.0, 0.62, 0.6),
        _ellipse("dark", 0.2, 0.0, 0.4),
        _ellipse("body", 0.24, 0.02, 0.27),
        _ellipse("dark", 0.2, 0.02, 0.1),
    ),
    "butterfly": (
        _ellipse("body", -0.5, -0.35, 0.5, 0.38, turn=30),
        _ellipse("body", 0.5, -0.35, 0.5, 0.38, turn=-30),
        _ellipse("second", -0.4, 0.4, 0.38, 0.32, turn=-30),
        _ellipse("second", 0.4, 0.4, 0.38, 0.32, turn=30),
        _ellipse("light", -0.55, -0.35, 0.16),
        _ellipse("light", 0.55, -0.35, 0.16),
        _ellipse("dark", 0.0, 0.05, 0.1, 0.65),
        _bar("dark", (0.0, -0.5), (-0.25, -0.95), width=0.06),
        _bar("dark", (0.0, -0.5), (0.25, -0.95), width=0.06),
    ),
    "turtle": (
        _ellipse("second", 0.8, 0.1, 0.24, 0.2),
        _ellipse("second", -0.45, 0.5, 0.17, 0.26),
        _ellipse("second", 0.4, 0.5, 0.17, 0.26),
        _polygon("second", -0.65, 0.25, -1.0, 0.5, -0.55, 0.45),
        _polygon("body", -0.8, 0.35, -0.6, -0.25, -0.1, -0.55, 0.3, -0.4, 0.65, 0.35),
        _polygon("dark", -0.35, 0.2, -0.2, -0.2, 0.1, -0.2, 0.2, 0.2),
        _ellipse("dark", 0.85, 0.05, 0.06),
    ),
    "duck": (
        _polygon("body", -1.0, -0.05, -0.6, 0.2, 0.6, 0.05, 0.7, 0.4, 0.3, 0.75, -0.5, 0.7, -0.85, 0.4),
        _bar("body", (0.4, 0.35), (0.45, -0.4), width=0.32),
        _ellipse("body", 0.48, -0.48, 0.3),
        _polygon("second", 0.7, -0.55, 1.1, -0.4, 0.72, -0.3),
        _polygon("second", -0.6, 0.25, 0.2, 0.25, -0.05, 0.5, -0.4, 0.5),
        _ellipse("dark", 0.52, -0.55, 0.07),
    ),
}

PLANTS: dict[str, Figure] = {
    "tree": (
        _box("second", -0.14, 0.1, 0.14, 1.0),
        _ellipse("body", 0.0, -0.5, 0.5, 0.45),
        _ellipse("body", -0.42, -0.1, 0.4, 0.36),
        _ellipse("body", 0.42, -0.1, 0.4, 0.36),
    ),
    "mushroom": (
        _polygon("light", -0.22, 0.0, 0.22, 0.0, 0.3, 0.95, -0.3, 0.95),
        _polygon("body", -0.95, 0.1, -0.8, -0.4, -0.35, -0.75, 0.35, -0.75, 0.8, -0.4, 0.95, 0.1),
        _ellipse("second", -0.4, -0.25, 0.16),
        _ellipse("second", 0.15, -0.45, 0.14),
        _ellipse("second", 0.5, -0.1, 0.12),
    ),
    "flower": (
        _bar("second", (0.0, 0.0), (0.0, 1.0), width=0.1),
        _ellipse("second", 0.28, 0.65, 0.28, 0.1, turn=-30),
        *_petals(6),
        _ellipse("dark", 0.0, -0.35, 0.2),
    ),
    "cactus": (
        _box("body", -0.2, -0.9, 0.2, 0.6),
        _box("body", -0.75, -0.05, -0.1, 0.17),
        _box("body", -0.75, -0.5, -0.53, 0.17),
        _box("body", 0.1, 0.1, 0.75, 0.32),
        _box("body", 0.53, -0.35, 0.75, 0.32),
        _polygon("second", -0.45, 0.5, 0.45, 0.5, 0.33, 1.0, -0.33, 1.0),
    ),
}

THINGS: dict[str, Figure] = {
    "house": (
        _box("body", -0.7, -0.1, 0.7, 0.9),
        _polygon("second", -0.95, -0.1, 0.0, -0.9, 0.95, -0.1),
        _box("dark", -0.15, 0.35, 0.2, 0.9),
        _box("light", -0.55, 0.1, -0.28, 0.4),
        _box("light", 0.35, 0.1, 0.58, 0.4),
    ),
    "boat": (
        _polygon("body", -0.95, 0.4, 0.95, 0.4, 0.6, 0.85, -0.65, 0.85),
        _box("dark", -0.06, -0.95, 0.04, 0.4),
        _polygon("second", 0.08, -0.9, 0.8, 0.25, 0.08, 0.25),
        _polygon("light", -0.1, -0.6, -0.65, 0.25, -0.1, 0.25),
    ),
    "car": (
        _box("body", -1.0, -0.05, 1.0, 0.4),
        _polygon("body", -0.65, -0.05, -0.4, -0.5, 0.35, -0.5, 0.65, -0.05),
        _polygon("light", -0.48, -0.08, -0.32, -0.4, -0.03, -0.4, -0.03, -0.08),
        _polygon("light", 0.05, -0.08, 0.05, -0.4, 0.28, -0.4, 0.48, -0.08),
        _ellipse("dark", -0.55, 0.42, 0.25),
        _ellipse("dark", 0.55, 0.42, 0.25),
    ),
    "rocket": (
        _polygon("second", -0.3, 0.2, -0.7, 0.8, -0.3, 0.65),
        _polygon("second", 0.3, 0.2, 0.7, 0.8, 0.3, 0.65),
        _polygon("body", -0.3, 0.7, -0.33, -0.3, 0.0, -1.0, 0.33, -0.3, 0.3, 0.7),
        _polygon("dark", -0.2, 0.72, 0.2, 0.72, 0.0, 1.05),
        _ellipse("light", 0.0, -0.2, 0.16),
    ),
    "umbrella": (
        _bar("dark", (0.0, -0.9), (0.0, 0.8), width=0.09),
        _bar("dark", (0.0, 0.8), (0.28, 0.7), width=0.1),
        _polygon("body", -1.0, 0.1, -0.8, -0.45, -0.3, -0.8, 0.3, -0.8, 0.8, -0.45, 1.0, 0.1, 0.0, -0.05),
        _polygon("second", -0.3, 0.0, 0.0, -0.8, 0.3, 0.0),
    ),
    "cup": (
        _ellipse("second", 0.6, 0.05, 0.36, 0.36),
        _ellipse("light", 0.6, 0.05, 0.2, 0.2),
        _polygon("body", -0.7, -0.55, 0.55, -0.55, 0.4, 0.75, -0.55, 0.75),
        _ellipse("dark", -0.08, -0.55, 0.6, 0.13),
    ),
    "key": (
        _ellipse("body", -0.6, 0.0, 0.4, 0.4),
        _ellipse("dark", -0.6, 0.0, 0.17),
        _box("body", -0.25, -0.11, 1.0, 0.11),
        _box("second", 0.45, 0.1, 0.6, 0.42),
        _box("second", 0.78, 0.1, 0.95, 0.48),
    ),
    "lamp": (
        _bar("dark", (0.0, 0.0), (0.0, 0.85), width=0.12),
        _ellipse("second", 0.0, 0.85, 0.5, 0.14),
        _polygon("body", -0.35, -0.85, 0.35, -0.85, 0.75, 0.05, -0.75, 0.05),
    ),
    "star": (_star("body", corners=5, inner=0.42), _ellipse("second", 0.0, 0.0, 0.2)),
    "moon": (_crescent("body"), _ellipse("second", -0.45, 0.3, 0.14), _ellipse("second", -0.3, -0.5, 0.1)),
    "crown": (
        _polygon(
            "body",
            *(-0.85, 0.6, -0.95, -0.55, -0.45, 0.0, 0.0, -0.8, 0.45, 0.0, 0.95, -0.55, 0.85, 0.6),
        ),
        _box("second", -0.86, 0.42, 0.86, 0.7),
        _ellipse("light", 0.0, 0.2, 0.13),
    ),
    "bell": (
        _ellipse("dark", 0.0, 0.75, 0.17),
        _ellipse("second", 0.0, -0.85, 0.14),
        _polygon(
            "body",
            *(-0.85, 0.65, -0.55, 0.3, -0.5, -0.35, -0.25, -0.75),
            *(0.25, -0.75, 0.5, -0.35, 0.55, 0.3, 0.85, 0.65),
        ),
        _box("second", -0.6, 0.2, 0.6, 0.35),
    ),
}

FIGURES: dict[str, Figure] = {**ANIMALS, **PLANTS, **THINGS}


@dataclass(frozen=True)
class Placement:
    """Where a figure stands in its picture, in shares of the picture's side."""

    x: float
    y: float
    scale: float


def pose(
    figure: Sequence[Part], rng: np.random.Generator, *, size: int, place: Placement
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Turn, stretch, mirror and bend a figure, and put it into a picture.

    Args:
        figure: parts in [-1, 1] x [-1, 1].
        rng: where the pose is drawn from.
        size: side of the square picture, in pixels.
        place: centre and half side of the figure.

    Returns:
        (role, corners in whole pixels) per part, in drawing order.
    """
    angle = math.radians(float(rng.uniform(-12, 12)))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    stretch = float(rng.uniform(0.85, 1.15))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine = turn @ np.diag([mirror * stretch, 1 / stretch])
    wave, phase = rng.uniform(-2.5, 2.5, (2, 2)), rng.uniform(0, 2 * math.pi, 2)
    centre = np.array([place.x, place.y])
    placed = []
    for part in figure:
        points = np.array(part.points)
        bent = points + 0.07 * np.sin(points @ wave + phase)
        pixels = size * (centre + place.scale * (bent @ affine.T))
        # whole pixels: a last bit of sine that differs between platforms does not show
        placed.append((part.role, [(int(x), int(y)) for x, y in np.rint(pixels)]))
    return placed
