"""Choose a mask at a point of stage 2: when it is due, what it costs, which coordinates it keeps.

The gradient behind a mask is estimated anew, at the cost of queries, unless the optimiser has seen one already
(SharpZO section 3.2, eq. 4; the importance itself is in `pruning`).

>>> cost(PruningParams(keep=0.5), 512, sees_gradient=False)
64
"""

from __future__ import annotations

import mlx.core as mx

from sharpzo_mlx.optimisers import pruning
from sharpzo_mlx.optimisers.gradients import Gradient, Loss, estimate
from sharpzo_mlx.optimisers.params import PruningParams


def is_due(params: PruningParams, steps_made: int, *, sees_gradient: bool) -> bool:
    """Return whether the next step begins with a new mask.

    Args:
        params: of the mask.
        steps_made: steps so far.
        sees_gradient: whether the optimiser's own gradient is used; there is none before the first step.
    """
    if not params.prunes:
        return False
    return steps_made % params.interval == 0 and (steps_made > 0 or not sees_gradient)


def choose(
    params: PruningParams, w: mx.array, loss: Loss, key: mx.array, *, gradient: Gradient | None = None
) -> mx.array:
    """Return a mask of ones and zeros, [d].

    Args:
        params: of the mask.
        w: the point [d].
        loss: the objective; queried only if the importance needs a gradient that is not given.
        key: random key.
        gradient: the gradient at w if it is known already.
    """
    if not params.prunes:
        return mx.ones_like(w)
    directions, chance = mx.random.split(key)
    if gradient is None and pruning.needs_gradient(params.metric):
        fisher = pruning.needs_fisher(params.metric)
        kind = "cge" if fisher else params.estimator
        gradient = estimate(kind, loss, w, directions, mu=params.mu, directions=params.directions, fisher=fisher)
    return pruning.mask(pruning.scores(params.metric, w, chance, gradient), params.keep)


def cost(params: PruningParams, dimension: int, *, sees_gradient: bool) -> int:
    """Return the queries of one mask in d = `dimension` coordinates."""
    if sees_gradient or params.keep == 1 or not pruning.needs_gradient(params.metric):
        return 0
    kind = "cge" if pruning.needs_fisher(params.metric) else params.estimator
    return estimate_cost(kind, params.directions, dimension)


def estimate_cost(kind: str, directions: int | None, dimension: int) -> int:
    """Return the queries of one gradient estimate, see `gradients.estimate`."""
    if kind == "cge" or (kind == "forward" and directions is None):
        return 2 * dimension
    return 2 * (directions or max(1, dimension // 10))
