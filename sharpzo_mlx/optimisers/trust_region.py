"""Minimise a convex model inside balls: a quasi-Newton method, for the steps of `gauss_newton`.

The model tells its value and its gradient at any point of a few coefficients a [q], and at a higher price its
curvature, which may be rough. It is asked for at a = 0, and again only in a ball whose minimum is not found soon. In
between, the change of the gradient from point to point corrects it (BFGS; Nocedal and Wright, Numerical Optimization,
eq. 6.19). A rough curvature costs some more gradients and does not shift the minimum. All arithmetic is float64.

>>> in_ball(np.array([3.0, 4.0]), np.eye(2), radius=0.5).round(3)
array([-0.3, -0.4])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np

GRADIENTS = 16  # for one ball at most; one to three is usual
RENEWED = 3  # gradients for one ball after which the curvature is computed anew
CONVERGED = 2e-2  # of the radius: the last move, which is made without another look, leaves a smaller error
NOISE = 1e-7  # gains of the model's value that rounding hides
ROUNDS = 40  # of the search for the damping; four to six is usual
EXACT = 1e-9  # relative error of the length at which it ends
FLAT = 1e-8  # damping where the model alone would do, as a share of its largest curvature

Expanded: TypeAlias = tuple[float, np.ndarray, np.ndarray]  # value, gradient [q], curvature [q, q], float64


class Expansion(Protocol):
    """A convex model of the loss as a function of coefficients a [q]."""

    def at_zero(self) -> Expanded:
        """Return the model's value, gradient [q] and curvature [q, q] at a = 0; the curvature may be rough."""
        ...

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the model's value and gradient [q] at a."""
        ...

    def curvature(self, a: np.ndarray) -> np.ndarray:
        """Return the model's curvature [q, q] at a, perhaps roughly."""
        ...


@dataclass(frozen=True)
class Known:
    """What is known of the model around a point a [q]: its value, its gradient [q] and its curvature [q, q]."""

    a: np.ndarray
    value: float
    gradient: np.ndarray
    curvature: np.ndarray

    def minimum(self, radius: float) -> np.ndarray:
        """Return where this quadratic model is lowest inside the ball around 0 [q]."""
        return in_ball(self.gradient - self.curvature @ self.a, self.curvature, radius)

    def gain(self, move: np.ndarray) -> float:
        """Return how much lower this quadratic model is after a move [q] from the point."""
        return float(-move @ (self.gradient + self.curvature @ move / 2))


def minima(expansion: Expansion, at_zero: Expanded, radii: Sequence[float]) -> np.ndarray:
    """Return the model's minima inside balls of rising radius, [len(radii), q], float64.

    Args:
        expansion: the model; convex.
        at_zero: the model at a = 0, where the search begins.
        radii: of the balls, above 0.

    Returns:
        One row a ball, exact to less than CONVERGED of its radius; zeros if the model at a = 0 is not finite.
    """
    if not all(np.all(np.isfinite(part)) for part in at_zero):
        return np.zeros((len(radii), len(at_zero[1])))
    known, found = Known(np.zeros(len(at_zero[1])), *at_zero), []
    for radius in radii:
        a, known = _descend(expansion, known, radius)
        found.append(a)
    return np.array(found)


def _descend(expansion: Expansion, known: Known, radius: float) -> tuple[np.ndarray, Known]:
    """Return the minimum inside the ball [q], and what is known then around the lowest point that was looked at."""
    longest = np.inf
    for taken in range(GRADIENTS):
        a = known.minimum(radius)
        move = a - known.a
        length = float(np.linalg.norm(move))
        if length < CONVERGED * radius or known.gain(move) < NOISE:
            return a, known
        move *= min(1.0, longest / length)
        value, gradient = expansion(known.a + move)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            break
        if value > known.value + NOISE:
            longest = float(np.linalg.norm(move)) / 2  # too far: the curvature there is not that on the way
            continue
        if taken < RENEWED:
            curvature = corrected(known.curvature, move, gradient - known.gradient)
        else:
            curvature = expansion.curvature(known.a + move)
        known, longest = Known(known.a + move, value, gradient, curvature), 2 * longest
    return known.a, known


def corrected(curvature: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return a curvature [q, q] that explains how the gradient changed [q] along a move [q]; BFGS.

    A positive semidefinite curvature stays so. One that rounding lets appear negative along the move changes nothing.
    """
    along, before = float(move @ change), curvature @ move
    bent = float(move @ before)
    if along <= FLAT * float(np.linalg.norm(move) * np.linalg.norm(change)):
        return curvature
    lost = np.outer(before, before) / bent if bent > 0 else 0.0
    return cast(np.ndarray, curvature - lost + np.outer(change, change) / along)


def in_ball(slope: np.ndarray, hessian: np.ndarray, radius: float) -> np.ndarray:
    """Return the minimum of slope . x + x . hessian x / 2 over |x| <= radius, for a positive semidefinite Hessian."""
    curvatures, axes = np.linalg.eigh(hessian)
    curvatures, pull = np.maximum(curvatures, 0), -(axes.T @ slope)
    strength = float(np.linalg.norm(pull))
    if strength == 0:
        return np.zeros_like(slope)
    largest = float(curvatures[-1])
    # |x| falls as damping grows, and is radius at a damping of strength / radius - largest at least
    damping = max(FLAT * max(largest, strength / radius), strength / radius - largest)
    for _ in range(ROUNDS):
        x = pull / (curvatures + damping)
        length = float(np.linalg.norm(x))
        if length <= radius * (1 + EXACT):
            break
        # Newton's method for 1 / |x| = 1 / radius, which is concave in the damping: it never goes too far
        damping += (length / radius - 1) * length**2 / float(x @ (x / (curvatures + damping)))
    return cast(np.ndarray, axes @ x)
