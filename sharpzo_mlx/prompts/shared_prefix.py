"""Class features for many contexts at once, computing only what can be read: the heart of a query.

CLIP's text tower is causal and only the EOS position is read, so (1) nothing behind EOS is computed, (2) SOS and
the context are computed once a candidate, and SOS once a run, their keys and values shared by all classes, and so
are those of the first words that class names have in common (`packing`),
(3) the last layer computes queries and the MLP at EOS alone, (4) all candidates are one batch, and (5) only the
token rows that the prompts use are kept. The numbers equal the plain 77-token path to rounding. On MLX's CPU device
forward passes are carried out by `host_text`; the graph here is what a GPU runs, and what is differentiated.

    text = PromptedText(text_model, text_projection, tokens)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from sharpzo_mlx.prompts.prefix_tree import HIDDEN, pack
from sharpzo_mlx.prompts.shared_prefix_cpu import HostText

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import Attention, EncoderLayer
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompts.prompt import PromptTokens

Graph: TypeAlias = Callable[[mx.array], mx.array]


class ClassFeatures(Protocol):
    """What the objective needs of a text tower: features of all classes under any number of contexts."""

    classes: int
    tokens: int  # computed a candidate
    rows: int  # with the unused places of the layout, for the plan of the memory
    host: HostText | None  # the forward pass in NumPy, where that is the fast way

    def class_features(self, contexts: mx.array) -> mx.array:
        """[P, n, m] -> [P, K, D] float32, unit norm."""
        ...

    def graph(self, contexts: mx.array) -> mx.array:
        """The same as a lazy graph."""
        ...

    def stages(self) -> list[Graph]:
        """The graph cut in parts, one after the other."""
        ...


def specialise(text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> ClassFeatures:
    """The text tower for one set of prompts: with the exact savings where it is causal, else the full path."""
    if text_model.config.causal:
        return PromptedText(text_model, projection, tokens)
    return FullText(text_model, projection, tokens)


class FullText:
    """The plain path: every class's whole sequence, all positions of the tower; for towers that see them all.

    Args:
        text_model: any text tower.
        projection: its projection into the joint space.
        tokens: the prompts of all K classes.
    """

    def __init__(self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> None:
        self.text_model, self.projection = text_model, projection
        n, config = len(tokens.prefix), text_model.config
        rows = [[tokens.sos, *tokens.prefix, *suffix] for suffix in tokens.suffixes]
        length = config.max_position_embeddings
        ids = mx.array([row + [config.pad_token_id] * (length - len(row)) for row in rows])
        embedded = text_model.embed(ids)  # [K, 77, m]
        self.head, self.tail = embedded[:, :1], embedded[:, 1 + n :]
        self.eos = mx.array([len(row) - 1 for row in rows])
        self.classes, self.tokens, self.rows = len(rows), len(rows) * length, len(rows) * length
        self.host: HostText | None = None
        mx.eval(self.head, self.tail)

    def class_features(self, contexts: mx.array) -> mx.array:
        """Text features of every class under every context, [P, n, m] -> [P, K, D] float32, unit norm."""
        batch = contexts.shape[0]
        parts = [
            mx.broadcast_to(self.head, (batch, *self.head.shape)),
            mx.broadcast_to(contexts[:, None], (batch, self.classes, *contexts.shape[1:])),
            mx.broadcast_to(self.tail, (batch, *self.tail.shape)),
        ]
        x = mx.concatenate([part.astype(self.head.dtype) for part in parts], axis=2)
        x = x.reshape(batch * self.classes, *x.shape[2:])
        eos = mx.broadcast_to(self.eos, (batch, self.classes)).reshape(-1)
        features = self.projection(self.text_model.from_embeddings(x, eos)).astype(mx.float32)
        features = features / mx.linalg.norm(features, axis=-1, keepdims=True)
        return features.reshape(batch, self.classes, -1)

    graph = class_features

    def stages(self) -> list[Graph]:
        """One stage: the graph."""
        return [self.graph]


class PromptedText:
    """A causal text tower, specialised to one set of prompts.

    Args:
        text_model: a causal text tower.
        projection: its projection into the joint space.
        tokens: the prompts of all K classes.
        on_host: compute forward passes in NumPy; None: when MLX's default device is the CPU.
    """

    def __init__(
        self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens, *, on_host: bool | None = None
    ) -> None:
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
        # [1, B * E]: the EOS rows within the flattened suffixes
        self.ends = mx.array((layout.ends + layout.ids.shape[1] * np.arange(len(layout.ids))[:, None]).reshape(-1))
        sos = text_model.embed(mx.array([tokens.sos])) + positions[:1]
        self.sos_memory = self._run_sos(sos)
        mx.eval(self.context_positions, self.sos_memory, self.suffixes, self.mask, self.end_mask)
        on_host = mx.default_device() == mx.Device(mx.cpu) if on_host is None else on_host
        self.host = self._on_host() if on_host else None

    def class_features(self, contexts: mx.array) -> mx.array:
        """Text features of every class under every context.

        Args:
            contexts: [P, n, m], any float type; the tower's own type is computed in.

        Returns:
            [P, K, D] float32, unit norm.
        """
        if self.host is None:
            return self.graph(contexts)
        host = self.host
        return forward_by(lambda x: host.class_features(np.array(x.astype(mx.float32))), self.graph)(contexts)

    def graph(self, contexts: mx.array) -> mx.array:
        """`class_features` as a lazy graph that can be differentiated."""
        for stage in self.stages():
            contexts = stage(contexts)
        return contexts

    def stages(self) -> list[Graph]:
        """The graph cut between its layers, [P, n, m] -> ... -> [P, K, D]; one may be evaluated before the next."""
        middle = [partial(self._layer, number) for number in range(len(self.layers) - 1)]
        return [self._embed, *middle, self._last_layer]

    def _layer(self, number: int, x: mx.array) -> mx.array:
        """x [P, n + T, m]: context, then the blocks of suffixes."""
        layer = self.layers[number]
        y, attention = layer.layer_norm1(x), layer.self_attn
        parts = self._prefix_and_blocks(number, y, attention.q_proj(y) * attention.scale, self.mask)
        x = x + attention.out_proj(mx.concatenate(parts, axis=1))
        return x + layer.mlp(layer.layer_norm2(x))

    def _last_layer(self, x: mx.array) -> mx.array:
        """Here only EOS is read: [P, n + T, m] -> [P, K, D]."""
        layer = self.layers[-1]
        rows = self.context_length + self.ends
        y, attention = layer.layer_norm1(x), layer.self_attn
        q = attention.q_proj(mx.take(y, rows, axis=1)) * attention.scale
        (mixed,) = self._prefix_and_blocks(len(self.layers) - 1, y, q, self.end_mask)
        eos, mixed = (mx.take(part, index, axis=1) for part, index in ((x, rows), (mixed, self.class_order)))
        eos = mx.take(eos, self.class_order, axis=1) + attention.out_proj(mixed)
        eos = eos + layer.mlp(layer.layer_norm2(eos))
        features = self.projection(self.final_layer_norm(eos)).astype(mx.float32)
        return features / mx.linalg.norm(features, axis=-1, keepdims=True)

    def _run_sos(self, x: mx.array) -> list[tuple[mx.array, mx.array]]:
        """Keys and values [1, m] of SOS in every layer; it sees only itself, so its attention is its value."""
        memory = []
        for layer in self.layers:
            y, attention = layer.layer_norm1(x), layer.self_attn
            memory.append((attention.k_proj(y), attention.v_proj(y)))
            x = x + attention.out_proj(memory[-1][1])
            x = x + layer.mlp(layer.layer_norm2(x))
        return memory

    def _embed(self, contexts: mx.array) -> mx.array:
        flat = self.suffixes.reshape(-1, self.suffixes.shape[-1])
        suffixes = mx.broadcast_to(flat, (contexts.shape[0], *flat.shape))
        context = contexts.astype(self.context_positions.dtype) + self.context_positions
        return mx.concatenate([context, suffixes], axis=1)

    def _prefix_and_blocks(self, number: int, seen: mx.array, q: mx.array, mask: mx.array) -> list[mx.array]:
        """Attention in one layer, before its output product.

        Args:
            number: of the layer.
            seen: normalised states [P, n + T, m].
            q: queries, of all that is `seen` or of the rows of `mask` alone.
            mask: [B, r, b], what r rows of each block must not see of its b tokens.

        Returns:
            The context's rows [P, n, m] where they were asked for, and the blocks' [P, B * r, m].
        """
        attention, n = self.layers[number].self_attn, self.context_length
        k, v = attention.k_proj(seen), attention.v_proj(seen)
        prefix = tuple(
            self._with_sos(s, t[:, :n], attention) for s, t in zip(self.sos_memory[number], (k, v), strict=True)
        )
        blocks, rows = mask.shape[0], q.shape[1] - mask.shape[0] * mask.shape[1]
        parts = [_attend_prefix(_heads(q[:, :n], attention), *prefix)] if rows else []
        split = [_blocks(t, blocks, attention) for t in (q[:, rows:], k[:, n:], v[:, n:])]
        return [*parts, _attend_blocks(split[0], (split[1], split[2]), prefix, mask)]

    def _with_sos(self, sos: mx.array, context: mx.array, attention: Attention) -> mx.array:
        """Keys or values of SOS and context, by heads: [1, m], [P, n, m] -> [P, H, 1 + n, h]."""
        first = mx.broadcast_to(sos, (context.shape[0], *sos.shape))
        return _heads(mx.concatenate([first, context], axis=1), attention)

    def _on_host(self) -> HostText:
        return HostText(
            self.layers,
            self.sos_memory,
            (self.final_layer_norm, self.projection),
            (self.context_positions, self.suffixes),
            self.layout,
        )


def forward_by(host: Callable[[mx.array], np.ndarray], graph: Graph) -> Graph:
    """`graph` with its values computed by `host`; its derivatives are those of the graph."""

    @mx.custom_function
    def function(x: mx.array) -> mx.array:
        return mx.array(host(x))

    def forward(x: mx.array, tangent: mx.array) -> mx.array:
        return mx.jvp(graph, [x], [tangent])[1][0]

    def backward(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return mx.vjp(graph, [x], [cotangent])[1][0]

    function.jvp(forward)
    function.vjp(backward)
    return cast("Graph", function)


def _heads(x: mx.array, attention: Attention) -> mx.array:
    """[P, T, m] -> [P, H, T, h]."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(0, 2, 1, 3)


def _blocks(x: mx.array, blocks: int, attention: Attention) -> mx.array:
    """[P, B * r, m] -> [P, H, B, r, h]."""
    split = x.reshape(x.shape[0], blocks, -1, attention.num_heads, x.shape[2] // attention.num_heads)
    return split.transpose(0, 3, 1, 2, 4)


def _attend_prefix(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """The context's own rows: [P, H, n, h] over SOS and context [P, H, 1 + n, h] -> [P, n, m]."""
    rows, columns = q.shape[2], k.shape[2]
    position = mx.arange(columns - rows, columns)[:, None]
    scores = q @ k.swapaxes(-1, -2) + mx.where(mx.arange(columns) > position, HIDDEN, 0.0).astype(q.dtype)
    y = mx.softmax(scores, axis=-1, precise=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def _attend_blocks(
    q: mx.array, own: tuple[mx.array, mx.array], prefix: tuple[mx.array, ...], mask: mx.array
) -> mx.array:
    """Each row sees the shared prefix, and of its own block what the mask leaves.

    Args:
        q: [P, H, B, r, h].
        own: keys and values of the blocks, [P, H, B, b, h] each.
        prefix: keys and values of SOS and context, [P, H, 1 + n, h] each.
        mask: [B, r, b], added to the scores.

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
