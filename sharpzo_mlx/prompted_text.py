"""Class features for many contexts at once, computing only what can be read: the heart of a query.

CLIP's text tower is causal and only the EOS position is read, so (1) nothing behind EOS is computed, (2) SOS and
the context are computed once a candidate, and SOS once a run, their keys and values shared by all classes,
(3) the last layer computes queries and the MLP at EOS alone, (4) all candidates are one batch, and (5) only the
token rows that the prompts use are kept. The numbers equal the plain 77-token path to rounding.

    text = PromptedText(text_model, text_projection, tokens)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import mlx.nn as nn

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import Attention, EncoderLayer
    from sharpzo_mlx.clip.text import TextModel
    from sharpzo_mlx.prompt import PromptTokens


@dataclass(frozen=True)
class Group:
    """Classes whose suffixes have the same length: no padding, no masked work beyond the causal triangle."""

    classes: tuple[int, ...]
    length: int
    embedded: mx.array  # [K_g * l, m], position embeddings added

    @property
    def size(self) -> int:
        """Suffix tokens of the whole group."""
        return len(self.classes) * self.length


def group_by_length(suffixes: Sequence[Sequence[int]]) -> list[tuple[int, tuple[int, ...]]]:
    """(length, class indices) of every suffix length that occurs, shortest first."""
    lengths = sorted({len(suffix) for suffix in suffixes})
    return [(n, tuple(k for k, suffix in enumerate(suffixes) if len(suffix) == n)) for n in lengths]


class ClassFeatures(Protocol):
    """What the objective needs of a text tower: features of all classes under any number of contexts."""

    classes: int
    tokens: int  # computed a candidate, for the plan of the memory

    def class_features(self, contexts: mx.array) -> mx.array:
        """[P, n, m] -> [P, K, D] float32, unit norm."""
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
        self.classes, self.tokens = len(rows), len(rows) * length
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


class PromptedText:
    """A causal text tower, specialised to one set of prompts.

    Args:
        text_model: a causal text tower.
        projection: its projection into the joint space.
        tokens: the prompts of all K classes.
    """

    def __init__(self, text_model: TextModel, projection: nn.Linear, tokens: PromptTokens) -> None:
        self.layers: list[EncoderLayer] = list(text_model.encoder.layers)
        self.final_layer_norm = text_model.final_layer_norm
        self.projection = projection
        self.context_length = len(tokens.prefix)
        self.classes = len(tokens.suffixes)
        longest = 1 + self.context_length + max(len(suffix) for suffix in tokens.suffixes)
        positions = text_model.positions(longest)
        self.context_positions = positions[1 : 1 + self.context_length]
        self.groups = self._embed_groups(text_model, tokens, positions)
        self.tokens = self.context_length + sum(group.size for group in self.groups)
        order = [k for group in self.groups for k in group.classes]
        self.class_order = mx.array([order.index(k) for k in range(self.classes)])
        sos = text_model.embed(mx.array([tokens.sos])) + positions[:1]
        self.sos_memory = self._run_sos(sos)
        mx.eval(self.context_positions, self.sos_memory, [group.embedded for group in self.groups])

    def class_features(self, contexts: mx.array) -> mx.array:
        """Text features of every class under every context.

        Args:
            contexts: [P, n, m], any float type; the tower's own type is computed in.

        Returns:
            [P, K, D] float32, unit norm.
        """
        x = self._embed(contexts)  # [P, n + T, m]: context, then the groups' suffixes
        for layer, memory in zip(self.layers[:-1], self.sos_memory[:-1], strict=True):
            y = layer.layer_norm1(x)
            x = x + layer.self_attn.out_proj(self._attention(layer.self_attn, y, y, memory))
            x = x + layer.mlp(layer.layer_norm2(x))
        layer = self.layers[-1]  # here only EOS is read: [P, K, m]
        y, eos = layer.layer_norm1(x), self._eos_rows(x)
        eos = eos + layer.self_attn.out_proj(
            self._attention(layer.self_attn, self._eos_rows(y), y, self.sos_memory[-1])
        )
        eos = eos + layer.mlp(layer.layer_norm2(eos))
        features = self.projection(self.final_layer_norm(eos)).astype(mx.float32)
        features = features / mx.linalg.norm(features, axis=-1, keepdims=True)
        return mx.take(features, self.class_order, axis=1)

    def _embed_groups(self, text_model: TextModel, tokens: PromptTokens, positions: mx.array) -> list[Group]:
        groups = []
        for length, classes in group_by_length(tokens.suffixes):
            ids = mx.array([tokens.suffixes[k] for k in classes])
            start = 1 + self.context_length
            x = text_model.embed(ids) + positions[start : start + length]
            groups.append(Group(classes, length, x.reshape(len(classes) * length, -1)))
        return groups

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
        parts = [contexts.astype(self.context_positions.dtype) + self.context_positions]
        for group in self.groups:
            parts.append(mx.broadcast_to(group.embedded, (contexts.shape[0], *group.embedded.shape)))
        return mx.concatenate(parts, axis=1)

    def _eos_rows(self, x: mx.array) -> mx.array:
        """The last token of every class, in the groups' order: [P, n + T, m] -> [P, K, m]."""
        rows, start = [], self.context_length
        for group in self.groups:
            rows.append(x[:, start + group.length - 1 : start + group.size : group.length])
            start += group.size
        return mx.concatenate(rows, axis=1)

    def _attention(self, attention: Attention, x: mx.array, seen: mx.array, sos: tuple[mx.array, mx.array]) -> mx.array:
        """Causal attention of the rows `x` over all tokens `seen` [P, n + T, m], before its output product.

        `x` is `seen` itself, or its EOS rows [P, K, m] alone.
        """
        only_eos = x is not seen
        q = attention.q_proj(x) * attention.scale
        k, v = attention.k_proj(seen), attention.v_proj(seen)
        n, start, row, parts = self.context_length, self.context_length, 0, []
        prefix = tuple(self._with_sos(s, t[:, :n], attention) for s, t in zip(sos, (k, v), strict=True))
        if not only_eos:
            parts.append(_attend_prefix(_heads(q[:, :n], attention), *prefix))
            row = n
        for group in self.groups:
            rows = len(group.classes) if only_eos else group.size
            own = (k[:, start : start + group.size], v[:, start : start + group.size])
            parts.append(_attend_group(q[:, row : row + rows], own, prefix, attention, len(group.classes)))
            start, row = start + group.size, row + rows
        return mx.concatenate(parts, axis=1)

    def _with_sos(self, sos: mx.array, context: mx.array, attention: Attention) -> mx.array:
        """Keys or values of SOS and context, by heads: [1, m], [P, n, m] -> [P, H, 1 + n, h]."""
        first = mx.broadcast_to(sos, (context.shape[0], *sos.shape))
        return _heads(mx.concatenate([first, context], axis=1), attention)


def _heads(x: mx.array, attention: Attention) -> mx.array:
    """[P, T, m] -> [P, H, T, h]."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(0, 2, 1, 3)


def _future(rows: int, columns: int, dtype: mx.Dtype) -> mx.array:
    """What each of the last `rows` of `columns` positions must not see: 0 or a large negative number."""
    position = mx.arange(columns - rows, columns)[:, None]
    return mx.where(mx.arange(columns) > position, -1e4, 0.0).astype(dtype)


def _attend_prefix(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """The context's own rows: [P, H, n, h] over SOS and context [P, H, 1 + n, h] -> [P, n, m]."""
    scores = q @ k.swapaxes(-1, -2) + _future(q.shape[2], k.shape[2], q.dtype)
    y = mx.softmax(scores, axis=-1, precise=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def _attend_group(
    q: mx.array,
    own: tuple[mx.array, mx.array],
    prefix: tuple[mx.array, ...],
    attention: Attention,
    classes: int,
) -> mx.array:
    """The suffixes of one group: each row sees the shared prefix, and its own class up to itself.

    Args:
        q: [P, K_g * r, m], r rows a class: all of the suffix, or EOS alone.
        own: keys and values of the group's suffixes, [P, K_g * l, m] each.
        prefix: keys and values of SOS and context, [P, H, 1 + n, h] each.
        attention: for the number of heads.
        classes: K_g.

    Returns:
        [P, K_g * r, m].
    """

    def by_class(x: mx.array) -> mx.array:  # [P, K_g * r, m] -> [P, H, K_g, r, h]
        split = x.reshape(x.shape[0], classes, -1, attention.num_heads, x.shape[2] // attention.num_heads)
        return split.transpose(0, 3, 1, 2, 4)

    queries, (keys, values) = by_class(q), map(by_class, own)
    batch, heads, _, rows, _ = queries.shape
    flat = queries.reshape(batch, heads, classes * rows, -1)
    shared = flat @ prefix[0].swapaxes(-1, -2)  # [P, H, K_g * r, 1 + n]
    local = queries @ keys.swapaxes(-1, -2) + _future(rows, keys.shape[3], q.dtype)
    local = local.reshape(batch, heads, classes * rows, -1)
    weights = mx.softmax(mx.concatenate([shared, local], axis=-1), axis=-1, precise=True)
    cut = shared.shape[-1]
    y = weights[..., :cut] @ prefix[1]
    z = weights[..., cut:].reshape(batch, heads, classes, rows, -1) @ values
    y = y + z.reshape(y.shape)
    return y.transpose(0, 2, 1, 3).reshape(q.shape)
