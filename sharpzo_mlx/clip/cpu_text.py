"""Compute a text tower without a mask in NumPy, for MLX's CPU device: embedded texts to unit-norm features.

Every token sees all others, so each text is a sequence of its own. The last layer computes its query and its MLP at the
position that is read alone. `cpu_layers` says why NumPy is faster there.

    tower = CPUText(layers, (final_layer_norm, projection))
    features = tower.features(fill, read, length)   # [r, D]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.cpu_layers import ROWS, Array, Buffers, affine, array, cpu_layer, take_tokens
from sharpzo_mlx.runtime.threads import spread, workers

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer
    from sharpzo_mlx.clip.model import CLIPModel


class CPUText:
    """The layers of a text tower without a mask and its projection, on the CPU.

    Args:
        layers: the tower's layers; their float32 weights are shared, not copied.
        head: the final layer norm and the projection.
    """

    def __init__(self, layers: Sequence[EncoderLayer], head: tuple[nn.LayerNorm, nn.Linear]) -> None:
        self.layers = [cpu_layer(layer) for layer in layers]
        self.final, self.projection = affine(head[0]), affine(head[1])
        self.heads, self.act = layers[0].self_attn.num_heads, in_place(layers[0].mlp.activation)
        self.scale = np.float32(layers[0].self_attn.scale)
        self.hidden, self.width = map(int, self.layers[0].fc1.weight.shape)

    def features(self, fill: Callable[[Array], None], read: Array, length: int) -> Array:
        """Return the features of texts, on the core that asks.

        Args:
            fill: writes the embedded texts, with their positions, into an array [r, length, m].
            read: the position of each text that is read [r].
            length: tokens of a text.

        Returns:
            [r, D], float32, unit norm.
        """
        texts = len(read)
        buffers = Buffers(texts * length, self.width, self.hidden)
        fill(buffers.x.reshape(texts, length, self.width))
        for layer in self.layers[:-1]:
            layer.attend(buffers, texts, heads=self.heads, scale=self.scale)
            layer.finish(buffers.x, buffers, self.act)
        self.layers[-1].attend(buffers, texts, heads=self.heads, scale=self.scale, read=read)
        states = take_tokens(buffers.x, read)
        self.layers[-1].finish(states, buffers, self.act)
        features = self.projection(self.final.norm(states, np.empty_like(states)))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features


def encode_ids(model: CLIPModel, ids: mx.array) -> mx.array:
    """Return the features [B, D] of token ids [B, T] under a text tower without a mask, as `text_features` does."""
    tower = model.text_model
    ids = tower.lengthen(ids)
    read, embedded = np.array(tower.eos_positions(ids)), array(tower.embed(ids))
    positions, (texts, length) = array(tower.positions(ids.shape[1])), ids.shape
    cpu = CPUText(tower.encoder.layers, (tower.final_layer_norm, model.text_projection))
    each = max(1, min(ROWS // length, -(-texts // workers())))

    def encode(place: slice) -> Array:
        return cpu.features(lambda x: np.add(embedded[place], positions, out=x), read[place], length)

    return mx.array(np.concatenate(spread(encode, [slice(start, start + each) for start in range(0, texts, each)])))
