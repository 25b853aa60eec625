"""Compute class features the plain way: every class's whole sequence, for towers in which every token sees all.

text = FullText(text_model, text_projection, tokens)
features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

if TYPE_CHECKING:
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.tokens import PromptTokens


class FullText:
    """A text tower of any kind, specialised to one set of prompts; see `text_features.TextFeatures`.

    Args:
        text_model: the text tower.
        projection: its projection into the space of image features.
        tokens: the prompts of K classes.
    """

    cpu = None  # there is no NumPy version: few checkpoints have such a tower

    def __init__(self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> None:
        self.text_model, self.projection = text_model, projection
        n, config = len(tokens.prefix), text_model.config
        rows = [[tokens.sos, *tokens.prefix, *suffix] for suffix in tokens.suffixes]
        length = config.max_position_embeddings
        ids = mx.array([row + [config.pad_token_id] * (length - len(row)) for row in rows])
        embedded = text_model.embed(ids)  # [K, 77, m]
        self.start, self.end = embedded[:, :1], embedded[:, 1 + n :]  # around the context
        self.eos = mx.array([len(row) - 1 for row in rows])
        self.classes, self.tokens, self.rows = len(rows), len(rows) * length, len(rows) * length
        mx.eval(self.start, self.end)

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts as a lazy graph, [P, n, m] -> [P, K, D] float32 of unit norm."""
        batch = contexts.shape[0]
        parts = [
            mx.broadcast_to(self.start, (batch, *self.start.shape)),
            mx.broadcast_to(contexts[:, None], (batch, self.classes, *contexts.shape[1:])),
            mx.broadcast_to(self.end, (batch, *self.end.shape)),
        ]
        x = mx.concatenate([part.astype(self.start.dtype) for part in parts], axis=2)
        x = x.reshape(batch * self.classes, *x.shape[2:])
        eos = mx.broadcast_to(self.eos, (batch, self.classes)).reshape(-1)
        features = self.projection(self.text_model.from_embeddings(x, eos)).astype(mx.float32)
        features = features / mx.linalg.norm(features, axis=-1, keepdims=True)
        return features.reshape(batch, self.classes, -1)

    def stages(self) -> list[Callable[[mx.array], mx.array]]:
        """Return one stage: the whole graph."""
        return [self.class_features]
