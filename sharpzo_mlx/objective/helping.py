"""What a helper does with candidates of another process's search: build its objective, and compute pieces with it.

>>> compute_piece(clip, piece, prepare(clip, recipe))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import cast, get_args

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.objective.calls import DERIVATIVES, Call, CandidatePiece
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.objective.recipe import Recipe, build_objective
from sharpzo_mlx.prompts.cpu_pieces import Share


def prepare(clip: Clip, recipe: Recipe) -> Objective:
    """Build the objective that some pieces share."""
    return build_objective(clip, recipe)[0]


def compute_piece(clip: Clip, piece: CandidatePiece, objective: Objective) -> list[np.ndarray]:
    """Compute a piece.

    Raises:
        ValueError: nothing is known by the name of its call.
    """
    if piece.call not in get_args(Call):
        raise ValueError(f"call {piece.call!r} is not known here")
    call = cast("Call", piece.call)
    share = None if call in DERIVATIVES else Share(piece.start, piece.stop, piece.cores)
    return [np.array(value) for value in objective.compute(call, *map(mx.array, piece.rows), share=share)]
