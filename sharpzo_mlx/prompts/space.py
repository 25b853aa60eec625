"""Map the searched vector w to a context: the n vectors in front of every class name.

The context starts at the token embeddings of the template's words before `{}` and is shifted by a fixed random
projection of w: ctx(w) = p0 + reshape(A w, (n, m)) (SharpZO, arXiv 2506.20990, section 3). The entries of A are drawn
from the run's seed. Their standard deviation is set relative to that of the checkpoint's token embeddings, so that
w_j near 1 moves the context about as far as words lie apart. w = 0 is exactly zero-shot.

>>> space = PromptSpace(initial=mx.zeros((4, 8)), projection=mx.ones((32, 2)))
>>> space.contexts(mx.zeros((3, 2))).shape
(3, 4, 8)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import mlx.core as mx

from sharpzo_mlx.rng import key_for

if TYPE_CHECKING:
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.tokens import PromptTokens

SAMPLED_ROWS = 4096  # rows of the token table from which its standard deviation is computed


class SpaceOptions(Protocol):
    """The size and the scale of the searched space, as a configuration gives them (`config.SpaceParams`)."""

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        ...

    @property
    def relative_scale(self) -> float:
        """Standard deviation of the shift's entries at |w_j| = 1, divided by that of the token embeddings."""
        ...

    @property
    def projection_std(self) -> float | None:
        """The standard deviation of A's entries; where it is given, `relative_scale` is not used."""
        ...


@dataclass(frozen=True)
class PromptSpace:
    """The map ctx(w) = p0 + reshape(A w, (n, m)).

    Attributes:
        initial: p0 [n, m], float32.
        projection: A [n * m, d], float32.
    """

    initial: mx.array
    projection: mx.array

    @property
    def dimension(self) -> int:
        """d, the length of w."""
        return int(self.projection.shape[1])

    def contexts(self, w: mx.array) -> mx.array:
        """Return the contexts [P, n, m] of a batch of vectors w [P, d]."""
        shift = (w @ self.projection.T).reshape(-1, *self.initial.shape)
        return self.initial + shift


def embedding_spread(text_model: TextModel) -> float:
    """Return the standard deviation of the token embeddings' entries, from evenly spaced rows of the token table."""
    table = text_model.embeddings.token_embedding
    rows = int(table.weight.shape[0])
    sample = mx.arange(0, rows, max(1, rows // SAMPLED_ROWS))
    return cast(float, mx.std(table(sample).astype(mx.float32)).item())


def make_space(
    text_model: TextModel,
    tokens: PromptTokens,
    *,
    dimension: int,
    relative_scale: float,
    projection_std: float | None,
    seed: int,
) -> PromptSpace:
    """Look up p0 and draw A.

    Args:
        text_model: the frozen text tower, of which the token table is read.
        tokens: the prompts, whose prefix gives p0.
        dimension: see `SpaceOptions`.
        relative_scale: see `SpaceOptions`.
        projection_std: see `SpaceOptions`.
        seed: the run's seed.

    Returns:
        The space. A's entries are N(0, std^2), with std = relative_scale * spread / sqrt(d) unless it is given.
    """
    initial = text_model.embeddings.token_embedding(mx.array(tokens.prefix)).astype(mx.float32)
    std = projection_std or relative_scale * embedding_spread(text_model) / math.sqrt(dimension)
    projection = std * mx.random.normal((initial.size, dimension), key=key_for(seed, "projection"))
    mx.eval(initial, projection)
    return PromptSpace(initial, projection)
