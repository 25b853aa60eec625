"""Compute class features of many contexts at once in a causal text tower, without computing anything twice.

CLIP's text tower is causal and only EOS is read. Therefore
(1) nothing behind EOS is computed,
(2) the keys and values of SOS are computed once a run, those of the context once a candidate, and those of the first
    words that class names have in common once for all of these classes (`prefix_tree`),
(3) the last layer computes queries and its MLP at EOS alone,
(4) all candidates are one batch, and
(5) only the token embeddings that the prompts use are kept.
The results equal those of the plain path over 77 tokens up to rounding. The class below builds a lazy graph, which a
GPU evaluates and which is differentiated on every device; `shared_prefix_cpu` has the same computation in NumPy.

    text = SharedPrefixText(text_model, text_projection, tokens)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from sharpzo_mlx.prompts.prefix_tree import HIDDEN, pack
from sharpzo_mlx.prompts.shared_prefix_cpu import SharedPrefixCPU

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import Attention, EncoderLayer
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.tokens import PromptTokens


class SharedPrefixText:
    """A causal text tower, specialised to one set of prompts; see `text_features.TextFeatures`.

    Args:
        text_model: a causal text tower.
        projection: its projection into the space of image features.
        tokens: the prompts of K classes.
    """

    def __init__(self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> None:
        self.layers: list[EncoderLayer] = list(text_model.encoder.layers)
        self.final_layer_norm, self.projection = text_model.final_layer_norm, projection
        self.context_length, self.classes = len(tokens.prefix), len(tokens.suffixes)
        self.layout = layout = pack(tokens.suffixes)
        self.tokens = self.context_length + layout.nodes
        self.rows = self.context_length + layout.ids.size
        start = 1 + self.context_length
        positions = text_model.positions(start + int(layout.depth.max()) + 1)
        self.context_positions = positions[1:start]
        self.suffixes = text_model.embed(mx.array(layout.ids)) + positions[mx.array(start + layout.depth)]
        self.class_order = mx.array(layout.slot)
        dtype = self.suffixes.dtype
        self.mask, self.end_mask = (mx.array(mask).astype(dtype) for mask in (layout.mask, layout.end_mask))
        n = self.context_length
        self.context_mask = mx.array(np.triu(np.full((n, n + 1), HIDDEN, np.float32), 2)).astype(dtype)
        # [1, B * E]: the EOS rows within the flattened suffixes
        self.ends = mx.array((layout.ends + layout.ids.shape[1] * np.arange(len(layout.ids))[:, None]).reshape(-1))
        sos = text_model.embed(mx.array([tokens.sos])) + positions[:1]
        self.sos_memory = self._run_sos(sos)
        masks = (self.mask, self.end_mask, self.context_mask)
        mx.eval(self.context_positions, self.sos_memory, self.suffixes, *masks)

    @cached_property
    def cpu(self) -> SharedPrefixCPU:
        """The same computation in NumPy."""
        return SharedPrefixCPU(
            self.layers,
            self.sos_memory,
            (self.final_layer_norm, self.projection),
            (self.context_positions, self.suffixes),
            self.layout,
        )

    @cached_property
    def query_maps(self) -> list[Callable[[mx.array], mx.array]]:
        """The layers' maps to queries, with the scale of attention in their weights where that changes no bit."""
        return [_scaled_queries(layer.self_attn) for layer in self.layers]

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts as a lazy graph.

        Args:
            contexts: [P, n, m] of any float type; they are converted to the type of the tower's weights.

        Returns:
            [P, K, D] float32 of unit norm.
        """
        for stage in self.stages():
            contexts = stage(contexts)
        return contexts

    def stages(self) -> list[Callable[[mx.array], mx.array]]:
        """Return `class_features` cut between its layers, so that each may be evaluated before the next."""
        middle = [partial(self._run_layer, number) for number in range(len(self.layers) - 1)]
        return [self._embed, *middle, self._run_last_layer]

    def _embed(self, contexts: mx.array) -> mx.array:
        """Return the first layer's input, [P, n, m] -> [P, n + T, m]: the context, then the blocks of suffixes."""
        flat = self.suffixes.reshape(-1, self.suffixes.shape[-1])
        suffixes = mx.broadcast_to(flat, (contexts.shape[0], *flat.shape))
        context = contexts.astype(self.context_positions.dtype) + self.context_positions
        return mx.concatenate([context, suffixes], axis=1)

    def _run_layer(self, number: int, x: mx.array) -> mx.array:
        """Apply a layer to the states x [P, n + T, m]."""
        layer = self.layers[number]
        y, attention = layer.layer_norm1(x), layer.self_attn
        parts = self._attend(number, y, self.query_maps[number](y), self.mask)
        x = x + attention.out_proj(mx.concatenate(parts, axis=1))
        return x + layer.mlp(layer.layer_norm2(x))

    def _run_last_layer(self, x: mx.array) -> mx.array:
        """Apply the last layer at EOS alone and project, [P, n + T, m] -> [P, K, D]."""
        layer = self.layers[-1]
        rows = self.context_length + self.ends
        y, attention = layer.layer_norm1(x), layer.self_attn
        q = self.query_maps[-1](mx.take(y, rows, axis=1))
        (mixed,) = self._attend(len(self.layers) - 1, y, q, self.end_mask)
        eos, mixed = (mx.take(part, index, axis=1) for part, index in ((x, rows), (mixed, self.class_order)))
        eos = mx.take(eos, self.class_order, axis=1) + attention.out_proj(mixed)
        eos = eos + layer.mlp(layer.layer_norm2(eos))
        features = self.projection(self.final_layer_norm(eos)).astype(mx.float32)
        return features / mx.linalg.norm(features, axis=-1, keepdims=True)

    def _run_sos(self, x: mx.array) -> list[tuple[mx.array, mx.array]]:
        """Return the keys and values [1, m] of SOS in each layer; it sees itself alone, so it attends to its value."""
        memory = []
        for layer in self.layers:
            y, attention = layer.layer_norm1(x), layer.self_attn
            memory.append((attention.k_proj(y), attention.v_proj(y)))
            x = x + attention.out_proj(memory[-1][1])
            x = x + layer.mlp(layer.layer_norm2(x))
        return memory

    def _attend(self, number: int, states: mx.array, q: mx.array, mask: mx.array) -> list[mx.array]:
        """Compute the attention of one layer, without its output product.

        Args:
            number: the layer's number.
            states: normalised states [P, n + T, m], from which keys and values are made.
            q: queries of all states, or of the blocks' rows in `mask` alone.
            mask: [B, r, b], added to the scores of r rows of each block over the block's b tokens.

        Returns:
            The context's rows [P, n, m] where `q` has them, then the blocks' rows [P, B * r, m].
        """
        attention, n = self.layers[number].self_attn, self.context_length
        k, v = attention.k_proj(states), attention.v_proj(states)
        prefix = tuple(
            _prepend_sos(s, t[:, :n], attention) for s, t in zip(self.sos_memory[number], (k, v), strict=True)
        )
        blocks, rows = mask.shape[0], q.shape[1] - mask.shape[0] * mask.shape[1]
        parts = [_attend_prefix(_split_heads(q[:, :n], attention), prefix, self.context_mask)] if rows else []
        split = [_split_blocks(t, blocks, attention) for t in (q[:, rows:], k[:, n:], v[:, n:])]
        return [*parts, _attend_blocks(split[0], (split[1], split[2]), prefix, mask)]


def _scaled_queries(attention: Attention) -> Callable[[mx.array], mx.array]:
    """Return the map from states to queries times the scale of attention.

    With heads 64 wide the scale is 1/8, and a product with a power of two is exact, so it may come before the others.
    """
    plain, scale = attention.q_proj, attention.scale
    if type(plain) is not nn.Linear or math.frexp(scale)[0] != 0.5:
        return lambda x: plain(x) * scale
    scaled = nn.Linear(1, 1)
    scaled.weight, scaled.bias = plain.weight * scale, plain.bias * scale
    mx.eval(scaled.weight, scaled.bias)
    return scaled


def _prepend_sos(sos: mx.array, context: mx.array, attention: Attention) -> mx.array:
    """Return the keys or values of SOS and context by heads: [1, m], [P, n, m] -> [P, H, 1 + n, h]."""
    first = mx.broadcast_to(sos, (context.shape[0], *sos.shape))
    return _split_heads(mx.concatenate([first, context], axis=1), attention)


def _split_heads(x: mx.array, attention: Attention) -> mx.array:
    """Split the width into heads: [P, T, m] -> [P, H, T, h]."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(0, 2, 1, 3)


def _split_blocks(x: mx.array, blocks: int, attention: Attention) -> mx.array:
    """Split the rows into blocks and the width into heads: [P, B * r, m] -> [P, H, B, r, h]."""
    split = x.reshape(x.shape[0], blocks, -1, attention.num_heads, x.shape[2] // attention.num_heads)
    return split.transpose(0, 3, 1, 2, 4)


def _attend_prefix(q: mx.array, prefix: tuple[mx.array, ...], mask: mx.array) -> mx.array:
    """Attend from the context to SOS and context.

    Args:
        q: [P, H, n, h].
        prefix: keys and values, [P, H, 1 + n, h] each.
        mask: [n, 1 + n], added to the scores.

    Returns:
        [P, n, m].
    """
    y = mx.softmax(q @ prefix[0].swapaxes(-1, -2) + mask, axis=-1, precise=True) @ prefix[1]
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def _attend_blocks(
    q: mx.array, own: tuple[mx.array, mx.array], prefix: tuple[mx.array, ...], mask: mx.array
) -> mx.array:
    """Attend from rows of the blocks to the shared prefix and to their own block.

    Args:
        q: [P, H, B, r, h].
        own: keys and values of the blocks, [P, H, B, b, h] each.
        prefix: keys and values of SOS and context, [P, H, 1 + n, h] each.
        mask: [B, r, b], added to the scores over the own block.

    Returns:
        [P, B * r, m].
    """
    batch, heads, blocks, rows, _ = q.shape
    shared = q.reshape(batch, heads, blocks * rows, -1) @ prefix[0].swapaxes(-1, -2)  # [P, H, B * r, 1 + n]
    local = (q @ own[0].swapaxes(-1, -2) + mask).reshape(batch, heads, blocks * rows, -1)
    weights = mx.softmax(mx.concatenate([shared, local], axis=-1), axis=-1, precise=True)
    cut = shared.shape[-1]
    y = weights[..., :cut] @ prefix[1]
    z = weights[..., cut:].reshape(batch, heads, blocks, rows, -1) @ own[1]
    y = y + z.reshape(y.shape)
    return y.transpose(0, 2, 1, 3).reshape(batch, blocks * rows, -1)
