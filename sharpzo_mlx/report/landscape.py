"""The training loss around the result of a run, on a plane, and its sharpness.

The plane goes through the result w. One axis leads from zero-shot (w = 0) to w, the other is a random direction
perpendicular to it (SharpZO, arXiv 2506.20990, figure 2b). Sharpness is the rise of L at the distance rho in the
direction of steepest ascent, which is estimated by forward-mode derivatives.

>>> compute_landscape(run, clip, train).sharpness  # doctest: +SKIP
0.012
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.problem import make_problem

GRID = 9  # points a side
SLOPES = 32  # random directions that the steepest ascent is estimated from
DEFAULT_RHO = 0.1  # of a run that was tuned without sharpness


@dataclass(frozen=True)
class Landscape:
    """L on a plane around the result.

    Attributes:
        along: [GRID] distances from the result in w, on the axis from zero-shot.
        across: [GRID] distances from the result on the random axis.
        losses: [across, along] L.
        length: |w|; zero-shot lies at -length on the first axis.
        rho: distance at which sharpness is measured.
        sharpness: rise of L at that distance.
    """

    along: np.ndarray
    across: np.ndarray
    losses: np.ndarray
    length: float
    rho: float
    sharpness: float


def compute_landscape(run: Run, clip: Clip, train: Features) -> Landscape:
    """Compute L around the result of a run; this takes GRID^2 + 2 SLOPES + 2 queries.

    Args:
        run: a run with a prompt.
        clip: the checkpoint that it was tuned on.
        train: its training images.
    """
    zero_shot = run.prompt.zero_shot_features if run.record.templates else None
    objective = make_problem(clip, train, train, run.config, zero_shot=zero_shot).objective
    w, d = run.prompt.w, objective.dimension
    length = float(np.linalg.norm(np.array(w)))
    reach = length or run.config.stage1.sigma * math.sqrt(d)
    directions = mx.random.normal((SLOPES + 2, d), key=key_for(run.config.seed, "landscape"))
    one = w / length if length else directions[0] / mx.linalg.norm(directions[0])
    other = directions[1] - (directions[1] @ one) * one
    other = other / mx.linalg.norm(other)
    steps = mx.linspace(-1.25 * reach, 1.25 * reach, GRID)
    points = w + (other[None] * steps[:, None])[:, None] + (one[None] * steps[:, None])[None]  # [across, along, d]
    losses = np.array(objective.losses(points.reshape(-1, d))).reshape(GRID, GRID)
    rho = run.config.sharpness.rho or DEFAULT_RHO
    slopes = objective.jvp(mx.broadcast_to(w, (SLOPES, d)), directions[2:])[1]  # <grad L, u>
    ascent = slopes @ directions[2:]
    ends = objective.losses(mx.stack([w, w + rho * ascent / mx.maximum(mx.linalg.norm(ascent), 1e-12)]))
    axis = np.array(steps)
    below, above = np.array(ends).tolist()
    return Landscape(axis, axis, losses, length, rho, above - below)
