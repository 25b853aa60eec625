"""Gradients from forward passes only: by coordinates, along random directions, by forward-mode derivatives.

CGE probes both sides of every coordinate (SharpZO section 3.1, 2d queries); RGE averages central differences
along q Gaussian directions (section 3.2, 2q queries); forward mode takes the directional derivatives
themselves (`jvp`: no mu, no cancellation, two queries each). All probes of an estimate go to the loss as one
batch. A probe pair whose difference is not finite contributes nothing.

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
    """An objective of which only the values are known: points in, float32 losses out; it counts its queries."""

    def losses(self, w: mx.array) -> mx.array:
        """Points [P, d] -> losses [P]; P queries."""
        ...


class Loss(Values, Protocol):
    """What the optimisers know of an objective at most."""

    def image_losses(self, w: mx.array) -> mx.array:
        """Points [P, d] -> losses of the single images [P, N], whose mean over N is `losses`; P queries."""
        ...

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Points [P, d], directions [P, d] -> losses [P], directional derivatives [P]; 2P queries."""
        ...


@dataclass(frozen=True)
class Gradient:
    """An estimate of the gradient [d], and where asked for the mean over images of squared gradients [d]."""

    vector: mx.array
    fisher: mx.array | None = None


@dataclass(frozen=True)
class Slopes:
    """Derivatives along q directions [q], the losses around the point [q], and which are finite [q]."""

    values: mx.array
    losses: mx.array
    finite: mx.array


def check_estimator(kind: str, *, mu: float, directions: int | None) -> Estimator:
    """Return `kind` when it names an estimator that these settings allow.

    Raises:
        UserError: unknown name, mu <= 0 where differences are taken, or less than one direction.
    """
    if kind not in ESTIMATORS:
        raise UserError(f"unknown gradient estimator {kind!r}: choose one of {', '.join(ESTIMATORS)}")
    if kind != "forward" and not mu > 0:
        raise UserError(f"mu is {mu}: the probes of a difference must lie apart, choose a mu above 0")
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
    """The gradient of the loss at w by the named estimator.

    Args:
        kind: "cge" (2d queries), "rge" (2q) or "forward" (2q, or 2d and exact when `directions` is None).
        loss: the objective.
        w: the point [d].
        key: random key for the directions; unused where all coordinates are taken.
        mu: half the distance of two probes, in units of w; unused by "forward".
        directions: q; None means one for every ten coordinates with "rge".
        fisher: also the mean over images of squared gradients; "cge" only.

    Raises:
        UserError: what `check_estimator` refuses, or `fisher` with an estimator that cannot tell.
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
    """Central differences along every coordinate, in one batch of 2d points: g_j of METHOD eq. CGE.

    Args:
        loss: the objective.
        w: the point [d].
        mu: half the distance of two probes; the error of a smooth loss is mu^2/6 times its third derivative.
        fisher: also return the mean over images of squared per-image gradients [d], from the same passes.

    Returns:
        The gradient [d]; a coordinate whose pair is lost is zero.

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
    """Mean over q Gaussian directions u of the central difference along u, times u; one batch of 2q points.

    Args:
        loss: the objective.
        w: the point [d].
        key: random key.
        mu: half the distance of two probes in units of u.
        directions: q, the number of directions.
        mask: [d] of ones and zeros; directions live where it is one.

    Returns:
        An unbiased estimate of the masked gradient; on a linear loss g its variance in coordinate j is
        (||g||^2 + g_j^2) / q over the kept coordinates.

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
    """The gradient from exact directional derivatives: of all coordinates, or of q random directions.

    Args:
        loss: the objective.
        w: the point [d].
        key: random key; needed when `directions` is given.
        directions: q; None takes the d coordinates, which gives the exact gradient.
        mask: [d] of ones and zeros; the estimate is zero where it is zero.

    Source: forward gradients, Baydin et al. 2022, arXiv 2202.08587; METHOD "What a query costs".
    """
    if directions is None:
        slopes = derivative_slopes(loss, w, mx.eye(w.shape[0]))
        return Gradient(slopes.values if mask is None else slopes.values * mask)
    if key is None:
        raise ValueError("random directions need a key")
    u = random_directions(key, directions, w.shape[0], mask)
    return Gradient(along(derivative_slopes(loss, w, u), u))


def random_directions(key: mx.array, count: int, dimension: int, mask: mx.array | None = None) -> mx.array:
    """u ~ N(0, I) * mask, [count, dimension]."""
    u = mx.random.normal((count, dimension), key=key)
    return u if mask is None else u * mask


def difference_slopes(loss: Values, w: mx.array, u: mx.array, mu: float) -> Slopes:
    """[L(w + mu u) - L(w - mu u)] / (2 mu) along each row of u [q, d]; all 2q forwards are one batch."""
    return _differences(loss.losses(_both_sides(w, u, mu)), mu)


def derivative_slopes(loss: Loss, w: mx.array, u: mx.array) -> Slopes:
    """The derivative of L at w along each row of u [q, d], by forward-mode differentiation."""
    losses, derivatives = loss.jvp(mx.broadcast_to(w, u.shape), u)
    finite = mx.isfinite(derivatives)
    return Slopes(_finite_or_zero(derivatives), losses, finite)


def along(slopes: Slopes, u: mx.array) -> mx.array:
    """Mean over the finite directions of slope times direction: [q], [q, d] -> [d]."""
    return (slopes.values @ u) / mx.maximum(mx.sum(slopes.finite), 1)


def _both_sides(w: mx.array, u: mx.array, mu: float) -> mx.array:
    return mx.concatenate([w + mu * u, w - mu * u])  # [2q, d]


def _differences(losses: mx.array, mu: float) -> Slopes:
    upper, lower = mx.split(losses, 2)
    slopes = (upper - lower) / (2 * mu)
    return Slopes(_finite_or_zero(slopes), (upper + lower) / 2, mx.isfinite(slopes))


def _finite_or_zero(x: mx.array) -> mx.array:
    return mx.where(mx.isfinite(x), x, 0.0)
