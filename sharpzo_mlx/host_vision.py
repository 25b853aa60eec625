"""The image tower in NumPy, for MLX's CPU device, where many images pass it over and over: half the time of a graph.

As in `host_text`, work is cut into pieces of some images, each carried through all layers by one core in buffers that
fit its cache. The numbers equal MLX's to rounding. Visual prompts need it (BlackVIP, arXiv 2303.14773: every query
is a pass of a minibatch); images that are encoded once go through MLX, whose numbers the cache on disk holds.

    host = host_vision(clip.vision())           # None where MLX is as fast, or the tower is of another kind
    features = host.features(pixels)            # [B, H, W, 3] -> [B, D], unit norm
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.layers import EncoderLayer
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.vision import VisionModel
from sharpzo_mlx.cores import spread
from sharpzo_mlx.host_text import ROWS, Affine

Array = np.ndarray


def host_vision(half: CLIPModel) -> HostVision | None:
    """The image half for the CPU; None on other devices, for ResNets and for quantised towers."""
    transformer = isinstance(half.vision_model, VisionModel)
    quantised = any(isinstance(module, nn.QuantizedLinear) for module in half.modules())
    if mx.default_device() != mx.Device(mx.cpu) or not transformer or quantised:
        return None
    return HostVision(half)


class HostVision:
    """The forward pass of a vision transformer on the CPU, in float32.

    Args:
        half: a CLIP's image half.
    """

    def __init__(self, half: CLIPModel) -> None:
        tower: Any = half.vision_model
        embeddings = tower.embeddings
        self.patch = int(tower.config.patch_size)
        self.patches = Affine(_array(embeddings.patch_embedding.weight).reshape(tower.config.hidden_size, -1), None)
        self.start, self.positions = _array(embeddings.class_embedding), _array(embeddings.position_embedding.weight)
        self.before, self.after = _affine(tower.pre_layrnorm), _affine(tower.post_layernorm)
        self.layers = [_Layer(layer) for layer in tower.encoder.layers]
        self.projection = _affine(half.visual_projection)

    def features(self, pixels: Array) -> Array:
        """Prepared pixels [B, H, W, 3] -> [B, D] float32 of unit norm."""
        images = max(1, ROWS // len(self.positions))
        pieces = [pixels[first : first + images] for first in range(0, len(pixels), images)]
        return np.concatenate(spread(self._forward, pieces))

    def _forward(self, pixels: Array) -> Array:
        batch, height, width, channels = pixels.shape
        size = self.patch
        cut = pixels.reshape(batch, height // size, size, width // size, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = np.empty((batch, *self.positions.shape), np.float32)
        x[:, 0] = self.start
        x[:, 1:] = self.patches(cut.reshape(batch, -1, size * size * channels))
        x += self.positions
        x = x.reshape(-1, x.shape[-1])
        x = self.before.norm(x, np.empty_like(x))
        room = np.empty_like(x)
        for layer in self.layers:
            layer(x, room, batch)
        first = x.reshape(batch, -1, x.shape[-1])[:, 0].copy()
        features = self.projection(self.after.norm(first, np.empty_like(first)))
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        return features


class _Layer:
    """One layer; every position sees every other of its image."""

    def __init__(self, layer: EncoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1, self.norm2 = _affine(layer.layer_norm1), _affine(layer.layer_norm2)
        self.q, self.k, self.v = (_affine(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.out, self.fc1, self.fc2 = (_affine(part) for part in (attention.out_proj, mlp.fc1, mlp.fc2))
        self.heads, self.scale, self.act = attention.num_heads, np.float32(attention.scale), in_place(mlp.activation)

    def __call__(self, x: Array, room: Array, batch: int) -> None:
        """States x [batch * T, m] are changed in place; `room` is as large."""
        y = self.norm1.norm(x, room)
        q, k, v = (
            part(y).reshape(batch, -1, self.heads, y.shape[1] // self.heads) for part in (self.q, self.k, self.v)
        )
        q *= self.scale
        scores = q.swapaxes(1, 2) @ k.transpose(0, 2, 3, 1)  # [batch, heads, T, T]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ v.swapaxes(1, 2)).swapaxes(1, 2)
        x += self.out(mixed.reshape(x.shape))
        hidden = self.fc1(self.norm2.norm(x, room))
        self.act(hidden)
        x += self.fc2(hidden)


def _affine(module: Any) -> Affine:
    bias = _array(module.bias) if "bias" in module else None
    return Affine(_array(module.weight), bias, getattr(module, "eps", 0.0))


def _array(x: mx.array) -> Array:
    return np.array(x.astype(mx.float32))
