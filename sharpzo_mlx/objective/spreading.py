"""Have helpers compute the losses, features and derivatives of candidates, to the bits that this process would find.

This process computes a batch in chunks, and NumPy a chunk in pieces. A helper gets the vectors w of a whole chunk and
computes some of its pieces, cut as they would be here, or a whole chunk where the graph computes it. It builds the
same objective first, once, from a record that it is sent. What comes back is losses or class features.

>>> compute_with_helpers(objective, "losses", (w,), chunks.cut(len(w), objective.chunk))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import mlx.core as mx
import numpy as np

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.backend import Backend
from sharpzo_mlx.objective.calls import DERIVATIVES, Call, CandidatePiece
from sharpzo_mlx.objective.chunks import Sizes
from sharpzo_mlx.prompts.text_features import TextFeatures
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.helpers import Origin, current
from sharpzo_mlx.runtime.threads import workers

WORK = "candidates"
WORTH_SENDING = 8e9  # operations of a batch on the CPU: with fewer, its answer takes about as long as the work
GPU_WORTH_SENDING = 2e11  # the same on a GPU: 30 ms of one that makes 7 TFLOP/s
PIECES_EACH = 2  # for every helper, so that it has the next one while the first is on its way back


class Divisible(Protocol):
    """What is asked of an objective here."""

    text: TextFeatures
    sizes: Sizes
    backend: Backend
    origin: Origin | None


def compute_with_helpers(
    objective: Divisible, call: Call, rows: Sequence[mx.array], parts: Sequence[slice]
) -> tuple[mx.array, ...] | None:
    """Do as `Objective.compute` with all chunks of a batch, or return None if this process should do so itself.

    Args:
        objective: counts no query.
        call: what is computed.
        rows: points [P, d], and for derivatives directions [P, d].
        parts: the chunks of the batch.

    Raises:
        UserError: a piece cannot be done by anyone.
    """
    helpers, origin = current(), objective.origin
    least = WORTH_SENDING if on_cpu() else GPU_WORTH_SENDING
    if helpers is None or origin is None or count_operations(objective, len(rows[0])) < least:
        return None
    given = [np.array(row, np.float32) for row in rows]
    each = max(1, -(-PIECES_EACH * helpers.count // len(parts)))
    places = [(part, a, b) for part in parts for a, b in _cut(objective, call, part, each)]
    if len(places) < 2:
        return None
    pieces = (CandidatePiece(call, [row[part] for row in given], a, b, workers()) for part, a, b in places)
    found: dict[int, list[np.ndarray]] = {}
    for number, values in helpers.perform(WORK, pieces, origin.model, origin.shared):
        _, start, stop = places[number]
        _check(objective, call, values, stop - start)
        found[number] = values
    ordered = [found[number] for number in range(len(places))]
    return tuple(mx.array(np.concatenate(values)) for values in zip(*ordered, strict=True))


def count_operations(objective: Divisible, candidates: int) -> float:
    """Return about how many operations the text tower needs for so many candidates."""
    sizes = objective.sizes
    return 24.0 * sizes.width**2 * sizes.tokens * len(objective.text.stages()) * candidates


def _cut(objective: Divisible, call: Call, part: slice, most: int) -> list[tuple[int, int]]:
    """Cut a chunk into shares, at most so many."""
    count = part.stop - part.start
    edges = [0, count] if call in DERIVATIVES else objective.backend.edges(count, workers())
    chosen = np.linspace(0, len(edges) - 1, min(most, len(edges) - 1) + 1).round().astype(int)
    return list(pairwise(edges[index] for index in chosen))


def _check(objective: Divisible, call: Call, values: Sequence[np.ndarray], count: int) -> None:
    """Refuse results of another shape, which a helper of the same version never sends."""
    classes, images, width = objective.sizes.classes, objective.sizes.images, objective.sizes.features
    expected = {
        "losses": [(count,)],
        "image_losses": [(count, images)],
        "features": [(count, classes, width)],
        "jvp": [(count,), (count,)],
        "feature_slopes": [(1, classes, width), (count, classes, width)],
    }[call]
    if [value.shape for value in values] != expected or any(value.dtype != np.float32 for value in values):
        raise UserError(f"a helper sent other arrays than the {call} of {count} candidates; use one version everywhere")
