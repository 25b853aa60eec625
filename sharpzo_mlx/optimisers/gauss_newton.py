"""A step of stage 2 that reads more of its forwards than their loss: Gauss-Newton in a random subspace.

A forward gives not the loss alone but what the loss is made of, and how the loss depends on that is known: L(w) =
h(c(w)) with h convex. So q forwards at w + mu u_j and one at w give c and its slopes along q orthonormal directions,
and the minimum of h over the linear model c + sum_j a_j slope_j inside a ball, |a| <= radius, is a move: forward
passes only, as in SharpZO's stage 2 (section 3.2). How far the model holds is tried: one forward at the minima of half
the last radius, of the same and of twice as much; the lowest loss is the next point and its radius the next radius.
Where none is lower than at w, w stays and the radius shrinks; steps that explore move all the same and begin with the
first radius each. q + 4 queries in all. The last move is one of the directions, so that what was found is not
forgotten.

>>> u = directions(key, 32, mask, last_move)  # doctest: +SKIP
>>> moves = minima(expansion, expansion(np.zeros(32)), trial_radii(4.0, first_radius=4.0)) @ u  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

import mlx.core as mx
import numpy as np

ITERATIONS = 16  # of Newton's method at most, halvings included; two to four is usual
CONVERGED = 1e-3  # of the radius
BISECTIONS = 60
FLAT = 1e-8  # damping where the model alone would do, as a share of its largest curvature
RADII = (0.5, 1.0, 2.0)  # trials of a step, in units of the last radius
REJECTED = 0.25  # the radius after a step without a better point, in the same units
LEAST, MOST = 1 / 64, 8.0  # of the first radius


Expanded: TypeAlias = tuple[float, np.ndarray, np.ndarray]  # value, gradient [q], Hessian [q, q], float64


class Expansion(Protocol):
    """h over a linear model, at coefficients a [q]."""

    def __call__(self, a: np.ndarray) -> Expanded: ...


def directions(key: mx.array, q: int, mask: mx.array, first: mx.array) -> mx.array:
    """Orthonormal directions inside a mask: the first along `first` (unless that is zero), the others at random.

    Args:
        key: random key.
        q: how many; never more than the mask has ones.
        mask: [d], ones and zeros.
        first: [d].

    Returns:
        [q, d].
    """
    held = np.flatnonzero(np.array(mask))
    drawn = np.array(mx.random.normal((q, mask.shape[0]), key=key), np.float64)[:, held]
    kept = np.array(first, np.float64)[held]
    if np.any(kept):
        drawn[0] = kept / np.linalg.norm(kept) * np.sqrt(len(held))
    basis = np.linalg.qr(drawn[: len(held)].T)[0].T
    found = np.zeros((len(basis), mask.shape[0]), np.float32)
    found[:, held] = basis
    return mx.array(found)


def trial_radii(radius: float, *, first_radius: float) -> tuple[float, ...]:
    """The radii that a step tries, none below the one before; `first_radius` bounds them, so that two may be alike."""
    return tuple(_bounded(share * radius, first_radius) for share in RADII)


def after_rejection(radius: float, *, first_radius: float) -> float:
    """The radius after a step that found no lower loss."""
    return _bounded(REJECTED * radius, first_radius)


def _bounded(radius: float, first_radius: float) -> float:
    return min(max(radius, LEAST * first_radius), MOST * first_radius)


def minima(expansion: Expansion, at_zero: Expanded, radii: Sequence[float]) -> np.ndarray:
    """The model's minima inside balls of rising radius, [len(radii), q], float64; see `minimise`.

    Args:
        expansion: the model; convex.
        at_zero: its expansion at a = 0, where the first search begins.
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
    """The a of length at most `radius` at which the model is lowest, by Newton's method with damping.

    Args:
        expansion: the model; convex.
        radius: of the ball, above 0.
        start: where Newton's method begins [q], of length at most `radius`.
        known: the expansion there, if it has been computed.

    Returns:
        a [q], float64; the start where the model is not finite.
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
    """The minimum of slope . x + x . hessian x / 2 over |x| <= radius, the Hessian being positive semidefinite."""
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
