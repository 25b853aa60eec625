"""Estimate gradients from forward passes alone: coordinate by coordinate, along random directions, or by jvp.

CGE probes both sides of every coordinate (SharpZO, arXiv 2506.20990, section 3.1; 2d queries). RGE averages central
differences along q Gaussian directions (section 3.2; 2q queries). Forward mode takes exact directional derivatives
(`jvp`; two queries each), which need no mu and cancel no digits. All probes of an estimate are one batch. A pair of
probes whose difference is not finite is left out.

>>> gradient = cge(loss, w, mu=1e-3)  # doctest: +SKIP
>>> gradient.vector.shape  # doctest: +SKIP
(512,)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, get_args

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import Estimator

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


class Values(Protocol):
    """An objective that returns losses and counts its queries."""

    def losses(self, w: mx.array) -> mx.array:
        """Return the losses [P] (float32) of points [P, d]; P queries."""
        ...


class Loss(Values, Protocol):
    """An objective that also returns losses of single images and directional derivatives."""

    def image_losses(self, w: mx.array) -> mx.array:
        """Return the losses [P, N] of N images at points [P, d]; `losses` is their mean over N; P queries."""
        ...

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Return losses [P] and derivatives [P] along u [P, d] at points [P, d]; 2P queries."""
        ...


@dataclass(frozen=True)
class Gradient:
    """An estimate of the gradient.

    Attributes:
        vector: the gradient [d].
        fisher: mean over images of the squared gradients of single images [d], where it was asked for.
    """

    vector: mx.array
    fisher: mx.array | None = None


@dataclass(frozen=True)
class Slopes:
    """Derivatives of the loss along q directions.

    Attributes:
        values: the derivatives [q]; 0 where they are not finite.
        losses: the loss at the point, or the mean loss of the two probes, per direction [q].
        finite: whether the derivative is finite [q].
    """

    values: mx.array
    losses: mx.array
    finite: mx.array


def check_estimator(kind: str, *, mu: float, directions: int | None) -> Estimator:
    """Return `kind` if it names an estimator and the settings fit it.

    Args:
        kind: name of an estimator.
        mu: half the distance of two probes, in units of w.
        directions: number of random directions, or None for the estimator's default.

    Raises:
        UserError: the name is unknown, mu is not above 0 where differences are taken, or directions is below 1.
    """
    if kind not in ESTIMATORS:
        raise UserError(f"unknown gradient estimator {kind!r}: choose one of {', '.join(ESTIMATORS)}")
    if kind != "forward" and not mu > 0:
        raise UserError(f"mu is {mu}: the two probes of a difference must not coincide, choose a mu above 0")
    if directions is not None and directions < 1:
        raise UserError(f"directions is {directions}: at least one random direction is needed")
    return kind


def estimate(
    kind: Estimator,
    loss: Loss,
    w: mx.array,
    key: mx.array,
    *,
    mu: float,
    directions: int | None = None,
    fisher: bool = False,
) -> Gradient:
    """Estimate the gradient of the loss at w with the named estimator.

    Args:
        kind: "cge" (2d queries), "rge" (2q), or "forward" (2q; exact with 2d where `directions` is None).
        loss: the objective.
        w: the point [d].
        key: random key of the directions; unused where all coordinates are taken.
        mu: half the distance of two probes, in units of w; unused by "forward".
        directions: q; None means d / 10 for "rge" and all coordinates for "forward".
        fisher: whether to return the mean over images of squared gradients as well; "cge" only.

    Raises:
        UserError: `check_estimator` refuses the settings, or `fisher` is asked of another estimator than "cge".
    """
    kind = check_estimator(kind, mu=mu, directions=directions)
    if fisher and kind != "cge":
        raise UserError(f"the estimator {kind!r} does not see single images: use 'cge' for the Fisher term")
    if kind == "cge":
        return cge(loss, w, mu=mu, fisher=fisher)
    if kind == "rge":
        return rge(loss, w, key, mu=mu, directions=directions or max(1, w.shape[0] // 10))
    return forward_mode(loss, w, key, directions=directions)


def cge(loss: Loss, w: mx.array, *, mu: float, fisher: bool = False) -> Gradient:
    """Estimate the gradient by central differences along every coordinate, in one batch of 2d points.

    Args:
        loss: the objective.
        w: the point [d].
        mu: half the distance of two probes, in units of w. The error is mu^2 / 6 times the third derivative.
        fisher: whether to return the mean over images of squared gradients [d] as well; it costs no further query.

    Returns:
        The gradient; an entry is zero where the difference is not finite.

    Source: SharpZO section 3.1 (the gradient in eps*), section 3.2 (the Fisher term).
    """
    probes = _both_sides(w, mx.eye(w.shape[0]), mu)
    if not fisher:
        slopes = _differences(loss.losses(probes), mu)
        return Gradient(slopes.values)
    by_image = loss.image_losses(probes)  # [2d, N]
    upper, lower = mx.split(by_image, 2)
    per_image = _finite_or_zero((upper - lower) / (2 * mu))  # [d, N]
    slopes = _differences(mx.mean(by_image, axis=1), mu)
    return Gradient(slopes.values, mx.mean(mx.square(per_image), axis=1))


def rge(
    loss: Loss, w: mx.array, key: mx.array, *, mu: float, directions: int, mask: mx.array | None = None
) -> Gradient:
    """Estimate the gradient by central differences along q Gaussian directions, in one batch of 2q points.

    Args:
        loss: the objective.
        w: the point [d].
        key: random key.
        mu: half the distance of two probes, in units of the direction's length.
        directions: q, the number of directions.
        mask: [d] of ones and zeros; directions are zero where it is zero. None: no mask.

    Returns:
        The mean of difference times direction. On a linear loss with gradient g it is unbiased for the masked
        gradient, with variance (||g||^2 + g_j^2) / q in coordinate j, over the coordinates in the mask.

    Source: SharpZO eq. 5 (q = 1 there).
    """
    u = random_directions(key, directions, w.shape[0], mask)
    return Gradient(along(difference_slopes(loss, w, u, mu), u))


def forward_mode(
    loss: Loss,
    w: mx.array,
    key: mx.array | None = None,
    *,
    directions: int | None = None,
    mask: mx.array | None = None,
) -> Gradient:
    """Compute the gradient from exact derivatives along all coordinates, or estimate it from q random directions.

    Args:
        loss: the objective; two queries a direction.
        w: the point [d].
        key: random key; needed where `directions` is given.
        directions: q; None takes the d coordinates, which gives the exact gradient.
        mask: [d] of ones and zeros; the result is zero where it is zero. None: no mask.

    Source: forward gradients, Baydin et al. 2022, arXiv 2202.08587.
    """
    if directions is None:
        slopes = derivative_slopes(loss, w, mx.eye(w.shape[0]))
        return Gradient(slopes.values if mask is None else slopes.values * mask)
    if key is None:
        raise ValueError("random directions need a key")
    u = random_directions(key, directions, w.shape[0], mask)
    return Gradient(along(derivative_slopes(loss, w, u), u))


def random_directions(key: mx.array, count: int, dimension: int, mask: mx.array | None = None) -> mx.array:
    """Draw directions u ~ N(0, I) * mask, [count, dimension]."""
    u = mx.random.normal((count, dimension), key=key)
    return u if mask is None else u * mask


def difference_slopes(loss: Values, w: mx.array, u: mx.array, mu: float) -> Slopes:
    """Return [L(w + mu u) - L(w - mu u)] / (2 mu) for each row of u [q, d], from one batch of 2q points."""
    return _differences(loss.losses(_both_sides(w, u, mu)), mu)


def derivative_slopes(loss: Loss, w: mx.array, u: mx.array) -> Slopes:
    """Return the exact derivative of L at w along each row of u [q, d], by forward-mode differentiation."""
    losses, derivatives = loss.jvp(mx.broadcast_to(w, u.shape), u)
    finite = mx.isfinite(derivatives)
    return Slopes(_finite_or_zero(derivatives), losses, finite)


def along(slopes: Slopes, u: mx.array) -> mx.array:
    """Return the mean [d] of slope times direction over the finite ones among q directions u [q, d]."""
    return (slopes.values @ u) / mx.maximum(mx.sum(slopes.finite), 1)


def _both_sides(w: mx.array, u: mx.array, mu: float) -> mx.array:
    """Return the probes [2q, d] of directions u [q, d]: all w + mu u, then all w - mu u."""
    return mx.concatenate([w + mu * u, w - mu * u])


def _differences(losses: mx.array, mu: float) -> Slopes:
    """Return the slopes [q] from the losses [2q] of the probes of `_both_sides`."""
    upper, lower = mx.split(losses, 2)
    slopes = (upper - lower) / (2 * mu)
    return Slopes(_finite_or_zero(slopes), (upper + lower) / 2, mx.isfinite(slopes))


def _finite_or_zero(x: mx.array) -> mx.array:
    return mx.where(mx.isfinite(x), x, 0.0)
