"""The figures of the demonstration: twenty-four silhouettes, each a short list of polygons.

>>> len(FIGURES), FIGURES["tree"][0].role
(24, 'second')
"""

from __future__ import annotations

from sharpzo_mlx.demo.shapes import Figure, bar, box, crescent, ellipse, petals, polygon, star

ANIMALS: dict[str, Figure] = {
    "fish": (
        ellipse("body", -0.15, 0.0, 0.75, 0.45),
        polygon("second", 0.45, 0.0, 1.0, -0.45, 0.85, 0.0, 1.0, 0.45),
        polygon("second", -0.3, -0.38, 0.1, -0.75, 0.25, -0.35),
        ellipse("light", -0.55, -0.1, 0.12),
        ellipse("dark", -0.56, -0.1, 0.06),
    ),
    "bird": (
        ellipse("body", 0.0, 0.0, 0.6, 0.4, turn=-20),
        ellipse("body", 0.5, -0.45, 0.3),
        polygon("second", 0.75, -0.5, 1.05, -0.38, 0.75, -0.3),
        polygon("body", -0.45, 0.05, -1.05, 0.25, -0.95, 0.5, -0.4, 0.3),
        polygon("second", -0.3, -0.1, 0.35, -0.1, -0.1, 0.25, -0.5, 0.2),
        bar("dark", (-0.05, 0.35), (-0.05, 0.85), width=0.08),
        bar("dark", (0.2, 0.35), (0.2, 0.85), width=0.08),
        ellipse("dark", 0.58, -0.5, 0.07),
    ),
    "cat": (
        bar("body", (-0.5, 0.5), (-0.95, -0.2), width=0.16),
        ellipse("body", 0.0, 0.5, 0.5, 0.5),
        ellipse("body", 0.0, -0.3, 0.48, 0.42),
        polygon("body", -0.46, -0.3, -0.45, -0.95, -0.08, -0.62),
        polygon("body", 0.46, -0.3, 0.45, -0.95, 0.08, -0.62),
        ellipse("second", 0.0, 0.6, 0.25, 0.32),
        ellipse("dark", -0.18, -0.35, 0.08),
        ellipse("dark", 0.18, -0.35, 0.08),
        polygon("light", -0.08, -0.16, 0.08, -0.16, 0.0, -0.06),
    ),
    "rabbit": (
        ellipse("body", 0.0, 0.55, 0.48, 0.42),
        ellipse("body", 0.0, -0.05, 0.36, 0.34),
        ellipse("body", -0.2, -0.65, 0.13, 0.4, turn=-8),
        ellipse("body", 0.2, -0.65, 0.13, 0.4, turn=8),
        ellipse("second", -0.2, -0.65, 0.06, 0.28, turn=-8),
        ellipse("second", 0.2, -0.65, 0.06, 0.28, turn=8),
        ellipse("light", 0.42, 0.75, 0.16),
        ellipse("dark", -0.14, -0.1, 0.07),
        ellipse("dark", 0.14, -0.1, 0.07),
    ),
    "snail": (
        polygon("second", -0.95, 0.75, -0.9, 0.45, -0.6, 0.3, 0.6, 0.5, 1.0, 0.75),
        bar("second", (-0.8, 0.5), (-0.75, -0.1), width=0.2),
        bar("second", (-0.75, -0.05), (-0.95, -0.45), width=0.07),
        bar("second", (-0.7, -0.05), (-0.55, -0.45), width=0.07),
        ellipse("body", 0.2, 0.0, 0.62, 0.6),
        ellipse("dark", 0.2, 0.0, 0.4),
        ellipse("body", 0.24, 0.02, 0.27),
        ellipse("dark", 0.2, 0.02, 0.1),
    ),
    "butterfly": (
        ellipse("body", -0.5, -0.35, 0.5, 0.38, turn=30),
        ellipse("body", 0.5, -0.35, 0.5, 0.38, turn=-30),
        ellipse("second", -0.4, 0.4, 0.38, 0.32, turn=-30),
        ellipse("second", 0.4, 0.4, 0.38, 0.32, turn=30),
        ellipse("light", -0.55, -0.35, 0.16),
        ellipse("light", 0.55, -0.35, 0.16),
        ellipse("dark", 0.0, 0.05, 0.1, 0.65),
        bar("dark", (0.0, -0.5), (-0.25, -0.95), width=0.06),
        bar("dark", (0.0, -0.5), (0.25, -0.95), width=0.06),
    ),
    "turtle": (
        ellipse("second", 0.8, 0.1, 0.24, 0.2),
        ellipse("second", -0.45, 0.5, 0.17, 0.26),
        ellipse("second", 0.4, 0.5, 0.17, 0.26),
        polygon("second", -0.65, 0.25, -1.0, 0.5, -0.55, 0.45),
        polygon("body", -0.8, 0.35, -0.6, -0.25, -0.1, -0.55, 0.3, -0.4, 0.65, 0.35),
        polygon("dark", -0.35, 0.2, -0.2, -0.2, 0.1, -0.2, 0.2, 0.2),
        ellipse("dark", 0.85, 0.05, 0.06),
    ),
    "duck": (
        polygon("body", -1.0, -0.05, -0.6, 0.2, 0.6, 0.05, 0.7, 0.4, 0.3, 0.75, -0.5, 0.7, -0.85, 0.4),
        bar("body", (0.4, 0.35), (0.45, -0.4), width=0.32),
        ellipse("body", 0.48, -0.48, 0.3),
        polygon("second", 0.7, -0.55, 1.1, -0.4, 0.72, -0.3),
        polygon("second", -0.6, 0.25, 0.2, 0.25, -0.05, 0.5, -0.4, 0.5),
        ellipse("dark", 0.52, -0.55, 0.07),
    ),
}

PLANTS: dict[str, Figure] = {
    "tree": (
        box("second", -0.14, 0.1, 0.14, 1.0),
        ellipse("body", 0.0, -0.5, 0.5, 0.45),
        ellipse("body", -0.42, -0.1, 0.4, 0.36),
        ellipse("body", 0.42, -0.1, 0.4, 0.36),
    ),
    "mushroom": (
        polygon("light", -0.22, 0.0, 0.22, 0.0, 0.3, 0.95, -0.3, 0.95),
        polygon("body", -0.95, 0.1, -0.8, -0.4, -0.35, -0.75, 0.35, -0.75, 0.8, -0.4, 0.95, 0.1),
        ellipse("second", -0.4, -0.25, 0.16),
        ellipse("second", 0.15, -0.45, 0.14),
        ellipse("second", 0.5, -0.1, 0.12),
    ),
    "flower": (
        bar("second", (0.0, 0.0), (0.0, 1.0), width=0.1),
        ellipse("second", 0.28, 0.65, 0.28, 0.1, turn=-30),
        *petals(6),
        ellipse("dark", 0.0, -0.35, 0.2),
    ),
    "cactus": (
        box("body", -0.2, -0.9, 0.2, 0.6),
        box("body", -0.75, -0.05, -0.1, 0.17),
        box("body", -0.75, -0.5, -0.53, 0.17),
        box("body", 0.1, 0.1, 0.75, 0.32),
        box("body", 0.53, -0.35, 0.75, 0.32),
        polygon("second", -0.45, 0.5, 0.45, 0.5, 0.33, 1.0, -0.33, 1.0),
    ),
}

THINGS: dict[str, Figure] = {
    "house": (
        box("body", -0.7, -0.1, 0.7, 0.9),
        polygon("second", -0.95, -0.1, 0.0, -0.9, 0.95, -0.1),
        box("dark", -0.15, 0.35, 0.2, 0.9),
        box("light", -0.55, 0.1, -0.28, 0.4),
        box("light", 0.35, 0.1, 0.58, 0.4),
    ),
    "boat": (
        polygon("body", -0.95, 0.4, 0.95, 0.4, 0.6, 0.85, -0.65, 0.85),
        box("dark", -0.06, -0.95, 0.04, 0.4),
        polygon("second", 0.08, -0.9, 0.8, 0.25, 0.08, 0.25),
        polygon("light", -0.1, -0.6, -0.65, 0.25, -0.1, 0.25),
    ),
    "car": (
        box("body", -1.0, -0.05, 1.0, 0.4),
        polygon("body", -0.65, -0.05, -0.4, -0.5, 0.35, -0.5, 0.65, -0.05),
        polygon("light", -0.48, -0.08, -0.32, -0.4, -0.03, -0.4, -0.03, -0.08),
        polygon("light", 0.05, -0.08, 0.05, -0.4, 0.28, -0.4, 0.48, -0.08),
        ellipse("dark", -0.55, 0.42, 0.25),
        ellipse("dark", 0.55, 0.42, 0.25),
    ),
    "rocket": (
        polygon("second", -0.3, 0.2, -0.7, 0.8, -0.3, 0.65),
        polygon("second", 0.3, 0.2, 0.7, 0.8, 0.3, 0.65),
        polygon("body", -0.3, 0.7, -0.33, -0.3, 0.0, -1.0, 0.33, -0.3, 0.3, 0.7),
        polygon("dark", -0.2, 0.72, 0.2, 0.72, 0.0, 1.05),
        ellipse("light", 0.0, -0.2, 0.16),
    ),
    "umbrella": (
        bar("dark", (0.0, -0.9), (0.0, 0.8), width=0.09),
        bar("dark", (0.0, 0.8), (0.28, 0.7), width=0.1),
        polygon("body", -1.0, 0.1, -0.8, -0.45, -0.3, -0.8, 0.3, -0.8, 0.8, -0.45, 1.0, 0.1, 0.0, -0.05),
        polygon("second", -0.3, 0.0, 0.0, -0.8, 0.3, 0.0),
    ),
    "cup": (
        ellipse("second", 0.6, 0.05, 0.36, 0.36),
        ellipse("light", 0.6, 0.05, 0.2, 0.2),
        polygon("body", -0.7, -0.55, 0.55, -0.55, 0.4, 0.75, -0.55, 0.75),
        ellipse("dark", -0.08, -0.55, 0.6, 0.13),
    ),
    "key": (
        ellipse("body", -0.6, 0.0, 0.4, 0.4),
        ellipse("dark", -0.6, 0.0, 0.17),
        box("body", -0.25, -0.11, 1.0, 0.11),
        box("second", 0.45, 0.1, 0.6, 0.42),
        box("second", 0.78, 0.1, 0.95, 0.48),
    ),
    "lamp": (
        bar("dark", (0.0, 0.0), (0.0, 0.85), width=0.12),
        ellipse("second", 0.0, 0.85, 0.5, 0.14),
        polygon("body", -0.35, -0.85, 0.35, -0.85, 0.75, 0.05, -0.75, 0.05),
    ),
    "star": (star("body", corners=5, inner=0.42), ellipse("second", 0.0, 0.0, 0.2)),
    "moon": (crescent("body"), ellipse("second", -0.45, 0.3, 0.14), ellipse("second", -0.3, -0.5, 0.1)),
    "crown": (
        polygon(
            "body",
            *(-0.85, 0.6, -0.95, -0.55, -0.45, 0.0, 0.0, -0.8, 0.45, 0.0, 0.95, -0.55, 0.85, 0.6),
        ),
        box("second", -0.86, 0.42, 0.86, 0.7),
        ellipse("light", 0.0, 0.2, 0.13),
    ),
    "bell": (
        ellipse("dark", 0.0, 0.75, 0.17),
        ellipse("second", 0.0, -0.85, 0.14),
        polygon(
            "body",
            *(-0.85, 0.65, -0.55, 0.3, -0.5, -0.35, -0.25, -0.75),
            *(0.25, -0.75, 0.5, -0.35, 0.55, 0.3, 0.85, 0.65),
        ),
        box("second", -0.6, 0.2, 0.6, 0.35),
    ),
}

FIGURES: dict[str, Figure] = {**ANIMALS, **PLANTS, **THINGS}
