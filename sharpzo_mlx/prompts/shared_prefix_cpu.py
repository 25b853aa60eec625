"""Compute class features in NumPy, for MLX's CPU device; the savings are those of `shared_prefix`.

MLX's CPU backend computes exp and similar functions one element at a time and keeps a graph's activations alive. On
that device the forward pass therefore goes layer by layer through NumPy (SharpZO, arXiv 2506.20990, section 3). The
work is cut into pieces of some candidates and some blocks of suffixes. One core carries a piece through all layers,
in buffers that fit its cache. There are no derivatives here: they are taken of the graph in `shared_prefix`. Weights
are used in float32 whatever type they are stored in; float32 weights are not copied.

    text = SharedPrefixCPU(layers, sos, head, embedded, layout)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.cpu_layers import Array, Buffers, CPULayer, affine, array, by_head, cpu_layer, softmax
from sharpzo_mlx.prompts.cpu_pieces import PiecePlan, PieceSizes, Share
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.runtime.threads import small_products, spread

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer
    from sharpzo_mlx.prompts.prefix_tree import Layout


@dataclass(frozen=True)
class PromptedLayer(CPULayer):
    """A layer's weights, with the key and the value [m] of SOS in it."""

    sos: tuple[Array, Array]


class SharedPrefixCPU:
    """The forward pass of a causal text tower on the CPU, specialised to one set of prompts.

    Args:
        layers: the tower's layers.
        sos: keys and values [1, m] of SOS in each layer.
        head: the final layer norm and the projection.
        embedded: the position embeddings of the context [n, m] and the embedded suffixes [B, b, m].
        layout: the places of the suffixes.
    """

    def __init__(
        self,
        layers: Sequence[EncoderLayer],
        sos: Sequence[tuple[mx.array, mx.array]],
        head: tuple[nn.LayerNorm, nn.Linear],
        embedded: tuple[mx.array, mx.array],
        layout: Layout,
    ) -> None:
        self.layers = [_layer_with_sos(layer, memory) for layer, memory in zip(layers, sos, strict=True)]
        self.final, self.projection = affine(head[0]), affine(head[1])
        self.positions, self.suffixes = map(array, embedded)
        self.layout, self.end_mask = layout, layout.end_mask
        self.heads, self.act = layers[0].self_attn.num_heads, in_place(layers[0].mlp.activation)
        self.scale = np.float32(layers[0].self_attn.scale)
        first = self.layers[0]
        flat = self.suffixes.reshape(-1, self.suffixes.shape[-1])
        y = first.norm1.norm(flat, np.empty_like(flat))
        with small_products():  # the same bits for any number of threads
            parts = (first.q(y) * self.scale, first.k(y), first.v(y))
        # the suffixes' queries, keys and values in the first layer do not depend on the candidate
        self.first = [part.reshape(self.suffixes.shape) for part in parts]

    def class_features(self, contexts: Array, share: Share | None = None) -> Array:
        """Return the features of every class under every context, [P, n, m] -> [P, K, D] float32 of unit norm.

        With a share of the contexts, those under its contexts alone, to the same bits.
        """
        start, stop = (0, len(contexts)) if share is None else (share.start, share.stop)
        features = np.empty((stop - start, len(self.layout.slot), self.projection.weight.shape[0]), np.float32)
        number = self.layout.slot // self.layout.ends.shape[1]  # each class's block

        def compute_piece(place: tuple[slice, slice]) -> None:
            classes = np.flatnonzero((number >= place[1].start) & (number < place[1].stop))
            slots = self.layout.slot[classes] - place[1].start * self.layout.ends.shape[1]
            rows = slice(place[0].start - start, place[0].stop - start)
            features[rows, classes] = self._run_piece(contexts[place[0]], place[1], slots)

        spread(compute_piece, self.plan.pieces(len(contexts), share))
        return features

    @property
    def plan(self) -> PiecePlan:
        """How the work is cut."""
        blocks, size = self.layout.ids.shape
        return PiecePlan.of(blocks, size, width=self.suffixes.shape[-1], layers=len(self.layers))

    @property
    def piece_sizes(self) -> PieceSizes:
        """The sizes that the memory of a piece follows from."""
        hidden, width = map(int, self.layers[0].fc1.weight.shape)
        block = int(self.layout.ids.shape[1])
        return PieceSizes(self.plan.rows, block, len(self.positions), width, hidden, self.heads)

    @host_products()
    def _run_piece(self, contexts: Array, blocks: slice, slots: Array) -> Array:
        """Return the features [p, k, D] of the classes at `slots` of these blocks under contexts [p, n, m]."""
        p, n, m = contexts.shape
        suffixes, mask = self.suffixes[blocks], self.layout.mask[blocks]
        rows = p * (n + suffixes.shape[0] * suffixes.shape[1])
        buffers = Buffers(rows, m, self.layers[0].fc1.weight.shape[0])
        cut = p * n  # rows: all candidates' contexts, then all candidates' suffixes
        buffers.x[:cut] = (contexts + self.positions).reshape(cut, m)
        buffers.x[cut:].reshape(p, *suffixes.shape)[:] = suffixes
        for number, layer in enumerate(self.layers[:-1]):
            y = layer.norm1.norm(buffers.x, buffers.y)
            if number == 0:
                self._project_first(layer, buffers, cut, blocks)
            else:
                layer.q(y, buffers.q)
                buffers.q *= self.scale
                layer.k(y, buffers.k)
                layer.v(y, buffers.v)
            self._attend(layer, buffers, (p, n), mask)
            layer.finish(buffers.x, buffers, self.act)
        eos = self._run_last_layer(buffers, (p, n), blocks, slots)
        features = self.projection(self.final.norm(eos, np.empty_like(eos)))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features.reshape(p, len(slots), -1)

    def _run_last_layer(self, buffers: Buffers, shape: tuple[int, int], blocks: slice, slots: Array) -> Array:
        """Apply the last layer at EOS alone; returns the states [p * k, m] of the classes at `slots`."""
        (p, n), m = shape, buffers.x.shape[1]
        cut, suffixes, layer = p * n, self.suffixes[blocks].shape, self.layers[-1]
        y = layer.norm1.norm(buffers.x, buffers.y)
        layer.k(y, buffers.k)
        layer.v(y, buffers.v)
        ends = np.broadcast_to(self.layout.ends[blocks], (p, *self.layout.ends[blocks].shape))
        eos, normed = (_take_rows(part[cut:].reshape(p, *suffixes), ends) for part in (buffers.x, y))
        q = layer.q(normed.reshape(-1, m)).reshape(normed.shape) * self.scale
        mixed = np.empty_like(q)
        keys, values = (part[cut:].reshape(p, *suffixes) for part in (buffers.k, buffers.v))
        prefix = self._prepend_sos(layer, buffers, shape)
        self._attend_blocks(q, (keys, values), mixed, prefix=prefix, mask=self.end_mask[blocks])
        eos, mixed = (part.reshape(p, -1, m)[:, slots].reshape(-1, m) for part in (eos, mixed))
        buffers.y[: len(mixed)] = mixed
        layer.finish(eos, buffers, self.act)
        return eos

    def _project_first(self, layer: PromptedLayer, buffers: Buffers, cut: int, blocks: slice) -> None:
        """Fill the first layer's queries, keys and values; those of the suffixes are known."""
        parts = zip((buffers.q, buffers.k, buffers.v), self.first, (layer.q, layer.k, layer.v), strict=True)
        for part, known, product in parts:
            product(buffers.y[:cut], part[:cut])
            part[cut:].reshape(-1, *known[blocks].shape)[:] = known[blocks]
        buffers.q[:cut] *= self.scale

    def _prepend_sos(self, layer: PromptedLayer, buffers: Buffers, shape: tuple[int, int]) -> tuple[Array, Array]:
        """Return the keys and values of SOS and context by heads, [p, H, 1 + n, h] each."""
        p, n = shape
        both = []
        for sos, part in zip(layer.sos, (buffers.k, buffers.v), strict=True):
            whole = np.empty((p, 1 + n, part.shape[1]), np.float32)
            whole[:, 0], whole[:, 1:] = sos, part[: p * n].reshape(p, n, -1)
            both.append(by_head(whole, self.heads))
        return both[0], both[1]

    @host_products()
    def _attend(self, layer: PromptedLayer, buffers: Buffers, shape: tuple[int, int], mask: Array) -> None:
        """Write the attention of all rows of `buffers.q` into `buffers.y`."""
        (p, n), cut = shape, shape[0] * shape[1]
        prefix = self._prepend_sos(layer, buffers, shape)
        scores = by_head(buffers.q[:cut].reshape(p, n, -1), self.heads) @ prefix[0].swapaxes(-1, -2)
        scores[..., np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1] + 1] = -np.inf
        out = by_head(buffers.y[:cut].reshape(p, n, -1), self.heads)
        out[:] = softmax(scores) @ prefix[1]
        blocks, size, _ = mask.shape
        q, k, v, y = (part[cut:].reshape(p, blocks, size, -1) for part in (buffers.q, buffers.k, buffers.v, buffers.y))
        self._attend_blocks(q, (k, v), y, prefix=prefix, mask=mask)

    @host_products()
    def _attend_blocks(
        self, q: Array, own: tuple[Array, Array], out: Array, *, prefix: tuple[Array, Array], mask: Array
    ) -> None:
        """Attend from rows of the blocks to the prefix and to their own block.

        Args:
            q: queries [p, B, r, m].
            own: keys and values of the blocks [p, B, b, m] each.
            out: [p, B, r, m], is overwritten with the result.
            prefix: keys and values of SOS and context [p, H, 1 + n, h] each.
            mask: [B, r, b], added to the scores over the own block.
        """
        q, k, v, out = (by_head(part, self.heads) for part in (q, *own, out))  # [p, B, H, ., h]
        known = prefix[0].shape[2]
        scores = np.empty((*q.shape[:-1], known + k.shape[3]), np.float32)
        np.matmul(q, prefix[0][:, None].swapaxes(-1, -2), out=scores[..., :known])
        np.matmul(q, k.swapaxes(-1, -2), out=scores[..., known:])
        scores[..., known:] += mask[:, None]
        softmax(scores)
        np.matmul(scores[..., known:], v, out=out)
        out += scores[..., :known] @ prefix[1][:, None]


def _take_rows(x: Array, index: Array) -> Array:
    """Take the tokens x [p, B, b, m] at index [p, B, E]; returns [p, B, E, m]."""
    return np.take_along_axis(x, index[..., None], axis=2)


def _layer_with_sos(layer: EncoderLayer, sos: tuple[mx.array, mx.array]) -> PromptedLayer:
    return PromptedLayer(**vars(cpu_layer(layer)), sos=(array(sos[0]), array(sos[1])))
