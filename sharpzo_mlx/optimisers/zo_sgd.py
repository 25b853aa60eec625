"""Stage 2: sparse zeroth-order descent along random directions inside a mask.

Every step draws u ~ N(0, I) * Omega, estimates ghat = [L(w + mu u) - L(w - mu u)] / (2 mu) u and moves w
against it (SharpZO section 3.2, eq. 5); every K steps the mask Omega is chosen anew (eq. 4, `pruning`). With
rule "sgd" and one draw it is the paper's; with keep = 1 it is dense ZO-SGD. More draws, momentum, Adam, steps
of fixed length, exact directional derivatives, schedules and an average of the iterates are options.

>>> state = init(params, w)  # doctest: +SKIP
>>> for t in range(params.total_steps):  # doctest: +SKIP
...     if due(params, state):
...         state = renew(params, state, loss, key_for(seed, "mask", t))
...     state, value = step(params, state, loss, key_for(seed, "step", t))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers import gauss_newton, pruning
from sharpzo_mlx.optimisers.averaging import average
from sharpzo_mlx.optimisers.gradients import (
    Estimator,
    Gradient,
    Loss,
    along,
    check_estimator,
    derivative_slopes,
    difference_slopes,
    estimate,
    random_directions,
)

Rule = Literal["sgd", "momentum", "adam", "normalised", "gauss-newton"]
Schedule = Literal["constant", "cosine", "linear"]
REST = 6  # steps of "gauss-newton" in a row that end with the least radius: a minimum
GRADIENT_MEMORY = 0.9  # of the gradient that "gauss-newton" sees along its directions, for its masks
RULES: tuple[Rule, ...] = ("sgd", "momentum", "adam", "normalised", "gauss-newton")
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "linear")


class Composite(Loss, Protocol):
    """A loss that is a known convex function of features, which is what "gauss-newton" asks for beside its values."""

    def features(self, w: mx.array) -> mx.array:
        """Points [P, d] -> features [P, ...]; P queries."""
        ...

    def feature_slopes(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """A point [d], directions [q, d] -> features [...], exact slopes [q, ...]; 2q queries."""
        ...

    def linearised(self, features: mx.array, slopes: mx.array) -> gauss_newton.Expansion:
        """The loss over features + sum_j a_j slopes_j, as a function of a [q]."""
        ...


@dataclass(frozen=True)
class ZOParams:
    """The constants of stage 2; the defaults are the paper's (SharpZO Table 8).

    Attributes:
        learning_rate: eta; with "normalised" the length of a step, with "gauss-newton" the first radius (later
            ones follow from the losses, not from a schedule), with "adam" about the length of each coordinate.
        mu: half the distance of two probes, in units of u; unused by "forward". With "gauss-newton" the least
            distance of a probe, whose direction has length 1.
        probe_share: with "gauss-newton" the distance of a probe as a share of the radius.
        exploration: with "gauss-newton" the share of the steps, the first ones, that explore: they try the first radius
            and its half and double, and move whatever the loss becomes, so that they pass over small minima; 0 for
            never.
        exploration_steps: so many explore again whenever the search has come to rest and twice as many are left after.
        draws: q, directions in a step.
        keep: share of coordinates in the mask; 1 is dense.
        mask_interval: K, steps between two masks.
        metric: how coordinates are scored for the mask.
        estimator: "rge" (differences) or "forward" (exact directional derivatives).
        rule: what is done with the estimate.
        betas: weights of the past in the first and the second moment; "sgd" has neither, "momentum" and
            "normalised" only the first; "gauss-newton" keeps its last move and its mean gradient there.
        schedule: of the learning rate over `total_steps`.
        total_steps: length of stage 2 in steps.
        averaging: weight of the past in the average of the iterates, 0 for none.
        mask_estimator: of the gradient that scores the mask; "zscore-fisher" always takes "cge".
        mask_directions: its random directions; None: all coordinates with "forward", d/10 with "rge".
        mask_mu: its mu; None: the same as `mu`.
    """

    learning_rate: float = 1e-3
    mu: float = 1e-3
    draws: int = 1
    keep: float = 0.5
    mask_interval: int = 200
    metric: pruning.Metric = "zscore-squared"
    estimator: Literal["rge", "forward"] = "rge"
    rule: Rule = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "constant"
    total_steps: int = 20_000
    averaging: float = 0.0
    mask_estimator: Estimator = "cge"
    mask_directions: int | None = None
    mask_mu: float | None = None
    probe_share: float = 0.1
    exploration: float = 0.25
    exploration_steps: int = 30

    def __post_init__(self) -> None:
        _check_choice("stage 2 estimator", self.estimator, ("rge", "forward"))
        _check_choice("pruning metric", self.metric, pruning.METRICS)
        _check_choice("rule", self.rule, RULES)
        _check_choice("schedule", self.schedule, SCHEDULES)
        pruning.check_keep(self.keep)
        check_estimator(self.estimator, mu=self.mu, directions=self.draws)
        check_estimator(self.mask_estimator, mu=_mask_mu(self), directions=self.mask_directions)
        if self.mask_interval < 1 or self.total_steps < 1:
            raise UserError(f"{self.total_steps} steps, a mask every {self.mask_interval}: both must be at least 1")
        if not 0 <= self.exploration <= 1:
            raise UserError(f"exploration {self.exploration}: must be between 0 and 1")
        if self.exploration_steps < 1:
            raise UserError(f"exploration steps {self.exploration_steps}: must be at least 1")
        if not all(0 <= share < 1 for share in (*self.betas, self.averaging)):
            raise UserError(f"betas {self.betas} and averaging {self.averaging} must be at least 0 and below 1")


@dataclass(frozen=True)
class ZOState:
    """All that changes: arrays only; each is [d] but `step` and the last three, which are 0-d."""

    w: mx.array
    mask: mx.array  # Omega, float32 ones and zeros
    step: mx.array  # steps made
    first_moment: mx.array
    second_moment: mx.array
    average: mx.array  # of the iterates; w itself where averaging is 0
    radius: mx.array  # of the next step of "gauss-newton"; the other rules leave this and what follows as they are
    explored_until: mx.array  # the step before which it explores
    at_rest: mx.array  # steps that ended with the least radius, in a row


def init(params: ZOParams, w: mx.array) -> ZOState:
    """The state before the first step, with a dense mask; w [d] is where stage 1 ended."""
    w = w.astype(mx.float32)
    zeros = mx.zeros_like(w)
    return ZOState(
        w=w,
        mask=mx.ones_like(w),
        step=mx.array(0, mx.int32),
        first_moment=zeros,
        second_moment=zeros,
        average=w,
        radius=mx.array(params.learning_rate, mx.float32),
        explored_until=mx.array(math.ceil(params.exploration * params.total_steps), mx.int32),
        at_rest=mx.array(0, mx.int32),
    )


def due(params: ZOParams, state: ZOState) -> bool:
    """Whether a new mask is to be chosen before the next step; never where nothing is pruned."""
    if params.keep == 1 or params.metric == "none":
        return False
    count = cast(int, state.step.item())  # evaluates the counter alone
    return count % params.mask_interval == 0 and (count > 0 or not sees_gradient(params))


def sees_gradient(params: ZOParams) -> bool:
    """Whether the steps see enough of the gradient to choose masks by: they then cost nothing, from the second on."""
    return params.rule == "gauss-newton" and not pruning.needs_fisher(params.metric)


def renew(params: ZOParams, state: ZOState, loss: Loss, key: mx.array) -> ZOState:
    """The state with a mask chosen at its w: eq. 4; costs a gradient where the metric is made from one."""
    if params.keep == 1 or params.metric == "none":
        return replace(state, mask=mx.ones_like(state.w))
    directions, chance = mx.random.split(key)
    gradient = None
    if sees_gradient(params):
        gradient = Gradient(state.second_moment)
    elif pruning.needs_gradient(params.metric):
        fisher = pruning.needs_fisher(params.metric)
        gradient = estimate(
            "cge" if fisher else params.mask_estimator,
            loss,
            state.w,
            directions,
            mu=_mask_mu(params),
            directions=params.mask_directions,
            fisher=fisher,
        )
    score = pruning.scores(params.metric, state.w, chance, gradient)
    return replace(state, mask=pruning.mask(score, params.keep))


def ask(params: ZOParams, state: ZOState, key: mx.array) -> mx.array:
    """The directions of a step, u ~ N(0, I) * Omega, [q, d]."""
    return random_directions(key, params.draws, state.w.shape[0], state.mask)


def step(params: ZOParams, state: ZOState, loss: Loss, key: mx.array) -> tuple[ZOState, mx.array]:
    """One step: all forwards of all draws are one batch and one lazily evaluated graph; "gauss-newton" then has trials.

    Args:
        params: the constants.
        state: the state before; it is not changed.
        loss: the objective; `step_cost` queries.
        key: random key of this step.

    Returns:
        The state after, and the mean loss of the finite probes (0-d; NaN where every pair is lost, w then
        stays unless momentum carries it); with "gauss-newton" the loss at w before the step.

    Source: SharpZO eq. 5.
    """
    if params.rule == "gauss-newton":
        return _gauss_newton(params, state, cast(Composite, loss), key)
    u = ask(params, state, key)
    if params.estimator == "forward":
        slopes = derivative_slopes(loss, state.w, u)
    else:
        slopes = difference_slopes(loss, state.w, u, params.mu)
    value = mx.sum(mx.where(slopes.finite, slopes.losses, 0.0)) / mx.sum(slopes.finite)
    return _descend(params, state, along(slopes, u)), value


def step_cost(params: ZOParams, dimension: int) -> int:
    """Queries of one step: a pair a draw; with "gauss-newton" a probe a direction, the point itself and its trials."""
    if params.rule != "gauss-newton":
        return 2 * params.draws
    directions, trials = _subspace(params, dimension), len(gauss_newton.RADII)
    return (2 * directions if params.estimator == "forward" else directions) + 1 + trials


def _subspace(params: ZOParams, dimension: int) -> int:
    """Directions of a "gauss-newton" step: no more than a mask has coordinates."""
    return min(params.draws, pruning.kept(params.keep, dimension))


def _gauss_newton(params: ZOParams, state: ZOState, loss: Composite, key: mx.array) -> tuple[ZOState, mx.array]:
    """A step of "gauss-newton", and the loss before it."""
    first_radius, exploring = params.learning_rate, cast(bool, (state.step < state.explored_until).item())
    radius = first_radius if exploring else cast(float, state.radius.item())
    u = gauss_newton.directions(key, _subspace(params, state.w.shape[0]), state.mask, state.first_moment)
    model = _linear_model(params, state, loss, u, radius=radius)
    at_zero = model(np.zeros(u.shape[0]))
    value, gradient, _ = at_zero
    radii = gauss_newton.trial_radii(radius, first_radius=first_radius)
    moves = mx.array(gauss_newton.minima(model, at_zero, radii).astype(np.float32)) @ u  # [3, d]
    before, losses = _trial_losses(params, state, loss, moves, expanded=value)
    best = int(losses.argmin())
    taken = exploring or losses[best] < before
    accepted = taken and np.isfinite(losses[best]) and mx.any(moves[best] != 0).item()
    w, count = state.w + moves[best] if accepted else state.w, state.step + 1
    seen = mx.array(np.nan_to_num(gradient).astype(np.float32)) @ u  # the gradient's share in these directions
    next_radius = radii[best] if accepted else gauss_newton.after_rejection(radius, first_radius=first_radius)
    after = replace(
        state,
        w=w,
        step=count,
        first_moment=moves[best] if accepted else state.first_moment,
        second_moment=GRADIENT_MEMORY * state.second_moment + (1 - GRADIENT_MEMORY) * seen,
        average=average(state.average, w, count=count, share=params.averaging),
        radius=mx.array(next_radius, mx.float32),
    )
    return _roused(params, after), mx.array(value, mx.float32)


def _roused(params: ZOParams, state: ZOState) -> ZOState:
    """The state after a step, made to explore anew where it has long been at rest and steps are left."""
    least = state.radius <= gauss_newton.LEAST * params.learning_rate
    at_rest = mx.where(least, state.at_rest + 1, 0)
    resting, left = cast(int, at_rest.item()), params.total_steps - cast(int, state.step.item())
    if params.exploration == 0 or resting < REST or left < 3 * params.exploration_steps:
        return replace(state, at_rest=at_rest)
    return replace(state, at_rest=at_rest, explored_until=state.step + params.exploration_steps)


def _trial_losses(
    params: ZOParams, state: ZOState, loss: Composite, moves: mx.array, *, expanded: float
) -> tuple[float, np.ndarray]:
    """The loss before the moves, and those after them [3], infinite where there is none.

    The loss before is the expansion's own value, but where exact derivatives stand for differences: products may be
    coarse there, and what is computed in another way would differ from the trials by more than they differ among
    themselves.
    """
    anew = params.estimator == "forward"
    points = mx.concatenate([state.w[None], state.w + moves]) if anew else state.w + moves
    losses = np.array(loss.losses(points), np.float64)
    before, after = (float(losses[0]), losses[1:]) if anew else (expanded, losses)
    return before, np.where(np.isfinite(after), after, np.inf)


def _linear_model(
    params: ZOParams, state: ZOState, loss: Composite, u: mx.array, *, radius: float
) -> gauss_newton.Expansion:
    if params.estimator == "forward":
        base, slopes = loss.feature_slopes(state.w, u)
    else:
        mu = max(params.mu, params.probe_share * radius)
        features = loss.features(mx.concatenate([state.w[None], state.w + mu * u]))
        base, slopes = features[0], (features[1:] - features[0]) / mu
    finite = mx.all(mx.isfinite(slopes), axis=tuple(range(1, slopes.ndim)), keepdims=True)
    return loss.linearised(base, mx.where(finite, slopes, 0.0))  # a lost probe's direction is left alone


def learning_rate(params: ZOParams, count: mx.array) -> mx.array:
    """eta (0-d) at a step (0-d, counted from 0), by the schedule."""
    progress = mx.minimum(count.astype(mx.float32) / params.total_steps, 1.0)
    if params.schedule == "cosine":
        return params.learning_rate * (1 + mx.cos(math.pi * progress)) / 2
    if params.schedule == "linear":
        return params.learning_rate * (1 - progress)
    return mx.array(params.learning_rate, mx.float32)


def _descend(params: ZOParams, state: ZOState, gradient: mx.array) -> ZOState:
    count = state.step + 1
    first, second = _moments(params, state, gradient)
    direction = _direction(params, gradient, first, second, count=count)
    # masked again: a moment remembers coordinates that the last mask held
    change = _normalised(params, direction * state.mask)
    w = state.w - learning_rate(params, state.step) * change
    return replace(
        state,
        w=w,
        step=count,
        first_moment=first,
        second_moment=second,
        average=average(state.average, w, count=count, share=params.averaging),
    )


def _moments(params: ZOParams, state: ZOState, gradient: mx.array) -> tuple[mx.array, mx.array]:
    first, second = params.betas
    if params.rule == "sgd":
        return state.first_moment, state.second_moment
    m = first * state.first_moment + (1 - first) * gradient
    if params.rule != "adam":
        return m, state.second_moment
    return m, second * state.second_moment + (1 - second) * mx.square(gradient)


def _direction(params: ZOParams, gradient: mx.array, first: mx.array, second: mx.array, *, count: mx.array) -> mx.array:
    if params.rule == "sgd":
        return gradient
    t = count.astype(mx.float32)
    m = first / (1 - mx.power(params.betas[0], t))  # the moments start at zero
    if params.rule != "adam":
        return m
    v = second / (1 - mx.power(params.betas[1], t))
    return m / (mx.sqrt(v) + 1e-12)  # small: losses per unit of w may be tiny


def _normalised(params: ZOParams, direction: mx.array) -> mx.array:
    if params.rule != "normalised":
        return direction
    norm = mx.linalg.norm(direction)
    return direction / mx.where(norm > 0, norm, 1.0)


def _mask_mu(params: ZOParams) -> float:
    return params.mu if params.mask_mu is None else params.mask_mu


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
