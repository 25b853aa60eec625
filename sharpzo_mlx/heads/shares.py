"""Choose the weights of several classifiers in the sum of their logits, from left-out logits and a prior by shots.

    logits = sum_p share_p * logits_p,   share_p > 0

The shares have the highest posterior probability: the likelihood is that of the labels of left-out images, and the
prior of each logarithm is normal. With many images the prior says nothing; with one or two images a class, where a few
labels would decide by chance, it does. Its centres and widths come from a study over ten sets (docs/results/heads.md):
the weight that log-densities of Gaussians deserve grows with the images a class, because the error of the class means
falls.

>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(0, 3, 60)
>>> good, noise = 4 * np.eye(3)[labels] + rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
>>> prior = Prior(np.ones(2), np.full(2, 2.0))
>>> shares = choose_shares(np.stack([good, noise]), labels, prior)
>>> bool(shares.values[0] > 5 * shares.values[1])
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import Array
from sharpzo_mlx.runtime.products import host_products

ROUNDS = 60  # Newton steps, at most
HALVINGS = 40  # of a step that raises the loss, at most
LONGEST = 2.0  # change of a logarithm in one step, at most
BLOCK = 1 << 15  # logits of a classifier that are looked at together: they stay in the processor's cache
SMALL = 1e-8  # decrease of the loss in nats at which the steps end


@dataclass(frozen=True)
class Prior:
    """Independent normal distributions of the logarithms of P shares.

    Attributes:
        centres: the shares at the centres [P].
        widths: the standard deviations of the logarithms [P].
    """

    centres: Array
    widths: Array


@dataclass(frozen=True)
class Chosen:
    """The shares [P] of the highest posterior probability, and its negative logarithm in nats (up to a constant)."""

    values: Array
    loss: float


def image_share(shots: float) -> float:
    """Return the centre of the prior of the Gaussians' share, for so many images a class."""
    return 0.0075 * math.pow(shots, 1.25) / (1 + math.pow(shots / 25, 1.25))


def make_prior(shots: float) -> Prior:
    """Return the prior of the shares of the text, the Gaussians, and the text in the Gaussians' metric.

    Args:
        shots: labelled images a class, the mean over the classes.
    """
    return Prior(np.array([1.0, image_share(shots), 0.005]), np.array([2.0, 0.7, 1.5]))


def choose_shares(logits: Array, labels: npt.NDArray[np.integer], prior: Prior) -> Chosen:
    """Return the shares with the highest posterior probability.

    Args:
        logits: [P, N, K] of P classifiers on images that they were not fitted to; N may be 0.
        labels: [N].
        prior: of the P shares.
    """
    posterior = _Posterior(logits, labels, prior)
    at = np.log(prior.centres)
    now = posterior.look(at)
    for _ in range(ROUNDS):
        step = np.clip(np.linalg.solve(now.curvature, now.slope), -LONGEST, LONGEST)
        length = 1.0
        while (then := posterior.look(at - length * step)).value > now.value and length > 2.0**-HALVINGS:
            length /= 2
        if now.value - then.value < SMALL:
            break
        at, now = at - length * step, then
    return Chosen(np.exp(at), now.value)


@dataclass(frozen=True)
class _Place:
    """The posterior at one point: its value, its gradient [P], and a positive definite bound of its Hessian [P, P]."""

    value: float
    slope: Array
    curvature: Array


class _Posterior:
    """The negative logarithm of the posterior probability as a function of the logarithms of the shares [P]."""

    def __init__(self, logits: Array, labels: npt.NDArray[np.integer], prior: Prior) -> None:
        self.logits = logits - logits.mean(axis=2, keepdims=True)
        self.own = self.logits[:, np.arange(len(labels)), labels].sum(axis=1)  # [P]
        self.centres, self.widths = np.log(prior.centres), prior.widths

    @host_products()
    def look(self, at: Array) -> _Place:
        """Return value, gradient and curvature, from one block of the images after another."""
        shares = np.exp(at)
        parts, images, classes = self.logits.shape
        value, slope, curvature = -float(shares @ self.own), -self.own, np.zeros((parts, parts))
        rows = max(1, BLOCK // classes)
        for start in range(0, images, rows):
            logits = self.logits[:, start : start + rows]
            powers = np.tensordot(shares, logits, 1)  # [n, K]: the summed logits at first
            top = powers.max(axis=1)
            np.exp(powers - top[:, None], out=powers)
            total = powers.sum(axis=1)
            powers /= total[:, None]
            weighted = logits * powers
            means = weighted.sum(axis=2)  # [P, n]
            value += float((top + np.log(total)).sum())
            slope = slope + means.sum(axis=1)
            curvature += weighted.reshape(parts, -1) @ logits.reshape(parts, -1).T - means @ means.T
        slope, away = shares * slope, (at - self.centres) / self.widths
        curvature = curvature * np.outer(shares, shares) + np.diag(np.maximum(slope, 0) + 1 / self.widths**2)
        return _Place(value + 0.5 * float((away**2).sum()), slope + away / self.widths, curvature)
