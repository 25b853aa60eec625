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

ROUNDS = 60  # Newton steps, at most
HALVINGS = 40  # of a step that raises the loss, at most
LONGEST = 2.0  # change of a logarithm in one step, at most
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
    value = posterior.value(at)
    for _ in range(ROUNDS):
        slope, curvature = posterior.derivatives(at)
        step = np.clip(np.linalg.solve(curvature, slope), -LONGEST, LONGEST)
        length = 1.0
        while posterior.value(at - length * step) > value and length > 2.0**-HALVINGS:
            length /= 2
        before, now = value, posterior.value(at - length * step)
        if before - now < SMALL:
            break
        at, value = at - length * step, now
    return Chosen(np.exp(at), value)


class _Posterior:
    """The negative logarithm of the posterior probability as a function of the logarithms of the shares [P]."""

    def __init__(self, logits: Array, labels: npt.NDArray[np.integer], prior: Prior) -> None:
        self.logits = logits - logits.mean(axis=2, keepdims=True)
        self.own = self.logits[:, np.arange(len(labels)), labels]  # [P, N]
        self.centres, self.widths = np.log(prior.centres), prior.widths

    def value(self, at: Array) -> float:
        shares = np.exp(at)
        summed = np.tensordot(shares, self.logits, 1)  # [N, K]
        top = summed.max(axis=1) if len(summed) else np.zeros(0)
        likelihood = (top + np.log(np.exp(summed - top[:, None]).sum(axis=1))).sum() - (shares @ self.own).sum()
        return float(likelihood + 0.5 * (((at - self.centres) / self.widths) ** 2).sum())

    def derivatives(self, at: Array) -> tuple[Array, Array]:
        """Return the gradient [P] and a positive definite bound of the Hessian [P, P]."""
        shares = np.exp(at)
        summed = np.tensordot(shares, self.logits, 1)
        powers = np.exp(summed - summed.max(axis=1, keepdims=True)) if len(summed) else summed
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        means = (probabilities * self.logits).sum(axis=2)  # [P, N]
        slope = shares * (means - self.own).sum(axis=1)
        centred = self.logits - means[:, :, None]
        weighted = centred * probabilities
        parts = len(shares)
        curvature = np.array([[np.vdot(weighted[i], centred[j]) for j in range(parts)] for i in range(parts)])
        curvature = curvature * np.outer(shares, shares) + np.diag(np.maximum(slope, 0) + 1 / self.widths**2)
        return slope + (at - self.centres) / self.widths**2, curvature
