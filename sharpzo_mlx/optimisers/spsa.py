"""SPSA: descend along gradients estimated by perturbing all coordinates at once, with two queries a draw.

Every step draws Delta, whose entries have a random sign and a size between 1/2 and 1, and estimates ghat_j =
[L(w + c Delta) - L(w - c Delta)] / (2 c Delta_j), averaged over some draws (Spall 1992). With `momentum` it is SPSA-GC,
which estimates at w + beta m (BlackVIP, arXiv 2303.14773, section 4.2). With `clipped` the estimate is shortened to
sqrt(d) where it is longer (ZIP, arXiv 2504.06838, section 4.2).

>>> state = init(w)  # doctest: +SKIP
>>> for t in range(500):  # doctest: +SKIP
...     state, value = step(params, state, loss, key_for(seed, "spsa", t))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.optimisers.gradients import Values, along, difference_slopes


@dataclass(frozen=True)
class SPSAParams:
    """The constants of SPSA; the defaults of the gains are those of the code of BlackVIP and of ZIP.

    At step t, counted from 1, the gains are a_t = a / (t + o)^alpha and c_t = c / t^gamma.

    Attributes:
        learning_rate: a.
        mu: c, half the distance of two probes in units of Delta.
        stability: o.
        decay: alpha.
        mu_decay: gamma.
        draws: estimates that are averaged in a step, of two queries each.
        momentum: beta; 0 is plain SPSA.
        clipped: whether the averaged estimate is shortened to sqrt(d) where it is longer.
        averaging: largest weight of the old average in the average of the iterates; 0 means no average.
    """

    learning_rate: float = 0.01
    mu: float = 0.01
    stability: float = 1.0
    decay: float = 0.4
    mu_decay: float = 0.1
    draws: int = 5
    momentum: float = 0.0
    clipped: bool = False
    averaging: float = 0.0


@dataclass(frozen=True)
class SPSAState:
    """The state of a descent between two steps.

    Attributes:
        w: the iterate [d].
        velocity: m, the last change of w [d].
        step: number of steps so far, int32 and 0-d.
        average: average of the iterates [d]; w where `averaging` is 0.
    """

    w: mx.array
    velocity: mx.array
    step: mx.array
    average: mx.array


def init(w: mx.array) -> SPSAState:
    """Return the state before the first step, at w [d]."""
    w = w.astype(mx.float32)
    return SPSAState(w=w, velocity=mx.zeros_like(w), step=mx.array(0, mx.int32), average=w)


def step(params: SPSAParams, state: SPSAState, loss: Values, key: mx.array) -> tuple[SPSAState, mx.array]:
    """Make one step, with all its probes in one batch.

    Args:
        params: the constants.
        state: the state before the step; it is not changed.
        loss: the objective; 2 * draws queries.
        key: random key of the step.

    Returns:
        The state after the step, and the mean loss of the probes (0-d) over the pairs whose difference is finite; NaN
        if there is none.

    Source: BlackVIP section 4.2: m' = beta m - a_t ghat(w + beta m), w' = w + m'.
    """
    count = cast(int, state.step.item()) + 1  # evaluates the counter alone
    rate, mu = params.learning_rate / (count + params.stability) ** params.decay, params.mu / count**params.mu_decay
    ahead = state.w + params.momentum * state.velocity
    delta = draw_perturbations(key, params.draws, ahead.shape[0])
    slopes = difference_slopes(loss, ahead, delta, mu)
    gradient = along(slopes, 1 / delta)
    if params.clipped:
        gradient = clip(gradient, math.sqrt(gradient.shape[0]))
    velocity = params.momentum * state.velocity - rate * gradient
    w = state.w + velocity
    number = mx.array(count, mx.int32)
    value = mx.sum(mx.where(slopes.finite, slopes.losses, 0.0)) / mx.sum(slopes.finite)
    mean = average(state.average, w, count=number, share=params.averaging)
    return SPSAState(w=w, velocity=velocity, step=number, average=mean), value


def draw_perturbations(key: mx.array, count: int, dimension: int) -> mx.array:
    """Draw Delta [count, dimension], with independent entries uniform on [-1, -1/2] and [1/2, 1].

    SPSA needs a finite mean of 1 / |Delta_j| (Spall 1992), which a Gaussian does not have.
    """
    sign, size = mx.random.split(key)
    sizes = mx.random.uniform(0.5, 1.0, (count, dimension), key=size)
    return mx.where(mx.random.bernoulli(0.5, (count, dimension), key=sign), sizes, -sizes)


def clip(gradient: mx.array, threshold: float) -> mx.array:
    """Return the vector [d], shortened to the threshold if it is longer."""
    norm = mx.linalg.norm(gradient)
    return mx.where(norm > threshold, threshold / mx.maximum(norm, threshold), 1.0) * gradient
