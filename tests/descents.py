"""Zeroth-order SGD on a quadratic bowl: the landscape, an optimiser with the paper's settings, runs of some steps."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.optimisers.params import PruningParams, ZOSGDParams
from sharpzo_mlx.optimisers.zo_sgd import ZOSGD, ZOState
from sharpzo_mlx.rng import key_for


class Bowl:
    """L(w) = sum scale (w - 1)^2 / 2 as the mean of four images, keeping the size of every batch."""

    def __init__(self, dimension: int, steepest: float = 3.0) -> None:
        self.scale = mx.array(np.geomspace(1, steepest, dimension).astype(np.float32))
        self.batches: list[int] = []

    def losses(self, w: mx.array) -> mx.array:
        return mx.mean(self.image_losses(w), axis=1)

    def image_losses(self, w: mx.array) -> mx.array:
        self.batches.append(w.shape[0])
        loss = mx.sum(self.scale * mx.square(w - 1), axis=1, keepdims=True) / 2
        return loss * mx.array([0.5, 1.0, 1.0, 1.5])

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        (values,), (derivatives,) = mx.jvp(self.losses, [w], [u])
        return values, derivatives

    def features(self, w: mx.array) -> mx.array:
        self.batches.append(w.shape[0])
        return w - 1

    def linearised(self, features: mx.array, slopes: mx.array) -> Any:
        start, along, scale = (np.array(x, np.float64) for x in (features, slopes, self.scale))

        def expansion(a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            x = start + a @ along
            return float(scale @ x**2) / 2, along @ (scale * x), (along * scale) @ along.T

        return expansion


class Cliff(Bowl):
    """The same, but infinite where the first coordinate is above its start."""

    def losses(self, w: mx.array) -> mx.array:
        return mx.where(w[:, 0] > 0, mx.inf, super().losses(w))


def optimiser(
    *,
    keep: float = 0.5,
    metric: Any = "zscore-squared",
    mask_interval: int = 200,
    mask_estimator: Any = "cge",
    mask_mu: float = 1e-2,
    total_steps: int = 20_000,
    **steps: Any,
) -> ZOSGD:
    """The paper's steps and masks, some settings changed."""
    paper: dict[str, Any] = {"learning_rate": 1e-3, "mu": 1e-3, "schedule": "constant", "averaging": 0.0}
    pruning = PruningParams(
        keep=keep, metric=metric, interval=mask_interval, estimator=mask_estimator, directions=None, mu=mask_mu
    )
    return ZOSGD(ZOSGDParams(**{**paper, **steps}), pruning, total_steps)


def run(params: ZOSGD, loss: Any, w: mx.array, steps: int, seed: int = 0) -> ZOState:
    return continue_from(params, loss, params.init(w), 0, steps, seed=seed)


def continue_from(params: ZOSGD, loss: Any, state: ZOState, first: int, last: int, *, seed: int = 0) -> ZOState:
    for t in range(first, last):
        if params.mask_is_due(state):
            state = params.renew_mask(state, loss, key_for(seed, "mask", t))
        state, value = params.step(state, loss, key_for(seed, "step", t))
        if t % 25 == 0:
            mx.eval(state.w, value)
    return state
