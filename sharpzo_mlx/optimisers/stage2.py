"""What stage 2 asks of an optimiser, and the one place where the optimiser is chosen.

An optimiser is bound to its settings and to the length of the stage; its State is a frozen dataclass of arrays, so
that a checkpoint saves and restores any of them alike.

>>> optimiser = make_optimiser(GaussNewtonParams(), PruningParams(), total_steps=120)
>>> state = optimiser.init(w)  # doctest: +SKIP
>>> for t in range(120):  # doctest: +SKIP
...     if optimiser.mask_is_due(state):
...         state = optimiser.renew_mask(state, loss, key_for(seed, "mask", t))
...     state, value = optimiser.step(state, loss, key_for(seed, "step", t))
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import mlx.core as mx

from sharpzo_mlx.optimisers.gauss_newton import GaussNewton, GNState
from sharpzo_mlx.optimisers.gradients import Loss
from sharpzo_mlx.optimisers.params import GaussNewtonParams, PruningParams, Stage2Params, ZOSGDParams
from sharpzo_mlx.optimisers.zo_sgd import ZOSGD, ZOState

S = TypeVar("S")


class Optimiser(Protocol[S]):
    """One optimiser of stage 2; S is its State, which has at least `w`, `average` [d] and `step`."""

    def init(self, w: mx.array) -> S:
        """Return the state before the first step at w [d]."""
        ...

    def mask_is_due(self, state: S) -> bool:
        """Return whether a new mask is to be chosen before the next step."""
        ...

    def renew_mask(self, state: S, loss: Loss, key: mx.array) -> S:
        """Return the state with a new mask; `mask_cost` queries."""
        ...

    def step(self, state: S, loss: Any, key: mx.array) -> tuple[S, mx.array]:
        """Return the state after one step and the loss near w (0-d); `step_cost` queries."""
        ...

    def step_cost(self, dimension: int) -> int:
        """Return the queries of one step."""
        ...

    def mask_cost(self, dimension: int) -> int:
        """Return the queries of one mask."""
        ...


State = GNState | ZOState


def make_optimiser(params: Stage2Params, pruning: PruningParams, *, total_steps: int) -> Optimiser[Any]:
    """Return the optimiser that the settings name.

    Args:
        params: the settings of one optimiser.
        pruning: the settings of its mask.
        total_steps: length of the stage, at least 1.
    """
    if isinstance(params, GaussNewtonParams):
        return GaussNewton(params, pruning, total_steps)
    if isinstance(params, ZOSGDParams):
        return ZOSGD(params, pruning, total_steps)
    raise TypeError(f"{type(params).__name__}: no optimiser of stage 2 has these settings")
