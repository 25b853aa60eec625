"""Compute class features of many contexts at once in a text tower in which every token sees all others.

Nothing can be shared between class names here, because each token's state depends on the whole text, and the padding
belongs to it: a SigLIP reads 64 positions a class, the last of which is its result. Still
(1) all candidates are one batch,
(2) the last layer computes its query and its MLP at the position that is read alone,
(3) only the embeddings of tokens that prompts use are kept, the padding's once for all classes, and
(4) nothing of the token table stays.
The class below builds a lazy graph; `full_text_cpu` has the same computation in NumPy.

    text = FullText(text_model, text_projection, tokens)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from sharpzo_mlx.prompts.embedded_prompts import embed_prompts
from sharpzo_mlx.prompts.full_text_cpu import FullTextCPU

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.tokens import PromptTokens


class FullText:
    """A text tower of any kind, specialised to one set of prompts; see `text_features.TextFeatures`.

    Args:
        text_model: the text tower; a causal one gives the features of `shared_prefix`, at a higher price.
        projection: its projection into the space of image features.
        tokens: the prompts of K classes.
    """

    def __init__(self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> None:
        self.layers: list[EncoderLayer] = list(text_model.encoder.layers)
        self.final_layer_norm, self.projection, self.mask = text_model.final_layer_norm, projection, text_model.mask
        self.prompts = embed_prompts(text_model, tokens)
        self.classes, self.length = len(tokens.suffixes), text_model.config.max_position_embeddings
        self.tokens = self.rows = self.classes * self.length

    @cached_property
    def cpu(self) -> FullTextCPU | None:
        """The same computation in NumPy; None for a causal tower."""
        if self.mask is not None:
            return None
        return FullTextCPU(self.layers, (self.final_layer_norm, self.projection), self.prompts)

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts as a lazy graph, [P, n, m] -> [P, K, D] float32 of unit norm."""
        for stage in self.stages():
            contexts = stage(contexts)
        return contexts

    def stages(self) -> list[Callable[[mx.array], mx.array]]:
        """Return `class_features` cut between its layers, so that each may be evaluated before the next."""
        return [self._embed, *(partial(layer, mask=self.mask) for layer in self.layers[:-1]), self._run_last_layer]

    def _embed(self, contexts: mx.array) -> mx.array:
        """Return the first layer's input, [P, n, m] -> [P * K, T, m]."""
        known, batch, classes = self.prompts, contexts.shape[0], self.classes
        context = contexts.astype(known.context.dtype) + known.context
        parts = (known.start, context[:, None], known.words, known.padding)
        whole = [mx.broadcast_to(part, (batch, classes, *part.shape[-2:])) for part in parts if part.shape[-2]]
        return mx.concatenate(whole, axis=2).reshape(batch * classes, self.length, -1)

    def _run_last_layer(self, x: mx.array) -> mx.array:
        """Apply the last layer where it is read and project, [P * K, T, m] -> [P, K, D]."""
        layer, batch = self.layers[-1], x.shape[0] // self.classes
        y, attention = layer.layer_norm1(x), layer.self_attn
        read = mx.broadcast_to(self.prompts.read, (batch, self.classes)).reshape(-1, 1, 1)
        mask = None if self.mask is None else (mx.arange(self.length) <= read)[:, None]
        state, asked = (mx.take_along_axis(part, read, axis=1) for part in (x, y))
        queries, keys, values = (attention.heads(part) for part in (attention.q_proj(asked), *_memory(attention, y)))
        state = state + attention.attend(queries, keys, values, mask)
        state = (state + layer.mlp(layer.layer_norm2(state))).squeeze(1)
        features = self.projection(self.final_layer_norm(state)).astype(mx.float32)
        features = features / mx.linalg.norm(features, axis=-1, keepdims=True)
        return features.reshape(batch, self.classes, -1)


def _memory(attention: nn.Module, states: mx.array) -> tuple[mx.array, mx.array]:
    return attention.k_proj(states), attention.v_proj(states)
