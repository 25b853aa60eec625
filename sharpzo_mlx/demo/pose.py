"""Place a figure in a picture: turned, stretched, mirrored and bent at random, so that no two drawings are alike.

>>> parts = pose(FIGURES["cat"], generator_for(0, "cat"), size=128, place=Placement(0.5, 0.5, 0.4))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.demo.shapes import Part
from sharpzo_mlx.runtime.products import host_products


@dataclass(frozen=True)
class Placement:
    """Where a figure stands in its picture, in shares of the picture's side: centre, and half its own side."""

    x: float
    y: float
    scale: float


@host_products()
def pose(
    figure: Sequence[Part], rng: np.random.Generator, *, size: int, place: Placement
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Turn, stretch, mirror and bend a figure, and place it in a picture.

    Args:
        figure: parts in [-1, 1] x [-1, 1].
        rng: the generator that the pose is drawn from.
        size: side of the square picture, in pixels.
        place: centre and half side of the figure.

    Returns:
        The role and the corners (whole pixels) of each part, in drawing order.
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
