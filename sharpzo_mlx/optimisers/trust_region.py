"""Minimise a convex model inside a ball: Newton's method with damping, for the steps of `gauss_newton`.

The model is known by its value, gradient and Hessian at any point of a few coefficients a [q]; all arithmetic is
float64.

>>> in_ball(np.array([3.0, 4.0]), np.eye(2), radius=0.5).round(3)
array([-0.3, -0.4])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

import numpy as np

ITERATIONS = 16  # of Newton's method at most, halvings included; two to four is usual
CONVERGED = 1e-3  # of the radius
BISECTIONS = 60
FLAT = 1e-8  # damping where the model alone would do, as a share of its largest curvature

Expanded: TypeAlias = tuple[float, np.ndarray, np.ndarray]  # value, gradient [q], Hessian [q, q], float64


class Expansion(Protocol):
    """A convex model of the loss as a function of coefficients a [q]."""

    def __call__(self, a: np.ndarray) -> Expanded:
        """Return the model's value, gradient [q] and Hessian [q, q] at a."""
        ...


def minima(expansion: Expansion, at_zero: Expanded, radii: Sequence[float]) -> np.ndarray:
    """Return the model's minima inside balls of rising radius, [len(radii), q], float64; see `minimise`.

    Args:
        expansion: the model; convex.
        at_zero: the model at a = 0, where the first search begins.
        radii: of the balls.
    """
    known: Expanded | None = at_zero
    found, a = [], np.zeros(len(at_zero[1]))
    for radius in radii:
        a = minimise(expansion, radius, a, known=known)
        found.append(a)
        known = None
    return np.array(found)


def minimise(expansion: Expansion, radius: float, start: np.ndarray, *, known: Expanded | None = None) -> np.ndarray:
    """Return the a of length at most `radius` at which the model is lowest, by Newton's method with damping.

    Args:
        expansion: the model; convex.
        radius: of the ball, above 0.
        start: where Newton's method begins [q], of length at most `radius`.
        known: the model at the start, if it has been computed.

    Returns:
        a [q], float64; the start if the model is not finite.
    """
    a = lowest = start
    least = np.inf  # the model's value at `lowest`
    for _ in range(ITERATIONS):
        value, gradient, hessian = known or expansion(a)
        known = None
        if not (np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))):
            return start
        if value > least:  # too far: the curvature at the last point was not that on the way
            a = (a + lowest) / 2
            continue
        least, lowest = value, a
        a = in_ball(gradient - hessian @ a, hessian, radius)
        if float(np.linalg.norm(a - lowest)) < CONVERGED * radius:
            return a
    return lowest


def in_ball(slope: np.ndarray, hessian: np.ndarray, radius: float) -> np.ndarray:
    """Return the minimum of slope . x + x . hessian x / 2 over |x| <= radius, for a positive semidefinite Hessian."""
    curvatures, axes = np.linalg.eigh(hessian)
    curvatures, pull = np.maximum(curvatures, 0), -(axes.T @ slope)
    strength = float(np.linalg.norm(pull))
    if strength == 0:
        return np.zeros_like(slope)

    def point(damping: float) -> np.ndarray:
        return cast(np.ndarray, pull / (curvatures + damping))

    # |x| falls as damping grows; at strength / radius it is inside the ball for certain
    high = strength / radius
    low = FLAT * max(float(curvatures[-1]), high)
    if np.linalg.norm(point(low)) <= radius:
        return cast(np.ndarray, axes @ point(low))
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if np.linalg.norm(point(middle)) > radius else (low, middle)
    return cast(np.ndarray, axes @ point(high))
