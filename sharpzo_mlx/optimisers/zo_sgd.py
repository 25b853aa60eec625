"""Stage 2 by sparse zeroth-order SGD: the paper's steps along random directions inside a mask.

Every step draws u ~ N(0, I) * Omega, estimates ghat = [L(w + mu u) - L(w - mu u)] / (2 mu) u and moves w against it
(SharpZO section 3.2, eq. 5); every K steps the mask Omega is chosen anew (eq. 4, `masks`). With rule "sgd" and one
draw it is the paper's; with keep = 1 it is dense ZO-SGD. More draws, momentum, Adam, steps of fixed length, exact
directional derivatives, schedules and an average of the iterates are settings.

>>> optimiser = ZOSGD(ZOSGDParams(), PruningParams(keep=0.5), total_steps=1000)
>>> state = optimiser.init(w)  # doctest: +SKIP
>>> state, value = optimiser.step(state, loss, key)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx

from sharpzo_mlx.optimisers import masks
from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.optimisers.gradients import Loss, along, derivative_slopes, difference_slopes, random_directions
from sharpzo_mlx.optimisers.params import PruningParams, ZOSGDParams


@dataclass(frozen=True)
class ZOState:
    """All that changes: arrays only; `step` is 0-d, the rest is [d]."""

    w: mx.array
    mask: mx.array  # Omega, float32 ones and zeros
    step: mx.array  # steps made
    first_moment: mx.array
    second_moment: mx.array
    average: mx.array  # of the iterates; w itself if averaging is 0


@dataclass(frozen=True)
class ZOSGD:
    """The optimiser, bound to its settings.

    Attributes:
        params: of the steps.
        pruning: of the mask.
        total_steps: length of the stage, for the schedule.
    """

    params: ZOSGDParams
    pruning: PruningParams
    total_steps: int

    def init(self, w: mx.array) -> ZOState:
        """Return the state before the first step at w [d], with a mask of ones."""
        w = w.astype(mx.float32)
        zeros = mx.zeros_like(w)
        return ZOState(
            w=w, mask=mx.ones_like(w), step=mx.array(0, mx.int32), first_moment=zeros, second_moment=zeros, average=w
        )

    def mask_is_due(self, state: ZOState) -> bool:
        """Return whether a new mask is to be chosen before the next step."""
        return masks.is_due(self.pruning, cast(int, state.step.item()), sees_gradient=False)

    def renew_mask(self, state: ZOState, loss: Loss, key: mx.array) -> ZOState:
        """Return the state with a mask chosen at its w (eq. 4); `mask_cost` queries."""
        return replace(state, mask=masks.choose(self.pruning, state.w, loss, key))

    def step(self, state: ZOState, loss: Loss, key: mx.array) -> tuple[ZOState, mx.array]:
        """Take one step; all forwards of all draws are one batch and one lazily evaluated graph.

        Args:
            state: the state before; it is not changed.
            loss: the objective; `step_cost` queries.
            key: random key of this step.

        Returns:
            The state after, and the mean loss of the finite probes (0-d; NaN if every pair is lost, w then stays
            unless momentum carries it).

        Source: SharpZO eq. 5.
        """
        u = random_directions(key, self.params.draws, state.w.shape[0], state.mask)  # u ~ N(0, I) * Omega, [q, d]
        if self.params.estimator == "forward":
            slopes = derivative_slopes(loss, state.w, u)
        else:
            slopes = difference_slopes(loss, state.w, u, self.params.mu)
        value = mx.sum(mx.where(slopes.finite, slopes.losses, 0.0)) / mx.sum(slopes.finite)
        return self._descend(state, along(slopes, u)), value

    def step_cost(self, dimension: int) -> int:
        """Return the queries of one step: a pair, or a derivative, a draw."""
        return 2 * self.params.draws

    def mask_cost(self, dimension: int) -> int:
        """Return the queries of one mask."""
        return masks.cost(self.pruning, dimension, sees_gradient=False)

    def learning_rate(self, count: mx.array) -> mx.array:
        """Return eta (0-d) at a step (0-d, counted from 0), by the schedule."""
        rate = self.params.learning_rate
        progress = mx.minimum(count.astype(mx.float32) / self.total_steps, 1.0)
        if self.params.schedule == "cosine":
            return rate * (1 + mx.cos(math.pi * progress)) / 2
        if self.params.schedule == "linear":
            return rate * (1 - progress)
        return mx.array(rate, mx.float32)

    def _descend(self, state: ZOState, gradient: mx.array) -> ZOState:
        count = state.step + 1
        first, second = self._moments(state, gradient)
        direction = self._direction(gradient, first, second, count=count)
        # masked again: a moment remembers coordinates that the last mask held
        change = self._normalised(direction * state.mask)
        w = state.w - self.learning_rate(state.step) * change
        return replace(
            state,
            w=w,
            step=count,
            first_moment=first,
            second_moment=second,
            average=average(state.average, w, count=count, share=self.params.averaging),
        )

    def _moments(self, state: ZOState, gradient: mx.array) -> tuple[mx.array, mx.array]:
        first, second = self.params.beta1, self.params.beta2
        if self.params.rule == "sgd":
            return state.first_moment, state.second_moment
        m = first * state.first_moment + (1 - first) * gradient
        if self.params.rule != "adam":
            return m, state.second_moment
        return m, second * state.second_moment + (1 - second) * mx.square(gradient)

    def _direction(self, gradient: mx.array, first: mx.array, second: mx.array, *, count: mx.array) -> mx.array:
        if self.params.rule == "sgd":
            return gradient
        t = count.astype(mx.float32)
        m = first / (1 - mx.power(self.params.beta1, t))  # the moments start at zero
        if self.params.rule != "adam":
            return m
        v = second / (1 - mx.power(self.params.beta2, t))
        return m / (mx.sqrt(v) + 1e-12)  # small: losses per unit of w may be tiny

    def _normalised(self, direction: mx.array) -> mx.array:
        if self.params.rule != "normalised":
            return direction
        norm = mx.linalg.norm(direction)
        return direction / mx.where(norm > 0, norm, 1.0)
