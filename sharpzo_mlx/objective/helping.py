"""What a helper does with candidates of another process's search: build its objective, and compute pieces with it.

>>> compute_piece(clip, piece, prepare(clip, recipe))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, get_args

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.objective.calls import DERIVATIVES, Call, CandidatePiece
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.objective.recipe import Recipe, build_objective
from sharpzo_mlx.prompts.cpu_pieces import Share
from sharpzo_mlx.runtime.threads import given_threads


@dataclass(frozen=True)
class Rebuilt:
    """Another process's objective, and the threads that MLX's BLAS has there."""

    objective: Objective
    threads: int


def prepare(clip: Clip, recipe: Recipe) -> Rebuilt:
    """Build the objective that some pieces share.

    The memory budget is left out: it was checked and divided where the search runs, whose cores may be fewer.

    Raises:
        ValueError: labels that are none of the classes, which MLX would look up outside of its arrays.
    """
    if not all(0 <= label < len(recipe.class_names) for label in recipe.labels):
        raise ValueError("a label is none of the classes")
    if len(recipe.labels) != len(recipe.embeddings):
        raise ValueError(f"{len(recipe.labels)} labels for {len(recipe.embeddings)} images")
    with given_threads(recipe.threads):
        objective, _ = build_objective(clip, replace(recipe, memory_budget=None))
    mx.clear_cache()  # frees the token table, as `build_problem` does
    return Rebuilt(objective, recipe.threads)


def compute_piece(clip: Clip, piece: CandidatePiece, rebuilt: Rebuilt) -> list[np.ndarray]:
    """Compute a piece.

    Raises:
        ValueError: nothing is known by the name of its call, or its rows are no share of the batch.
    """
    if piece.call not in get_args(Call):
        raise ValueError(f"call {piece.call!r} is not known here")
    call, share = cast("Call", piece.call), None
    if call not in DERIVATIVES:
        share = Share(piece.start, piece.stop, piece.cores)
        edges = rebuilt.objective.backend.edges(len(piece.rows[0]), piece.cores)
        if not (share.start < share.stop and {share.start, share.stop} <= set(edges)):
            raise ValueError(f"rows {share.start} to {share.stop} are no share of {edges[-1]}")
    with given_threads(rebuilt.threads):
        return [np.array(value) for value in rebuilt.objective.compute(call, *map(mx.array, piece.rows), share=share)]
