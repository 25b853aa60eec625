"""Stage 2 by Gauss-Newton steps in random subspaces, from forward passes alone.

A forward pass gives not only the loss but also the features that the loss is made of, and the loss is a known convex
function h of them: L(w) = h(c(w)). So q forwards at w + mu u_j and one at w give c and its slopes along q orthonormal
directions, and the minimum of h over the linear model c + sum_j a_j slope_j inside a ball |a| <= radius is a move, as
in SharpZO's stage 2 (section 3.2) without a backward pass. A step tries the minima of half the last radius, of the
same and of twice as much, with one forward each: the lowest loss is the next point, and its radius the next radius. If
none is lower than the loss at w, w stays and the radius shrinks. Steps that explore move in any case and begin with the
first radius. The last move is one of the directions of the next step. q + 4 queries in all.

>>> optimiser = GaussNewton(GaussNewtonParams(), PruningParams(), total_steps=120)
>>> optimiser.step_cost(dimension=512)
36
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.optimisers import masks, pruning
from sharpzo_mlx.optimisers.averaging import average_on_host
from sharpzo_mlx.optimisers.gradients import Gradient, Loss
from sharpzo_mlx.optimisers.params import GaussNewtonParams, PruningParams
from sharpzo_mlx.optimisers.trust_region import Expansion, minima

RADII = (0.5, 1.0, 2.0)  # trials of a step, in units of the last radius
REJECTED = 0.25  # the radius after a step without a better point, in the same units
LEAST, MOST = 1 / 64, 8.0  # of the first radius
REST = 6  # steps in a row that end with the least radius: a minimum
GRADIENT_MEMORY = 0.9  # of the gradient that the steps see along their directions, for the masks


class Composite(Loss, Protocol):
    """A loss that is a known convex function of features."""

    def features(self, w: mx.array) -> mx.array:
        """Return the features [P, ...] at points [P, d]; P queries."""
        ...

    def feature_slopes(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        """Return features [...] at w [d] and their exact slopes [q, ...] along u [q, d]; 2q queries."""
        ...

    def linearised(self, features: mx.array, slopes: mx.array) -> Expansion:
        """Return the loss over features + sum_j a_j slopes_j as a function of a [q]."""
        ...


@dataclass(frozen=True)
class GNState:
    """All that changes: arrays only; `step`, `radius`, `explored_until` and `at_rest` are 0-d, the rest is [d]."""

    w: mx.array
    mask: mx.array  # Omega, float32 ones and zeros
    step: mx.array  # steps made
    last_move: mx.array
    gradient: mx.array  # running mean of the gradient along the directions, for masks
    average: mx.array  # of the iterates; w itself if averaging is 0
    radius: mx.array  # of the next step
    explored_until: mx.array  # steps before this one explore
    at_rest: mx.array  # steps in a row that ended with the least radius


@dataclass(frozen=True)
class GaussNewton:
    """The optimiser, bound to its settings.

    Attributes:
        params: of the steps.
        pruning: of the mask.
        total_steps: length of the stage.
    """

    params: GaussNewtonParams
    pruning: PruningParams
    total_steps: int

    def init(self, w: mx.array) -> GNState:
        """Return the state before the first step at w [d], with a mask of ones."""
        w = w.astype(mx.float32)
        zeros = mx.zeros_like(w)
        return GNState(
            w=w,
            mask=mx.ones_like(w),
            step=mx.array(0, mx.int32),
            last_move=zeros,
            gradient=zeros,
            average=w,
            radius=mx.array(self.params.radius, mx.float32),
            explored_until=mx.array(math.ceil(self.params.exploration * self.total_steps), mx.int32),
            at_rest=mx.array(0, mx.int32),
        )

    def mask_is_due(self, state: GNState) -> bool:
        """Return whether a new mask is to be chosen before the next step."""
        return masks.is_due(self.pruning, _integer(state.step), sees_gradient=self._sees_gradient)

    def renew_mask(self, state: GNState, loss: Loss, key: mx.array) -> GNState:
        """Return the state with a new mask; free unless the importance needs single images' gradients (eq. 4)."""
        gradient = Gradient(state.gradient) if self._sees_gradient else None
        return replace(state, mask=masks.choose(self.pruning, state.w, loss, key, gradient=gradient))

    def step(self, state: GNState, loss: Composite, key: mx.array) -> tuple[GNState, mx.array]:
        """Take one step.

        Args:
            state: the state before; it is not changed.
            loss: the objective; `step_cost` queries.
            key: random key of this step.

        Returns:
            The state after, and the loss at w before the step (0-d; NaN if it is lost).
        """
        first_radius = self.params.radius
        exploring = _integer(state.step) < _integer(state.explored_until)
        radius = first_radius if exploring else cast(float, state.radius.item())
        u = directions(key, self._directions(state.w.shape[0]), state.mask, state.last_move)
        model = self._linear_model(state, loss, mx.array(u), radius=radius)
        at_zero = model.at_zero()
        value, gradient, _ = at_zero
        radii = trial_radii(radius, first_radius=first_radius)
        moves = minima(model, at_zero, radii).astype(np.float32) @ u  # [3, d]
        before, losses = self._trial_losses(state, loss, mx.array(moves), expanded=value)
        best = int(losses.argmin())
        taken = exploring or losses[best] < before
        accepted = taken and np.isfinite(losses[best]) and np.any(moves[best] != 0)
        move = moves[best] if accepted else None
        seen = np.nan_to_num(gradient).astype(np.float32) @ u  # the gradient's share in these directions
        next_radius = radii[best] if accepted else after_rejection(radius, first_radius=first_radius)
        after = self._advance(state, move, seen, next_radius)
        return self._roused(after), mx.array(value, mx.float32)

    def step_cost(self, dimension: int) -> int:
        """Return the queries of one step: a probe a direction (two with derivatives), the point itself, the trials."""
        count = self._directions(dimension)
        return (2 * count if self.params.estimator == "forward" else count) + 1 + len(RADII)

    def mask_cost(self, dimension: int) -> int:
        """Return the queries of one mask."""
        return masks.cost(self.pruning, dimension, sees_gradient=self._sees_gradient)

    @property
    def _sees_gradient(self) -> bool:
        """Whether the steps' own gradient ranks the coordinates."""
        return not pruning.needs_fisher(self.pruning.metric)

    def _directions(self, dimension: int) -> int:
        """Directions of a step: no more than a mask has coordinates."""
        return min(self.params.draws, pruning.kept(self.pruning.keep, dimension))

    def _advance(self, state: GNState, move: np.ndarray | None, seen: np.ndarray, radius: float) -> GNState:
        """Return the state after a move [d], or none, and a gradient that was seen [d].

        These short vectors are computed in NumPy: an answer of a GPU takes longer, and a block on MLX's CPU stream
        would make the CPU the default device of all threads meanwhile.
        """
        count = _integer(state.step) + 1
        before, gradient, past = (np.array(x) for x in (state.w, state.gradient, state.average))
        w = before if move is None else before + move
        return replace(
            state,
            w=mx.array(w),
            step=mx.array(count, mx.int32),
            last_move=state.last_move if move is None else mx.array(move),
            gradient=mx.array(np.float32(GRADIENT_MEMORY) * gradient + np.float32(1 - GRADIENT_MEMORY) * seen),
            average=mx.array(average_on_host(past, w, count=count, share=self.params.averaging)),
            radius=mx.array(radius, mx.float32),
        )

    def _roused(self, state: GNState) -> GNState:
        """Make a search explore again that has been at rest for REST steps, if enough steps are left."""
        least = cast(float, state.radius.item()) <= LEAST * self.params.radius
        at_rest = _integer(state.at_rest) + 1 if least else 0
        state = replace(state, at_rest=mx.array(at_rest, mx.int32))
        step, again = _integer(state.step), self.params.exploration_steps
        if self.params.exploration == 0 or at_rest < REST or self.total_steps - step < 3 * again:
            return state
        return replace(state, explored_until=mx.array(step + again, mx.int32))

    def _trial_losses(
        self, state: GNState, loss: Composite, moves: mx.array, *, expanded: float
    ) -> tuple[float, np.ndarray]:
        """Return the loss before the moves, and those after them [3], infinite if lost.

        The loss before is the model's own value. With forward-mode derivatives it is computed anew: products may be
        coarse there, and a value computed in another way would differ by more than the trials do among themselves.
        """
        anew = self.params.estimator == "forward"
        points = mx.concatenate([state.w[None], state.w + moves]) if anew else state.w + moves
        losses = np.array(loss.losses(points), np.float64)
        before, after = (float(losses[0]), losses[1:]) if anew else (expanded, losses)
        return before, np.where(np.isfinite(after), after, np.inf)

    def _linear_model(self, state: GNState, loss: Composite, u: mx.array, *, radius: float) -> Expansion:
        if self.params.estimator == "forward":
            base, slopes = loss.feature_slopes(state.w, u)
        else:
            mu = max(self.params.least_probe, self.params.probe_share * radius)
            features = loss.features(mx.concatenate([state.w[None], state.w + mu * u]))
            base, slopes = features[0], (features[1:] - features[0]) / mu
        finite = mx.all(mx.isfinite(slopes), axis=tuple(range(1, slopes.ndim)), keepdims=True)
        return loss.linearised(base, mx.where(finite, slopes, 0.0))  # a lost probe's direction is not moved along


def directions(key: mx.array, q: int, mask: mx.array, first: mx.array) -> np.ndarray:
    """Draw orthonormal directions inside a mask: the first along `first` unless that is zero, the others at random.

    Args:
        key: random key.
        q: how many; never more than the mask has ones.
        mask: [d], ones and zeros.
        first: [d].

    Returns:
        [q, d], float32.
    """
    held = np.flatnonzero(np.array(mask))
    drawn = np.array(mx.random.normal((q, mask.shape[0]), key=key, stream=mx.cpu), np.float64)[:, held]
    kept = np.array(first, np.float64)[held]
    if np.any(kept):
        drawn[0] = kept / np.linalg.norm(kept) * np.sqrt(len(held))
    basis = np.linalg.qr(drawn[: len(held)].T)[0].T
    found = np.zeros((len(basis), mask.shape[0]), np.float32)
    found[:, held] = basis
    return found


def trial_radii(radius: float, *, first_radius: float) -> tuple[float, ...]:
    """Return the radii that a step tries, in rising order; `first_radius` bounds them, so that two may be equal."""
    return tuple(_bounded(share * radius, first_radius) for share in RADII)


def after_rejection(radius: float, *, first_radius: float) -> float:
    """Return the radius after a step that found no lower loss."""
    return _bounded(REJECTED * radius, first_radius)


def _bounded(radius: float, first_radius: float) -> float:
    return min(max(radius, LEAST * first_radius), MOST * first_radius)


def _integer(x: mx.array) -> int:
    return cast(int, x.item())  # evaluates a counter alone
