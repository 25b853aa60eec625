"""The prompted text tower and its losses in NumPy, for MLX's CPU device: what a query costs there is its products.

MLX's CPU backend computes exp and its like one element at a time and keeps a graph's activations alive, so on that
device the forward pass goes layer by layer through NumPy instead (SharpZO, arXiv 2506.20990, section 3; the savings
are those of `prompted_text`). Work is cut into pieces of some candidates and some blocks of suffixes, each carried
through all layers by one core in buffers that fit its cache. There are no derivatives here: `prompted_text` has
the same computation as a graph. Weights are used in float32, whatever they are stored in; float32 ones are not copied.

    host = HostText(layers, head, embedded, layout)
    features = host.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.cpu_layers import ROWS, Array, Buffers, CPULayer, affine, array, by_head, cpu_layer, softmax
from sharpzo_mlx.runtime.threads import spread, workers

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer
    from sharpzo_mlx.prompts.prefix_tree import Layout

WORTH_A_CORE = 1e9  # operations of a piece: below, handing pieces to threads costs more than it saves
LOGITS_AT_ONCE = 1 << 18  # of the N x K logits of one candidate, on one core


@dataclass(frozen=True)
class PromptedLayer(CPULayer):
    """A layer, and SOS's key and value [m] in it."""

    sos: tuple[Array, Array]


class HostText:
    """The forward pass of a prompted text tower on the CPU.

    Args:
        layers: the tower's layers.
        sos: keys and values [1, m] of SOS in each.
        head: the final layer norm and the projection.
        embedded: the context's positions [n, m] and the suffixes' embeddings [B, b, m].
        layout: where the suffixes stand.
    """

    def __init__(
        self,
        layers: Sequence[EncoderLayer],
        sos: Sequence[tuple[mx.array, mx.array]],
        head: tuple[nn.LayerNorm, nn.Linear],
        embedded: tuple[mx.array, mx.array],
        layout: Layout,
    ) -> None:
        self.layers = [_layer(layer, memory) for layer, memory in zip(layers, sos, strict=True)]
        self.final, self.projection = affine(head[0]), affine(head[1])
        self.positions, self.suffixes = map(array, embedded)
        self.layout, self.end_mask = layout, layout.end_mask
        self.heads, self.act = layers[0].self_attn.num_heads, in_place(layers[0].mlp.activation)
        self.scale = np.float32(layers[0].self_attn.scale)
        first = self.layers[0]
        flat = self.suffixes.reshape(-1, self.suffixes.shape[-1])
        y = first.norm1.norm(flat, np.empty_like(flat))
        # a suffix's first keys, queries and values do not depend on the candidate
        self.first = [part.reshape(self.suffixes.shape) for part in (first.q(y) * self.scale, first.k(y), first.v(y))]

    def class_features(self, contexts: Array) -> Array:
        """Text features of every class under every context, [P, n, m] -> [P, K, D] float32, unit norm."""
        blocks, size = self.layout.ids.shape
        candidates = len(contexts)
        features = np.empty((candidates, len(self.layout.slot), self.projection.weight.shape[0]), np.float32)
        number = self.layout.slot // self.layout.ends.shape[1]  # each class's block

        def piece(place: tuple[slice, slice]) -> None:
            classes = np.flatnonzero((number >= place[1].start) & (number < place[1].stop))
            slots = self.layout.slot[classes] - place[1].start * self.layout.ends.shape[1]
            features[place[0], classes] = self._forward(contexts[place[0]], place[1], slots)

        width, depth = self.suffixes.shape[-1], len(self.layers)
        least = int(WORTH_A_CORE / (24 * width**2 * depth))
        spread(piece, _pieces(candidates, blocks, size, least=least))
        return features

    def piece_bytes(self) -> int:
        """What the pieces that run at once hold, whatever the number of candidates."""
        hidden, width = map(int, self.layers[0].fc1.weight.shape)
        size = int(self.layout.ids.shape[1])
        prefix = 1 + len(self.positions)
        rows = max(ROWS, size) + len(self.positions) * -(-ROWS // size)
        return 4 * workers() * rows * (7 * width + hidden + self.heads * (size + prefix))

    def _forward(self, contexts: Array, blocks: slice, slots: Array) -> Array:
        """Features [p, k, D] of the classes at `slots` of these blocks under contexts [p, n, m]."""
        p, n, m = contexts.shape
        suffixes, mask = self.suffixes[blocks], self.layout.mask[blocks]
        rows = p * (n + suffixes.shape[0] * suffixes.shape[1])
        room = Buffers(rows, m, self.layers[0].fc1.weight.shape[0])
        cut = p * n  # rows: all candidates' contexts, then all candidates' suffixes
        room.x[:cut] = (contexts + self.positions).reshape(cut, m)
        room.x[cut:].reshape(p, *suffixes.shape)[:] = suffixes
        for number, layer in enumerate(self.layers[:-1]):
            y = layer.norm1.norm(room.x, room.y)
            if number == 0:
                self._project_first(layer, room, cut, blocks)
            else:
                layer.q(y, room.q)
                room.q *= self.scale
                layer.k(y, room.k)
                layer.v(y, room.v)
            self._attend(layer, room, (p, n), mask)
            layer.finish(room.x, room, self.act)
        layer = self.layers[-1]
        y = layer.norm1.norm(room.x, room.y)
        layer.k(y, room.k)
        layer.v(y, room.v)
        ends = np.broadcast_to(self.layout.ends[blocks], (p, *self.layout.ends[blocks].shape))
        eos, normed = (_rows(part[cut:].reshape(p, *suffixes.shape), ends) for part in (room.x, y))
        q = layer.q(normed.reshape(-1, m)).reshape(normed.shape) * self.scale
        mixed = np.empty_like(q)
        keys, values = (part[cut:].reshape(p, *suffixes.shape) for part in (room.k, room.v))
        self._attend_blocks(q, keys, values, mixed, self._prefix(layer, room, (p, n)), self.end_mask[blocks])
        eos, mixed = (part.reshape(p, -1, m)[:, slots].reshape(-1, m) for part in (eos, mixed))
        room.y[: len(mixed)] = mixed
        layer.finish(eos, room, self.act)
        features = self.projection(self.final.norm(eos, np.empty_like(eos)))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features.reshape(p, len(slots), -1)

    def _project_first(self, layer: PromptedLayer, room: Buffers, cut: int, blocks: slice) -> None:
        for part, known, product in zip((room.q, room.k, room.v), self.first, (layer.q, layer.k, layer.v), strict=True):
            product(room.y[:cut], part[:cut])
            part[cut:].reshape(-1, *known[blocks].shape)[:] = known[blocks]
        room.q[:cut] *= self.scale

    def _prefix(self, layer: PromptedLayer, room: Buffers, shape: tuple[int, int]) -> tuple[Array, Array]:
        """Keys and values of SOS and context by heads: [p, H, 1 + n, h] each."""
        p, n = shape
        both = []
        for sos, part in zip(layer.sos, (room.k, room.v), strict=True):
            seen = np.empty((p, 1 + n, part.shape[1]), np.float32)
            seen[:, 0], seen[:, 1:] = sos, part[: p * n].reshape(p, n, -1)
            both.append(by_head(seen, self.heads))
        return both[0], both[1]

    def _attend(self, layer: PromptedLayer, room: Buffers, shape: tuple[int, int], mask: Array) -> None:
        """Attention of all rows of queries in `room`, into `room.y`."""
        (p, n), cut = shape, shape[0] * shape[1]
        prefix = self._prefix(layer, room, shape)
        scores = by_head(room.q[:cut].reshape(p, n, -1), self.heads) @ prefix[0].swapaxes(-1, -2)
        scores[..., np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1] + 1] = -np.inf
        out = by_head(room.y[:cut].reshape(p, n, -1), self.heads)
        out[:] = softmax(scores) @ prefix[1]
        blocks, size, _ = mask.shape
        split = [part[cut:].reshape(p, blocks, size, -1) for part in (room.q, room.k, room.v, room.y)]
        self._attend_blocks(split[0], split[1], split[2], split[3], prefix, mask)

    def _attend_blocks(
        self, q: Array, k: Array, v: Array, out: Array, prefix: tuple[Array, Array], mask: Array
    ) -> None:
        """Rows q [p, B, r, m] over the prefix and their own block k, v [p, B, b, m], by mask [B, r, b]."""
        q, k, v, out = (by_head(part, self.heads) for part in (q, k, v, out))  # [p, B, H, ., h]
        known = prefix[0].shape[2]
        scores = np.empty((*q.shape[:-1], known + k.shape[3]), np.float32)
        np.matmul(q, prefix[0][:, None].swapaxes(-1, -2), out=scores[..., :known])
        np.matmul(q, k.swapaxes(-1, -2), out=scores[..., known:])
        scores[..., known:] += mask[:, None]
        softmax(scores)
        np.matmul(scores[..., known:], v, out=out)
        out += scores[..., :known] @ prefix[1][:, None]


def cross_entropies(features: Array, embeddings: Array, labels: Array, logit_scale: float) -> Array:
    """CE of every image under every classifier: [P, K, D], [N, D], [N] -> [P, N] float32."""
    candidates, classes, _ = features.shape
    count = len(labels)
    losses = np.empty((candidates, count), np.float32)
    step = max(1, LOGITS_AT_ONCE // classes)

    def piece(place: tuple[int, int]) -> None:
        candidate, start = place
        rows = slice(start, min(start + step, count))
        logits = embeddings[rows] @ features[candidate].T
        logits *= np.float32(logit_scale)
        right = logits[np.arange(len(logits)), labels[rows]]
        highest = logits.max(axis=-1)
        logits -= highest[:, None]
        np.exp(logits, out=logits)
        losses[candidate, rows] = np.log(logits.sum(axis=-1)) + highest - right

    places = list(itertools.product(range(candidates), range(0, count, step)))
    if candidates * count * classes > LOGITS_AT_ONCE:
        spread(piece, places)
    else:  # too little to hand to threads
        for place in places:
            piece(place)
    return losses


def _pieces(candidates: int, blocks: int, size: int, *, least: int) -> list[tuple[slice, slice]]:
    """Candidates and blocks of each piece of work: at most about ROWS tokens, and work for every core.

    Pieces of less than `least` tokens are not made for the sake of more cores.
    """
    cores = max(1, min(workers(), candidates * blocks * size // max(1, least)))
    share = -(-candidates * blocks // cores)
    blocks_each = min(blocks, max(1, ROWS // size), share)
    parts = -(-blocks // blocks_each)
    each = max(1, min(ROWS // (size * blocks_each), -(-candidates * parts // cores)))
    cuts = [_even(candidates, each), _even(blocks, blocks_each)]
    return [(a, b) for a in cuts[0] for b in cuts[1]]


def _even(count: int, most: int) -> list[slice]:
    """Cut 0..count in parts of at most `most`, as equal as can be."""
    edges = np.linspace(0, count, -(-count // most) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def _rows(x: Array, index: Array) -> Array:
    """x [p, B, b, m] at index [p, B, E] -> [p, B, E, m]."""
    return np.take_along_axis(x, index[..., None], axis=2)


def _layer(layer: EncoderLayer, sos: tuple[mx.array, mx.array]) -> PromptedLayer:
    return PromptedLayer(**vars(cpu_layer(layer)), sos=(array(sos[0]), array(sos[1])))
