"""Look up the embeddings of prompts once, around the context that is tuned.

What is the same for all classes is stored once: the start token and most of the padding.

>>> embed_prompts(text_model, tokens).words.shape  # doctest: +SKIP
(7, 5, 768)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.tokens import PromptTokens


@dataclass(frozen=True)
class EmbeddedPrompts:
    """The embeddings around the context, with their positions; T tokens in all.

    Attributes:
        start: [s, m] before the context: the start token, or nothing in a SigLIP.
        context: [n, m], the positions of the context alone.
        words: [K, l, m] behind it: class names to the end token, shorter ones with padding.
        padding: [T - s - n - l, m], the rest of every text.
        read: [K], the position of each class that is read.
    """

    start: mx.array
    context: mx.array
    words: mx.array
    padding: mx.array
    read: mx.array


def embed_prompts(text_model: TextModel, tokens: PromptTokens) -> EmbeddedPrompts:
    """Return the embeddings of prompts in a text tower, evaluated; they hold nothing of the token table."""
    config = text_model.config
    start = [] if tokens.sos is None else [tokens.sos]
    first, longest = len(start) + len(tokens.prefix), max(map(len, tokens.suffixes))
    pad = config.pad_token_id
    words = mx.array([[*suffix, *([pad] * (longest - len(suffix)))] for suffix in tokens.suffixes])
    positions = text_model.positions(config.max_position_embeddings)
    ends = [first + len(suffix) - 1 for suffix in tokens.suffixes]
    found = EmbeddedPrompts(
        start=text_model.embed(mx.array(start, dtype=mx.int32)) + positions[: len(start)],
        context=positions[len(start) : first],
        words=text_model.embed(words) + positions[first : first + longest],
        padding=text_model.embed(mx.array([pad])) + positions[first + longest :],
        read=mx.array([config.max_position_embeddings - 1] * len(ends) if config.read_at_the_end else ends),
    )
    mx.eval(*vars(found).values())
    return found
