"""Choose images that stand for the uncertain ones: each choice covers uncertain images that nothing known is like.

    value(S) = sum_i u_i max(s(i, known), max_{j in S} s(i, j)),   s(i, j) = exp(4 (cos(i, j) - 1))

u is the uncertainty of an image, and cos that of the features less their mean. The value is submodular, so that the
greedy choice has at least 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher, 1978); as a rule for labelling it is
the facility location of Wei, Iyer and Bilmes (ICML 2015). An image that is uncertain but like no other gains little, so
that oddities do not come first, and a copy of a chosen image gains nothing.

>>> rows, none = np.array([[1.0, 0.0], [0.99, 0.14], [-1.0, 0.0]]), np.zeros((0, 2))
>>> [choice.row for choice in choose_covering(rows, np.array([1.0, 0.8, 0.9]), none, 2)]
[0, 2]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.runtime.products import host_products

Rows = npt.NDArray[np.float32]

SHARPNESS = 4.0  # of the similarity: the factor of cosines in the exponent
MOST = 4096  # images that are compared with one another; of more, the uncertain half and an even draw of the rest
BLOCK = 2048  # known images that are compared at once
FLOOR = 0.01  # uncertainty that every image has at least: where all are certain, the choices are still spread
LEAST = 1e-5  # share of all uncertainty that a choice must add, more than rounding does


@dataclass(frozen=True)
class Covering:
    """A chosen image: its row, and the value that it adds to those before."""

    row: int
    gain: float


def choose_covering(
    features: npt.NDArray[np.floating],
    uncertainty: npt.NDArray[np.floating],
    known: npt.NDArray[np.floating],
    count: int,
) -> list[Covering]:
    """Choose images greedily.

    Args:
        features: image features [N, D].
        uncertainty: u, at least 0 [N].
        known: features of images whose labels are known [M, D]; may be empty.
        count: how many to choose; fewer are returned where no other image adds anything.

    Returns:
        The choices, the one of the highest value first.
    """
    rows = _spread(uncertainty)
    centred = centre(features)
    near, weights = centred[rows], np.maximum(uncertainty[rows], FLOOR).astype(np.float32)
    covered = _cover(near, _less_mean(known, features)) if len(known) else np.zeros(len(rows), np.float32)
    with host_products():
        similar = _similarity(near @ near.T)
    chosen: list[Covering] = []
    while len(chosen) < min(count, len(rows)):
        gains = np.array([weights @ np.maximum(column - covered, 0) for column in similar])
        best = int(gains.argmax())
        if gains[best] <= LEAST * weights.sum():
            break
        chosen.append(Covering(int(rows[best]), float(gains[best])))
        covered = np.maximum(covered, similar[best])
    return chosen


def centre(features: npt.NDArray[np.floating]) -> Rows:
    """Return features less their mean, of unit norm again; of a single image, or of equal ones, as they are."""
    return _less_mean(features, features)


def _less_mean(features: npt.NDArray[np.floating], of: npt.NDArray[np.floating]) -> Rows:
    mean = of.astype(np.float64).mean(axis=0) if len(of) > 1 else 0.0
    away = features.astype(np.float64) - mean
    length = np.linalg.norm(away, axis=1, keepdims=True)
    found: Rows = np.where(length > 1e-6, away / np.maximum(length, 1e-6), features).astype(np.float32)
    return found


def _spread(uncertainty: npt.NDArray[np.floating]) -> npt.NDArray[np.integer]:
    """Return the rows that are compared: all, or the most uncertain and an even draw of the rest."""
    if len(uncertainty) <= MOST:
        return np.arange(len(uncertainty))
    order = np.argsort(-uncertainty, kind="stable")
    rest = np.sort(order[MOST // 2 :])
    even = rest[np.linspace(0, len(rest) - 1, MOST - MOST // 2).astype(int)]
    return np.sort(np.concatenate([order[: MOST // 2], even]))


def _cover(features: Rows, known: Rows) -> Rows:
    """Return the similarity of each image to the known image that is most like it."""
    nearest = np.full(len(features), -1.0, np.float32)
    for start in range(0, len(known), BLOCK):
        with host_products():
            nearest = np.maximum(nearest, (features @ known[start : start + BLOCK].T).max(axis=1))
    return _similarity(nearest)


def _similarity(cosines: Rows) -> Rows:
    found: Rows = np.exp(np.float32(SHARPNESS) * (cosines - 1))
    return found
